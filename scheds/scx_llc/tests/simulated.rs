// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the scheduler keeps its promises whatever machine and work it meets. Method: random ones, in
//! the simulator, and those in which it did not before.

use rota_sim::bpf::Pieces;
use rota_sim::properties::{Promises, Scenario, check, check_case};

const SCHEDULER: &str = env!("CARGO_BIN_EXE_scx_llc");
const PROMISES: Promises = Promises {
    exact_shares: false,
    // Few tasks of an LLC wait for 2 ms before others help, and for a tick then; callbacks take a
    // little on top.
    idle_ns: 6_100_000,
};

#[test]
fn promises_are_kept() {
    check(SCHEDULER, PROMISES);
}

/// One helper was called in each tick, however many waited: the third had to wait for three.
#[test]
fn each_of_a_few_that_wait_gets_help() {
    let found = Scenario {
        machine: "numa:2x2x2x1".to_owned(),
        kernel: "6.12",
        workload: include_str!("found/three_wait_in_an_llc.toml").to_owned(),
        cut: Pieces::Kfuncs,
        unplug: None,
        seed: 3_779_881_320_809_574_731,
    };
    check_case(SCHEDULER, PROMISES, &found);
}
