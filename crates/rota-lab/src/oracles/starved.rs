// SPDX-License-Identifier: GPL-2.0-only
//! No task waits for longer than all others' turns take, each as often as its weight asks for, on one
//! CPU. That is a bound for any policy that serves in turns or by weight, wherever tasks may run.

use rota_load::report::GroupReport;
use rota_load::spec::{Kind, Workload};

use super::{Evidence, slice_ms};
use crate::bounds;
use crate::fuzz::{Scenario, What};

/// A scheduler that starts or ends bypasses the policy, and a CPU that goes stops the machine. A start
/// is favoured while it loads, and nobody can be born while the kernel switches all tasks over.
const CHANGE_MS: f64 = 2000.0;
/// What the start and the end of the scheduler and of the workload take, in any case.
const ANYWAY_MS: f64 = 200.0;
/// Both queues of a CPU, its own and the shared one, have turns.
const QUEUES: f64 = 2.0;

pub(super) fn judge(scenario: &Scenario, evidence: &Evidence) -> Option<String> {
    let report = evidence.report.as_ref().ok()?;
    let reweighed = |act: &crate::fuzz::Act| matches!(act.what, What::Renice { .. });
    if scenario.acts.iter().any(reweighed) {
        // Up to 5917 : 1.
        return None;
    }
    let workload = Workload::parse("workload", &scenario.workload).ok()?;
    let acts = scenario.acts.iter().filter(|act| changes(&act.what));
    // Tasks that were there first saw the scheduler come.
    let changes = acts.count() + usize::from(scenario.load_first);
    let turn_ms = bounds::turn_ms(slice_ms(scenario), evidence.cpus);
    report.groups.iter().find_map(|group| {
        let gap_ms = group.longest_gap_us.unwrap_or(0.0) / 1e3;
        let turns: f64 = report
            .groups
            .iter()
            .map(|other| turns(&workload, other, group))
            .sum();
        let bound_ms = QUEUES * turns * turn_ms + changes as f64 * CHANGE_MS + ANYWAY_MS;
        let name = &group.name;
        (gap_ms > bound_ms)
            .then(|| format!("a task of {name} had no CPU for {gap_ms:.1} ms, over {bound_ms:.0}"))
    })
}

/// Turns of the tasks of `other` for one of a task of `group`, its own included.
fn turns(workload: &Workload, other: &GroupReport, group: &GroupReport) -> f64 {
    let weight = |group: &GroupReport| f64::from(group.weight.unwrap_or(1024));
    let spec = workload.groups.iter().find(|spec| spec.name == other.name);
    let children = match spec.map(|spec| &spec.kind) {
        Some(Kind::ForkStorm { outstanding, .. } | Kind::ExecStorm { outstanding }) => *outstanding,
        _ => 0,
    };
    let tasks = f64::from(other.tasks) * f64::from(1 + children);
    tasks * (weight(other) / weight(group)).max(1.0)
}

fn changes(what: &What) -> bool {
    matches!(
        what,
        What::Kill | What::Offline { .. } | What::Online { .. } | What::Freeze { .. }
    )
}
