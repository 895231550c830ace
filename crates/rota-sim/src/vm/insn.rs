// SPDX-License-Identifier: GPL-2.0-only
//! From the instructions of an object to the form that is interpreted: one
//! number says what to do, targets of jumps are absolute, constants are whole.
//!
//! The encoding is `Documentation/bpf/standardization/instruction-set.rst`. An
//! instruction keeps its index, and the second half of a 64-bit load its place.

use thiserror::Error;

/// An instruction as it stands in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Class, operation and mode.
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register, or what kind of constant or call it is.
    pub src: u8,
    /// Signed offset.
    pub off: i16,
    /// Signed constant.
    pub imm: i32,
}

impl Raw {
    /// From the eight bytes of a little-endian object.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        let [code, registers, off0, off1, imm0, imm1, imm2, imm3] = bytes;
        Raw {
            code,
            dst: registers & 0xf,
            src: registers >> 4,
            off: i16::from_le_bytes([off0, off1]),
            imm: i32::from_le_bytes([imm0, imm1, imm2, imm3]),
        }
    }
}

/// What relocation has found out about an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Of a 64-bit load: the constant.
    Constant(u64),
    /// Of a call: the index of the function's first instruction.
    Function(u32),
    /// Of a call: the number of the kfunc in the program's table.
    Kfunc(u32),
    /// It stands for something that this kernel does not have: the number of
    /// what, in the program's table.
    Poison(u32),
}

/// Why an instruction cannot be run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("instruction {index}: {what}")]
pub struct DecodeError {
    /// Index of the instruction.
    pub index: usize,
    /// What is wrong with it.
    pub what: String,
}

/// What an instruction does. `K` takes a constant, `R` a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(super) enum Op {
    Add64K, Add64R, Sub64K, Sub64R, Mul64K, Mul64R, Div64K, Div64R, Or64K, Or64R, And64K, And64R,
    Lsh64K, Lsh64R, Rsh64K, Rsh64R, Neg64, Mod64K, Mod64R, Xor64K, Xor64R, Mov64K, Mov64R,
    Arsh64K, Arsh64R, Sdiv64K, Sdiv64R, Smod64K, Smod64R, Movsx64B, Movsx64H, Movsx64W,
    Add32K, Add32R, Sub32K, Sub32R, Mul32K, Mul32R, Div32K, Div32R, Or32K, Or32R, And32K, And32R,
    Lsh32K, Lsh32R, Rsh32K, Rsh32R, Neg32, Mod32K, Mod32R, Xor32K, Xor32R, Mov32K, Mov32R,
    Arsh32K, Arsh32R, Sdiv32K, Sdiv32R, Smod32K, Smod32R, Movsx32B, Movsx32H,
    Swap16, Swap32, Swap64, Low16, Low32, Low64,
    Ja,
    Jeq64K, Jeq64R, Jne64K, Jne64R, Jgt64K, Jgt64R, Jge64K, Jge64R, Jlt64K, Jlt64R, Jle64K, Jle64R,
    Jsgt64K, Jsgt64R, Jsge64K, Jsge64R, Jslt64K, Jslt64R, Jsle64K, Jsle64R, Jset64K, Jset64R,
    Jeq32K, Jeq32R, Jne32K, Jne32R, Jgt32K, Jgt32R, Jge32K, Jge32R, Jlt32K, Jlt32R, Jle32K, Jle32R,
    Jsgt32K, Jsgt32R, Jsge32K, Jsge32R, Jslt32K, Jslt32R, Jsle32K, Jsle32R, Jset32K, Jset32R,
    LdB, LdH, LdW, LdD, LdsB, LdsH, LdsW, StB, StH, StW, StD, StxB, StxH, StxW, StxD,
    Atomic32, Atomic64,
    Load64, MayGoto, CallHelper, CallKfunc, CallFunction, CallRegister, Exit, Poison, Hole,
}

/// An instruction as it is interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Insn {
    pub op: Op,
    pub dst: u8,
    pub src: u8,
    /// The offset of an access, or the index of the instruction to jump to.
    pub off: i32,
    pub imm: i64,
}

/// Operations of ALU instructions in the order of their codes, as the variants
/// for a constant and for a register.
#[rustfmt::skip]
const ALU64: [Option<[Op; 2]>; 13] = [
    Some([Op::Add64K, Op::Add64R]), Some([Op::Sub64K, Op::Sub64R]), Some([Op::Mul64K, Op::Mul64R]),
    Some([Op::Div64K, Op::Div64R]), Some([Op::Or64K, Op::Or64R]), Some([Op::And64K, Op::And64R]),
    Some([Op::Lsh64K, Op::Lsh64R]), Some([Op::Rsh64K, Op::Rsh64R]), Some([Op::Neg64, Op::Neg64]),
    Some([Op::Mod64K, Op::Mod64R]), Some([Op::Xor64K, Op::Xor64R]), Some([Op::Mov64K, Op::Mov64R]),
    Some([Op::Arsh64K, Op::Arsh64R]),
];
#[rustfmt::skip]
const ALU32: [Option<[Op; 2]>; 13] = [
    Some([Op::Add32K, Op::Add32R]), Some([Op::Sub32K, Op::Sub32R]), Some([Op::Mul32K, Op::Mul32R]),
    Some([Op::Div32K, Op::Div32R]), Some([Op::Or32K, Op::Or32R]), Some([Op::And32K, Op::And32R]),
    Some([Op::Lsh32K, Op::Lsh32R]), Some([Op::Rsh32K, Op::Rsh32R]), Some([Op::Neg32, Op::Neg32]),
    Some([Op::Mod32K, Op::Mod32R]), Some([Op::Xor32K, Op::Xor32R]), Some([Op::Mov32K, Op::Mov32R]),
    Some([Op::Arsh32K, Op::Arsh32R]),
];
/// The same of conditional jumps; 0 is `ja`, 8 `call`, 9 `exit`.
#[rustfmt::skip]
const JUMP64: [Option<[Op; 2]>; 14] = [
    None, Some([Op::Jeq64K, Op::Jeq64R]), Some([Op::Jgt64K, Op::Jgt64R]),
    Some([Op::Jge64K, Op::Jge64R]), Some([Op::Jset64K, Op::Jset64R]),
    Some([Op::Jne64K, Op::Jne64R]), Some([Op::Jsgt64K, Op::Jsgt64R]),
    Some([Op::Jsge64K, Op::Jsge64R]), None, None, Some([Op::Jlt64K, Op::Jlt64R]),
    Some([Op::Jle64K, Op::Jle64R]), Some([Op::Jslt64K, Op::Jslt64R]),
    Some([Op::Jsle64K, Op::Jsle64R]),
];
#[rustfmt::skip]
const JUMP32: [Option<[Op; 2]>; 14] = [
    None, Some([Op::Jeq32K, Op::Jeq32R]), Some([Op::Jgt32K, Op::Jgt32R]),
    Some([Op::Jge32K, Op::Jge32R]), Some([Op::Jset32K, Op::Jset32R]),
    Some([Op::Jne32K, Op::Jne32R]), Some([Op::Jsgt32K, Op::Jsgt32R]),
    Some([Op::Jsge32K, Op::Jsge32R]), None, None, Some([Op::Jlt32K, Op::Jlt32R]),
    Some([Op::Jle32K, Op::Jle32R]), Some([Op::Jslt32K, Op::Jslt32R]),
    Some([Op::Jsle32K, Op::Jsle32R]),
];

/// Decode a whole program. `target` says what relocation knows of an instruction.
pub(super) fn decode(
    code: &[Raw],
    target: impl Fn(usize) -> Option<Target>,
) -> Result<Vec<Insn>, DecodeError> {
    let mut decoded = Vec::with_capacity(code.len());
    while decoded.len() < code.len() {
        let index = decoded.len();
        let decoder = Decoder {
            code,
            index,
            raw: code[index],
            target: target(index),
        };
        let insn = decoder.insn()?;
        decoded.push(insn);
        let wide = code[index].code == 0x18 && index + 1 < code.len();
        if wide {
            decoded.push(Insn {
                op: Op::Hole,
                ..insn
            });
        }
    }
    Ok(decoded)
}

struct Decoder<'a> {
    code: &'a [Raw],
    index: usize,
    raw: Raw,
    target: Option<Target>,
}

impl Decoder<'_> {
    fn error<T>(&self, what: impl Into<String>) -> Result<T, DecodeError> {
        Err(DecodeError {
            index: self.index,
            what: what.into(),
        })
    }

    fn insn(&self) -> Result<Insn, DecodeError> {
        let raw = self.raw;
        if let Some(Target::Poison(what)) = self.target {
            return Ok(Insn {
                op: Op::Poison,
                dst: 0,
                src: 0,
                off: 0,
                imm: i64::from(what),
            });
        }
        if raw.dst > 10 || raw.src > 10 {
            return self.error("there are registers 0 to 10 only");
        }
        let (op, off, imm) = match raw.code & 7 {
            0 => self.wide_load()?,
            1 => (self.load()?, i32::from(raw.off), 0),
            2 => (
                self.store_constant()?,
                i32::from(raw.off),
                i64::from(raw.imm),
            ),
            3 => (self.store()?, i32::from(raw.off), i64::from(raw.imm)),
            4 | 7 => (self.alu()?, 0, i64::from(raw.imm)),
            _ => self.jump()?,
        };
        Ok(Insn {
            op,
            dst: raw.dst,
            src: raw.src,
            off,
            imm,
        })
    }

    fn wide_load(&self) -> Result<(Op, i32, i64), DecodeError> {
        if self.raw.code != 0x18 {
            return self.error("the packet loads of classic BPF are not supported");
        }
        let Some(high) = self.code.get(self.index + 1) else {
            return self.error("the second half of a 64-bit load is missing");
        };
        let constant = match (self.target, self.raw.src) {
            (Some(Target::Constant(constant)), _) => constant,
            (None, 0) => u64::from(self.raw.imm as u32) | u64::from(high.imm as u32) << 32,
            (_, kind) => return self.error(format!("a 64-bit load of kind {kind}, not relocated")),
        };
        Ok((Op::Load64, 0, constant as i64))
    }

    fn load(&self) -> Result<Op, DecodeError> {
        Ok(match self.raw.code & 0xf8 {
            0x60 => Op::LdW,
            0x68 => Op::LdH,
            0x70 => Op::LdB,
            0x78 => Op::LdD,
            0x80 => Op::LdsW,
            0x88 => Op::LdsH,
            0x90 => Op::LdsB,
            mode => return self.error(format!("no load has mode {mode:#04x}")),
        })
    }

    fn store_constant(&self) -> Result<Op, DecodeError> {
        Ok(match self.raw.code & 0xf8 {
            0x60 => Op::StW,
            0x68 => Op::StH,
            0x70 => Op::StB,
            0x78 => Op::StD,
            mode => return self.error(format!("no store has mode {mode:#04x}")),
        })
    }

    fn store(&self) -> Result<Op, DecodeError> {
        let size = self.raw.code & 0x18;
        Ok(match (self.raw.code & 0xe0, size, self.raw.imm) {
            (0x60, 0x00, _) => Op::StxW,
            (0x60, 0x08, _) => Op::StxH,
            (0x60, 0x10, _) => Op::StxB,
            (0x60, _, _) => Op::StxD,
            // One CPU's instructions are interpreted in order: acquire and
            // release are a load and a store.
            (0xc0, 0x00, 0x100) => Op::LdW,
            (0xc0, 0x08, 0x100) => Op::LdH,
            (0xc0, 0x10, 0x100) => Op::LdB,
            (0xc0, 0x18, 0x100) => Op::LdD,
            (0xc0, 0x00, 0x110) => Op::StxW,
            (0xc0, 0x08, 0x110) => Op::StxH,
            (0xc0, 0x10, 0x110) => Op::StxB,
            (0xc0, 0x18, 0x110) => Op::StxD,
            (0xc0, 0x00, operation) if is_atomic(operation) => Op::Atomic32,
            (0xc0, 0x18, operation) if is_atomic(operation) => Op::Atomic64,
            (mode, _, operation) => {
                return self.error(format!("no store has mode {mode:#04x} with {operation:#x}"));
            }
        })
    }

    fn alu(&self) -> Result<Op, DecodeError> {
        let raw = self.raw;
        let (wide, register) = (raw.code & 7 == 7, raw.code & 8 != 0);
        let pick = |ops: [Op; 2]| Ok(ops[usize::from(register)]);
        match (raw.code >> 4, raw.off, wide) {
            (3, 1, true) => pick([Op::Sdiv64K, Op::Sdiv64R]),
            (3, 1, false) => pick([Op::Sdiv32K, Op::Sdiv32R]),
            (9, 1, true) => pick([Op::Smod64K, Op::Smod64R]),
            (9, 1, false) => pick([Op::Smod32K, Op::Smod32R]),
            (11, 8, true) if register => Ok(Op::Movsx64B),
            (11, 16, true) if register => Ok(Op::Movsx64H),
            (11, 32, true) if register => Ok(Op::Movsx64W),
            (11, 8, false) if register => Ok(Op::Movsx32B),
            (11, 16, false) if register => Ok(Op::Movsx32H),
            (11, 1, true) if register => self.error("arenas are not modelled (addr_space_cast)"),
            (13, 0, _) => match (wide || register, raw.imm) {
                (true, 16) => Ok(Op::Swap16),
                (true, 32) => Ok(Op::Swap32),
                (true, 64) => Ok(Op::Swap64),
                (false, 16) => Ok(Op::Low16),
                (false, 32) => Ok(Op::Low32),
                (false, 64) => Ok(Op::Low64),
                (_, bits) => self.error(format!("no byte order of {bits} bits")),
            },
            (operation, 0, _) => {
                let table = if wide { &ALU64 } else { &ALU32 };
                match table.get(usize::from(operation)).copied().flatten() {
                    Some(ops) => pick(ops),
                    None => self.error(format!("no ALU operation {operation:#x}")),
                }
            }
            (operation, off, _) => {
                self.error(format!("no ALU operation {operation:#x} with offset {off}"))
            }
        }
    }

    fn jump(&self) -> Result<(Op, i32, i64), DecodeError> {
        let raw = self.raw;
        let (wide, register) = (raw.code & 7 == 5, raw.code & 8 != 0);
        match (raw.code >> 4, wide) {
            (0, true) => Ok((Op::Ja, self.destination(i64::from(raw.off))?, 0)),
            (0, false) => Ok((Op::Ja, self.destination(i64::from(raw.imm))?, 0)),
            (8, true) => self.call(),
            (9, true) => Ok((Op::Exit, 0, 0)),
            (14, true) => Ok((Op::MayGoto, self.destination(i64::from(raw.off))?, 0)),
            (operation, wide) => {
                let table = if wide { &JUMP64 } else { &JUMP32 };
                match table.get(usize::from(operation)).copied().flatten() {
                    Some(ops) => {
                        let to = self.destination(i64::from(raw.off))?;
                        Ok((ops[usize::from(register)], to, i64::from(raw.imm)))
                    }
                    None => self.error(format!("no jump {operation:#x}")),
                }
            }
        }
    }

    fn call(&self) -> Result<(Op, i32, i64), DecodeError> {
        let raw = self.raw;
        match (self.target, raw.src) {
            (Some(Target::Function(to)), _) => {
                let to = i64::from(to) - self.index as i64 - 1;
                Ok((Op::CallFunction, self.destination(to)?, 0))
            }
            (Some(Target::Kfunc(kfunc)), _) => Ok((Op::CallKfunc, 0, i64::from(kfunc))),
            (None, _) if raw.code & 8 != 0 => Ok((Op::CallRegister, 0, 0)),
            (None, 0) => Ok((Op::CallHelper, 0, i64::from(raw.imm))),
            (None, 1) => {
                let to = self.destination(i64::from(raw.imm))?;
                Ok((Op::CallFunction, to, 0))
            }
            _ => self.error("a call of a kfunc, not relocated"),
        }
    }

    /// The index of the instruction `by` instructions after the next one.
    fn destination(&self, by: i64) -> Result<i32, DecodeError> {
        let to = self.index as i64 + 1 + by;
        match i32::try_from(to) {
            Ok(index) if index >= 0 && (index as usize) < self.code.len() => Ok(index),
            _ => self.error(format!("jumps to instruction {to}, which there is not")),
        }
    }
}

/// What a `lock` instruction does, from its constant.
fn is_atomic(operation: i32) -> bool {
    matches!(
        operation,
        0x00 | 0x01 | 0x40 | 0x41 | 0x50 | 0x51 | 0xa0 | 0xa1 | 0xe1 | 0xf1
    )
}
