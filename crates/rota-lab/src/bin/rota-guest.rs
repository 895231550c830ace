// SPDX-License-Identifier: GPL-2.0-only
//! The first process of a lab guest.

use std::process::ExitCode;

fn main() -> ExitCode {
    rota_lab::guest::main()
}
