// SPDX-License-Identifier: GPL-2.0-only
//! The kernel counted none of the events that tell of a policy's mistake (6.12 counts none at all).

use super::Evidence;
use crate::fuzz::Scenario;

/// A CPU chosen that the task may not use, a task handed back again and again, a task given that was
/// not the scheduler's to give.
pub const MISTAKES: [&str; 3] = [
    "SCX_EV_SELECT_CPU_FALLBACK",
    "SCX_EV_REENQ_REPEAT",
    "SCX_EV_INSERT_NOT_OWNED",
];

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let counted = MISTAKES.iter().filter_map(|name| {
        let count = evidence.events.get(*name).copied().unwrap_or_default();
        (count != 0).then(|| format!("{name} is {count}"))
    });
    let counted: Vec<String> = counted.collect();
    (!counted.is_empty()).then(|| counted.join(", "))
}
