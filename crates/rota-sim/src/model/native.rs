// SPDX-License-Identifier: GPL-2.0-only
//! Policies written in Rust: one method for each callback.
//!
//! They prove the model, not a policy: what ships runs as the object that ships.

use super::context::Context;
use super::ops::{
    Activation, Callback, ExitInfo, Fault, Fields, Op, Ops, OpsTable, Progress, TaskField,
};
use crate::kernel_api::{CpuMask, DsqInsert, NewTask, TaskId};

/// A task as a native policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskImage {
    /// Process number.
    pub pid: i32,
    /// Name.
    pub comm: String,
    /// `scx.slice` in nanoseconds.
    pub slice_ns: u64,
    /// `scx.dsq_vtime`.
    pub vtime: u64,
    /// `scx.weight`.
    pub weight: u32,
    /// CPU time in nanoseconds.
    pub sum_exec_ns: u64,
    /// Runnable.
    pub queued: bool,
    /// Where it may run.
    pub allowed: CpuMask,
}

/// The images of all tasks.
#[derive(Debug, Default)]
pub struct Table(Vec<TaskImage>);

impl Table {
    /// The image of a task.
    pub fn get(&self, task: TaskId) -> &TaskImage {
        &self.0[task.0 as usize]
    }

    fn at(&mut self, task: TaskId) -> &mut TaskImage {
        &mut self.0[task.0 as usize]
    }
}

impl Fields for Table {
    fn add_task(&mut self, new: &NewTask<'_>) -> TaskId {
        self.0.push(TaskImage {
            pid: new.pid,
            comm: new.comm.to_owned(),
            slice_ns: 0,
            vtime: 0,
            weight: new.weight,
            sum_exec_ns: 0,
            queued: false,
            allowed: new.allowed,
        });
        TaskId(self.0.len() as u32 - 1)
    }

    fn remove_task(&mut self, _: TaskId) {}

    fn slice(&self, task: TaskId) -> u64 {
        self.get(task).slice_ns
    }

    fn set_slice(&mut self, task: TaskId, slice_ns: u64) {
        self.at(task).slice_ns = slice_ns;
    }

    fn dsq_vtime(&self, task: TaskId) -> u64 {
        self.get(task).vtime
    }

    fn set_dsq_vtime(&mut self, task: TaskId, vtime: u64) {
        self.at(task).vtime = vtime;
    }

    fn set_allowed(&mut self, task: TaskId, allowed: &CpuMask) {
        self.at(task).allowed = *allowed;
    }

    fn publish(&mut self, task: TaskId, field: TaskField, value: u64) {
        let image = self.at(task);
        match field {
            TaskField::SumExecRuntime => image.sum_exec_ns = value,
            TaskField::Queued => image.queued = value != 0,
            TaskField::Weight => image.weight = value as u32,
            TaskField::Cpu
            | TaskField::Exiting
            | TaskField::MigrationDisabled
            | TaskField::RunnableAt => {}
        }
    }
}

/// What keeps the core's fields of its tasks in a [`Table`].
pub trait Tabled {
    /// The table.
    fn tasks(&self) -> &Table;
    /// The same, to change it.
    fn tasks_mut(&mut self) -> &mut Table;
}

impl<T: Tabled> Fields for T {
    fn add_task(&mut self, new: &NewTask<'_>) -> TaskId {
        self.tasks_mut().add_task(new)
    }
    fn remove_task(&mut self, task: TaskId) {
        self.tasks_mut().remove_task(task);
    }
    fn slice(&self, task: TaskId) -> u64 {
        self.tasks().slice(task)
    }
    fn set_slice(&mut self, task: TaskId, slice_ns: u64) {
        self.tasks_mut().set_slice(task, slice_ns);
    }
    fn dsq_vtime(&self, task: TaskId) -> u64 {
        self.tasks().dsq_vtime(task)
    }
    fn set_dsq_vtime(&mut self, task: TaskId, vtime: u64) {
        self.tasks_mut().set_dsq_vtime(task, vtime);
    }
    fn set_allowed(&mut self, task: TaskId, allowed: &CpuMask) {
        self.tasks_mut().set_allowed(task, allowed);
    }
    fn publish(&mut self, task: TaskId, field: TaskField, value: u64) {
        self.tasks_mut().publish(task, field, value);
    }
}

/// What a native policy works with in a callback.
pub struct Api<'a, 'b> {
    /// The kfuncs.
    pub core: &'a mut Context<'b>,
    /// The tasks.
    pub tasks: &'a mut Table,
    /// Instructions that the callback is to count as.
    pub insns: u64,
}

impl Api<'_, '_> {
    /// `scx_bpf_dsq_insert()`.
    pub fn insert(&mut self, task: TaskId, dsq: u64, slice_ns: u64, enq_flags: u64) -> bool {
        let insert = DsqInsert {
            task: Some(task),
            dsq,
            slice_ns,
            vtime: None,
            enq_flags,
        };
        self.core.dsq_insert(self.tasks, insert)
    }

    /// `scx_bpf_dsq_insert_vtime()`.
    pub fn insert_vtime(
        &mut self,
        task: TaskId,
        dsq: u64,
        slice_ns: u64,
        vtime: u64,
        enq_flags: u64,
    ) -> bool {
        let insert = DsqInsert {
            task: Some(task),
            dsq,
            slice_ns,
            vtime: Some(vtime),
            enq_flags,
        };
        self.core.dsq_insert(self.tasks, insert)
    }

    /// `scx_bpf_dsq_move_to_local()`.
    pub fn move_to_local(&mut self, dsq: u64) -> bool {
        self.core.dsq_move_to_local(self.tasks, dsq, 0)
    }
}

/// A policy in Rust. A callback that `table()` does not name is not called.
#[allow(
    missing_docs,
    unused_variables,
    reason = "the methods are the kernel's callbacks"
)]
pub trait Policy {
    fn table(&self) -> OpsTable;
    fn select_cpu(&mut self, api: &mut Api<'_, '_>, task: TaskId, prev: u32, flags: u64) -> i32 {
        prev as i32
    }
    fn enqueue(&mut self, api: &mut Api<'_, '_>, task: TaskId, enq_flags: u64) {}
    fn dequeue(&mut self, api: &mut Api<'_, '_>, task: TaskId, deq_flags: u64) {}
    fn dispatch(&mut self, api: &mut Api<'_, '_>, cpu: u32, prev: Option<TaskId>) {}
    fn tick(&mut self, api: &mut Api<'_, '_>, task: TaskId) {}
    fn runnable(&mut self, api: &mut Api<'_, '_>, task: TaskId, enq_flags: u64) {}
    fn running(&mut self, api: &mut Api<'_, '_>, task: TaskId) {}
    fn stopping(&mut self, api: &mut Api<'_, '_>, task: TaskId, runnable: bool) {}
    fn quiescent(&mut self, api: &mut Api<'_, '_>, task: TaskId, deq_flags: u64) {}
    fn yields(&mut self, api: &mut Api<'_, '_>, from: TaskId) {}
    fn set_weight(&mut self, api: &mut Api<'_, '_>, task: TaskId, weight: u32) {}
    fn set_cpumask(&mut self, api: &mut Api<'_, '_>, task: TaskId, allowed: &CpuMask) {}
    fn update_idle(&mut self, api: &mut Api<'_, '_>, cpu: u32, idle: bool) {}
    fn cpu_acquire(&mut self, api: &mut Api<'_, '_>, cpu: u32) {}
    fn cpu_release(&mut self, api: &mut Api<'_, '_>, cpu: u32, task: TaskId) {}
    fn init_task(&mut self, api: &mut Api<'_, '_>, task: TaskId, fork: bool) -> i32 {
        0
    }
    fn exit_task(&mut self, api: &mut Api<'_, '_>, task: TaskId) {}
    fn enable(&mut self, api: &mut Api<'_, '_>, task: TaskId) {}
    fn disable(&mut self, api: &mut Api<'_, '_>, task: TaskId) {}
    fn cpu_online(&mut self, api: &mut Api<'_, '_>, cpu: u32) {}
    fn cpu_offline(&mut self, api: &mut Api<'_, '_>, cpu: u32) {}
    fn init(&mut self, api: &mut Api<'_, '_>) -> i32 {
        0
    }
    fn exit(&mut self, api: &mut Api<'_, '_>, info: &ExitInfo) {}
    fn timer(&mut self, api: &mut Api<'_, '_>, timer: u64) {}
}

/// A native policy behind the seam.
pub struct Native<P> {
    policy: P,
    tasks: Table,
}

impl<P: Policy> Native<P> {
    /// Puts `policy` behind the seam.
    pub fn new(policy: P) -> Self {
        Self {
            policy,
            tasks: Table::default(),
        }
    }
}

impl<P> Tabled for Native<P> {
    fn tasks(&self) -> &Table {
        &self.tasks
    }
    fn tasks_mut(&mut self) -> &mut Table {
        &mut self.tasks
    }
}

/// Instructions that a native callback counts as: a short one in BPF.
const INSNS: u64 = 30;

impl<P: Policy> Ops for Native<P> {
    fn table(&self) -> OpsTable {
        self.policy.table()
    }

    fn step(
        &mut self,
        activation: &mut Activation,
        core: &mut Context<'_>,
    ) -> Result<Progress, Fault> {
        let mut api = Api {
            core,
            tasks: &mut self.tasks,
            insns: INSNS,
        };
        let (policy, a) = (&mut self.policy, &mut api);
        let mut value = 0;
        match &activation.callback {
            &Callback::SelectCpu {
                task,
                prev_cpu,
                wake_flags,
            } => value = policy.select_cpu(a, task, prev_cpu, wake_flags),
            &Callback::Enqueue { task, enq_flags } => policy.enqueue(a, task, enq_flags),
            &Callback::Dequeue { task, deq_flags } => policy.dequeue(a, task, deq_flags),
            &Callback::Dispatch { cpu, prev } => policy.dispatch(a, cpu, prev),
            &Callback::Tick { task } => policy.tick(a, task),
            &Callback::Runnable { task, enq_flags } => policy.runnable(a, task, enq_flags),
            &Callback::Running { task } => policy.running(a, task),
            &Callback::Stopping { task, runnable } => policy.stopping(a, task, runnable),
            &Callback::Quiescent { task, deq_flags } => policy.quiescent(a, task, deq_flags),
            &Callback::Yield { from, .. } => policy.yields(a, from),
            &Callback::SetWeight { task, weight } => policy.set_weight(a, task, weight),
            Callback::SetCpumask { task, allowed } => policy.set_cpumask(a, *task, allowed),
            &Callback::UpdateIdle { cpu, idle } => policy.update_idle(a, cpu, idle),
            &Callback::CpuAcquire { cpu } => policy.cpu_acquire(a, cpu),
            &Callback::CpuRelease { cpu, task } => policy.cpu_release(a, cpu, task),
            &Callback::InitTask { task, fork } => value = policy.init_task(a, task, fork),
            &Callback::ExitTask { task, .. } => policy.exit_task(a, task),
            &Callback::Enable { task } => policy.enable(a, task),
            &Callback::Disable { task } => policy.disable(a, task),
            &Callback::CpuOnline { cpu } => policy.cpu_online(a, cpu),
            &Callback::CpuOffline { cpu } => policy.cpu_offline(a, cpu),
            Callback::Init => value = policy.init(a),
            Callback::Exit(info) => policy.exit(a, info),
            &Callback::Timer { timer } => policy.timer(a, timer),
        }
        let insns = api.insns;
        Ok(Progress::Done {
            value: value.into(),
            insns,
        })
    }
}

/// A table with these callbacks and nothing else.
pub fn table(name: &str, ops: impl IntoIterator<Item = Op>) -> OpsTable {
    OpsTable {
        name: name.to_owned(),
        ops: ops.into_iter().collect(),
        ..OpsTable::default()
    }
}
