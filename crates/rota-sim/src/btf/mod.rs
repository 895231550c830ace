// SPDX-License-Identifier: GPL-2.0-only
//! BTF, the kernel's type information: read, asked, cut down and written.
//!
//! Written for this crate because none on crates.io both reads and writes it;
//! the format is `Documentation/bpf/btf.rst`. Only little-endian BTF is read.
//!
//! Nothing here panics on damaged input: a type number may lead nowhere, a chain
//! of typedefs in a circle. Whoever follows one gets `None`.

mod parse;
mod reduce;
mod types;
mod write;

use std::collections::HashMap;

use thiserror::Error;

pub(crate) use parse::{Reader, part};
pub use reduce::reduce;
pub use types::{Composite, Enum, Field, Func, Kind, Member, Param, Type, TypeId, Variable};

/// The kernels whose reduced BTF comes with this crate, oldest first. What they
/// were made of is said in `btf/README.md`.
pub const KERNELS: [(&str, &[u8]); 3] = [
    ("6.12", include_bytes!("../../btf/6.12.btf")),
    ("6.18", include_bytes!("../../btf/6.18.btf")),
    ("7.3", include_bytes!("../../btf/7.3.btf")),
];

/// The reduced BTF of a kernel that comes with this crate: `6.12`, `6.18` or `7.3`.
///
/// # Errors
/// If it is another kernel.
pub fn kernel(release: &str) -> Result<Btf, BtfError> {
    let found = KERNELS.iter().find(|(name, _)| *name == release);
    match found {
        Some((_, bytes)) => Btf::parse(bytes),
        None => Err(BtfError::Missing(format!("kernel {release}"))),
    }
}

/// How deep types nest that anybody asks for; deeper ones are damaged.
const MAX_DEPTH: usize = 64;
/// How deep anonymous structs and unions nest.
const MAX_ANONYMOUS: usize = 8;

/// Why some bytes are no BTF.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Shorter than it says.
    #[error("BTF is cut off: {what} at byte {at}")]
    Truncated {
        /// What was to be read.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// It does not begin as BTF does.
    #[error("not little-endian BTF: magic is {0:#06x} instead of 0xeb9f")]
    Magic(u16),
    /// A kind of type that there is not, or not yet.
    #[error("BTF type {id} is of unknown kind {kind}")]
    Kind {
        /// Number of the type.
        id: u32,
        /// Its kind.
        kind: u32,
    },
    /// A name outside of the string section, or no UTF-8.
    #[error("BTF type {id} has a name that cannot be read")]
    Name {
        /// Number of the type.
        id: u32,
    },
    /// Something that has to be there is not.
    #[error("BTF has no {0}")]
    Missing(String),
}

/// The types of an object or a kernel.
#[derive(Clone, Debug)]
pub struct Btf {
    /// By number; number 0 is void.
    types: Vec<Type>,
    /// By name without flavour: named types of every kind.
    names: HashMap<String, Vec<TypeId>>,
    /// The string section; `.BTF.ext` points into it.
    strings: Vec<u8>,
}

impl Btf {
    pub(crate) fn new(types: Vec<Type>, strings: Vec<u8>) -> Self {
        let mut names: HashMap<String, Vec<TypeId>> = HashMap::new();
        for (id, ty) in types.iter().enumerate() {
            let name = without_flavour(ty.name());
            if !name.is_empty() {
                let id = TypeId(id as u32);
                match names.get_mut(name) {
                    Some(ids) => ids.push(id),
                    None => {
                        names.insert(name.to_owned(), vec![id]);
                    }
                }
            }
        }
        Btf {
            types,
            names,
            strings,
        }
    }

    /// How many types there are, void included.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Only void.
    pub fn is_empty(&self) -> bool {
        self.types.len() <= 1
    }

    /// All types with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        let types = self.types.iter().enumerate();
        types.map(|(id, ty)| (TypeId(id as u32), ty))
    }

    /// The type of a number.
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id.0 as usize)
    }

    /// The string at `offset` of the string section.
    pub fn string(&self, offset: u32) -> Option<&str> {
        parse::string(&self.strings, offset)
    }

    /// The types of this name, whatever flavour theirs has.
    pub fn named<'a>(&'a self, name: &str) -> impl Iterator<Item = (TypeId, &'a Type)> {
        let ids = self.names.get(without_flavour(name));
        ids.into_iter()
            .flatten()
            .filter_map(|id| Some((*id, self.get(*id)?)))
    }

    /// The type of exactly this name and kind.
    pub fn find(&self, name: &str, kind: Kind) -> Option<TypeId> {
        self.named(name)
            .find(|(_, ty)| ty.kind() == kind && ty.name() == name)
            .map(|(id, _)| id)
    }

    /// The struct of exactly this name.
    pub fn find_struct(&self, name: &str) -> Option<&Composite> {
        match self.get(self.find(name, Kind::Struct)?)? {
            Type::Composite(composite) => Some(composite),
            _ => None,
        }
    }

    /// The function of exactly this name: its return type and parameters.
    pub fn find_func(&self, name: &str) -> Option<(TypeId, &[Param])> {
        match self.get(self.find(name, Kind::Func)?)? {
            Type::Func(func) => self.prototype(func.prototype),
            _ => None,
        }
    }

    /// What the type is under its modifiers, without those and typedefs.
    pub fn resolve(&self, mut id: TypeId) -> Option<(TypeId, &Type)> {
        for _ in 0..MAX_DEPTH {
            let ty = self.get(id)?;
            match ty.modified() {
                Some(next) => id = next,
                None => return Some((id, ty)),
            }
        }
        None
    }

    /// The return type and parameters of a function prototype.
    pub fn prototype(&self, id: TypeId) -> Option<(TypeId, &[Param])> {
        match self.resolve(id)?.1 {
            Type::FuncProto { result, params } => Some((*result, params)),
            _ => None,
        }
    }

    /// The size of a type in bytes.
    pub fn size_of(&self, id: TypeId) -> Option<u64> {
        self.size_below(id, MAX_DEPTH)
    }

    fn size_below(&self, id: TypeId, depth: usize) -> Option<u64> {
        match self.resolve(id)?.1 {
            Type::Int { bytes, .. } | Type::Float { bytes, .. } => Some(u64::from(*bytes)),
            Type::Composite(composite) => Some(u64::from(composite.bytes)),
            Type::Enum(value) => Some(u64::from(value.bytes)),
            Type::DataSec { bytes, .. } => Some(u64::from(*bytes)),
            Type::Ptr(_) => Some(8),
            Type::Array { element, nr, .. } => {
                let element = self.size_below(*element, depth.checked_sub(1)?)?;
                element.checked_mul(u64::from(*nr))
            }
            Type::Var(variable) => self.size_below(variable.ty, depth.checked_sub(1)?),
            _ => None,
        }
    }

    /// The member at a path of names, as `["scx", "slice"]`. Members of
    /// anonymous structs and unions count as those of the struct around them.
    pub fn field(&self, root: TypeId, path: &[&str]) -> Option<Field> {
        let mut field = Field {
            ty: root,
            bit_offset: 0,
            bit_size: None,
        };
        for name in path {
            let inner = self.member(field.ty, name, MAX_ANONYMOUS)?;
            field = Field {
                bit_offset: field.bit_offset.checked_add(inner.bit_offset)?,
                ..inner
            };
        }
        Some(field)
    }

    /// The member of that name, also one in an anonymous member.
    pub(crate) fn member(&self, id: TypeId, name: &str, depth: usize) -> Option<Field> {
        let Type::Composite(composite) = self.resolve(id)?.1 else {
            return None;
        };
        for member in &composite.members {
            if !name.is_empty() && &*member.name == name {
                return Some(Field {
                    ty: member.ty,
                    bit_offset: member.bit_offset,
                    bit_size: member.bit_size,
                });
            }
            if member.name.is_empty() {
                let inner = depth
                    .checked_sub(1)
                    .and_then(|depth| self.member(member.ty, name, depth));
                if let Some(inner) = inner {
                    return Some(Field {
                        bit_offset: member.bit_offset.checked_add(inner.bit_offset)?,
                        ..inner
                    });
                }
            }
        }
        None
    }

    /// The value of an enumerator, in whatever enum it is, as the 64 bits of a
    /// register.
    pub fn enumerator(&self, name: &str) -> Option<u64> {
        self.types.iter().find_map(|ty| match ty {
            Type::Enum(value) => value.get(name),
            _ => None,
        })
    }
}

/// A name as it is looked up in a kernel: without its `___flavour`, the last one
/// that has no further underscore on either side.
pub fn without_flavour(name: &str) -> &str {
    let bytes = name.as_bytes();
    let separates =
        |window: &[u8]| window[0] != b'_' && &window[1..4] == b"___" && window[4] != b'_';
    match bytes.windows(5).rposition(separates) {
        Some(at) => &name[..=at],
        None => name,
    }
}

#[cfg(test)]
mod tests;
