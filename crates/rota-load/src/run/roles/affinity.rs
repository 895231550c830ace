// SPDX-License-Identifier: GPL-2.0-only
//! A storm of changes of affinity.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use crate::run::sys;
use crate::run::task::Task;
use crate::spec::{CpuList, Target};

/// A task that keeps changing affinities.
pub struct AffinityStorm {
    /// CPU time between two changes.
    pub run: Duration,
    /// Whose affinity it changes.
    pub target: Target,
    /// CPUs to choose from.
    pub cpus: CpuList,
    /// The tasks of its group.
    pub group: Range<usize>,
}

impl AffinityStorm {
    pub(super) fn run(self, task: &mut Task<'_>) {
        while task.burn(self.run) {
            let mask = self.choose(task);
            let tid = match self.target {
                Target::Own => 0,
                Target::Group => self.victim(task),
            };
            match sys::set_affinity(tid, &mask) {
                Ok(()) => {
                    if self.target == Target::Own {
                        task.confined_to(mask);
                    }
                    task.op();
                }
                // The CPUs went offline, or the victim has ended: choose again.
                Err(Errno::EINVAL | Errno::ESRCH) => {}
                Err(e) => task.failure(&format!("sched_setaffinity: {}", e.desc())),
            }
        }
    }

    /// One CPU half of the time, any subset else.
    fn choose(&self, task: &mut Task<'_>) -> CpuList {
        let bits = task.jitter.next_u64();
        let count = u32::try_from(self.cpus.len()).expect("CPU numbers fit u32");
        let one = self.cpus.iter().nth(task.jitter.below(count) as usize);
        if bits & 1 == 0 {
            return one.into_iter().collect();
        }
        let mut chosen: Vec<u32> = self
            .cpus
            .iter()
            .filter(|_| task.jitter.next_u64() & 1 == 1)
            .collect();
        chosen.extend(one);
        chosen.into_iter().collect()
    }

    fn victim(&self, task: &mut Task<'_>) -> i32 {
        let count = u32::try_from(self.group.len()).expect("tasks are limited");
        let index = self.group.start + task.jitter.below(count) as usize;
        task.stage.slots[index].tid.load(Ordering::Relaxed)
    }
}
