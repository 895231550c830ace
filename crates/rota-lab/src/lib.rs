// SPDX-License-Identifier: GPL-2.0-only
//! The VM lab: boots real kernels in QEMU and runs Rota's schedulers on them.
//!
//! On the host, a [`kernel::Store`] gets kernels, a [`topology::Topology`] names the machine, and a
//! [`vm::Vm`] boots both with an [`initramfs`] that holds the programs and a [`job::Job`]. In the
//! guest, `rota-guest` (module [`guest`]) is the first process: it does the job and reports
//! [`job::Event`]s, one JSON line each, over the second serial port. Lab cases ([`cases`]) are
//! linked into both: the host lists them, the guest runs them.
//!
//! Nothing here needs root, a C library or a disk image, and nothing is written outside the cache
//! directory and the directory of a run.

pub mod arch;
pub mod bounds;
pub mod cases;
pub mod error;
pub mod fuzz;
pub mod guest;
pub mod initramfs;
pub mod job;
pub mod kernel;
pub mod matrix;
pub mod oracles;
pub mod topology;
pub mod vm;

pub use error::{Error, Result};

/// Told to a caller while something takes long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress<'a> {
    /// What is being done now.
    Step(&'a str),
    /// How much of the current step is done, from 0 to 1.
    Done(f64),
}

/// Receives [`Progress`].
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>);
