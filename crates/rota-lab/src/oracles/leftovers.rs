// SPDX-License-Identifier: GPL-2.0-only
//! Nothing of the scheduler is left: no BPF program or map in the kernel, no socket on disk. (The
//! socket of one that is killed stays until the next one reclaims it, which removes it in the end.)

use super::Evidence;
use crate::fuzz::Scenario;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    (!evidence.left.is_empty()).then(|| evidence.left.join(", "))
}
