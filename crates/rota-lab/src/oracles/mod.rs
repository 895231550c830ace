// SPDX-License-Identifier: GPL-2.0-only
//! What must hold whatever happened, one oracle per module: each looks at the evidence of a scenario
//! and says what is wrong with it, or nothing.

mod affinity;
mod events;
mod exit;
mod idle;
mod kernel_log;
mod leftovers;
mod lost;
mod memory;
mod second;
mod starved;
mod state;
mod weights;

use std::collections::BTreeMap;

pub use events::MISTAKES;
use rota_load::report::Report;

use crate::fuzz::{Scenario, Violation};
use crate::guest::{Idleness, Progress};
use crate::job::SchedState;

/// Beside the oracles: the guest itself could not go on.
pub const GUEST: &str = "guest";

/// The oracle that looks at the scheduler's start and end.
pub const EXIT: &str = "exit";

/// The exit code of a scheduler that finds another one running.
pub const OTHERS_RUNNING: i32 = 4;

/// All that was seen of a scenario.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What the workload reports, or why it does not.
    pub report: Result<Report, String>,
    /// The scheduler's process, up to its end.
    pub end: Progress,
    /// It had ended before it was told to.
    pub ended_early: bool,
    /// It ran on all CPUs after the last act, or what it did instead.
    pub settled: Result<(), String>,
    /// What second schedulers did that were not refused.
    pub intruders: Vec<String>,
    /// sched_ext before it was started.
    pub state_before: SchedState,
    /// sched_ext after it was stopped.
    pub state_after: SchedState,
    /// The kernel's event counters just before it was stopped.
    pub events: BTreeMap<String, i64>,
    /// Lines of the kernel's log that tell of trouble.
    pub kernel_trouble: Vec<String>,
    /// CPUs that idled beside waiting tasks after the last act.
    pub idleness: Option<Idleness>,
    /// CPUs online then.
    pub cpus: usize,
    /// The memory of the scheduler's process, in KiB: after its start, and at the end.
    pub rss_kib: Vec<u64>,
    /// What it left in the kernel and on disk.
    pub left: Vec<String>,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            report: Err("the workload did not run".into()),
            end: Progress::default(),
            ended_early: false,
            settled: Ok(()),
            intruders: Vec::new(),
            state_before: SchedState::default(),
            state_after: SchedState::default(),
            events: BTreeMap::new(),
            kernel_trouble: Vec::new(),
            idleness: None,
            cpus: 0,
            rss_kib: Vec::new(),
            left: Vec::new(),
        }
    }
}

/// Says what is wrong, if anything.
type Judge = fn(&Scenario, &Evidence) -> Option<String>;

/// The oracles, by name.
pub const ALL: [(&str, Judge); 12] = [
    (EXIT, exit::judge),
    ("lost", lost::judge),
    ("starved", starved::judge),
    ("idle", idle::judge),
    ("affinity", affinity::judge),
    ("weights", weights::judge),
    ("events", events::judge),
    ("kernel_log", kernel_log::judge),
    ("second", second::judge),
    ("state", state::judge),
    ("leftovers", leftovers::judge),
    ("memory", memory::judge),
];

/// Asks all oracles.
pub fn judge(scenario: &Scenario, evidence: &Evidence) -> Vec<Violation> {
    let asked = ALL.iter().filter_map(|(name, judge)| {
        let message = judge(scenario, evidence)?;
        Some(Violation {
            oracle: (*name).into(),
            message,
        })
    });
    asked.collect()
}

/// The figures that the oracles go by, in a line.
pub fn figures(evidence: &Evidence) -> String {
    let mut told = Vec::new();
    if let Ok(report) = &evidence.report {
        let gaps = report.groups.iter().map(|group| {
            let gap_ms = group.longest_gap_us.unwrap_or(0.0) / 1e3;
            format!("{} {gap_ms:.1}", group.name)
        });
        let gaps: Vec<String> = gaps.collect();
        told.push(format!("longest gaps in ms: {}", gaps.join(", ")));
    }
    if let Some(idleness) = &evidence.idleness {
        let longest_ms = idleness.longest_us as f64 / 1e3;
        told.push(format!("idle beside work {longest_ms:.1} ms"));
    }
    if let Some(rss) = evidence.rss_kib.last() {
        told.push(format!("{rss} KiB"));
    }
    told.join(", ")
}

/// The scheduler's slice in milliseconds: as the scenario has it, or the longest default.
fn slice_ms(scenario: &Scenario) -> f64 {
    const DEFAULT_MS: f64 = 20.0;
    let given = scenario
        .options
        .iter()
        .find_map(|option| option.strip_prefix("--slice-us="));
    let us = given.and_then(|us| us.parse::<f64>().ok());
    us.map_or(DEFAULT_MS, |us| us / 1e3)
}

#[cfg(test)]
mod tests;
