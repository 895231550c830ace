// SPDX-License-Identifier: GPL-2.0-only
//! The policy is loaded and unloaded; tasks come and go, and change.

use super::behaviour::NewTask;
use super::consts::{ExitKind, SLICE_DFL_NS, TIMEOUT_MS_MAX, deq, flag};
use super::core::{Core, Phase};
use super::event::Irq;
use super::kernel::Kernel;
use super::lock::Lock;
use super::ops::{Callback, Fields, Op, TaskField};
use super::stats::TaskStats;
use super::task::{Class, ScxTask, Task, Wants};
use crate::kernel_api::{self, CpuMask, TaskId};
use crate::trace;

/// `PF_KTHREAD`.
const PF_KTHREAD: u32 = 0x0020_0000;
/// Process numbers start here: below are the kernel's.
const FIRST_PID: i32 = 1000;

/// What a task was when its change began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    queued: bool,
    running: bool,
}

impl Kernel {
    /// `scx_enable()` on CPU 0, with all tasks asleep.
    pub(super) async fn load(&self) {
        let cpu = 0;
        if let Some(reason) = self.with(|core| core.refused()) {
            self.with(|core| core.error(cpu, reason));
            return self.unload(cpu).await;
        }
        let error = self.call(cpu, Callback::Init).await;
        if self.bad_return(cpu, Op::Init, error, "") {
            return self.unload(cpu).await;
        }
        let tasks: Vec<TaskId> =
            self.with(|core| (0..core.tasks.len() as u32).map(TaskId).collect());
        for &task in &tasks {
            let init = Callback::InitTask { task, fork: false };
            let error = self.call(cpu, init).await;
            let whom = self.with(|core| format!(" for {} while loading", core.get(task).label()));
            if self.bad_return(cpu, Op::InitTask, error, &whom) {
                return self.unload(cpu).await;
            }
            self.with(|core| core.task(task).scx.init = true);
        }
        for &task in &tasks {
            self.enable(cpu, task).await;
        }
        if self.with(|core| core.exit.is_some()) {
            return self.unload(cpu).await;
        }
        self.with(|core| {
            core.phase = Phase::Enabled;
            let half = core.timeout_ns() / 2;
            core.interrupt(cpu, half, Irq::Watchdog);
            // The end of the bypass sends every CPU through the scheduler.
            for of in core.online.iter().collect::<Vec<_>>() {
                core.resched(cpu, of);
            }
        });
    }

    /// Whether a callback that may fail has; the policy ends then.
    fn bad_return(&self, cpu: u32, op: Op, error: i64, whom: &str) -> bool {
        let error = error as i32;
        if error == 0 {
            return self.with(|core| core.exit.is_some());
        }
        let message = match error {
            -4095..0 => format!("ops.{}() failed ({error}){whom}", op.name()),
            _ => format!("ops.{}() returned an invalid errno {error}", op.name()),
        };
        self.with(|core| core.error(cpu, message));
        true
    }

    /// `scx_enable_task()`.
    async fn enable(&self, cpu: u32, task: TaskId) {
        let weight = self.with(|core| {
            let p = core.task(task);
            let ext = p.is_ext() && !p.scx.enabled;
            p.scx.enabled |= ext;
            ext.then_some(p.scx.weight)
        });
        if let Some(weight) = weight {
            self.call(cpu, Callback::Enable { task }).await;
            self.call(cpu, Callback::SetWeight { task, weight }).await;
        }
    }

    /// `scx_disable_workfn()`: the policy goes, for whatever reason.
    pub(super) async fn unload(&self, cpu: u32) {
        if self.with(|core| core.phase == Phase::Disabled) {
            return;
        }
        self.with(|core| {
            let message = String::new();
            core.exit_with(cpu, ExitKind::Unreg, 0, message);
        });
        // From here on nothing asks the policy where a task goes.
        let loaded = self.enabled();
        self.with(|core| core.phase = Phase::Disabled);
        if loaded {
            self.set_bypass(cpu, true).await;
        }
        let tasks: Vec<TaskId> =
            self.with(|core| (0..core.tasks.len() as u32).map(TaskId).collect());
        for &task in &tasks {
            if self.with(|core| core.get(task).scx.enabled) {
                let on = self.lock_task_rq(cpu, task).await;
                let change = self.change_begin(cpu, task).await;
                self.with(|core| core.task(task).class = Class::Fair);
                self.disable(cpu, task).await;
                self.change_end(cpu, task, change).await;
                self.unlock_rq(on);
                self.unlock_task(task);
            }
        }
        for &task in &tasks {
            self.exit_task(cpu, task, false).await;
        }
        if let Some(info) = self.with(|core| core.exit.clone()) {
            self.call(cpu, Callback::Exit(info)).await;
        }
        self.with(|core| {
            let now_ns = core.now_ns;
            core.stats.beside.cut(now_ns, false);
            core.halted = true;
        });
    }

    async fn disable(&self, cpu: u32, task: TaskId) {
        if self.with(|core| std::mem::take(&mut core.task(task).scx.enabled)) {
            self.call(cpu, Callback::Disable { task }).await;
        }
    }

    async fn exit_task(&self, cpu: u32, task: TaskId, cancelled: bool) {
        if self.with(|core| std::mem::take(&mut core.task(task).scx.init)) {
            self.call(cpu, Callback::ExitTask { task, cancelled }).await;
        }
    }

    /// `fork()` by the task that runs on `cpu`; `None` if the policy refuses it.
    pub(super) async fn fork(&self, cpu: u32, parent: TaskId, new: NewTask) -> Option<TaskId> {
        let child = self.with_fields(|core, fields| {
            let child = core.add_task(new, Some(parent), fields);
            core.task(child).cpu = cpu;
            fields.publish(child, TaskField::Cpu, cpu.into());
            core.task(parent).children += 1;
            child
        });
        let init = Callback::InitTask {
            task: child,
            fork: true,
        };
        if self.call(cpu, init).await != 0 {
            self.with_fields(|core, fields| {
                core.task(child).wants = Wants::End;
                core.task(parent).children -= 1;
                fields.remove_task(child);
            });
            return None;
        }
        self.with(|core| core.task(child).scx.init = true);
        self.lock_task(cpu, child).await;
        self.lock_rq(cpu, cpu).await;
        self.enable(cpu, child).await;
        self.unlock_rq(cpu);
        self.with(|core| core.record(cpu, trace::Event::Fork, Some(child), parent.0.into(), 0));
        self.wake_new(cpu, child).await;
        self.unlock_task(child);
        Some(child)
    }

    /// `finish_task_switch()`: the last of a task that has exited.
    pub(super) async fn bury(&self, cpu: u32, task: TaskId) {
        if self.with(|core| core.get(task).wants != Wants::End) {
            return;
        }
        self.disable(cpu, task).await;
        self.exit_task(cpu, task, false).await;
        self.with_fields(|core, fields| {
            let now_ns = core.now_ns;
            core.task(task).stats.ended_ns = Some(now_ns);
            core.record(cpu, trace::Event::Exit, Some(task), 0, 0);
            fields.remove_task(task);
        });
    }

    /// `task_rq_lock()`: both locks of a task; the CPU of its run queue.
    pub(super) async fn lock_task_rq(&self, cpu: u32, task: TaskId) -> u32 {
        self.lock_task(cpu, task).await;
        loop {
            let on = self.with(|core| core.get(task).cpu);
            self.lock_rq(cpu, on).await;
            if self.with(|core| core.get(task).cpu == on) {
                return on;
            }
            self.unlock_rq(on);
        }
    }

    /// `sched_change_begin()`: off its queues, for a change.
    pub(super) async fn change_begin(&self, cpu: u32, task: TaskId) -> Change {
        let (change, flags) = self.with(|core| {
            let p = core.get(task);
            let running = core.rqs[p.cpu as usize].curr == Some(task);
            let queued = p.on_rq && p.is_ext();
            (Change { queued, running }, core.change_flag())
        });
        if change.queued {
            self.dequeue_task(cpu, task, flags).await;
        }
        change
    }

    /// `sched_change_end()`.
    pub(super) async fn change_end(&self, cpu: u32, task: TaskId, change: Change) {
        if !change.queued {
            return;
        }
        self.with(|core| {
            let p = core.task(task);
            p.scx.sticky_cpu = change.running.then_some(p.cpu);
        });
        self.enqueue_task(cpu, task, 0, false).await;
        if change.running && self.with(|core| core.get(task).is_ext()) {
            self.with(|core| {
                core.remove(cpu, task);
                core.end_wait(task);
                core.task(task).scx.on_runnable_list = false;
                core.task(task).scx.reset_runnable_at = true;
            });
            self.call(cpu, Callback::Running { task }).await;
        }
    }

    /// `set_user_nice()`.
    pub(super) async fn set_nice(&self, cpu: u32, task: TaskId, nice: i8) {
        let on = self.lock_task_rq(cpu, task).await;
        let change = self.change_begin(cpu, task).await;
        let weight = self.with_fields(|core, fields| {
            let p = core.task(task);
            p.nice = nice;
            p.scx.weight = Task::weight_of(p.policy, nice);
            fields.publish(task, TaskField::Weight, p.scx.weight.into());
            p.scx.enabled.then_some(p.scx.weight)
        });
        if let Some(weight) = weight {
            self.call(cpu, Callback::SetWeight { task, weight }).await;
        }
        self.change_end(cpu, task, change).await;
        self.unlock_rq(on);
        self.unlock_task(task);
    }

    /// `__set_cpus_allowed_ptr()`; nothing happens for an empty mask or a task that is
    /// gone.
    pub(super) async fn set_affinity(&self, cpu: u32, task: TaskId, allowed: CpuMask) {
        if self.with(|core| core.get(task).wants == Wants::End || !allowed.intersects(&core.online))
        {
            return;
        }
        let on = self.lock_task_rq(cpu, task).await;
        let change = self.change_begin(cpu, task).await;
        self.with_fields(|core, fields| core.change_allowed(task, allowed, fields));
        if self.with(|core| core.get(task).scx.enabled) {
            self.call(cpu, Callback::SetCpumask { task, allowed }).await;
        }
        self.change_end(cpu, task, change).await;
        let moves = self.with(|core| {
            let p = core.get(task);
            let moves = p.on_rq && !allowed.contains(on);
            if moves && p.on_cpu {
                // The stopper gets it.
                core.resched(cpu, on);
            }
            moves && !core.get(task).on_cpu
        });
        self.unlock_rq(on);
        if moves {
            self.move_queued(cpu, task).await;
        }
        self.unlock_task(task);
    }
}

impl Core {
    /// Why the table is refused before anything is called.
    fn refused(&self) -> Option<String> {
        let own_idle = !self.idle.enabled;
        if self.flag(flag::ENQ_LAST) && !self.has(Op::Enqueue) {
            return Some("SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented".into());
        }
        if own_idle && self.flag(flag::BUILTIN_IDLE_PER_NODE) {
            return Some(
                "SCX_OPS_BUILTIN_IDLE_PER_NODE requires CPU idle selection enabled".into(),
            );
        }
        if self.table.timeout_ms > TIMEOUT_MS_MAX {
            let ms = self.table.timeout_ms;
            return Some(format!("timeout_ms {ms} is above {TIMEOUT_MS_MAX}"));
        }
        None
    }

    fn change_flag(&self) -> u64 {
        match self.constants.since(7, 1) {
            true => deq::SCHED_CHANGE,
            false => 0,
        }
    }

    /// Where a task is before it first runs: tasks are spread over their CPUs.
    fn first_cpu(&self, allowed: &CpuMask, number: usize) -> u32 {
        let usable: Vec<u32> = allowed.and(&self.online).iter().collect();
        match usable.len() {
            0 => self.online.next(0).unwrap_or(0),
            count => usable[number % count],
        }
    }

    /// A task comes to be, asleep.
    pub(super) fn add_task(
        &mut self,
        new: NewTask,
        parent: Option<TaskId>,
        fields: &mut dyn Fields,
    ) -> TaskId {
        let number = self.tasks.len();
        let pid = FIRST_PID + number as i32;
        let cpu = self.first_cpu(&new.allowed, number);
        let weight = Task::weight_of(new.policy, new.nice);
        let comm: String = new.comm.chars().take(15).collect();
        let id = fields.add_task(&kernel_api::NewTask {
            pid,
            tgid: pid,
            comm: &comm,
            flags: if new.kthread { PF_KTHREAD } else { 0 },
            weight,
            allowed: new.allowed,
            cpu,
        });
        debug_assert_eq!(id.0 as usize, number, "tasks are numbered in order");
        fields.set_slice(id, SLICE_DFL_NS);
        let stats = TaskStats {
            born_ns: self.now_ns.max(new.start_ns),
            ..TaskStats::default()
        };
        self.tasks.push(Task {
            pid,
            comm,
            group: new.group,
            parent,
            policy: new.policy,
            class: self.class_of(new.policy),
            nice: new.nice,
            allowed: new.allowed,
            nr_allowed: new.allowed.weight(),
            cpu,
            wants: Wants::Sleep,
            on_rq: false,
            on_cpu: false,
            on_cpu_waiters: Vec::new(),
            pi_lock: Lock::default(),
            migration_disabled: 0,
            exiting: false,
            sum_exec_ns: 0,
            exec_start_ns: 0,
            turn_left_ns: 0,
            scx: ScxTask::new(weight),
            behaviour: Some(new.behaviour),
            work_left_ns: 0,
            retry: None,
            children: 0,
            zombies: 0,
            reaping: false,
            sleep_number: 0,
            stats,
        });
        if parent.is_none() {
            self.interrupt(
                cpu,
                new.start_ns,
                Irq::Sleeper {
                    task: id,
                    number: 0,
                },
            );
        }
        id
    }
}
