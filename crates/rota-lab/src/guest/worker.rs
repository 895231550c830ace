// SPDX-License-Identifier: GPL-2.0-only
//! The worker: reads the job, does it, tells how it ended.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use nix::libc;

use super::{Port, compare, cost, exec, fuzz, machine, run_cases};
use crate::job::{Event, JOB_PATH, Job};

/// How often the host hears from a guest that has nothing to say.
const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// Does the job.
pub fn main() -> ExitCode {
    let port = match Port::open() {
        Ok(port) => port,
        Err(error) => {
            log::error!("opening the protocol port: {error}");
            return ExitCode::FAILURE;
        }
    };
    raise_priority();
    port.emit(&Event::Booted(machine()));
    thread::spawn({
        let port = port.clone();
        move || show_life(&port)
    });
    match read_job().and_then(|job| run(&port, job)) {
        Ok(code) => port.emit(&Event::Exited { code }),
        Err(message) => port.emit(&Event::Failed { message }),
    }
    port.drain();
    ExitCode::SUCCESS
}

fn read_job() -> Result<Job, String> {
    let text = fs::read_to_string(JOB_PATH).map_err(|error| format!("{JOB_PATH}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{JOB_PATH}: {error}"))
}

fn run(port: &Port, job: Job) -> Result<i32, String> {
    match job {
        Job::Exec(job) => exec::run(port, &job),
        Job::Compare(job) => compare::run(port, &job),
        Job::Cases(job) => run_cases::run(port, &job),
        Job::Cost(job) => cost::run(port, &job),
        Job::Fuzz(job) => fuzz::run(port, &job),
    }
}

fn show_life(port: &Port) {
    raise_priority();
    loop {
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime_s = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok());
        port.emit(&Event::Alive {
            uptime_s: uptime_s.unwrap_or_default(),
        });
        thread::sleep(ALIVE_EVERY);
    }
}

/// Puts this thread, but none that it starts, before everything a scheduler is tested with.
pub fn raise_priority() {
    const PRIORITY: i32 = 50;
    schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, PRIORITY);
}

/// Puts this thread among the others again.
pub fn lower_priority() {
    schedule(libc::SCHED_OTHER, 0);
}

fn schedule(policy: i32, priority: i32) {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the parameters live across the call, which only reads them.
    if unsafe { libc::sched_setscheduler(0, policy, &parameters) } != 0 {
        log::warn!(
            "scheduling policy {policy:#x}, priority {priority}: {}",
            std::io::Error::last_os_error()
        );
    }
}
