// SPDX-License-Identifier: GPL-2.0-only
//! Constants of the sched_ext interface: those that never moved, and those that
//! a kernel version decides.

/// A kernel version, `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelVersion(pub u32, pub u32);

impl KernelVersion {
    /// The oldest with sched_ext.
    pub const V6_12: Self = Self(6, 12);
    /// The latest that was read for this model.
    pub const V7_3: Self = Self(7, 3);
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl std::str::FromStr for KernelVersion {
    type Err = String;

    /// One that is modelled.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::V6_12..=Self::V7_3;
        let numbers = text.split_once('.');
        let version = numbers.and_then(|(major, minor)| {
            let version = Self(major.parse().ok()?, minor.parse().ok()?);
            known.contains(&version).then_some(version)
        });
        version.ok_or_else(|| format!("from {} to {}", known.start(), known.end()))
    }
}

/// What differs between kernels: the values that moved, to be asked of a BTF
/// where there is one, and the version that decides how the core behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Constants {
    /// Whose behaviour is modelled.
    pub kernel: KernelVersion,
    /// `SCX_ENQ_HEAD`.
    pub enq_head: u64,
    /// `SCX_ENQ_CPU_SELECTED`; 0 where the kernel has no such flag.
    pub enq_cpu_selected: u64,
}

impl Constants {
    /// Those of a mainline kernel.
    pub fn of(kernel: KernelVersion) -> Self {
        let moved = kernel >= KernelVersion(6, 19);
        let selected = kernel >= KernelVersion(6, 15);
        Self {
            kernel,
            enq_head: if moved { 0x1_0000 } else { 0x10 },
            enq_cpu_selected: match (selected, moved) {
                (false, _) => 0,
                (true, false) => 0x400,
                (true, true) => 0x10_0000,
            },
        }
    }

    /// Whether the kernel is at least `major.minor`.
    pub(super) fn since(&self, major: u32, minor: u32) -> bool {
        self.kernel >= KernelVersion(major, minor)
    }
}

/// `SCX_ENQ_*` that never moved.
pub mod enq {
    /// The task woke.
    pub const WAKEUP: u64 = 1;
    /// To the head of the queue, and the task that runs there gives way.
    pub const PREEMPT: u64 = 1 << 32;
    /// Into a local queue only if its CPU takes it at once (since 7.1).
    pub const IMMED: u64 = 1 << 33;
    /// Enqueued again by request.
    pub const REENQ: u64 = 1 << 40;
    /// Nobody else is there to run.
    pub const LAST: u64 = 1 << 41;
    /// Bits that only the kernel may use.
    pub const INTERNAL: u64 = 0xff << 56;
}

/// `SCX_DEQ_*`.
pub mod deq {
    /// The task goes to sleep.
    pub const SLEEP: u64 = 1;
    /// The core picked a task that the policy still held.
    pub const CORE_SCHED_EXEC: u64 = 1 << 32;
    /// A property of the task is about to change (since 7.1).
    pub const SCHED_CHANGE: u64 = 1 << 33;
}

/// `SCX_WAKE_*`.
pub mod wake {
    /// After a fork.
    pub const FORK: u64 = 4;
    /// After a sleep.
    pub const TTWU: u64 = 8;
    /// The waker is about to sleep.
    pub const SYNC: u64 = 0x10;
}

/// `SCX_KICK_*`.
pub mod kick {
    /// Only if it idles.
    pub const IDLE: u64 = 1;
    /// Even if the task that runs there has slice left.
    pub const PREEMPT: u64 = 2;
    /// And wait until it has been through the scheduler.
    pub const WAIT: u64 = 4;
}

/// `SCX_PICK_IDLE_*`.
pub mod pick {
    /// Whole idle cores only.
    pub const CORE: u64 = 1;
    /// In the given node only.
    pub const IN_NODE: u64 = 2;
}

/// `SCX_OPS_*`.
pub mod flag {
    /// Keep the built-in idle tracking beside `ops.update_idle()`.
    pub const KEEP_BUILTIN_IDLE: u64 = 1;
    /// Give the last task to `ops.enqueue()` too.
    pub const ENQ_LAST: u64 = 2;
    /// Give exiting tasks to `ops.enqueue()` too.
    pub const ENQ_EXITING: u64 = 4;
    /// Run tasks of `SCHED_EXT` only.
    pub const SWITCH_PARTIAL: u64 = 8;
    /// Give tasks whose migration is disabled to `ops.enqueue()` too.
    pub const ENQ_MIGRATION_DISABLED: u64 = 0x10;
    /// Per-node idle masks.
    pub const BUILTIN_IDLE_PER_NODE: u64 = 0x40;
}

/// `SCX_DSQ_*`.
pub mod dsq {
    /// The bit of all queues of the kernel's.
    pub const BUILTIN: u64 = 1 << 63;
    /// Consumed by every CPU of the node before anything else.
    pub const GLOBAL: u64 = BUILTIN | 1;
    /// Of this CPU.
    pub const LOCAL: u64 = BUILTIN | 2;
    /// Of the CPU whose number is in the low 32 bits.
    pub const LOCAL_ON: u64 = 3 << 62;
    /// `SCX_DSQ_ITER_REV`: from the tail.
    pub const ITER_REV: u64 = 1;
}

/// `SCX_SLICE_DFL` in nanoseconds.
pub const SLICE_DFL_NS: u64 = 20_000_000;
/// `SCX_SLICE_INF`: never ends.
pub const SLICE_INF: u64 = u64::MAX;
/// `SCX_SLICE_BYPASS` in nanoseconds, since 6.19.
pub const SLICE_BYPASS_NS: u64 = 5_000_000;
/// `SCX_DSP_DFL_MAX_BATCH`.
pub const DISPATCH_BATCH: u32 = 32;
/// `SCX_DSP_MAX_LOOPS`.
pub const DISPATCH_LOOPS: u32 = 32;
/// The watchdog's timeout where the policy asks for none, and the longest.
pub const TIMEOUT_MS_MAX: u32 = 30_000;

/// `-errno` values that the interface returns.
pub mod errno {
    /// No such entry.
    pub const NOENT: i32 = -2;
    /// Busy: none is idle.
    pub const BUSY: i32 = -16;
    /// It exists already.
    pub const EXIST: i32 = -17;
    /// Not allowed.
    pub const INVAL: i32 = -22;
}

/// Why a policy ended: `enum scx_exit_kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitKind {
    /// By user space.
    Unreg,
    /// By `scx_bpf_exit()`.
    UnregBpf,
    /// By the kernel, as for a CPU that came or went.
    UnregKern,
    /// An error of the policy that the core found.
    Error,
    /// By `scx_bpf_error()`.
    ErrorBpf,
    /// A runnable task that did not run in time.
    ErrorStall,
}

impl ExitKind {
    /// The number in `scx_exit_info.kind`.
    pub fn number(self) -> u32 {
        match self {
            Self::Unreg => 64,
            Self::UnregBpf => 65,
            Self::UnregKern => 66,
            Self::Error => 1024,
            Self::ErrorBpf => 1025,
            Self::ErrorStall => 1026,
        }
    }

    /// The text in `scx_exit_info.reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreg => "unregistered from user space",
            Self::UnregBpf => "unregistered from BPF",
            Self::UnregKern => "unregistered from the main kernel",
            Self::Error => "runtime error",
            Self::ErrorBpf => "scx_bpf_error",
            Self::ErrorStall => "runnable task stall",
        }
    }

    /// Whether the policy was thrown out for a fault.
    pub fn is_error(self) -> bool {
        self.number() >= 1024
    }
}

/// `SCX_ECODE_RSN_HOTPLUG | SCX_ECODE_ACT_RESTART`: load it again, the CPUs changed.
pub const ECODE_RESTART_HOTPLUG: i64 = 1 << 48 | 1 << 32;

/// `scx.weight` of a nice value: the kernel's load weight scaled to 100 at nice
/// 0 and kept in 1..=10000 (`sched_weight_to_cgroup()`).
pub fn nice_weight(nice: i8) -> u32 {
    scx_weight(rota_load::spec::nice_weight(nice))
}

/// The same of a load weight (1024 at nice 0, 3 under `SCHED_IDLE`).
pub fn scx_weight(load: u32) -> u32 {
    // DIV_ROUND_CLOSEST, in 64 bits: the heaviest is 88761.
    let scaled = (u64::from(load) * 100 + 512) / 1024;
    scaled.clamp(1, 10_000) as u32
}
