// SPDX-License-Identifier: GPL-2.0-only
//! How long things take.

use serde::{Deserialize, Serialize};

/// When the ticks of the CPUs fall, relative to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TickPhase {
    /// All at once, as the kernel starts them without `skew_tick=1`.
    Aligned,
    /// Evenly spread over the period.
    Skewed,
    /// Anywhere, from the seed.
    Random,
}

/// Times in nanoseconds of what the kernel and the hardware do.
///
/// The defaults are **uncalibrated**: round figures of a server CPU around
/// 3 GHz, chosen so that ratios are plausible. Results depend on two of them
/// beyond noise: the phase of ticks, and how long callbacks take. All fields are
/// 0 or more; with [`Costs::free`] nothing but work takes time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Costs {
    /// Ticks per second, 1..=1000. Debian has 250.
    pub hz: u32,
    /// Phases of the ticks.
    pub tick_phase: TickPhase,
    /// Picoseconds for each instruction of a callback: 1000 is one per
    /// nanosecond, about what a JIT's code achieves with its cache misses.
    pub insn_ps: u64,
    /// To enter and leave a callback.
    pub callback_ns: u64,
    /// To hold a DSQ's lock for one operation.
    pub dsq_lock_ns: u64,
    /// To look at one more task under that lock.
    pub dsq_scan_ns: u64,
    /// From one task to another on a CPU, without callbacks.
    pub switch_ns: u64,
    /// To wake a task, without callbacks.
    pub wakeup_ns: u64,
    /// From sending an interrupt to a CPU until it enters the handler.
    pub ipi_ns: u64,
    /// To handle a timer, tick or IPI.
    pub irq_ns: u64,
    /// To enter and leave the kernel.
    pub syscall_ns: u64,
    /// To read or write a word in a pipe.
    pub pipe_ns: u64,
    /// To send or receive a message.
    pub socket_ns: u64,
    /// To fork, on the parent's side.
    pub fork_ns: u64,
    /// To execute a program, up to its first instruction.
    pub exec_ns: u64,
    /// To exit.
    pub exit_ns: u64,
    /// `sched_setaffinity()`, without callbacks.
    pub affinity_ns: u64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            hz: 250,
            tick_phase: TickPhase::Skewed,
            insn_ps: 1_000,
            callback_ns: 20,
            dsq_lock_ns: 40,
            dsq_scan_ns: 5,
            switch_ns: 800,
            wakeup_ns: 400,
            ipi_ns: 700,
            irq_ns: 400,
            syscall_ns: 150,
            pipe_ns: 300,
            socket_ns: 900,
            fork_ns: 50_000,
            exec_ns: 200_000,
            exit_ns: 20_000,
            affinity_ns: 500,
        }
    }
}

impl Costs {
    /// Nothing but work takes time: for tests of rules.
    pub fn free() -> Self {
        Self {
            insn_ps: 0,
            callback_ns: 0,
            dsq_lock_ns: 0,
            dsq_scan_ns: 0,
            switch_ns: 0,
            wakeup_ns: 0,
            ipi_ns: 0,
            irq_ns: 0,
            syscall_ns: 0,
            pipe_ns: 0,
            socket_ns: 0,
            fork_ns: 0,
            exec_ns: 0,
            exit_ns: 0,
            affinity_ns: 0,
            ..Self::default()
        }
    }

    /// Time between two ticks of a CPU.
    pub fn tick_ns(&self) -> u64 {
        1_000_000_000 / u64::from(self.hz.clamp(1, 1000))
    }

    /// Time for `insns` instructions.
    pub(super) fn insns_ns(&self, insns: u64) -> u64 {
        (u128::from(insns) * u128::from(self.insn_ps) / 1000) as u64
    }
}
