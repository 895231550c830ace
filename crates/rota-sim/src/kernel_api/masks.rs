// SPDX-License-Identifier: GPL-2.0-only
//! `bpf_cpumask_*()`: masks of the program's own, counted, and questions about any.
//!
//! A mask is freed with its last reference, at once: the kernel waits for readers
//! under RCU, and so a program that looks at a mask that another CPU frees in that
//! moment faults here and not there.

use super::core_api::CoreApi;
use super::cpumask::CpuMask;
use super::kernel::Session;
use super::table::{self, Kfunc};
use crate::vm::{Call, Cause, Kind, Memory};

/// Bytes of the counter behind a mask.
const COUNT_BYTES: usize = 8;

impl<C: CoreApi> Session<'_, C> {
    /// Call one of `bpf_cpumask_*()`; `None` if it is another kfunc.
    pub(super) fn call_mask(
        &mut self,
        kfunc: Kfunc,
        call: &mut Call<'_>,
    ) -> Result<Option<u64>, Cause> {
        let args = call.args;
        let value = match kfunc {
            Kfunc::MaskTestCpu => return self.test_cpu(call.memory, args).map(Some),
            Kfunc::MaskCreate => {
                let bytes = self.kernel.mask_bytes + COUNT_BYTES;
                let mut mask = vec![0; bytes];
                mask[self.kernel.mask_bytes] = 1;
                let address = call.memory.add("a bpf_cpumask", Kind::CpuMask, mask);
                call.held.acquire(address, "bpf_cpumask_create()");
                address
            }
            Kfunc::MaskAcquire => {
                self.count(call.memory, kfunc, args[0], 1)?;
                call.held.acquire(args[0], "bpf_cpumask_acquire()");
                args[0]
            }
            Kfunc::MaskRelease => {
                if !call.held.release(args[0]) {
                    return Err(bad(kfunc, "the mask is not held"));
                }
                if self.count(call.memory, kfunc, args[0], -1)? == 0 {
                    call.memory.free(args[0]);
                }
                0
            }
            Kfunc::MaskSetCpu
            | Kfunc::MaskClearCpu
            | Kfunc::MaskTestAndSetCpu
            | Kfunc::MaskTestAndClearCpu => self.change_cpu(kfunc, call)?,
            Kfunc::MaskSetAll
            | Kfunc::MaskClear
            | Kfunc::MaskAnd
            | Kfunc::MaskOr
            | Kfunc::MaskXor
            | Kfunc::MaskCopy
            | Kfunc::MaskPopulate => self.change(kfunc, call)?,
            Kfunc::MaskFirst
            | Kfunc::MaskFirstZero
            | Kfunc::MaskFirstAnd
            | Kfunc::MaskEqual
            | Kfunc::MaskIntersects
            | Kfunc::MaskSubset
            | Kfunc::MaskEmpty
            | Kfunc::MaskFull
            | Kfunc::MaskWeight
            | Kfunc::MaskAnyDistribute
            | Kfunc::MaskAnyAndDistribute => self.ask(kfunc, call)?,
            _ => return Ok(None),
        };
        Ok(Some(value))
    }

    /// `bpf_cpumask_test_cpu()`, of all the one that is called most: only the
    /// word is read.
    fn test_cpu(&mut self, memory: &mut Memory, args: [u64; 5]) -> Result<u64, Cause> {
        let (cpu, mask) = (args[0] as u32, args[1]);
        if matches!(memory.kind(mask), Some(Kind::CoreMask(_))) {
            return Ok(u64::from(self.mask(memory, mask)?.contains(cpu)));
        }
        // Also for a number out of range: the pointer has to be one.
        let in_range = cpu < self.core.nr_cpu_ids();
        let word = if in_range { cpu / 64 } else { 0 };
        let word = memory.read_u64(mask + u64::from(word) * 8)?;
        Ok(u64::from(in_range) & word >> (cpu % 64))
    }

    /// Change the counter of a mask by `by`, and return it.
    fn count(
        &self,
        memory: &mut Memory,
        kfunc: Kfunc,
        address: u64,
        by: i32,
    ) -> Result<u32, Cause> {
        own(memory, kfunc, address)?;
        let at = address + self.kernel.mask_bytes as u64;
        let count = memory.read_u32(at)?.saturating_add_signed(by);
        memory.write_kernel(at, &count.to_le_bytes())?;
        Ok(count)
    }

    fn change_cpu(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let (cpu, address) = (call.args[0] as u32, call.args[1]);
        own(call.memory, kfunc, address)?;
        if cpu >= self.core.nr_cpu_ids() {
            return Ok(0);
        }
        let at = address + u64::from(cpu / 64) * 8;
        let (word, bit) = (call.memory.read_u64(at)?, 1 << (cpu % 64));
        let new = match kfunc {
            Kfunc::MaskSetCpu | Kfunc::MaskTestAndSetCpu => word | bit,
            _ => word & !bit,
        };
        call.memory.write_kernel(at, &new.to_le_bytes())?;
        Ok(u64::from(word & bit != 0))
    }

    /// Those that write a whole mask, their first argument.
    fn change(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [to, one, two, ..] = call.args;
        own(call.memory, kfunc, to)?;
        let all = CpuMask::first(self.core.nr_cpu_ids());
        let mask = match kfunc {
            Kfunc::MaskSetAll => all,
            Kfunc::MaskClear => CpuMask::EMPTY,
            Kfunc::MaskCopy => self.mask(call.memory, one)?,
            Kfunc::MaskPopulate => return self.populate(call),
            _ => {
                let one = self.mask(call.memory, one)?;
                let two = self.mask(call.memory, two)?;
                match kfunc {
                    Kfunc::MaskAnd => one.and(&two),
                    Kfunc::MaskOr => one.or(&two),
                    _ => one.combine(&two, |a, b| a ^ b),
                }
            }
        };
        self.write_mask(call.memory, to, &mask)?;
        // Only bpf_cpumask_and() returns something.
        Ok(u64::from(!mask.and(&all).is_empty()))
    }

    fn write_mask(&self, memory: &mut Memory, to: u64, mask: &CpuMask) -> Result<(), Cause> {
        let bytes = &mask.to_bytes()[..self.kernel.mask_bytes];
        Ok(memory.write_kernel(to, bytes)?)
    }

    /// `bpf_cpumask_populate()`: from an array of bytes.
    fn populate(&mut self, call: &mut Call<'_>) -> Result<u64, Cause> {
        const EACCES: i64 = -13;
        const EINVAL: i64 = -22;
        let [to, from, size, ..] = call.args;
        let needed = u64::from(self.core.nr_cpu_ids().div_ceil(64)) * 8;
        if size < needed {
            return Ok(EACCES as u64);
        }
        if !from.is_multiple_of(8) {
            return Ok(EINVAL as u64);
        }
        let mask = CpuMask::from_bytes(call.memory.read(from, needed as usize)?);
        self.write_mask(call.memory, to, &mask)?;
        Ok(0)
    }

    /// Those that only look.
    fn ask(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let nr = self.core.nr_cpu_ids();
        let all = CpuMask::first(nr);
        let one = self.mask(call.memory, call.args[0])?.and(&all);
        let two = match kfunc {
            Kfunc::MaskFirstAnd
            | Kfunc::MaskEqual
            | Kfunc::MaskIntersects
            | Kfunc::MaskSubset
            | Kfunc::MaskAnyAndDistribute => self.mask(call.memory, call.args[1])?.and(&all),
            _ => all,
        };
        // Where there is none, the answer is one that no CPU has.
        let first = |mask: &CpuMask| u64::from(mask.next(0).unwrap_or(nr));
        Ok(match kfunc {
            Kfunc::MaskFirst | Kfunc::MaskFirstAnd => first(&one.and(&two)),
            Kfunc::MaskFirstZero => first(&all.combine(&one, |all, one| all & !one)),
            Kfunc::MaskEqual => u64::from(one == two),
            Kfunc::MaskIntersects => u64::from(one.intersects(&two)),
            Kfunc::MaskSubset => u64::from(one.is_subset(&two)),
            Kfunc::MaskEmpty => u64::from(one.is_empty()),
            Kfunc::MaskFull => u64::from(one == all),
            Kfunc::MaskWeight => u64::from(one.weight()),
            _ => u64::from(self.distribute(&one.and(&two)).unwrap_or(nr)),
        })
    }

    /// A CPU of `mask`: on each CPU the next one after that of the call before.
    fn distribute(&mut self, mask: &CpuMask) -> Option<u32> {
        let previous = self.kernel.distribute.get_mut(self.core.cpu() as usize)?;
        let next = mask.next(*previous + 1).or_else(|| mask.next(0))?;
        *previous = next;
        Some(next)
    }
}

fn bad(kfunc: Kfunc, what: impl Into<String>) -> Cause {
    Cause::argument(table::name(kfunc), what)
}

/// Refuses what is no mask of a program's own.
fn own(memory: &Memory, kfunc: Kfunc, address: u64) -> Result<(), Cause> {
    match memory.kind(address) {
        Some(Kind::CpuMask) if address as u32 == 0 => Ok(()),
        _ => Err(bad(kfunc, format!("{address:#x} is no bpf_cpumask"))),
    }
}
