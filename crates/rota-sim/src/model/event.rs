// SPDX-License-Identifier: GPL-2.0-only
//! What is to happen, in order of time; what is to happen at the same time, in
//! an order that the seed decides.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rota_load::spec::Jitter;

use crate::kernel_api::TaskId;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A CPU goes on with what it was at, unless the number of its turn has
    /// changed since.
    Resume { cpu: u32, turn: u64 },
    /// An interrupt reaches a CPU.
    Interrupt { cpu: u32, irq: Irq },
}

/// Why a CPU is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Irq {
    /// It is to reschedule; the flag is set already.
    Resched,
    /// The scheduler's tick; stale unless the number is that of the current series.
    Tick { series: u64 },
    /// The sleep of a task is over.
    Sleeper { task: TaskId, number: u64 },
    /// Kicks of the CPU's own are to be delivered.
    KickWork,
    /// Insertions into other CPUs' local queues are to be done.
    DeferredWork,
    /// A BPF timer.
    Timer { timer: u64, number: u64 },
    /// The watchdog looks.
    Watchdog,
    /// A CPU goes offline or comes back.
    Hotplug { cpu: u32, online: bool },
    /// A policy that does not know of that is to end.
    Outdated { cpu: u32, online: bool },
    /// The core does without the policy, or with it again.
    Bypass { on: bool },
    /// User space unloads the policy.
    Unload,
}

/// The queue of events.
#[derive(Debug)]
pub(super) struct EventQueue {
    heap: BinaryHeap<Reverse<(u64, u64, u64, Event)>>,
    order: Jitter,
    number: u64,
}

impl EventQueue {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            heap: BinaryHeap::new(),
            order: Jitter::new(seed, u32::MAX, 0),
            number: 0,
        }
    }

    /// `event` is to happen at `at_ns`.
    pub(super) fn post(&mut self, at_ns: u64, event: Event) {
        self.number += 1;
        let tie = self.order.next_u64();
        // The number makes the order total even where the ties collide.
        self.heap.push(Reverse((at_ns, tie, self.number, event)));
    }

    /// The next event and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        self.heap
            .pop()
            .map(|Reverse((at, _, _, event))| (at, event))
    }

    /// The time of the next event.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: time decides, then the seed, and the same seed always the same way.
    use super::*;

    fn order(seed: u64) -> Vec<(u64, u32)> {
        let mut queue = EventQueue::new(seed);
        for cpu in 0..20 {
            queue.post(u64::from(cpu) / 10, Event::Resume { cpu, turn: 0 });
        }
        let cpu = |event| match event {
            Event::Resume { cpu, .. } => cpu,
            Event::Interrupt { cpu, .. } => cpu,
        };
        std::iter::from_fn(|| queue.pop().map(|(at, event)| (at, cpu(event)))).collect()
    }

    #[test]
    fn ties_are_broken_by_the_seed() {
        assert!(order(1).is_sorted_by_key(|&(at, _)| at));
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        assert!(!order(1).is_sorted());
    }
}
