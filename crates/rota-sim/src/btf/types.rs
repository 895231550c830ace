// SPDX-License-Identifier: GPL-2.0-only
//! The types that BTF can describe.

/// The number of a type. 0 is void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

/// The kind of a type, with the kernel's number (`BTF_KIND_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the format's own names")]
pub enum Kind {
    Void = 0,
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Fwd = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Func = 12,
    FuncProto = 13,
    Var = 14,
    DataSec = 15,
    Float = 16,
    DeclTag = 17,
    TypeTag = 18,
    Enum64 = 19,
}

/// A struct or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composite {
    /// Empty if anonymous.
    pub name: Box<str>,
    /// A union.
    pub union: bool,
    /// Size.
    pub bytes: u32,
    /// In the order of their declaration.
    pub members: Vec<Member>,
}

/// A member of a struct or union.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Empty if anonymous.
    pub name: Box<str>,
    /// Its type.
    pub ty: TypeId,
    /// Bits from the start.
    pub bit_offset: u32,
    /// Of a bit field: its bits.
    pub bit_size: Option<u32>,
}

/// An enum; of one that has no values only the name is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enum {
    /// Empty if anonymous.
    pub name: Box<str>,
    /// Size.
    pub bytes: u32,
    /// The values are signed.
    pub signed: bool,
    /// It is described as `BTF_KIND_ENUM64`.
    pub wide: bool,
    /// Names and values, these as 64 bits.
    pub values: Vec<(Box<str>, u64)>,
}

impl Enum {
    /// The value of an enumerator as the 64 bits of a register.
    pub fn get(&self, name: &str) -> Option<u64> {
        let found = self.values.iter().find(|(other, _)| &**other == name);
        found.map(|(_, value)| *value)
    }
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Func {
    /// Its name.
    pub name: Box<str>,
    /// Its type, a [`Type::FuncProto`].
    pub prototype: TypeId,
    /// 0 static, 1 global, 2 extern.
    pub linkage: u32,
}

/// A parameter of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Empty in the type of a function pointer.
    pub name: Box<str>,
    /// Its type.
    pub ty: TypeId,
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: Box<str>,
    /// Its type.
    pub ty: TypeId,
    /// 0 static, 1 global, 2 extern.
    pub linkage: u32,
}

/// A type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the format's own names; the rest is said")]
pub enum Type {
    Void,
    Int {
        name: Box<str>,
        bytes: u32,
        /// `BTF_INT_*` flags: 1 signed, 2 char, 4 bool.
        encoding: u8,
        bits: u8,
    },
    Ptr(TypeId),
    Array {
        element: TypeId,
        index: TypeId,
        nr: u32,
    },
    Composite(Composite),
    Enum(Enum),
    Fwd {
        name: Box<str>,
        union: bool,
    },
    Typedef {
        name: Box<str>,
        ty: TypeId,
    },
    Volatile(TypeId),
    Const(TypeId),
    Restrict(TypeId),
    Func(Func),
    FuncProto {
        result: TypeId,
        params: Vec<Param>,
    },
    Var(Variable),
    DataSec {
        name: Box<str>,
        bytes: u32,
        /// The variables: type, offset and size.
        variables: Vec<(TypeId, u32, u32)>,
    },
    Float {
        name: Box<str>,
        bytes: u32,
    },
    DeclTag {
        name: Box<str>,
        ty: TypeId,
        /// Of a member or parameter: its index; -1 otherwise.
        component: i32,
    },
    TypeTag {
        name: Box<str>,
        ty: TypeId,
    },
}

impl Type {
    /// Its name; empty if it has none.
    pub fn name(&self) -> &str {
        match self {
            Type::Int { name, .. }
            | Type::Fwd { name, .. }
            | Type::Typedef { name, .. }
            | Type::DataSec { name, .. }
            | Type::Float { name, .. }
            | Type::DeclTag { name, .. }
            | Type::TypeTag { name, .. } => name,
            Type::Composite(composite) => &composite.name,
            Type::Enum(value) => &value.name,
            Type::Func(func) => &func.name,
            Type::Var(variable) => &variable.name,
            _ => "",
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Type::Void => Kind::Void,
            Type::Int { .. } => Kind::Int,
            Type::Ptr(_) => Kind::Ptr,
            Type::Array { .. } => Kind::Array,
            Type::Composite(composite) if composite.union => Kind::Union,
            Type::Composite(_) => Kind::Struct,
            Type::Enum(value) if value.wide => Kind::Enum64,
            Type::Enum(_) => Kind::Enum,
            Type::Fwd { .. } => Kind::Fwd,
            Type::Typedef { .. } => Kind::Typedef,
            Type::Volatile(_) => Kind::Volatile,
            Type::Const(_) => Kind::Const,
            Type::Restrict(_) => Kind::Restrict,
            Type::Func(_) => Kind::Func,
            Type::FuncProto { .. } => Kind::FuncProto,
            Type::Var(_) => Kind::Var,
            Type::DataSec { .. } => Kind::DataSec,
            Type::Float { .. } => Kind::Float,
            Type::DeclTag { .. } => Kind::DeclTag,
            Type::TypeTag { .. } => Kind::TypeTag,
        }
    }

    /// Of a modifier or typedef: what it modifies or names.
    pub fn modified(&self) -> Option<TypeId> {
        match self {
            Type::Typedef { ty, .. } | Type::TypeTag { ty, .. } => Some(*ty),
            Type::Volatile(ty) | Type::Const(ty) | Type::Restrict(ty) => Some(*ty),
            _ => None,
        }
    }
}

/// A member as it was found by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub ty: TypeId,
    /// Bits from the start of the outermost struct.
    pub bit_offset: u32,
    /// Of a bit field: its bits.
    pub bit_size: Option<u32>,
}
