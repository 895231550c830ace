// SPDX-License-Identifier: GPL-2.0-only
//! Goal: each instruction does what the instruction set says, at the edges too,
//! and an execution can be cut anywhere. Method: short programs, run.

mod helpers;
mod instructions;

use super::*;

/// A world in which time stands still.
#[derive(Default)]
struct World {
    cpu: u32,
    timers: Vec<(u64, u64)>,
}

impl Host for World {
    fn kfunc(&mut self, call: Call<'_>, kfunc: u16) -> Result<u64, Cause> {
        match kfunc {
            0 => Ok(call.args.iter().fold(0, |sum, arg| sum * 10 + arg)),
            _ => {
                let address = call.memory.add("a loan", Kind::Kernel, vec![0; 8]);
                call.held.acquire(address, "kfunc");
                Ok(address)
            }
        }
    }
    fn ktime_ns(&self) -> u64 {
        1000
    }
    fn jiffies(&self) -> u64 {
        0
    }
    fn cpu(&self) -> u32 {
        self.cpu
    }
    fn current(&mut self, _: &mut Memory) -> u64 {
        0
    }
    fn random(&mut self) -> u32 {
        4
    }
    fn timer_start(&mut self, timer: u64, at_ns: u64) {
        self.timers.push((timer, at_ns));
    }
    fn timer_cancel(&mut self, timer: u64) -> bool {
        let before = self.timers.len();
        self.timers.retain(|(other, _)| *other != timer);
        self.timers.len() < before
    }
}

/// An instruction.
fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Raw {
    Raw {
        code,
        dst,
        src,
        off,
        imm,
    }
}

/// The two halves of a load of 64 bits.
fn load64(dst: u8, value: u64) -> [Raw; 2] {
    [
        insn(0x18, dst, 0, 0, value as u32 as i32),
        insn(0, 0, 0, 0, (value >> 32) as i32),
    ]
}

const EXIT: Raw = Raw {
    code: 0x95,
    dst: 0,
    src: 0,
    off: 0,
    imm: 0,
};

/// A machine with one function, `test`, from these parts.
fn machine(parts: &[&[Raw]], state: State) -> Vm {
    try_machine(parts, state).unwrap()
}

fn try_machine(parts: &[&[Raw]], state: State) -> Result<Vm, DecodeError> {
    let code = parts.concat();
    let function = Function {
        name: "test".into(),
        start: 0,
        len: code.len(),
    };
    let kfunc = |number| KfuncRef {
        name: "some_kfunc".into(),
        number,
    };
    // A call with source 2 is one of the kfunc whose index is the constant.
    let kfuncs = code.clone();
    let target = move |index: usize| {
        let raw: &Raw = kfuncs.get(index)?;
        (raw.code == 0x85 && raw.src == 2).then_some(Target::Kfunc(raw.imm as u32))
    };
    let table = vec![kfunc(Some(0)), kfunc(Some(1)), kfunc(None)];
    Vm::new(&code, target, vec![function], table, Vec::new(), state)
}

/// What the program returns.
fn run(parts: &[&[Raw]]) -> Result<u64, Box<Fault>> {
    machine(parts, State::new(1)).call(&mut World::default(), 0, &[7, 8])
}

/// The result of one instruction with these numbers in registers 1 and 2.
fn one(raw: Raw, a: u64, b: u64) -> u64 {
    let move_result = insn(0xbf, 0, 1, 0, 0);
    run(&[&load64(1, a), &load64(2, b), &[raw, move_result, EXIT]]).unwrap()
}
