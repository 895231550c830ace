// SPDX-License-Identifier: GPL-2.0-only
//! scx_fifo: first come, first served, with the least work per decision.
//!
//! For batch work of equal tasks, and as the floor of cost that every other
//! policy is measured against. How it decides is told in `bpf/fifo.bpf.c`.

use std::process::ExitCode;

use rota_core::options::NoOptions;
use rota_core::{Package, Policy};

mod bpf {
    include!(concat!(env!("OUT_DIR"), "/policy.rs"));
}

/// The policy.
struct Fifo;

impl Policy for Fifo {
    type Bpf = bpf::Bpf;
    type Options = NoOptions;

    const PACKAGE: Package = rota_core::package!();
}

fn main() -> ExitCode {
    rota_core::main::<Fifo>()
}
