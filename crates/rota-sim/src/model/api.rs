// SPDX-License-Identifier: GPL-2.0-only
//! The core as programs in the interpreter ask for it: [`CoreApi`] on a
//! [`Context`], and what is shared of tasks in their images.

use super::context::Context;
use super::ops::{Fields, TaskField};
use crate::kernel_api::{
    CoreApi, CpuMask, DsqInsert, DsqMove, IdleMask, Images, IterId, NewTask, TaskId,
};

/// `SCX_TASK_QUEUED` in `scx.flags`, in all kernels.
const SCX_TASK_QUEUED: u64 = 1;
/// `PF_EXITING` in `flags`.
const PF_EXITING: u64 = 4;

impl Fields for Images<'_> {
    fn add_task(&mut self, new: &NewTask<'_>) -> TaskId {
        self.add(new)
    }

    fn remove_task(&mut self, task: TaskId) {
        self.remove(task);
    }

    fn slice(&self, task: TaskId) -> u64 {
        Images::slice(self, task)
    }

    fn set_slice(&mut self, task: TaskId, slice_ns: u64) {
        Images::set_slice(self, task, slice_ns);
    }

    fn dsq_vtime(&self, task: TaskId) -> u64 {
        Images::dsq_vtime(self, task)
    }

    fn set_dsq_vtime(&mut self, task: TaskId, vtime: u64) {
        Images::set_dsq_vtime(self, task, vtime);
    }

    fn set_allowed(&mut self, task: TaskId, allowed: &CpuMask) {
        Images::set_allowed(self, task, allowed);
    }

    fn publish(&mut self, task: TaskId, field: TaskField, value: u64) {
        let (path, value) = match field {
            TaskField::SumExecRuntime => ("se.sum_exec_runtime", value),
            TaskField::Cpu => ("thread_info.cpu", value),
            TaskField::Weight => ("scx.weight", value),
            TaskField::MigrationDisabled => ("migration_disabled", value),
            TaskField::RunnableAt => ("scx.runnable_at", value),
            TaskField::Queued => {
                let flags = self.get(task, "scx.flags").unwrap_or(0);
                ("scx.flags", set_bit(flags, SCX_TASK_QUEUED, value != 0))
            }
            TaskField::Exiting => {
                let flags = self.get(task, "flags").unwrap_or(0);
                ("flags", set_bit(flags, PF_EXITING, value != 0))
            }
        };
        self.set(task, path, value);
    }
}

fn set_bit(word: u64, bit: u64, on: bool) -> u64 {
    if on { word | bit } else { word & !bit }
}

impl CoreApi for Context<'_> {
    fn ktime_ns(&self) -> u64 {
        self.now_ns()
    }

    fn jiffies(&self) -> u64 {
        Context::jiffies(self)
    }

    fn cpu(&self) -> u32 {
        Context::cpu(self)
    }

    fn current(&self) -> Option<TaskId> {
        Context::current(self)
    }

    fn random(&mut self) -> u32 {
        Context::random(self)
    }

    fn nr_cpu_ids(&self) -> u32 {
        Context::nr_cpu_ids(self)
    }

    fn nr_node_ids(&self) -> u32 {
        Context::nr_node_ids(self)
    }

    fn cpu_node(&mut self, cpu: i32) -> i32 {
        Context::cpu_node(self, cpu)
    }

    fn possible_cpus(&self) -> CpuMask {
        Context::possible_cpus(self)
    }

    fn online_cpus(&self) -> CpuMask {
        Context::online_cpus(self)
    }

    fn idle_mask(&mut self, which: IdleMask, node: Option<i32>) -> CpuMask {
        Context::idle_mask(self, which, node)
    }

    fn peek_idle_mask(&self, which: IdleMask, node: Option<i32>) -> CpuMask {
        Context::peek_idle_mask(self, which, node)
    }

    fn create_dsq(&mut self, dsq: u64, node: i32) -> i32 {
        Context::create_dsq(self, dsq, node)
    }

    fn destroy_dsq(&mut self, dsq: u64) {
        Context::destroy_dsq(self, dsq);
    }

    fn dsq_nr_queued(&mut self, dsq: u64) -> i32 {
        Context::dsq_nr_queued(self, dsq)
    }

    fn dsq_peek(&mut self, dsq: u64) -> Option<TaskId> {
        Context::dsq_peek(self, dsq)
    }

    fn dsq_insert(&mut self, images: &mut Images<'_>, insert: DsqInsert) -> bool {
        Context::dsq_insert(self, images, insert)
    }

    fn dsq_move_to_local(&mut self, images: &mut Images<'_>, dsq: u64, enq_flags: u64) -> bool {
        Context::dsq_move_to_local(self, images, dsq, enq_flags)
    }

    fn dsq_iter_new(&mut self, dsq: u64, flags: u64) -> Result<IterId, i32> {
        Context::dsq_iter_new(self, dsq, flags)
    }

    fn dsq_iter_next(&mut self, _: &mut Images<'_>, iter: IterId) -> Option<TaskId> {
        Context::dsq_iter_next(self, iter)
    }

    fn dsq_iter_destroy(&mut self, iter: IterId) {
        Context::dsq_iter_destroy(self, iter);
    }

    fn dsq_move(&mut self, images: &mut Images<'_>, iter: Option<IterId>, to: DsqMove) -> bool {
        Context::dsq_move(self, images, iter, to)
    }

    fn dispatch_nr_slots(&mut self) -> u32 {
        Context::dispatch_nr_slots(self)
    }

    fn dispatch_cancel(&mut self) {
        Context::dispatch_cancel(self);
    }

    fn reenqueue_local(&mut self) -> u32 {
        Context::reenqueue_local(self)
    }

    fn dsq_reenq(&mut self, dsq: u64, flags: u64) {
        Context::dsq_reenq(self, dsq, flags);
    }

    fn kick_cpu(&mut self, cpu: i32, flags: u64) {
        Context::kick_cpu(self, cpu, flags);
    }

    fn select_cpu_dfl(
        &mut self,
        _: &mut Images<'_>,
        task: Option<TaskId>,
        prev_cpu: i32,
        wake_flags: u64,
    ) -> (i32, bool) {
        match task {
            Some(task) => Context::select_cpu_dfl(self, task, prev_cpu, wake_flags),
            None => (prev_cpu, false),
        }
    }

    fn select_cpu_and(
        &mut self,
        _: &mut Images<'_>,
        task: Option<TaskId>,
        prev_cpu: i32,
        wake_flags: u64,
        allowed: &CpuMask,
        flags: u64,
    ) -> i32 {
        match task {
            Some(task) => Context::select_cpu_and(self, task, prev_cpu, wake_flags, allowed, flags),
            None => super::consts::errno::INVAL,
        }
    }

    fn pick_idle_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32 {
        Context::pick_idle_cpu(self, allowed, node, flags)
    }

    fn pick_any_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32 {
        Context::pick_any_cpu(self, allowed, node, flags)
    }

    fn test_and_clear_cpu_idle(&mut self, cpu: i32) -> bool {
        Context::test_and_clear_cpu_idle(self, cpu)
    }

    fn task_cpu(&self, task: TaskId) -> i32 {
        Context::task_cpu(self, task) as i32
    }

    fn task_running(&self, task: TaskId) -> bool {
        Context::task_running(self, task)
    }

    fn cpu_curr(&mut self, cpu: i32) -> Option<TaskId> {
        Context::cpu_curr(self, cpu)
    }

    fn cpuperf_cap(&mut self, cpu: i32) -> u32 {
        Context::cpuperf_cap(self, cpu)
    }

    fn cpuperf_cur(&mut self, cpu: i32) -> u32 {
        Context::cpuperf_cur(self, cpu)
    }

    fn cpuperf_set(&mut self, cpu: i32, perf: u32) {
        Context::cpuperf_set(self, cpu, perf);
    }

    fn event(&self, name: &str) -> i64 {
        Context::event(self, name)
    }

    fn error(&mut self, message: String) {
        Context::error(self, message);
    }

    fn exit(&mut self, code: i64, message: String) {
        Context::exit(self, code, message);
    }

    fn dump(&mut self, text: String) {
        Context::dump(self, text);
    }

    fn timer_start(&mut self, timer: u64, at_ns: u64) {
        Context::timer_start(self, timer, at_ns);
    }

    fn timer_cancel(&mut self, timer: u64) -> bool {
        Context::timer_cancel(self, timer)
    }
}
