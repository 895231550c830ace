// SPDX-License-Identifier: GPL-2.0-only
//! How long things take in a guest at most, in milliseconds of its time: what cases and oracles
//! measure against.
//!
//! A turn is a slice, but the kernel sees its end at the next tick only; and in an emulator each CPU
//! stands still while others run, so that the tick is late by up to another two. In virtual time all
//! this is the same on a busy host as on an idle one.

/// The kernel looks at slices once in a tick.
pub const TICK_MS: f64 = 4.0;
/// How long an emulated CPU stands still while others run.
const STANDSTILL_MS: f64 = 8.0;

/// No CPU stands still for so long, unless the emulator has forgotten it for a while: 84 ms were seen,
/// in about one of a thousand cases.
pub const FORGOTTEN_MS: f64 = 4.0 * STANDSTILL_MS;

/// The longest turn of a task.
pub fn turn_ms(slice_ms: f64, cpus: usize) -> f64 {
    let standstill = if cpus > 1 { STANDSTILL_MS } else { 0.0 };
    slice_ms + TICK_MS + standstill
}

/// The longest gap of a task on a machine where `per_cpu` tasks of equal weight share each CPU.
///
/// On a CPU with n tasks each waits for n - 1 turns if all is fair. The bound is 1.5 times n turns:
/// one turn more comes from what the free tasks get elsewhere, and what is left is for the rest of
/// the system.
pub fn gap_ms(slice_ms: f64, cpus: usize, per_cpu: usize) -> f64 {
    1.5 * per_cpu as f64 * turn_ms(slice_ms, cpus)
}

/// How far the CPU time of a task may be from what its weight is worth.
///
/// With exact virtual time a task's lag is at most one turn on one CPU, and two on several CPUs that
/// take from one queue. Both ends of a measurement have that lag, so CPU time may differ by twice as
/// much from the ideal, however long the measurement is: a share that drifts away fails. And each
/// task reads its own clock at both ends, which it does late if its CPU stands still just then: 2 to
/// 8 ms, seldom more.
pub fn lag_ms(slice_ms: f64, cpus: usize) -> f64 {
    match cpus {
        1 => 2.0 * (slice_ms + TICK_MS),
        _ => 2.0 * (2.0 * (slice_ms + 2.0 * TICK_MS) + STANDSTILL_MS),
    }
}

/// How long it takes to bring a CPU to work that idles beside a task which it may run: one tick, and
/// what the emulator takes to come round to the CPU that is woken, half a tick for each CPU. Under
/// EEVDF 13 ms were seen on 8 CPUs.
pub fn idle_ms(cpus: usize) -> f64 {
    (1.0 + cpus as f64 / 2.0) * TICK_MS
}
