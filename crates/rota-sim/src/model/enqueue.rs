// SPDX-License-Identifier: GPL-2.0-only
//! Tasks get onto run queues: by a wake-up, a fork, a move or the end of a slice.

use rota_load::spec::Policy;

use super::consts::{enq, errno, flag, wake};
use super::core::Core;
use super::kernel::Kernel;
use super::ops::{Callback, Fields, Op, TaskField};
use super::queueing::Insertion;
use super::task::{Class, OpsState, QueueId, Wants};
use crate::kernel_api::TaskId;
use crate::trace;

impl Kernel {
    /// `scx_do_enqueue_task()`. `sticky`: the task moves within the core's own
    /// business and stays on this CPU.
    pub(super) async fn do_enqueue(&self, cpu: u32, task: TaskId, enq_flags: u64, sticky: bool) {
        let ask = self.with_fields(|core, fields| {
            if core.enqueue_without_policy(cpu, task, enq_flags, sticky, fields) {
                return false;
            }
            let scx = &mut core.task(task).scx;
            scx.ops_state = OpsState::Queueing;
            scx.qseq += 1;
            true
        });
        if !ask {
            return;
        }
        self.call(cpu, Callback::Enqueue { task, enq_flags }).await;
        self.with_fields(|core, fields| {
            let scx = &mut core.task(task).scx;
            if scx.ddsp.is_some() {
                core.direct_dispatch(cpu, task, enq_flags, fields);
                return;
            }
            scx.ops_state = OpsState::Queued;
            scx.custody = true;
        });
    }

    /// `enqueue_task_scx()` and its like of the other classes. `cpu` holds the lock of
    /// the task's run queue. `moves`: it comes from another run queue and was
    /// runnable there.
    pub(super) async fn enqueue_task(&self, cpu: u32, task: TaskId, enq_flags: u64, moves: bool) {
        let sticky = self.with_fields(|core, fields| {
            let p = core.task(task);
            p.on_rq = true;
            if !p.is_ext() {
                let (on, rank) = (p.cpu, p.rank());
                if core.rq(on).curr != Some(task) {
                    core.rq(on).push_higher(task, rank, false);
                    core.begin_wait(task);
                }
                return None;
            }
            let sticky = p.scx.sticky_cpu.take() == Some(p.cpu);
            p.scx.queued = true;
            fields.publish(task, TaskField::Queued, 1);
            core.set_runnable(task, fields);
            Some(sticky)
        });
        let Some(sticky) = sticky else {
            return;
        };
        if !moves {
            self.call(cpu, Callback::Runnable { task, enq_flags }).await;
        }
        self.do_enqueue(cpu, task, enq_flags, sticky).await;
    }

    /// `wakeup_preempt()`: the run queue's CPU reschedules if its task is of a lower
    /// class.
    pub(super) fn wakeup_preempt(&self, cpu: u32, task: TaskId) {
        self.with(|core| {
            let on = core.get(task).cpu;
            if core.curr_rank(on) < core.get(task).rank() + 1 {
                core.resched(cpu, on);
            }
            if !core.get(task).is_ext() && !core.rq(on).local.is_empty() {
                core.reenq_immed(on);
            }
        });
    }

    /// `try_to_wake_up()` on `cpu`; true if it did.
    pub(super) async fn wake(&self, cpu: u32, task: TaskId, wake_flags: u64) -> bool {
        let took = self.with(|core| core.costs.wakeup_ns);
        self.lock_task(cpu, task).await;
        let woken = self.wake_locked(cpu, task, wake_flags | wake::TTWU).await;
        self.unlock_task(task);
        self.delay(cpu, took).await;
        woken
    }

    async fn wake_locked(&self, cpu: u32, task: TaskId, wake_flags: u64) -> bool {
        if self.with(|core| core.get(task).wants != Wants::Sleep) {
            return false;
        }
        // ttwu_runnable(): it is still on its run queue, on the way to sleep.
        let on = self.with(|core| {
            let p = core.get(task);
            p.on_rq.then_some(p.cpu)
        });
        if let Some(on) = on {
            self.lock_rq(cpu, on).await;
            let caught = self.with(|core| {
                let p = core.task(task);
                if p.on_rq {
                    p.wants = Wants::Cpu;
                }
                p.on_rq
            });
            self.unlock_rq(on);
            if caught {
                return true;
            }
        }
        self.with(|core| {
            let now_ns = core.now_ns;
            let p = core.task(task);
            p.wants = Wants::Cpu;
            p.stats.wakeups += 1;
            p.stats.woken_at_ns = Some(now_ns);
        });
        self.wait_off_cpu(cpu, task).await;
        self.place(cpu, task, wake_flags, enq::WAKEUP).await;
        true
    }

    /// Until the switch away from `task` is complete.
    pub(super) async fn wait_off_cpu(&self, cpu: u32, task: TaskId) {
        while self.with(|core| {
            let p = core.task(task);
            if p.on_cpu {
                p.on_cpu_waiters.push(cpu);
            }
            p.on_cpu
        }) {
            self.pause(cpu).await;
        }
    }

    /// From `select_task_rq()` to the run queue.
    async fn place(&self, cpu: u32, task: TaskId, wake_flags: u64, enq_flags: u64) {
        let halted = self.with(|core| core.stats.beside.halted);
        let (to, selected) = self.select_task_rq(cpu, task, wake_flags).await;
        self.lock_rq(cpu, to).await;
        let enq_flags = self.with_fields(|core, fields| {
            core.set_task_cpu(task, to, fields);
            core.record(cpu, trace::Event::Wake, Some(task), to.into(), 0);
            match selected {
                true => enq_flags | core.constants.enq_cpu_selected,
                false => enq_flags,
            }
        });
        self.enqueue_task(cpu, task, enq_flags, false).await;
        self.wakeup_preempt(cpu, task);
        self.unlock_rq(to);
        self.with(|core| core.note_wakeup(cpu, task, to, &halted));
    }

    /// `select_task_rq()`: the CPU, and whether the class was asked.
    async fn select_task_rq(&self, cpu: u32, task: TaskId, wake_flags: u64) -> (u32, bool) {
        let (ext, prev, choice) = self.with(|core| {
            let p = core.get(task);
            (
                p.is_ext(),
                p.cpu,
                p.nr_allowed > 1 && p.migration_disabled == 0,
            )
        });
        if !choice {
            let to = self.with(|core| {
                let p = core.get(task);
                match p.migration_disabled {
                    0 => p.allowed.next(0).unwrap_or(p.cpu),
                    _ => p.cpu,
                }
            });
            return (self.with(|core| core.allowed_or_fallback(task, to)), false);
        }
        let to = match ext {
            true => self.select_scx(cpu, task, prev, wake_flags).await,
            false => self.with(|core| core.select_higher(task)),
        };
        self.with(|core| {
            let usable = core.allowed_or_fallback(task, to);
            if usable != to && ext {
                core.stats.event("SCX_EV_SELECT_CPU_FALLBACK");
            }
            (usable, true)
        })
    }

    /// `select_task_rq_scx()`.
    async fn select_scx(&self, cpu: u32, task: TaskId, prev: u32, wake_flags: u64) -> u32 {
        if self.with(|core| core.bypassing() && core.constants.since(6, 13)) {
            return prev;
        }
        if self.with(|core| core.has(Op::SelectCpu) && !core.bypassing()) {
            self.with(|core| core.task(task).scx.ddsp = None);
            let callback = Callback::SelectCpu {
                task,
                prev_cpu: prev,
                wake_flags,
            };
            let to = self.call(cpu, callback).await;
            return self.with(|core| {
                match core.valid_cpu(cpu, i64::from(to as i32), " from ops.select_cpu()") {
                    true => to as u32,
                    false => prev,
                }
            });
        }
        self.with(|core| core.select_default(cpu, task, prev, wake_flags))
    }

    /// `move_queued_task()`: a task that waits goes to a CPU that it may run on. `cpu`
    /// holds its `pi_lock` and no run queue's.
    pub(super) async fn move_queued(&self, cpu: u32, task: TaskId) {
        let from = self.with(|core| core.get(task).cpu);
        self.lock_rq(cpu, from).await;
        let misplaced = self.with(|core| {
            let p = core.get(task);
            let here = p.allowed.contains(from) && core.rqs[from as usize].online;
            p.on_rq && !p.on_cpu && p.cpu == from && !here && p.migration_disabled == 0
        });
        if !misplaced {
            self.unlock_rq(from);
            return;
        }
        let (to, ext) = self.with(|core| {
            core.task(task).on_rq = false;
            (core.fallback_cpu(task), core.get(task).is_ext())
        });
        if ext {
            self.ops_dequeue(cpu, task, 0).await;
        }
        self.with_fields(|core, fields| {
            core.remove(cpu, task);
            core.rq(from).higher.retain(|_, &mut other| other != task);
            if !core.get(task).allowed.contains(to) {
                // Nowhere else to run: the kernel gives up the affinity.
                let all = core.machine.possible();
                core.change_allowed(task, all, fields);
            }
            core.set_task_cpu(task, to, fields);
        });
        self.unlock_rq(from);
        self.lock_rq(cpu, to).await;
        self.enqueue_task(cpu, task, 0, true).await;
        self.wakeup_preempt(cpu, task);
        self.unlock_rq(to);
    }

    /// `wake_up_new_task()`.
    pub(super) async fn wake_new(&self, cpu: u32, task: TaskId) {
        self.with(|core| {
            let now_ns = core.now_ns;
            let p = core.task(task);
            p.wants = Wants::Cpu;
            p.stats.wakeups += 1;
            p.stats.woken_at_ns = Some(now_ns);
        });
        self.place(cpu, task, wake::FORK, 0).await;
    }
}

impl Core {
    /// The steps of an enqueue that need no policy; true if one of them took the task.
    fn enqueue_without_policy(
        &mut self,
        cpu: u32,
        task: TaskId,
        enq_flags: u64,
        sticky: bool,
        fields: &mut dyn Fields,
    ) -> bool {
        let p = self.get(task);
        let on = p.cpu;
        let local = QueueId::Local(on);
        let skips_pinned = self.constants.since(6, 16);
        let (queue, refill) = if sticky {
            (local, false)
        } else if !self.rqs[on as usize].online {
            (local, true)
        } else if self.bypassing() {
            (self.bypass_queue(task), true)
        } else if p.scx.ddsp.is_some() {
            self.direct_dispatch(cpu, task, enq_flags, fields);
            return true;
        } else if p.exiting && !self.flag(flag::ENQ_EXITING) {
            self.stats.event("SCX_EV_ENQ_SKIP_EXITING");
            (local, true)
        } else if p.migration_disabled > 0
            && skips_pinned
            && !self.flag(flag::ENQ_MIGRATION_DISABLED)
        {
            self.stats.event("SCX_EV_ENQ_SKIP_MIGRATION_DISABLED");
            (local, true)
        } else if !self.has(Op::Enqueue) {
            (QueueId::Global(self.node_of(on)), true)
        } else {
            return false;
        };
        if refill {
            self.default_slice(task, fields);
        }
        self.task(task).scx.ddsp = None;
        let insertion = Insertion {
            queue,
            slice_ns: None,
            vtime: None,
            enq_flags,
        };
        self.insert(cpu, task, insertion, fields);
        true
    }

    /// `is_cpu_allowed()`, else another.
    fn allowed_or_fallback(&self, task: TaskId, cpu: u32) -> u32 {
        let p = self.get(task);
        let usable = self.online.contains(cpu)
            && if p.migration_disabled > 0 {
                p.cpu == cpu
            } else {
                p.allowed.contains(cpu)
            };
        match usable {
            true => cpu,
            false => self.fallback_cpu(task),
        }
    }

    /// Without `ops.select_cpu`: an idle CPU's local queue, or the CPU it was on.
    fn select_default(&mut self, cpu: u32, task: TaskId, prev: u32, wake_flags: u64) -> u32 {
        let allowed = self.get(task).allowed;
        let found = match self.idle.enabled {
            true => self.select_idle(cpu, prev, wake_flags, &allowed, 0),
            false => Err(errno::BUSY),
        };
        let Ok(to) = found else {
            return prev;
        };
        if !self.bypassing() {
            self.task(task).scx.ddsp = Some(super::task::DirectDispatch {
                dsq: super::consts::dsq::LOCAL,
                slice_ns: super::consts::SLICE_DFL_NS,
                vtime: None,
                enq_flags: 0,
            });
        }
        to
    }

    /// Where a task of a higher class goes: a CPU that idles, one that runs something
    /// lower, or where it was.
    fn select_higher(&self, task: TaskId) -> u32 {
        let p = self.get(task);
        let rank = p.rank() + 1;
        let lower = |cpu: u32| self.curr_rank(cpu) < rank;
        let idle = p.allowed.and(&self.stats.beside.halted);
        if idle.contains(p.cpu) || (p.allowed.contains(p.cpu) && idle.is_empty() && lower(p.cpu)) {
            return p.cpu;
        }
        let usable = p.allowed.and(&self.online);
        let found = idle
            .next(0)
            .or_else(|| usable.iter().find(|&cpu| lower(cpu)));
        found.unwrap_or(p.cpu)
    }

    /// Counts a wake-up, and whether it went to an idle CPU where one was (`halted`).
    fn note_wakeup(
        &mut self,
        cpu: u32,
        task: TaskId,
        to: u32,
        halted: &crate::kernel_api::CpuMask,
    ) {
        let p = self.get(task);
        if !p.is_ext() {
            return;
        }
        let could = p.allowed.and(halted);
        self.stats.wakeups += 1;
        if could.is_empty() {
            return;
        }
        self.stats.wakeups_beside_idle += 1;
        let kicks = &self.rqs[cpu as usize].kicks;
        let kicked = could.intersects(&kicks.kick.or(&kicks.if_idle));
        if could.contains(to) || kicked {
            self.stats.wakeups_to_idle += 1;
        }
    }

    /// Where a task may run changes.
    pub(super) fn change_allowed(
        &mut self,
        task: TaskId,
        allowed: crate::kernel_api::CpuMask,
        fields: &mut dyn Fields,
    ) {
        let now_ns = self.now_ns;
        let p = &mut self.tasks[task.0 as usize];
        let old = std::mem::replace(&mut p.allowed, allowed);
        p.nr_allowed = allowed.weight();
        if p.stats.waits_since_ns.is_some() {
            let since_ns = std::mem::replace(&mut p.stats.allowed_since_ns, now_ns);
            self.stats.beside.ends(&old, since_ns, now_ns);
            self.stats.beside.begins(&allowed, now_ns);
        }
        fields.set_allowed(task, &allowed);
    }

    /// The class of a policy.
    pub(super) fn class_of(&self, policy: Policy) -> Class {
        match policy {
            Policy::Fifo(priority) => Class::Rt {
                priority,
                turns: false,
            },
            Policy::Rr(priority) => Class::Rt {
                priority,
                turns: true,
            },
            Policy::Ext => Class::Ext,
            _ if self.flag(flag::SWITCH_PARTIAL) => Class::Fair,
            _ => Class::Ext,
        }
    }
}
