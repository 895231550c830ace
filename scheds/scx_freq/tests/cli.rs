// SPDX-License-Identifier: GPL-2.0-only
//! The command line of scx_freq: the tests that all schedulers share.

const SCHEDULER: &str = env!("CARGO_BIN_EXE_scx_freq");

#[path = "../../../crates/rota-core/tests/scheduler_cli/mod.rs"]
mod scheduler_cli;
