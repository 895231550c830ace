// SPDX-License-Identifier: GPL-2.0-only
//! What tasks ask of the kernel.

use super::behaviour::{Act, ChannelId, ChannelKind, TaskView};
use super::consts::wake;
use super::core::Core;
use super::event::Irq;
use super::kernel::Kernel;
use super::ops::{Callback, Op, TaskField};
use super::task::Wants;
use crate::kernel_api::TaskId;

impl Kernel {
    /// The next thing that the task on `cpu` does, up to where it uses the CPU again,
    /// sleeps, or the CPU is to reschedule.
    pub(super) async fn syscall(&self, cpu: u32, task: TaskId) {
        let act = self.with(|core| core.next_act(task));
        let took = self.with(|core| core.act_ns(&act));
        self.delay(cpu, took).await;
        match act {
            Act::Run(ns) => self.with(|core| core.task(task).work_left_ns = ns.max(1)),
            Act::SleepUntil(at_ns) => self.with(|core| core.sleep_until(cpu, task, at_ns)),
            Act::Yield => self.sched_yield(cpu, task).await,
            Act::Send(channel) => self.send(cpu, task, channel).await,
            Act::Receive(channel) => self.receive(cpu, task, channel).await,
            Act::Fork(new) => {
                self.fork(cpu, task, *new).await;
            }
            Act::Reap => self.with(|core| core.reap(cpu, task)),
            // WF_EXEC: sched_ext answers prev_cpu, so the task stays.
            Act::Exec => {}
            Act::SetAffinity(whom, allowed) => self.set_affinity(cpu, whom, allowed).await,
            Act::SetNice(whom, nice) => self.set_nice(cpu, whom, nice).await,
            Act::DisableMigration(on) => self.with_fields(|core, fields| {
                let p = core.task(task);
                p.migration_disabled = on.into();
                fields.publish(task, TaskField::MigrationDisabled, on.into());
                if !on && !core.get(task).allowed.contains(cpu) {
                    core.resched(cpu, cpu);
                }
            }),
            Act::Exit => self.exit(cpu, task).await,
        }
    }

    /// `sched_yield()`.
    async fn sched_yield(&self, cpu: u32, task: TaskId) {
        self.lock_rq(cpu, cpu).await;
        if self.with(|core| core.get(task).is_ext()) {
            if self.with(|core| core.has(Op::Yield)) {
                let callback = Callback::Yield {
                    from: task,
                    to: None,
                };
                self.call(cpu, callback).await;
            } else {
                self.with_fields(|core, fields| {
                    core.update_curr(cpu, fields);
                    fields.set_slice(task, 0);
                });
            }
        } else {
            self.with(|core| core.task(task).turn_left_ns = 0);
        }
        self.with(|core| core.resched(cpu, cpu));
        self.unlock_rq(cpu);
    }

    async fn send(&self, cpu: u32, task: TaskId, id: ChannelId) {
        let receiver = self.with(|core| core.put_word(cpu, task, id));
        if let Some(receiver) = receiver {
            self.wake_channel(cpu, receiver, id).await;
        }
    }

    async fn receive(&self, cpu: u32, task: TaskId, id: ChannelId) {
        let sender = self.with(|core| core.take_word(cpu, task, id));
        if let Some(sender) = sender {
            self.wake_channel(cpu, sender, id).await;
        }
    }

    async fn wake_channel(&self, cpu: u32, task: TaskId, id: ChannelId) {
        let flags = self.with(|core| match core.channels[id.0 as usize].kind {
            ChannelKind::Futex => 0,
            ChannelKind::Pipe | ChannelKind::Socket => wake::SYNC,
        });
        self.wake(cpu, task, flags).await;
    }

    /// `do_exit()`: the parent hears of it, then the task leaves its CPU for good.
    async fn exit(&self, cpu: u32, task: TaskId) {
        let parent = self.with_fields(|core, fields| {
            core.task(task).exiting = true;
            fields.publish(task, TaskField::Exiting, 1);
            core.get(task).parent
        });
        let took = self.with(|core| core.costs.exit_ns);
        self.delay(cpu, took).await;
        if let Some(parent) = parent {
            let reaps = self.with(|core| {
                let p = core.task(parent);
                p.zombies += 1;
                std::mem::take(&mut p.reaping)
            });
            if reaps {
                self.wake(cpu, parent, 0).await;
            }
        }
        self.with(|core| core.leave(cpu, task, Wants::End));
    }
}

impl Core {
    fn next_act(&mut self, task: TaskId) -> Act {
        let now_ns = self.now_ns;
        let p = self.task(task);
        if let Some(act) = p.retry.take() {
            return act;
        }
        let Some(mut behaviour) = p.behaviour.take() else {
            return Act::Exit;
        };
        let act = behaviour.next(TaskView {
            now_ns,
            task,
            children: p.children,
            ops: &mut p.stats.ops,
            misses: &mut p.stats.misses,
        });
        p.behaviour = Some(behaviour);
        act
    }

    /// What an act costs before it has its effect.
    fn act_ns(&self, act: &Act) -> u64 {
        let costs = &self.costs;
        let channel = |id: &ChannelId| match self.channels[id.0 as usize].kind {
            ChannelKind::Futex => 0,
            ChannelKind::Pipe => costs.pipe_ns,
            ChannelKind::Socket => costs.socket_ns,
        };
        // No call is free: whoever does nothing else still ends.
        costs.syscall_ns.max(1)
            + match act {
                Act::Run(_) => return 0,
                Act::Send(id) | Act::Receive(id) => channel(id),
                Act::Fork(_) => costs.fork_ns,
                Act::Exec => costs.exec_ns,
                Act::SetAffinity(..) => costs.affinity_ns,
                _ => 0,
            }
    }

    /// The task on `cpu` does not want the CPU any more.
    fn leave(&mut self, cpu: u32, task: TaskId, wants: Wants) {
        self.task(task).wants = wants;
        self.resched(cpu, cpu);
    }

    fn sleep_until(&mut self, cpu: u32, task: TaskId, at_ns: u64) {
        if at_ns <= self.now_ns {
            return;
        }
        let p = self.task(task);
        p.sleep_number += 1;
        let number = p.sleep_number;
        let delay = at_ns - self.now_ns;
        self.interrupt(cpu, delay, Irq::Sleeper { task, number });
        self.leave(cpu, task, Wants::Sleep);
    }

    /// Puts a word into a channel; who has waited for it.
    fn put_word(&mut self, cpu: u32, task: TaskId, id: ChannelId) -> Option<TaskId> {
        let channel = &mut self.channels[id.0 as usize];
        if channel.words < channel.room {
            channel.words += 1;
            return channel.receivers.pop_front();
        }
        channel.senders.push_back(task);
        self.task(task).retry = Some(Act::Send(id));
        self.leave(cpu, task, Wants::Sleep);
        None
    }

    /// Takes a word out of a channel; who has waited for the room.
    fn take_word(&mut self, cpu: u32, task: TaskId, id: ChannelId) -> Option<TaskId> {
        let channel = &mut self.channels[id.0 as usize];
        if channel.words > 0 {
            channel.words -= 1;
            return channel.senders.pop_front();
        }
        channel.receivers.push_back(task);
        self.task(task).retry = Some(Act::Receive(id));
        self.leave(cpu, task, Wants::Sleep);
        None
    }

    fn reap(&mut self, cpu: u32, task: TaskId) {
        let p = self.task(task);
        if p.zombies > 0 {
            p.zombies -= 1;
            p.children -= 1;
        } else if p.children > 0 {
            p.reaping = true;
            p.retry = Some(Act::Reap);
            self.leave(cpu, task, Wants::Sleep);
        }
    }
}
