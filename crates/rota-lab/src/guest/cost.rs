// SPDX-License-Identifier: GPL-2.0-only
//! What a scheduler costs, in instructions.
//!
//! Time counts instructions in this guest, and one CPU alone is online, so that each belongs to what
//! runs. A second CPU is there but offline: with just one, every task would be pinned to it, and
//! policies treat pinned tasks in another way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::callbacks::{Callbacks, Runs};
use super::load::Load;
use super::program::Progress;
use super::sched::{self, Sched};
use super::{Port, STOP_LIMIT};
use crate::job::{Cost, Costs, Event};

/// The first operations cost several times what they cost later.
const WARM_UP: Duration = Duration::from_millis(100);
/// A pipe's operations are all alike.
const PIPE: Duration = Duration::from_millis(200);
/// A message costs what the kernel's allocator happens to have at hand: runs of 200 ms scatter by
/// 2 %, evenly and independently, and that halves with four times the length.
const MESSAGING: Duration = Duration::from_millis(2000);
/// So that a tick is called some hundred times.
const CALLS: Duration = Duration::from_millis(400);
/// A program that is called less often has no mean worth comparing.
const CALLS_MIN: u64 = 100;

/// How often all is measured. The least counts, as where the kernel's hash tables happen to put
/// things can only make a figure larger; of messaging, which scatters to both sides, the mean.
const ROUNDS: usize = 2;

/// Measures; the result is 0, or the exit code of a scheduler that did not start.
pub fn run(port: &Port, job: &Cost) -> Result<i32, String> {
    let mut callbacks = Callbacks::default();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = match &job.sched {
            Some(name) => under(name, &mut callbacks)?,
            None => {
                let (pipe, messaging) = operations()?;
                Ok(Costs {
                    pipe,
                    messaging,
                    ..Costs::default()
                })
            }
        };
        match round {
            Ok(costs) => rounds.push(costs),
            Err(end) => return Ok(sched::did_not_start(port, &end)),
        }
    }
    port.emit(&Event::Costs(summed_up(rounds)));
    Ok(0)
}

/// Measures under the scheduler `name`, from its start to its end. What it said if it did not start.
fn under(name: &str, callbacks: &mut Callbacks) -> Result<Result<Costs, Progress>, String> {
    let begin = Instant::now();
    let sched = Sched::spawn(name, &[], None).map_err(|error| error.to_string())?;
    if let Err(end) = sched.wait_started() {
        return Ok(Err(end));
    }
    let attach_ms = Some(milliseconds(begin));
    let (pipe, messaging) = operations()?;
    let runs = calls(sched.program().pid(), callbacks)?;
    let begin = Instant::now();
    sched
        .stop(Signal::SIGTERM, STOP_LIMIT)
        .ok_or_else(|| format!("{name} does not stop"))?;
    Ok(Ok(Costs {
        pipe,
        messaging,
        callbacks: runs
            .iter()
            .map(|(name, its)| (name.clone(), its.each()))
            .collect(),
        calls: runs
            .into_iter()
            .map(|(name, its)| (name, its.calls))
            .collect(),
        attach_ms,
        detach_ms: Some(milliseconds(begin)),
    }))
}

/// The figures that count, of those of all `rounds`.
fn summed_up(rounds: Vec<Costs>) -> Costs {
    let messaging = rounds.iter().map(|costs| costs.messaging).sum::<f64>() / rounds.len() as f64;
    let least = rounds.into_iter().reduce(lesser).unwrap_or_default();
    Costs { messaging, ..least }
}

/// The lesser of each figure.
fn lesser(one: Costs, other: Costs) -> Costs {
    let both = |a: Option<f64>, b: Option<f64>| Some(a?.min(b?));
    let callback = |(name, cost): (String, f64)| {
        let again = other.callbacks.get(&name).copied().unwrap_or(cost);
        (name, cost.min(again))
    };
    Costs {
        pipe: one.pipe.min(other.pipe),
        messaging: one.messaging.min(other.messaging),
        callbacks: one.callbacks.into_iter().map(callback).collect(),
        calls: one.calls,
        attach_ms: both(one.attach_ms, other.attach_ms),
        detach_ms: both(one.detach_ms, other.detach_ms),
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Instructions of an operation of the pipe and the messaging workload.
fn operations() -> Result<(f64, f64), String> {
    let measure = |workload, length| {
        per_operation(workload, WARM_UP)?;
        per_operation(workload, length)
    };
    Ok((measure("pipe", PIPE)?, measure("messaging", MESSAGING)?))
}

fn per_operation(workload: &str, length: Duration) -> Result<f64, String> {
    let load = Load::start(workload, length, None).map_err(|error| error.to_string())?;
    let report = load.finish()?;
    if let Some(error) = report.errors.first() {
        return Err(format!("{workload}: {error}"));
    }
    let operations: u64 = report.groups.iter().map(|group| group.ops).sum();
    if operations == 0 {
        return Err(format!("{workload}: no operation was done"));
    }
    Ok(report.seconds * 1e9 / operations as f64)
}

/// The calls of each callback while both workloads run.
fn calls(pid: Pid, callbacks: &mut Callbacks) -> Result<BTreeMap<String, Runs>, String> {
    let work = || {
        ["pipe", "messaging"]
            .into_iter()
            .try_for_each(|workload| per_operation(workload, CALLS).map(drop))
    };
    let ((), mut found) = callbacks.during(pid, work)?;
    found.retain(|_, runs| runs.calls >= CALLS_MIN);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_each_figure_counts_but_of_messaging_the_mean() {
        let costs = |pipe, messaging, enqueue, attach_ms| Costs {
            pipe,
            messaging,
            callbacks: [("enqueue".to_owned(), enqueue)].into(),
            calls: [("enqueue".to_owned(), 400)].into(),
            attach_ms: Some(attach_ms),
            detach_ms: None,
        };
        let rounds = vec![costs(1.0, 5.0, 9.0, 2.0), costs(2.0, 4.0, 7.0, 3.0)];
        assert_eq!(summed_up(rounds), costs(1.0, 4.5, 7.0, 2.0));
    }
}
