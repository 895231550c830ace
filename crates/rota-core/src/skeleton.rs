// SPDX-License-Identifier: GPL-2.0-only
//! The seam between the core and a policy's BPF object.
//!
//! libbpf-cargo generates a skeleton with types of its own for every object.
//! [`Bpf`] is the little that the core needs of any of them; `rota-build`
//! implements it for each policy through [`policy_glue!`](crate::policy_glue),
//! so that the names of bpf-common's variables are checked by the compiler.

use std::mem::MaybeUninit;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, OpenObject, RingBuffer};

use crate::topology::Topology;

/// A counter of a policy, as its `intf.h` declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name: `nr_...`.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
}

/// A deliberate fault, for tests of what happens then (`bpf-common`'s `fault.bpf.h`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None: the code that tests for faults is not even loaded.
    #[default]
    None,
    /// The callback of this name reports an error each time it is called.
    Error(String),
    /// Tasks of this command name are never queued; without a name, the first user task.
    Stall(String),
    /// Tasks of this command name wait for seconds whenever they are queued by virtual time.
    Starve(String),
    /// CPU 1 takes nothing out of queues, nor a task that wakes.
    Sleepy,
    /// Weights count for nothing.
    Unfair,
    /// A task that may not run everywhere is sent where it may not.
    Stray,
    /// Tasks of this command name are sent to their CPU at once however busy that is, again and again;
    /// on kernels before 7.1 they are lost.
    Requeue(String),
    /// User space panics once the scheduler is attached; BPF knows nothing of it.
    Panic,
}

/// The longest name in a [`Fault`], in bytes, without the final NUL.
pub const FAULT_NAME_MAX: usize = 15;

impl Fault {
    /// `fault_kind` as `fault.bpf.h` numbers it.
    pub fn kind(&self) -> u32 {
        match self {
            Fault::None | Fault::Panic => 0,
            Fault::Error(_) => 1,
            Fault::Stall(_) => 2,
            Fault::Starve(_) => 3,
            Fault::Sleepy => 4,
            Fault::Unfair => 5,
            Fault::Stray => 6,
            Fault::Requeue(_) => 7,
        }
    }

    /// `fault_name`: the callback or the command name.
    pub fn name(&self) -> &str {
        match self {
            Fault::Error(name)
            | Fault::Stall(name)
            | Fault::Starve(name)
            | Fault::Requeue(name) => name,
            _ => "",
        }
    }
}

/// What the core writes into an object before it is loaded.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// The slice in nanoseconds.
    pub slice_ns: u64,
    /// Flags of `struct sched_ext_ops` to add to those the policy sets.
    pub ops_flags: u64,
    /// The watchdog's timeout in milliseconds, at most 30000.
    pub timeout_ms: u32,
    /// The size of the exit dump in bytes; 0 for the kernel's default of 32 KiB.
    pub exit_dump_len: u32,
    /// The name under which the kernel shows the scheduler, at most 127 bytes.
    pub ops_name: &'a str,
    /// The fault to inject.
    pub fault: &'a Fault,
}

/// The kernel's default size of an exit dump (SCX_EXIT_DUMP_DFL_LEN, 6.12 to 7.3).
pub const EXIT_DUMP_DEFAULT: u32 = 32_768;

/// What the kernel said when it ended the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    /// `enum scx_exit_kind`, never 0.
    pub kind: u32,
    /// The exit code: the low 32 bits are the policy's, those above the kernel's.
    pub code: i64,
    /// The CPU on which an error was raised, -1 if unknown.
    pub cpu: i32,
    /// The kind in the kernel's words.
    pub reason: String,
    /// The details; may be empty.
    pub message: String,
}

/// A policy's BPF object through its phases: built, open, loaded, attached.
pub trait Bpf: 'static {
    /// The policy's name, `vtime` for the package `scx_vtime`.
    const POLICY: &'static str;
    /// The object file, so that the kernel can be asked for what it needs before it is loaded.
    const OBJECT: &'static [u8];
    /// The counters, in the order of [`Bpf::counters`].
    const COUNTERS: &'static [Counter];
    /// The counters as a struct for the stats server.
    type Metrics: From<Vec<u64>> + scx_stats::Meta + serde::Serialize;
    /// Builds the object from memory.
    type Builder: for<'o> SkelBuilder<'o, Output = Self::Open<'o>> + Default;
    /// The object before it is loaded: rodata and the callback table can be written.
    type Open<'o>: OpenSkel<'o, Output = Self::Loaded<'o>>;
    /// The object in the kernel.
    type Loaded<'o>: Skel<'o>;

    /// Open the object in `storage`.
    ///
    /// # Errors
    /// What libbpf says; the object being built in, only memory can run out.
    fn open(storage: &mut MaybeUninit<OpenObject>) -> libbpf_rs::Result<Self::Open<'_>> {
        Self::Builder::default().open(storage)
    }

    /// Write `setup` into the variables and the callback table that all policies share.
    ///
    /// # Errors
    /// libbpf refuses the size of the dump.
    fn set_up(open: &mut Self::Open<'_>, setup: &Setup<'_>) -> libbpf_rs::Result<()>;

    /// Attach: from here on the kernel asks the policy, until the link is dropped.
    ///
    /// # Errors
    /// The kernel refuses. That it does not is no proof that the policy runs.
    fn attach(loaded: &mut Self::Loaded<'_>) -> libbpf_rs::Result<Link>;

    /// Change the slice while the policy runs.
    fn set_slice_ns(loaded: &mut Self::Loaded<'_>, slice_ns: u64);

    /// The counters, summed over all CPUs.
    fn counters(loaded: &Self::Loaded<'_>) -> Vec<u64>;

    /// The ring buffer that becomes readable when there is something to look at: the policy has
    /// ended, or it wants its [`Companion`](crate::Companion) to do something.
    ///
    /// # Errors
    /// The kernel does not let its memory be mapped.
    fn signals(loaded: &Self::Loaded<'_>) -> libbpf_rs::Result<RingBuffer<'static>>;

    /// What the kernel said when it ended the policy; `None` while it runs.
    fn exit_record(loaded: &Self::Loaded<'_>) -> Option<ExitRecord>;

    /// The debug dump that goes with an error; empty if there is none.
    fn exit_dump(loaded: &Self::Loaded<'_>) -> String;
}

/// Copy as much of `text` as fits into a zeroed C array, leaving a NUL at the end.
///
/// A `char` of BPF is signed on every machine; that of the host's own C is not on arm64.
pub fn copy_c_string(to: &mut [i8], text: &str) {
    let room = to.len().saturating_sub(1);
    for (to, from) in to[..room].iter_mut().zip(text.bytes()) {
        *to = from.cast_signed();
    }
}

/// The text in a C array up to its NUL.
pub fn read_c_string(from: &[i8]) -> String {
    let bytes: Vec<u8> = from
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| c.cast_unsigned())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of a word that BPF writes last, so that what it wrote before is seen too.
pub fn load_acquire(word: &u32) -> u32 {
    // SAFETY: the reference is valid and aligned for the read; volatile because the kernel
    // writes behind the compiler's back.
    let value = unsafe { std::ptr::read_volatile(word) };
    std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
    value
}

/// Implements [`Bpf`](crate::skeleton::Bpf) as `Bpf` for one generated skeleton.
///
/// Written into a policy's `policy.rs` by rota-build, where `COUNTERS`,
/// `Metrics`, `Open` and `Loaded` are in scope.
#[macro_export]
macro_rules! policy_glue {
    (policy: $policy:literal, object: $object:literal, builder: $builder:path,
     ops: $ops:ident, ops_mut: $ops_mut:ident $(,)?) => {
        // The tables of topology.h have the sizes that the core checks machines against.
        const _: fn(&types::rodata) = |rodata| {
            let _: &[_; $crate::topology::MAX_CPUS] = &rodata.topology_cpus;
            let _: &[_; $crate::topology::MAX_LLCS] = &rodata.topology_llcs;
        };

        /// This policy's object, for the core.
        #[derive(Debug)]
        pub enum Bpf {}

        impl $crate::skeleton::Bpf for Bpf {
            const POLICY: &'static str = $policy;
            const OBJECT: &'static [u8] = include_bytes!($object);
            const COUNTERS: &'static [$crate::skeleton::Counter] = COUNTERS;
            type Metrics = Metrics;
            type Builder = $builder;
            type Open<'o> = Open<'o>;
            type Loaded<'o> = Loaded<'o>;

            fn set_up(
                open: &mut Open<'_>,
                setup: &$crate::skeleton::Setup<'_>,
            ) -> libbpf_rs::Result<()> {
                let dump_len = match setup.exit_dump_len {
                    0 => $crate::skeleton::EXIT_DUMP_DEFAULT,
                    len => len,
                };
                open.maps.data_exit_dump.set_value_size(dump_len)?;

                let data = open
                    .maps
                    .data_data
                    .as_deref_mut()
                    .expect("tunables.bpf.h is in it");
                data.slice_ns = setup.slice_ns;

                let rodata = open
                    .maps
                    .rodata_data
                    .as_deref_mut()
                    .expect("fault.bpf.h is in it");
                rodata.exit_dump_len = dump_len;
                rodata.timeout_ms = setup.timeout_ms;
                rodata.fault_kind = setup.fault.kind();
                $crate::skeleton::copy_c_string(&mut rodata.fault_name, setup.fault.name());
                let topology = setup.topology;
                rodata.nr_cpu_ids = topology.nr_cpu_ids() as u32;
                rodata.nr_llcs = topology.llcs.len() as u32;
                rodata.nr_nodes = topology.nodes.len() as u32;
                rodata.nr_threads = topology.smt() as u32;
                for cpu in topology.online() {
                    let row = &mut rodata.topology_cpus[cpu.id];
                    row.llc = cpu.llc as u16;
                    row.node = cpu.node as u16;
                    row.core = cpu.core as u16;
                    row.capacity = cpu.capacity as u16;
                }
                for (row, llc) in rodata.topology_llcs.iter_mut().zip(&topology.llcs) {
                    row.node = llc.node as u16;
                    row.nr_cpus = llc.cpus.len() as u16;
                }

                let ops = open.struct_ops.$ops_mut();
                ops.flags |= setup.ops_flags;
                ops.timeout_ms = setup.timeout_ms;
                ops.exit_dump_len = setup.exit_dump_len;
                ops.hotplug_seq = topology.hotplug_seq;
                $crate::skeleton::copy_c_string(&mut ops.name, setup.ops_name);
                Ok(())
            }

            fn attach(loaded: &mut Loaded<'_>) -> libbpf_rs::Result<libbpf_rs::Link> {
                loaded.maps.$ops.attach_struct_ops()
            }

            fn set_slice_ns(loaded: &mut Loaded<'_>, slice_ns: u64) {
                let data = loaded
                    .maps
                    .data_data
                    .as_deref_mut()
                    .expect("tunables.bpf.h is in it");
                data.slice_ns = slice_ns;
            }

            fn counters(loaded: &Loaded<'_>) -> Vec<u64> {
                let bss = loaded
                    .maps
                    .bss_data
                    .as_deref()
                    .expect("stats.bpf.h is in it");
                (0..COUNTERS.len())
                    .map(|i| bss.counters.iter().map(|cpu| cpu.nr[i]).sum::<u64>())
                    .collect()
            }

            fn signals(loaded: &Loaded<'_>) -> libbpf_rs::Result<libbpf_rs::RingBuffer<'static>> {
                let mut builder = libbpf_rs::RingBufferBuilder::new();
                // What they are about is seen from the object.
                builder.add(&loaded.maps.user_signal, |_| 0)?;
                builder.build()
            }

            fn exit_record(loaded: &Loaded<'_>) -> Option<$crate::skeleton::ExitRecord> {
                let bss = loaded
                    .maps
                    .bss_data
                    .as_deref()
                    .expect("exit.bpf.h is in it");
                let record = &bss.exit_record;
                let kind = $crate::skeleton::load_acquire(&record.kind);
                (kind != 0).then(|| $crate::skeleton::ExitRecord {
                    kind,
                    code: record.code,
                    cpu: record.cpu,
                    reason: $crate::skeleton::read_c_string(&record.reason),
                    message: $crate::skeleton::read_c_string(&record.message),
                })
            }

            fn exit_dump(loaded: &Loaded<'_>) -> String {
                use libbpf_rs::MapCore as _;
                let key = 0u32.to_ne_bytes();
                let value = loaded
                    .maps
                    .data_exit_dump
                    .lookup(&key, libbpf_rs::MapFlags::ANY);
                let bytes = value.ok().flatten().unwrap_or_default();
                let end = bytes
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(bytes.len());
                String::from_utf8_lossy(&bytes[..end]).into_owned()
            }
        }
    };
}
