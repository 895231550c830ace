// SPDX-License-Identifier: GPL-2.0-only
//! Maps as their types define them: section `.maps`.

use super::elf::Elf;
use super::link::{Layout, POINTER_BYTES};
use super::{Object, Reason};
use crate::btf::{Btf, Kind, Type, TypeId};
use crate::vm::{MapDef, MapKind};

/// Read all definitions.
pub(super) fn read(
    elf: &Elf<'_>,
    btf: &Btf,
    layout: &mut Layout,
    object: &mut Object,
) -> Result<(), Reason> {
    for symbol in elf.symbols.iter().filter(|symbol| symbol.object) {
        let Some(number) = symbol.section else {
            continue;
        };
        let section = elf.sections.get(number);
        if section.is_none_or(|section| section.name != ".maps") {
            continue;
        }
        let def = definition(btf, symbol.name).map_err(|what| Reason::Map {
            name: symbol.name.into(),
            what,
        })?;
        layout
            .maps
            .insert((number, symbol.value), object.maps.len() as u32);
        object.maps.push(def);
    }
    read_inner(elf, btf, layout, object)
}

/// Read which maps an array of maps begins with.
fn read_inner(
    elf: &Elf<'_>,
    btf: &Btf,
    layout: &Layout,
    object: &mut Object,
) -> Result<(), Reason> {
    let sections = elf.sections.iter().enumerate();
    for (number, section) in sections.filter(|(_, section)| section.name == ".maps") {
        for relocation in &section.relocations {
            let error = |what: &str| Reason::Relocation {
                section: section.name.into(),
                offset: relocation.offset,
                what: what.into(),
            };
            let starts = layout.maps.iter();
            let (start, outer) = starts
                .filter(|((its, start), _)| *its == number && *start <= relocation.offset)
                .map(|((_, start), map)| (*start, *map))
                .max()
                .ok_or_else(|| error("is in no map"))?;
            let def = &object.maps[outer as usize];
            let values = values_offset(btf, &def.name).filter(|_| def.kind == MapKind::ArrayOfMaps);
            let values = values.ok_or_else(|| error("is in a map that has no maps"))?;
            let index = (relocation.offset - start)
                .checked_sub(values)
                .map(|offset| offset / POINTER_BYTES)
                .and_then(|index| u32::try_from(index).ok())
                .filter(|index| *index < def.max_entries)
                .ok_or_else(|| error("is outside of the map"))?;
            let symbol = elf.symbols.get(relocation.symbol);
            let inner = symbol
                .and_then(|symbol| layout.maps.get(&(symbol.section?, symbol.value)))
                .ok_or_else(|| error("is to no map"))?;
            object.inner_maps.push((outer, index, *inner));
        }
    }
    Ok(())
}

/// Where a map's initial values stand in its definition, in bytes.
fn values_offset(btf: &Btf, name: &str) -> Option<u64> {
    let Type::Var(variable) = btf.get(btf.find(name, Kind::Var)?)? else {
        return None;
    };
    let (_, Type::Composite(composite)) = btf.resolve(variable.ty)? else {
        return None;
    };
    let values = composite
        .members
        .iter()
        .find(|its| &*its.name == "values")?;
    Some(u64::from(values.bit_offset / 8))
}

fn definition(btf: &Btf, name: &str) -> Result<MapDef, String> {
    let variable = btf.find(name, Kind::Var).and_then(|id| btf.get(id));
    let Some(Type::Var(variable)) = variable else {
        return Err("has no type".into());
    };
    let Some((_, Type::Composite(composite))) = btf.resolve(variable.ty) else {
        return Err("is no struct".into());
    };
    let mut number = 0;
    let mut def = MapDef {
        name: name.into(),
        kind: MapKind::Array,
        key_bytes: 0,
        value_bytes: 0,
        max_entries: 0,
    };
    for member in &composite.members {
        let field = &*member.name;
        match field {
            "type" => number = constant(btf, member.ty, field)?,
            "max_entries" => def.max_entries = constant(btf, member.ty, field)?,
            "key_size" => def.key_bytes = constant(btf, member.ty, field)?,
            "value_size" => def.value_bytes = constant(btf, member.ty, field)?,
            "key" => def.key_bytes = size_behind(btf, member.ty, field)?,
            "value" => def.value_bytes = size_behind(btf, member.ty, field)?,
            "map_flags" | "pinning" | "map_extra" | "numa_node" => {}
            "values" if MapKind::from_number(number) == Some(MapKind::ArrayOfMaps) => {}
            other => return Err(format!("member {other} is not supported")),
        }
    }
    def.kind = MapKind::from_number(number)
        .ok_or_else(|| format!("maps of type {number} are not supported"))?;
    if def.kind == MapKind::ArrayOfMaps {
        def.value_bytes = POINTER_BYTES as u32;
    }
    check(&def)?;
    Ok(def)
}

/// What the kernel's `map_alloc_check()` would refuse.
fn check(def: &MapDef) -> Result<(), String> {
    match def.kind {
        MapKind::Array | MapKind::PercpuArray | MapKind::ArrayOfMaps if def.key_bytes != 4 => Err(
            format!("keys of an array have 4 bytes, not {}", def.key_bytes),
        ),
        MapKind::Ringbuf if !def.max_entries.is_power_of_two() || def.max_entries < 4096 => {
            let what = "a ring has a number of bytes that is a power of 2, at least a page, not";
            Err(format!("{what} {}", def.max_entries))
        }
        MapKind::Ringbuf => Ok(()),
        MapKind::Hash | MapKind::LruHash | MapKind::PercpuHash | MapKind::LruPercpuHash
            if def.key_bytes == 0 =>
        {
            Err("keys have no size".into())
        }
        _ if def.value_bytes == 0 => Err("values have no size".into()),
        _ => Ok(()),
    }
}

/// `__uint(name, value)` is a pointer to an array of that length.
fn constant(btf: &Btf, id: TypeId, field: &str) -> Result<u32, String> {
    let array = match btf.resolve(id) {
        Some((_, Type::Ptr(to))) => btf.resolve(*to),
        _ => None,
    };
    match array {
        Some((_, Type::Array { nr, .. })) => Ok(*nr),
        _ => Err(format!("member {field} is no number")),
    }
}

/// `__type(name, type)` is a pointer to it.
fn size_behind(btf: &Btf, id: TypeId, field: &str) -> Result<u32, String> {
    let size = match btf.resolve(id) {
        Some((_, Type::Ptr(to))) => btf.size_of(*to),
        _ => None,
    };
    size.and_then(|size| u32::try_from(size).ok())
        .ok_or_else(|| format!("member {field} is no type"))
}
