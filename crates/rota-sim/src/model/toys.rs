// SPDX-License-Identifier: GPL-2.0-only
//! Small policies that show what the model does with a good one and a bad one.

use super::consts::{SLICE_DFL_NS, dsq, flag, kick};
use super::native::{Api, Policy, table};
use super::ops::{Op, OpsTable};
use crate::kernel_api::TaskId;

/// The queue of the toys.
pub const QUEUE: u64 = 1;

/// The kernel's answer for a task that wakes: an idle CPU's local queue.
pub fn place_idle(
    api: &mut Api<'_, '_>,
    task: TaskId,
    prev: u32,
    flags: u64,
    slice_ns: u64,
) -> i32 {
    let (cpu, idle) = api.core.select_cpu_dfl(task, prev as i32, flags);
    if idle {
        api.insert(task, dsq::LOCAL, slice_ns, 0);
    }
    cpu
}

/// After an insertion into a shared queue: send an idle CPU to fetch it.
pub fn kick_idle(api: &mut Api<'_, '_>, task: TaskId) {
    let allowed = api.tasks.get(task).allowed;
    let cpu = api.core.pick_idle_cpu(&allowed, None, 0);
    if cpu >= 0 {
        api.core.kick_cpu(cpu, kick::IDLE);
    }
}

/// For `update_idle`: a task that was queued between this CPU's last look and the
/// moment it counts as idle has had nobody to kick for it.
pub fn recheck(api: &mut Api<'_, '_>, cpu: u32, idle: bool) {
    if idle && api.core.dsq_nr_queued(QUEUE) > 0 {
        api.core.kick_cpu(cpu as i32, kick::IDLE);
    }
}

/// One queue in the order of arrival.
#[derive(Debug, Clone, Copy)]
pub struct GlobalFifo {
    /// Slice in nanoseconds.
    pub slice_ns: u64,
}

impl Default for GlobalFifo {
    fn default() -> Self {
        Self {
            slice_ns: SLICE_DFL_NS,
        }
    }
}

impl Policy for GlobalFifo {
    fn table(&self) -> OpsTable {
        let ops = [
            Op::SelectCpu,
            Op::Enqueue,
            Op::Dispatch,
            Op::UpdateIdle,
            Op::Init,
        ];
        OpsTable {
            flags: flag::KEEP_BUILTIN_IDLE,
            ..table("fifo", ops)
        }
    }

    fn update_idle(&mut self, api: &mut Api<'_, '_>, cpu: u32, idle: bool) {
        recheck(api, cpu, idle);
    }

    fn select_cpu(&mut self, api: &mut Api<'_, '_>, task: TaskId, prev: u32, flags: u64) -> i32 {
        place_idle(api, task, prev, flags, self.slice_ns)
    }

    fn enqueue(&mut self, api: &mut Api<'_, '_>, task: TaskId, enq_flags: u64) {
        api.insert(task, QUEUE, self.slice_ns, enq_flags);
        kick_idle(api, task);
    }

    fn dispatch(&mut self, api: &mut Api<'_, '_>, _: u32, _: Option<TaskId>) {
        api.move_to_local(QUEUE);
    }

    fn init(&mut self, api: &mut Api<'_, '_>) -> i32 {
        api.core.create_dsq(QUEUE, -1)
    }
}

/// One queue in the order of virtual time: run time by weight.
///
/// A task that wakes is at most one slice behind the clock. In dispatch the task
/// that runs competes with the head of the queue, so shares are exact.
#[derive(Debug, Clone)]
pub struct GlobalVtime {
    /// Slice in nanoseconds.
    pub slice_ns: u64,
    clock: u64,
    /// For each task: CPU time up to the last charge.
    charged: Vec<u64>,
}

impl GlobalVtime {
    /// With a slice in nanoseconds.
    pub fn new(slice_ns: u64) -> Self {
        Self {
            slice_ns,
            clock: 0,
            charged: Vec::new(),
        }
    }

    fn charge(&mut self, api: &mut Api<'_, '_>, task: TaskId) -> u64 {
        let image = api.tasks.get(task);
        let (sum, weight) = (image.sum_exec_ns, u64::from(image.weight));
        let ran = sum - self.charged[task.0 as usize];
        self.charged[task.0 as usize] = sum;
        image.vtime.wrapping_add(ran * 100 / weight)
    }

    fn advance(&mut self, vtime: u64) {
        if (self.clock.wrapping_sub(vtime) as i64) < 0 {
            self.clock = vtime;
        }
    }

    fn set_vtime(api: &mut Api<'_, '_>, task: TaskId, vtime: u64) {
        use super::ops::Fields as _;
        api.tasks.set_dsq_vtime(task, vtime);
    }
}

impl Policy for GlobalVtime {
    fn table(&self) -> OpsTable {
        let ops = [
            Op::SelectCpu,
            Op::Enqueue,
            Op::Dispatch,
            Op::Running,
            Op::Stopping,
            Op::Enable,
            Op::UpdateIdle,
            Op::Init,
        ];
        OpsTable {
            flags: flag::KEEP_BUILTIN_IDLE,
            ..table("vtime", ops)
        }
    }

    fn update_idle(&mut self, api: &mut Api<'_, '_>, cpu: u32, idle: bool) {
        recheck(api, cpu, idle);
    }

    fn select_cpu(&mut self, api: &mut Api<'_, '_>, task: TaskId, prev: u32, flags: u64) -> i32 {
        place_idle(api, task, prev, flags, self.slice_ns)
    }

    fn enqueue(&mut self, api: &mut Api<'_, '_>, task: TaskId, enq_flags: u64) {
        let image = api.tasks.get(task);
        let behind = self.slice_ns * 100 / u64::from(image.weight);
        let oldest = self.clock.wrapping_sub(behind);
        let vtime = match (image.vtime.wrapping_sub(oldest) as i64) < 0 {
            true => oldest,
            false => image.vtime,
        };
        api.insert_vtime(task, QUEUE, self.slice_ns, vtime, enq_flags);
        kick_idle(api, task);
    }

    fn dispatch(&mut self, api: &mut Api<'_, '_>, _: u32, prev: Option<TaskId>) {
        if let Some(prev) = prev.filter(|&prev| api.tasks.get(prev).queued) {
            let vtime = self.charge(api, prev);
            Self::set_vtime(api, prev, vtime);
            let first = api.core.dsq_peek(QUEUE);
            let head = first.map(|task| api.tasks.get(task).vtime);
            if head.is_none_or(|head| (vtime.wrapping_sub(head) as i64) <= 0) {
                use super::ops::Fields as _;
                api.tasks.set_slice(prev, self.slice_ns);
                self.advance(vtime);
                return;
            }
        }
        api.move_to_local(QUEUE);
    }

    fn running(&mut self, api: &mut Api<'_, '_>, task: TaskId) {
        let image = api.tasks.get(task);
        self.charged[task.0 as usize] = image.sum_exec_ns;
        self.advance(image.vtime);
    }

    fn stopping(&mut self, api: &mut Api<'_, '_>, task: TaskId, _: bool) {
        let vtime = self.charge(api, task);
        Self::set_vtime(api, task, vtime);
    }

    fn enable(&mut self, api: &mut Api<'_, '_>, task: TaskId) {
        if self.charged.len() <= task.0 as usize {
            self.charged.resize(task.0 as usize + 1, 0);
        }
        Self::set_vtime(api, task, self.clock);
    }

    fn init(&mut self, api: &mut Api<'_, '_>) -> i32 {
        api.core.create_dsq(QUEUE, -1)
    }
}

/// Forgets every task with a certain name.
#[derive(Debug, Clone)]
pub struct Loser {
    /// The name.
    pub comm: &'static str,
    /// The watchdog's timeout in milliseconds.
    pub timeout_ms: u32,
}

impl Policy for Loser {
    fn table(&self) -> OpsTable {
        OpsTable {
            timeout_ms: self.timeout_ms,
            ..table("loser", [Op::Enqueue, Op::SelectCpu])
        }
    }

    fn enqueue(&mut self, api: &mut Api<'_, '_>, task: TaskId, enq_flags: u64) {
        if api.tasks.get(task).comm != self.comm {
            api.insert(task, dsq::GLOBAL, SLICE_DFL_NS, enq_flags);
        }
    }
}
