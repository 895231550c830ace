// SPDX-License-Identifier: GPL-2.0-only
//! The interpreter.
//!
//! A [`Vm`] is a loaded object: its code, which never changes, and its state,
//! which is plain data: a clone is a snapshot. An [`Execution`] is one run of one
//! program, another plain value: it can be stopped after any instruction,
//! cloned, and resumed, so that the callbacks of several CPUs interleave as they
//! do in a kernel. Whatever a program calls that concerns the world outside goes
//! to a [`Host`].
//!
//! What differs from the kernel: memory is in the order of the instructions of
//! all CPUs (there is no weak memory order); a program that the verifier would
//! refuse runs until it does something without meaning ([`Fault`]); code that
//! the verifier finds to be dead is tested for and counted.

mod execution;
mod fault;
mod helpers;
mod insn;
mod interpret;
mod maps;
pub mod memory;
mod printf;
mod program;

pub use execution::{Execution, Held, Outcome};
pub use fault::{Cause, Fault};
pub use helpers::name as helper_name;
pub(crate) use helpers::{is_supported as helper_is_supported, numbers};
pub use insn::{DecodeError, Raw, Target};
pub use maps::{Map, MapDef, MapKind};
pub use memory::{BadAccess, Kind, MAX_OBJECT_BYTES, Memory};
pub(crate) use printf::format;
pub use program::{Code, Count, Function, KfuncRef, State, Timer, Vm};

/// Bytes of a stack frame, as in the kernel (`MAX_BPF_STACK`).
pub const FRAME_BYTES: usize = 512;
/// Frames of one execution, callbacks included. The kernel's verifier allows 8
/// (`MAX_CALL_FRAMES`) in a program and as many in a callback.
pub const MAX_FRAMES: usize = 16;

/// The arguments of a call and what it may touch.
pub struct Call<'a> {
    /// All memory.
    pub memory: &'a mut Memory,
    /// What the program holds and has to give back.
    pub held: &'a mut Held,
    /// Registers 1 to 5.
    pub args: [u64; 5],
}

/// What is outside of a program.
pub trait Host {
    /// Call the kfunc of number `kfunc` in the host's table.
    fn kfunc(&mut self, call: Call<'_>, kfunc: u16) -> Result<u64, Cause>;

    /// Whether it matters when a kfunc is called: [`Execution::run_to_kfunc`] stops
    /// before it.
    fn is_timed(&self, kfunc: u16) -> bool {
        let _ = kfunc;
        true
    }

    /// The time in nanoseconds, for `bpf_ktime_get_ns()`.
    fn ktime_ns(&self) -> u64;

    /// The time in ticks, for `bpf_jiffies64()`.
    fn jiffies(&self) -> u64;

    /// The CPU that the program runs on.
    fn cpu(&self) -> u32;

    /// The address of the image of the task in whose context the program runs.
    fn current(&mut self, memory: &mut Memory) -> u64;

    /// Any number.
    fn random(&mut self) -> u32;

    /// The timer at this address is to run at a time ([`Host::ktime_ns`]);
    /// [`Vm::timer_execution`] gives what then runs.
    fn timer_start(&mut self, timer: u64, at_ns: u64);

    /// The timer at this address is not to run; true if it waited.
    fn timer_cancel(&mut self, timer: u64) -> bool;
}

#[cfg(test)]
mod tests;
