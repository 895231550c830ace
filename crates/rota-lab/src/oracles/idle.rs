// SPDX-License-Identifier: GPL-2.0-only
//! No CPU idles beside a task that waits and may run there, once nothing changes any more.

use super::Evidence;
use crate::bounds;
use crate::fuzz::Scenario;

/// Some policies wait for a warm CPU until a tick, and one more.
const WARM_MS: f64 = 2.0 * bounds::TICK_MS;

/// The part of the machine that may be lost in many short episodes: waking a CPU takes its time, in an
/// emulator above all. EEVDF loses up to 0.07.
const LOST: f64 = 0.15;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let idleness = evidence.idleness.as_ref()?;
    let lost = idleness.lost() / evidence.cpus as f64;
    if lost > LOST {
        return Some(format!(
            "{:.0} % of the machine idled beside waiting tasks, over {:.0}",
            lost * 100.0,
            LOST * 100.0
        ));
    }
    let longest_ms = idleness.longest_us as f64 / 1e3;
    let bound_ms = bounds::idle_ms(evidence.cpus) + WARM_MS;
    let (task, cpu) = idleness.longest?;
    (longest_ms > bound_ms).then(|| {
        format!("CPU {cpu} idled beside task {task} for {longest_ms:.1} ms, over {bound_ms:.0}")
    })
}
