// SPDX-License-Identifier: GPL-2.0-only
//! Tasks that live by a period: frames and probes.

use std::time::Duration;

use crate::run::sys;
use crate::run::task::Task;

/// A frame in every period.
pub struct Frames {
    /// Time between two frames.
    pub period: Duration,
    /// CPU time of a frame.
    pub work: Duration,
    /// Random variation of the work.
    pub jitter_pct: u32,
}

/// A wake-up in every period.
pub struct Probe {
    /// Time between two wake-ups.
    pub period: Duration,
}

impl Frames {
    /// A frame is due at the end of its period. One that is late is a miss, and so is
    /// each one that could not begin within its own period, which is dropped.
    pub(super) fn run(self, task: &mut Task<'_>) {
        let period = self.period.as_nanos() as u64;
        let mut begin = task.begin_ns();
        loop {
            let work = task.jitter.vary(self.work, self.jitter_pct);
            let finished = task.burn(work);
            let now = sys::monotonic_ns();
            if now > begin + period {
                task.miss();
            }
            if finished {
                task.op();
            }
            begin += period;
            let horizon = now.min(task.end_ns());
            while begin + period <= horizon {
                task.miss();
                begin += period;
            }
            if !finished || !task.sleep_until(begin) {
                return drop_frames(task, begin, period);
            }
        }
    }
}

/// Counts the frames that a starved task did not even begin before the end.
fn drop_frames(task: &mut Task<'_>, mut begin: u64, period: u64) {
    while begin + period <= task.end_ns() {
        task.miss();
        begin += period;
    }
}

impl Probe {
    pub(super) fn run(self, task: &mut Task<'_>) {
        let period = self.period.as_nanos() as u64;
        let mut due = task.begin_ns();
        loop {
            // Wake-ups that a long gap swallowed are part of that gap.
            let late = sys::monotonic_ns().saturating_sub(due);
            due += (late / period + 1) * period;
            if !task.sleep_until(due) {
                return;
            }
            task.op();
        }
    }
}
