// SPDX-License-Identifier: GPL-2.0-only
//! A discrete-event model of the kernel's sched_ext core.
//!
//! [`Sim`] is a machine with a kernel, a policy and tasks. The policy is behind
//! the trait [`Ops`]: an interpreter that runs what ships, or a few lines of
//! Rust ([`native`]). Time is virtual and counts in nanoseconds; the same seed
//! gives the same run to the last event, which [`Sim::trace_hash`] proves.
//!
//! The parts, and the kernel's functions in them:
//!
//! - [`ops`] the seam: callbacks, their pieces, what is shared of tasks;
//! - `context` the kfuncs; `queueing`, `dsq` the queues;
//! - `schedule` a CPU chooses (`__schedule`, `pick_task_scx`, `put_prev`, ...);
//! - `enqueue` tasks become runnable (`try_to_wake_up`, `scx_do_enqueue_task`);
//! - `interrupt` ticks, kicks, timers, the watchdog, hotplug, bypass;
//! - `lifecycle` load, unload, fork, exit, changes; `syscall` what tasks do;
//! - `kernel` CPUs that do all this side by side, with locks;
//! - [`grammar`] the order in which callbacks come, for the model and for a kernel.
//!
//! Figures are those of the model. Ratios, counts and orders mean something;
//! microseconds depend on [`Costs`], which nobody has calibrated.

mod api;
mod behaviour;
pub mod consts;
mod context;
mod core;
mod costs;
mod dsq;
mod enqueue;
mod event;
pub mod grammar;
mod idle;
mod interrupt;
mod kernel;
mod lifecycle;
mod lock;
pub mod native;
pub mod ops;
mod queueing;
mod rq;
mod schedule;
mod sim;
mod stats;
mod syscall;
mod task;
pub mod toys;

#[cfg(test)]
mod tests;

pub use behaviour::{Act, Behaviour, ChannelId, ChannelKind, Hog, NewTask, TaskView};
pub use consts::{Constants, ECODE_RESTART_HOTPLUG, ExitKind, KernelVersion};
pub use context::Context;
pub use costs::{Costs, TickPhase};
pub use ops::{
    Activation, Callback, ExitInfo, Fault, Fields, Op, OpSet, Ops, OpsTable, Progress, TaskField,
};
pub use sim::{Config, CpuFigures, Sim, TaskFigures, Totals};
pub use stats::{OpStats, QueueStats, TaskStats};
