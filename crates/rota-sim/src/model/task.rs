// SPDX-License-Identifier: GPL-2.0-only
//! A task as the core keeps it.

use rota_load::spec::{Policy, nice_weight};

use super::behaviour::{Act, Behaviour};
use super::consts::{enq, scx_weight};
use super::dsq::Place;
use super::lock::Lock;
use super::stats::TaskStats;
use crate::kernel_api::{CpuMask, TaskId};

/// The scheduling class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Real-time, with a priority of 1..=99 and whether it takes turns.
    Rt { priority: u8, turns: bool },
    /// The kernel's own class, above sched_ext: where a partial policy leaves
    /// ordinary tasks. The model has it take turns.
    Fair,
    /// sched_ext.
    Ext,
}

/// Whether a task wants to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// It does.
    Cpu,
    /// It sleeps, or is about to.
    Sleep,
    /// It exits, or has.
    End,
}

/// `p->scx.ops_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpsState {
    /// Not the policy's.
    None,
    /// On its way into the policy's hands.
    Queueing,
    /// In the policy's hands.
    Queued,
}

/// A queue, as the core finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum QueueId {
    Local(u32),
    Global(u32),
    Bypass(u32),
    /// Index among the policy's queues.
    User(usize),
}

/// A direct dispatch that `select_cpu` or `enqueue` asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirectDispatch {
    pub(super) dsq: u64,
    pub(super) slice_ns: u64,
    pub(super) vtime: Option<u64>,
    pub(super) enq_flags: u64,
}

/// `p->scx` and what the core needs beside it. The slice and the virtual time
/// are the policy's (`Fields`).
#[derive(Debug)]
pub(super) struct ScxTask {
    /// Initialised by `init_task`.
    pub(super) init: bool,
    /// Between `enable` and `disable`.
    pub(super) enabled: bool,
    /// `SCX_TASK_QUEUED`: runnable in this class.
    pub(super) queued: bool,
    pub(super) ops_state: OpsState,
    /// Number of the last `enqueue`.
    pub(super) qseq: u64,
    /// Where it waits.
    pub(super) on: Option<(QueueId, Place)>,
    /// `SCX_TASK_IN_CUSTODY`: the policy has it and is owed a `dequeue`.
    pub(super) custody: bool,
    pub(super) ddsp: Option<DirectDispatch>,
    /// `SCX_TASK_IMMED`: it was queued to run at once, or not there.
    pub(super) immed: bool,
    /// How often it was queued again since it last ran.
    pub(super) reenqs: u32,
    pub(super) sticky_cpu: Option<u32>,
    /// Since when it wants to run; the watchdog looks at this.
    pub(super) runnable_at_ns: u64,
    pub(super) reset_runnable_at: bool,
    /// On the list of those that want to run and do not.
    pub(super) on_runnable_list: bool,
    pub(super) weight: u32,
}

impl ScxTask {
    /// Of a task that sched_ext has not seen yet.
    pub(super) fn new(weight: u32) -> Self {
        Self {
            init: false,
            enabled: false,
            queued: false,
            ops_state: OpsState::None,
            qseq: 0,
            on: None,
            custody: false,
            ddsp: None,
            immed: false,
            reenqs: 0,
            sticky_cpu: None,
            runnable_at_ns: 0,
            reset_runnable_at: true,
            on_runnable_list: false,
            weight,
        }
    }
}

/// A task.
pub(super) struct Task {
    pub(super) pid: i32,
    pub(super) comm: String,
    pub(super) group: u32,
    pub(super) parent: Option<TaskId>,
    pub(super) policy: Policy,
    pub(super) class: Class,
    pub(super) nice: i8,
    pub(super) allowed: CpuMask,
    pub(super) nr_allowed: u32,
    /// `thread_info.cpu`: where it is, or was last.
    pub(super) cpu: u32,
    pub(super) wants: Wants,
    /// In a run queue, which a task that wants to sleep is until it has left it.
    pub(super) on_rq: bool,
    /// On a CPU, which a task is until the switch away from it is complete.
    pub(super) on_cpu: bool,
    /// CPUs that wait for `on_cpu` to end.
    pub(super) on_cpu_waiters: Vec<u32>,
    pub(super) pi_lock: Lock,
    pub(super) migration_disabled: u16,
    pub(super) exiting: bool,
    pub(super) sum_exec_ns: u64,
    /// Where accounting stands.
    pub(super) exec_start_ns: u64,
    /// For `Class::Rt` and `Class::Fair` tasks that take turns: what is left.
    pub(super) turn_left_ns: u64,
    pub(super) scx: ScxTask,

    pub(super) behaviour: Option<Box<dyn Behaviour>>,
    /// What it is doing still, in nanoseconds of a CPU of full capacity.
    pub(super) work_left_ns: u64,
    /// A call that had to sleep and is to be made again.
    pub(super) retry: Option<Act>,
    pub(super) children: u32,
    pub(super) zombies: u32,
    pub(super) reaping: bool,
    /// Number of the sleep that its timer is to end.
    pub(super) sleep_number: u64,
    pub(super) stats: TaskStats,
}

impl Task {
    pub(super) fn is_ext(&self) -> bool {
        self.class == Class::Ext
    }

    /// Its `scx.weight`.
    pub(super) fn weight_of(policy: Policy, nice: i8) -> u32 {
        match policy {
            // WEIGHT_IDLEPRIO
            Policy::Idle => scx_weight(3),
            _ => scx_weight(nice_weight(nice)),
        }
    }

    /// `task_can_run_on_remote_rq()` without the question whether the CPU is online. Not
    /// while another CPU takes the task off its run queue: the kernel's would wait for
    /// that run queue's lock, and then find the task gone.
    pub(super) fn may_run_on(&self, cpu: u32) -> bool {
        self.on_rq
            && self.allowed.contains(cpu)
            && (self.migration_disabled == 0 || self.cpu == cpu)
    }

    /// `comm[pid]`, as the kernel's messages name a task.
    pub(super) fn label(&self) -> String {
        format!("{}[{}]", self.comm, self.pid)
    }

    /// How it stands to others in the order of classes and priorities; a higher
    /// rank runs first.
    pub(super) fn rank(&self) -> u8 {
        match self.class {
            Class::Rt { priority, .. } => priority + 1,
            Class::Fair => 1,
            Class::Ext => 0,
        }
    }
}

/// Whether flags put a task at the head of a first-come queue.
pub(super) fn to_head(enq_flags: u64, enq_head: u64) -> bool {
    enq_flags & (enq_head | enq::PREEMPT) != 0
}
