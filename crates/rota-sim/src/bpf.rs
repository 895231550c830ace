// SPDX-License-Identifier: GPL-2.0-only
//! The object that ships as the model's policy: where the two halves meet.
//!
//! A callback of the model is an execution of the interpreter, from the same
//! arguments that the kernel gives. What the model shares of tasks is their
//! images.

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

use crate::btf::{Btf, BtfError};
use crate::kernel_api::{CpuMask, Kernel, NewTask, TaskId};
use crate::model::{
    Activation, Callback, Context, ExitInfo, Fault, Fields, Op, Ops, OpsTable, Progress, TaskField,
};
use crate::object::{Instance, LoadError, Object};
use crate::vm::{Execution, Memory, Outcome};

/// The most instructions that a callback may execute: where the kernel's watchdogs
/// would have ended it, and nothing but an endless loop comes.
const MAX_INSNS: u64 = 100_000_000;
/// Instructions that a CPU waits between two looks at a lock that another holds.
const SPIN_INSNS: u64 = 20;

/// Where callbacks are cut, so that those of other CPUs come in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pieces {
    /// Nowhere: a callback's effects are there at the moment it begins.
    Whole,
    /// Before each kfunc that asks the core: each has its true moment.
    #[default]
    Kfuncs,
    /// After so many instructions (1 or more), and before each such kfunc.
    Insns(u64),
}

impl fmt::Display for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pieces::Whole => f.write_str("whole"),
            Pieces::Kfuncs => f.write_str("kfuncs"),
            Pieces::Insns(insns) => write!(f, "{insns}"),
        }
    }
}

impl FromStr for Pieces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("whole", _) => Ok(Pieces::Whole),
            ("kfuncs", _) => Ok(Pieces::Kfuncs),
            (_, Ok(insns)) if insns > 0 => Ok(Pieces::Insns(insns)),
            _ => Err("whole, kfuncs, or a number of instructions from 1 on".into()),
        }
    }
}

struct Inner {
    instance: Instance,
    kernel: Kernel,
    pieces: Pieces,
}

/// A policy's object, running. Clones are handles of the same policy: one goes to
/// [`crate::model::Sim::new`], another reads and writes variables meanwhile.
#[derive(Clone)]
pub struct BpfPolicy {
    inner: Rc<RefCell<Inner>>,
}

/// A callback under way: what is lent to it, and where it stands.
struct Running {
    execution: Execution,
    lent: Vec<u64>,
}

/// Why a policy cannot start.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum StartError {
    /// The object does not start.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel's BTF lacks what every policy needs.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The machine has more CPUs than the kernel can have.
    #[error("the machine has {nr_cpus} CPUs, the kernel can have {max_cpus}")]
    TooManyCpus {
        /// CPUs of the machine.
        nr_cpus: u32,
        /// The kernel's `NR_CPUS`.
        max_cpus: u32,
    },
}

impl BpfPolicy {
    /// Start `object` on a kernel that `kernel` is the BTF of, the same that it was
    /// loaded for, and a machine of `nr_cpus` CPUs.
    ///
    /// # Errors
    /// If the object does not start, or the kernel is none for this machine.
    pub fn new(
        object: &Object,
        kernel: &Btf,
        nr_cpus: u32,
        pieces: Pieces,
    ) -> Result<Self, StartError> {
        let mut instance = object.start(nr_cpus)?;
        let kernel = Kernel::new(kernel, &mut instance.vm.state.memory)?;
        let max_cpus = kernel.max_cpus();
        if nr_cpus > max_cpus {
            return Err(StartError::TooManyCpus { nr_cpus, max_cpus });
        }
        Ok(BpfPolicy {
            inner: Rc::new(RefCell::new(Inner {
                instance,
                kernel,
                pieces,
            })),
        })
    }

    /// Its variables, maps and counts.
    ///
    /// # Panics
    /// If it is called from within a callback.
    pub fn instance(&self) -> Ref<'_, Instance> {
        Ref::map(self.inner.borrow(), |inner| &inner.instance)
    }

    /// The same, to be written as user space does.
    ///
    /// # Panics
    /// If it is called from within a callback.
    pub fn instance_mut(&self) -> RefMut<'_, Instance> {
        RefMut::map(self.inner.borrow_mut(), |inner| &mut inner.instance)
    }
}

impl Inner {
    fn memory(&mut self) -> &mut Memory {
        &mut self.instance.vm.state.memory
    }

    /// The execution that a callback begins with; `None` if the policy has none.
    fn begin(&mut self, callback: &Callback) -> Option<Running> {
        if let Callback::Timer { timer } = callback {
            let execution = self.instance.vm.timer_execution(*timer)?;
            return Some(Running {
                execution,
                lent: Vec::new(),
            });
        }
        let function = self.instance.ops.function(callback.op().name())?;
        let mut lent = Vec::new();
        let arguments = self.arguments(callback, &mut lent);
        Some(Running {
            execution: self.instance.vm.execution(function, &arguments),
            lent,
        })
    }

    /// What a callback is called with. What has to be freed after it is in `lent`.
    fn arguments(&mut self, callback: &Callback, lent: &mut Vec<u64>) -> Vec<u64> {
        let tasks = &self.kernel.tasks;
        let p = |task: TaskId| tasks.address(task).unwrap_or(0);
        match *callback {
            Callback::SelectCpu {
                task,
                prev_cpu,
                wake_flags,
            } => vec![p(task), u64::from(prev_cpu), wake_flags],
            Callback::Enqueue { task, enq_flags } => vec![p(task), enq_flags],
            Callback::Runnable { task, enq_flags } => vec![p(task), enq_flags],
            Callback::Dequeue { task, deq_flags } => vec![p(task), deq_flags],
            Callback::Quiescent { task, deq_flags } => vec![p(task), deq_flags],
            Callback::Dispatch { cpu, prev } => vec![u64::from(cpu), prev.map_or(0, p)],
            Callback::Stopping { task, runnable } => vec![p(task), u64::from(runnable)],
            Callback::Yield { from, to } => vec![p(from), to.map_or(0, p)],
            Callback::SetWeight { task, weight } => vec![p(task), u64::from(weight)],
            Callback::UpdateIdle { cpu, idle } => vec![u64::from(cpu), u64::from(idle)],
            Callback::CpuOnline { cpu } | Callback::CpuOffline { cpu } => vec![u64::from(cpu)],
            Callback::Tick { task } | Callback::Running { task } | Callback::Disable { task } => {
                vec![p(task)]
            }
            Callback::Init | Callback::Timer { .. } => Vec::new(),
            _ => self.arguments_lent(callback, lent),
        }
    }

    /// Of callbacks that get a struct or a mask.
    fn arguments_lent(&mut self, callback: &Callback, lent: &mut Vec<u64>) -> Vec<u64> {
        let tasks = &self.kernel.tasks;
        let p = |task: TaskId| tasks.address(task).unwrap_or(0);
        let memory = &mut self.instance.vm.state.memory;
        let mut lend = |name, members: &[(&str, u64)]| {
            let address = self.kernel.lend_struct(memory, name, members);
            lent.push(address);
            address
        };
        match callback {
            Callback::InitTask { task, fork } => {
                let members = [("fork", u64::from(*fork))];
                vec![p(*task), lend("scx_init_task_args", &members)]
            }
            Callback::ExitTask { task, cancelled } => {
                let members = [("cancelled", u64::from(*cancelled))];
                vec![p(*task), lend("scx_exit_task_args", &members)]
            }
            // 7.3 passes arguments, of which older kernels' programs know nothing.
            Callback::Enable { task } => vec![p(*task), lend("scx_enable_args", &[])],
            Callback::CpuAcquire { cpu } => {
                vec![u64::from(*cpu), lend("scx_cpu_acquire_args", &[])]
            }
            Callback::CpuRelease { cpu, task } => {
                let members = [("task", p(*task))];
                vec![u64::from(*cpu), lend("scx_cpu_release_args", &members)]
            }
            Callback::SetCpumask { task, allowed } => {
                let mask = self.kernel.lend_mask(memory, allowed);
                lent.push(mask);
                vec![p(*task), mask]
            }
            Callback::Exit(info) => vec![self.exit_info(info, lent)],
            _ => Vec::new(),
        }
    }

    /// `struct scx_exit_info` with its messages.
    fn exit_info(&mut self, info: &ExitInfo, lent: &mut Vec<u64>) -> u64 {
        let memory = &mut self.instance.vm.state.memory;
        let mut text = |name, text: &str| {
            let bytes = [text.as_bytes(), b"\0"].concat();
            let address = self.kernel.lend(memory, name, bytes);
            lent.push(address);
            address
        };
        let members = [
            ("kind", u64::from(info.kind.number())),
            ("exit_code", info.code as u64),
            ("exit_cpu", u64::from(info.cpu)),
            ("reason", text("the exit's reason", info.kind.reason())),
            ("msg", text("the exit's message", &info.message)),
            ("dump", text("the exit's dump", "")),
        ];
        let info = self.kernel.lend_struct(memory, "scx_exit_info", &members);
        lent.push(info);
        info
    }

    /// Run a piece of a callback.
    fn piece(&mut self, running: &mut Running, core: &mut Context<'_>) -> Result<Progress, Fault> {
        let before = running.execution.insns();
        let vm = &mut self.instance.vm;
        let mut session = self.kernel.session(core);
        let execution = &mut running.execution;
        let outcome = match self.pieces {
            Pieces::Whole => execution.run(vm, &mut session, MAX_INSNS),
            Pieces::Kfuncs => execution.run_to_kfunc(vm, &mut session, MAX_INSNS),
            Pieces::Insns(insns) => execution.run_to_kfunc(vm, &mut session, insns.max(1)),
        };
        let insns = execution.insns() - before;
        match outcome.map_err(|fault| Fault(fault.to_string()))? {
            Outcome::Done(value) => Ok(Progress::Done {
                // All callbacks that return something return an s32 or a bool.
                value: i64::from(value as i32),
                insns,
            }),
            Outcome::Paused if execution.insns() >= MAX_INSNS => {
                let (function, insn) = vm.code().locate(execution.pc());
                let what = format!("{function}+{insn}: no end after {MAX_INSNS} instructions");
                Err(Fault(what))
            }
            Outcome::Paused => Ok(Progress::Pending { insns }),
            Outcome::Blocked(_) => Ok(Progress::Pending {
                insns: insns + SPIN_INSNS,
            }),
        }
    }
}

impl Ops for BpfPolicy {
    fn table(&self) -> OpsTable {
        let inner = self.inner.borrow();
        let ops = &inner.instance.ops;
        let number = |member| u32::try_from(ops.number(member)).unwrap_or(u32::MAX);
        OpsTable {
            name: ops.name().to_owned(),
            ops: ops
                .functions()
                .filter_map(|(op, _)| Op::named(op))
                // Which timers there are shows when one is started.
                .chain([Op::Timer])
                .collect(),
            flags: ops.number("flags"),
            timeout_ms: number("timeout_ms"),
            dispatch_max_batch: number("dispatch_max_batch"),
        }
    }

    fn step(
        &mut self,
        activation: &mut Activation,
        core: &mut Context<'_>,
    ) -> Result<Progress, Fault> {
        let mut inner = self.inner.borrow_mut();
        let state = activation.state.take();
        let running = match state.map(|state| state.downcast::<Running>()) {
            Some(Ok(running)) => Some(running),
            _ => inner.begin(&activation.callback).map(Box::new),
        };
        let Some(mut running) = running else {
            return Ok(Progress::NOTHING);
        };
        let progress = inner.piece(&mut running, core);
        if matches!(progress, Ok(Progress::Pending { .. })) {
            activation.state = Some(running);
            return progress;
        }
        for address in running.lent {
            inner.memory().free(address);
        }
        progress
    }
}

impl Fields for BpfPolicy {
    fn add_task(&mut self, new: &NewTask<'_>) -> TaskId {
        self.images(|images| images.add(new))
    }

    fn remove_task(&mut self, task: TaskId) {
        self.images(|images| images.remove(task));
        self.inner
            .borrow_mut()
            .instance
            .vm
            .state
            .forget_task(task.0);
    }

    fn slice(&self, task: TaskId) -> u64 {
        let inner = self.inner.borrow();
        inner
            .kernel
            .tasks
            .slice(&inner.instance.vm.state.memory, task)
    }

    fn set_slice(&mut self, task: TaskId, slice_ns: u64) {
        self.images(|images| images.set_slice(task, slice_ns));
    }

    fn dsq_vtime(&self, task: TaskId) -> u64 {
        let inner = self.inner.borrow();
        inner
            .kernel
            .tasks
            .dsq_vtime(&inner.instance.vm.state.memory, task)
    }

    fn set_dsq_vtime(&mut self, task: TaskId, vtime: u64) {
        self.images(|images| images.set_dsq_vtime(task, vtime));
    }

    fn set_allowed(&mut self, task: TaskId, allowed: &CpuMask) {
        self.images(|images| images.set_allowed(task, allowed));
    }

    fn publish(&mut self, task: TaskId, field: TaskField, value: u64) {
        self.images(|images| Fields::publish(images, task, field, value));
    }
}

impl BpfPolicy {
    fn images<T>(&self, with: impl FnOnce(&mut crate::kernel_api::Images<'_>) -> T) -> T {
        let inner = &mut *self.inner.borrow_mut();
        let memory = &mut inner.instance.vm.state.memory;
        with(&mut inner.kernel.images(memory))
    }
}
