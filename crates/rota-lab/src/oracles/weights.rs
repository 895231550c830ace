// SPDX-License-Identifier: GPL-2.0-only
//! CPU time follows weight, where the policy promises that and nothing disturbs it.

use std::iter;

use rota_load::spec::{Affinity, Kind, Workload};

use super::{Evidence, slice_ms};
use crate::bounds;
use crate::cases::shares::{BY_WEIGHT, feasible_shares, weight};
use crate::fuzz::Scenario;

/// What the start of the workload makes uneven, which is in the time that is looked at.
const START_MS: f64 = 20.0;

/// Tasks that want all they can get, wherever there is any; the light ones beside them hardly count.
fn is_plain(workload: &Workload) -> bool {
    workload.groups.iter().all(|group| match &group.kind {
        Kind::Loop(lap) => {
            lap.sleep.is_zero() && !lap.wake_next && !lap.yields && group.affinity == Affinity::All
        }
        Kind::Probe { .. } => true,
        _ => false,
    })
}

pub(super) fn judge(scenario: &Scenario, evidence: &Evidence) -> Option<String> {
    let report = evidence.report.as_ref().ok()?;
    let workload = Workload::parse("workload", &scenario.workload).ok()?;
    let disturbed = scenario.load_first || !scenario.acts.is_empty();
    if disturbed || !is_plain(&workload) || !BY_WEIGHT.contains(&scenario.sched.as_str()) {
        return None;
    }
    let groups = report.groups.iter().filter(|group| group.kind == "loop");
    let tasks: Vec<(&str, f64, f64)> = groups
        .flat_map(|group| {
            let shares = group.per_task_share.iter();
            shares.map(|share| (group.name.as_str(), weight(group), *share))
        })
        .collect();
    let weights: Vec<f64> = tasks.iter().map(|(_, weight, _)| *weight).collect();
    let total: f64 = tasks.iter().map(|(.., share)| share).sum();
    let bound_ms = bounds::lag_ms(slice_ms(scenario), evidence.cpus) + START_MS;
    iter::zip(&tasks, feasible_shares(&weights, total)).find_map(|((name, _, share), ideal)| {
        let lag_ms = (share - ideal) * report.seconds * 1e3;
        (lag_ms.abs() > bound_ms).then(|| {
            format!(
                "a task of {name} has {share:.3} CPUs of {ideal:.3}, {lag_ms:.1} ms off, over \
                 {bound_ms:.0}"
            )
        })
    })
}
