// SPDX-License-Identifier: GPL-2.0-only
//! What tasks do between system calls, and the calls that they make.

use std::collections::VecDeque;

use rota_load::spec::Policy;

use crate::kernel_api::{CpuMask, TaskId};

/// A queue of words between tasks, by number: a pipe, a socket, a futex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// What a channel stands for: what its use costs, and how it wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// A futex: waiting costs a system call, and wakes say nothing of the waker.
    Futex,
    /// A pipe: the waker tells that it is about to sleep (`WF_SYNC`), as pipes do.
    Pipe,
    /// A stream socket, which does so, too.
    Socket,
}

#[derive(Debug)]
pub(super) struct Channel {
    pub(super) kind: ChannelKind,
    /// Words that wait to be taken.
    pub(super) words: u32,
    /// Words that fit.
    pub(super) room: u32,
    pub(super) receivers: VecDeque<TaskId>,
    pub(super) senders: VecDeque<TaskId>,
}

/// The next thing that a task does.
pub enum Act {
    /// Use the CPU: for this long on a CPU of full capacity, in nanoseconds.
    Run(u64),
    /// Sleep until this moment; if it has passed, go on.
    SleepUntil(u64),
    /// `sched_yield()`.
    Yield,
    /// Put a word into a channel; sleep while it is full.
    Send(ChannelId),
    /// Take a word out of a channel; sleep while it is empty.
    Receive(ChannelId),
    /// Fork.
    Fork(Box<NewTask>),
    /// Sleep until a child has exited, one exit for each wait.
    Reap,
    /// Execute another program.
    Exec,
    /// Change where a task may run.
    SetAffinity(TaskId, CpuMask),
    /// Change a nice value.
    SetNice(TaskId, i8),
    /// Be unable to leave the CPU (`migrate_disable()`), or able again.
    DisableMigration(bool),
    /// Exit.
    Exit,
}

/// What a task sees when it decides what to do next.
pub struct TaskView<'a> {
    /// The time in nanoseconds.
    pub now_ns: u64,
    /// Its own number.
    pub task: TaskId,
    /// Its children that have not been reaped.
    pub children: u32,
    /// Operations done: the behaviour counts them.
    pub ops: &'a mut u64,
    /// Deadlines missed.
    pub misses: &'a mut u64,
}

/// What a task does.
pub trait Behaviour {
    /// The next thing, once the last is done.
    fn next(&mut self, view: TaskView<'_>) -> Act;
}

impl<F: FnMut(TaskView<'_>) -> Act> Behaviour for F {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        self(view)
    }
}

/// Uses the CPU for ever.
#[derive(Debug, Clone, Copy)]
pub struct Hog;

impl Behaviour for Hog {
    fn next(&mut self, _: TaskView<'_>) -> Act {
        Act::Run(1_000_000_000)
    }
}

/// A task to be.
pub struct NewTask {
    /// Its name, of which 15 bytes count.
    pub comm: String,
    /// The group that it is counted in, by whatever numbers the caller has.
    pub group: u32,
    /// Its scheduling policy; `Policy::Fifo` and `Policy::Rr` are above sched_ext.
    pub policy: Policy,
    /// Nice value, -20..=19.
    pub nice: i8,
    /// Where it may run; must not be empty.
    pub allowed: CpuMask,
    /// Whether it is a kernel thread.
    pub kthread: bool,
    /// When it first wakes, in nanoseconds. Of no use to a child, which starts at once.
    pub start_ns: u64,
    /// What it does.
    pub behaviour: Box<dyn Behaviour>,
}

impl NewTask {
    /// A task of nice 0 that starts at once and may run on all of `allowed`.
    pub fn new(comm: &str, allowed: CpuMask, behaviour: impl Behaviour + 'static) -> Self {
        Self {
            comm: comm.to_owned(),
            group: 0,
            policy: Policy::Other,
            nice: 0,
            allowed,
            kthread: false,
            start_ns: 0,
            behaviour: Box::new(behaviour),
        }
    }
}
