// SPDX-License-Identifier: GPL-2.0-only
//! Writes BTF.

use std::collections::HashMap;

use super::parse::{HEADER_BYTES, KIND_FLAG, MAGIC};
use super::types::Type;
use super::{Btf, Composite, Enum};

/// The version of the format, the only one there has been.
const VERSION: u8 = 1;

impl Btf {
    /// As raw BTF. Reading that again gives the same types by the same numbers.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.name("");
        for ty in self.types.iter().skip(1) {
            writer.ty(ty);
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + writer.types.len());
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([VERSION, 0]);
        let types = writer.types.len() as u32;
        let strings = writer.strings.len() as u32;
        for field in [HEADER_BYTES as u32, 0, types, types, strings] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(writer.types);
        bytes.extend(writer.strings);
        bytes
    }
}

#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    offsets: HashMap<String, u32>,
}

impl Writer {
    fn name(&mut self, name: &str) -> u32 {
        if let Some(offset) = self.offsets.get(name) {
            return *offset;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        self.offsets.insert(name.to_owned(), offset);
        offset
    }

    fn word(&mut self, word: u32) {
        self.types.extend(word.to_le_bytes());
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.word(*word);
        }
    }

    /// What every type begins with: its name, its kind with `info`, `value`.
    fn head(&mut self, ty: &Type, info: u32, value: u32) {
        let name = self.name(ty.name());
        self.words(&[name, (ty.kind() as u32) << 24 | info, value]);
    }

    fn ty(&mut self, ty: &Type) {
        match ty {
            Type::Void => {}
            Type::Int {
                bytes,
                encoding,
                bits,
                ..
            } => {
                self.head(ty, 0, *bytes);
                self.word(u32::from(*encoding) << 24 | u32::from(*bits));
            }
            Type::Array { element, index, nr } => {
                self.head(ty, 0, 0);
                self.words(&[element.0, index.0, *nr]);
            }
            Type::Composite(composite) => self.composite(ty, composite),
            Type::Enum(value) => self.value(ty, value),
            Type::Fwd { union, .. } => self.head(ty, if *union { KIND_FLAG } else { 0 }, 0),
            Type::Ptr(to) | Type::Volatile(to) | Type::Const(to) | Type::Restrict(to) => {
                self.head(ty, 0, to.0);
            }
            Type::Typedef { ty: to, .. } | Type::TypeTag { ty: to, .. } => self.head(ty, 0, to.0),
            Type::Func(func) => self.head(ty, func.linkage, func.prototype.0),
            Type::FuncProto { result, params } => {
                self.head(ty, params.len() as u32, result.0);
                for param in params {
                    let name = self.name(&param.name);
                    self.words(&[name, param.ty.0]);
                }
            }
            Type::Var(variable) => {
                self.head(ty, 0, variable.ty.0);
                self.word(variable.linkage);
            }
            Type::DataSec {
                bytes, variables, ..
            } => {
                self.head(ty, variables.len() as u32, *bytes);
                for (ty, offset, size) in variables {
                    self.words(&[ty.0, *offset, *size]);
                }
            }
            Type::Float { bytes, .. } => self.head(ty, 0, *bytes),
            Type::DeclTag {
                ty: to, component, ..
            } => {
                self.head(ty, 0, to.0);
                self.word(*component as u32);
            }
        }
    }

    fn composite(&mut self, ty: &Type, composite: &Composite) {
        let bit_fields = composite.members.iter().any(|m| m.bit_size.is_some());
        let flag = if bit_fields { KIND_FLAG } else { 0 };
        self.head(ty, flag | composite.members.len() as u32, composite.bytes);
        for member in &composite.members {
            let name = self.name(&member.name);
            let size = member.bit_size.unwrap_or(0);
            self.words(&[name, member.ty.0, size << 24 | member.bit_offset]);
        }
    }

    fn value(&mut self, ty: &Type, value: &Enum) {
        let flag = if value.signed { KIND_FLAG } else { 0 };
        self.head(ty, flag | value.values.len() as u32, value.bytes);
        for (name, number) in &value.values {
            let name = self.name(name);
            self.words(&[name, *number as u32]);
            if value.wide {
                self.word((*number >> 32) as u32);
            }
        }
    }
}
