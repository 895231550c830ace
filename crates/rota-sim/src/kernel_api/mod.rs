// SPDX-License-Identifier: GPL-2.0-only
//! What a program can call, between the interpreter and the core.
//!
//! The program passes five numbers. Here they become tasks, masks and strings,
//! and the core ([`CoreApi`]) is asked for whatever concerns scheduling.

mod calls;
mod core_api;
mod cpumask;
mod kernel;
mod masks;
mod table;
mod tasks;

pub use core_api::{CoreApi, DsqInsert, DsqMove, IdleMask, IterId};
pub use cpumask::{CpuMask, MAX_CPUS};
pub use kernel::{Kernel, Session};
pub use table::number;
pub use tasks::{Field, Images, NewTask, TaskId, TaskLayout, Tasks};

#[cfg(test)]
mod tests;
