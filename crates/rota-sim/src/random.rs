// SPDX-License-Identifier: GPL-2.0-only
//! Random machines and workloads for property tests, which shrink to small ones.

use std::env;
use std::ops::Range;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// The settings of a property test: a few cases, the same each time. `PROPTEST_CASES` and
/// `PROPTEST_RNG_SEED` ask for others.
pub fn cases(number: u32) -> ProptestConfig {
    let mut config = ProptestConfig {
        // A failure is shown with what makes it happen again.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = number;
    }
    if env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// Names of machines: one and several CPUs, LLCs, nodes, threads, strengths, offline CPUs.
pub fn machines() -> impl Strategy<Value = String> {
    let shapes = [
        "1x1x1",
        "1x4x1",
        "2x2x2",
        "1x3x2-1",
        "numa:2x2x2x1",
        "hybrid:2+2",
    ];
    proptest::sample::select(shapes.to_vec()).prop_map(str::to_owned)
}

/// A group of a workload without its name, of tasks with a nice value in `nice`.
fn group(nice: Range<i32>) -> impl Strategy<Value = String> {
    let affinity = prop_oneof![
        3 => Just(String::new()),
        1 => Just("affinity = \"one-each\"\n".to_owned()),
        1 => Just("affinity = \"llc:0\"\n".to_owned()),
        1 => Just("affinity = \"0\"\n".to_owned()),
    ];
    let kind = prop_oneof![
        (50u64..5000, 0u64..5000, 0u32..100).prop_map(|(run, sleep, jitter)| format!(
            "kind = \"loop\"\nrun = \"{run}us\"\nsleep = \"{sleep}us\"\njitter = {jitter}\n"
        )),
        // Longer than a slice, and longer than most wait.
        (5u64..30, 5u64..60).prop_map(|(run, sleep)| format!(
            "kind = \"loop\"\nrun = \"{run}ms\"\nsleep = \"{sleep}ms\"\n"
        )),
        Just("kind = \"loop\"\nrun = \"2ms\"\n".to_owned()),
        Just("kind = \"loop\"\nrun = \"200us\"\nyield = true\n".to_owned()),
        Just("kind = \"pipe\"\n".to_owned()),
        Just("kind = \"messaging\"\nsenders = 2\nreceivers = 2\n".to_owned()),
        Just("kind = \"fork-storm\"\noutstanding = 2\nrun = \"300us\"\n".to_owned()),
        Just("kind = \"frame\"\nperiod = \"5ms\"\nwork = \"1ms\"\n".to_owned()),
        Just("kind = \"probe\"\nperiod = \"700us\"\n".to_owned()),
        Just("kind = \"affinity-storm\"\ntarget = \"group\"\n".to_owned()),
    ];
    (kind, affinity, nice, 1u32..5).prop_map(|(kind, affinity, nice, count)| {
        format!("{kind}{affinity}nice = {nice}\ncount = {count}\n")
    })
}

/// When a group begins, in percent of the length.
fn start() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0), 1 => 1u64..60]
}

/// The text of a workload of `length_ms` milliseconds, of tasks with nice values in `nice`.
pub fn workloads(length_ms: Range<u64>, nice: Range<i32>) -> impl Strategy<Value = String> {
    let groups = proptest::collection::vec((group(nice), start()), 1..4);
    (length_ms, groups).prop_map(|(length_ms, groups)| {
        let mut text = format!("name = \"random\"\nduration = \"{length_ms}ms\"\n");
        for (number, (group, percent)) in groups.iter().enumerate() {
            text += &format!("[[group]]\nname = \"g{number}\"\n{group}");
            if *percent > 0 {
                text += &format!("start = \"{}us\"\n", length_ms * percent * 10);
            }
        }
        text
    })
}
