// SPDX-License-Identifier: GPL-2.0-only
//! The variables of an object, found by name, member and index.

use std::collections::BTreeMap;

use super::elf::Elf;
use super::link::Layout;
use crate::btf::{Btf, Kind, Type, TypeId};

/// Where a variable or a part of it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of its section.
    pub(super) section: u32,
    /// Bytes from the start of the section.
    pub offset: u32,
    /// Its size in bytes.
    pub bytes: u32,
    ty: TypeId,
}

/// All variables of an object.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    btf: Option<Btf>,
    by_name: BTreeMap<String, Place>,
}

impl Variables {
    pub(super) fn new(elf: &Elf<'_>, btf: Btf, layout: &Layout) -> Self {
        let mut by_name = BTreeMap::new();
        for symbol in elf.symbols.iter().filter(|symbol| symbol.object) {
            let section = symbol.section.and_then(|number| layout.data.get(&number));
            let (Some(section), Ok(offset), Ok(bytes)) = (
                section,
                u32::try_from(symbol.value),
                u32::try_from(symbol.size),
            ) else {
                continue;
            };
            let ty = match btf.find(symbol.name, Kind::Var).and_then(|id| btf.get(id)) {
                Some(Type::Var(variable)) => variable.ty,
                _ => TypeId(0),
            };
            let place = Place {
                section: *section,
                offset,
                bytes,
                ty,
            };
            by_name.insert(symbol.name.to_owned(), place);
        }
        Variables {
            btf: Some(btf),
            by_name,
        }
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }

    /// Where a variable or a part of it stands: `counters[3].nr[0]`.
    ///
    /// # Errors
    /// What is wrong with the path.
    pub fn place(&self, path: &str) -> Result<Place, String> {
        // The name of a static variable in a function has a dot in it.
        if let Some(place) = self.by_name.get(path) {
            return Ok(*place);
        }
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, mut rest) = path.split_at(end);
        let mut place = *self.by_name.get(name).ok_or("there is none of that name")?;
        while !rest.is_empty() {
            (place, rest) = if let Some(inner) = rest.strip_prefix('.') {
                let end = inner.find(['.', '[']).unwrap_or(inner.len());
                let (member, rest) = inner.split_at(end);
                (self.member(place, member)?, rest)
            } else {
                let (index, rest) = rest
                    .strip_prefix('[')
                    .and_then(|inner| inner.split_once(']'))
                    .ok_or("an index ends with ]")?;
                let index = index.parse().map_err(|_| "an index is a number")?;
                (self.element(place, index)?, rest)
            };
        }
        Ok(place)
    }

    fn member(&self, place: Place, name: &str) -> Result<Place, String> {
        let btf = self.btf.as_ref().ok_or("it has no type")?;
        let none = || format!("there is no member {name}");
        let field = btf.field(place.ty, &[name]).ok_or_else(none)?;
        self.part(place, u64::from(field.bit_offset / 8), field.ty)
    }

    fn element(&self, place: Place, index: u32) -> Result<Place, String> {
        let btf = self.btf.as_ref().ok_or("it has no type")?;
        let Some((_, Type::Array { element, nr, .. })) = btf.resolve(place.ty) else {
            return Err("it is no array".into());
        };
        if index >= *nr {
            return Err(format!("index {index} of {nr}"));
        }
        let size = btf.size_of(*element).ok_or("its elements have no size")?;
        self.part(place, size.saturating_mul(u64::from(index)), *element)
    }

    /// The part of that type at an offset.
    fn part(&self, place: Place, offset: u64, ty: TypeId) -> Result<Place, String> {
        let btf = self.btf.as_ref().ok_or("it has no type")?;
        let bytes = btf.size_of(ty).ok_or("it has no size")?;
        let inside = offset.saturating_add(bytes) <= u64::from(place.bytes);
        if !inside {
            return Err("it is outside of the variable".into());
        }
        Ok(Place {
            section: place.section,
            offset: place.offset.saturating_add(offset as u32),
            bytes: bytes as u32,
            ty,
        })
    }
}
