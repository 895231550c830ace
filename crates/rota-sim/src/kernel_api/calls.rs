// SPDX-License-Identifier: GPL-2.0-only
//! Kfuncs: arguments decoded, and the core asked.

use super::core_api::{CoreApi, DsqInsert, DsqMove, IdleMask, IterId};
use super::kernel::{CoreMask, Session};
use super::table::{self, Kfunc};
use super::tasks::TaskId;
use crate::vm::{self, Call, Cause, Memory};

const E2BIG: i64 = -7;
const EINVAL: i64 = -22;
/// `BPF_MAX_LOOPS`.
const MAX_LOOPS: i64 = 8 * 1024 * 1024;
/// The longest format.
const MAX_FORMAT: usize = 1024;
/// `SCX_DSQ_LOCAL`, one value since 6.12.
const DSQ_LOCAL: u64 = 0x8000_0000_0000_0002;

/// Words of an iterator over a DSQ, which programs do not look into.
mod iter {
    /// The core's number of it, plus 1; 0 if the queue did not exist.
    pub(super) const ID: u64 = 0;
    /// What `scx_bpf_dsq_move_set_slice()` has set.
    pub(super) const SLICE: u64 = 16;
    /// What `scx_bpf_dsq_move_set_vtime()` has set.
    pub(super) const VTIME: u64 = 24;
    /// Which of the two is set.
    pub(super) const SET: u64 = 32;
    pub(super) const SET_SLICE: u64 = 1;
    pub(super) const SET_VTIME: u64 = 2;
}

/// A 32-bit number with sign, as it is returned.
fn signed(value: i32) -> u64 {
    i64::from(value) as u64
}

impl<C: CoreApi> Session<'_, C> {
    /// Call a kfunc.
    pub(super) fn call(&mut self, kfunc: Kfunc, mut call: Call<'_>) -> Result<u64, Cause> {
        if kfunc >= Kfunc::CreateDsq {
            if let Some(value) = self.call_dsq(kfunc, &mut call)? {
                return Ok(value);
            }
            return self.call_cpu(kfunc, &mut call);
        }
        if let Some(value) = self.call_mask(kfunc, &mut call)? {
            return Ok(value);
        }
        self.call_pure(kfunc, &mut call)
    }

    /// What needs no core.
    fn call_pure(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let less = |count: &mut u32| {
            *count = count
                .checked_sub(1)
                .ok_or_else(|| bad(kfunc, "without its counterpart"))?;
            Ok(0)
        };
        match kfunc {
            Kfunc::IterNumNew => {
                call.held.iterators += 1;
                iter_num_new(call)
            }
            Kfunc::IterNumNext => iter_num_next(call),
            Kfunc::IterNumDestroy => less(&mut call.held.iterators),
            Kfunc::RcuReadLock => {
                call.held.rcu += 1;
                Ok(0)
            }
            Kfunc::RcuReadUnlock => less(&mut call.held.rcu),
            Kfunc::PreemptDisable => {
                call.held.preempt += 1;
                Ok(0)
            }
            Kfunc::PreemptEnable => less(&mut call.held.preempt),
            Kfunc::TaskRelease => match call.held.release(call.args[0]) {
                true => Ok(0),
                false => Err(bad(kfunc, "the task is not held")),
            },
            Kfunc::TaskAcquire => {
                self.needed(kfunc, call.memory, call.args[0])?;
                call.held.acquire(call.args[0], table::name(kfunc));
                Ok(call.args[0])
            }
            _ => {
                let pid = call.args[0] as i32;
                let task = self.kernel.images(call.memory).find_pid(pid);
                if let Some(address) = task {
                    call.held.acquire(address, table::name(kfunc));
                }
                Ok(task.unwrap_or(0))
            }
        }
    }

    /// A task that has to be one.
    fn needed(&self, kfunc: Kfunc, memory: &Memory, address: u64) -> Result<TaskId, Cause> {
        self.task(memory, address)
            .ok_or_else(|| bad(kfunc, format!("{address:#x} is no task")))
    }

    /// Queues. `None` if it is another kfunc.
    fn call_dsq(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<Option<u64>, Cause> {
        let [first, second, third, fourth, fifth] = call.args;
        let value = match kfunc {
            Kfunc::CreateDsq => signed(self.core.create_dsq(first, second as i32)),
            Kfunc::DestroyDsq => {
                self.core.destroy_dsq(first);
                0
            }
            Kfunc::DsqNrQueued => signed(self.core.dsq_nr_queued(first)),
            Kfunc::DsqPeek => {
                let task = self.core.dsq_peek(first);
                self.address(task)
            }
            Kfunc::DsqInsert => self.insert(call, second, third, None, fourth),
            Kfunc::DsqInsertVtime => self.insert(call, second, third, Some(fourth), fifth),
            Kfunc::DsqInsertVtimeArgs => {
                let word = |index: u64| call.memory.read_u64(second + index * 8);
                let (dsq, slice, vtime, flags) = (word(0)?, word(1)?, word(2)?, word(3)?);
                self.insert(call, dsq, slice, Some(vtime), flags)
            }
            Kfunc::DsqMoveToLocal | Kfunc::DsqMoveToLocalFlags => {
                let flags = match kfunc {
                    Kfunc::DsqMoveToLocal => 0,
                    _ => second,
                };
                let mut images = self.kernel.tasks.images(call.memory);
                u64::from(self.core.dsq_move_to_local(&mut images, first, flags))
            }
            Kfunc::IterDsqNew => self.iter_dsq_new(call)?,
            Kfunc::IterDsqNext => self.iter_dsq_next(call)?,
            Kfunc::IterDsqDestroy => self.iter_dsq_destroy(call)?,
            Kfunc::DsqMoveSetSlice => set(call, iter::SLICE, iter::SET_SLICE)?,
            Kfunc::DsqMoveSetVtime => set(call, iter::VTIME, iter::SET_VTIME)?,
            Kfunc::DsqMove | Kfunc::DsqMoveVtime => self.dsq_move(kfunc, call)?,
            Kfunc::DispatchNrSlots => u64::from(self.core.dispatch_nr_slots()),
            Kfunc::DispatchCancel => {
                self.core.dispatch_cancel();
                0
            }
            Kfunc::ReenqueueLocal => u64::from(self.core.reenqueue_local()),
            Kfunc::ReenqueueLocalLater => {
                self.core.dsq_reenq(DSQ_LOCAL, 0);
                0
            }
            Kfunc::DsqReenq => {
                self.core.dsq_reenq(first, second);
                0
            }
            _ => return Ok(None),
        };
        Ok(Some(value))
    }

    fn address(&self, task: Option<TaskId>) -> u64 {
        task.and_then(|task| self.kernel.tasks.address(task))
            .unwrap_or(0)
    }

    fn insert(
        &mut self,
        call: &mut Call<'_>,
        dsq: u64,
        slice_ns: u64,
        vtime: Option<u64>,
        enq_flags: u64,
    ) -> u64 {
        let insert = DsqInsert {
            task: self.task(call.memory, call.args[0]),
            dsq,
            slice_ns,
            vtime,
            enq_flags,
        };
        let mut images = self.kernel.tasks.images(call.memory);
        u64::from(self.core.dsq_insert(&mut images, insert))
    }

    fn iter_dsq_new(&mut self, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [at, dsq, flags, ..] = call.args;
        let (id, error) = match self.core.dsq_iter_new(dsq, flags) {
            Ok(id) => (u64::from(id.0) + 1, 0),
            Err(error) => (0, error),
        };
        for word in 0..6 {
            let value = if word == 0 { id } else { 0 };
            call.memory.write(at + word * 8, &value.to_le_bytes())?;
        }
        call.held.iterators += 1;
        Ok(signed(error))
    }

    /// The core's iterator behind a program's; `None` if the queue did not exist.
    fn iter_id(memory: &Memory, at: u64) -> Result<Option<IterId>, Cause> {
        let id = memory.read_u64(at + iter::ID)?.checked_sub(1);
        Ok(id.map(|id| IterId(id as u32)))
    }

    fn iter_dsq_next(&mut self, call: &mut Call<'_>) -> Result<u64, Cause> {
        let Some(id) = Self::iter_id(call.memory, call.args[0])? else {
            return Ok(0);
        };
        let mut images = self.kernel.tasks.images(call.memory);
        let task = self.core.dsq_iter_next(&mut images, id);
        Ok(self.address(task))
    }

    fn iter_dsq_destroy(&mut self, call: &mut Call<'_>) -> Result<u64, Cause> {
        let at = call.args[0];
        if let Some(id) = Self::iter_id(call.memory, at)? {
            self.core.dsq_iter_destroy(id);
        }
        call.memory.write(at, &[0; 8])?;
        call.held.iterators = call
            .held
            .iterators
            .checked_sub(1)
            .ok_or_else(|| bad(Kfunc::IterDsqDestroy, "without its counterpart"))?;
        Ok(0)
    }

    fn dsq_move(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [at, task, dsq, enq_flags, _] = call.args;
        let id = Self::iter_id(call.memory, at)?;
        let set = call.memory.read_u64(at + iter::SET)?;
        let value = |flag, offset| -> Result<Option<u64>, Cause> {
            Ok(match set & flag {
                0 => None,
                _ => Some(call.memory.read_u64(at + offset)?),
            })
        };
        let to = DsqMove {
            task: self.task(call.memory, task),
            dsq,
            slice_ns: value(iter::SET_SLICE, iter::SLICE)?,
            vtime: value(iter::SET_VTIME, iter::VTIME)?,
            by_vtime: kfunc == Kfunc::DsqMoveVtime,
            enq_flags,
        };
        // What was set is for this move only.
        call.memory.write(at + iter::SET, &[0; 8])?;
        let mut images = self.kernel.tasks.images(call.memory);
        Ok(u64::from(self.core.dsq_move(&mut images, id, to)))
    }

    /// CPUs, tasks, and the rest.
    fn call_cpu(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [first, second, third, ..] = call.args;
        let cpu = first as i32;
        Ok(match kfunc {
            Kfunc::KickCpu => {
                self.core.kick_cpu(cpu, second);
                0
            }
            Kfunc::SelectCpuDfl | Kfunc::SelectCpuAnd | Kfunc::SelectCpuAndArgs => {
                return self.select_cpu(kfunc, call);
            }
            Kfunc::TestAndClearCpuIdle => u64::from(self.core.test_and_clear_cpu_idle(cpu)),
            Kfunc::PickIdleCpu | Kfunc::PickAnyCpu => self.pick(kfunc, call, None, second)?,
            Kfunc::PickIdleCpuNode | Kfunc::PickAnyCpuNode => {
                self.pick(kfunc, call, Some(second as i32), third)?
            }
            Kfunc::NrCpuIds => u64::from(self.core.nr_cpu_ids()),
            Kfunc::NrNodeIds => u64::from(self.core.nr_node_ids()),
            Kfunc::CpuNode => signed(self.core.cpu_node(cpu)),
            Kfunc::CpuCurr => {
                let task = self.core.cpu_curr(cpu);
                self.address(task)
            }
            Kfunc::CpuperfCap => u64::from(self.core.cpuperf_cap(cpu)),
            Kfunc::CpuperfCur => u64::from(self.core.cpuperf_cur(cpu)),
            Kfunc::CpuperfSet => {
                self.core.cpuperf_set(cpu, second as u32);
                0
            }
            Kfunc::Now => self.core.now(),
            Kfunc::TaskCpu | Kfunc::TaskRunning | Kfunc::TaskSetSlice | Kfunc::TaskSetDsqVtime => {
                self.call_task(kfunc, call)?
            }
            Kfunc::Error | Kfunc::Exit | Kfunc::Dump => self.print(kfunc, call)?,
            Kfunc::Events => self.events(call)?,
            _ => self.lend_mask(kfunc, call)?,
        })
    }

    fn lend_mask(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let node = Some(call.args[0] as i32);
        let mask = match kfunc {
            Kfunc::GetIdleCpumask => CoreMask::Idle(IdleMask::Cpu, None),
            Kfunc::GetIdleSmtmask => CoreMask::Idle(IdleMask::Smt, None),
            Kfunc::GetIdleCpumaskNode => CoreMask::Idle(IdleMask::Cpu, node),
            Kfunc::GetIdleSmtmaskNode => CoreMask::Idle(IdleMask::Smt, node),
            Kfunc::GetPossibleCpumask => CoreMask::Possible,
            Kfunc::GetOnlineCpumask => CoreMask::Online,
            _ if call.held.release(call.args[0]) => return Ok(0),
            _ => return Err(bad(kfunc, "the mask is not held")),
        };
        self.get_mask(call, mask, table::name(kfunc))
    }

    fn select_cpu(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [task, second, third, fourth, fifth] = call.args;
        let task = self.task(call.memory, task);
        if kfunc == Kfunc::SelectCpuDfl {
            let mut images = self.kernel.tasks.images(call.memory);
            let (cpu, idle) = self
                .core
                .select_cpu_dfl(&mut images, task, second as i32, third);
            call.memory.write(fourth, &[u8::from(idle)])?;
            return Ok(signed(cpu));
        }
        let (mask, prev_cpu, wake_flags, flags) = if kfunc == Kfunc::SelectCpuAnd {
            (fourth, second as i32, third, fifth)
        } else {
            let memory = &call.memory;
            let prev_cpu = memory.read_u32(third)? as i32;
            (
                second,
                prev_cpu,
                memory.read_u64(third + 8)?,
                memory.read_u64(third + 16)?,
            )
        };
        let allowed = self.mask(call.memory, mask)?;
        let mut images = self.kernel.tasks.images(call.memory);
        let cpu =
            self.core
                .select_cpu_and(&mut images, task, prev_cpu, wake_flags, &allowed, flags);
        Ok(signed(cpu))
    }

    fn pick(
        &mut self,
        kfunc: Kfunc,
        call: &mut Call<'_>,
        node: Option<i32>,
        flags: u64,
    ) -> Result<u64, Cause> {
        let allowed = self.mask(call.memory, call.args[0])?;
        Ok(signed(match kfunc {
            Kfunc::PickIdleCpu | Kfunc::PickIdleCpuNode => {
                self.core.pick_idle_cpu(&allowed, node, flags)
            }
            _ => self.core.pick_any_cpu(&allowed, node, flags),
        }))
    }

    fn call_task(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [address, value, ..] = call.args;
        if address == self.kernel.tasks.idle_address() {
            // The idle task: of this CPU, on which it runs if nothing else does.
            return Ok(match kfunc {
                Kfunc::TaskCpu => u64::from(self.core.cpu()),
                Kfunc::TaskRunning => u64::from(self.core.current().is_none()),
                _ => 0,
            });
        }
        let task = self.needed(kfunc, call.memory, address)?;
        let mut images = self.kernel.tasks.images(call.memory);
        Ok(match kfunc {
            Kfunc::TaskCpu => signed(self.core.task_cpu(task)),
            Kfunc::TaskRunning => u64::from(self.core.task_running(task)),
            Kfunc::TaskSetSlice => u64::from(self.core.task_set_slice(&mut images, task, value)),
            _ => u64::from(self.core.task_set_dsq_vtime(&mut images, task, value)),
        })
    }

    /// Formatted messages. What the kernel cannot format ends the policy.
    fn print(&mut self, kfunc: Kfunc, call: &mut Call<'_>) -> Result<u64, Cause> {
        let (code, format, data, bytes) = match kfunc {
            Kfunc::Exit => (
                call.args[0] as i64,
                call.args[1],
                call.args[2],
                call.args[3],
            ),
            _ => (0, call.args[0], call.args[1], call.args[2]),
        };
        let name = table::name(kfunc);
        let format = call.memory.read_str(format, MAX_FORMAT)?;
        let data = vm::numbers(name, call.memory, data, bytes)?;
        let text = match vm::format(call.memory, &format, &data) {
            Ok(text) => text,
            Err(what) => {
                self.core.error(format!("{name}: {what}"));
                return Ok(0);
            }
        };
        match kfunc {
            Kfunc::Error => self.core.error(text),
            Kfunc::Exit => self.core.exit(code, text),
            _ => self.core.dump(text),
        }
        Ok(0)
    }

    fn events(&mut self, call: &mut Call<'_>) -> Result<u64, Cause> {
        let [to, bytes, ..] = call.args;
        let mut stats = vec![0; self.kernel.event_bytes];
        for (name, offset) in &self.kernel.events {
            let count = self.core.event(name).to_le_bytes();
            let start = *offset as usize;
            if let Some(place) = stats.get_mut(start..start + count.len()) {
                place.copy_from_slice(&count);
            }
        }
        stats.truncate(bytes as usize);
        call.memory.write(to, &stats)?;
        Ok(0)
    }
}

fn bad(kfunc: Kfunc, what: impl Into<String>) -> Cause {
    Cause::argument(table::name(kfunc), what)
}

/// Remember in an iterator what a move is to set.
fn set(call: &mut Call<'_>, offset: u64, flag: u64) -> Result<u64, Cause> {
    let [at, value, ..] = call.args;
    let set = call.memory.read_u64(at + iter::SET)? | flag;
    call.memory.write(at + offset, &value.to_le_bytes())?;
    call.memory.write(at + iter::SET, &set.to_le_bytes())?;
    Ok(0)
}

/// `bpf_iter_num`: the number before the next one, and the end.
fn iter_num_new(call: &mut Call<'_>) -> Result<u64, Cause> {
    let (at, start, end) = (call.args[0], call.args[1] as i32, call.args[2] as i32);
    let length = i64::from(end) - i64::from(start);
    let (words, error) = match length {
        ..0 => ([0, 0], EINVAL),
        0..=MAX_LOOPS => ([start.wrapping_sub(1), end], 0),
        _ => ([0, 0], E2BIG),
    };
    call.memory.write(at, &words[0].to_le_bytes())?;
    call.memory.write(at + 4, &words[1].to_le_bytes())?;
    Ok(error as u64)
}

/// The address of the number, in the iterator.
fn iter_num_next(call: &mut Call<'_>) -> Result<u64, Cause> {
    let at = call.args[0];
    let word = call.memory.read_u64(at)?;
    let (current, end) = (word as i32, (word >> 32) as i32);
    // The kernel has the same overflow: 64-bit from here on.
    let next = i64::from(current.wrapping_add(1));
    if next >= i64::from(end) {
        call.memory.write(at, &[0; 8])?;
        return Ok(0);
    }
    call.memory.write(at, &(next as i32).to_le_bytes())?;
    Ok(at)
}
