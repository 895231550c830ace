// SPDX-License-Identifier: GPL-2.0-only
//! The kernel functions (kfuncs) that an object calls against those that the
//! kernel's BTF describes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;

use libbpf_rs::btf::{Btf, BtfType, types};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};

use super::Needs;
use crate::error::Error;

/// Names of which a kernel has to have one, newest first, where a policy
/// declares them weakly: `compat.bpf.h` calls the one that exists. The last
/// column is for the message.
pub(super) const ALTERNATIVES: [(&[&str], &str); 5] = [
    (&["scx_bpf_dsq_insert", "scx_bpf_dispatch"], "6.12 to 7.3"),
    (
        &["scx_bpf_dsq_insert_vtime", "scx_bpf_dispatch_vtime"],
        "6.12 to 7.3",
    ),
    (
        &["scx_bpf_dsq_move_to_local", "scx_bpf_consume"],
        "6.12 to 7.3",
    ),
    (
        &["scx_bpf_dsq_move_vtime", "scx_bpf_dispatch_vtime_from_dsq"],
        "6.12 to 7.3",
    ),
    (
        &[
            "scx_bpf_dsq_move_set_vtime",
            "scx_bpf_dispatch_from_dsq_set_vtime",
        ],
        "6.12 to 7.3",
    ),
];

/// A kfunc that an object calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kfunc {
    /// The kernel's name of it: that of the object without its `___flavour`.
    pub name: String,
    /// The object can do without it.
    pub weak: bool,
}

/// The kfuncs that an object calls: whatever symbol it leaves undefined.
///
/// # Panics
/// If `object` is no ELF file, which the one built into a scheduler is.
pub fn kfuncs(object: &[u8]) -> BTreeSet<Kfunc> {
    let elf = ElfFile64::<object::Endianness>::parse(object).expect("clang has made it");
    let undefined = elf.symbols().filter(|symbol| symbol.is_undefined());
    let kfunc = |symbol: object::read::elf::ElfSymbol64<'_, '_>| {
        let name = symbol.name().ok().filter(|name| !name.is_empty())?;
        Some(Kfunc {
            name: without_flavour(name).into(),
            weak: symbol.is_weak(),
        })
    };
    undefined.filter_map(kfunc).collect()
}

/// What libbpf looks up: the name up to its last `___`.
fn without_flavour(name: &str) -> &str {
    name.rfind("___")
        .filter(|at| *at > 0)
        .map_or(name, |at| &name[..at])
}

/// How the kernel's BTF describes a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prototype {
    /// As callers see it.
    Sound,
    /// With the argument that only the kernel sees, which no caller can match.
    Damaged,
}

/// The kfuncs of sched_ext, and those of `wanted`, that the BTF describes.
fn prototypes(btf: &Btf<'_>, wanted: &BTreeSet<Kfunc>) -> BTreeMap<String, Prototype> {
    // A kernel has 50 000 functions: to read their names as text, and to look them up in a tree, would
    // take another 12 million instructions, a twentieth of a scheduler's start.
    let wanted: HashSet<&[u8]> = wanted.iter().map(|kfunc| kfunc.name.as_bytes()).collect();
    let mut found: BTreeMap<String, bool> = BTreeMap::new();
    for function in btf.type_by_kind::<types::Func<'_>>() {
        let name = function.name().map_or(&[][..], OsStr::as_encoded_bytes);
        if is_sched_ext(name) || wanted.contains(name) {
            let name = String::from_utf8_lossy(name).into_owned();
            found.insert(name, takes_aux(btf, &function));
        }
    }
    let prototype = |(name, takes_aux): (&String, &bool)| {
        let damaged =
            *takes_aux && !name.ends_with("_impl") && !found.contains_key(&format!("{name}_impl"));
        let prototype = if damaged {
            Prototype::Damaged
        } else {
            Prototype::Sound
        };
        (name.clone(), prototype)
    };
    found.iter().map(prototype).collect()
}

fn is_sched_ext(name: &[u8]) -> bool {
    [&b"scx_bpf_"[..], b"__scx_bpf_", b"bpf_iter_scx_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether the last parameter is a `struct bpf_prog_aux *`.
fn takes_aux(btf: &Btf<'_>, function: &types::Func<'_>) -> bool {
    let last_is_aux = || {
        let prototype = types::FuncProto::try_from(function.next_type()?).ok()?;
        let last = prototype.get(prototype.len().checked_sub(1)?)?;
        let pointer = btf
            .type_by_id::<BtfType<'_>>(last.ty)?
            .skip_mods_and_typedefs();
        let pointer = types::Ptr::try_from(pointer).ok()?;
        Some(pointer.next_type()?.skip_mods_and_typedefs().name()? == "bpf_prog_aux")
    };
    last_is_aux().unwrap_or(false)
}

/// Refuses a kernel that lacks a kfunc which the policy cannot do without.
pub(super) fn probe(btf: &Btf<'_>, release: &str, needs: &Needs<'_>) -> Result<(), Error> {
    let wanted = kfuncs(needs.object);
    let found = prototypes(btf, &wanted);
    let (lost, missing) = verdict(&wanted, &found);
    if !lost.is_empty() {
        return Err(Error::DamagedBtf {
            release: release.into(),
            policy: needs.policy.into(),
            lost: found.values().filter(|p| **p == Prototype::Damaged).count(),
            kfuncs: lost,
        });
    }
    match missing {
        None => Ok(()),
        Some((kfunc, since)) => Err(Error::MissingKfunc {
            release: release.into(),
            policy: needs.policy.into(),
            kfunc,
            since: since.into(),
        }),
    }
}

/// The damaged kfuncs that stand in the way, and the first missing one with the
/// kernels that have it.
fn verdict(
    wanted: &BTreeSet<Kfunc>,
    found: &BTreeMap<String, Prototype>,
) -> (Vec<String>, Option<(String, &'static str)>) {
    let mut lost = BTreeSet::new();
    let mut missing = None;
    let mut need = |names: &[&str], since: &'static str| {
        if names
            .iter()
            .any(|name| found.get(*name) == Some(&Prototype::Sound))
        {
            return;
        }
        match names.iter().find(|name| found.contains_key(**name)) {
            Some(damaged) => {
                lost.insert((*damaged).to_owned());
            }
            None => {
                missing.get_or_insert((names.join(" or "), since));
            }
        }
    };
    for kfunc in wanted.iter().filter(|kfunc| !kfunc.weak) {
        need(&[&kfunc.name], "6.12 to 7.3");
    }
    for (names, since) in ALTERNATIVES {
        if wanted
            .iter()
            .any(|kfunc| kfunc.weak && names.contains(&kfunc.name.as_str()))
        {
            need(names, since);
        }
    }
    (lost.into_iter().collect(), missing)
}
