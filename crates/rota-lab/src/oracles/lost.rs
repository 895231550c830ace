// SPDX-License-Identifier: GPL-2.0-only
//! No task is lost or stuck: each has run, and each ends when it is told to.

use super::Evidence;
use crate::fuzz::Scenario;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let report = match &evidence.report {
        Ok(report) => report,
        Err(words) => return Some(words.clone()),
    };
    if !report.errors.is_empty() {
        return Some(report.errors.join("; "));
    }
    report.groups.iter().find_map(|group| {
        let idle = group.per_task_share.iter().filter(|share| **share <= 0.0);
        let idle = idle.count();
        (idle > 0).then(|| {
            format!(
                "{idle} of {} tasks of {} never ran",
                group.tasks, group.name
            )
        })
    })
}
