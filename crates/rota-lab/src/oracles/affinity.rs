// SPDX-License-Identifier: GPL-2.0-only
//! No task runs where it may not, by the tasks' own account.

use super::Evidence;
use crate::fuzz::Scenario;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let report = evidence.report.as_ref().ok()?;
    report.groups.iter().find_map(|group| {
        let (times, name) = (group.outside_mask, &group.name);
        (times > 0).then(|| format!("a task of {name} ran {times} times where it may not"))
    })
}
