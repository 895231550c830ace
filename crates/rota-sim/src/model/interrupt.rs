// SPDX-License-Identifier: GPL-2.0-only
//! What interrupts do: ticks, timers, kicks, and the business of the core itself.

use super::consts::{ECODE_RESTART_HOTPLUG, ExitKind, TIMEOUT_MS_MAX, enq};
use super::core::{Core, Phase};
use super::event::Irq;
use super::kernel::Kernel;
use super::ops::{Callback, Op};
use super::rq::Kicks;
use super::task::{Class, Wants};
use crate::kernel_api::TaskId;

/// Until the helper thread takes the policy out of the way, which until then sees what a CPU
/// does that goes, in nanoseconds.
const HELPER_NS: u64 = 100_000;

impl Kernel {
    /// An interrupt on `cpu`.
    pub(super) async fn handle(&self, cpu: u32, irq: Irq) {
        let took = self.with(|core| core.costs.irq_ns);
        match irq {
            Irq::Unload => return self.unload(cpu).await,
            Irq::DeferredWork => return self.deferred_work(cpu).await,
            _ => self.delay(cpu, took).await,
        }
        match irq {
            Irq::Resched | Irq::Unload | Irq::DeferredWork => {}
            Irq::Tick { series } => self.tick(cpu, series).await,
            Irq::Sleeper { task, number } => {
                if self.with(|core| core.get(task).sleep_number == number) {
                    self.wake(cpu, task, 0).await;
                }
            }
            Irq::KickWork => self.deliver_kicks(cpu).await,
            Irq::Timer { timer, number } => {
                let due = self.with(|core| {
                    let due = core.timers.get(&timer) == Some(&number);
                    if due {
                        core.timers.remove(&timer);
                    }
                    due && core.phase == Phase::Enabled
                });
                if due {
                    self.call(cpu, Callback::Timer { timer }).await;
                }
            }
            Irq::Watchdog => self.with(|core| core.watchdog(cpu)),
            Irq::Hotplug { cpu: of, online } => self.hotplug(cpu, of, online).await,
            Irq::Outdated { cpu: of, online } => self.with(|core| {
                let way = if online { "on" } else { "off" };
                let message = format!("cpu {of} going {way}line, exiting scheduler");
                core.exit_with(cpu, ExitKind::UnregKern, ECODE_RESTART_HOTPLUG, message);
            }),
            Irq::Bypass { on } => self.set_bypass(cpu, on).await,
        }
    }

    /// `sched_tick()`.
    async fn tick(&self, cpu: u32, series: u64) {
        self.lock_rq(cpu, cpu).await;
        let curr = self.with_fields(|core, fields| {
            core.update_curr(cpu, fields);
            let curr = core.rq(cpu).curr?;
            core.get(curr).is_ext().then_some(curr)
        });
        if let Some(task) = curr {
            if self.with_fields(|core, fields| {
                if core.bypassing() {
                    // The policy is out of the way: everyone in turn.
                    fields.set_slice(task, 0);
                }
                !core.bypassing()
            }) {
                self.call(cpu, Callback::Tick { task }).await;
            }
            self.with_fields(|core, fields| {
                if fields.slice(task) == 0 {
                    core.resched(cpu, cpu);
                }
            });
        }
        self.with(|core| {
            core.tick_higher(cpu);
            if core.rq(cpu).tick_series == series && core.rq(cpu).ticking {
                core.next_tick(cpu);
            }
        });
        self.unlock_rq(cpu);
    }

    /// `kick_cpus_irq_workfn()`.
    async fn deliver_kicks(&self, cpu: u32) {
        let kicks = self.with(|core| {
            let rq = core.rq(cpu);
            rq.kick_work = false;
            std::mem::take(&mut rq.kicks)
        });
        let mut waits = Vec::new();
        for target in kicks.kick.iter() {
            self.lock_rq(cpu, target).await;
            let wait = self.kick_one(cpu, target, &kicks);
            self.unlock_rq(target);
            waits.extend(wait.map(|seq| (target, seq)));
        }
        for target in kicks.if_idle.iter() {
            self.lock_rq(cpu, target).await;
            self.with(|core| {
                let rq = core.rq(target);
                if (rq.curr.is_none() || rq.in_balance) && (rq.online || target == cpu) {
                    core.resched(cpu, target);
                }
            });
            self.unlock_rq(target);
        }
        for (target, seq) in waits {
            self.wait_for_pick(cpu, target, seq).await;
        }
    }

    /// `kick_one_cpu()`; the number of its picks if this CPU is to wait for the next.
    fn kick_one(&self, cpu: u32, target: u32, kicks: &Kicks) -> Option<u64> {
        self.with_fields(|core, fields| {
            let higher = core.curr_rank(target) > 1;
            if higher || !(core.rq(target).online || target == cpu) {
                return None;
            }
            if kicks.preempt.contains(target)
                && let Some(curr) = core.rq(target).curr
            {
                core.update_curr(target, fields);
                fields.set_slice(curr, 0);
            }
            core.resched(cpu, target);
            let waits = kicks.wait.contains(target) && target != cpu;
            waits.then(|| core.rq(target).pick_seq)
        })
    }

    /// `SCX_KICK_WAIT`. A CPU that is to reschedule itself does so first: two CPUs that
    /// wait for each other would wait for ever.
    async fn wait_for_pick(&self, cpu: u32, target: u32, seq: u64) {
        while self.with(|core| {
            let waits = core.rq(target).pick_seq == seq && !core.rq(cpu).need_resched;
            if waits {
                core.rq(target).pick_waiters.push(cpu);
            }
            waits
        }) {
            self.pause(cpu).await;
        }
    }

    /// `run_deferred()`.
    pub(super) async fn deferred_work(&self, cpu: u32) {
        if !self.with(|core| std::mem::take(&mut core.rq(cpu).deferred_work)) {
            return;
        }
        self.lock_rq(cpu, cpu).await;
        self.with_fields(|core, fields| core.deferred_inserts(cpu, fields));
        for task in self.with(|core| core.take_late(cpu)) {
            self.enqueue_again(cpu, task).await;
        }
        let queues = self.with(|core| std::mem::take(&mut core.rq(cpu).reenq));
        for queue in queues {
            let tasks: Vec<TaskId> =
                self.with(|core| core.queue(queue).iter().map(|entry| entry.task).collect());
            for task in tasks {
                let there = self.with(|core| {
                    core.get(task).scx.on.map(|(on, _)| on) == Some(queue)
                        && core.remove(cpu, task).is_some()
                });
                if there {
                    self.enqueue_again(cpu, task).await;
                }
            }
        }
        self.unlock_rq(cpu);
    }

    /// `task`, which was taken out of its queue, goes to the policy once more.
    async fn enqueue_again(&self, cpu: u32, task: TaskId) {
        self.with(|core| core.count_reenq(task));
        self.do_enqueue(cpu, task, enq::REENQ, false).await;
    }

    /// A CPU goes offline or comes back.
    async fn hotplug(&self, cpu: u32, of: u32, online: bool) {
        if self.with(|core| core.rq(of).online == online || core.online.weight() == 1 && !online) {
            return;
        }
        let (op, callback) = match online {
            true => (Op::CpuOnline, Callback::CpuOnline { cpu: of }),
            false => (Op::CpuOffline, Callback::CpuOffline { cpu: of }),
        };
        let knows = self.with(|core| core.has(op));
        if knows {
            self.call(cpu, callback).await;
        }
        self.with(|core| {
            if !knows {
                let outdated = Irq::Outdated { cpu: of, online };
                core.interrupt(cpu, HELPER_NS, outdated);
            }
            core.set_online(of, online);
            core.resched(cpu, of);
        });
        if online {
            return;
        }
        let stranded: Vec<TaskId> = self.with(|core| {
            let ids = (0..core.tasks.len() as u32).map(TaskId);
            ids.filter(|&task| core.get(task).cpu == of && core.get(task).on_rq)
                .collect()
        });
        for task in stranded {
            self.lock_task(cpu, task).await;
            self.move_queued(cpu, task).await;
            self.unlock_task(task);
        }
    }

    /// `scx_bypass()`: the core does without the policy, or with it again. Every task
    /// that waits is queued anew by the rules that hold now.
    pub(super) async fn set_bypass(&self, cpu: u32, on: bool) {
        let changed = self.with(|core| {
            let was = core.bypassing();
            core.bypass = match on {
                true => core.bypass + 1,
                false => core.bypass.saturating_sub(1),
            };
            was != core.bypassing()
        });
        if !changed {
            return;
        }
        for of in 0..self.with(|core| core.machine.nr_cpu_ids()) {
            self.lock_rq(cpu, of).await;
            let waiting: Vec<TaskId> = self.with(|core| {
                let ids = (0..core.tasks.len() as u32).map(TaskId);
                ids.filter(|&task| {
                    let p = core.get(task);
                    p.cpu == of && p.scx.queued && p.scx.on_runnable_list
                })
                .collect()
            });
            for task in waiting {
                if self.with(|core| core.get(task).cpu == of && core.get(task).scx.queued) {
                    let change = self.change_begin(cpu, task).await;
                    self.change_end(cpu, task, change).await;
                }
            }
            self.with(|core| core.resched(cpu, of));
            self.unlock_rq(of);
        }
    }
}

impl Core {
    /// A real-time task that takes turns gives way to its equals.
    fn tick_higher(&mut self, cpu: u32) {
        let Some(curr) = self.rq(cpu).curr else {
            return;
        };
        let p = self.get(curr);
        let turns = matches!(p.class, Class::Rt { turns: true, .. } | Class::Fair);
        if turns && p.turn_left_ns == 0 {
            let rank = p.rank();
            if self.rq(cpu).higher_rank() == Some(rank) {
                self.resched(cpu, cpu);
            }
        }
    }

    /// The watchdog's timeout in nanoseconds.
    pub(super) fn timeout_ns(&self) -> u64 {
        let ms = match self.table.timeout_ms {
            0 => TIMEOUT_MS_MAX,
            ms => ms.min(TIMEOUT_MS_MAX),
        };
        u64::from(ms) * 1_000_000
    }

    /// `scx_watchdog_workfn()`: every half of the timeout, all that wait.
    fn watchdog(&mut self, cpu: u32) {
        let timeout_ns = self.timeout_ns();
        let now_ns = self.now_ns;
        let stalled = self.tasks.iter().find(|task| {
            task.scx.on_runnable_list
                && task.wants == Wants::Cpu
                && now_ns - task.scx.runnable_at_ns > timeout_ns
        });
        if let Some(task) = stalled {
            let waited_ms = (now_ns - task.scx.runnable_at_ns) / 1_000_000;
            let message = format!(
                "{} failed to run for {}.{:03}s",
                task.label(),
                waited_ms / 1000,
                waited_ms % 1000
            );
            self.exit_with(cpu, ExitKind::ErrorStall, 0, message);
            return;
        }
        self.interrupt(cpu, timeout_ns / 2, Irq::Watchdog);
    }

    fn set_online(&mut self, cpu: u32, online: bool) {
        let now_ns = self.now_ns;
        self.rq(cpu).online = online;
        if online {
            self.online.insert(cpu);
        } else {
            self.online.remove(cpu);
            self.stats.beside.halts(cpu, false, now_ns);
        }
        let idles = self.rqs[cpu as usize].curr.is_none();
        self.idle.set_online(&self.machine, cpu, online, idles);
    }
}
