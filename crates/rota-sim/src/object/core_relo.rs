// SPDX-License-Identifier: GPL-2.0-only
//! CO-RE: what an object asks of the kernel's types, member by name.
//!
//! The rules are those of libbpf's `relo_core.c`.

use super::kfuncs::is_compatible;
use super::link::{INSN_BYTES, Layout};
use super::{Object, Reason, Symbol};
use crate::btf::{Btf, BtfError, Field, Kind, Type, TypeId, without_flavour};
use crate::btf::{Reader, part};
use crate::vm::Raw;

/// Bytes of a record of a relocation.
const RECORD_BYTES: u32 = 16;
/// How deep members nest in anonymous ones.
const MAX_ANONYMOUS: usize = 8;

/// What is asked, by libbpf's numbers (`enum bpf_core_relo_kind`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    ByteOffset,
    ByteSize,
    Exists,
    Signed,
    LeftShift,
    RightShift,
    TypeIdLocal,
    TypeIdTarget,
    TypeExists,
    TypeSize,
    EnumExists,
    EnumValue,
    TypeMatches,
}

const QUERIES: [Query; 13] = [
    Query::ByteOffset,
    Query::ByteSize,
    Query::Exists,
    Query::Signed,
    Query::LeftShift,
    Query::RightShift,
    Query::TypeIdLocal,
    Query::TypeIdTarget,
    Query::TypeExists,
    Query::TypeSize,
    Query::EnumExists,
    Query::EnumValue,
    Query::TypeMatches,
];

/// Apply all relocations of `.BTF.ext`.
pub(super) fn relocate(
    ext: &[u8],
    btf: &Btf,
    kernel: &Btf,
    layout: &Layout,
    sections: &[&str],
    object: &mut Object,
) -> Result<(), Reason> {
    let mut header = Reader::new(ext);
    header.u32("header of .BTF.ext")?;
    let header_bytes = header.u32("header of .BTF.ext")?;
    if header_bytes < 32 {
        // From before there was CO-RE.
        return Ok(());
    }
    header.take(16, "header of .BTF.ext")?;
    let offset = header.u32("header of .BTF.ext")?;
    let bytes = header.u32("header of .BTF.ext")?;
    if bytes == 0 {
        return Ok(());
    }
    let start = (header_bytes as usize).saturating_add(offset as usize);
    let mut reader = Reader::new(part(ext, start, bytes, "relocations of .BTF.ext")?);
    let record_bytes = reader.u32("relocations of .BTF.ext")?;
    if record_bytes < RECORD_BYTES {
        return Err(Reason::elf("CO-RE relocations are too short"));
    }
    while !reader.is_at_end() {
        let name = reader.u32("section of .BTF.ext")?;
        let nr = reader.u32("section of .BTF.ext")?;
        let name = btf.string(name).unwrap_or_default();
        let number = sections.iter().position(|section| *section == name);
        let code = number.and_then(|number| layout.code.get(&number).copied());
        for _ in 0..nr {
            let record = reader.take(record_bytes as usize, "relocation of .BTF.ext")?;
            if let Some((base, len)) = code {
                let relocation = Relocation::read(record, btf)?;
                let index = relocation.offset / INSN_BYTES as usize;
                if index >= len {
                    return Err(relocation.error(name, "is not at an instruction"));
                }
                relocation
                    .apply(btf, kernel, base + index, object)
                    .map_err(|what| relocation.error(name, what))?;
            }
        }
    }
    Ok(())
}

/// One question, at one instruction.
struct Relocation<'a> {
    offset: usize,
    root: TypeId,
    /// Indices of members and elements, from the root on; of an enum its value.
    spec: Vec<u32>,
    query: Query,
    text: &'a str,
}

/// What has been found out.
struct Answer {
    value: u64,
    /// The sizes here and there of a member that is loaded or stored, where they
    /// differ; whether the width of the access may follow.
    resize: Option<(u64, bool)>,
}

/// A step on the way to a member.
enum Step<'a> {
    Member(&'a str),
    Element(u32),
}

impl<'a> Relocation<'a> {
    fn read(record: &[u8], btf: &'a Btf) -> Result<Self, Reason> {
        let mut record = Reader::new(record);
        let mut word = || record.u32("relocation of .BTF.ext");
        let (offset, root, spec, query) = (word()?, word()?, word()?, word()?);
        let wrong = |what: &str| Reason::Btf(BtfError::Missing(format!("CO-RE {what}")));
        let text = btf.string(spec).ok_or_else(|| wrong("path"))?;
        let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
        let query = QUERIES.get(query as usize).copied();
        Ok(Relocation {
            offset: offset as usize,
            root: TypeId(root),
            spec: numbers.ok_or_else(|| wrong(&format!("path in {text:?}")))?,
            query: query.ok_or_else(|| wrong("query"))?,
            text,
        })
    }

    fn error(&self, section: &str, what: impl Into<String>) -> Reason {
        Reason::Relocation {
            section: section.into(),
            offset: self.offset as u64,
            what: what.into(),
        }
    }

    fn apply(
        &self,
        btf: &Btf,
        kernel: &Btf,
        index: usize,
        object: &mut Object,
    ) -> Result<(), String> {
        let answer = match self.query {
            Query::TypeIdLocal => Some(u64::from(self.root.0).into()),
            Query::TypeIdTarget | Query::TypeExists | Query::TypeSize | Query::TypeMatches => {
                self.of_type(btf, kernel)
            }
            Query::EnumExists | Query::EnumValue => self.of_enum(btf, kernel)?,
            _ => self.of_field(btf, kernel)?,
        };
        let answer = match (answer, self.query) {
            (None, Query::Exists | Query::TypeExists | Query::EnumExists | Query::TypeMatches) => {
                Some(0.into())
            }
            (answer, _) => answer,
        };
        let wide = object.code[index].code == 0x18;
        let patched =
            answer.and_then(|answer| answer.patch(&mut object.code[index]).then_some(answer));
        match patched {
            Some(answer) if wide => {
                object.symbols.insert(index, Symbol::Constant(answer.value));
            }
            Some(_) => {}
            None => {
                object.poison.push(self.describe(btf));
                let what = object.poison.len() as u32 - 1;
                object.symbols.insert(index, Symbol::Poison(what));
            }
        }
        Ok(())
    }

    /// What was asked for, for people.
    fn describe(&self, btf: &Btf) -> String {
        let name = btf.resolve(self.root).map_or("?", |(_, ty)| ty.name());
        let mut text = name.to_owned();
        if let Ok((steps, _)) = self.steps(btf) {
            for step in steps {
                match step {
                    Step::Member(name) => text.push_str(&format!(".{name}")),
                    Step::Element(index) => text.push_str(&format!("[{index}]")),
                }
            }
        }
        text
    }

    /// Types of the kernel's that the root may stand for.
    fn candidates<'k>(&self, btf: &Btf, kernel: &'k Btf) -> Vec<(TypeId, &'k Type)> {
        let Some(root) = btf.get(self.root) else {
            return Vec::new();
        };
        kernel
            .named(root.name())
            .filter(|(_, ty)| same_kind(root, ty) && !root.name().is_empty())
            .collect()
    }

    fn of_type(&self, btf: &Btf, kernel: &Btf) -> Option<Answer> {
        let (id, _) = self
            .candidates(btf, kernel)
            .into_iter()
            .find(|(id, _)| is_compatible(btf, self.root, kernel, *id))?;
        Some(match self.query {
            Query::TypeIdTarget => u64::from(id.0).into(),
            Query::TypeSize => kernel.size_of(id)?.into(),
            _ => 1.into(),
        })
    }

    fn of_enum(&self, btf: &Btf, kernel: &Btf) -> Result<Option<Answer>, String> {
        let Some((_, Type::Enum(local))) = btf.resolve(self.root) else {
            return Err("asks for a value of what is no enum".into());
        };
        let index = self.spec.first().copied().unwrap_or(u32::MAX);
        let (name, _) = local
            .values
            .get(index as usize)
            .ok_or("asks for a value that the enum has not")?;
        let name = without_flavour(name);
        let value = self
            .candidates(btf, kernel)
            .into_iter()
            .filter_map(|(id, _)| kernel.resolve(id))
            .find_map(|(_, ty)| match ty {
                Type::Enum(theirs) => theirs
                    .values
                    .iter()
                    .find(|(other, _)| without_flavour(other) == name)
                    .map(|(_, value)| *value),
                _ => None,
            });
        Ok(value.map(|value| match self.query {
            Query::EnumExists => 1.into(),
            _ => value.into(),
        }))
    }

    /// The way from the root to the member, and that as the object has it.
    fn steps<'b>(&self, btf: &'b Btf) -> Result<(Vec<Step<'b>>, Field), String> {
        let wrong = || format!("path {} does not fit the type", self.text);
        let mut indices = self.spec.iter();
        let first = *indices.next().ok_or_else(wrong)?;
        let size = btf.size_of(self.root).unwrap_or(0);
        let mut steps = Vec::new();
        let mut field = Field {
            ty: self.root,
            bit_offset: bits(size.saturating_mul(u64::from(first))).ok_or_else(wrong)?,
            bit_size: None,
        };
        if first != 0 {
            steps.push(Step::Element(first));
        }
        for index in indices {
            let (_, ty) = btf.resolve(field.ty).ok_or_else(wrong)?;
            match ty {
                Type::Composite(composite) => {
                    let member = composite.members.get(*index as usize).ok_or_else(wrong)?;
                    let bit_offset = field.bit_offset.checked_add(member.bit_offset);
                    if !member.name.is_empty() {
                        steps.push(Step::Member(&member.name));
                    }
                    field = Field {
                        ty: member.ty,
                        bit_offset: bit_offset.ok_or_else(wrong)?,
                        bit_size: member.bit_size,
                    };
                }
                Type::Array { element, .. } => {
                    steps.push(Step::Element(*index));
                    field = element_of(btf, field, *element, *index).ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok((steps, field))
    }

    fn of_field(&self, btf: &Btf, kernel: &Btf) -> Result<Option<Answer>, String> {
        let (steps, local) = self.steps(btf)?;
        let found = self
            .candidates(btf, kernel)
            .into_iter()
            .find_map(|(id, _)| walk(kernel, id, &steps))
            .filter(|field| fields_agree(btf, local.ty, kernel, field.ty));
        let Some(field) = found else { return Ok(None) };
        if self.query == Query::Exists {
            return Ok(Some(1.into()));
        }
        let Some(value) = ask(kernel, field, self.query) else {
            return Ok(None);
        };
        let mut answer = Answer::from(value);
        if self.query == Query::ByteOffset && field.bit_size.is_none() {
            let sizes = btf.size_of(local.ty).zip(kernel.size_of(field.ty));
            answer.resize = sizes
                .filter(|(ours, theirs)| ours != theirs)
                .map(|(_, theirs)| {
                    let adjustable = is_unsigned(btf, local.ty) && is_unsigned(kernel, field.ty);
                    (theirs, adjustable)
                });
        }
        Ok(Some(answer))
    }
}

impl From<u64> for Answer {
    fn from(value: u64) -> Self {
        Answer {
            value,
            resize: None,
        }
    }
}

impl Answer {
    /// Put the answer into an instruction. False if it cannot have it.
    fn patch(&self, raw: &mut Raw) -> bool {
        match raw.code & 7 {
            // ALU with a constant.
            4 | 7 if raw.code & 8 == 0 => match i32::try_from(self.value as i64) {
                Ok(value) => {
                    raw.imm = value;
                    true
                }
                Err(_) => {
                    raw.imm = self.value as u32 as i32;
                    u32::try_from(self.value).is_ok()
                }
            },
            1..=3 => {
                let Ok(offset) = i16::try_from(self.value) else {
                    return false;
                };
                raw.off = offset;
                match self.resize {
                    None => true,
                    Some((bytes, adjustable)) => adjustable && resize(raw, bytes),
                }
            }
            0 => raw.code == 0x18,
            _ => false,
        }
    }
}

/// Make a load or store one of so many bytes.
fn resize(raw: &mut Raw, bytes: u64) -> bool {
    let size = match bytes {
        1 => 0x10,
        2 => 0x08,
        4 => 0x00,
        8 => 0x18,
        _ => return false,
    };
    raw.code = raw.code & !0x18 | size;
    true
}

fn bits(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.checked_mul(8)?).ok()
}

fn element_of(btf: &Btf, array: Field, element: TypeId, index: u32) -> Option<Field> {
    let offset = btf.size_of(element)?.checked_mul(u64::from(index))?;
    Some(Field {
        ty: element,
        bit_offset: array.bit_offset.checked_add(bits(offset)?)?,
        bit_size: None,
    })
}

/// Follow the steps in the kernel's type.
fn walk(kernel: &Btf, root: TypeId, steps: &[Step<'_>]) -> Option<Field> {
    let mut field = Field {
        ty: root,
        bit_offset: 0,
        bit_size: None,
    };
    for (number, step) in steps.iter().enumerate() {
        field = match (step, kernel.resolve(field.ty)?.1) {
            (Step::Member(name), _) => {
                let inner = kernel.member(field.ty, name, MAX_ANONYMOUS)?;
                Field {
                    bit_offset: field.bit_offset.checked_add(inner.bit_offset)?,
                    ..inner
                }
            }
            (Step::Element(index), Type::Array { element, nr, .. }) => {
                // An array of length 0 at the end of a struct is of any length.
                if index >= nr && *nr != 0 {
                    return None;
                }
                element_of(kernel, field, *element, *index)?
            }
            (Step::Element(index), _) if number == 0 => element_of(kernel, field, root, *index)?,
            _ => return None,
        };
    }
    Some(field)
}

/// What is asked about a field that was found.
fn ask(kernel: &Btf, field: Field, query: Query) -> Option<u64> {
    let mut bytes = kernel.size_of(field.ty)?;
    let start = u64::from(field.bit_offset);
    let width = u64::from(field.bit_size.unwrap_or(bits(bytes)?));
    let mut offset = start / 8;
    if field.bit_size.is_some() {
        bytes = bytes.max(1);
        offset = start / 8 / bytes * bytes;
        // As wide a load as it takes to have all bits.
        while start + width - offset * 8 > bytes * 8 {
            bytes *= 2;
            if bytes > 8 {
                return None;
            }
            offset = start / 8 / bytes * bytes;
        }
    }
    let signed = match kernel.resolve(field.ty)?.1 {
        Type::Int { encoding, .. } => encoding & 1 != 0,
        Type::Enum(value) => value.signed,
        _ => false,
    };
    match query {
        Query::ByteOffset => Some(offset),
        Query::ByteSize => Some(bytes),
        Query::Signed => Some(u64::from(signed)),
        Query::LeftShift => 64_u64.checked_sub((start + width).checked_sub(offset * 8)?),
        Query::RightShift => 64_u64.checked_sub(width),
        _ => None,
    }
}

fn is_unsigned(btf: &Btf, id: TypeId) -> bool {
    match btf.resolve(id) {
        Some((_, Type::Int { encoding, .. })) => encoding & 1 == 0,
        Some((_, Type::Ptr(_))) => true,
        _ => false,
    }
}

/// Kinds that may stand for each other (`btf_kind_core_compat()`).
fn same_kind(ours: &Type, theirs: &Type) -> bool {
    let is_enum = |ty: &Type| matches!(ty, Type::Enum(_));
    ours.kind() == theirs.kind() || is_enum(ours) && is_enum(theirs)
}

/// Whether members may stand for each other (`bpf_core_fields_are_compat()`).
fn fields_agree(btf: &Btf, ours: TypeId, kernel: &Btf, theirs: TypeId) -> bool {
    let agree = |ours: TypeId, theirs: TypeId| {
        let (_, ours) = btf.resolve(ours)?;
        let (_, theirs) = kernel.resolve(theirs)?;
        let composite = |ty: &Type| matches!(ty.kind(), Kind::Struct | Kind::Union);
        if composite(ours) && composite(theirs) {
            return Some(true);
        }
        Some(match ours {
            Type::Ptr(_) | Type::Float { .. } | Type::Int { .. } => same_kind(ours, theirs),
            Type::Enum(_) | Type::Fwd { .. } => {
                let (a, b) = (without_flavour(ours.name()), without_flavour(theirs.name()));
                same_kind(ours, theirs) && (a.is_empty() || b.is_empty() || a == b)
            }
            _ => false,
        })
    };
    let (mut ours, mut theirs) = (ours, theirs);
    for _ in 0..MAX_ANONYMOUS {
        match (btf.resolve(ours), kernel.resolve(theirs)) {
            (
                Some((_, Type::Array { element: a, .. })),
                Some((_, Type::Array { element: b, .. })),
            ) => {
                (ours, theirs) = (*a, *b);
            }
            _ => return agree(ours, theirs).unwrap_or(false),
        }
    }
    false
}

#[cfg(test)]
mod tests;
