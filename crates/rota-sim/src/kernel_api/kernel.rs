// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel keeps for programs: images of tasks, masks of CPUs, and where
//! its structs have their members.

use std::collections::BTreeMap;

use super::core_api::{CoreApi, IdleMask};
use super::cpumask::{CpuMask, MAX_CPUS};
use super::table::{self, Kfunc};
use super::tasks::{self, Field, IDLE, Images, TaskId, TaskLayout, Tasks};
use crate::btf::{Btf, BtfError, Kind as BtfKind};
use crate::vm::{Call, Cause, Host, Kind, Memory};

/// The kernel as programs see it, apart from what the core does. A clone is a
/// snapshot, together with one of the memory.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The images of the tasks.
    pub tasks: Tasks,
    /// Size of `struct cpumask`.
    pub(super) mask_bytes: usize,
    /// Masks that the core keeps, with where they are copied for programs.
    masks: Vec<(CoreMask, u64)>,
    /// Members of `struct scx_event_stats`, with their offsets.
    pub(super) events: Vec<(String, u64)>,
    pub(super) event_bytes: usize,
    /// The structs that callbacks are passed: name, size and members.
    structs: Vec<(&'static str, usize, BTreeMap<String, Field>)>,
    /// Where `bpf_cpumask_any_distribute()` goes on, for each CPU.
    pub(super) distribute: Vec<u32>,
}

/// The structs that callbacks are passed a pointer to.
const STRUCTS: [&str; 6] = [
    "scx_init_task_args",
    "scx_exit_task_args",
    "scx_enable_args",
    "scx_cpu_acquire_args",
    "scx_cpu_release_args",
    "scx_exit_info",
];

/// A mask that the core keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreMask {
    Possible,
    Online,
    Idle(IdleMask, Option<i32>),
}

impl Kernel {
    /// The kernel that `btf` is of, with its tasks' images and masks in `memory`.
    ///
    /// # Errors
    /// If the BTF lacks `task_struct`, `cpumask` or their members.
    pub fn new(btf: &Btf, memory: &mut Memory) -> Result<Self, BtfError> {
        let layout = TaskLayout::new(btf)?;
        let size = |name: &str| {
            let id = btf.find(name, BtfKind::Struct)?;
            btf.size_of(id).map(|size| size as usize)
        };
        let missing = |what: &str| BtfError::Missing(what.into());
        let mask_bytes = size("cpumask").ok_or_else(|| missing("struct cpumask"))?;
        let stats = btf.find_struct("scx_event_stats");
        let events = stats.map_or(&[] as &[_], |stats| &stats.members);
        Ok(Kernel {
            tasks: Tasks::new(layout, memory),
            mask_bytes: mask_bytes.min(MAX_CPUS / 8),
            masks: Vec::new(),
            events: events
                .iter()
                .map(|member| (member.name.to_string(), u64::from(member.bit_offset / 8)))
                .collect(),
            event_bytes: size("scx_event_stats").unwrap_or(0),
            structs: STRUCTS
                .iter()
                .filter_map(|name| {
                    let id = btf.find(name, BtfKind::Struct)?;
                    Some((*name, size(name)?, tasks::members(btf, id)))
                })
                .collect(),
            distribute: vec![0; MAX_CPUS],
        })
    }

    /// How many CPUs this kernel can have (`NR_CPUS`), at most [`MAX_CPUS`].
    pub fn max_cpus(&self) -> u32 {
        self.mask_bytes as u32 * 8
    }

    /// The images of the tasks, to read and to write.
    pub fn images<'a>(&'a mut self, memory: &'a mut Memory) -> Images<'a> {
        self.tasks.images(memory)
    }

    /// What programs run against: this kernel and that core.
    pub fn session<'a, C: CoreApi>(&'a mut self, core: &'a mut C) -> Session<'a, C> {
        Session { kernel: self, core }
    }

    /// Lend a program bytes of the kernel's, as a message or a mask: their
    /// address. To be freed with [`Memory::free`].
    pub fn lend(&self, memory: &mut Memory, name: &str, bytes: Vec<u8>) -> u64 {
        let address = memory.add(name, Kind::Kernel, bytes);
        memory.protect(address, 0..0);
        address
    }

    /// Lend a program a mask. To be freed with [`Memory::free`].
    pub fn lend_mask(&self, memory: &mut Memory, mask: &CpuMask) -> u64 {
        let bytes = mask.to_bytes()[..self.mask_bytes].to_vec();
        self.lend(memory, "a cpumask", bytes)
    }

    /// Lend a program one of the structs that callbacks are passed, as
    /// `scx_init_task_args`, with these members set, all others 0. A member that
    /// this kernel does not have is left out. To be freed with [`Memory::free`].
    pub fn lend_struct(&self, memory: &mut Memory, name: &str, members: &[(&str, u64)]) -> u64 {
        let known = self.structs.iter().find(|(other, ..)| *other == name);
        let mut bytes = vec![0; known.map_or(0, |(_, bytes, _)| *bytes)];
        for (member, value) in members {
            let Some(field) = known.and_then(|(_, _, fields)| fields.get(*member)) else {
                continue;
            };
            let (start, len) = (field.offset as usize, field.bytes.min(8) as usize);
            if let Some(place) = bytes.get_mut(start..start + len) {
                place.copy_from_slice(&value.to_le_bytes()[..len]);
            }
        }
        self.lend(memory, name, bytes)
    }

    /// Where the copy of a mask of the core's is.
    fn mask_address(&mut self, memory: &mut Memory, mask: CoreMask) -> u64 {
        if let Some((_, address)) = self.masks.iter().find(|(other, _)| *other == mask) {
            return *address;
        }
        let number = u8::try_from(self.masks.len()).expect("there are few nodes");
        let name = format!("the kernel's mask {mask:?}");
        let bytes = vec![0; self.mask_bytes];
        let address = memory.add(&name, Kind::CoreMask(number), bytes);
        memory.protect(address, 0..0);
        self.masks.push((mask, address));
        address
    }
}

/// A kernel and its core, as what programs call.
pub struct Session<'a, C> {
    /// What the kernel keeps for programs.
    pub kernel: &'a mut Kernel,
    /// What schedules.
    pub core: &'a mut C,
}

impl<C: CoreApi> Host for Session<'_, C> {
    fn kfunc(&mut self, call: Call<'_>, kfunc: u16) -> Result<u64, Cause> {
        self.call(table::kfunc(kfunc), call)
    }

    fn is_timed(&self, kfunc: u16) -> bool {
        table::kfunc(kfunc) >= Kfunc::CreateDsq
    }

    fn ktime_ns(&self) -> u64 {
        self.core.ktime_ns()
    }

    fn jiffies(&self) -> u64 {
        self.core.jiffies()
    }

    fn cpu(&self) -> u32 {
        self.core.cpu()
    }

    fn current(&mut self, memory: &mut Memory) -> u64 {
        let task = self.core.current();
        if let Some(address) = task.and_then(|task| self.kernel.tasks.address(task)) {
            return address;
        }
        // One image stands for the idle task of every CPU.
        let cpu = self.core.cpu();
        self.kernel.images(memory).set_idle_cpu(cpu);
        self.kernel.tasks.idle_address()
    }

    fn random(&mut self) -> u32 {
        self.core.random()
    }

    fn timer_start(&mut self, timer: u64, at_ns: u64) {
        self.core.timer_start(timer, at_ns);
    }

    fn timer_cancel(&mut self, timer: u64) -> bool {
        self.core.timer_cancel(timer)
    }
}

impl<C: CoreApi> Session<'_, C> {
    /// The task that a program passes; `None` if it is no task, or the idle task.
    pub(super) fn task(&self, memory: &Memory, address: u64) -> Option<TaskId> {
        match memory.kind(address) {
            Some(Kind::Task(task)) if address as u32 == 0 && task != IDLE => Some(TaskId(task)),
            _ => None,
        }
    }

    /// The mask that a program passes.
    pub(super) fn mask(&mut self, memory: &mut Memory, address: u64) -> Result<CpuMask, Cause> {
        if let Some(Kind::CoreMask(number)) = memory.kind(address) {
            return self.refresh(memory, usize::from(number));
        }
        let words = self.core.nr_cpu_ids().div_ceil(64) as usize;
        let bytes = (words * 8).min(self.kernel.mask_bytes);
        Ok(CpuMask::from_bytes(memory.read(address, bytes)?))
    }

    /// What a mask of the core's is now, which is copied for programs.
    fn refresh(&mut self, memory: &mut Memory, number: usize) -> Result<CpuMask, Cause> {
        let (which, address) = self.kernel.masks[number];
        let mask = match which {
            CoreMask::Possible => self.core.possible_cpus(),
            CoreMask::Online => self.core.online_cpus(),
            CoreMask::Idle(which, node) => self.core.peek_idle_mask(which, node),
        };
        let bytes = &mask.to_bytes()[..self.kernel.mask_bytes];
        memory.write_kernel(address, bytes)?;
        Ok(mask)
    }

    /// Lend a mask of the core's to a program, which has to give it back.
    pub(super) fn get_mask(
        &mut self,
        call: &mut Call<'_>,
        mask: CoreMask,
        what: &'static str,
    ) -> Result<u64, Cause> {
        if let CoreMask::Idle(which, node) = mask {
            // Notes an error where the core does not track who idles.
            self.core.idle_mask(which, node);
        }
        let address = self.kernel.mask_address(call.memory, mask);
        let number = self.kernel.masks.iter().position(|(_, at)| *at == address);
        self.refresh(call.memory, number.unwrap_or_default())?;
        call.held.acquire(address, what);
        Ok(address)
    }
}
