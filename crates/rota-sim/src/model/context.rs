// SPDX-License-Identifier: GPL-2.0-only
//! What a callback can ask of the core: the kfuncs.
//!
//! Every method has the kfunc's name without `scx_bpf_`. Mistakes are noted as
//! the kernel notes them and end the policy once the callback has returned.

use super::consts::{ExitKind, dsq, enq, errno, kick, wake};
use super::core::{Core, DsqIter, UserDsq};
use super::dsq::Dsq;
use super::event::Irq;
use super::idle::{Search, any_and};
use super::ops::{Fields, Op};
use super::queueing::{Insertion, apply_slice};
use super::rq::Buffered;
use super::task::{DirectDispatch, QueueId};
use crate::kernel_api::{CpuMask, DsqInsert, DsqMove, IdleMask, IterId, TaskId};
use crate::trace;

/// The core, as a callback that runs on a CPU sees it.
pub struct Context<'a> {
    pub(super) core: &'a mut Core,
    pub(super) cpu: u32,
}

/// `enum scx_kf_mask`: groups of kfuncs by the callbacks that may call them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    CpuRelease = 1,
    Dispatch = 2,
    Enqueue = 4,
    SelectCpu = 8,
}

impl Context<'_> {
    fn op(&self) -> Option<Op> {
        self.core.active[self.cpu as usize].map(|active| active.op)
    }

    /// The mask of `op` in the kernel's check, 0 for those that hold no lock.
    fn mask(op: Op) -> u32 {
        match op {
            // An operation may call what is nested in it: 6.12's scx_kf_allowed_if_unlocked
            // and the ranges of its masks come to this.
            Op::SelectCpu => Group::SelectCpu as u32 | Group::Enqueue as u32,
            Op::Enqueue => Group::Enqueue as u32,
            Op::Dispatch => Group::Dispatch as u32 | Group::Enqueue as u32,
            Op::CpuRelease => Group::CpuRelease as u32,
            Op::Init | Op::InitTask | Op::Exit | Op::CpuOnline | Op::CpuOffline => 0,
            _ => 16,
        }
    }

    /// Whether the running callback may call a kfunc of `group`; an error if not.
    /// Since 7.1 the verifier refuses such a program.
    fn allowed(&mut self, group: Group, unlocked: bool) -> bool {
        let Some(op) = self.op() else {
            return true;
        };
        let mask = Self::mask(op);
        let group = group as u32;
        if mask & group != 0 || (mask == 0 && unlocked) {
            return true;
        }
        self.core.error(
            self.cpu,
            format!("kfunc with mask {group:#x} called from an operation only allowing {mask:#x}"),
        );
        false
    }

    fn fail(&mut self, message: String) {
        self.core.error(self.cpu, message);
    }

    /// The time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.core.now_ns
    }

    /// The time in ticks.
    pub fn jiffies(&self) -> u64 {
        self.core.jiffies()
    }

    /// The CPU on which the callback runs.
    pub fn cpu(&self) -> u32 {
        self.cpu
    }

    /// The task that runs on that CPU; `None` is the idle task.
    pub fn current(&self) -> Option<TaskId> {
        self.core.rqs[self.cpu as usize].curr
    }

    /// A random number of the run.
    pub fn random(&mut self) -> u32 {
        self.core.random.next_u64() as u32
    }

    /// One more than the highest CPU number.
    pub fn nr_cpu_ids(&self) -> u32 {
        self.core.machine.nr_cpu_ids()
    }

    /// Nodes of the machine.
    pub fn nr_node_ids(&self) -> u32 {
        self.core.machine.nodes().len() as u32
    }

    /// The node of `cpu`, or -1 and an error.
    pub fn cpu_node(&mut self, cpu: i32) -> i32 {
        match self.core.valid_cpu(self.cpu, cpu.into(), "") {
            true => self.core.node_of(cpu as u32) as i32,
            false => -1,
        }
    }

    /// CPUs that there may be.
    pub fn possible_cpus(&self) -> CpuMask {
        self.core.machine.possible()
    }

    /// CPUs that are online.
    pub fn online_cpus(&self) -> CpuMask {
        self.core.online
    }

    /// `check_builtin_idle_enabled()` and the node's side of it.
    fn idle_enabled(&mut self, node: Option<i32>) -> bool {
        let idle = &self.core.idle;
        let problem = match (idle.enabled, idle.per_node, node.is_some()) {
            (false, _, _) => "built-in idle tracking is disabled",
            (true, true, false) => "per-node idle tracking is enabled",
            (true, false, true) => "per-node idle tracking is disabled",
            _ => return true,
        };
        self.fail(problem.into());
        false
    }

    /// Who idles; the empty set and an error where nobody may ask.
    pub fn idle_mask(&mut self, which: IdleMask, node: Option<i32>) -> CpuMask {
        match self.idle_enabled(node) {
            true => self.peek_idle_mask(which, node),
            false => CpuMask::EMPTY,
        }
    }

    /// Who idles, without any check.
    pub fn peek_idle_mask(&self, which: IdleMask, node: Option<i32>) -> CpuMask {
        let mask = match which {
            IdleMask::Cpu => self.core.idle.cpu,
            IdleMask::Smt => self.core.idle.smt,
        };
        match node {
            None => mask,
            Some(node) => match self.core.machine.nodes().get(node as usize) {
                Some(cpus) => mask.and(cpus),
                None => CpuMask::EMPTY,
            },
        }
    }

    /// Makes a queue.
    pub fn create_dsq(&mut self, id: u64, node: i32) -> i32 {
        if id & dsq::BUILTIN != 0 || node >= self.nr_node_ids() as i32 {
            return errno::INVAL;
        }
        if self.core.user_by_id.contains_key(&id) {
            return errno::EXIST;
        }
        self.core.user_by_id.insert(id, self.core.user.len());
        self.core.user.push(Some(UserDsq {
            id,
            dsq: Dsq::new(),
        }));
        0
    }

    /// Destroys a queue, which must be empty.
    pub fn destroy_dsq(&mut self, id: u64) {
        let Some(&index) = self.core.user_by_id.get(&id) else {
            return;
        };
        let nr = self.core.queue(QueueId::User(index)).len();
        if nr > 0 {
            self.fail(format!(
                "attempting to destroy in-use dsq {id:#018x} (nr={nr})"
            ));
            return;
        }
        self.core.user_by_id.remove(&id);
        self.core.user[index] = None;
    }

    /// `find_local_or_user_dsq()`: without an error.
    fn known_queue(&self, id: u64) -> Option<QueueId> {
        if id == dsq::LOCAL {
            return Some(QueueId::Local(self.cpu));
        }
        if id & dsq::LOCAL_ON == dsq::LOCAL_ON {
            let cpu = id as u32;
            return (cpu < self.nr_cpu_ids()).then_some(QueueId::Local(cpu));
        }
        let index = self.core.user_by_id.get(&id)?;
        Some(QueueId::User(*index))
    }

    /// Tasks in a queue, or `-ENOENT`.
    pub fn dsq_nr_queued(&mut self, id: u64) -> i32 {
        match self.known_queue(id) {
            Some(queue) => self.core.queue(queue).len() as i32,
            None => errno::NOENT,
        }
    }

    /// The first task of a queue of the policy's.
    pub fn dsq_peek(&mut self, id: u64) -> Option<TaskId> {
        match self.known_queue(id) {
            Some(queue @ QueueId::User(_)) => self.core.queue(queue).first(),
            _ => {
                self.fail(format!("peek on non-existent DSQ {id:#x}"));
                None
            }
        }
    }

    /// `scx_bpf_dsq_insert*()`.
    pub fn dsq_insert(&mut self, fields: &mut dyn Fields, insert: DsqInsert) -> bool {
        if !self.allowed(Group::Enqueue, false) {
            return false;
        }
        let Some(task) = insert.task else {
            self.fail("called with NULL task".into());
            return false;
        };
        if insert.enq_flags & enq::INTERNAL != 0 {
            self.fail(format!("invalid enq_flags {:#x}", insert.enq_flags));
            return false;
        }
        // 7.3 applies both when the task enters its queue, earlier kernels here.
        if !self.core.constants.since(7, 3) {
            apply_slice(task, insert.slice_ns, fields);
            if let Some(vtime) = insert.vtime {
                fields.set_dsq_vtime(task, vtime);
            }
        }
        if self.op() == Some(Op::Dispatch) {
            self.buffer_insert(task, &insert)
        } else {
            self.mark_direct(task, &insert)
        }
    }

    fn buffer_insert(&mut self, task: TaskId, insert: &DsqInsert) -> bool {
        let room = self.core.dispatch_batch();
        let qseq = self.core.get(task).scx.qseq;
        let rq = self.core.rq(self.cpu);
        if rq.buffer.len() >= room {
            self.fail("dispatch buffer overflow".into());
            return false;
        }
        rq.buffer.push(Buffered {
            task,
            qseq,
            dsq: insert.dsq,
            slice_ns: insert.slice_ns,
            vtime: insert.vtime,
            enq_flags: insert.enq_flags,
        });
        true
    }

    /// `mark_direct_dispatch()`: allowed once, and for the task at hand.
    fn mark_direct(&mut self, task: TaskId, insert: &DsqInsert) -> bool {
        let active = self.core.active[self.cpu as usize].as_mut();
        let Some(active) = active else {
            return false;
        };
        let subject = active.task;
        if std::mem::replace(&mut active.dispatched, true) {
            let label = self.core.get(task).label();
            self.fail(format!("{label} already direct-dispatched"));
            return false;
        }
        if subject != Some(task) {
            let wanted = subject.map(|task| self.core.get(task).label());
            let label = self.core.get(task).label();
            self.fail(format!(
                "scheduling for {} but trying to direct-dispatch {label}",
                wanted.unwrap_or_default()
            ));
            return false;
        }
        self.core.task(task).scx.ddsp = Some(DirectDispatch {
            dsq: insert.dsq,
            slice_ns: insert.slice_ns,
            vtime: insert.vtime,
            enq_flags: insert.enq_flags,
        });
        true
    }

    /// `scx_bpf_dsq_move_to_local()`.
    pub fn dsq_move_to_local(&mut self, fields: &mut dyn Fields, id: u64, enq_flags: u64) -> bool {
        if !self.allowed(Group::Dispatch, false) {
            return false;
        }
        self.core.flush(self.cpu, fields);
        let Some(&index) = self.core.user_by_id.get(&id) else {
            self.fail(format!("invalid DSQ ID {id:#018x}"));
            return false;
        };
        let moved = self
            .core
            .consume(self.cpu, QueueId::User(index), enq_flags, fields);
        if moved {
            self.core.rq(self.cpu).nr_dispatched += 1;
        }
        moved
    }

    /// Begins to look through a queue.
    pub fn dsq_iter_new(&mut self, id: u64, flags: u64) -> Result<IterId, i32> {
        if flags & !dsq::ITER_REV != 0 {
            return Err(errno::INVAL);
        }
        let Some(&index) = self.core.user_by_id.get(&id) else {
            return Err(errno::NOENT);
        };
        let iter = DsqIter {
            queue: index,
            reverse: flags & dsq::ITER_REV != 0,
            seq: self.core.queue(QueueId::User(index)).seq(),
            at: None,
            ended: false,
        };
        let free = self.core.iters.iter().position(Option::is_none);
        let number = free.unwrap_or(self.core.iters.len());
        if number == self.core.iters.len() {
            self.core.iters.push(None);
        }
        self.core.iters[number] = Some(iter);
        Ok(IterId(number as u32))
    }

    /// The next task of those that were there when the iterator was made.
    pub fn dsq_iter_next(&mut self, iter: IterId) -> Option<TaskId> {
        let state = self.core.iters.get(iter.0 as usize).copied().flatten()?;
        if state.ended {
            return None;
        }
        let queue = QueueId::User(state.queue);
        self.core.user[state.queue].as_ref()?;
        self.core.queue_lock(self.cpu, queue, 1);
        let mut at = state.at;
        let found = loop {
            let Some(entry) = self.core.queue(queue).neighbour(at, state.reverse) else {
                break None;
            };
            at = Some(entry.place);
            if entry.seq <= state.seq {
                break Some(entry.task);
            }
        };
        self.core.iters[iter.0 as usize] = Some(DsqIter {
            at,
            ended: found.is_none(),
            ..state
        });
        found
    }

    /// Is done with a queue.
    pub fn dsq_iter_destroy(&mut self, iter: IterId) {
        if let Some(slot) = self.core.iters.get_mut(iter.0 as usize) {
            *slot = None;
        }
    }

    /// `scx_bpf_dsq_move*()`.
    pub fn dsq_move(&mut self, fields: &mut dyn Fields, iter: Option<IterId>, to: DsqMove) -> bool {
        if !self.allowed(Group::Dispatch, true) {
            return false;
        }
        let state = iter.and_then(|iter| self.core.iters.get(iter.0 as usize).copied().flatten());
        let (Some(state), Some(task)) = (state, to.task) else {
            return false;
        };
        let from = QueueId::User(state.queue);
        let p = self.core.get(task);
        // Taken, or just about to be: see may_run_on().
        if p.scx.on.map(|(queue, _)| queue) != Some(from) || !p.on_rq {
            return false;
        }
        let mut queue = self.core.find_queue(self.cpu, to.dsq, task);
        if let QueueId::Local(on) = queue {
            queue = self.core.local_or_global(self.cpu, task, on);
        }
        if let Some(slice_ns) = to.slice_ns {
            fields.set_slice(task, slice_ns);
        }
        let vtime = to
            .by_vtime
            .then(|| to.vtime.unwrap_or_else(|| fields.dsq_vtime(task)));
        if let (Some(vtime), false) = (to.vtime, to.by_vtime) {
            fields.set_dsq_vtime(task, vtime);
        }
        let held = self.core.get(task).scx.custody;
        self.core.remove(self.cpu, task);
        self.core.task(task).scx.custody = held;
        if let QueueId::Local(on) = queue {
            self.core.set_task_cpu(task, on, fields);
        }
        let insertion = Insertion {
            queue,
            slice_ns: None,
            vtime,
            enq_flags: to.enq_flags,
        };
        self.core.insert(self.cpu, task, insertion, fields);
        self.core.rq(self.cpu).nr_dispatched += 1;
        true
    }

    /// Room left in the dispatch buffer.
    pub fn dispatch_nr_slots(&mut self) -> u32 {
        if !self.allowed(Group::Dispatch, false) {
            return 0;
        }
        let room = self.core.dispatch_batch();
        (room - self.core.rq(self.cpu).buffer.len()) as u32
    }

    /// Takes the last insertion back.
    pub fn dispatch_cancel(&mut self) {
        if self.allowed(Group::Dispatch, false) && self.core.rq(self.cpu).buffer.pop().is_none() {
            self.fail("dispatch buffer underflow".into());
        }
    }

    /// Enqueues this CPU's local queue again, once the callback has returned.
    pub fn reenqueue_local(&mut self) -> u32 {
        if !self.allowed(Group::CpuRelease, false) {
            return 0;
        }
        let count = self.core.rq(self.cpu).local.len() as u32;
        self.core.rq(self.cpu).reenq.push(QueueId::Local(self.cpu));
        self.core.defer(self.cpu);
        count
    }

    /// Enqueues the tasks of a queue again, later.
    pub fn dsq_reenq(&mut self, id: u64, _flags: u64) {
        match self.known_queue(id) {
            Some(queue) => {
                self.core.rq(self.cpu).reenq.push(queue);
                self.core.defer(self.cpu);
            }
            None => self.fail(format!("invalid DSQ ID {id:#018x}")),
        }
    }

    /// Sends a CPU through the scheduler, once the callback has returned.
    pub fn kick_cpu(&mut self, cpu: i32, flags: u64) {
        if !self.core.valid_cpu(self.cpu, cpu.into(), "") || self.core.bypassing() {
            return;
        }
        let target = cpu as u32;
        self.core.stats.kicks += 1;
        self.core.record(
            self.cpu,
            trace::Event::Kick,
            None,
            target.into(),
            flags as u32,
        );
        if flags & kick::IDLE != 0 {
            if flags & (kick::PREEMPT | kick::WAIT) != 0 {
                self.fail("PREEMPT/WAIT cannot be used with SCX_KICK_IDLE".into());
            }
            let rq = self.core.rq(target);
            // can_skip_idle_kick(): it is busy and not about to look for something. Under
            // its lock, if that is to be had: who holds it may be on the way to idle.
            if rq.lock.is_free() && rq.curr.is_some() && !rq.in_balance {
                return;
            }
            self.core.rq(self.cpu).kicks.if_idle.insert(target);
        } else {
            let kicks = &mut self.core.rq(self.cpu).kicks;
            kicks.kick.insert(target);
            if flags & kick::PREEMPT != 0 {
                kicks.preempt.insert(target);
            }
            if flags & kick::WAIT != 0 {
                kicks.wait.insert(target);
            }
        }
        let cpu = self.cpu;
        if !self.core.rq(cpu).online {
            // Its interrupts are off and never on again: the work stays in the CPU's list, and
            // more of it is not raised because the list is not empty.
            self.core.stats.kicks_lost += 1;
            self.core.rq(cpu).kick_work = true;
        } else if !std::mem::replace(&mut self.core.rq(cpu).kick_work, true) {
            self.core.interrupt(cpu, 0, Irq::KickWork);
        }
    }

    /// The kernel's search for a CPU: the CPU, and whether it idles and is claimed.
    pub fn select_cpu_dfl(&mut self, task: TaskId, prev: i32, wake_flags: u64) -> (i32, bool) {
        let allowed = self.core.get(task).allowed;
        match self.select(task, prev, wake_flags, &allowed, 0) {
            cpu if cpu >= 0 => (cpu, true),
            _ => (prev, false),
        }
    }

    /// The same among `allowed`; a negative number if none idles.
    pub fn select_cpu_and(
        &mut self,
        task: TaskId,
        prev: i32,
        wake_flags: u64,
        allowed: &CpuMask,
        flags: u64,
    ) -> i32 {
        let allowed = allowed.and(&self.core.get(task).allowed);
        self.select(task, prev, wake_flags, &allowed, flags)
    }

    /// `select_cpu_from_kfunc()`.
    fn select(
        &mut self,
        task: TaskId,
        prev: i32,
        wake_flags: u64,
        allowed: &CpuMask,
        flags: u64,
    ) -> i32 {
        let anywhere = self.core.constants.since(6, 16);
        let group = match self.op() {
            Some(Op::Enqueue) if anywhere => Group::Enqueue,
            _ => Group::SelectCpu,
        };
        if !self.allowed(group, anywhere) {
            return errno::INVAL;
        }
        if !self.core.valid_cpu(self.cpu, prev.into(), "") {
            return errno::INVAL;
        }
        if !self.core.idle.enabled {
            self.fail("built-in idle tracking is disabled".into());
            return errno::BUSY;
        }
        let prev = prev as u32;
        let p = self.core.get(task);
        if p.nr_allowed == 1 || p.migration_disabled > 0 {
            let core = &mut *self.core;
            let claimed = allowed.contains(prev) && core.idle.claim(&core.machine, prev);
            return if claimed { prev as i32 } else { errno::BUSY };
        }
        self.core
            .select_idle(self.cpu, prev, wake_flags, allowed, flags)
            .map_or_else(|error| error, |cpu| cpu as i32)
    }

    /// Claims an idle CPU among `allowed`.
    pub fn pick_idle_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32 {
        if !self.idle_enabled(node) {
            return errno::BUSY;
        }
        let core = &mut *self.core;
        let node = node.and_then(|node| u32::try_from(node).ok());
        let distribute = &mut core.rqs[self.cpu as usize].distribute;
        core.idle
            .pick_near(&core.machine, allowed, node, flags, distribute)
            .map_or(errno::BUSY, |cpu| cpu as i32)
    }

    /// The same, or else any CPU of `allowed`.
    pub fn pick_any_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32 {
        if self.core.idle.enabled {
            let idle = self.pick_idle_cpu(allowed, node, flags);
            if idle >= 0 {
                return idle;
            }
        }
        let online = self.core.online;
        let distribute = &mut self.core.rq(self.cpu).distribute;
        any_and(allowed, &online, distribute).map_or(errno::BUSY, |cpu| cpu as i32)
    }

    /// Claims `cpu` if it idles.
    pub fn test_and_clear_cpu_idle(&mut self, cpu: i32) -> bool {
        if !self.core.idle.enabled {
            self.fail("built-in idle tracking is disabled".into());
            return false;
        }
        if !self.core.valid_cpu(self.cpu, cpu.into(), "") {
            return false;
        }
        let core = &mut *self.core;
        core.idle.claim(&core.machine, cpu as u32)
    }

    /// The CPU that a task is on, or was last.
    pub fn task_cpu(&self, task: TaskId) -> u32 {
        self.core.get(task).cpu
    }

    /// Whether a task runs now.
    pub fn task_running(&self, task: TaskId) -> bool {
        let cpu = self.core.get(task).cpu;
        self.core.rqs[cpu as usize].curr == Some(task)
    }

    /// The task that runs on `cpu`.
    pub fn cpu_curr(&mut self, cpu: i32) -> Option<TaskId> {
        match self.core.valid_cpu(self.cpu, cpu.into(), "") {
            true => self.core.rq(cpu as u32).curr,
            false => None,
        }
    }

    /// What `cpu` can do at most, of 1024.
    pub fn cpuperf_cap(&mut self, cpu: i32) -> u32 {
        match self.core.valid_cpu(self.cpu, cpu.into(), "") {
            true => self.core.machine.capacity(cpu as u32),
            false => 1024,
        }
    }

    /// How fast `cpu` is, of 1024: what was asked for last.
    pub fn cpuperf_cur(&mut self, cpu: i32) -> u32 {
        match self.core.valid_cpu(self.cpu, cpu.into(), "") {
            true => self.core.rq(cpu as u32).perf,
            false => 1024,
        }
    }

    /// Asks for a speed, which the model remembers but does not act on.
    pub fn cpuperf_set(&mut self, cpu: i32, perf: u32) {
        if perf > 1024 {
            self.fail(format!("Invalid cpuperf target {perf} for CPU {cpu}"));
        } else if self.core.valid_cpu(self.cpu, cpu.into(), "") {
            self.core.rq(cpu as u32).perf = perf;
        }
    }

    /// How often an event happened, by its name.
    pub fn event(&self, name: &str) -> i64 {
        self.core.stats.events.get(name).copied().unwrap_or(0)
    }

    /// `scx_bpf_error()`.
    pub fn error(&mut self, message: String) {
        self.core
            .exit_with(self.cpu, ExitKind::ErrorBpf, 0, message);
    }

    /// `scx_bpf_exit()`.
    pub fn exit(&mut self, code: i64, message: String) {
        self.core
            .exit_with(self.cpu, ExitKind::UnregBpf, code, message);
    }

    /// `scx_bpf_dump()`. The model makes no dumps, so nobody may call it.
    pub fn dump(&mut self, text: String) {
        if self.core.exit.is_none() {
            self.fail("scx_bpf_dump() must only be called from ops.dump() and friends".into());
        }
        self.core.dump.push_str(&text);
    }

    /// Starts a timer, or sets it anew.
    pub fn timer_start(&mut self, timer: u64, at_ns: u64) {
        self.core.timer_number += 1;
        let number = self.core.timer_number;
        self.core.timers.insert(timer, number);
        let delay = at_ns.saturating_sub(self.core.now_ns);
        self.core
            .interrupt(self.cpu, delay, Irq::Timer { timer, number });
    }

    /// Takes a timer back; true if it waited.
    pub fn timer_cancel(&mut self, timer: u64) -> bool {
        self.core.timers.remove(&timer).is_some()
    }
}

impl Core {
    pub(super) fn dispatch_batch(&self) -> usize {
        match self.table.dispatch_max_batch {
            0 => super::consts::DISPATCH_BATCH as usize,
            batch => batch as usize,
        }
    }

    /// `scx_select_cpu_dfl()` by `cpu`.
    pub(super) fn select_idle(
        &mut self,
        cpu: u32,
        prev: u32,
        wake_flags: u64,
        allowed: &CpuMask,
        flags: u64,
    ) -> Result<u32, i32> {
        let sync_waker = (wake_flags & wake::SYNC != 0).then(|| {
            let rq = &self.rqs[cpu as usize];
            let exits = rq.curr.is_some_and(|curr| self.get(curr).exiting);
            (cpu, !exits && rq.local.is_empty())
        });
        let search = Search {
            allowed,
            prev,
            sync_waker,
            flags,
        };
        let distribute = &mut self.rqs[cpu as usize].distribute;
        self.idle.select(&self.machine, &search, distribute)
    }
}
