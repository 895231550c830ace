// SPDX-License-Identifier: GPL-2.0-only
//! Afterwards the kernel schedules as before.

use super::Evidence;
use crate::fuzz::Scenario;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let (before, after) = (&evidence.state_before, &evidence.state_after);
    let restored = after.state == before.state
        && after.ops == before.ops
        && after.switch_all == before.switch_all
        && after.nr_rejected == before.nr_rejected;
    (!restored).then(|| format!("it was {before:?}, it is {after:?}"))
}
