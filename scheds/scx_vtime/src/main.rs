// SPDX-License-Identifier: GPL-2.0-only
//! scx_vtime: every task gets the share of the machine that its weight is of
//! all weights.
//!
//! The runnable task with the least weighted virtual time runs first, machine
//! wide. How that is kept is told in `bpf/vtime.bpf.c`.

use std::process::ExitCode;

use rota_core::options::NoOptions;
use rota_core::{Package, Policy};

mod bpf {
    include!(concat!(env!("OUT_DIR"), "/policy.rs"));
}

/// The policy.
struct Vtime;

impl Policy for Vtime {
    type Bpf = bpf::Bpf;
    type Options = NoOptions;

    const PACKAGE: Package = rota_core::package!();
    /// Short enough that a woken task waits little behind hogs, long enough
    /// that switching costs less than a percent.
    const SLICE_US: u64 = 5_000;
}

fn main() -> ExitCode {
    rota_core::main::<Vtime>()
}
