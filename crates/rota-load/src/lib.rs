// SPDX-License-Identifier: GPL-2.0-only
//! Workloads for CPU schedulers: a format, a runner and a report.
//!
//! - [`spec`] is the TOML format: types, parser, validator and writer, without
//!   any dependency on an operating system, so that a simulator reads the very
//!   files that a machine runs.
//! - [`workloads`] holds the named workloads that ship with the program.
//! - [`report`] is the result of a run as it is printed in JSON.
//! - `run` (feature `run`, on by default) runs a workload on this machine.

pub mod report;
#[cfg(feature = "run")]
pub mod run;
pub mod spec;
pub mod workloads;
