// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the scheduler keeps its promises whatever machine and work it meets. Method: random ones, in
//! the simulator.

use rota_sim::properties::{Promises, check};

#[test]
fn promises_are_kept() {
    let promises = Promises {
        exact_shares: false,
        // Few tasks of an LLC wait for a period of the tick before others help, and for a tick then;
        // callbacks take a little on top.
        idle_ns: 12_100_000,
    };
    check(env!("CARGO_BIN_EXE_scx_llc"), promises);
}
