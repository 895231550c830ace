// SPDX-License-Identifier: GPL-2.0-only
//! What cases that look at a running scheduler share: a start and an orderly stop around them, and
//! what must hold after anything that the scheduler went through.

use std::time::Duration;

use rota_load::report::{GroupReport, Report};
use serde_json::Value;

use crate::bounds;
use crate::check;
use crate::guest::{CaseResult, Failure, Guest, STOP_LIMIT, Sched, describe, events, scx};
use crate::oracles::MISTAKES;

/// Runs `body` under the scheduler under test, started with `args`.
///
/// Whatever `body` does, the scheduler must live through it without a restart, and without an
/// event of the kernel's that tells of a mistake (6.12 counts none).
pub fn scheduled(
    guest: &Guest,
    args: &[&str],
    body: impl FnOnce(&Sched) -> CaseResult,
) -> CaseResult {
    let sched = guest.start(args)?;
    let result = body(&sched);
    let progress = sched.program().progress();
    if progress.code.is_some() {
        return Err(describe(guest.sched_name(), "ended meanwhile", &progress));
    }
    let figures = result?;
    check!(
        events(&progress, "restart").is_empty(),
        "the scheduler had to restart"
    );
    let counted = scx::events();
    for name in MISTAKES {
        let count = counted.get(name).copied().unwrap_or_default();
        check!(count == 0, "{name} is {count}");
    }
    guest.stop(&sched)?;
    Ok(figures)
}

/// What `look` finds under another scheduler, which the case has [beside](super::Case::beside) its own.
pub fn under<T>(
    guest: &Guest,
    name: &str,
    look: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let sched = Sched::spawn(name, &[], None)?;
    let started = sched.wait_started();
    started.map_err(|end| describe(name, "did not start", &end))?;
    let found = look()?;
    guest.stop(&sched)?;
    Ok(found)
}

/// The line of stats that comes next.
pub fn next_stats(sched: &Sched) -> Result<Value, Failure> {
    let before = events(&sched.program().progress(), "stats").len();
    let newer = |progress: &_| events(progress, "stats").into_iter().nth(before);
    let stats = sched.program().wait_for(STOP_LIMIT, newer);
    stats.ok_or_else(|| "no line of statistics comes".into())
}

/// Runs a workload to its end, which must come without an error of the workload's own.
pub fn load(guest: &Guest, workload: &str, length: Duration) -> Result<Report, Failure> {
    let report = guest.load(workload, length)?;
    check!(
        report.errors.is_empty(),
        "{}: {}",
        report.workload,
        report.errors.join("; ")
    );
    Ok(report)
}

/// How often a measurement is made at most, if each is spoiled.
const ATTEMPTS: usize = 3;

/// The same for a workload of which shares of CPU time are judged: once more if a CPU of the guest
/// stood still meanwhile. Who was there is charged for it, and pays it back, by rights.
pub fn steady_load(guest: &Guest, workload: &str, length: Duration) -> Result<Report, Failure> {
    for _ in 0..ATTEMPTS {
        let report = load(guest, workload, length)?;
        if !stood_still(&report) {
            return Ok(report);
        }
    }
    Err(format!(
        "in each of {ATTEMPTS} runs a CPU of the guest stood still for over {} ms, so that nothing \
         can be said of shares; run it on a host that has CPUs to spare",
        bounds::FORGOTTEN_MS
    )
    .into())
}

fn stood_still(report: &Report) -> bool {
    let stalls = report
        .groups
        .iter()
        .filter_map(|group| group.longest_stall_us);
    stalls.fold(0.0, f64::max) > bounds::FORGOTTEN_MS * 1e3
}

/// The group called `name` of a workload that has it.
pub fn group<'a>(report: &'a Report, name: &str) -> Result<&'a GroupReport, Failure> {
    let found = report.group(name);
    found.ok_or_else(|| format!("{} has no group {name}", report.workload).into())
}

/// The smallest and the largest of some shares.
pub fn range(shares: &[f64]) -> (f64, f64) {
    let min = shares.iter().copied().fold(f64::INFINITY, f64::min);
    let max = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (min, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_stood_still_spoils_a_measurement() {
        let mut report: Report =
            serde_json::from_str(include_str!("../oracles/report.json")).unwrap();
        assert!(!stood_still(&report));
        report.groups[1].longest_stall_us = Some(8_000.0);
        assert!(!stood_still(&report));
        report.groups[1].longest_stall_us = Some(84_000.0);
        assert!(stood_still(&report));
    }
}
