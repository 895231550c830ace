// SPDX-License-Identifier: GPL-2.0-only
//! The state of the core, and what every part of it needs: the clock, the trace,
//! errors, and the flag that makes a CPU reschedule.

use std::collections::{BTreeMap, HashMap};

use rota_load::spec::Jitter;

use super::behaviour::Channel;
use super::consts::{Constants, ExitKind, dsq};
use super::costs::{Costs, TickPhase};
use super::dsq::Dsq;
use super::event::{Event, EventQueue, Irq};
use super::idle::Idle;
use super::ops::{ExitInfo, Fields, Op, OpsTable, TaskField};
use super::rq::Rq;
use super::stats::Stats;
use super::task::{QueueId, Task};
use crate::kernel_api::{CpuMask, TaskId};
use crate::machine::Machine;
use crate::trace::{self, Record, Trace};

/// A queue of the policy's.
pub(super) struct UserDsq {
    pub(super) id: u64,
    pub(super) dsq: Dsq,
}

/// An iterator over a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct DsqIter {
    pub(super) queue: usize,
    pub(super) reverse: bool,
    /// Tasks inserted later are not shown.
    pub(super) seq: u64,
    pub(super) at: Option<super::dsq::Place>,
    pub(super) ended: bool,
}

/// A callback that runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    pub(super) op: Op,
    /// The task it is about.
    pub(super) task: Option<TaskId>,
    /// It has dispatched that task directly, which it may once.
    pub(super) dispatched: bool,
}

/// Whether the policy is in charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being loaded.
    Enabling,
    /// It is.
    Enabled,
    /// It is on its way out, or gone.
    Disabled,
}

/// What all of the model shares.
pub(super) struct Core {
    pub(super) now_ns: u64,
    /// When the measured part began.
    pub(super) measured_from_ns: u64,
    pub(super) events: EventQueue,
    pub(super) machine: Machine,
    pub(super) constants: Constants,
    pub(super) costs: Costs,
    pub(super) table: OpsTable,
    pub(super) random: Jitter,

    pub(super) rqs: Vec<Rq>,
    pub(super) tasks: Vec<Task>,
    pub(super) user: Vec<Option<UserDsq>>,
    pub(super) user_by_id: HashMap<u64, usize>,
    pub(super) global: Vec<Dsq>,
    pub(super) bypass_dsqs: Vec<Dsq>,
    pub(super) iters: Vec<Option<DsqIter>>,
    pub(super) idle: Idle,
    pub(super) online: CpuMask,
    pub(super) channels: Vec<Channel>,
    /// Timers by number: the series that counts.
    pub(super) timers: BTreeMap<u64, u64>,
    pub(super) timer_number: u64,

    pub(super) phase: Phase,
    pub(super) bypass: u32,
    pub(super) exit: Option<ExitInfo>,
    pub(super) dump: String,
    /// Nothing happens any more.
    pub(super) halted: bool,

    pub(super) stats: Stats,
    pub(super) trace: Trace,
    /// The callback that runs on each CPU.
    pub(super) active: Vec<Option<Active>>,
    /// `ops.dequeue` calls that a kfunc of a running callback made due.
    pub(super) due_dequeues: Vec<(u32, TaskId, u64)>,
    /// Time that kfuncs of the running piece took, in nanoseconds.
    pub(super) piece_ns: u64,
}

impl Core {
    pub(super) fn new(
        machine: Machine,
        constants: Constants,
        costs: Costs,
        table: OpsTable,
        seed: u64,
        keep_trace: bool,
    ) -> Self {
        use super::consts::flag;
        let nr = machine.nr_cpu_ids();
        let mut idle = Idle::new(
            &machine,
            &constants,
            table.flags & flag::BUILTIN_IDLE_PER_NODE != 0,
        );
        idle.enabled = !table.ops.has(Op::UpdateIdle) || table.flags & flag::KEEP_BUILTIN_IDLE != 0;
        let mut random = Jitter::new(seed, u32::MAX, 1);
        let tick_ns = costs.tick_ns();
        let rqs = (0..nr).map(|cpu| {
            let mut rq = Rq::new(machine.cpus()[cpu as usize].online);
            rq.tick_phase_ns = match costs.tick_phase {
                TickPhase::Aligned => 0,
                TickPhase::Skewed => tick_ns * u64::from(cpu) / u64::from(nr),
                TickPhase::Random => u64::from(random.below(tick_ns as u32)),
            };
            rq.distribute = cpu;
            rq
        });
        let rqs: Vec<Rq> = rqs.collect();
        Self {
            now_ns: 0,
            measured_from_ns: 0,
            events: EventQueue::new(seed),
            constants,
            costs,
            random,
            rqs,
            tasks: Vec::new(),
            user: Vec::new(),
            user_by_id: HashMap::new(),
            global: machine.nodes().iter().map(|_| Dsq::new()).collect(),
            bypass_dsqs: (0..nr).map(|_| Dsq::new()).collect(),
            iters: Vec::new(),
            idle,
            online: machine.online(),
            machine,
            table,
            channels: Vec::new(),
            timers: BTreeMap::new(),
            timer_number: 0,
            phase: Phase::Enabling,
            bypass: 0,
            exit: None,
            dump: String::new(),
            halted: false,
            stats: Stats::new(),
            trace: Trace::new(keep_trace),
            active: vec![None; nr as usize],
            due_dequeues: Vec::new(),
            piece_ns: 0,
        }
    }

    pub(super) fn rq(&mut self, cpu: u32) -> &mut Rq {
        &mut self.rqs[cpu as usize]
    }

    pub(super) fn task(&mut self, task: TaskId) -> &mut Task {
        &mut self.tasks[task.0 as usize]
    }

    pub(super) fn get(&self, task: TaskId) -> &Task {
        &self.tasks[task.0 as usize]
    }

    pub(super) fn has(&self, op: Op) -> bool {
        self.table.ops.has(op)
    }

    pub(super) fn flag(&self, flag: u64) -> bool {
        self.table.flags & flag != 0
    }

    pub(super) fn node_of(&self, cpu: u32) -> u32 {
        self.machine.cpus()[cpu as usize].node
    }

    /// Whether the core does without the policy.
    pub(super) fn bypassing(&self) -> bool {
        self.bypass > 0
    }

    pub(super) fn record(
        &mut self,
        cpu: u32,
        event: trace::Event,
        task: Option<TaskId>,
        arg: u64,
        len: u32,
    ) {
        let at_ns = self.now_ns;
        self.trace.add(Record {
            at_ns,
            cpu,
            event,
            task,
            arg,
            len,
        });
    }

    /// `scx_exit()`: the first reason counts. The policy is taken out by the next
    /// CPU that gets to it.
    pub(super) fn exit_with(&mut self, cpu: u32, kind: ExitKind, code: i64, message: String) {
        if self.exit.is_some() || self.phase == Phase::Disabled {
            return;
        }
        self.exit = Some(ExitInfo {
            kind,
            code,
            message,
            cpu,
            at_ns: self.now_ns,
        });
        self.record(cpu, trace::Event::End, None, u64::from(kind.number()), 0);
        // The kernel wakes a helper thread that does the rest.
        self.interrupt(cpu, 0, Irq::Unload);
    }

    /// `scx_error()`.
    pub(super) fn error(&mut self, cpu: u32, message: String) {
        self.exit_with(cpu, ExitKind::Error, 0, message);
    }

    /// An interrupt is to reach `cpu` after `delay_ns`.
    pub(super) fn interrupt(&mut self, cpu: u32, delay_ns: u64, irq: Irq) {
        let at = self.now_ns + delay_ns;
        self.events.post(at, Event::Interrupt { cpu, irq });
    }

    /// `resched_curr()`, by `from`: `cpu` is to go through the scheduler.
    pub(super) fn resched(&mut self, from: u32, cpu: u32) {
        let now_ns = self.now_ns;
        let rq = self.rq(cpu);
        if rq.need_resched {
            return;
        }
        rq.need_resched = true;
        self.stats.beside.halts(cpu, false, now_ns);
        if from != cpu {
            let delay = self.costs.ipi_ns;
            self.interrupt(cpu, delay, Irq::Resched);
        }
    }

    /// Who runs on `cpu`, in the order of classes: 0 is idle, 1 ext, more is above.
    pub(super) fn curr_rank(&self, cpu: u32) -> u8 {
        match self.rqs[cpu as usize].curr {
            None => 0,
            Some(task) => self.get(task).rank() + 1,
        }
    }

    /// The queue as the policy numbers it.
    pub(super) fn queue_number(&self, queue: QueueId) -> u64 {
        match queue {
            QueueId::Local(cpu) => dsq::LOCAL_ON | u64::from(cpu),
            QueueId::Global(_) => dsq::GLOBAL,
            // SCX_DSQ_BYPASS
            QueueId::Bypass(_) => dsq::BUILTIN | 3,
            QueueId::User(index) => self.user[index].as_ref().map_or(0, |user| user.id),
        }
    }

    pub(super) fn queue(&mut self, queue: QueueId) -> &mut Dsq {
        match queue {
            QueueId::Local(cpu) => &mut self.rqs[cpu as usize].local,
            QueueId::Global(node) => &mut self.global[node as usize],
            QueueId::Bypass(cpu) => &mut self.bypass_dsqs[cpu as usize],
            QueueId::User(index) => {
                let user = self.user[index].as_mut();
                &mut user.expect("tasks are in queues that exist").dsq
            }
        }
    }

    /// Takes a queue's lock for one operation that looks at `scanned` tasks. Local
    /// queues have none of their own.
    pub(super) fn queue_lock(&mut self, cpu: u32, queue: QueueId, scanned: u64) {
        if matches!(queue, QueueId::Local(_)) {
            return;
        }
        let held = self.costs.dsq_lock_ns + self.costs.dsq_scan_ns * scanned;
        let now = self.now_ns + self.piece_ns;
        let took = self.queue(queue).lock.take(cpu, now, held);
        self.piece_ns += took;
    }

    /// The clock of a task that runs, brought up to date: `update_curr()`.
    pub(super) fn update_curr(&mut self, cpu: u32, fields: &mut dyn Fields) {
        let Some(curr) = self.rqs[cpu as usize].curr else {
            return;
        };
        let now_ns = self.now_ns;
        let task = self.task(curr);
        let delta = now_ns - task.exec_start_ns;
        if delta == 0 {
            return;
        }
        task.exec_start_ns = now_ns;
        task.sum_exec_ns += delta;
        task.stats.cpu_ns += delta;
        task.turn_left_ns = task.turn_left_ns.saturating_sub(delta);
        let sum = task.sum_exec_ns;
        if task.is_ext() {
            let slice = fields.slice(curr);
            if slice != super::consts::SLICE_INF && slice > 0 {
                fields.set_slice(curr, slice.saturating_sub(delta));
            }
        }
        fields.publish(curr, TaskField::SumExecRuntime, sum);
    }

    /// `set_task_cpu()`: the task is on `to` now.
    pub(super) fn set_task_cpu(&mut self, task: TaskId, to: u32, fields: &mut dyn Fields) {
        let from = self.get(task).cpu;
        if from == to {
            return;
        }
        let distance = self.machine.distance(from, to);
        let p = self.task(task);
        p.cpu = to;
        p.stats.moves[super::stats::move_index(distance)] += 1;
        fields.publish(task, TaskField::Cpu, u64::from(to));
        self.record(to, trace::Event::Migrate, Some(task), u64::from(from), 0);
    }

    /// `select_fallback_rq()`: some online CPU for a task, near where it was, and
    /// any at all if its affinity leaves none.
    pub(super) fn fallback_cpu(&self, task: TaskId) -> u32 {
        let p = self.get(task);
        let usable = p.allowed.and(&self.online);
        let near = usable.and(self.machine.node(p.cpu));
        near.next(0)
            .or_else(|| usable.next(0))
            .or_else(|| self.online.next(0))
            .expect("a CPU stays online")
    }

    /// The task waits for a CPU from now on.
    pub(super) fn begin_wait(&mut self, task: TaskId) {
        let now_ns = self.now_ns;
        let p = &mut self.tasks[task.0 as usize];
        if p.stats.waits_since_ns.is_none() {
            p.stats.waits_since_ns = Some(now_ns);
            p.stats.allowed_since_ns = now_ns;
            let allowed = p.allowed;
            self.stats.beside.begins(&allowed, now_ns);
        }
    }

    /// It runs, or no longer wants to.
    pub(super) fn end_wait(&mut self, task: TaskId) {
        let now_ns = self.now_ns;
        let p = &mut self.tasks[task.0 as usize];
        let Some(since) = p.stats.waits_since_ns.take() else {
            return;
        };
        let waited = now_ns - since;
        if waited > p.stats.longest_wait_ns {
            p.stats.longest_wait_ns = waited;
            p.stats.longest_wait_at_ns = now_ns;
        }
        let (allowed, since_ns) = (p.allowed, p.stats.allowed_since_ns);
        self.stats.beside.ends(&allowed, since_ns, now_ns);
    }

    /// Compares a task's CPU time with its ideal.
    pub(super) fn note_lag(&mut self, task: TaskId) {
        let elapsed = self.now_ns - self.measured_from_ns;
        let stats = &mut self.task(task).stats;
        if stats.ideal_ppb > 0 {
            let ideal = u128::from(stats.ideal_ppb) * u128::from(elapsed) / 1_000_000_000;
            let lag = (ideal as u64).saturating_sub(stats.cpu_ns);
            stats.lag_ns = stats.lag_ns.max(lag);
        }
    }
}
