// SPDX-License-Identifier: GPL-2.0-only
//! The seam between the core and a policy.
//!
//! The core calls a policy through [`Ops`]. A call is an [`Activation`]: the
//! callback with its arguments, and room for whatever the policy needs to stop
//! and go on. [`Ops::step`] runs a piece of it and says what it took:
//!
//! - [`Progress::Done`] ends the callback. Its effects are there at the moment
//!   it was entered, and its CPU is busy for as long as its instructions take.
//! - [`Progress::Pending`] ends a piece. Time passes, other CPUs' events happen,
//!   then `step` is called again. An interpreter that stops before each kfunc
//!   gives every kfunc its true moment.
//!
//! What may happen between two pieces is what the kernel's locks allow. The CPU
//! that runs a callback takes no interrupt until it has returned, and holds what
//! the kernel holds: the run queue's lock of the CPU in question for all
//! callbacks but `select_cpu`, which runs under the task's `pi_lock` alone, and
//! those that may sleep (`init`, `init_task`, `cpu_online`, ...), which hold
//! nothing. Another CPU that needs the lock waits for it, in the order of
//! arrival. Callbacks of different CPUs do overlap, as on a machine.

use std::any::Any;
use std::fmt;

use super::consts::ExitKind;
use crate::kernel_api::{CpuMask, NewTask, TaskId};

use super::context::Context;

/// Which callback of `struct sched_ext_ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of the kernel's members")]
pub enum Op {
    SelectCpu,
    Enqueue,
    Dequeue,
    Dispatch,
    Tick,
    Runnable,
    Running,
    Stopping,
    Quiescent,
    Yield,
    SetWeight,
    SetCpumask,
    UpdateIdle,
    CpuAcquire,
    CpuRelease,
    InitTask,
    ExitTask,
    Enable,
    Disable,
    CpuOnline,
    CpuOffline,
    Init,
    Exit,
    /// A BPF timer, which is no member but runs as a callback does.
    Timer,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 24] = [
        Op::SelectCpu,
        Op::Enqueue,
        Op::Dequeue,
        Op::Dispatch,
        Op::Tick,
        Op::Runnable,
        Op::Running,
        Op::Stopping,
        Op::Quiescent,
        Op::Yield,
        Op::SetWeight,
        Op::SetCpumask,
        Op::UpdateIdle,
        Op::CpuAcquire,
        Op::CpuRelease,
        Op::InitTask,
        Op::ExitTask,
        Op::Enable,
        Op::Disable,
        Op::CpuOnline,
        Op::CpuOffline,
        Op::Init,
        Op::Exit,
        Op::Timer,
    ];

    /// The kernel's name of the member.
    pub fn name(self) -> &'static str {
        match self {
            Op::SelectCpu => "select_cpu",
            Op::Enqueue => "enqueue",
            Op::Dequeue => "dequeue",
            Op::Dispatch => "dispatch",
            Op::Tick => "tick",
            Op::Runnable => "runnable",
            Op::Running => "running",
            Op::Stopping => "stopping",
            Op::Quiescent => "quiescent",
            Op::Yield => "yield",
            Op::SetWeight => "set_weight",
            Op::SetCpumask => "set_cpumask",
            Op::UpdateIdle => "update_idle",
            Op::CpuAcquire => "cpu_acquire",
            Op::CpuRelease => "cpu_release",
            Op::InitTask => "init_task",
            Op::ExitTask => "exit_task",
            Op::Enable => "enable",
            Op::Disable => "disable",
            Op::CpuOnline => "cpu_online",
            Op::CpuOffline => "cpu_offline",
            Op::Init => "init",
            Op::Exit => "exit",
            Op::Timer => "timer",
        }
    }

    /// The callback called `name`.
    pub fn named(name: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.name() == name)
    }
}

/// A set of callbacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpSet(u32);

impl OpSet {
    /// Whether `op` is in it.
    pub fn has(self, op: Op) -> bool {
        self.0 >> op as u8 & 1 != 0
    }

    /// The set with `op`.
    #[must_use]
    pub fn with(self, op: Op) -> Self {
        Self(self.0 | 1 << op as u8)
    }
}

impl FromIterator<Op> for OpSet {
    fn from_iter<I: IntoIterator<Item = Op>>(ops: I) -> Self {
        ops.into_iter().fold(Self::default(), Self::with)
    }
}

/// What a policy's `struct sched_ext_ops` says besides its callbacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpsTable {
    /// Name.
    pub name: String,
    /// The callbacks that there are.
    pub ops: OpSet,
    /// `SCX_OPS_*`.
    pub flags: u64,
    /// The watchdog's timeout, up to 30000; 0 is 30000.
    pub timeout_ms: u32,
    /// Room of the dispatch buffer; 0 is 32.
    pub dispatch_max_batch: u32,
}

/// A callback with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the arguments are those of the kernel")]
pub enum Callback {
    SelectCpu {
        task: TaskId,
        prev_cpu: u32,
        wake_flags: u64,
    },
    Enqueue {
        task: TaskId,
        enq_flags: u64,
    },
    Dequeue {
        task: TaskId,
        deq_flags: u64,
    },
    Dispatch {
        cpu: u32,
        prev: Option<TaskId>,
    },
    Tick {
        task: TaskId,
    },
    Runnable {
        task: TaskId,
        enq_flags: u64,
    },
    Running {
        task: TaskId,
    },
    Stopping {
        task: TaskId,
        runnable: bool,
    },
    Quiescent {
        task: TaskId,
        deq_flags: u64,
    },
    Yield {
        from: TaskId,
        to: Option<TaskId>,
    },
    SetWeight {
        task: TaskId,
        weight: u32,
    },
    SetCpumask {
        task: TaskId,
        allowed: CpuMask,
    },
    UpdateIdle {
        cpu: u32,
        idle: bool,
    },
    CpuAcquire {
        cpu: u32,
    },
    /// `task` takes the CPU.
    CpuRelease {
        cpu: u32,
        task: TaskId,
    },
    InitTask {
        task: TaskId,
        fork: bool,
    },
    ExitTask {
        task: TaskId,
        cancelled: bool,
    },
    Enable {
        task: TaskId,
    },
    Disable {
        task: TaskId,
    },
    CpuOnline {
        cpu: u32,
    },
    CpuOffline {
        cpu: u32,
    },
    Init,
    Exit(ExitInfo),
    /// The number that `timer_start()` gave.
    Timer {
        timer: u64,
    },
}

impl Callback {
    /// Which one it is.
    pub fn op(&self) -> Op {
        match self {
            Callback::SelectCpu { .. } => Op::SelectCpu,
            Callback::Enqueue { .. } => Op::Enqueue,
            Callback::Dequeue { .. } => Op::Dequeue,
            Callback::Dispatch { .. } => Op::Dispatch,
            Callback::Tick { .. } => Op::Tick,
            Callback::Runnable { .. } => Op::Runnable,
            Callback::Running { .. } => Op::Running,
            Callback::Stopping { .. } => Op::Stopping,
            Callback::Quiescent { .. } => Op::Quiescent,
            Callback::Yield { .. } => Op::Yield,
            Callback::SetWeight { .. } => Op::SetWeight,
            Callback::SetCpumask { .. } => Op::SetCpumask,
            Callback::UpdateIdle { .. } => Op::UpdateIdle,
            Callback::CpuAcquire { .. } => Op::CpuAcquire,
            Callback::CpuRelease { .. } => Op::CpuRelease,
            Callback::InitTask { .. } => Op::InitTask,
            Callback::ExitTask { .. } => Op::ExitTask,
            Callback::Enable { .. } => Op::Enable,
            Callback::Disable { .. } => Op::Disable,
            Callback::CpuOnline { .. } => Op::CpuOnline,
            Callback::CpuOffline { .. } => Op::CpuOffline,
            Callback::Init => Op::Init,
            Callback::Exit(_) => Op::Exit,
            Callback::Timer { .. } => Op::Timer,
        }
    }

    /// The task it is about, if it is about one.
    pub fn task(&self) -> Option<TaskId> {
        match *self {
            Callback::SelectCpu { task, .. }
            | Callback::Enqueue { task, .. }
            | Callback::Dequeue { task, .. }
            | Callback::Tick { task }
            | Callback::Runnable { task, .. }
            | Callback::Running { task }
            | Callback::Stopping { task, .. }
            | Callback::Quiescent { task, .. }
            | Callback::Yield { from: task, .. }
            | Callback::SetWeight { task, .. }
            | Callback::SetCpumask { task, .. }
            | Callback::InitTask { task, .. }
            | Callback::ExitTask { task, .. }
            | Callback::Enable { task }
            | Callback::Disable { task } => Some(task),
            _ => None,
        }
    }
}

/// A callback under way.
pub struct Activation {
    /// The CPU on which it runs.
    pub cpu: u32,
    /// What was called.
    pub callback: Callback,
    /// Whatever the policy needs to go on after [`Progress::Pending`]; `None` at
    /// the first piece.
    pub state: Option<Box<dyn Any>>,
}

/// What a piece of a callback came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It returned.
    Done {
        /// The value; 0 from callbacks that return none.
        value: i64,
        /// Instructions since the last piece.
        insns: u64,
    },
    /// It is to go on after the time of these instructions.
    Pending {
        /// Instructions since the last piece.
        insns: u64,
    },
}

impl Progress {
    /// Done at once, with nothing to return.
    pub const NOTHING: Self = Self::Done { value: 0, insns: 0 };
}

/// A callback that cannot go on: a program that does what has no meaning. The
/// kernel's verifier refuses such a program; the model ends the policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// What the core tells a policy about a task beyond callbacks, by the path in
/// `struct task_struct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskField {
    /// `se.sum_exec_runtime`: CPU time used, in nanoseconds, up to date in every
    /// callback about the task and in `ops.dispatch()` for `prev`.
    SumExecRuntime,
    /// `SCX_TASK_QUEUED` in `scx.flags`: 1 while the task is runnable.
    Queued,
    /// `thread_info.cpu`: the CPU that the task is on, or was last.
    Cpu,
    /// `scx.weight`.
    Weight,
    /// `PF_EXITING` in `flags`: 1 once the task exits.
    Exiting,
    /// `migration_disabled`.
    MigrationDisabled,
    /// `scx.runnable_at`: when it began to wait, in ticks of the time.
    RunnableAt,
}

/// Where the core finds and leaves what it shares with the policy about tasks.
/// Tasks are numbered from 0 in the order of [`Fields::add_task`].
pub trait Fields {
    /// A task comes to be. Its slice and virtual time are 0.
    fn add_task(&mut self, new: &NewTask<'_>) -> TaskId;
    /// A task is gone.
    fn remove_task(&mut self, task: TaskId);
    /// `scx.slice` in nanoseconds.
    fn slice(&self, task: TaskId) -> u64;
    /// Set `scx.slice`.
    fn set_slice(&mut self, task: TaskId, slice_ns: u64);
    /// `scx.dsq_vtime`.
    fn dsq_vtime(&self, task: TaskId) -> u64;
    /// Set `scx.dsq_vtime`.
    fn set_dsq_vtime(&mut self, task: TaskId, vtime: u64);
    /// Where the task may run has changed.
    fn set_allowed(&mut self, task: TaskId, allowed: &CpuMask);
    /// Something else has changed.
    fn publish(&mut self, task: TaskId, field: TaskField, value: u64);
}

/// A policy as the core sees it.
pub trait Ops: Fields {
    /// Its table. Asked once, before anything else.
    fn table(&self) -> OpsTable;

    /// Runs a piece of a callback.
    fn step(
        &mut self,
        activation: &mut Activation,
        core: &mut Context<'_>,
    ) -> Result<Progress, Fault>;
}

/// Why a policy ended: `struct scx_exit_info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitInfo {
    /// The class of reason.
    pub kind: ExitKind,
    /// The policy's or the kernel's code.
    pub code: i64,
    /// Details.
    pub message: String,
    /// The CPU where it was found.
    pub cpu: u32,
    /// When, in nanoseconds.
    pub at_ns: u64,
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind.reason(), self.message)
    }
}
