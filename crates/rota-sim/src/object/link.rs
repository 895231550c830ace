// SPDX-License-Identifier: GPL-2.0-only
//! Puts the sections of code one after the other and resolves what they refer to.

use std::collections::HashMap;

use super::elf::{Elf, Relocation};
use super::{Data, Object, Reason, Symbol, kfuncs};
use crate::btf::{Btf, Kind};
use crate::vm::{Function, Raw};

/// A 64-bit load of an address.
const R_BPF_64_64: u32 = 1;
/// An address in data.
pub(super) const R_BPF_64_ABS64: u32 = 2;
/// A call.
const R_BPF_64_32: u32 = 10;
/// Bytes of an address.
pub(super) const POINTER_BYTES: u64 = 8;
/// Bytes of an instruction.
pub(super) const INSN_BYTES: u64 = 8;

/// Where sections went.
pub(super) struct Layout {
    /// Of sections of code: the index of the first instruction, and how many.
    pub code: HashMap<usize, (usize, usize)>,
    /// Of sections of variables: their number in [`Object::data`].
    pub data: HashMap<usize, u32>,
    /// Of maps, by section and offset of their definition: their number.
    pub maps: HashMap<(usize, u64), u32>,
}

/// Read code and variables.
pub(super) fn lay_out(elf: &Elf<'_>, object: &mut Object) -> Result<Layout, Reason> {
    let mut layout = Layout {
        code: HashMap::new(),
        data: HashMap::new(),
        maps: HashMap::new(),
    };
    for (number, section) in elf.sections.iter().enumerate() {
        if !section.allocated || section.size == 0 {
            continue;
        }
        if section.executable {
            let name = section.name.strip_prefix('?').unwrap_or(section.name);
            let is_ops = name.starts_with("struct_ops/") || name.starts_with("struct_ops.s/");
            if !is_ops && name != ".text" {
                return Err(Reason::Section(section.name.into()));
            }
            let (insns, rest) = section.bytes.as_chunks::<{ INSN_BYTES as usize }>();
            if !rest.is_empty() {
                let what = format!("section {} ends within an instruction", section.name);
                return Err(Reason::elf(what));
            }
            layout.code.insert(number, (object.code.len(), insns.len()));
            let insns = insns.iter().map(|bytes| Raw::from_bytes(*bytes));
            object.code.extend(insns);
        } else if is_data(section.name) {
            let data = u32::try_from(object.data.len()).unwrap_or(u32::MAX);
            layout.data.insert(number, data);
            let mut bytes = section.bytes.to_vec();
            bytes.resize(section.size, 0);
            object.data.push(Data {
                name: section.name.into(),
                bytes,
                writable: section.writable && !section.name.starts_with(".rodata"),
            });
        }
    }
    object.functions = functions(elf, &layout);
    Ok(layout)
}

/// What libbpf makes a map of.
fn is_data(name: &str) -> bool {
    [".data", ".rodata", ".bss"].iter().any(|kind| {
        let rest = name.strip_prefix(kind);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn functions(elf: &Elf<'_>, layout: &Layout) -> Vec<Function> {
    let function = |symbol: &super::elf::Symbol<'_>| {
        let (base, len) = *layout.code.get(&symbol.section?)?;
        let start = usize::try_from(symbol.value / INSN_BYTES).ok()?;
        let size = usize::try_from(symbol.size / INSN_BYTES).ok()?;
        let fits = start < len && size <= len - start;
        (symbol.function && fits).then(|| Function {
            name: symbol.name.into(),
            start: base + start,
            len: size,
        })
    };
    let mut functions: Vec<Function> = elf.symbols.iter().filter_map(function).collect();
    functions.sort_by(|a, b| (a.start, &a.name).cmp(&(b.start, &b.name)));
    functions
}

/// Resolve the relocations of all code.
pub(super) fn relocate(
    elf: &Elf<'_>,
    btf: &Btf,
    kernel: &Btf,
    layout: &Layout,
    object: &mut Object,
) -> Result<(), Reason> {
    let mut linker = Linker {
        elf,
        btf,
        kernel,
        layout,
        externs: HashMap::new(),
        object,
    };
    for (number, section) in elf.sections.iter().enumerate() {
        if !layout.code.contains_key(&number) {
            continue;
        }
        for relocation in &section.relocations {
            linker
                .relocate(number, *relocation)
                .map_err(|error| match error {
                    Problem::Whole(reason) => reason,
                    Problem::Here(what) => Reason::Relocation {
                        section: section.name.into(),
                        offset: relocation.offset,
                        what,
                    },
                })?;
        }
    }
    Ok(())
}

/// What is wrong with a relocation, or with the object.
enum Problem {
    Here(String),
    Whole(Reason),
}

impl From<&str> for Problem {
    fn from(what: &str) -> Self {
        Problem::Here(what.into())
    }
}

struct Linker<'a, 'e> {
    elf: &'a Elf<'e>,
    btf: &'a Btf,
    kernel: &'a Btf,
    layout: &'a Layout,
    /// By number of the symbol: the kfunc's number, `None` if the kernel has none.
    externs: HashMap<usize, Option<u32>>,
    object: &'a mut Object,
}

impl Linker<'_, '_> {
    fn relocate(&mut self, section: usize, relocation: Relocation) -> Result<(), Problem> {
        let (base, len) = self.layout.code[&section];
        let index = usize::try_from(relocation.offset / INSN_BYTES).unwrap_or(usize::MAX);
        if index >= len || !relocation.offset.is_multiple_of(INSN_BYTES) {
            return Err("is not at an instruction".into());
        }
        let index = base + index;
        let raw = self.object.code[index];
        let symbol = match (relocation.kind, raw.code) {
            (R_BPF_64_32, 0x85) => self.call(relocation.symbol, raw)?,
            (R_BPF_64_64, 0x18) => self.address(relocation.symbol, raw)?,
            _ => return Err("is of a kind that its instruction cannot have".into()),
        };
        self.object.symbols.insert(index, symbol);
        Ok(())
    }

    fn call(&mut self, number: usize, raw: Raw) -> Result<Symbol, Problem> {
        let symbol = self.elf.symbols.get(number).ok_or("has no symbol")?;
        let Some(section) = symbol.section else {
            return Ok(match self.kfunc(number)? {
                Some(kfunc) => Symbol::Kfunc(kfunc),
                None => self.poison(format!("kfunc {}", symbol.name)),
            });
        };
        // Static functions are told by their section and the constant.
        let offset = (symbol.value / INSN_BYTES) as i64 + i64::from(raw.imm) + 1;
        self.function(section, offset).map(Symbol::Call)
    }

    fn function(&self, section: usize, offset: i64) -> Result<u32, Problem> {
        let (base, len) = *self
            .layout
            .code
            .get(&section)
            .ok_or("calls what is no code")?;
        match usize::try_from(offset) {
            Ok(offset) if offset < len => Ok((base + offset) as u32),
            _ => Err("calls what is outside of its section".into()),
        }
    }

    fn address(&mut self, number: usize, raw: Raw) -> Result<Symbol, Problem> {
        let symbol = self.elf.symbols.get(number).ok_or("has no symbol")?;
        let Some(section) = symbol.section else {
            // Whether a kfunc exists: an address, which nobody reads, or 0.
            let exists = self.kfunc(number)?.is_some();
            return Ok(Symbol::Constant(if exists { u64::MAX << 32 } else { 0 }));
        };
        if self.layout.code.contains_key(&section) {
            let offset = (symbol.value as i64 + i64::from(raw.imm)) / INSN_BYTES as i64;
            return self.function(section, offset).map(Symbol::FunctionAddress);
        }
        if let Some(map) = self.layout.maps.get(&(section, symbol.value)) {
            return Ok(Symbol::Map(*map));
        }
        let Some(data) = self.layout.data.get(&section) else {
            let what = format!("{} is in no section of variables", symbol.name);
            return Err(Problem::Here(what));
        };
        let offset = symbol.value.wrapping_add(i64::from(raw.imm) as u64);
        Ok(Symbol::Data {
            section: *data,
            offset: u32::try_from(offset).map_err(|_| "points too far")?,
        })
    }

    /// The kfunc of an extern symbol; `None` if the kernel does not have it and
    /// the object can do without.
    fn kfunc(&mut self, number: usize) -> Result<Option<u32>, Problem> {
        if let Some(known) = self.externs.get(&number) {
            return Ok(*known);
        }
        let symbol = &self.elf.symbols[number];
        let Some(local) = self.btf.find(symbol.name, Kind::Func) else {
            if symbol.weak {
                return Ok(None);
            }
            let what = format!("{} is no kfunc: variables are not supported", symbol.name);
            return Err(Problem::Here(what));
        };
        let resolved = kfuncs::resolve(self.btf, local, symbol.name, self.kernel);
        let kfunc = match resolved {
            Ok(kfunc) => Some(self.add_kfunc(kfunc)),
            Err(_) if symbol.weak => None,
            Err(reason) => return Err(Problem::Whole(reason)),
        };
        self.externs.insert(number, kfunc);
        Ok(kfunc)
    }

    fn add_kfunc(&mut self, kfunc: crate::vm::KfuncRef) -> u32 {
        let kfuncs = &mut self.object.kfuncs;
        let known = kfuncs.iter().position(|other| *other == kfunc);
        let number = known.unwrap_or_else(|| {
            kfuncs.push(kfunc);
            kfuncs.len() - 1
        });
        number as u32
    }

    fn poison(&mut self, what: String) -> Symbol {
        self.object.poison.push(what);
        Symbol::Poison(self.object.poison.len() as u32 - 1)
    }
}
