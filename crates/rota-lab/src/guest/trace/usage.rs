// SPDX-License-Identifier: GPL-2.0-only
//! Over how many CPUs some tasks were spread.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, IDLE, What};

/// CPUs with less than this part of the tasks' run time were touched, not used.
const TOUCHED: f64 = 0.01;

/// Where some tasks ran.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    /// Length of the time that was looked at, in microseconds.
    pub length_us: u64,
    /// For how long they ran on each CPU on which they did, in microseconds.
    pub ran_us: BTreeMap<usize, u64>,
    /// For how long they ran or waited, all together, in microseconds.
    pub runnable_us: u64,
    /// Context switches on all CPUs, whoever's.
    pub switches: u64,
}

impl Usage {
    /// CPUs that they used, but for what is less than a hundredth of their run time.
    pub fn cpus(&self) -> usize {
        let all: u64 = self.ran_us.values().sum();
        let least = all as f64 * TOUCHED;
        self.ran_us
            .values()
            .filter(|ran| **ran as f64 >= least && **ran > 0)
            .count()
    }

    /// How many of them were runnable, on average.
    pub fn mean_runnable(&self) -> f64 {
        self.runnable_us as f64 / self.length_us.max(1) as f64
    }
}

impl History {
    /// Looks from `from_us` to `to_us` at the tasks whose pids are not in `others`; the idle tasks
    /// never count.
    pub fn usage(&self, others: &BTreeSet<i32>, (from_us, to_us): (u64, u64)) -> Usage {
        let counts = |pid: i32| pid != IDLE && !others.contains(&pid);
        let mut usage = Usage {
            length_us: to_us - from_us,
            ..Usage::default()
        };
        let mut running: BTreeMap<usize, i32> = BTreeMap::new();
        let mut waiting: BTreeSet<i32> = BTreeSet::new();
        let mut now_us = from_us;
        let mut advance =
            |usage: &mut Usage, running: &BTreeMap<usize, i32>, waiting: usize, to| {
                let passed: u64 = to - now_us;
                now_us = to;
                for (cpu, _) in running.iter().filter(|(_, pid)| counts(**pid)) {
                    *usage.ran_us.entry(*cpu).or_default() += passed;
                    usage.runnable_us += passed;
                }
                usage.runnable_us += passed * waiting as u64;
            };
        for &(at_us, what) in self.moments.iter().filter(|(at_us, _)| *at_us < to_us) {
            advance(&mut usage, &running, waiting.len(), at_us.max(from_us));
            match what {
                What::Wakeup { pid } => {
                    // A task may be woken before it got round to sleep.
                    if counts(pid) && !running.values().any(|its| *its == pid) {
                        waiting.insert(pid);
                    }
                }
                What::Switch {
                    cpu,
                    prev,
                    runnable,
                    next,
                } => {
                    usage.switches += u64::from(at_us >= from_us);
                    waiting.remove(&next);
                    running.insert(cpu, next);
                    if runnable && counts(prev) {
                        waiting.insert(prev);
                    }
                }
            }
        }
        advance(&mut usage, &running, waiting.len(), to_us);
        usage.ran_us.retain(|_, ran| *ran > 0);
        usage
    }
}

impl History {
    /// How long each wake-up of some tasks between `from_us` and `to_us` took until the task ran, in
    /// microseconds. One that did not until then took at least as long.
    pub fn waits(&self, of: &BTreeSet<i32>, (from_us, to_us): (u64, u64)) -> Vec<u64> {
        let mut running: BTreeMap<usize, i32> = BTreeMap::new();
        let mut waiting: BTreeMap<i32, u64> = BTreeMap::new();
        let mut waits = Vec::new();
        for &(at_us, what) in self.moments.iter().filter(|(at_us, _)| *at_us < to_us) {
            match what {
                What::Wakeup { pid } => {
                    // A task may be woken before it got round to sleep.
                    let runs = running.values().any(|its| *its == pid);
                    if at_us >= from_us && of.contains(&pid) && !runs {
                        waiting.entry(pid).or_insert(at_us);
                    }
                }
                What::Switch { cpu, next, .. } => {
                    running.insert(cpu, next);
                    waits.extend(waiting.remove(&next).map(|since| at_us - since));
                }
            }
        }
        waits.extend(waiting.values().map(|since| to_us - since));
        waits
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the figures are right for a history small enough to be worked out by hand.
    use super::*;

    fn switch(cpu: usize, prev: i32, runnable: bool, next: i32) -> What {
        What::Switch {
            cpu,
            prev,
            runnable,
            next,
        }
    }

    #[test]
    fn run_time_and_waits_are_counted_for_the_tasks_in_question() {
        // 7 runs on CPU 0 from 10; 8 wakes at 20, and gets CPU 0 at 40, 7 CPU 1 at 60. 9 is no
        // concern of ours.
        let history = History {
            moments: vec![
                (5, switch(1, IDLE, false, 9)),
                (10, switch(0, IDLE, false, 7)),
                (20, What::Wakeup { pid: 8 }),
                (40, switch(0, 7, true, 8)),
                (60, switch(1, 9, false, 7)),
            ],
        };
        let usage = history.usage(&[9].into(), (0, 100));
        assert_eq!(usage.ran_us, [(0, 30 + 60), (1, 40)].into());
        assert_eq!(usage.runnable_us, 90 + 40 + 20 + 20);
        assert_eq!((usage.cpus(), usage.switches), (2, 4));
        let later = history.usage(&[9].into(), (50, 60));
        assert_eq!(later.ran_us, [(0, 10)].into());
        assert_eq!((later.mean_runnable(), later.switches), (2.0, 0));
    }

    #[test]
    fn a_wake_up_takes_until_the_task_runs() {
        let history = History {
            moments: vec![
                (5, What::Wakeup { pid: 8 }),
                (10, What::Wakeup { pid: 7 }),
                (12, What::Wakeup { pid: 9 }),
                (30, switch(0, IDLE, false, 7)),
                (40, switch(1, IDLE, false, 8)),
                (50, What::Wakeup { pid: 8 }),
                (60, switch(0, 7, true, IDLE)),
                (70, What::Wakeup { pid: 7 }),
            ],
        };
        assert_eq!(history.waits(&[7, 8].into(), (8, 100)), [20, 30]);
        assert_eq!(history.waits(&[8].into(), (0, 100)), [35]);
    }

    #[test]
    fn a_cpu_that_was_only_touched_is_not_used() {
        let usage = Usage {
            ran_us: [(0, 1000), (1, 5), (2, 100)].into(),
            ..Usage::default()
        };
        assert_eq!(usage.cpus(), 2);
    }
}
