// SPDX-License-Identifier: GPL-2.0-only
//! A CPU chooses what to run: `__schedule()` with the ext class below real-time.

use super::consts::{DISPATCH_LOOPS, SLICE_BYPASS_NS, SLICE_DFL_NS, deq, enq, flag};
use super::core::Core;
use super::event::Irq;
use super::kernel::Kernel;
use super::ops::{Callback, Fields, Op, TaskField};
use super::queueing::Insertion;
use super::task::{Class, OpsState, QueueId, Wants};
use crate::kernel_api::TaskId;
use crate::trace;

/// `RR_TIMESLICE` in nanoseconds.
const RR_TURN_NS: u64 = 100_000_000;
/// A turn of the kernel's own class, about its base slice.
const FAIR_TURN_NS: u64 = 3_000_000;

/// From the last round of `ops.dispatch()` to the kick that begins another.
const SELF_KICK_NS: u64 = 1_000;

/// What `dispatch_one()` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The task that runs goes on.
    Prev,
    /// The head of the local queue.
    Local,
    /// Nothing.
    Nothing,
}

impl Kernel {
    /// `__schedule()`.
    pub(super) async fn schedule(&self, cpu: u32) {
        self.lock_rq(cpu, cpu).await;
        let (prev, clock_ns) = self.with_fields(|core, fields| {
            core.update_curr(cpu, fields);
            let rq = core.rq(cpu);
            rq.need_resched = false;
            (rq.curr, core.now_ns)
        });
        let mut stays = prev;
        if let Some(task) = prev {
            if self.with(|core| core.get(task).wants != Wants::Cpu) {
                self.dequeue_task(cpu, task, deq::SLEEP).await;
                stays = None;
            } else if self.with(|core| core.must_leave(cpu, task)) {
                self.push_away(cpu, task).await;
                return;
            }
        }
        let next = self.pick_next(cpu, prev, stays, clock_ns).await;
        self.switch_to(cpu, prev, next).await;
        self.unlock_rq(cpu);
        self.after_schedule(cpu).await;
        if let Some(task) = prev.filter(|_| stays.is_none()) {
            self.bury(cpu, task).await;
        }
    }

    /// Puts `prev`, chooses a task and sets it. `stays` is `prev` if it could go on.
    async fn pick_next(
        &self,
        cpu: u32,
        prev: Option<TaskId>,
        stays: Option<TaskId>,
        clock_ns: u64,
    ) -> Option<TaskId> {
        let is_ext = |task: TaskId| self.with(|core| core.get(task).is_ext());
        let prev_ext = prev.filter(|&task| is_ext(task));
        let stays_ext = stays.filter(|&task| is_ext(task));
        let stopper = self.with(|core| std::mem::take(&mut core.rq(cpu).stopper));
        let idled = prev.is_none() && !stopper;
        let mut found = Found::Nothing;
        // A higher class may get work while ops.dispatch() runs.
        while self.with(|core| core.rq(cpu).higher.is_empty() && !core.keeps_higher(cpu, stays)) {
            found = self.dispatch_one(cpu, prev_ext, stays_ext).await;
            if self.with(|core| core.rq(cpu).higher.is_empty()) {
                break;
            }
        }
        if let Some(next) = self.with(|core| core.pick_higher(cpu, stays)) {
            if stays == Some(next) {
                return Some(next);
            }
            if let Some(task) = stays_ext {
                self.put_prev(cpu, task, Some(next)).await;
            } else if idled {
                self.update_idle(cpu, false, true).await;
            }
            if prev_ext.is_some() {
                self.release(cpu, next).await;
            }
            self.set_next_higher(cpu, next, clock_ns);
            return Some(next);
        }
        if found == Found::Prev {
            self.with(|core| {
                if !core.rq(cpu).local.is_empty() {
                    core.reenq_immed(cpu);
                }
            });
            return stays_ext;
        }
        let head = self.with(|core| core.rq(cpu).local.first());
        if let Some(task) = stays_ext {
            self.put_prev(cpu, task, head).await;
        } else if idled && head.is_some() {
            self.update_idle(cpu, false, true).await;
        }
        // The task that was put may have come back as the last one.
        match self.with(|core| core.rq(cpu).local.first()) {
            Some(next) => {
                // It was queued by a CPU that still switches away from it, and that keeps
                // the lock which the kernel's dispatch would have to wait for.
                if prev != Some(next) {
                    self.wait_off_cpu(cpu, next).await;
                }
                self.set_next(cpu, next, clock_ns).await;
                Some(next)
            }
            None => {
                self.update_idle(cpu, true, !idled).await;
                None
            }
        }
    }

    /// `dispatch_one()` (6.12: `balance_one()`). `prev` is the ext task that was
    /// running, `stays` the same if it could go on.
    async fn dispatch_one(&self, cpu: u32, prev: Option<TaskId>, stays: Option<TaskId>) -> Found {
        if self.with(|core| std::mem::take(&mut core.rq(cpu).released)) {
            self.call(cpu, Callback::CpuAcquire { cpu }).await;
        }
        let early = self.with_fields(|core, fields| {
            core.rq(cpu).in_balance = true;
            if let Some(task) = stays
                && fields.slice(task) > 0
                && !core.bypassing()
            {
                return Some(Found::Prev);
            }
            if !core.rq(cpu).local.is_empty() {
                return Some(Found::Local);
            }
            core.dispatch_without_policy(cpu, fields)
        });
        let found = match early {
            Some(found) => found,
            None => self.dispatch_loop(cpu, prev, stays).await,
        };
        self.with_fields(|core, fields| {
            core.rq(cpu).in_balance = false;
            match (found, stays) {
                (Found::Nothing, Some(task)) => core.keep_last(task, fields),
                _ => found,
            }
        })
    }

    /// Asks the policy, again and again while it dispatches for others only.
    async fn dispatch_loop(&self, cpu: u32, prev: Option<TaskId>, stays: Option<TaskId>) -> Found {
        for _ in 0..DISPATCH_LOOPS {
            self.with(|core| core.rq(cpu).nr_dispatched = 0);
            self.call(cpu, Callback::Dispatch { cpu, prev }).await;
            let found = self.with_fields(|core, fields| {
                core.flush(cpu, fields);
                if stays.is_some_and(|task| fields.slice(task) > 0) {
                    return Some(Found::Prev);
                }
                let global = QueueId::Global(core.node_of(cpu));
                if !core.rq(cpu).local.is_empty() || core.consume(cpu, global, 0, fields) {
                    return Some(Found::Local);
                }
                (core.rq(cpu).nr_dispatched == 0 || !core.rq(cpu).higher.is_empty())
                    .then_some(Found::Nothing)
            });
            if let Some(found) = found {
                return found;
            }
        }
        // The CPU has served others for long enough: it lets interrupts in, then goes on
        // by a kick of its own. That takes time even where nothing else does.
        self.delay(cpu, SELF_KICK_NS).await;
        self.with(|core| core.resched(cpu, cpu));
        Found::Nothing
    }

    /// `put_prev_task_scx()`: `task` gives way to `next`; without one the CPU idles.
    pub(super) async fn put_prev(&self, cpu: u32, task: TaskId, next: Option<TaskId>) {
        let stopping = Callback::Stopping {
            task,
            runnable: true,
        };
        self.call(cpu, stopping).await;
        let last = self.with_fields(|core, fields| {
            core.set_runnable(task, fields);
            if fields.slice(task) > 0 && !core.bypassing() {
                if core.get(task).scx.immed {
                    core.stats.event("SCX_EV_REENQ_IMMED");
                    core.count_reenq(task);
                    return Some(enq::REENQ);
                }
                let insertion = Insertion {
                    queue: QueueId::Local(cpu),
                    slice_ns: None,
                    vtime: None,
                    enq_flags: core.constants.enq_head,
                };
                core.insert(cpu, task, insertion, fields);
                return None;
            }
            let last = next.is_none() && core.flag(flag::ENQ_LAST);
            Some(if last { enq::LAST } else { 0 })
        });
        if let Some(enq_flags) = last {
            self.do_enqueue(cpu, task, enq_flags, false).await;
        }
    }

    /// `switch_class()`: a task of a higher class takes the CPU.
    async fn release(&self, cpu: u32, task: TaskId) {
        if !self.with(|core| std::mem::replace(&mut core.rq(cpu).released, true)) {
            self.call(cpu, Callback::CpuRelease { cpu, task }).await;
        }
    }

    /// `set_next_task_scx()`.
    async fn set_next(&self, cpu: u32, task: TaskId, clock_ns: u64) {
        self.with_fields(|core, fields| {
            if fields.slice(task) == 0 {
                core.refill(task, fields);
            }
            core.remove(cpu, task);
            core.starts(cpu, task, clock_ns);
            let scx = &mut core.task(task).scx;
            scx.on_runnable_list = false;
            scx.reset_runnable_at = true;
            scx.reenqs = 0;
        });
        self.call(cpu, Callback::Running { task }).await;
    }

    fn set_next_higher(&self, cpu: u32, task: TaskId, clock_ns: u64) {
        self.with(|core| {
            core.starts(cpu, task, clock_ns);
            let task = core.task(task);
            if task.turn_left_ns == 0 {
                task.turn_left_ns = match task.class {
                    Class::Fair => FAIR_TURN_NS,
                    _ => RR_TURN_NS,
                };
            }
        });
    }

    /// `__scx_update_idle()`. Without `notify` the CPU was idle already.
    async fn update_idle(&self, cpu: u32, idle: bool, notify: bool) {
        let masks_first = self.with(|core| core.constants.since(6, 16));
        if masks_first {
            self.with(|core| core.mark_idle(cpu, idle));
        }
        if notify && self.with(|core| !core.bypassing()) {
            self.call(cpu, Callback::UpdateIdle { cpu, idle }).await;
        }
        if !masks_first {
            self.with(|core| core.mark_idle(cpu, idle));
        }
    }

    /// `context_switch()`.
    async fn switch_to(&self, cpu: u32, prev: Option<TaskId>, next: Option<TaskId>) {
        if prev == next {
            return;
        }
        let took = self.with(|core| {
            core.switched(cpu, prev, next);
            core.costs.switch_ns
        });
        self.delay(cpu, took).await;
        if let Some(prev) = prev {
            self.with(|core| core.off_cpu(prev));
        }
    }

    /// The stopper takes a task away from a CPU that it may not run on any more.
    async fn push_away(&self, cpu: u32, task: TaskId) {
        if self.with(|core| core.get(task).is_ext()) {
            self.put_prev(cpu, task, None).await;
        } else {
            self.with(|core| {
                let rank = core.get(task).rank();
                core.rq(cpu).push_higher(task, rank, true);
                core.begin_wait(task);
            });
        }
        self.with(|core| {
            core.switched(cpu, Some(task), None);
            core.off_cpu(task);
            core.rq(cpu).stopper = true;
            core.rq(cpu).need_resched = true;
        });
        self.unlock_rq(cpu);
        self.lock_task(cpu, task).await;
        self.move_queued(cpu, task).await;
        self.unlock_task(task);
        self.after_schedule(cpu).await;
    }

    /// What waited for the lock to be dropped.
    async fn after_schedule(&self, cpu: u32) {
        self.with(|core| core.passed(cpu));
        if self.with(|core| core.rq(cpu).deferred_work) {
            self.deferred_work(cpu).await;
        }
    }
}

impl Core {
    /// Whether a task that runs on `cpu` has to go elsewhere.
    fn must_leave(&self, cpu: u32, task: TaskId) -> bool {
        let p = self.get(task);
        let elsewhere = !p.allowed.contains(cpu) || !self.rqs[cpu as usize].online;
        elsewhere && p.migration_disabled == 0
    }

    /// What there is without asking the policy; `None` if it is to be asked.
    fn dispatch_without_policy(&mut self, cpu: u32, fields: &mut dyn Fields) -> Option<Found> {
        let global = QueueId::Global(self.node_of(cpu));
        if self.consume(cpu, global, 0, fields) {
            return Some(Found::Local);
        }
        if self.consume(cpu, QueueId::Bypass(cpu), 0, fields) {
            return Some(Found::Local);
        }
        let ask = !self.bypassing() && self.rq(cpu).online && self.has(Op::Dispatch);
        (!ask).then_some(Found::Nothing)
    }

    /// Nothing else is there: a task that could go on does, unless the policy wants
    /// to be asked.
    fn keep_last(&mut self, task: TaskId, fields: &mut dyn Fields) -> Found {
        if self.flag(flag::ENQ_LAST) && self.has(Op::Enqueue) && !self.bypassing() {
            return Found::Nothing;
        }
        if fields.slice(task) == 0 {
            if self.bypassing() && self.constants.since(6, 19) {
                fields.set_slice(task, SLICE_BYPASS_NS);
            } else {
                self.refill(task, fields);
            }
        }
        self.stats.event("SCX_EV_DISPATCH_KEEP_LAST");
        Found::Prev
    }

    /// `stays` is of a higher class and nobody has the better of it.
    fn keeps_higher(&self, cpu: u32, stays: Option<TaskId>) -> bool {
        let Some(task) = stays.map(|task| self.get(task)) else {
            return false;
        };
        let rank = task.rank();
        let turns = match task.class {
            Class::Rt { turns, .. } => turns,
            Class::Fair => true,
            Class::Ext => return false,
        };
        match self.rqs[cpu as usize].higher_rank() {
            None => true,
            Some(top) if top == rank => !turns || task.turn_left_ns > 0,
            Some(top) => top < rank,
        }
    }

    /// The task of a higher class that runs next, if there is one; `stays` waits in
    /// its place if it is another.
    fn pick_higher(&mut self, cpu: u32, stays: Option<TaskId>) -> Option<TaskId> {
        if self.keeps_higher(cpu, stays) {
            if let Some(task) = stays {
                let p = self.task(task);
                if p.turn_left_ns == 0 {
                    p.turn_left_ns = RR_TURN_NS;
                }
            }
            return stays;
        }
        let (_, next) = self.rq(cpu).higher.pop_first()?;
        if let Some(task) = stays.filter(|&task| !self.get(task).is_ext()) {
            let p = self.get(task);
            let (rank, within) = (p.rank(), p.turn_left_ns > 0);
            self.rq(cpu).push_higher(task, rank, within);
            self.begin_wait(task);
        }
        Some(next)
    }

    /// The time in ticks.
    pub(super) fn jiffies(&self) -> u64 {
        self.now_ns / self.costs.tick_ns()
    }

    /// `set_task_runnable()`: on the list that the watchdog looks at.
    pub(super) fn set_runnable(&mut self, task: TaskId, fields: &mut dyn Fields) {
        let (now_ns, jiffies) = (self.now_ns, self.jiffies());
        let scx = &mut self.task(task).scx;
        if std::mem::take(&mut scx.reset_runnable_at) {
            scx.runnable_at_ns = now_ns;
            fields.publish(task, TaskField::RunnableAt, jiffies);
        }
        scx.on_runnable_list = true;
        self.begin_wait(task);
    }

    /// A task is about to run on `cpu`, by the clock of the run queue.
    fn starts(&mut self, cpu: u32, task: TaskId, clock_ns: u64) {
        let now_ns = self.now_ns;
        let goes_on = self.rq(cpu).curr == Some(task);
        self.end_wait(task);
        self.note_lag(task);
        let p = self.task(task);
        debug_assert_eq!(p.cpu, cpu, "a task runs where its run queue is");
        debug_assert!(goes_on || !p.on_cpu, "a task runs on one CPU at a time");
        p.on_cpu = true;
        p.exec_start_ns = clock_ns;
        p.stats.switches += 1;
        if let Some(woken) = p.stats.woken_at_ns.take() {
            let group = p.group;
            self.stats.latency(group, now_ns - woken);
        }
    }

    /// `update_builtin_idle()`.
    fn mark_idle(&mut self, cpu: u32, idle: bool) {
        if self.idle.enabled && self.rqs[cpu as usize].online {
            self.idle.update(&self.machine, cpu, idle);
        }
    }

    /// `cpu` runs `next` from now on.
    fn switched(&mut self, cpu: u32, prev: Option<TaskId>, next: Option<TaskId>) {
        let now_ns = self.now_ns;
        if let Some(prev) = prev {
            let p = self.task(prev);
            p.stats.involuntary += u64::from(p.wants == Wants::Cpu);
        }
        let rq = self.rq(cpu);
        rq.curr = next;
        if prev.is_some() {
            rq.busy_ns += now_ns - rq.since_ns;
        }
        rq.since_ns = now_ns;
        self.stats.switches += 1;
        self.record(cpu, trace::Event::Switch, next, 0, 0);
        self.arm_tick(cpu);
    }

    /// `cpu` has been through the scheduler: who waited for that goes on.
    fn passed(&mut self, cpu: u32) {
        let rq = self.rq(cpu);
        rq.pick_seq += 1;
        for waiter in std::mem::take(&mut rq.pick_waiters) {
            self.resume(waiter);
        }
    }

    /// The switch away from a task is complete.
    fn off_cpu(&mut self, task: TaskId) {
        let p = self.task(task);
        p.on_cpu = false;
        for cpu in std::mem::take(&mut p.on_cpu_waiters) {
            self.resume(cpu);
        }
    }

    /// The tick runs while the CPU does.
    fn arm_tick(&mut self, cpu: u32) {
        let busy = self.rq(cpu).curr.is_some();
        let was = std::mem::replace(&mut self.rq(cpu).ticking, busy);
        if busy && !was {
            self.rq(cpu).tick_series += 1;
            self.next_tick(cpu);
        }
    }

    pub(super) fn next_tick(&mut self, cpu: u32) {
        let tick_ns = self.costs.tick_ns();
        let rq = self.rq(cpu);
        let (phase, series) = (rq.tick_phase_ns, rq.tick_series);
        let now_ns = self.now_ns;
        // The next moment that is the phase away from a multiple of the period.
        let at = (now_ns + tick_ns - phase) / tick_ns * tick_ns + phase;
        self.interrupt(cpu, at - now_ns, Irq::Tick { series });
    }
}

impl Kernel {
    /// `dequeue_task()`: off the run queue, to sleep or for a change. `cpu` holds the
    /// lock of the task's run queue.
    pub(super) async fn dequeue_task(&self, cpu: u32, task: TaskId, deq_flags: u64) {
        let (ext, queued, running) = self.with_fields(|core, fields| {
            let on = core.get(task).cpu;
            let running = core.rq(on).curr == Some(task);
            if running {
                core.update_curr(on, fields);
            }
            core.end_wait(task);
            let p = core.task(task);
            p.on_rq = false;
            (p.is_ext(), p.scx.queued, running)
        });
        if !ext {
            self.with(|core| {
                let on = core.get(task).cpu;
                core.rq(on).higher.retain(|_, &mut other| other != task);
            });
            return;
        }
        if !queued {
            return;
        }
        self.ops_dequeue(cpu, task, deq_flags).await;
        if running {
            let stopping = Callback::Stopping {
                task,
                runnable: false,
            };
            self.call(cpu, stopping).await;
        }
        self.call(cpu, Callback::Quiescent { task, deq_flags })
            .await;
        self.with_fields(|core, fields| {
            core.remove(cpu, task);
            let scx = &mut core.task(task).scx;
            scx.queued = false;
            scx.on_runnable_list = false;
            scx.custody = false;
            fields.publish(task, TaskField::Queued, 0);
        });
    }

    /// `ops_dequeue()`: out of the policy's hands.
    pub(super) async fn ops_dequeue(&self, cpu: u32, task: TaskId, deq_flags: u64) {
        let tell = self.with(|core| {
            let since_7_1 = core.constants.since(7, 1);
            let bypassing = core.bypassing();
            let scx = &mut core.task(task).scx;
            let held = scx.ops_state == OpsState::Queued;
            let custody = std::mem::take(&mut scx.custody);
            scx.ops_state = OpsState::None;
            scx.ddsp = None;
            !bypassing && if since_7_1 { custody } else { held }
        });
        if tell {
            self.call(cpu, Callback::Dequeue { task, deq_flags }).await;
        }
    }
}

impl Core {
    /// The slice that a task gets where the policy is not asked.
    pub(super) fn default_slice(&mut self, task: TaskId, fields: &mut dyn Fields) {
        if self.bypassing() && self.constants.since(6, 19) {
            fields.set_slice(task, SLICE_BYPASS_NS);
        } else {
            fields.set_slice(task, SLICE_DFL_NS);
            self.stats.event("SCX_EV_REFILL_SLICE_DFL");
        }
    }
}
