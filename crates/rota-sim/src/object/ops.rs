// SPDX-License-Identifier: GPL-2.0-only
//! The table of callbacks, `struct sched_ext_ops`.

use std::collections::BTreeMap;

use super::Reason;
use super::elf::{Elf, Section, Symbol};
use super::link::{INSN_BYTES, Layout, R_BPF_64_ABS64};
use crate::btf::{Btf, Kind, Member, Type, without_flavour};
use crate::vm::Function;

/// The callbacks of a policy and what else its table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ops {
    /// The name of the variable that is the table.
    variable: String,
    /// `name`, under which the kernel shows the policy.
    name: String,
    functions: BTreeMap<String, usize>,
    numbers: BTreeMap<String, u64>,
}

impl Ops {
    /// The name under which the kernel shows the policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Give it a name, as user space does.
    pub fn set_name(&mut self, name: &str) {
        self.name = name.into();
    }

    /// The name of the variable that is the table.
    pub fn variable(&self) -> &str {
        &self.variable
    }

    /// The function of a callback, as `enqueue`, by its number in
    /// [`crate::vm::Code::functions`]; `None` if the policy has none.
    pub fn function(&self, op: &str) -> Option<usize> {
        self.functions.get(op).copied()
    }

    /// All callbacks with their functions.
    pub fn functions(&self) -> impl Iterator<Item = (&str, usize)> {
        self.functions
            .iter()
            .map(|(op, function)| (&**op, *function))
    }

    /// A number of the table, as `flags` or `timeout_ms`; 0 if it says nothing.
    pub fn number(&self, member: &str) -> u64 {
        self.numbers.get(member).copied().unwrap_or(0)
    }

    /// Set a number of the table, as user space does before the load.
    pub fn set_number(&mut self, member: &str, value: u64) {
        self.numbers.insert(member.into(), value);
    }

    /// Take a callback out of the table, as user space does if the kernel does not
    /// know it. False if the policy has none.
    pub fn remove(&mut self, op: &str) -> bool {
        self.functions.remove(op).is_some()
    }
}

/// Read the only table of the object.
pub(super) fn read(
    elf: &Elf<'_>,
    btf: &Btf,
    kernel: &Btf,
    layout: &Layout,
    functions: &[Function],
) -> Result<Ops, Reason> {
    let mut found = None;
    for symbol in elf.symbols.iter().filter(|symbol| symbol.object) {
        let section = symbol.section.and_then(|number| elf.sections.get(number));
        let Some(section) = section.filter(|section| section.name.starts_with(".struct_ops"))
        else {
            continue;
        };
        if found.replace((symbol, section)).is_some() {
            return Err(Reason::Ops("there is more than one".into()));
        }
    }
    let (symbol, section) = found.ok_or_else(|| Reason::Ops("there is none".into()))?;
    let table = Table {
        elf,
        btf,
        kernel,
        layout,
        functions,
        symbol,
        section,
    };
    table.read().map_err(Reason::Ops)
}

struct Table<'a, 'e> {
    elf: &'a Elf<'e>,
    btf: &'a Btf,
    kernel: &'a Btf,
    layout: &'a Layout,
    functions: &'a [Function],
    symbol: &'a Symbol<'e>,
    section: &'a Section<'e>,
}

impl Table<'_, '_> {
    fn read(&self) -> Result<Ops, String> {
        let variable = self.btf.find(self.symbol.name, Kind::Var);
        let variable = variable.and_then(|id| self.btf.get(id));
        let Some(Type::Var(variable)) = variable else {
            return Err("has no type".into());
        };
        let Some((_, Type::Composite(composite))) = self.btf.resolve(variable.ty) else {
            return Err("is no struct".into());
        };
        let kind = without_flavour(&composite.name);
        if kind != "sched_ext_ops" {
            return Err(format!("struct {kind} is not supported"));
        }
        let theirs = self.kernel.find_struct(kind);
        let theirs = theirs.ok_or("this kernel has no struct sched_ext_ops")?;
        let mut ops = Ops {
            variable: self.symbol.name.into(),
            ..Ops::default()
        };
        for member in &composite.members {
            let known = theirs.members.iter().any(|other| other.name == member.name);
            if self.member(member, &mut ops)? && !known {
                return Err(format!("this kernel has no member {}", member.name));
            }
        }
        Ok(ops)
    }

    /// Read a member; true if it says something.
    fn member(&self, member: &Member, ops: &mut Ops) -> Result<bool, String> {
        let offset = self.symbol.value + u64::from(member.bit_offset / 8);
        let name = member.name.to_string();
        match self.btf.resolve(member.ty) {
            Some((_, Type::Ptr(_))) => {
                let function = self.function(offset, &name)?;
                if let Some(function) = function {
                    ops.functions.insert(name, function);
                }
                Ok(function.is_some())
            }
            Some((_, Type::Array { nr, .. })) => {
                let text = self.bytes(offset, *nr as usize)?;
                let end = text.iter().position(|byte| *byte == 0);
                let text = String::from_utf8_lossy(&text[..end.unwrap_or(text.len())]);
                ops.name = text.into_owned();
                Ok(!ops.name.is_empty())
            }
            _ => {
                let size = self.btf.size_of(member.ty).unwrap_or(0) as usize;
                let mut number = [0; 8];
                let place = number
                    .get_mut(..size)
                    .ok_or_else(|| format!("member {name} is no number"))?;
                place.copy_from_slice(self.bytes(offset, size)?);
                let number = u64::from_le_bytes(number);
                if number != 0 {
                    ops.numbers.insert(name, number);
                }
                Ok(number != 0)
            }
        }
    }

    fn bytes(&self, offset: u64, len: usize) -> Result<&[u8], String> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(len);
        let bytes = self.section.bytes.get(range);
        bytes.ok_or_else(|| "ends before its last member".into())
    }

    /// The function that the pointer at `offset` of the section points to.
    fn function(&self, offset: u64, op: &str) -> Result<Option<usize>, String> {
        let relocation = self
            .section
            .relocations
            .iter()
            .find(|relocation| relocation.offset == offset);
        let Some(relocation) = relocation else {
            return Ok(None);
        };
        let no_function = || format!("{op} is no function");
        let symbol = self
            .elf
            .symbols
            .get(relocation.symbol)
            .filter(|_| relocation.kind == R_BPF_64_ABS64)
            .ok_or_else(no_function)?;
        let (base, _) = symbol
            .section
            .and_then(|section| self.layout.code.get(&section))
            .ok_or_else(no_function)?;
        let start = usize::try_from(symbol.value / INSN_BYTES)
            .ok()
            .and_then(|start| base.checked_add(start))
            .ok_or_else(no_function)?;
        let mut functions = self.functions.iter();
        let function = functions.position(|function| function.start == start);
        function.map(Some).ok_or_else(no_function)
    }
}
