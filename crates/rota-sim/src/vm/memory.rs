// SPDX-License-Identifier: GPL-2.0-only
//! The memory of a simulated kernel: a set of objects, each with bounds.
//!
//! An address is a 64-bit number that names an object and an offset in it:
//!
//! ```text
//! 63        54 53             32 31              0
//! +-----------+-----------------+----------------+
//! | generation|      slot       |     offset     |
//! +-----------+-----------------+----------------+
//! ```
//!
//! Arithmetic on it works as on any pointer as long as it stays within 4 GiB. An
//! offset below 0 borrows from the slot, and so names another object at an
//! offset that no object is large enough to have. The generation tells an object
//! from those that had its slot before: an address kept after the object was
//! freed is caught. 0 is no address, nor are the last 4096 (`IS_ERR()`).

use std::ops::Range;

use thiserror::Error;

use super::{FRAME_BYTES, MAX_FRAMES};

/// The largest object, in bytes.
pub const MAX_OBJECT_BYTES: usize = 1 << 30;
const SLOT_BITS: u32 = 22;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
/// The last slot stays unused, so that no object has an address of `IS_ERR()`.
const MAX_SLOTS: usize = SLOT_MASK as usize;
/// Where the arguments of the program that runs stand, after its stack frames.
const CONTEXT_SLOT: usize = MAX_FRAMES + 1;
/// The first slot of what does not belong to an execution.
const FIRST_SLOT: usize = CONTEXT_SLOT + 1;

/// What an object is. Decides what a kfunc takes a pointer to it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A frame of the stack of the program that runs.
    Stack,
    /// A section of variables: `.data`, `.bss`, `.rodata`.
    Global,
    /// The map of this number itself: its descriptor, of which programs read nothing.
    Map(u32),
    /// The values of the map of this number.
    MapValues(u32),
    /// The code: a pointer into it is one to a function.
    Code,
    /// A record of a ring buffer that is not submitted yet.
    Record(u32),
    /// The image of a `task_struct`: the number is the [`crate::kernel_api::TaskId`].
    Task(u32),
    /// A `struct bpf_cpumask` of the program's, counted.
    CpuMask,
    /// A mask of CPUs that the core keeps; the number says which.
    CoreMask(u8),
    /// Anything else that the kernel lends to a program.
    Kernel,
    /// The object was freed.
    Freed,
}

/// An access that no object covers, or only one that may not be accessed so.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{} of {size} bytes at {address:#x}: {what}", if *.write { "write" } else { "read" })]
pub struct BadAccess {
    /// Something was to be written.
    pub write: bool,
    /// Where, as the program names it.
    pub address: u64,
    /// How much, in bytes.
    pub size: u64,
    /// What is there: the object with its size, or why there is none.
    pub what: String,
}

#[derive(Clone, Debug)]
struct Slot {
    /// Upper half of the addresses of the object.
    tag: u32,
    /// The offsets that programs may write.
    writable: Range<u32>,
    kind: Kind,
    bytes: Vec<u8>,
    name: Box<str>,
}

/// All objects that a program can have a pointer to.
#[derive(Clone, Debug)]
pub struct Memory {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Nothing but room for the stack of whatever program runs.
    pub fn new() -> Self {
        let slot = |index: usize| Slot {
            tag: u32::try_from(index).expect("the frames are few"),
            writable: 0..u32::MAX,
            kind: Kind::Stack,
            bytes: Vec::new(),
            name: match index {
                0 => "NULL".into(),
                CONTEXT_SLOT => "context".into(),
                frame => format!("stack frame {frame}").into(),
            },
        };
        Memory {
            slots: (0..FIRST_SLOT).map(slot).collect(),
            free: Vec::new(),
        }
    }

    /// Add an object and return its address. Programs may write all of it.
    ///
    /// # Panics
    /// If there are more than 4 million objects or this one is larger than
    /// [`MAX_OBJECT_BYTES`]: the loader limits what an object file may ask for.
    pub fn add(&mut self, name: &str, kind: Kind, bytes: Vec<u8>) -> u64 {
        assert!(bytes.len() <= MAX_OBJECT_BYTES, "{name} is too large");
        let slot = |tag| Slot {
            tag,
            writable: 0..u32::MAX,
            kind,
            bytes,
            name: name.into(),
        };
        let tag = match self.free.pop() {
            Some(index) => {
                let place = &mut self.slots[index as usize];
                *place = slot(place.tag);
                place.tag
            }
            None => {
                assert!(self.slots.len() < MAX_SLOTS, "more objects than addresses");
                let tag = u32::try_from(self.slots.len()).expect("checked above");
                self.slots.push(slot(tag));
                tag
            }
        };
        u64::from(tag) << 32
    }

    /// Free the object that begins at `address`. False if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        let Some(slot) = self.slot_mut(address).filter(|_| address as u32 == 0) else {
            return false;
        };
        if matches!(slot.kind, Kind::Stack | Kind::Freed) {
            return false;
        }
        slot.tag = slot.tag.wrapping_add(1 << SLOT_BITS);
        slot.kind = Kind::Freed;
        slot.bytes = Vec::new();
        let index = slot.tag & SLOT_MASK;
        self.free.push(index);
        true
    }

    /// Let programs write only the bytes `writable` of the object at `address`.
    pub fn protect(&mut self, address: u64, writable: Range<u32>) {
        if let Some(slot) = self.slot_mut(address) {
            slot.writable = writable;
        }
    }

    /// What the object at `address` is; `None` if there is none.
    pub fn kind(&self, address: u64) -> Option<Kind> {
        self.slot(address).map(|slot| slot.kind)
    }

    /// The name of the object at `address`, for messages.
    pub fn name(&self, address: u64) -> Option<&str> {
        self.slot(address).map(|slot| &*slot.name)
    }

    /// The size of the object at `address` in bytes; 0 if there is none.
    pub fn object_bytes(&self, address: u64) -> usize {
        self.slot(address).map_or(0, |slot| slot.bytes.len())
    }

    /// The address of the first byte after the frame of number `depth`.
    pub(super) fn frame_end(depth: usize) -> u64 {
        (1 + depth as u64) << 32 | FRAME_BYTES as u64
    }

    /// Make the frame of number `depth` one of zeros.
    pub(super) fn clear_frame(&mut self, depth: usize) {
        let bytes = &mut self.slots[1 + depth].bytes;
        bytes.clear();
        bytes.resize(FRAME_BYTES, 0);
    }

    /// The frame of number `depth` is not in use any more.
    pub(super) fn drop_frame(&mut self, depth: usize) {
        self.slots[1 + depth].bytes.clear();
    }

    /// Put the bytes of the frame of number `depth` in, or take them out.
    pub(super) fn swap_frame(&mut self, depth: usize, bytes: &mut Vec<u8>) {
        std::mem::swap(&mut self.slots[1 + depth].bytes, bytes);
    }

    /// Put the arguments of a program where it reads them, and return where.
    pub(super) fn set_context(&mut self, arguments: &[u64]) -> u64 {
        let slot = &mut self.slots[CONTEXT_SLOT];
        slot.writable = 0..0;
        slot.bytes.clear();
        for argument in arguments {
            slot.bytes.extend_from_slice(&argument.to_le_bytes());
        }
        (CONTEXT_SLOT as u64) << 32
    }

    #[inline(always)]
    fn slot(&self, address: u64) -> Option<&Slot> {
        let tag = (address >> 32) as u32;
        let slot = self.slots.get((tag & SLOT_MASK) as usize)?;
        (slot.tag == tag).then_some(slot)
    }

    #[inline(always)]
    fn slot_mut(&mut self, address: u64) -> Option<&mut Slot> {
        let tag = (address >> 32) as u32;
        let slot = self.slots.get_mut((tag & SLOT_MASK) as usize)?;
        (slot.tag == tag).then_some(slot)
    }

    /// `N` bytes at `address`; `None` if they are not all in one object.
    #[inline(always)]
    pub fn load<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let offset = address as u32 as usize;
        self.slot(address)?
            .bytes
            .get(offset..)?
            .first_chunk()
            .copied()
    }

    /// Write `bytes` for a program; `None` if it may not.
    #[inline(always)]
    #[must_use = "None is a fault"]
    pub fn store<const N: usize>(&mut self, address: u64, bytes: [u8; N]) -> Option<()> {
        let offset = address as u32;
        let slot = self.slot_mut(address)?;
        let end = u64::from(offset) + N as u64;
        if offset < slot.writable.start || end > u64::from(slot.writable.end) {
            return None;
        }
        *slot.bytes.get_mut(offset as usize..)?.first_chunk_mut()? = bytes;
        Some(())
    }

    /// `size` bytes at `address`.
    pub fn read(&self, address: u64, size: usize) -> Result<&[u8], BadAccess> {
        let offset = address as u32 as usize;
        let end = offset.saturating_add(size);
        self.slot(address)
            .and_then(|slot| slot.bytes.get(offset..end))
            .ok_or_else(|| self.bad_access(false, address, size))
    }

    /// Write for a program, which needs the right to.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAccess> {
        let offset = u64::from(address as u32);
        let allowed = |slot: &Slot| {
            offset >= u64::from(slot.writable.start)
                && offset + bytes.len() as u64 <= u64::from(slot.writable.end)
        };
        if !self.slot(address).is_some_and(allowed) {
            return Err(self.bad_access(true, address, bytes.len()));
        }
        self.write_kernel(address, bytes)
    }

    /// Write for the kernel, which may write whatever there is.
    pub fn write_kernel(&mut self, address: u64, bytes: &[u8]) -> Result<(), BadAccess> {
        let offset = address as u32 as usize;
        let end = offset.saturating_add(bytes.len());
        match self
            .slot_mut(address)
            .and_then(|slot| slot.bytes.get_mut(offset..end))
        {
            Some(place) => {
                place.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(self.bad_access(true, address, bytes.len())),
        }
    }

    /// A little-endian number at `address`.
    pub fn read_u64(&self, address: u64) -> Result<u64, BadAccess> {
        self.load(address)
            .map(u64::from_le_bytes)
            .ok_or_else(|| self.bad_access(false, address, 8))
    }

    /// A little-endian number at `address`.
    pub fn read_u32(&self, address: u64) -> Result<u32, BadAccess> {
        self.load(address)
            .map(u32::from_le_bytes)
            .ok_or_else(|| self.bad_access(false, address, 4))
    }

    /// The string at `address`, without its end; at most `max` bytes of it.
    pub fn read_str(&self, address: u64, max: usize) -> Result<Vec<u8>, BadAccess> {
        let offset = address as u32 as usize;
        let bytes = self
            .slot(address)
            .and_then(|slot| slot.bytes.get(offset..))
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(|| self.bad_access(false, address, 1))?;
        let bytes = &bytes[..bytes.len().min(max)];
        let end = bytes.iter().position(|byte| *byte == 0);
        Ok(bytes[..end.unwrap_or(bytes.len())].to_vec())
    }

    /// The error that says what stands at `address`.
    #[cold]
    pub fn bad_access(&self, write: bool, address: u64, size: usize) -> BadAccess {
        let tag = (address >> 32) as u32;
        let offset = address as u32;
        let what = match self.slots.get((tag & SLOT_MASK) as usize) {
            _ if address < 4096 => "NULL pointer".into(),
            _ if (address as i64) < 0 && (address as i64) >= -4096 => "an error number".into(),
            Some(slot) if slot.tag == tag && slot.kind != Kind::Freed => {
                let access =
                    if write && (slot.bytes.len() as u64) >= u64::from(offset) + size as u64 {
                        " may not be written by programs,"
                    } else {
                        ""
                    };
                let (name, len) = (&slot.name, slot.bytes.len());
                format!("{name}{access} offset {offset} of {len} bytes")
            }
            Some(slot) if slot.kind == Kind::Freed || slot.tag > tag => {
                "an object that was freed".into()
            }
            _ => "no object".into(),
        };
        BadAccess {
            write,
            address,
            size: size as u64,
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_stays_within_one_object() {
        let mut memory = Memory::new();
        let a = memory.add("a", Kind::Global, vec![1; 16]);
        let b = memory.add("b", Kind::Global, vec![2; 16]);
        assert_eq!(memory.load::<8>(a + 8), Some([1; 8]));
        assert_eq!(memory.load::<8>(a + 9), None);
        assert_eq!(
            memory.load::<1>(b.wrapping_sub(1)),
            None,
            "not the end of a"
        );
        assert_eq!(memory.store(b + 15, [0_u8; 2]), None);
        assert_eq!(memory.load::<1>(b + 15), Some([2]), "nothing half written");
        let bad = memory.bad_access(false, a + 9, 8).to_string();
        assert!(bad.ends_with("a offset 9 of 16 bytes"), "{bad}");
    }

    #[test]
    fn a_freed_object_is_told_from_the_next_in_its_place() {
        let mut memory = Memory::new();
        let first = memory.add("first", Kind::CpuMask, vec![0; 8]);
        assert!(memory.free(first));
        assert!(!memory.free(first), "twice");
        let second = memory.add("second", Kind::CpuMask, vec![0; 8]);
        assert_ne!(first, second);
        assert_eq!(memory.load::<8>(first), None);
        assert_eq!(memory.load::<8>(second), Some([0; 8]));
        let bad = memory.bad_access(false, first, 8).to_string();
        assert!(bad.contains("freed"), "{bad}");
    }

    #[test]
    fn only_what_is_writable_is_written() {
        let mut memory = Memory::new();
        let task = memory.add("task", Kind::Task(0), vec![0; 64]);
        memory.protect(task, 16..32);
        assert_eq!(memory.store(task + 16, [1_u8; 8]), Some(()));
        assert_eq!(memory.store(task + 24, [1_u8; 8]), Some(()));
        assert_eq!(memory.store(task + 8, [1_u8; 8]), None);
        assert_eq!(memory.store(task + 28, [1_u8; 8]), None);
        assert!(memory.write(task + 28, &[1; 8]).is_err());
        assert!(memory.write_kernel(task + 28, &[1; 8]).is_ok());
    }

    #[test]
    fn errors_and_null_are_no_addresses() {
        let memory = Memory::new();
        for address in [0, 8, (-12_i64) as u64, u64::MAX, 1 << 32] {
            assert_eq!(memory.load::<1>(address), None, "{address:#x}");
        }
    }
}
