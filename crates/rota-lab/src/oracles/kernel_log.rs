// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's log tells of no trouble.

use super::Evidence;
use crate::fuzz::Scenario;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    (!evidence.kernel_trouble.is_empty()).then(|| evidence.kernel_trouble.join(" | "))
}
