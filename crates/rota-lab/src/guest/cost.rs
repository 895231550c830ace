// SPDX-License-Identifier: GPL-2.0-only
//! What a scheduler costs, in instructions.
//!
//! Time counts instructions in this guest, and one CPU alone is online, so that each belongs to what
//! runs. A second CPU is there but offline: with just one, every task would be pinned to it, and
//! policies treat pinned tasks in another way.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

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
const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// How often all is measured. The least counts, as where the kernel's hash tables happen to put
/// things can only make a figure larger; of messaging, which scatters to both sides, the mean.
const ROUNDS: usize = 2;

/// Measures; the result is 0, or the exit code of a scheduler that did not start.
pub fn run(port: &Port, job: &Cost) -> Result<i32, String> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = match &job.sched {
            Some(name) => under(name)?,
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
fn under(name: &str) -> Result<Result<Costs, Progress>, String> {
    let begin = Instant::now();
    let sched = Sched::spawn(name, &[], None).map_err(|error| error.to_string())?;
    if let Err(end) = sched.wait_started() {
        return Ok(Err(end));
    }
    let attach_ms = Some(milliseconds(begin));
    let (pipe, messaging) = operations()?;
    let runs = callbacks(sched.program().pid())?;
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

/// The calls of each BPF program of the process `pid` while both workloads run, whose ns are
/// instructions.
fn callbacks(pid: Pid) -> Result<BTreeMap<String, Runs>, String> {
    let switch = |on| fs::write(BPF_STATS, on).map_err(|error| format!("{BPF_STATS}: {error}"));
    let symbols = fs::read_to_string("/proc/kallsyms");
    let symbols = symbols.map_err(|error| format!("/proc/kallsyms: {error}"))?;
    switch("1")?;
    let before = programs(pid)?;
    for workload in ["pipe", "messaging"] {
        per_operation(workload, CALLS)?;
    }
    let after = programs(pid)?;
    switch("0")?;
    let mut found = BTreeMap::new();
    for (tag, after) in after {
        let before = before.get(&tag).copied().unwrap_or_default();
        let runs = Runs {
            calls: after.calls - before.calls,
            ns: after.ns - before.ns,
        };
        if runs.calls < CALLS_MIN {
            continue;
        }
        let name = callback(&symbols, &tag).ok_or_else(|| format!("BPF program {tag} is lost"))?;
        found.insert(name, runs);
    }
    Ok(found)
}

/// How often a BPF program was called, and how long it ran in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Runs {
    calls: u64,
    ns: u64,
}

impl Runs {
    /// The mean of a call.
    fn each(self) -> f64 {
        self.ns as f64 / self.calls as f64
    }
}

/// The BPF programs that the process `pid` holds, by tag.
fn programs(pid: Pid) -> Result<BTreeMap<String, Runs>, String> {
    let dir = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&dir).map_err(|error| format!("{dir}: {error}"))?;
    let texts = files
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok());
    Ok(texts.filter_map(|text| program(&text)).collect())
}

fn program(fdinfo: &str) -> Option<(String, Runs)> {
    let field = |name: &str| {
        let mut lines = fdinfo.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let runs = Runs {
        calls: field("run_cnt")?.parse().ok()?,
        ns: field("run_time_ns")?.parse().ok()?,
    };
    Some((field("prog_tag")?.to_owned(), runs))
}

/// The name of the program with this tag, without the policy's: `enqueue` for `vtime_enqueue`. The
/// kernel lists its code as `bpf_prog_<tag>_vtime_enqueue`.
fn callback(symbols: &str, tag: &str) -> Option<String> {
    let prefix = format!("bpf_prog_{tag}_");
    let mut words = symbols.split_whitespace();
    let name = words.find_map(|word| word.strip_prefix(&prefix))?;
    Some(name.split_once('_').map_or(name, |(_, op)| op).to_owned())
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

    #[test]
    fn programs_are_told_from_other_files() {
        let text = "pos:\t0\nprog_type:\t27\nprog_tag:\tbd23\nrun_time_ns:\t900\nrun_cnt:\t3\n";
        let runs = Runs { calls: 3, ns: 900 };
        assert_eq!(program(text), Some(("bd23".to_owned(), runs)));
        assert_eq!(program("pos:\t0\nmap_type:\t2\n"), None);
    }

    #[test]
    fn a_tag_leads_to_the_name_of_the_callback() {
        let symbols = "ffffffffc0 t bpf_prog_bd23_vtime_update_idle\t[bpf]\n\
                       ffffffffc1 t bpf_prog_0c1d_vtime_enqueue\t[bpf]\n";
        assert_eq!(callback(symbols, "bd23").as_deref(), Some("update_idle"));
        assert_eq!(callback(symbols, "ffff"), None);
    }
}
