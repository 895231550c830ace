// SPDX-License-Identifier: GPL-2.0-only
//! A second scheduler is refused.

use super::Evidence;
use crate::fuzz::Scenario;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let first = evidence.intruders.first()?;
    Some(format!("a second scheduler was not refused: {first}"))
}
