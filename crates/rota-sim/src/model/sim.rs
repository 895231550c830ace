// SPDX-License-Identifier: GPL-2.0-only
//! A machine with a kernel, a policy and tasks, from the outside.

use std::rc::Rc;

use hdrhistogram::Histogram;

use super::behaviour::{Channel, ChannelId, ChannelKind, NewTask};
use super::consts::{Constants, KernelVersion};
use super::core::Core;
use super::costs::Costs;
use super::event::Irq;
use super::kernel::{Cpus, Kernel, block_on};
use super::ops::{ExitInfo, Op, Ops};
use super::stats::{OpStats, QueueStats, TaskStats};
use crate::kernel_api::{CpuMask, TaskId};
use crate::machine::Machine;
use crate::trace::Trace;

/// What a run is made of besides the policy and the tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The machine.
    pub machine: Machine,
    /// The kernel.
    pub constants: Constants,
    /// How long things take.
    pub costs: Costs,
    /// Seed of all that is random.
    pub seed: u64,
    /// Whether to keep every record of the trace, not only their hash.
    pub keep_trace: bool,
}

impl Config {
    /// The latest kernel on `machine`, with default costs and seed 1.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            constants: Constants::of(KernelVersion::V7_3),
            costs: Costs::default(),
            seed: 1,
            keep_trace: false,
        }
    }
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFigures {
    /// Its number.
    pub task: TaskId,
    /// Its name.
    pub comm: String,
    /// Its group.
    pub group: u32,
    /// Its `scx.weight`.
    pub weight: u32,
    /// Whether sched_ext runs it.
    pub ext: bool,
    /// Where it may run.
    pub allowed: CpuMask,
    /// What was counted. A wait that goes on is in here as far as it has gone.
    pub stats: TaskStats,
}

/// A CPU as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuFigures {
    /// Time for which a task was on it, in nanoseconds.
    pub busy_ns: u64,
    /// Most tasks in its local queue.
    pub longest_local: usize,
}

/// What was counted of the whole machine since the measured part began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Wake-ups of ext tasks.
    pub wakeups: u64,
    /// Those of them for which an idle CPU was there.
    pub wakeups_beside_idle: u64,
    /// Those of these that sent the task there, or an idle CPU to fetch it.
    pub wakeups_to_idle: u64,
    /// Kicks.
    pub kicks: u64,
    /// Those of a CPU that is going offline: they never come, nor does any that it raises once
    /// it is back.
    pub kicks_lost: u64,
    /// Switches of all CPUs.
    pub switches: u64,
    /// How often a CPU had to wait for a run queue's lock.
    pub rq_lock_waits: u64,
    /// Time for which a task waited beside a halted CPU that could have run it, in
    /// nanoseconds; the way of an interrupt is not in it.
    pub lost_ns: u64,
    /// The longest such time of one task.
    pub longest_lost_ns: u64,
    /// When that ended.
    pub longest_lost_at_ns: u64,
    /// How many such times there were.
    pub lost_episodes: u64,
    /// Events of the model, from the start on.
    pub events: u64,
}

/// A simulation.
pub struct Sim {
    pub(super) kernel: Rc<Kernel>,
    cpus: Option<Cpus>,
}

impl Sim {
    /// A machine on which `ops` is about to be loaded.
    pub fn new(config: &Config, ops: Box<dyn Ops>) -> Self {
        let core = Core::new(
            config.machine.clone(),
            config.constants,
            config.costs.clone(),
            ops.table(),
            config.seed,
            config.keep_trace,
        );
        Self {
            kernel: Rc::new(Kernel::new(core, ops)),
            cpus: None,
        }
    }

    /// Adds a task, which is there when the policy is loaded. Before the first
    /// [`Sim::run_until`] only.
    pub fn add_task(&mut self, new: NewTask) -> TaskId {
        debug_assert!(
            self.cpus.is_none(),
            "tasks come before the load, or by fork"
        );
        self.kernel
            .with_fields(|core, fields| core.add_task(new, None, fields))
    }

    /// Adds a channel with `words` in it and room for `room`.
    pub fn add_channel(&mut self, kind: ChannelKind, words: u32, room: u32) -> ChannelId {
        self.kernel.with(|core| {
            core.channels.push(Channel {
                kind,
                words,
                room,
                receivers: Default::default(),
                senders: Default::default(),
            });
            ChannelId(core.channels.len() as u32 - 1)
        })
    }

    /// The task has a right to this much CPU time per second, in nanoseconds; its lag
    /// behind that is kept.
    pub fn set_ideal(&mut self, task: TaskId, ideal_ppb: u64) {
        self.kernel
            .with(|core| core.task(task).stats.ideal_ppb = ideal_ppb);
    }

    fn at(&mut self, at_ns: u64, irq: Irq) {
        self.kernel.with(|core| {
            let delay = at_ns.saturating_sub(core.now_ns);
            // The business of the core is CPU 0's, or that of the first that is online.
            let cpu = core.online.next(0).unwrap_or(0);
            core.interrupt(cpu, delay, irq);
        });
    }

    /// At `at_ns` a CPU goes offline, or comes back.
    pub fn hotplug_at(&mut self, at_ns: u64, cpu: u32, online: bool) {
        self.at(at_ns, Irq::Hotplug { cpu, online });
    }

    /// From `at_ns` on the core does without the policy, as around a suspend, for
    /// `for_ns`.
    pub fn bypass_at(&mut self, at_ns: u64, for_ns: u64) {
        self.at(at_ns, Irq::Bypass { on: true });
        self.at(at_ns + for_ns, Irq::Bypass { on: false });
    }

    /// At `at_ns` user space unloads the policy.
    pub fn unload_at(&mut self, at_ns: u64) {
        self.at(at_ns, Irq::Unload);
    }

    /// Lets time pass up to `until_ns`; the first call loads the policy. Why the
    /// policy ended, if it has; then nothing happens any more.
    pub fn run_until(&mut self, until_ns: u64) -> Option<ExitInfo> {
        if self.cpus.is_none() {
            block_on(&self.kernel, self.kernel.load());
            self.cpus = Some(Cpus::new(&self.kernel));
        }
        if let Some(cpus) = &mut self.cpus {
            cpus.run(&self.kernel, until_ns);
        }
        self.kernel.with_fields(|core, fields| {
            for cpu in 0..core.machine.nr_cpu_ids() {
                core.update_curr(cpu, fields);
            }
        });
        self.exit()
    }

    /// Why the policy ended, if it has.
    pub fn exit(&self) -> Option<ExitInfo> {
        self.kernel.with(|core| core.exit.clone())
    }

    /// The measured part begins now: what was counted before is forgotten.
    pub fn begin_measuring(&mut self) {
        self.kernel.with(|core| {
            let now_ns = core.now_ns;
            core.measured_from_ns = now_ns;
            core.stats.reset(now_ns);
            for task in &mut core.tasks {
                let old = std::mem::take(&mut task.stats);
                task.stats = TaskStats {
                    born_ns: old.born_ns.max(now_ns),
                    ideal_ppb: old.ideal_ppb,
                    waits_since_ns: old.waits_since_ns.map(|_| now_ns),
                    allowed_since_ns: old.allowed_since_ns,
                    woken_at_ns: old.woken_at_ns,
                    ..TaskStats::default()
                };
            }
            for rq in &mut core.rqs {
                (rq.busy_ns, rq.since_ns) = (0, now_ns);
            }
        });
    }

    /// When that was, in nanoseconds.
    pub fn measured_from_ns(&self) -> u64 {
        self.kernel.with(|core| core.measured_from_ns)
    }

    /// The time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.kernel.with(|core| core.now_ns)
    }

    /// The machine.
    pub fn machine(&self) -> Machine {
        self.kernel.with(|core| core.machine.clone())
    }

    /// The CPUs that are online.
    pub fn online(&self) -> CpuMask {
        self.kernel.with(|core| core.online)
    }

    /// All tasks there ever were.
    pub fn tasks(&self) -> Vec<TaskFigures> {
        self.kernel.with(|core| {
            let now_ns = core.now_ns;
            let figures = |(number, task): (usize, &super::task::Task)| {
                let mut stats = task.stats.clone();
                if let Some(since) = stats.waits_since_ns
                    && now_ns - since > stats.longest_wait_ns
                {
                    stats.longest_wait_ns = now_ns - since;
                    stats.longest_wait_at_ns = now_ns;
                }
                TaskFigures {
                    task: TaskId(number as u32),
                    comm: task.comm.clone(),
                    group: task.group,
                    weight: task.scx.weight,
                    ext: task.is_ext(),
                    allowed: task.allowed,
                    stats,
                }
            };
            core.tasks.iter().enumerate().map(figures).collect()
        })
    }

    /// All CPUs.
    pub fn cpus(&self) -> Vec<CpuFigures> {
        self.kernel.with(|core| {
            let now_ns = core.now_ns;
            let figures = |rq: &super::rq::Rq| CpuFigures {
                busy_ns: rq.busy_ns + rq.curr.map_or(0, |_| now_ns - rq.since_ns),
                longest_local: rq.local.longest,
            };
            core.rqs.iter().map(figures).collect()
        })
    }

    /// The whole machine.
    pub fn totals(&self) -> Totals {
        self.kernel.with(|core| {
            let now_ns = core.now_ns;
            core.stats.beside.cut(now_ns, false);
            let stats = &core.stats;
            Totals {
                wakeups: stats.wakeups,
                wakeups_beside_idle: stats.wakeups_beside_idle,
                wakeups_to_idle: stats.wakeups_to_idle,
                kicks: stats.kicks,
                kicks_lost: stats.kicks_lost,
                switches: stats.switches,
                rq_lock_waits: stats.rq_lock_waits,
                lost_ns: stats.beside.total_ns,
                longest_lost_ns: stats.beside.longest_ns,
                longest_lost_at_ns: stats.beside.longest_at_ns,
                lost_episodes: stats.beside.episodes,
                events: stats.events_done,
            }
        })
    }

    /// Callbacks by kind.
    pub fn ops(&self) -> Vec<(Op, OpStats)> {
        self.kernel.with(|core| {
            core.stats
                .ops
                .iter()
                .map(|(op, stats)| (*op, *stats))
                .collect()
        })
    }

    /// The core's event counters, by the kernel's names.
    pub fn events(&self) -> Vec<(&'static str, i64)> {
        self.kernel.with(|core| {
            core.stats
                .events
                .iter()
                .map(|(name, n)| (*name, *n))
                .collect()
        })
    }

    /// The policy's queues, by number, from the load on.
    pub fn queues(&self) -> Vec<QueueStats> {
        self.kernel.with(|core| {
            let now_ns = core.now_ns;
            let mut queues: Vec<QueueStats> = core
                .user
                .iter()
                .flatten()
                .map(|user| QueueStats {
                    dsq: user.id,
                    taken: user.dsq.lock.taken,
                    bounced: user.dsq.lock.bounced,
                    contended: user.dsq.lock.contended,
                    waited_ns: user.dsq.lock.waited_ns,
                    longest: user.dsq.longest,
                    mean_length: user.dsq.mean_length(now_ns),
                })
                .collect();
            queues.sort_unstable_by_key(|queue| queue.dsq);
            queues
        })
    }

    /// Time from wake-up to running of a group, in nanoseconds.
    pub fn latency(&self, group: u32) -> Option<Histogram<u64>> {
        self.kernel
            .with(|core| core.stats.latency.get(&group).cloned())
    }

    /// Looks at the trace.
    pub fn with_trace<R>(&self, look: impl FnOnce(&Trace) -> R) -> R {
        self.kernel.with(|core| look(&core.trace))
    }

    /// A hash of all that happened.
    pub fn trace_hash(&self) -> String {
        self.with_trace(Trace::hash)
    }
}
