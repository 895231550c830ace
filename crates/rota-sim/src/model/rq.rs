// SPDX-License-Identifier: GPL-2.0-only
//! A CPU: its run queue, and what it is at.

use std::collections::{BTreeMap, VecDeque};

use super::dsq::Dsq;
use super::event::Irq;
use super::lock::Lock;
use super::task::QueueId;
use crate::kernel_api::{CpuMask, TaskId};

/// An insertion that `ops.dispatch()` asked for and that has not been done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffered {
    pub(super) task: TaskId,
    /// `qseq` at that moment: another `enqueue` since makes the insertion void.
    pub(super) qseq: u64,
    pub(super) dsq: u64,
    pub(super) slice_ns: u64,
    pub(super) vtime: Option<u64>,
    pub(super) enq_flags: u64,
}

/// Kicks that a CPU has sent and that are not delivered yet.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Kicks {
    pub(super) kick: CpuMask,
    pub(super) if_idle: CpuMask,
    pub(super) preempt: CpuMask,
    pub(super) wait: CpuMask,
}

/// A CPU.
pub(super) struct Rq {
    pub(super) lock: Lock,
    pub(super) online: bool,
    /// What runs; `None` is the idle task.
    pub(super) curr: Option<TaskId>,
    pub(super) need_resched: bool,
    pub(super) local: Dsq,
    /// `SCX_RQ_IN_BALANCE`: it is choosing, and will see what is inserted.
    pub(super) in_balance: bool,
    /// A higher class has it, and the policy knows.
    pub(super) released: bool,
    /// Runnable tasks of higher classes that are not running, by rank and arrival:
    /// the smallest key runs first.
    pub(super) higher: BTreeMap<(u8, i64), TaskId>,
    pub(super) higher_turn: i64,

    /// The dispatch buffer.
    pub(super) buffer: Vec<Buffered>,
    /// Tasks that this round has dispatched.
    pub(super) nr_dispatched: u32,
    pub(super) kicks: Kicks,
    /// The stopper has run, which took a task away: the CPU has not idled.
    pub(super) stopper: bool,
    pub(super) kick_work: bool,
    /// How often it has been through pick or put.
    pub(super) pick_seq: u64,
    /// CPUs that wait for that (`SCX_KICK_WAIT`).
    pub(super) pick_waiters: Vec<u32>,
    /// Direct dispatches to other CPUs that wait until the lock can be dropped.
    pub(super) deferred: Vec<TaskId>,
    pub(super) deferred_work: bool,
    /// Queues of which the tasks are to be enqueued again.
    pub(super) reenq: Vec<QueueId>,
    /// So are those of its local queue that were to run at once.
    pub(super) reenq_immed: bool,

    /// Interrupts that wait until the CPU can take them.
    pub(super) irqs: VecDeque<Irq>,
    /// Number of what the CPU is at: events of other turns are stale.
    pub(super) turn: u64,
    /// It can be interrupted: it is in user space or idle.
    pub(super) open: bool,
    /// Series of ticks that are under way.
    pub(super) tick_series: u64,
    pub(super) ticking: bool,
    pub(super) tick_phase_ns: u64,
    /// Where `cpumask_any_*_distribute()` was last.
    pub(super) distribute: u32,
    /// Performance that was asked for, 0..=1024.
    pub(super) perf: u32,
    /// Since when it idles or not.
    pub(super) since_ns: u64,
    pub(super) busy_ns: u64,
}

impl Rq {
    pub(super) fn new(online: bool) -> Self {
        Self {
            lock: Lock::default(),
            online,
            curr: None,
            need_resched: false,
            local: Dsq::new(),
            in_balance: false,
            released: false,
            higher: BTreeMap::new(),
            higher_turn: 0,
            buffer: Vec::new(),
            nr_dispatched: 0,
            kicks: Kicks::default(),
            stopper: false,
            kick_work: false,
            pick_seq: 0,
            pick_waiters: Vec::new(),
            deferred: Vec::new(),
            deferred_work: false,
            reenq: Vec::new(),
            reenq_immed: false,
            irqs: VecDeque::new(),
            turn: 0,
            open: false,
            tick_series: 0,
            ticking: false,
            tick_phase_ns: 0,
            distribute: 0,
            perf: 1024,
            since_ns: 0,
            busy_ns: 0,
        }
    }

    /// Puts a task of a higher class in its place: behind its equals, or before
    /// them if it was taken off the CPU within its turn.
    pub(super) fn push_higher(&mut self, task: TaskId, rank: u8, first: bool) {
        self.higher_turn += 1;
        let turn = if first {
            -self.higher_turn
        } else {
            self.higher_turn
        };
        self.higher.insert((u8::MAX - rank, turn), task);
    }

    /// The rank of the first of them.
    pub(super) fn higher_rank(&self) -> Option<u8> {
        self.higher.keys().next().map(|(key, _)| u8::MAX - key)
    }
}
