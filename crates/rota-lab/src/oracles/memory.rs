// SPDX-License-Identifier: GPL-2.0-only
//! The scheduler's process does not grow.

use super::Evidence;
use crate::fuzz::Scenario;

/// Whatever it does, in KiB.
const LIMIT_KIB: u64 = 32 << 10;
/// What a restart may leave in the allocator's hands, in KiB.
const GROWTH_KIB: u64 = 2 << 10;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let (first, last) = (*evidence.rss_kib.first()?, *evidence.rss_kib.last()?);
    (last > LIMIT_KIB || last > first + first / 4 + GROWTH_KIB)
        .then(|| format!("its process has {last} KiB in use, {first} KiB at its start"))
}
