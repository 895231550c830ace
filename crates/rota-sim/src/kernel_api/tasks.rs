// SPDX-License-Identifier: GPL-2.0-only
//! Tasks as programs see them: an image of `struct task_struct` for each, laid
//! out as the chosen kernel's BTF says.
//!
//! The image is the truth for what programs may write, `scx.slice`,
//! `scx.dsq_vtime` and `scx.disallow`: the core keeps no copy of these but reads
//! and writes them here. All else is the core's, which writes it here whenever
//! it changes, so that programs see it.

use std::collections::BTreeMap;

use super::cpumask::{CpuMask, MAX_CPUS};
use crate::btf::{Btf, BtfError, Kind as BtfKind, Type, TypeId};
use crate::vm::{Kind, Memory};

/// How deep members nest.
const MAX_DEPTH: usize = 8;
/// The largest `task_struct`, in bytes; real ones have some 10000.
const MAX_BYTES: u32 = 1 << 20;

/// A task, by its number: from 0, and not used again after the task is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

/// Where a member stands in a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start.
    pub offset: u32,
    /// Bytes.
    pub bytes: u32,
}

/// Where a kernel's `struct task_struct` has what programs look at.
#[derive(Clone, Debug)]
pub struct TaskLayout {
    /// By path, as `scx.slice`.
    pub(super) fields: BTreeMap<String, Field>,
    /// Size of an image: up to the end of the last member that the BTF has.
    pub(super) bytes: u32,
    pub(super) slice: Field,
    pub(super) dsq_vtime: Field,
    /// What programs may write.
    pub(super) writable: std::ops::Range<u32>,
}

impl TaskLayout {
    /// From a kernel's BTF.
    ///
    /// # Errors
    /// If it has no `struct task_struct` with sched_ext's members.
    pub fn new(btf: &Btf) -> Result<Self, BtfError> {
        let missing = |what: &str| BtfError::Missing(what.into());
        let root = btf
            .find("task_struct", BtfKind::Struct)
            .ok_or_else(|| missing("struct task_struct"))?;
        let fields = members(btf, root);
        let end = |field: &Field| field.offset + field.bytes;
        let bytes = fields.values().map(end).max().unwrap_or(0);
        let field = |path: &str| {
            let field = fields.get(path).copied();
            field.ok_or_else(|| missing(&format!("member {path} of struct task_struct")))
        };
        let (slice, dsq_vtime) = (field("scx.slice")?, field("scx.dsq_vtime")?);
        let disallow = field("scx.disallow")?;
        if slice.bytes != 8 || dsq_vtime.bytes != 8 {
            return Err(missing("member scx.slice of 8 bytes"));
        }
        // They stand together but for one or two of the kernel's own in new kernels.
        let writable = [slice, dsq_vtime, disallow];
        let start = writable.iter().map(|field| field.offset).min();
        let stop = writable.iter().map(end).max();
        Ok(TaskLayout {
            bytes: bytes.next_multiple_of(64),
            slice,
            dsq_vtime,
            writable: start.unwrap_or(0)..stop.unwrap_or(0),
            fields,
        })
    }

    /// Where the member at `path` stands; `None` if this kernel has none.
    pub fn field(&self, path: &str) -> Option<Field> {
        self.fields.get(path).copied()
    }

    /// Size of an image in bytes.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }
}

/// All members of a struct, by path.
pub(super) fn members(btf: &Btf, id: TypeId) -> BTreeMap<String, Field> {
    let mut fields = BTreeMap::new();
    collect(btf, id, "", 0, MAX_DEPTH, &mut fields);
    fields
}

fn collect(
    btf: &Btf,
    id: TypeId,
    path: &str,
    offset: u32,
    depth: usize,
    fields: &mut BTreeMap<String, Field>,
) {
    let (Some((_, Type::Composite(composite))), Some(depth)) =
        (btf.resolve(id), depth.checked_sub(1))
    else {
        return;
    };
    for member in &composite.members {
        // No field is set bit by bit.
        let Some(bytes) = btf.size_of(member.ty).filter(|_| member.bit_size.is_none()) else {
            continue;
        };
        let offset = offset.saturating_add(member.bit_offset / 8);
        let path = match (path, &*member.name) {
            ("", name) => name.to_owned(),
            (path, "") => path.to_owned(),
            (path, name) => format!("{path}.{name}"),
        };
        if matches!(btf.resolve(member.ty), Some((_, Type::Composite(_)))) {
            collect(btf, member.ty, &path, offset, depth, fields);
        }
        let bytes = bytes as u32;
        let fits = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= MAX_BYTES);
        if fits && !path.is_empty() {
            fields.insert(path, Field { offset, bytes });
        }
    }
}

/// What a task starts with. The rest of its image is 0.
#[derive(Clone, Debug)]
pub struct NewTask<'a> {
    /// Process number of the thread (`pid`), unique among the tasks that live.
    pub pid: i32,
    /// Number of the process it belongs to (`tgid`).
    pub tgid: i32,
    /// Name; what is longer than 15 bytes is cut off.
    pub comm: &'a str,
    /// `PF_*` of `include/linux/sched.h`.
    pub flags: u32,
    /// `scx.weight`: 1 to 10000, 100 for nice 0.
    pub weight: u32,
    /// Where it may run.
    pub allowed: CpuMask,
    /// The CPU it is on (`thread_info.cpu`).
    pub cpu: u32,
}

/// The images of all tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    layout: TaskLayout,
    /// Address of the image by [`TaskId`]; 0 once the task is gone.
    images: Vec<u64>,
    /// The image that stands for the idle task of every CPU.
    idle: u64,
}

/// `PF_IDLE | PF_KTHREAD`, one value since 4.10.
const IDLE_FLAGS: u64 = 0x0020_0002;
/// The number in [`Kind::Task`] of the idle task, which is no [`TaskId`].
pub(super) const IDLE: u32 = u32::MAX;

impl Tasks {
    /// No tasks but the idle task.
    pub fn new(layout: TaskLayout, memory: &mut Memory) -> Self {
        let idle = memory.add(
            "the idle task",
            Kind::Task(IDLE),
            vec![0; layout.bytes as usize],
        );
        memory.protect(idle, 0..0);
        let mut tasks = Tasks {
            layout,
            images: Vec::new(),
            idle,
        };
        let mut images = tasks.images(memory);
        images.put(idle, "flags", IDLE_FLAGS);
        images.put_bytes(idle, "comm", b"swapper");
        tasks
    }

    /// Where members stand.
    pub fn layout(&self) -> &TaskLayout {
        &self.layout
    }

    /// The images, to read and to write.
    pub fn images<'a>(&'a mut self, memory: &'a mut Memory) -> Images<'a> {
        Images {
            tasks: self,
            memory,
        }
    }

    /// The address of the image of `task`; `None` once it is gone.
    pub fn address(&self, task: TaskId) -> Option<u64> {
        self.images
            .get(task.0 as usize)
            .copied()
            .filter(|address| *address != 0)
    }

    /// `scx.slice` of a task in nanoseconds; 0 of one that is gone.
    pub fn slice(&self, memory: &Memory, task: TaskId) -> u64 {
        self.number(memory, task, self.layout.slice)
    }

    /// `scx.dsq_vtime` of a task; 0 of one that is gone.
    pub fn dsq_vtime(&self, memory: &Memory, task: TaskId) -> u64 {
        self.number(memory, task, self.layout.dsq_vtime)
    }

    fn number(&self, memory: &Memory, task: TaskId, field: Field) -> u64 {
        let Some(image) = self.address(task) else {
            return 0;
        };
        let at = image + u64::from(field.offset);
        let bytes = memory.read(at, field.bytes.min(8) as usize);
        let mut number = [0; 8];
        let bytes = bytes.expect("the image has all of the layout");
        number[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(number)
    }

    /// The address of the image of the idle task.
    pub fn idle_address(&self) -> u64 {
        self.idle
    }
}

/// The images of tasks together with the memory they are in.
pub struct Images<'a> {
    tasks: &'a mut Tasks,
    /// All memory.
    pub memory: &'a mut Memory,
}

impl Images<'_> {
    /// Make the image of a new task. `scx.slice` and `scx.dsq_vtime` are 0.
    pub fn add(&mut self, new: &NewTask<'_>) -> TaskId {
        let id = u32::try_from(self.tasks.images.len()).expect("fewer tasks than addresses");
        let bytes = vec![0; self.tasks.layout.bytes as usize];
        let image = self
            .memory
            .add(&format!("task {}", new.pid), Kind::Task(id), bytes);
        self.memory
            .protect(image, self.tasks.layout.writable.clone());
        self.tasks.images.push(image);
        let task = TaskId(id);
        self.put(image, "pid", new.pid as u64);
        self.put(image, "tgid", new.tgid as u64);
        self.put(image, "flags", u64::from(new.flags));
        self.put(image, "scx.weight", u64::from(new.weight));
        self.put(image, "thread_info.cpu", u64::from(new.cpu));
        // Until it is given another, its own parent, as the kernel's first task is.
        self.put(image, "real_parent", image);
        self.put(image, "group_leader", image);
        let comm = new.comm.as_bytes();
        self.put_bytes(image, "comm", &comm[..comm.len().min(15)]);
        self.set_allowed(task, &new.allowed);
        task
    }

    /// Forget a task. A program that kept its address faults when it uses it.
    pub fn remove(&mut self, task: TaskId) {
        if let Some(image) = self.tasks.images.get_mut(task.0 as usize) {
            self.memory.free(*image);
            *image = 0;
        }
    }

    /// The address of the image of `task`; `None` once it is gone.
    pub fn address(&self, task: TaskId) -> Option<u64> {
        self.tasks.address(task)
    }

    /// Where `task` may run, in the mask of its own and through `cpus_ptr`.
    pub fn set_allowed(&mut self, task: TaskId, allowed: &CpuMask) {
        let Some(image) = self.address(task) else {
            return;
        };
        if let Some(mask) = self.tasks.layout.fields.get("cpus_mask").copied() {
            let bytes = (mask.bytes as usize).min(MAX_CPUS / 8);
            self.put_bytes(image, "cpus_mask", &allowed.to_bytes()[..bytes]);
            self.put(image, "cpus_ptr", image + u64::from(mask.offset));
        }
        self.put(image, "nr_cpus_allowed", u64::from(allowed.weight()));
    }

    /// `scx.slice` in nanoseconds; 0 of a task that is gone.
    pub fn slice(&self, task: TaskId) -> u64 {
        self.tasks.slice(self.memory, task)
    }

    /// Set `scx.slice`, in nanoseconds.
    pub fn set_slice(&mut self, task: TaskId, slice_ns: u64) {
        self.set_number(task, self.tasks.layout.slice, slice_ns);
    }

    /// `scx.dsq_vtime`; 0 of a task that is gone.
    pub fn dsq_vtime(&self, task: TaskId) -> u64 {
        self.tasks.dsq_vtime(self.memory, task)
    }

    /// Set `scx.dsq_vtime`.
    pub fn set_dsq_vtime(&mut self, task: TaskId, vtime: u64) {
        self.set_number(task, self.tasks.layout.dsq_vtime, vtime);
    }

    /// The number at `path`, as `scx.flags` or `se.sum_exec_runtime`. `None` if
    /// this kernel has no such member or the task is gone.
    pub fn get(&self, task: TaskId, path: &str) -> Option<u64> {
        let field = *self.tasks.layout.fields.get(path)?;
        self.address(task)
            .map(|_| self.tasks.number(self.memory, task, field))
    }

    /// Set the number at `path`. False if this kernel has no such member or the
    /// task is gone.
    pub fn set(&mut self, task: TaskId, path: &str, value: u64) -> bool {
        self.address(task)
            .is_some_and(|image| self.put(image, path, value))
    }

    /// The CPU that the image of the idle task is on.
    pub(super) fn set_idle_cpu(&mut self, cpu: u32) {
        let idle = self.tasks.idle;
        self.put(idle, "thread_info.cpu", u64::from(cpu));
    }

    /// The address of the image of the task that has this `pid`.
    pub(super) fn find_pid(&self, pid: i32) -> Option<u64> {
        let field = *self.tasks.layout.fields.get("pid")?;
        let images = self.tasks.images.iter().copied();
        images.filter(|image| *image != 0).find(|image| {
            let at = image + u64::from(field.offset);
            self.memory
                .read_u32(at)
                .is_ok_and(|number| number == pid as u32)
        })
    }

    fn set_number(&mut self, task: TaskId, field: Field, value: u64) {
        if let Some(image) = self.address(task) {
            self.put_field(image, field, value);
        }
    }

    fn put(&mut self, image: u64, path: &str, value: u64) -> bool {
        let field = self.tasks.layout.fields.get(path).copied();
        field.is_some_and(|field| {
            self.put_field(image, field, value);
            true
        })
    }

    fn put_field(&mut self, image: u64, field: Field, value: u64) {
        let bytes = &value.to_le_bytes()[..field.bytes.min(8) as usize];
        self.memory
            .write_kernel(image + u64::from(field.offset), bytes)
            .expect("the image has all of the layout");
    }

    fn put_bytes(&mut self, image: u64, path: &str, bytes: &[u8]) {
        let Some(field) = self.tasks.layout.fields.get(path).copied() else {
            return;
        };
        let bytes = &bytes[..bytes.len().min(field.bytes as usize)];
        self.memory
            .write_kernel(image + u64::from(field.offset), bytes)
            .expect("the image has all of the layout");
    }
}
