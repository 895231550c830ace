// SPDX-License-Identifier: GPL-2.0-only
//! Goal: figures that a hand can check, in JSON and in a table.

use rota_load::spec::Workload;

use super::*;
use crate::model::native::Native;
use crate::model::toys::{GlobalFifo, GlobalVtime};
use crate::model::{Config, Ops};
use crate::workload::populate;

const SLICE_NS: u64 = 5_000_000;

fn run(machine: &str, text: &str, ops: Box<dyn Ops>) -> Report {
    let workload = Workload::parse("test.toml", text).unwrap();
    let mut sim = Sim::new(&Config::new(machine.parse().unwrap()), ops);
    let roster = populate(&mut sim, &workload).unwrap();
    set_ideals(&mut sim, &roster);
    sim.run_until(roster.begin_ns);
    sim.begin_measuring();
    sim.run_until(roster.end_ns);
    let options = Options {
        policy: "toy".into(),
        slice_ns: SLICE_NS,
    };
    report(&sim, &roster, &workload.name, &options)
}

fn vtime() -> Box<dyn Ops> {
    Box::new(Native::new(GlobalVtime::new(SLICE_NS)))
}

const HOGS: &str = "name = \"hogs\"\nduration = \"4s\"\nwarmup = \"500ms\"
    [[group]]\nname = \"light\"\nkind = \"loop\"\nrun = \"10ms\"\ncount = 4\nnice = 5
    [[group]]\nname = \"even\"\nkind = \"loop\"\nrun = \"10ms\"\ncount = 4";

#[test]
fn a_fair_policy_meets_the_ideal() {
    let report = run("1x2x1", HOGS, vtime());
    let [light, even] = &report.groups[..] else {
        panic!("two groups");
    };
    // Weights 33 and 100 on two CPUs.
    let ideal = 2.0 * 33.0 / 133.0;
    assert!((light.ideal_share.unwrap() - ideal).abs() < 1e-6);
    assert!((light.share - ideal).abs() < 0.01, "{}", light.share);
    assert!((light.share + even.share - 2.0).abs() < 0.01);
    for group in [light, even] {
        assert!(group.worst_share.unwrap() > 0.97 && group.best_share.unwrap() < 1.03);
        assert!(group.lag_slices.unwrap() < 3.0, "{:?}", group.lag_slices);
        assert!(group.wait_over_bound.unwrap() < 1.5);
    }
    assert!(report.machine_totals.busy_pct > 99.9);
    assert_eq!(report.exit, None);
}

#[test]
fn an_unfair_policy_shows() {
    let fifo = GlobalFifo { slice_ns: SLICE_NS };
    let report = run("1x2x1", HOGS, Box::new(Native::new(fifo)));
    let light = &report.groups[0];
    // It gives all the same: twice of what the light ones have a right to.
    assert!(light.worst_share.unwrap() > 1.9, "{:?}", light.worst_share);
    assert!(report.groups[1].lag_slices.unwrap() > 50.0);
}

#[test]
fn waking_tasks_have_latencies_but_no_ideal() {
    let text = "name = \"w\"\nduration = \"1s\"
        [[group]]\nname = \"probe\"\nkind = \"probe\"\nperiod = \"2ms\"
        [[group]]\nname = \"hog\"\nkind = \"loop\"\nrun = \"10ms\"";
    let report = run("1x2x1", text, vtime());
    let probe = &report.groups[0];
    assert_eq!(probe.ideal_share, None);
    let latency = probe.wakeup_us.unwrap();
    assert!(latency.count > 490 && latency.p50 < 10.0, "{latency:?}");
    // One CPU is always idle, and the probe always finds it.
    assert_eq!(report.machine_totals.to_idle_pct, Some(100.0));
    assert!(report.machine_totals.lost_pct < 0.01);
}

#[test]
fn a_wake_up_that_waits_for_a_turn_shows_how_long() {
    let text = "name = \"w\"\nduration = \"1s\"
        [[group]]\nname = \"probe\"\nkind = \"probe\"\nperiod = \"50ms\"
        [[group]]\nname = \"hog\"\nkind = \"loop\"\nrun = \"10ms\"\ncount = 3";
    // The probe comes after the others: two whole turns and a part, each to the tick after 5 ms.
    let fifo = GlobalFifo { slice_ns: SLICE_NS };
    let report = run("1x1x1", text, Box::new(Native::new(fifo)));
    let latency = report.groups[0].wakeup_us.unwrap();
    assert!((16_000.0..24_100.0).contains(&latency.p50), "{latency:?}");
    let wait_us = report.groups[0].longest_wait_ms * 1e3;
    assert!(
        (wait_us - latency.max).abs() < 100.0,
        "{latency:?} {wait_us}"
    );
}

#[test]
fn json_and_text_say_the_same() {
    let report = run("1x2x1", HOGS, vtime());
    let json = serde_json::to_string(&report).unwrap();
    let text = report.to_string();
    // The last digit of a number may be lost on the way; no text shows it.
    let read: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(read.to_string(), text);
    for word in [LABEL, "light", "dispatch", "0x1", &report.trace_hash] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
}
