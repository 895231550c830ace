// SPDX-License-Identifier: GPL-2.0-only
//! Runs lab cases one after another, and looks after each whether the system is as before.

use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::Port;
use super::case::{Failure, Guest};
use super::worker::raise_priority;
use crate::cases::{self, Case};
use crate::job::{CaseOutcome, Cases, Event};

/// The worker's exit code after a case that did not end; whoever asked boots again for the rest.
const STUCK: i32 = 3;

/// Runs the cases; the result is 1 if one failed.
pub fn run(port: &Port, job: &Cases) -> Result<i32, String> {
    let mut failed = false;
    for name in &job.names {
        let case = cases::find(name).ok_or_else(|| format!("no case `{name}` in this guest"))?;
        // Steps that are no divisor of a tick, whichever frequency the kernel has.
        thread::sleep(Duration::from_micros(job.seed % 100 * 997));
        port.emit(&Event::CaseStarted { name: name.clone() });
        let started = Instant::now();
        let watch = Watch::start(port, case, started);
        let (outcome, message) = run_one(case, job);
        drop(watch);
        failed |= outcome == CaseOutcome::Failed;
        let seconds = started.elapsed().as_secs_f64();
        port.emit(&Event::CaseResult {
            name: name.clone(),
            outcome,
            message,
            seconds,
        });
    }
    Ok(i32::from(failed))
}

fn run_one(case: &Case, job: &Cases) -> (CaseOutcome, String) {
    let mut guest = match Guest::new(&job.sched, job.seed) {
        Ok(guest) => guest,
        Err(error) => return (CaseOutcome::Failed, format!("the kernel's log: {error}")),
    };
    let result = panic::catch_unwind(AssertUnwindSafe(|| (case.run)(&mut guest)));
    let result = result.unwrap_or_else(|panic| Err(Failure::Failed(panic_text(&*panic))));
    let wrong = guest.tidy_up();
    match result {
        Ok(_) | Err(Failure::Skipped(_)) if !wrong.is_empty() => (
            CaseOutcome::Failed,
            format!("afterwards: {}", wrong.join("; ")),
        ),
        Ok(figures) => (CaseOutcome::Passed, figures),
        Err(Failure::Skipped(reason)) => (CaseOutcome::Skipped, reason),
        Err(Failure::Failed(message)) => {
            let all: Vec<_> = std::iter::once(message).chain(wrong).collect();
            (CaseOutcome::Failed, all.join("; afterwards: "))
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    format!("the case panicked: {}", text.unwrap_or_default())
}

/// Fails a case that does not end, and gives up the guest with it.
struct Watch {
    _running: mpsc::Sender<()>,
}

impl Watch {
    fn start(port: &Port, case: &Case, started: Instant) -> Self {
        let (running, ended) = mpsc::channel::<()>();
        let port = port.clone();
        let (name, limit) = (case.name.to_owned(), Duration::from_secs(case.limit_s));
        thread::spawn(move || {
            raise_priority();
            if ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let message = format!("not done after {} s", limit.as_secs());
            let seconds = started.elapsed().as_secs_f64();
            port.emit(&Event::CaseResult {
                name,
                outcome: CaseOutcome::Failed,
                message,
                seconds,
            });
            port.emit(&Event::Exited { code: STUCK });
            port.drain();
            process::exit(STUCK);
        });
        Self { _running: running }
    }
}
