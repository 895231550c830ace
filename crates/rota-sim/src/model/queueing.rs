// SPDX-License-Identifier: GPL-2.0-only
//! Into queues and out of them: `scx_dispatch_enqueue()` and its kin.

use super::consts::{SLICE_DFL_NS, dsq, enq};
use super::core::Core;
use super::dsq::Order;
use super::ops::{Fields, Op};
use super::rq::Buffered;
use super::task::{DirectDispatch, OpsState, QueueId, to_head};
use crate::kernel_api::TaskId;
use crate::trace;

/// Where a task goes, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Insertion {
    pub(super) queue: QueueId,
    /// The slice that comes with it; `None` leaves the task's as it is.
    pub(super) slice_ns: Option<u64>,
    pub(super) vtime: Option<u64>,
    pub(super) enq_flags: u64,
}

impl Core {
    /// `find_dsq_for_dispatch()`: the queue that a number means to CPU `cpu`, where a
    /// mistake is an error and the global queue.
    pub(super) fn find_queue(&mut self, cpu: u32, number: u64, task: TaskId) -> QueueId {
        let global = QueueId::Global(self.node_of(self.get(task).cpu));
        if number == dsq::LOCAL {
            return QueueId::Local(cpu);
        }
        if number & dsq::LOCAL_ON == dsq::LOCAL_ON {
            let on = number as u32;
            if self.valid_cpu(cpu, i64::from(on), " in SCX_DSQ_LOCAL_ON dispatch verdict") {
                return QueueId::Local(on);
            }
            return global;
        }
        if number == dsq::GLOBAL {
            return global;
        }
        if let Some(&index) = self.user_by_id.get(&number) {
            return QueueId::User(index);
        }
        let label = self.get(task).label();
        self.error(cpu, format!("non-existent DSQ {number:#x} for {label}"));
        global
    }

    /// `ops_cpu_valid()`: an error if there is no such CPU.
    pub(super) fn valid_cpu(&mut self, on: u32, cpu: i64, place: &str) -> bool {
        let valid = (0..self.rqs.len() as i64).contains(&cpu);
        if !valid {
            self.error(on, format!("invalid CPU {}{place}", cpu as i32));
        }
        valid
    }

    /// `scx_dispatch_enqueue()` by `cpu`.
    pub(super) fn insert(
        &mut self,
        cpu: u32,
        task: TaskId,
        insertion: Insertion,
        fields: &mut dyn Fields,
    ) {
        let Insertion {
            queue, enq_flags, ..
        } = insertion;
        debug_assert!(self.get(task).scx.on.is_none(), "in one queue at a time");
        if let Some(slice_ns) = insertion.slice_ns {
            apply_slice(task, slice_ns, fields);
        }
        let user = matches!(queue, QueueId::User(_));
        let mut vtime = insertion.vtime;
        if vtime.is_some() && !user {
            self.error(cpu, "cannot use vtime ordering for built-in DSQs".into());
            vtime = None;
        }
        let order = if vtime.is_some() {
            Order::Vtime
        } else {
            Order::Fifo
        };
        if self.queue(queue).conflicts(order) {
            let had = match order {
                Order::Vtime => "FIFO",
                Order::Fifo => "PRIQ",
            };
            let number = self.queue_number(queue);
            self.error(
                cpu,
                format!("DSQ ID {number:#018x} already had {had}-enqueued tasks"),
            );
        }
        self.queue_lock(cpu, queue, 0);
        let enq_head = self.constants.enq_head;
        let now_ns = self.now_ns;
        self.queue(queue).changes(now_ns);
        let place = match vtime {
            Some(vtime) => {
                fields.set_dsq_vtime(task, vtime);
                self.queue(queue).insert_vtime(task, vtime)
            }
            None => self
                .queue(queue)
                .insert_fifo(task, to_head(enq_flags, enq_head)),
        };
        let len = self.queue(queue).len() as u32;
        let held = user && !self.bypassing();
        let at_once = enq_flags & enq::IMMED != 0 && self.constants.since(7, 1);
        let immed = at_once && matches!(queue, QueueId::Local(_)) && !self.bypassing();
        let p = self.task(task);
        p.scx.immed = immed;
        p.scx.on = Some((queue, place));
        p.scx.ops_state = OpsState::None;
        p.scx.ddsp = None;
        let was_held = std::mem::replace(&mut p.scx.custody, held);
        let number = self.queue_number(queue);
        self.record(cpu, trace::Event::Insert, Some(task), number, len);
        if was_held && !user {
            self.leave_custody(cpu, task, 0);
        }
        if let QueueId::Local(on) = queue {
            self.after_local_insert(cpu, on, task, enq_flags, fields);
        }
    }

    /// `local_dsq_post_enq()`: the CPU whose queue it is may have to act.
    fn after_local_insert(
        &mut self,
        cpu: u32,
        on: u32,
        task: TaskId,
        enq_flags: u64,
        fields: &mut dyn Fields,
    ) {
        if self.get(task).scx.immed && !self.runs_at_once(on, task, enq_flags) {
            self.reenq_immed(on);
        }
        if self.rq(on).in_balance {
            return;
        }
        let mut act = self.curr_rank(on) == 0;
        if enq_flags & enq::PREEMPT != 0
            && let Some(curr) = self.rq(on).curr
            && curr != task
            && self.get(curr).is_ext()
        {
            self.update_curr(on, fields);
            fields.set_slice(curr, 0);
            act = true;
        }
        if act {
            self.resched(cpu, on);
        }
    }

    /// `rq_is_open()`, for `task` in the local queue of `on`: it is the first, and the CPU
    /// idles, chooses, or is made to give up what it runs.
    pub(super) fn runs_at_once(&self, on: u32, task: TaskId, enq_flags: u64) -> bool {
        let rq = &self.rqs[on as usize];
        let higher = !rq.higher.is_empty() || rq.curr.is_some_and(|curr| !self.get(curr).is_ext());
        let gives_way = rq.curr.is_none() || rq.in_balance || enq_flags & enq::PREEMPT != 0;
        rq.local.first() == Some(task) && !higher && gives_way
    }

    /// `cpu` looks soon whether those of its local queue that are to run at once do.
    pub(super) fn reenq_immed(&mut self, cpu: u32) {
        self.rq(cpu).reenq_immed = true;
        self.defer(cpu);
    }

    /// Those that do not, taken out of it.
    pub(super) fn take_late(&mut self, cpu: u32) -> Vec<TaskId> {
        if !std::mem::take(&mut self.rq(cpu).reenq_immed) {
            return Vec::new();
        }
        let waiting: Vec<TaskId> = self.rq(cpu).local.iter().map(|entry| entry.task).collect();
        let late = waiting
            .into_iter()
            .filter(|&task| self.get(task).scx.immed && !self.runs_at_once(cpu, task, 0));
        let late: Vec<TaskId> = late.collect();
        for &task in &late {
            self.remove(cpu, task);
            self.stats.event("SCX_EV_REENQ_IMMED");
        }
        late
    }

    /// A task is about to be queued again.
    pub(super) fn count_reenq(&mut self, task: TaskId) {
        let scx = &mut self.task(task).scx;
        scx.reenqs += 1;
        if scx.reenqs > 1 {
            let repeat = match self.constants.since(7, 3) {
                true => "SCX_EV_REENQ_REPEAT",
                false => "SCX_EV_REENQ_LOCAL_REPEAT",
            };
            self.stats.event(repeat);
        }
    }

    /// Since 7.1 the policy hears of a task that leaves its custody by another way
    /// than `ops.dequeue` itself; before, only of one that it still held.
    pub(super) fn leave_custody(&mut self, cpu: u32, task: TaskId, deq_flags: u64) {
        if self.constants.since(7, 1) && self.has(Op::Dequeue) && !self.bypassing() {
            self.due_dequeues.push((cpu, task, deq_flags));
        }
    }

    /// `dispatch_dequeue()`: out of whatever queue it is in. Where it was.
    pub(super) fn remove(&mut self, cpu: u32, task: TaskId) -> Option<QueueId> {
        let p = self.task(task);
        p.scx.ddsp = None;
        let (queue, place) = p.scx.on.take()?;
        self.queue_lock(cpu, queue, 0);
        let now_ns = self.now_ns;
        self.queue(queue).changes(now_ns);
        self.queue(queue).remove(place);
        let len = self.queue(queue).len() as u32;
        let number = self.queue_number(queue);
        self.record(cpu, trace::Event::Remove, Some(task), number, len);
        Some(queue)
    }

    /// `direct_dispatch()`: does what `select_cpu` or `enqueue` asked for. False if it
    /// has to wait until the lock can be dropped.
    pub(super) fn direct_dispatch(
        &mut self,
        cpu: u32,
        task: TaskId,
        enq_flags: u64,
        fields: &mut dyn Fields,
    ) {
        let on_cpu = self.get(task).cpu;
        let Some(ddsp) = self.get(task).scx.ddsp else {
            return;
        };
        let queue = self.find_queue(on_cpu, ddsp.dsq, task);
        let enq_flags = ddsp.enq_flags | enq_flags;
        if let QueueId::Local(other) = queue
            && other != on_cpu
        {
            // Another CPU's queue needs another CPU's lock.
            let p = self.task(task);
            p.scx.ddsp = Some(DirectDispatch { enq_flags, ..ddsp });
            p.scx.ops_state = OpsState::Queued;
            let rq = self.rq(on_cpu);
            rq.deferred.push(task);
            self.defer(on_cpu);
            return;
        }
        let insertion = Insertion {
            queue,
            slice_ns: Some(ddsp.slice_ns),
            vtime: ddsp.vtime,
            enq_flags,
        };
        self.insert(cpu, task, insertion, fields);
    }

    /// `schedule_deferred()`: `cpu` is to look at its deferred work soon.
    pub(super) fn defer(&mut self, cpu: u32) {
        if !std::mem::replace(&mut self.rq(cpu).deferred_work, true) {
            self.interrupt(cpu, 0, super::event::Irq::DeferredWork);
        }
    }

    /// `process_ddsp_deferred_locals()`.
    pub(super) fn deferred_inserts(&mut self, cpu: u32, fields: &mut dyn Fields) {
        for task in std::mem::take(&mut self.rq(cpu).deferred) {
            let p = self.get(task);
            let Some(ddsp) = p.scx.ddsp.filter(|_| p.scx.queued && p.scx.on.is_none()) else {
                continue;
            };
            if p.cpu != cpu {
                continue;
            }
            let buffered = Buffered {
                task,
                qseq: p.scx.qseq,
                dsq: ddsp.dsq,
                slice_ns: ddsp.slice_ns,
                vtime: ddsp.vtime,
                enq_flags: ddsp.enq_flags,
            };
            self.finish_dispatch(cpu, buffered, fields);
        }
    }

    /// `flush_dispatch_buf()`.
    pub(super) fn flush(&mut self, cpu: u32, fields: &mut dyn Fields) {
        for buffered in std::mem::take(&mut self.rq(cpu).buffer) {
            self.finish_dispatch(cpu, buffered, fields);
            self.rq(cpu).nr_dispatched += 1;
        }
    }

    /// `finish_dispatch()`: an insertion of `ops.dispatch()` takes effect, unless the
    /// task is no longer the policy's, or is so anew.
    fn finish_dispatch(&mut self, cpu: u32, buffered: Buffered, fields: &mut dyn Fields) {
        let Buffered { task, .. } = buffered;
        let p = self.get(task);
        if p.scx.ops_state != OpsState::Queued || p.scx.qseq != buffered.qseq {
            return;
        }
        let queue = self.find_queue(cpu, buffered.dsq, task);
        let mut insertion = Insertion {
            queue,
            slice_ns: Some(buffered.slice_ns),
            vtime: buffered.vtime,
            enq_flags: buffered.enq_flags,
        };
        if let QueueId::Local(on) = queue {
            insertion.queue = self.local_or_global(cpu, task, on);
            if let QueueId::Local(on) = insertion.queue {
                self.set_task_cpu(task, on, fields);
            }
        }
        self.insert(cpu, task, insertion, fields);
    }

    /// `task_can_run_on_remote_rq(enforce)`: the local queue of `on` if the task may
    /// run there, else the global one. A violation of affinity is an error, an
    /// offline CPU is not.
    pub(super) fn local_or_global(&mut self, cpu: u32, task: TaskId, on: u32) -> QueueId {
        let p = self.get(task);
        let (from, label) = (p.cpu, p.label());
        let global = QueueId::Global(self.node_of(from));
        if from != on {
            if !p.allowed.contains(on) {
                self.error(
                    cpu,
                    format!("SCX_DSQ_LOCAL[_ON] target CPU {on} not allowed for {label}"),
                );
                return global;
            }
            if p.migration_disabled > 0 {
                self.error(
                    cpu,
                    format!(
                        "SCX_DSQ_LOCAL[_ON] cannot move migration disabled {label} from CPU {from} to {on}"
                    ),
                );
                return global;
            }
        }
        if !self.rq(on).online {
            self.stats.event("SCX_EV_DISPATCH_LOCAL_DSQ_OFFLINE");
            return global;
        }
        QueueId::Local(on)
    }

    /// `consume_dispatch_q()`: the first task of a queue that may run on `cpu` moves to
    /// its local queue. True if there was one.
    pub(super) fn consume(
        &mut self,
        cpu: u32,
        queue: QueueId,
        enq_flags: u64,
        fields: &mut dyn Fields,
    ) -> bool {
        // An empty queue is seen without its lock.
        if self.queue(queue).is_empty() || !self.rq(cpu).online {
            return false;
        }
        let mut scanned = 0;
        let mut found = None;
        let tasks = &self.tasks;
        let entries = match queue {
            QueueId::User(index) => self.user[index].as_ref().map(|user| &user.dsq),
            QueueId::Global(node) => self.global.get(node as usize),
            QueueId::Bypass(of) => self.bypass_dsqs.get(of as usize),
            QueueId::Local(of) => self.rqs.get(of as usize).map(|rq| &rq.local),
        };
        for entry in entries.into_iter().flat_map(|dsq| dsq.iter()) {
            if tasks[entry.task.0 as usize].may_run_on(cpu) {
                found = Some(entry.task);
                break;
            }
            scanned += 1;
        }
        self.queue_lock(cpu, queue, scanned);
        let Some(task) = found else {
            return false;
        };
        self.move_task(cpu, task, cpu, enq_flags, fields);
        true
    }

    /// A task leaves its queue for the local queue of `on`, where it may run. Both
    /// happen under the lock that was taken to find it.
    pub(super) fn move_task(
        &mut self,
        cpu: u32,
        task: TaskId,
        on: u32,
        enq_flags: u64,
        fields: &mut dyn Fields,
    ) {
        let p = self.task(task);
        let (queue, place) = p.scx.on.take().expect("it waits in a queue");
        let now_ns = self.now_ns;
        self.queue(queue).changes(now_ns);
        self.queue(queue).remove(place);
        let len = self.queue(queue).len() as u32;
        let number = self.queue_number(queue);
        self.record(cpu, trace::Event::Remove, Some(task), number, len);
        self.set_task_cpu(task, on, fields);
        let insertion = Insertion {
            queue: QueueId::Local(on),
            slice_ns: None,
            vtime: None,
            enq_flags,
        };
        self.insert(cpu, task, insertion, fields);
    }

    /// `refill_task_slice_dfl()`.
    pub(super) fn refill(&mut self, task: TaskId, fields: &mut dyn Fields) {
        fields.set_slice(task, SLICE_DFL_NS);
        self.stats.event("SCX_EV_REFILL_SLICE_DFL");
    }

    /// The queue that a task waits in while the core does without the policy: one for
    /// each CPU since 6.19, the global one before.
    pub(super) fn bypass_queue(&self, task: TaskId) -> QueueId {
        let cpu = self.get(task).cpu;
        if self.constants.since(6, 19) {
            QueueId::Bypass(cpu)
        } else {
            QueueId::Global(self.node_of(cpu))
        }
    }
}

/// The slice that comes with an insertion: 0 keeps what the task has, but nobody
/// starts without any.
pub(super) fn apply_slice(task: TaskId, slice_ns: u64, fields: &mut dyn Fields) {
    if slice_ns > 0 {
        fields.set_slice(task, slice_ns);
    } else if fields.slice(task) == 0 {
        fields.set_slice(task, 1);
    }
}
