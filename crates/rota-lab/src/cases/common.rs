// SPDX-License-Identifier: GPL-2.0-only
//! What several cases ask of a scheduler, and of the system it leaves behind.

use std::time::Duration;

use nix::sys::signal::Signal;
use rota_load::report::Report;
use serde_json::Value;

use crate::check;
use crate::guest::{Failure, Guest, Progress, STOP_LIMIT, Sched, describe, events, last, scx};
use crate::job::SchedState;

/// For a workload that runs until the case stops it.
pub const WHILE_NEEDED: Duration = Duration::from_secs(300);

/// From the start of a scheduler to an end that comes by itself.
pub const END_LIMIT: Duration = Duration::from_secs(60);

/// The longest time without a CPU that a task may report, whatever happens to its scheduler. An
/// emulated guest on a busy host adds to it.
const GAP_MAX_S: f64 = 5.0;

/// Work on every CPU that leaves room: the CPUs of an emulated guest share one of the host's, where
/// a scheduler that starts beside hogs on all of them takes ten seconds instead of one.
pub const BUSY: &str = r#"
name = "busy"

[[group]]
name = "hog"
kind = "loop"
run = "10ms"

[[group]]
name = "free"
kind = "loop"
count = 3
run = "200us"
sleep = "20ms"
jitter = 50

[[group]]
name = "pinned"
kind = "loop"
count = "1/cpu"
run = "200us"
sleep = "20ms"
jitter = 50
affinity = "one-each"
"#;

/// A task pinned to each CPU that mostly sleeps.
pub const ALIVE: &str = r#"
name = "alive"

[[group]]
name = "each-cpu"
kind = "loop"
count = "1/cpu"
run = "200us"
sleep = "2ms"
affinity = "one-each"
"#;

/// The system lives on: each CPU runs the task that only it may run.
pub fn check_alive(guest: &Guest) -> Result<(), Failure> {
    check_survived(&guest.load(ALIVE, Duration::from_millis(200))?)
}

/// No task of a workload was lost, stuck or starved, whatever happened during the run: one that no
/// longer runs does not stop when it is told to, which is an error.
pub fn check_survived(report: &Report) -> Result<(), Failure> {
    check!(
        report.errors.is_empty(),
        "the workload reports: {}",
        report.errors.join("; ")
    );
    for group in &report.groups {
        let name = &group.name;
        let starved = group
            .per_task_share
            .iter()
            .filter(|share| **share <= 0.0)
            .count();
        check!(
            starved == 0,
            "{starved} of {} tasks of {name} never ran",
            group.tasks
        );
        let gap_s = group.longest_gap_us.unwrap_or(0.0) / 1e6;
        check!(
            gap_s < GAP_MAX_S,
            "a task of {name} had no CPU for {gap_s:.1} s"
        );
    }
    Ok(())
}

/// Nothing was attached since `before`, not even for a moment.
pub fn check_untouched(before: &SchedState) -> Result<(), Failure> {
    let now = scx::snapshot();
    check!(
        now.state == before.state && now.enable_seq == before.enable_seq,
        "sched_ext is touched: it was {before:?}, it is {now:?}"
    );
    Ok(())
}

/// A scheduler that did not start says why in the only line it writes; that line.
pub fn refusal(guest: &Guest, end: &Progress, code: i32) -> Result<String, Failure> {
    let name = guest.sched_name();
    if end.code != Some(code) {
        return Err(describe(
            name,
            &format!("did not end with code {code}"),
            end,
        ));
    }
    let message = match &end.stderr[..] {
        [line] => line.strip_prefix(&format!("{name}: ")),
        _ => None,
    };
    check!(message.is_some(), "its words are not one line: {end:?}");
    Ok(message.unwrap_or_default().to_owned())
}

/// Both reports of an ejection, the text and the JSON, tell kind and message; the JSON.
pub fn check_ejected(
    guest: &Guest,
    end: &Progress,
    kind: (u32, &str),
    message: &str,
) -> Result<Value, Failure> {
    let sched = guest.sched_name();
    if end.code != Some(1) {
        return Err(describe(sched, "is not ejected", end));
    }
    let (number, name) = kind;
    let head = format!("{sched}: ejected: kind {number} {name} (");
    let told = |line: &&String| line.starts_with(&head) && line.contains(message);
    check!(
        end.stderr.iter().filter(told).count() == 1,
        "no line with `{head}` and `{message}`: {:?}",
        end.stderr
    );
    let exit = last(end, "exit").ok_or("no exit report")?;
    let text = exit["message"].as_str().unwrap_or_default();
    check!(
        exit["kind"] == number && exit["kind_name"] == name && exit["status"] == 1,
        "the exit report says {exit}"
    );
    check!(text.contains(message), "the exit report says {exit}");
    guest.wait_state("disabled")?;
    Ok(exit)
}

/// Starts the scheduler under test up to where it opens its object, before it is attached.
pub fn spawn_until_opened(guest: &Guest) -> Result<Sched, Failure> {
    // With the words of libbpf, which begin then.
    let sched = guest.spawn(&["-v", "-v"])?;
    let opens = |progress: &Progress| {
        let mut lines = progress.stderr.iter();
        lines.any(|line| line.contains("libbpf: ")).then_some(())
    };
    let opened = sched.program().wait_for(END_LIMIT, opens);
    opened.ok_or("it says nothing of its object")?;
    Ok(sched)
}

/// The counters can be watched from another process.
pub fn check_monitor(guest: &Guest) -> Result<(), Failure> {
    let monitor = guest.spawn(&["--monitor", "0.2"])?;
    let lines = |progress: &Progress| (events(progress, "stats").len() >= 2).then_some(());
    if monitor.program().wait_for(STOP_LIMIT, lines).is_none() {
        let progress = monitor.program().progress();
        return Err(describe("--monitor", "shows nothing", &progress));
    }
    match monitor.stop(Signal::SIGTERM, STOP_LIMIT) {
        Some(end) if end.code == Some(0) => Ok(()),
        Some(end) => Err(describe("--monitor", "ended badly", &end)),
        None => Err("--monitor does not end after SIGTERM".into()),
    }
}
