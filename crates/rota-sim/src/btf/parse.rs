// SPDX-License-Identifier: GPL-2.0-only
//! Reads BTF from bytes: the section of an ELF file, or `/sys/kernel/btf/vmlinux`.

use super::types::{Composite, Enum, Func, Member, Param, Type, TypeId, Variable};
use super::{Btf, BtfError};

pub(super) const MAGIC: u16 = 0xeb9f;
/// Of the header that every version has.
pub(super) const HEADER_BYTES: usize = 24;
/// In the info word of a type: a flag whose meaning depends on the kind.
pub(super) const KIND_FLAG: u32 = 1 << 31;

/// The string at `offset` of a string section.
pub(super) fn string(strings: &[u8], offset: u32) -> Option<&str> {
    let bytes = strings.get(offset as usize..)?;
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// A place in bytes from which little-endian numbers are read.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], BtfError> {
        let at = self.at;
        let end = at.saturating_add(len);
        let bytes = self.bytes.get(at..end);
        self.at = end;
        bytes.ok_or(BtfError::Truncated { what, at })
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, BtfError> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// The part of `bytes` of `len` bytes at `offset`.
pub(crate) fn part<'a>(
    bytes: &'a [u8],
    offset: usize,
    len: u32,
    what: &'static str,
) -> Result<&'a [u8], BtfError> {
    let end = offset.saturating_add(len as usize);
    bytes
        .get(offset..end)
        .ok_or(BtfError::Truncated { what, at: offset })
}

impl Btf {
    /// Read raw BTF.
    ///
    /// # Errors
    /// If it is not little-endian BTF, or cut off, or has a kind of type that is
    /// not known: the size of such a type is not known either.
    pub fn parse(bytes: &[u8]) -> Result<Btf, BtfError> {
        let mut header = Reader::new(bytes);
        let first = header.u32("header")?;
        if first as u16 != MAGIC {
            return Err(BtfError::Magic(first as u16));
        }
        let header_bytes = header.u32("header")? as usize;
        let mut field = || header.u32("header");
        let (type_offset, type_bytes) = (field()?, field()?);
        let (string_offset, string_bytes) = (field()?, field()?);
        let at = |offset: u32| header_bytes.saturating_add(offset as usize);
        let types = part(bytes, at(type_offset), type_bytes, "types")?;
        let strings = part(bytes, at(string_offset), string_bytes, "strings")?;
        let types = TypeReader {
            strings,
            reader: Reader::new(types),
            id: 0,
        };
        Ok(Btf::new(types.all()?, strings.to_vec()))
    }
}

struct TypeReader<'a> {
    strings: &'a [u8],
    reader: Reader<'a>,
    id: u32,
}

impl TypeReader<'_> {
    fn all(mut self) -> Result<Vec<Type>, BtfError> {
        let mut types = vec![Type::Void];
        while !self.reader.is_at_end() {
            self.id = types.len() as u32;
            types.push(self.one()?);
        }
        Ok(types)
    }

    fn name(&self, offset: u32) -> Result<Box<str>, BtfError> {
        string(self.strings, offset)
            .map(Into::into)
            .ok_or(BtfError::Name { id: self.id })
    }

    fn u32(&mut self) -> Result<u32, BtfError> {
        self.reader.u32("type")
    }

    fn named(&mut self) -> Result<Box<str>, BtfError> {
        let offset = self.u32()?;
        self.name(offset)
    }

    fn one(&mut self) -> Result<Type, BtfError> {
        let name = self.named()?;
        let info = self.u32()?;
        // A size or the number of a type, depending on the kind.
        let value = self.u32()?;
        let ty = TypeId(value);
        let len = info & 0xffff;
        let flag = info & KIND_FLAG != 0;
        Ok(match info >> 24 & 0x1f {
            1 => {
                let data = self.u32()?;
                Type::Int {
                    name,
                    bytes: value,
                    encoding: (data >> 24 & 0xf) as u8,
                    bits: data as u8,
                }
            }
            3 => Type::Array {
                element: TypeId(self.u32()?),
                index: TypeId(self.u32()?),
                nr: self.u32()?,
            },
            kind @ (4 | 5) => Type::Composite(Composite {
                name,
                union: kind == 5,
                bytes: value,
                members: self.members(len, flag)?,
            }),
            kind @ (6 | 19) => Type::Enum(Enum {
                name,
                bytes: value,
                signed: flag,
                wide: kind == 19,
                values: self.values(len, flag, kind == 19)?,
            }),
            7 => Type::Fwd { name, union: flag },
            12 => Type::Func(Func {
                name,
                prototype: ty,
                linkage: len,
            }),
            13 => Type::FuncProto {
                result: ty,
                params: self.params(len)?,
            },
            14 => Type::Var(Variable {
                name,
                ty,
                linkage: self.u32()?,
            }),
            15 => Type::DataSec {
                name,
                bytes: value,
                variables: self.variables(len)?,
            },
            16 => Type::Float { name, bytes: value },
            17 => Type::DeclTag {
                name,
                ty,
                component: self.u32()? as i32,
            },
            kind => reference(kind, name, ty).ok_or(BtfError::Kind { id: self.id, kind })?,
        })
    }

    fn members(&mut self, len: u32, bit_fields: bool) -> Result<Vec<Member>, BtfError> {
        let member = |_| {
            let name = self.named()?;
            let ty = TypeId(self.u32()?);
            let offset = self.u32()?;
            // With the flag the upper byte is the size of a bit field, or 0.
            let (bit_offset, bit_size) = match (bit_fields, offset >> 24) {
                (false, _) => (offset, None),
                (true, 0) => (offset & 0xff_ffff, None),
                (true, size) => (offset & 0xff_ffff, Some(size)),
            };
            Ok(Member {
                name,
                ty,
                bit_offset,
                bit_size,
            })
        };
        (0..len).map(member).collect()
    }

    fn values(
        &mut self,
        len: u32,
        signed: bool,
        wide: bool,
    ) -> Result<Vec<(Box<str>, u64)>, BtfError> {
        let value = |_| {
            let name = self.named()?;
            let low = self.u32()?;
            let value = match (wide, signed) {
                (true, _) => u64::from(low) | u64::from(self.u32()?) << 32,
                (false, true) => i64::from(low as i32) as u64,
                (false, false) => u64::from(low),
            };
            Ok((name, value))
        };
        (0..len).map(value).collect()
    }

    fn params(&mut self, len: u32) -> Result<Vec<Param>, BtfError> {
        let param = |_| {
            let name = self.named()?;
            let ty = TypeId(self.u32()?);
            Ok(Param { name, ty })
        };
        (0..len).map(param).collect()
    }

    fn variables(&mut self, len: u32) -> Result<Vec<(TypeId, u32, u32)>, BtfError> {
        let variable = |_| Ok((TypeId(self.u32()?), self.u32()?, self.u32()?));
        (0..len).map(variable).collect()
    }
}

/// A type that is but a reference to another.
fn reference(kind: u32, name: Box<str>, ty: TypeId) -> Option<Type> {
    Some(match kind {
        2 => Type::Ptr(ty),
        8 => Type::Typedef { name, ty },
        9 => Type::Volatile(ty),
        10 => Type::Const(ty),
        11 => Type::Restrict(ty),
        18 => Type::TypeTag { name, ty },
        _ => return None,
    })
}
