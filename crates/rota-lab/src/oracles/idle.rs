// SPDX-License-Identifier: GPL-2.0-only
//! No CPU idles beside a task that waits and may run there, once nothing changes any more.

use super::{Evidence, TICK_MS};
use crate::fuzz::Scenario;

/// The longest episode, in milliseconds: a tick, two more for policies that wait for a warm CPU
/// until a tick, and what the emulator takes to come round to a CPU that is woken, half a tick for
/// each.
fn bound_ms(cpus: usize) -> f64 {
    (3.0 + cpus as f64 / 2.0) * TICK_MS
}

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let idleness = evidence.idleness.as_ref()?;
    let (longest_ms, bound_ms) = (idleness.longest_us as f64 / 1e3, bound_ms(evidence.cpus));
    let (task, cpu) = idleness.longest?;
    (longest_ms > bound_ms).then(|| {
        format!("CPU {cpu} idled beside task {task} for {longest_ms:.1} ms, over {bound_ms:.0}")
    })
}
