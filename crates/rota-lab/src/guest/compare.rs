// SPDX-License-Identifier: GPL-2.0-only
//! The comparison of `cargo xtask run`: one workload, first under the kernel's own scheduler, then
//! under one of ours.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::kmsg::{self, Kmsg};
use super::load::Load;
use super::program::OnLine;
use super::sched::{self, Sched};
use super::{Port, machine, scx};
use crate::job::{Compare, Compared, Event, Phase, Stream};

/// A scheduler detaches within a second; a busy host makes it longer.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs the comparison; the result is the scheduler's exit code.
pub fn run(port: &Port, job: &Compare) -> Result<i32, String> {
    let mut log = Kmsg::from_now().map_err(|error| format!("the kernel's log: {error}"))?;
    let phase = |phase, seconds| port.emit(&Event::Phase { phase, seconds });
    let load = || workload(job);
    let mut found = Compared {
        machine: machine(),
        sched: job.sched.clone(),
        state_before: scx::snapshot(),
        ..Compared::default()
    };

    phase(Phase::Kernel, job.seconds);
    found.kernel_report = load()?;

    phase(Phase::Attach, 0.0);
    let before = Instant::now();
    let sched = Sched::spawn(
        &job.sched,
        &options(&job.sched_args),
        Some(forward(port.clone())),
    )
    .map_err(|error| error.to_string())?;
    match sched.wait_started() {
        Ok(started) => found.started = started,
        Err(end) => return Ok(sched::did_not_start(port, &end)),
    }
    found.attach_ms = before.elapsed().as_secs_f64() * 1e3;
    found.state_during = scx::snapshot();

    phase(Phase::Sched, job.seconds);
    found.sched_report = load()?;
    found.events = scx::events();

    phase(Phase::Detach, 0.0);
    let before = Instant::now();
    let end = sched.stop(Signal::SIGTERM, STOP_LIMIT);
    found.detach_ms = before.elapsed().as_secs_f64() * 1e3;
    // One that does not stop is killed, and the kernel drops it.
    let end = end.or_else(|| sched.stop(Signal::SIGKILL, STOP_LIMIT));
    let end = end.ok_or_else(|| format!("{} cannot be stopped", job.sched))?;
    if let Err(state) = scx::wait_for("disabled", STOP_LIMIT) {
        log::warn!("sched_ext is still {state}");
    }
    found.state_after = scx::snapshot();

    found.counters = sched::counters(&end);
    found.exit = sched::last(&end, "exit").unwrap_or_default();
    found.exit_code = end.code.unwrap_or_default();
    found.stderr = end.stderr;
    found.kernel_trouble = kmsg::trouble(&log.lines());
    let code = found.exit_code;
    port.emit(&Event::Compared(Box::new(found)));
    Ok(code)
}

/// The user's options, and stats every second unless the user has chosen another time.
fn options(given: &[String]) -> Vec<String> {
    let chosen = given
        .iter()
        .any(|arg| arg == "--stats" || arg.starts_with("--stats="));
    let stats = if chosen {
        [].as_slice()
    } else {
        &["--stats", "1"]
    };
    stats
        .iter()
        .map(|word| (*word).to_owned())
        .chain(given.iter().cloned())
        .collect()
}

/// Runs the workload once.
fn workload(job: &Compare) -> Result<Value, String> {
    let length = Duration::from_secs_f64(job.seconds);
    let load = Load::start(&job.workload, length, None).map_err(|error| error.to_string())?;
    let report = load.finish()?;
    Ok(serde_json::to_value(report).expect("a report is plain data"))
}

/// Passes a scheduler's stats on as they come.
fn forward(port: Port) -> OnLine {
    Box::new(move |stream, line| {
        let Some(stats) = sched::event(line, "stats").filter(|_| stream == Stream::Stdout) else {
            return;
        };
        let uptime_s = stats["uptime_s"].as_f64().unwrap_or_default();
        port.emit(&Event::Stats {
            uptime_s,
            counters: sched::counters_of(&stats),
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn stats_are_asked_for_unless_the_user_did() {
        assert_eq!(options(&strings(&["-v"])), ["--stats", "1", "-v"]);
        assert_eq!(options(&strings(&["--stats", "5"])), ["--stats", "5"]);
        assert_eq!(options(&strings(&["--stats=5"])), ["--stats=5"]);
    }
}
