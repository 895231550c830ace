// SPDX-License-Identifier: GPL-2.0-only
//! The contract between programs and the core that schedules: one method for
//! each operation that a kfunc or a helper asks for.
//!
//! Arguments arrive decoded but unchecked: a CPU that does not exist, a DSQ
//! that was never made, a call from the wrong callback are for the core to
//! judge, which knows them as the kernel does. Where the kernel would call
//! `scx_error()` the core notes why the policy ends, and returns what the kernel
//! returns: the callback runs on to its end.
//!
//! The core starts each execution itself, and so knows which callback runs, on
//! which CPU and for which task; no method says it again.
//!
//! Errors are negative `errno` values, as the kernel returns them.

use super::{CpuMask, Images, TaskId};

/// An iterator over a DSQ (`struct bpf_iter_scx_dsq`), by a number that the core gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IterId(pub u32);

/// `scx_bpf_dsq_insert*()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DsqInsert {
    /// What is inserted. `None`: no task, but NULL or something else.
    pub task: Option<TaskId>,
    /// The queue: a number of the policy's or one of `SCX_DSQ_*`.
    pub dsq: u64,
    /// The slice in nanoseconds; 0 keeps what the task has.
    pub slice_ns: u64,
    /// Where in a queue by virtual time; `None` for first come, first served.
    pub vtime: Option<u64>,
    /// `SCX_ENQ_*`.
    pub enq_flags: u64,
}

/// `scx_bpf_dsq_move*()`, with what `scx_bpf_dsq_move_set_*()` said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DsqMove {
    /// What is moved.
    pub task: Option<TaskId>,
    /// Where to.
    pub dsq: u64,
    /// The new slice in nanoseconds; `None` keeps what the task has.
    pub slice_ns: Option<u64>,
    /// The new virtual time; `None` keeps what the task has.
    pub vtime: Option<u64>,
    /// Into a queue by virtual time (`scx_bpf_dsq_move_vtime()`).
    pub by_vtime: bool,
    /// `SCX_ENQ_*`.
    pub enq_flags: u64,
}

/// A mask of CPUs that the core keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IdleMask {
    /// CPUs that idle.
    Cpu,
    /// CPUs of cores that idle as a whole.
    Smt,
}

/// What a program can ask of the core that schedules. The names are those of
/// the kfuncs, without `scx_bpf_`.
pub trait CoreApi {
    /// The time in nanoseconds: `bpf_ktime_get_ns()` and its kin.
    fn ktime_ns(&self) -> u64;

    /// The time in ticks: `bpf_jiffies64()`, and what `scx.runnable_at` is in.
    fn jiffies(&self) -> u64;

    /// `scx_bpf_now()`: the clock of this CPU's run queue, in nanoseconds.
    fn now(&self) -> u64 {
        self.ktime_ns()
    }

    /// The CPU on which the program runs: `bpf_get_smp_processor_id()`.
    fn cpu(&self) -> u32;

    /// The task in whose context the program runs: `bpf_get_current_task_btf()`.
    /// `None` for the idle task.
    fn current(&self) -> Option<TaskId>;

    /// `bpf_get_prandom_u32()`. To be repeatable it comes from the run's seed.
    fn random(&mut self) -> u32;

    /// One more than the highest number of a CPU.
    fn nr_cpu_ids(&self) -> u32;

    /// NUMA nodes: one more than the highest number.
    fn nr_node_ids(&self) -> u32;

    /// `scx_bpf_cpu_node()`: the NUMA node of `cpu`, or -1 with an error noted.
    fn cpu_node(&mut self, cpu: i32) -> i32;

    /// CPUs that there may be.
    fn possible_cpus(&self) -> CpuMask;

    /// CPUs that are online.
    fn online_cpus(&self) -> CpuMask;

    /// Who idles, on the NUMA node `node` or, if `None`, anywhere. An error
    /// noted (built-in tracking is off, or per node against the call) gives the
    /// empty set.
    fn idle_mask(&mut self, which: IdleMask, node: Option<i32>) -> CpuMask;

    /// Who idles now, as seen through a mask that the program holds; without any check.
    fn peek_idle_mask(&self, which: IdleMask, node: Option<i32>) -> CpuMask;

    /// Make a queue. 0, `-EEXIST`, `-EINVAL` for a number of the kernel's,
    /// or `-ENOMEM`.
    fn create_dsq(&mut self, dsq: u64, node: i32) -> i32;

    /// Destroy a queue; one that holds tasks is an error.
    fn destroy_dsq(&mut self, dsq: u64);

    /// How many tasks wait in a queue; `-ENOENT` if there is no such queue.
    /// `SCX_DSQ_LOCAL` is that of this CPU.
    fn dsq_nr_queued(&mut self, dsq: u64) -> i32;

    /// The first task of a queue of the policy's, without its lock.
    fn dsq_peek(&mut self, dsq: u64) -> Option<TaskId>;

    /// Insert a task in a queue: at once, or from `ops.dispatch()` when the
    /// buffer is flushed. False if an error was noted.
    fn dsq_insert(&mut self, images: &mut Images<'_>, insert: DsqInsert) -> bool;

    /// Move the first task of a queue that may run on this CPU to its local queue.
    fn dsq_move_to_local(&mut self, images: &mut Images<'_>, dsq: u64, enq_flags: u64) -> bool;

    /// Begin to look through a queue. `flags`: `SCX_DSQ_ITER_REV`. `-ENOENT` or
    /// `-EINVAL` otherwise.
    fn dsq_iter_new(&mut self, dsq: u64, flags: u64) -> Result<IterId, i32>;

    /// The next task of those that were in the queue when the iterator was made.
    fn dsq_iter_next(&mut self, images: &mut Images<'_>, iter: IterId) -> Option<TaskId>;

    /// Be done with a queue.
    fn dsq_iter_destroy(&mut self, iter: IterId);

    /// Move a task out of the queue that `iter` looks through. True if it was
    /// still there. `iter` is `None` where the queue did not exist.
    fn dsq_move(&mut self, images: &mut Images<'_>, iter: Option<IterId>, to: DsqMove) -> bool;

    /// Room left in the buffer of this round of `ops.dispatch()`.
    fn dispatch_nr_slots(&mut self) -> u32;

    /// Take the last insertion back out of the buffer.
    fn dispatch_cancel(&mut self);

    /// Enqueue the tasks of this CPU's local queue again, at once: the form of
    /// `ops.cpu_release()`. How many.
    fn reenqueue_local(&mut self) -> u32;

    /// Enqueue the tasks of a queue again, later. `flags`: `SCX_REENQ_*`; the
    /// form without a number is that of `SCX_DSQ_LOCAL` and 0.
    fn dsq_reenq(&mut self, dsq: u64, flags: u64);

    /// Send a CPU through the scheduler. `flags`: `SCX_KICK_*`. Takes effect
    /// after the callback.
    fn kick_cpu(&mut self, cpu: i32, flags: u64);

    /// The kernel's search for a CPU, and whether it idles and is claimed.
    fn select_cpu_dfl(
        &mut self,
        images: &mut Images<'_>,
        task: Option<TaskId>,
        prev_cpu: i32,
        wake_flags: u64,
    ) -> (i32, bool);

    /// The same among `allowed`; `-EBUSY` if none idles. `flags`: `SCX_PICK_IDLE_*`.
    fn select_cpu_and(
        &mut self,
        images: &mut Images<'_>,
        task: Option<TaskId>,
        prev_cpu: i32,
        wake_flags: u64,
        allowed: &CpuMask,
        flags: u64,
    ) -> i32;

    /// Claim an idle CPU among `allowed`, near the NUMA node `node` if given;
    /// `-EBUSY` if there is none. `flags`: `SCX_PICK_IDLE_*`.
    fn pick_idle_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32;

    /// The same, or else any CPU of `allowed`; `-EBUSY` if that is empty.
    fn pick_any_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32;

    /// Claim `cpu` if it idles.
    fn test_and_clear_cpu_idle(&mut self, cpu: i32) -> bool;

    /// The CPU that a task is on.
    fn task_cpu(&self, task: TaskId) -> i32;

    /// Whether a task runs at this moment.
    fn task_running(&self, task: TaskId) -> bool;

    /// The task that runs on `cpu`; `None` for the idle task, or with an error
    /// noted if there is no such CPU.
    fn cpu_curr(&mut self, cpu: i32) -> Option<TaskId>;

    /// What `cpu` can do at most, of `SCX_CPUPERF_ONE` (1024).
    fn cpuperf_cap(&mut self, cpu: i32) -> u32;

    /// How fast `cpu` is now, of the most that it can be (1024).
    fn cpuperf_cur(&mut self, cpu: i32) -> u32;

    /// How fast `cpu` is to be, 0 to 1024; more is an error.
    fn cpuperf_set(&mut self, cpu: i32, perf: u32);

    /// `scx_bpf_task_set_slice()`. False if the task is not the policy's.
    fn task_set_slice(&mut self, images: &mut Images<'_>, task: TaskId, slice_ns: u64) -> bool {
        images.set_slice(task, slice_ns);
        true
    }

    /// `scx_bpf_task_set_dsq_vtime()`. False if the task is not the policy's.
    fn task_set_dsq_vtime(&mut self, images: &mut Images<'_>, task: TaskId, vtime: u64) -> bool {
        images.set_dsq_vtime(task, vtime);
        true
    }

    /// How often something happened, by the name of the member of `struct
    /// scx_event_stats`, as `SCX_EV_DISPATCH_KEEP_LAST`.
    fn event(&self, name: &str) -> i64;

    /// `scx_bpf_error()`: the policy ends in failure, with this message.
    fn error(&mut self, message: String);

    /// `scx_bpf_exit()`: the policy ends itself, with its code and this message.
    fn exit(&mut self, code: i64, message: String);

    /// `scx_bpf_dump()`: more text for the dump; outside a dump it is an error.
    fn dump(&mut self, text: String);

    /// Start a BPF timer: its callback is to run at `at_ns` ([`CoreApi::ktime_ns`])
    /// on this CPU, or on any. A timer that waits already is set anew.
    fn timer_start(&mut self, timer: u64, at_ns: u64);

    /// Take a timer back; true if it waited.
    fn timer_cancel(&mut self, timer: u64) -> bool;
}
