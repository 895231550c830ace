// SPDX-License-Identifier: GPL-2.0-only
//! A dispatch queue: tasks in the order of arrival or of virtual time.

use std::collections::VecDeque;

use crate::kernel_api::TaskId;

/// How a queue that holds tasks is ordered. An empty one takes either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// By arrival.
    Fifo,
    /// By virtual time.
    Vtime,
}

/// Where in a queue a task stands; smaller is nearer to the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Distance of the virtual time from the queue's base; 0 in arrival order.
    vtime: i64,
    /// Order among equals.
    turn: i64,
}

/// A task in a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) task: TaskId,
    /// Number of the insertion, counted per queue: iterators skip later ones.
    pub(super) seq: u64,
}

/// The lock of a queue, as far as the model has it: who took it last, until
/// when, and how often that was too long for another.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueLock {
    free_at_ns: u64,
    last_cpu: Option<u32>,
    /// How often it was taken.
    pub(super) taken: u64,
    /// How often by another CPU than before.
    pub(super) bounced: u64,
    /// How often it was held by another CPU at that moment.
    pub(super) contended: u64,
    /// Time that CPUs waited for it.
    pub(super) waited_ns: u64,
}

impl QueueLock {
    /// `cpu` takes it at `now_ns` and holds it for `held_ns`; how long it waits and
    /// holds it.
    pub(super) fn take(&mut self, cpu: u32, now_ns: u64, held_ns: u64) -> u64 {
        self.taken += 1;
        if self.last_cpu.is_some_and(|last| last != cpu) {
            self.bounced += 1;
        }
        let waits = match self.last_cpu == Some(cpu) {
            true => 0,
            false => self.free_at_ns.saturating_sub(now_ns),
        };
        if waits > 0 {
            self.contended += 1;
            self.waited_ns += waits;
        }
        self.last_cpu = Some(cpu);
        self.free_at_ns = now_ns + waits + held_ns;
        waits + held_ns
    }
}

/// A queue.
///
/// The entries are sorted. A policy appends near the tail and takes from the
/// head, which costs little here whatever the length; anything else is found by
/// bisection.
#[derive(Debug)]
pub(super) struct Dsq {
    entries: VecDeque<Entry>,
    order: Order,
    /// The virtual time that places count from: that of the first task in the
    /// empty queue. The kernel compares `(s64)(a - b) < 0`, which is the same as
    /// long as all tasks are within 2^62 of the base.
    base: u64,
    /// The next turns: appending counts up, the head counts down.
    tail_turn: i64,
    head_turn: i64,
    seq: u64,
    /// Use of its lock.
    pub(super) lock: QueueLock,
    /// Longest that it was.
    pub(super) longest: usize,
    /// Sum of length by time, in tasks x nanoseconds, up to `area_at_ns`.
    area: u128,
    area_at_ns: u64,
}

impl Dsq {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            order: Order::Fifo,
            base: 0,
            tail_turn: 0,
            head_turn: -1,
            seq: 0,
            lock: QueueLock::default(),
            longest: 0,
            area: 0,
            area_at_ns: 0,
        }
    }

    /// Its mean length up to `now_ns`, which comes after all that was told before.
    pub(super) fn mean_length(&self, now_ns: u64) -> f64 {
        let last = self.entries.len() as u128 * u128::from(now_ns - self.area_at_ns);
        (self.area + last) as f64 / now_ns.max(1) as f64
    }

    /// It is about to change its length, at `now_ns`.
    pub(super) fn changes(&mut self, now_ns: u64) {
        self.area += self.entries.len() as u128 * u128::from(now_ns - self.area_at_ns);
        self.area_at_ns = now_ns;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of the last insertion.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether a task inserted by `order` would find tasks in another.
    pub(super) fn conflicts(&self, order: Order) -> bool {
        !self.entries.is_empty() && self.order != order
    }

    /// Appends, or puts at the head; the place, to remove it by.
    ///
    /// In a queue by virtual time the kernel links the task into the list of
    /// arrivals only, which is the error that `conflicts` tells of; here it is
    /// placed before or behind all others.
    pub(super) fn insert_fifo(&mut self, task: TaskId, head: bool) -> Place {
        if self.entries.is_empty() {
            self.order = Order::Fifo;
        }
        let edge = if head {
            self.entries.front()
        } else {
            self.entries.back()
        };
        let vtime = match self.order {
            Order::Fifo => 0,
            Order::Vtime => edge.map_or(0, |entry| entry.place.vtime),
        };
        let turn = self.turn(head);
        let place = Place { vtime, turn };
        let entry = self.entry(place, task);
        if head {
            self.entries.push_front(entry);
        } else {
            self.entries.push_back(entry);
        }
        self.longest = self.longest.max(self.entries.len());
        place
    }

    /// Inserts behind all whose virtual time is not after `vtime`.
    pub(super) fn insert_vtime(&mut self, task: TaskId, vtime: u64) -> Place {
        if self.entries.is_empty() {
            self.order = Order::Vtime;
            self.base = vtime;
        }
        let turn = self.turn(false);
        let place = Place {
            vtime: vtime.wrapping_sub(self.base) as i64,
            turn,
        };
        let entry = self.entry(place, task);
        let at = match self.entries.back() {
            Some(last) if last.place > place => self.entries.partition_point(|e| e.place < place),
            _ => self.entries.len(),
        };
        self.entries.insert(at, entry);
        self.longest = self.longest.max(self.entries.len());
        place
    }

    fn turn(&mut self, head: bool) -> i64 {
        if head {
            self.head_turn -= 1;
            self.head_turn + 1
        } else {
            self.tail_turn += 1;
            self.tail_turn - 1
        }
    }

    fn entry(&mut self, place: Place, task: TaskId) -> Entry {
        self.seq += 1;
        Entry {
            place,
            task,
            seq: self.seq,
        }
    }

    /// Takes the task at `place` out; it must be there.
    pub(super) fn remove(&mut self, place: Place) -> TaskId {
        let at = self.entries.partition_point(|entry| entry.place < place);
        let entry = self.entries.remove(at).expect("the task is in this queue");
        debug_assert_eq!(entry.place, place);
        entry.task
    }

    /// The task at the head.
    pub(super) fn first(&self) -> Option<TaskId> {
        self.entries.front().map(|entry| entry.task)
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entry after `place`, or the first; with `back`, before it, or the last.
    pub(super) fn neighbour(&self, place: Option<Place>, back: bool) -> Option<&Entry> {
        let at = match (place, back) {
            (None, false) => Some(0),
            (None, true) => self.entries.len().checked_sub(1),
            (Some(place), false) => Some(self.entries.partition_point(|e| e.place <= place)),
            (Some(place), true) => self
                .entries
                .partition_point(|e| e.place < place)
                .checked_sub(1),
        };
        self.entries.get(at?)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: both orders, heads, wrapping times and removal anywhere.
    use super::*;
    use proptest::prelude::*;

    fn tasks(dsq: &Dsq) -> Vec<u32> {
        dsq.iter().map(|entry| entry.task.0).collect()
    }

    #[test]
    fn arrival_order_with_heads() {
        let mut dsq = Dsq::new();
        dsq.insert_fifo(TaskId(1), false);
        let two = dsq.insert_fifo(TaskId(2), false);
        dsq.insert_fifo(TaskId(3), true);
        dsq.insert_fifo(TaskId(4), true);
        assert_eq!(tasks(&dsq), [4, 3, 1, 2]);
        assert_eq!(dsq.remove(two), TaskId(2));
        assert_eq!(tasks(&dsq), [4, 3, 1]);
        assert_eq!(dsq.first(), Some(TaskId(4)));
    }

    #[test]
    fn virtual_time_wraps() {
        let mut dsq = Dsq::new();
        dsq.insert_vtime(TaskId(1), u64::MAX - 5);
        dsq.insert_vtime(TaskId(2), 10);
        dsq.insert_vtime(TaskId(3), u64::MAX - 10);
        assert_eq!(tasks(&dsq), [3, 1, 2]);
    }

    #[test]
    fn equal_times_keep_the_order_of_arrival() {
        let mut dsq = Dsq::new();
        for task in 0..5 {
            dsq.insert_vtime(TaskId(task), 7);
        }
        assert_eq!(tasks(&dsq), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn orders_conflict_only_while_tasks_wait() {
        let mut dsq = Dsq::new();
        let place = dsq.insert_vtime(TaskId(1), 7);
        assert!(dsq.conflicts(Order::Fifo) && !dsq.conflicts(Order::Vtime));
        dsq.remove(place);
        assert!(!dsq.conflicts(Order::Fifo));
    }

    #[test]
    fn a_lock_that_is_held_is_waited_for() {
        let mut lock = QueueLock::default();
        assert_eq!(lock.take(0, 100, 40), 40);
        assert_eq!(lock.take(1, 110, 40), 70);
        assert_eq!(lock.take(1, 200, 40), 40);
        assert_eq!(
            (lock.taken, lock.bounced, lock.contended, lock.waited_ns),
            (3, 1, 1, 30)
        );
    }

    proptest! {
        #[test]
        fn sorted_whatever_is_done(steps in proptest::collection::vec((0u64..50, any::<bool>()), 1..60)) {
            let mut dsq = Dsq::new();
            let mut places = Vec::new();
            for (number, (vtime, take)) in steps.into_iter().enumerate() {
                if take && !places.is_empty() {
                    let (place, task) = places.swap_remove(number % places.len());
                    prop_assert_eq!(dsq.remove(place), task);
                } else {
                    let task = TaskId(number as u32);
                    places.push((dsq.insert_vtime(task, vtime), task));
                }
                prop_assert!(dsq.iter().is_sorted_by_key(|entry| entry.place));
                prop_assert_eq!(dsq.len(), places.len());
                let mut walked = Vec::new();
                let mut at = None;
                while let Some(entry) = dsq.neighbour(at, false) {
                    walked.push(entry.task.0);
                    at = Some(entry.place);
                }
                prop_assert_eq!(walked, tasks(&dsq));
            }
        }
    }
}
