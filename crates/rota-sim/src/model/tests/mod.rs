// SPDX-License-Identifier: GPL-2.0-only
//! Tests of the rules of the core.

use super::native::Native;
use super::toys::GlobalVtime;
use super::*;
use crate::machine::Machine;

#[test]
fn hogs_share_by_weight() {
    let machine: Machine = "1x2x1".parse().unwrap();
    let config = Config::new(machine.clone());
    let mut sim = Sim::new(&config, Box::new(Native::new(GlobalVtime::new(5_000_000))));
    for nice in [0i8, 0, 5, -5] {
        let mut task = NewTask::new("hog", machine.possible(), Hog);
        task.nice = nice;
        sim.add_task(task);
    }
    assert_eq!(sim.run_until(10_000_000_000), None);
    // Nice -5 is worth more than one CPU of two.
    let ideal = [4.29, 4.29, 1.42, 10.0];
    for (task, ideal) in sim.tasks().iter().zip(ideal) {
        let share = task.stats.cpu_ns as f64 / 1e9;
        assert!((share - ideal).abs() < 0.02, "{task:?}");
    }
}
