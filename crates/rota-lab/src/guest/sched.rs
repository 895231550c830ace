// SPDX-License-Identifier: GPL-2.0-only
//! A scheduler under test: its process, and the JSON lines that it prints.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::program::{OnLine, Program, Progress};
use super::{Port, scx};
use crate::job::{Event, SchedState};

/// Loading the BPF object takes seconds in an emulated guest on a busy host.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The kernel counts a scheduler a moment after it says that it runs; one that does not count at all
/// is not waited for any longer than this.
const COUNT_LIMIT: Duration = Duration::from_secs(1);

/// A scheduler that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Sched {
    program: Program,
}

impl Sched {
    /// Starts `binary` with JSON output and `args`, without waiting for it.
    pub fn spawn(binary: &str, args: &[String], on_line: Option<OnLine>) -> io::Result<Self> {
        let mut command = Command::new(binary);
        if !args.iter().any(|arg| arg == "--json") {
            command.arg("--json");
        }
        command.args(args);
        Ok(Self {
            program: Program::spawn(&mut command, on_line)?,
        })
    }

    /// Starts `binary`, which is not one of ours and so prints no JSON, with libraries from
    /// `library_dirs`.
    pub fn spawn_foreign(
        binary: &str,
        args: &[String],
        library_dirs: &[String],
    ) -> io::Result<Self> {
        let mut command = Command::new(binary);
        command.args(args);
        command.env("LD_LIBRARY_PATH", library_dirs.join(":"));
        Ok(Self {
            program: Program::spawn(&mut command, None)?,
        })
    }

    /// The process.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Waits until it says that it runs, and the kernel does too; the line that says so.
    ///
    /// An error is the scheduler's end or silence: attaching can seem to succeed although the
    /// kernel has already given the scheduler up.
    pub fn wait_started(&self) -> Result<Value, Progress> {
        let started = self.wait_start(1)?;
        match scx::wait_for("enabled", START_LIMIT) {
            Ok(()) => Ok(started),
            Err(_) => Err(self.last_progress()),
        }
    }

    /// Waits until the kernel says that a scheduler runs that was not there at `before`; what else it
    /// says of it then.
    ///
    /// This asks nothing of the scheduler. An error is its end or silence.
    pub fn wait_attached(&self, before: &SchedState) -> Result<SchedState, Progress> {
        let deadline = Instant::now() + START_LIMIT;
        let mut enabled_at = None;
        loop {
            let now = scx::snapshot();
            if now.state == "enabled" && !now.ops.is_empty() {
                let since = *enabled_at.get_or_insert_with(Instant::now);
                if now.enable_seq != before.enable_seq || since.elapsed() > COUNT_LIMIT {
                    return Ok(now);
                }
            }
            if !self.program.is_running() || Instant::now() > deadline {
                return Err(self.last_progress());
            }
            thread::sleep(scx::POLL);
        }
    }

    /// Waits until it says for the `nth` time that it runs; the line that says so.
    pub fn wait_start(&self, nth: usize) -> Result<Value, Progress> {
        let seen = |progress: &Progress| events(progress, "started").into_iter().nth(nth - 1);
        self.program
            .wait_for(START_LIMIT, seen)
            .ok_or_else(|| self.last_progress())
    }

    /// The counters in its latest line of stats.
    pub fn counters(&self) -> BTreeMap<String, f64> {
        counters(&self.program.progress())
    }

    /// Asks it to stop, and waits until it has; nothing when it does not within `limit`.
    pub fn stop(&self, signal: Signal, limit: Duration) -> Option<Progress> {
        self.program.signal(signal);
        self.program.wait(limit)
    }

    /// What there is of a scheduler that did not start: all, if it ended.
    fn last_progress(&self) -> Progress {
        let end = self.program.wait(Duration::from_secs(1));
        end.unwrap_or_else(|| self.program.progress())
    }
}

/// Its lines with `"event": name`, in order.
pub fn events(progress: &Progress, name: &str) -> Vec<Value> {
    progress
        .stdout
        .iter()
        .filter_map(|line| event(line, name))
        .collect()
}

/// Its last line with `"event": name`.
pub fn last(progress: &Progress, name: &str) -> Option<Value> {
    progress
        .stdout
        .iter()
        .rev()
        .find_map(|line| event(line, name))
}

/// What it said at its last start, if it has not detached since. A start that a CPU's coming was too
/// quick for is never told, so there may be more restarts than starts.
pub fn running_since(progress: &Progress) -> Option<Value> {
    let mut lines = progress.stdout.iter().rev();
    let last = lines.find_map(|line| event(line, "started").or_else(|| event(line, "restart")))?;
    (last["event"] == "started").then_some(last)
}

/// The counters in its last line of stats.
pub fn counters(progress: &Progress) -> BTreeMap<String, f64> {
    last(progress, "stats")
        .map(|stats| counters_of(&stats))
        .unwrap_or_default()
}

/// The counters in a line of stats.
pub fn counters_of(stats: &Value) -> BTreeMap<String, f64> {
    let map = stats["counters"].as_object();
    let pairs = map.into_iter().flatten();
    pairs
        .filter_map(|(name, value)| Some((name.clone(), value.as_f64()?)))
        .collect()
}

/// `line` as JSON, if it is the event called `name`.
pub fn event(line: &str, name: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == name).then_some(value)
}

/// Tells of a scheduler that did not start; its exit code, which is never that of success.
pub fn did_not_start(port: &Port, end: &Progress) -> i32 {
    let code = end.code.filter(|code| *code != 0).unwrap_or(1);
    let mut stderr = end.stderr.clone();
    if end.code.is_none() {
        stderr.push("it neither started nor ended".into());
    }
    port.emit(&Event::SchedFailed { code, stderr });
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(lines: &[&str]) -> Progress {
        let stdout = lines.iter().map(|line| (*line).to_owned()).collect();
        Progress {
            stdout,
            ..Progress::default()
        }
    }

    #[test]
    fn the_last_line_of_a_kind_counts() {
        let progress = progress(&[
            r#"{"event":"started","ops":"fifo_0.1.0"}"#,
            r#"{"event":"stats","uptime_s":1,"counters":{"nr_enqueue":1}}"#,
            "not JSON",
            r#"{"event":"stats","uptime_s":2,"counters":{"nr_enqueue":7,"nr_kick":0}}"#,
        ]);
        assert_eq!(last(&progress, "started").unwrap()["ops"], "fifo_0.1.0");
        assert_eq!(last(&progress, "exit"), None);
        let counters = counters(&progress);
        assert_eq!(counters.get("nr_enqueue"), Some(&7.0));
        assert_eq!(counters.len(), 2);
        assert_eq!(events(&progress, "stats").len(), 2);
    }

    #[test]
    fn it_runs_from_a_start_to_the_next_restart() {
        let started = r#"{"event":"started","ops":"fifo_0.1.0"}"#;
        let restart = r#"{"event":"restart","reason":"a CPU came","attempt":1}"#;
        let stats = r#"{"event":"stats","uptime_s":1,"counters":{}}"#;
        let runs = |lines: &[&str]| running_since(&progress(lines)).is_some();
        assert!(!runs(&[]));
        assert!(runs(&[started, stats]));
        assert!(!runs(&[started, stats, restart]));
        assert!(runs(&[started, restart, restart, started]));
    }
}
