// SPDX-License-Identifier: GPL-2.0-only
//! What a running scheduler can be asked and told.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::Case;
use super::common::{END_LIMIT, check_monitor, check_untouched};
use crate::check;
use crate::guest::{
    CaseResult, Failure, Guest, Progress, STOP_LIMIT, Sched, describe, events, last, number, scx,
};

/// Where every sched_ext scheduler serves its statistics.
pub const SOCKET: &str = "/var/run/scx/root/stats";

pub const CASES: &[Case] = &[
    Case::new("check_option", check_option).one_machine(),
    Case::new("statistics", statistics).one_machine(),
    // How often a slice ends is only known where a busy host does not hold up the ticks.
    Case::new("sighup", sighup).one_machine().counted(),
];

/// Goal: `--check` says that the scheduler would start, and attaches nothing.
/// Method: its exit code and report; the kernel counts no enable.
fn check_option(guest: &mut Guest) -> CaseResult {
    let before = scx::snapshot();
    let end = guest.run_sched(&["--check", "--slice-us", "3000"], END_LIMIT)?;
    if end.code != Some(0) {
        return Err(describe("--check", "failed", &end));
    }
    let report = last(&end, "check").ok_or("no report")?;
    let slice = &report["options"]["slice-us"];
    check!(
        report["status"] == 0 && report["ops"] == guest.ops_name(),
        "the report says {report}"
    );
    check!(
        report["topology"]["cpus"] == guest.machine().cpus
            && report["topology"]["llcs"] == guest.machine().llcs,
        "the report says {report}"
    );
    check!(
        slice["value"] == "3000" && slice["origin"] == "command-line",
        "the report says {slice}"
    );
    check_untouched(&before)?;
    Ok(String::new())
}

/// Goal: the counters are there for everybody, and bad clients of the socket harm nobody.
/// Method: `--stats` and `--monitor` while more clients than it serves hang, and some send
/// garbage; the counters shown are those declared.
fn statistics(guest: &mut Guest) -> CaseResult {
    const HANGING: usize = 300;
    const GARBAGE: [&[u8]; 4] = [b"\n", b"\xff\x00\x7f garbage\n", b"{\"req\":7}\n", b"{"];
    let declared = declared_counters(guest)?;
    let sched = guest.start(&["--stats", "0.2"])?;
    wait_for_stats(&sched, 2)?;

    let mut clients = Vec::new();
    for index in 0..HANGING {
        let mut client = UnixStream::connect(SOCKET)?;
        // The server may hang up on garbage at any time.
        let _ = client.write_all(GARBAGE[index % GARBAGE.len()]);
        clients.push(client);
    }
    let mut endless = UnixStream::connect(SOCKET)?;
    let _ = endless.set_write_timeout(Some(Duration::from_secs(2)));
    let _ = endless.write_all(&vec![b'x'; 1 << 20]);

    check_monitor(guest)?;
    let shown = events(&sched.program().progress(), "stats").len();
    wait_for_stats(&sched, shown + 2)?;
    check!(scx::state() == "enabled", "sched_ext is {}", scx::state());

    let monitor = guest.spawn(&["--monitor", "60"])?;
    let shows = |progress: &Progress| last(progress, "stats").map(drop);
    (monitor.program().wait_for(STOP_LIMIT, shows)).ok_or("--monitor shows nothing")?;
    let end = guest.stop(&sched)?;
    monitor.program().signal(Signal::SIGTERM);
    drop(clients);
    check_stats_lines(&end, &declared)?;

    let end = guest.run_sched(&["--monitor", "1"], END_LIMIT)?;
    let words = end.stderr.join("\n");
    check!(
        end.code == Some(1)
            && words.contains(&format!("no scheduler serves statistics at {SOCKET}")),
        "--monitor of nobody: {end:?}"
    );
    Ok(String::new())
}

fn declared_counters(guest: &Guest) -> Result<BTreeSet<String>, Failure> {
    let end = guest.run_sched(&["--help-stats"], END_LIMIT)?;
    let list = last(&end, "counters").ok_or("--help-stats shows nothing")?;
    let counters = list["counters"].as_array().cloned().unwrap_or_default();
    let names: BTreeSet<String> = counters
        .iter()
        .filter_map(|counter| Some(counter["name"].as_str()?.to_owned()))
        .collect();
    check!(!names.is_empty(), "--help-stats shows {list}");
    Ok(names)
}

fn wait_for_stats(sched: &Sched, lines: usize) -> Result<(), Failure> {
    let enough = |progress: &Progress| (events(progress, "stats").len() >= lines).then_some(());
    let seen = sched.program().wait_for(STOP_LIMIT, enough);
    Ok(seen.ok_or_else(|| format!("less than {lines} lines of stats"))?)
}

/// Each line has all counters, none of which goes back; the last one comes before the exit report.
fn check_stats_lines(end: &Progress, declared: &BTreeSet<String>) -> Result<(), Failure> {
    let mut before: Option<Value> = None;
    for line in events(end, "stats") {
        let counters = line["counters"].as_object().cloned().unwrap_or_default();
        let names: BTreeSet<String> = counters.keys().cloned().collect();
        check!(names == *declared, "the counters are {names:?}");
        if let Some(before) = &before {
            check!(
                number(&line, "uptime_s") >= number(before, "uptime_s"),
                "the uptime goes back from {before} to {line}"
            );
            let back = counters
                .iter()
                .find(|(name, value)| value.as_u64() < before["counters"][*name].as_u64());
            check!(back.is_none(), "{back:?} goes back from {before}");
        }
        before = Some(line);
    }
    let tail: Vec<String> = end.stdout.iter().rev().take(2).cloned().collect();
    check!(
        tail.len() == 2 && tail[0].contains(r#""event":"exit""#) && tail[1].contains("stats"),
        "the last lines are {tail:?}"
    );
    Ok(())
}

/// Twice as many hogs as CPUs, so that each slice ends in a switch.
const HOGS: &str = r#"
name = "slices"

[[group]]
name = "hogs"
kind = "loop"
count = "2/cpu"
run = "10ms"
"#;

/// Goal: SIGHUP takes live options over from the file without detaching, and names the others; a
/// bad file changes nothing.
/// Method: a slice of 1 ms instead of 200 ms, seen in how often hogs are switched.
fn sighup(guest: &mut Guest) -> CaseResult {
    const FILE: &str = "/tmp/live.toml";
    fs::write(FILE, "slice-us = 200000\n")?;
    let sched = guest.start(&["--config", FILE])?;
    let before = scx::snapshot();
    let slow = switches(guest)?;

    fs::write(FILE, "slice-us = 1000\ntimeout-ms = 20000\n")?;
    sched.program().signal(Signal::SIGHUP);
    wait_for_words(&sched, "taken over: slice-us")?;
    wait_for_words(&sched, "changed, but need a restart: timeout-ms")?;
    let fast = switches(guest)?;
    check!(
        fast > 2.0 * slow,
        "{slow:.0} switches a second with 200 ms, {fast:.0} with 1 ms"
    );

    fs::write(FILE, "slice-us = 'short'\n")?;
    sched.program().signal(Signal::SIGHUP);
    wait_for_words(&sched, "the old options stay: /tmp/live.toml:1:12:")?;
    check_untouched(&before)?;
    guest.stop(&sched)?;
    Ok(format!("{slow:.0} -> {fast:.0} switches a second"))
}

/// How often hogs are switched in a second.
fn switches(guest: &Guest) -> Result<f64, Failure> {
    let report = guest.load(HOGS, Duration::from_secs(1))?;
    let hogs = report.group("hogs").ok_or("no hogs")?;
    Ok(hogs.involuntary_switches as f64 / hogs.seconds)
}

fn wait_for_words(sched: &Sched, words: &str) -> Result<(), Failure> {
    let said = |progress: &Progress| {
        let mut lines = progress.stderr.iter();
        lines.any(|line| line.contains(words)).then_some(())
    };
    let heard = sched.program().wait_for(STOP_LIMIT, said);
    heard.ok_or_else(|| describe("the scheduler", words, &sched.program().progress()))
}
