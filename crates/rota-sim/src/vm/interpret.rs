// SPDX-License-Identifier: GPL-2.0-only
//! The loop that executes instructions.
//!
//! One `match` would be a function of 200 lines. It is cut by class into
//! functions that are inlined, each with a `match` of its own over the same
//! number, of which the compiler makes one jump table.

use super::execution::{Execution, Outcome, Then};
use super::helpers::{self, Flow};
use super::insn::{Insn, Op};
use super::program::Code;
use super::{Call, Cause, Fault, Host, State, Vm};

/// The registers; the last five are never used, so that an index of four bits
/// needs no check.
type Regs = [u64; 16];

/// What the loop does after an instruction.
enum Next {
    /// Goes on at this one.
    At(usize),
    /// Stops before this one.
    Stop(usize, Outcome),
}

impl Execution {
    /// Execute up to `budget` instructions.
    ///
    /// # Errors
    /// If the program does something without meaning. It cannot go on then.
    pub fn run<H: Host>(
        &mut self,
        vm: &mut Vm,
        host: &mut H,
        budget: u64,
    ) -> Result<Outcome, Box<Fault>> {
        if let Some(value) = self.done {
            return Ok(Outcome::Done(value));
        }
        let Vm {
            code,
            state,
            counts,
        } = vm;
        let first = self.insns == 0;
        let mut left = budget;
        self.enter(&mut state.memory);
        let mut result = self.interpret(code, state, host, &mut left);
        if let Ok(Outcome::Done(value)) = result {
            self.done = Some(value);
            result = self
                .held
                .check(&state.memory)
                .map(|()| Outcome::Done(value));
        }
        let paused = matches!(result, Ok(Outcome::Paused | Outcome::Blocked(_)));
        self.leave(&mut state.memory, !paused);
        let executed = budget - left;
        self.insns += executed;
        if let Some(count) = counts.get_mut(self.function) {
            count.runs += u64::from(first && executed > 0);
            count.insns += executed;
        }
        result.map_err(|cause| Box::new(self.fault(code, cause)))
    }

    /// Execute up to `budget` instructions, but stop before each call of a kfunc
    /// for which it matters when it is called ([`Host::is_timed`]): the next run
    /// begins with that call.
    ///
    /// # Errors
    /// As [`Execution::run`].
    pub fn run_to_kfunc<H: Host>(
        &mut self,
        vm: &mut Vm,
        host: &mut H,
        budget: u64,
    ) -> Result<Outcome, Box<Fault>> {
        self.stops = true;
        let outcome = self.run(vm, host, budget);
        self.stops = false;
        outcome
    }

    /// The fault of that cause at the instruction that was executed last.
    #[cold]
    pub(super) fn fault(&self, code: &Code, cause: Cause) -> Fault {
        let (function, insn) = code.locate(self.pc);
        Fault {
            function: function.into(),
            insn,
            cause,
        }
    }

    fn interpret<H: Host>(
        &mut self,
        code: &Code,
        state: &mut State,
        host: &mut H,
        left: &mut u64,
    ) -> Result<Outcome, Cause> {
        let insns = &code.insns[..];
        let mut regs = self.regs;
        let mut pc = self.pc;
        let mut budget = *left;
        let result = loop {
            if budget == 0 {
                break Ok(Outcome::Paused);
            }
            let Some(insn) = insns.get(pc) else {
                break Err(Cause::NoInstruction);
            };
            budget -= 1;
            let taken = jump64(insn, &regs).or_else(|| jump32(insn, &regs));
            if let Some(taken) = taken {
                pc = if taken { insn.off as usize } else { pc + 1 };
                continue;
            }
            if alu64(insn, &mut regs) || alu32(insn, &mut regs) || swap(insn, &mut regs) {
                pc += 1;
                continue;
            }
            match access(insn, &mut regs, state) {
                Some(true) => {
                    pc += 1;
                    continue;
                }
                Some(false) => break Err(bad_access(insn, &regs, state)),
                None => {}
            }
            match self.control(insn, &mut regs, pc, code, state, host) {
                Ok(Next::At(next)) => pc = next,
                Ok(Next::Stop(next, outcome)) => {
                    pc = next;
                    // An instruction that waits is not executed yet.
                    budget += u64::from(!matches!(outcome, Outcome::Done(_)));
                    break Ok(outcome);
                }
                Err(cause) => break Err(cause),
            }
        };
        self.regs = regs;
        self.pc = pc;
        *left = budget;
        result
    }

    /// Calls, returns, and what is left.
    #[inline(always)]
    fn control<H: Host>(
        &mut self,
        insn: &Insn,
        regs: &mut Regs,
        pc: usize,
        code: &Code,
        state: &mut State,
        host: &mut H,
    ) -> Result<Next, Cause> {
        match insn.op {
            Op::Load64 => {
                regs[usize::from(insn.dst & 15)] = insn.imm as u64;
                Ok(Next::At(pc + 2))
            }
            Op::CallKfunc => {
                let kfunc = &code.kfuncs[insn.imm as usize];
                let Some(number) = kfunc.number else {
                    return Err(Cause::UnsupportedKfunc(kfunc.name.clone()));
                };
                if self.stops && !self.stopped && host.is_timed(number) {
                    self.stopped = true;
                    return Ok(Next::Stop(pc, Outcome::Paused));
                }
                self.stopped = false;
                let call = Call {
                    memory: &mut state.memory,
                    held: &mut self.held,
                    args: [regs[1], regs[2], regs[3], regs[4], regs[5]],
                };
                regs[0] = host.kfunc(call, number)?;
                Ok(Next::At(pc + 1))
            }
            Op::CallHelper => self.helper(insn.imm, regs, pc, state, host),
            Op::CallFunction => {
                self.push(&mut state.memory, regs, pc + 1, Then::Return)?;
                Ok(Next::At(insn.off as usize))
            }
            Op::CallRegister => {
                let to = state.function_at(regs[usize::from(insn.dst & 15)])?;
                self.push(&mut state.memory, regs, pc + 1, Then::Return)?;
                Ok(Next::At(to))
            }
            Op::Exit => match self.pop(state, regs, host.cpu())? {
                Some(next) => Ok(Next::At(next)),
                None => Ok(Next::Stop(pc, Outcome::Done(regs[0]))),
            },
            Op::MayGoto => {
                if self.may_goto == 0 {
                    return Ok(Next::At(insn.off as usize));
                }
                self.may_goto -= 1;
                Ok(Next::At(pc + 1))
            }
            Op::Atomic32 | Op::Atomic64 => {
                atomic(insn, regs, state)?;
                Ok(Next::At(pc + 1))
            }
            Op::Poison => Err(Cause::Poisoned(code.poison[insn.imm as usize].clone())),
            _ => Err(Cause::NoInstruction),
        }
    }

    fn helper<H: Host>(
        &mut self,
        number: i64,
        regs: &mut Regs,
        pc: usize,
        state: &mut State,
        host: &mut H,
    ) -> Result<Next, Cause> {
        let args = [regs[1], regs[2], regs[3], regs[4], regs[5]];
        let (callback, arguments, then) =
            match helpers::call(number, state, &mut self.held, host, args)? {
                Flow::Value(value) => {
                    regs[0] = value;
                    return Ok(Next::At(pc + 1));
                }
                Flow::Block(lock) => return Ok(Next::Stop(pc, Outcome::Blocked(lock))),
                Flow::Callback {
                    pc,
                    arguments,
                    then,
                } => (pc, arguments, then),
            };
        self.push(&mut state.memory, regs, pc + 1, then)?;
        regs[1..6].copy_from_slice(&arguments);
        Ok(Next::At(callback))
    }
}

/// The two registers and the constant of an instruction.
macro_rules! operands {
    ($insn:ident, $regs:ident => $a:ident, $b:ident, $k:ident) => {
        let $a = $regs[usize::from($insn.dst & 15)];
        let $b = $regs[usize::from($insn.src & 15)];
        let $k = $insn.imm as u64;
    };
}

#[inline(always)]
#[rustfmt::skip]
fn jump64(insn: &Insn, regs: &Regs) -> Option<bool> {
    operands!(insn, regs => a, b, k);
    Some(match insn.op {
        Op::Ja => true,
        Op::Jeq64K => a == k,
        Op::Jeq64R => a == b,
        Op::Jne64K => a != k,
        Op::Jne64R => a != b,
        Op::Jgt64K => a > k,
        Op::Jgt64R => a > b,
        Op::Jge64K => a >= k,
        Op::Jge64R => a >= b,
        Op::Jlt64K => a < k,
        Op::Jlt64R => a < b,
        Op::Jle64K => a <= k,
        Op::Jle64R => a <= b,
        Op::Jsgt64K => a as i64 > k as i64,
        Op::Jsgt64R => a as i64 > b as i64,
        Op::Jsge64K => a as i64 >= k as i64,
        Op::Jsge64R => a as i64 >= b as i64,
        Op::Jslt64K => (a as i64) < k as i64,
        Op::Jslt64R => (a as i64) < b as i64,
        Op::Jsle64K => a as i64 <= k as i64,
        Op::Jsle64R => a as i64 <= b as i64,
        Op::Jset64K => a & k != 0,
        Op::Jset64R => a & b != 0,
        _ => return None,
    })
}

#[inline(always)]
#[rustfmt::skip]
fn jump32(insn: &Insn, regs: &Regs) -> Option<bool> {
    operands!(insn, regs => a, b, k);
    let (a, b, k) = (a as u32, b as u32, k as u32);
    Some(match insn.op {
        Op::Jeq32K => a == k,
        Op::Jeq32R => a == b,
        Op::Jne32K => a != k,
        Op::Jne32R => a != b,
        Op::Jgt32K => a > k,
        Op::Jgt32R => a > b,
        Op::Jge32K => a >= k,
        Op::Jge32R => a >= b,
        Op::Jlt32K => a < k,
        Op::Jlt32R => a < b,
        Op::Jle32K => a <= k,
        Op::Jle32R => a <= b,
        Op::Jsgt32K => a as i32 > k as i32,
        Op::Jsgt32R => a as i32 > b as i32,
        Op::Jsge32K => a as i32 >= k as i32,
        Op::Jsge32R => a as i32 >= b as i32,
        Op::Jslt32K => (a as i32) < k as i32,
        Op::Jslt32R => (a as i32) < b as i32,
        Op::Jsle32K => a as i32 <= k as i32,
        Op::Jsle32R => a as i32 <= b as i32,
        Op::Jset32K => a & k != 0,
        Op::Jset32R => a & b != 0,
        _ => return None,
    })
}

#[inline(always)]
#[rustfmt::skip]
fn alu64(insn: &Insn, regs: &mut Regs) -> bool {
    operands!(insn, regs => a, b, k);
    regs[usize::from(insn.dst & 15)] = match insn.op {
        Op::Add64K => a.wrapping_add(k),
        Op::Add64R => a.wrapping_add(b),
        Op::Sub64K => a.wrapping_sub(k),
        Op::Sub64R => a.wrapping_sub(b),
        Op::Mul64K => a.wrapping_mul(k),
        Op::Mul64R => a.wrapping_mul(b),
        // Division by 0 gives 0, its rest what was divided.
        Op::Div64K => a.checked_div(k).unwrap_or(0),
        Op::Div64R => a.checked_div(b).unwrap_or(0),
        Op::Mod64K => a.checked_rem(k).unwrap_or(a),
        Op::Mod64R => a.checked_rem(b).unwrap_or(a),
        Op::Sdiv64K => sdiv64(a, k),
        Op::Sdiv64R => sdiv64(a, b),
        Op::Smod64K => smod64(a, k),
        Op::Smod64R => smod64(a, b),
        Op::Or64K => a | k,
        Op::Or64R => a | b,
        Op::And64K => a & k,
        Op::And64R => a & b,
        Op::Xor64K => a ^ k,
        Op::Xor64R => a ^ b,
        // Only the lower bits of the number of places count.
        Op::Lsh64K => a << (k & 63),
        Op::Lsh64R => a << (b & 63),
        Op::Rsh64K => a >> (k & 63),
        Op::Rsh64R => a >> (b & 63),
        Op::Arsh64K => (a as i64 >> (k & 63)) as u64,
        Op::Arsh64R => (a as i64 >> (b & 63)) as u64,
        Op::Neg64 => a.wrapping_neg(),
        Op::Mov64K => k,
        Op::Mov64R => b,
        Op::Movsx64B => b as i8 as u64,
        Op::Movsx64H => b as i16 as u64,
        Op::Movsx64W => b as i32 as u64,
        _ => return false,
    };
    true
}

fn sdiv64(a: u64, b: u64) -> u64 {
    if b == 0 {
        0
    } else {
        (a as i64).wrapping_div(b as i64) as u64
    }
}

fn smod64(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        (a as i64).wrapping_rem(b as i64) as u64
    }
}

#[inline(always)]
#[rustfmt::skip]
fn alu32(insn: &Insn, regs: &mut Regs) -> bool {
    operands!(insn, regs => a, b, k);
    let (a, b, k) = (a as u32, b as u32, k as u32);
    // The upper half of the result is 0.
    regs[usize::from(insn.dst & 15)] = u64::from(match insn.op {
        Op::Add32K => a.wrapping_add(k),
        Op::Add32R => a.wrapping_add(b),
        Op::Sub32K => a.wrapping_sub(k),
        Op::Sub32R => a.wrapping_sub(b),
        Op::Mul32K => a.wrapping_mul(k),
        Op::Mul32R => a.wrapping_mul(b),
        Op::Div32K => a.checked_div(k).unwrap_or(0),
        Op::Div32R => a.checked_div(b).unwrap_or(0),
        Op::Mod32K => a.checked_rem(k).unwrap_or(a),
        Op::Mod32R => a.checked_rem(b).unwrap_or(a),
        Op::Sdiv32K => sdiv32(a, k),
        Op::Sdiv32R => sdiv32(a, b),
        Op::Smod32K => smod32(a, k),
        Op::Smod32R => smod32(a, b),
        Op::Or32K => a | k,
        Op::Or32R => a | b,
        Op::And32K => a & k,
        Op::And32R => a & b,
        Op::Xor32K => a ^ k,
        Op::Xor32R => a ^ b,
        Op::Lsh32K => a << (k & 31),
        Op::Lsh32R => a << (b & 31),
        Op::Rsh32K => a >> (k & 31),
        Op::Rsh32R => a >> (b & 31),
        Op::Arsh32K => (a as i32 >> (k & 31)) as u32,
        Op::Arsh32R => (a as i32 >> (b & 31)) as u32,
        Op::Neg32 => a.wrapping_neg(),
        Op::Mov32K => k,
        Op::Mov32R => b,
        Op::Movsx32B => b as i8 as u32,
        Op::Movsx32H => b as i16 as u32,
        _ => return false,
    });
    true
}

fn sdiv32(a: u32, b: u32) -> u32 {
    if b == 0 {
        0
    } else {
        (a as i32).wrapping_div(b as i32) as u32
    }
}

fn smod32(a: u32, b: u32) -> u32 {
    if b == 0 {
        a
    } else {
        (a as i32).wrapping_rem(b as i32) as u32
    }
}

#[inline(always)]
fn swap(insn: &Insn, regs: &mut Regs) -> bool {
    let a = regs[usize::from(insn.dst & 15)];
    regs[usize::from(insn.dst & 15)] = match insn.op {
        Op::Swap16 => u64::from((a as u16).swap_bytes()),
        Op::Swap32 => u64::from((a as u32).swap_bytes()),
        Op::Swap64 => a.swap_bytes(),
        Op::Low16 => u64::from(a as u16),
        Op::Low32 => u64::from(a as u32),
        Op::Low64 => a,
        _ => return false,
    };
    true
}

/// Loads and stores. `Some(false)` if there is nothing to be accessed.
#[inline(always)]
fn access(insn: &Insn, regs: &mut Regs, state: &mut State) -> Option<bool> {
    let off = i64::from(insn.off) as u64;
    let to = regs[usize::from(insn.dst & 15)].wrapping_add(off);
    let from = regs[usize::from(insn.src & 15)].wrapping_add(off);
    let value = regs[usize::from(insn.src & 15)];
    let memory = &mut state.memory;
    macro_rules! load {
        ($int:ty) => {
            match memory.load(from) {
                Some(bytes) => <$int>::from_le_bytes(bytes) as u64,
                None => return Some(false),
            }
        };
    }
    macro_rules! store {
        ($value:expr, $int:ty) => {
            return Some(memory.store(to, ($value as $int).to_le_bytes()).is_some())
        };
    }
    regs[usize::from(insn.dst & 15)] = match insn.op {
        Op::LdB => load!(u8),
        Op::LdH => load!(u16),
        Op::LdW => load!(u32),
        Op::LdD => load!(u64),
        Op::LdsB => load!(i8),
        Op::LdsH => load!(i16),
        Op::LdsW => load!(i32),
        Op::StB => store!(insn.imm, u8),
        Op::StH => store!(insn.imm, u16),
        Op::StW => store!(insn.imm, u32),
        Op::StD => store!(insn.imm, u64),
        Op::StxB => store!(value, u8),
        Op::StxH => store!(value, u16),
        Op::StxW => store!(value, u32),
        Op::StxD => store!(value, u64),
        _ => return None,
    };
    Some(true)
}

#[cold]
fn bad_access(insn: &Insn, regs: &Regs, state: &State) -> Cause {
    let (write, size) = match insn.op {
        Op::LdB | Op::LdsB => (false, 1),
        Op::LdH | Op::LdsH => (false, 2),
        Op::LdW | Op::LdsW => (false, 4),
        Op::LdD => (false, 8),
        Op::StB | Op::StxB => (true, 1),
        Op::StH | Op::StxH => (true, 2),
        Op::StW | Op::StxW | Op::Atomic32 => (true, 4),
        _ => (true, 8),
    };
    let register = if write { insn.dst } else { insn.src };
    let address = regs[usize::from(register & 15)].wrapping_add(i64::from(insn.off) as u64);
    state.memory.bad_access(write, address, size).into()
}

fn atomic(insn: &Insn, regs: &mut Regs, state: &mut State) -> Result<(), Cause> {
    let address = regs[usize::from(insn.dst & 15)].wrapping_add(i64::from(insn.off) as u64);
    let memory = &mut state.memory;
    let wide = insn.op == Op::Atomic64;
    let old = if wide {
        memory.load(address).map(u64::from_le_bytes)
    } else {
        memory
            .load(address)
            .map(|bytes| u64::from(u32::from_le_bytes(bytes)))
    };
    let operand = regs[usize::from(insn.src & 15)];
    let expected = if wide { regs[0] } else { regs[0] & 0xffff_ffff };
    let (old, new) = match (old, insn.imm & 0xf0) {
        (None, _) => return Err(bad_access(insn, regs, state)),
        (Some(old), 0x00) => (old, old.wrapping_add(operand)),
        (Some(old), 0x40) => (old, old | operand),
        (Some(old), 0x50) => (old, old & operand),
        (Some(old), 0xa0) => (old, old ^ operand),
        (Some(old), 0xe0) => (old, operand),
        (Some(old), _) => (old, if old == expected { operand } else { old }),
    };
    let stored = if wide {
        memory.store(address, new.to_le_bytes())
    } else {
        memory.store(address, (new as u32).to_le_bytes())
    };
    if stored.is_none() {
        return Err(bad_access(insn, regs, state));
    }
    match insn.imm {
        0xf1 => regs[0] = old,
        fetch if fetch & 1 != 0 => regs[usize::from(insn.src & 15)] = old,
        _ => {}
    }
    Ok(())
}
