// SPDX-License-Identifier: GPL-2.0-only
//! The order of callbacks for each task, as a grammar. The model keeps to it in its tests, and so
//! does the kernel where its trace is held against it.

use std::fmt;

use super::ops::Op;

/// Where a task is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Unknown,
    Initialised,
    Asleep,
    Waiting,
    Running,
    Stopped,
    Gone,
}

impl Life {
    const ALL: [Life; 7] = [
        Life::Unknown,
        Life::Initialised,
        Life::Asleep,
        Life::Waiting,
        Life::Running,
        Life::Stopped,
        Life::Gone,
    ];

    /// What comes of `op`, or `None` if it may not come here.
    fn next(self, op: Op) -> Option<Self> {
        use Life::*;
        Some(match (self, op) {
            (Unknown, Op::InitTask) => Initialised,
            (Initialised, Op::Enable) => Asleep,
            (Initialised, Op::ExitTask) => Gone,
            (Asleep, Op::SelectCpu | Op::SetWeight | Op::SetCpumask) => Asleep,
            (Asleep, Op::Runnable) => Waiting,
            (Asleep, Op::Disable) => Initialised,
            (Waiting, Op::Enqueue | Op::Dequeue) => Waiting,
            (Waiting, Op::Running) => Running,
            (Waiting | Stopped, Op::Quiescent) => Asleep,
            (Running, Op::Tick | Op::Yield) => Running,
            (Running, Op::Stopping) => Stopped,
            (Stopped, Op::Enqueue) => Waiting,
            // Preempted by a higher class: it waits in the local queue without a call.
            (Stopped, Op::Running) => Running,
            (Stopped, Op::Dequeue) => Stopped,
            _ => return None,
        })
    }
}

/// What is known of where a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    possible: Vec<Life>,
}

/// As in `asleep`, or `waiting or running`.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.possible.iter().map(|life| format!("{life:?}"));
        f.write_str(&names.collect::<Vec<_>>().join(" or ").to_lowercase())
    }
}

impl Order {
    /// A task of which the policy has not heard yet.
    pub fn unborn() -> Self {
        Self {
            possible: vec![Life::Unknown],
        }
    }

    /// A task that may have been here for long.
    pub fn met() -> Self {
        Self {
            possible: Life::ALL.to_vec(),
        }
    }

    /// Nothing was called for it.
    pub fn is_unborn(&self) -> bool {
        self.possible == [Life::Unknown]
    }

    /// `op` is called for the task; false if it may not be called now.
    pub fn take(&mut self, op: Op) -> bool {
        let next = self.possible.iter().filter_map(|life| life.next(op));
        let mut next: Vec<Life> = next.collect();
        next.dedup();
        let fits = !next.is_empty();
        if fits {
            self.possible = next;
        }
        fits
    }
}
