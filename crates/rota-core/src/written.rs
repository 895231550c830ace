// SPDX-License-Identifier: GPL-2.0-only
//! `--write-object DIR`: the policy's object, and what user space writes into it before it is
//! loaded, as files. What runs a policy without a kernel (rota-sim) takes both, and need not know
//! what each policy wants to be told of a machine.
//!
//! `DIR/<policy>.bpf.o` is the object as it was built; `DIR/<policy>.json` has the bytes that
//! differ, section by section.

use std::fs;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _};
use serde::Serialize;

use crate::Policy;
use crate::error::Error;
use crate::options::Settings;
use crate::probe::Abilities;
use crate::run::{machine, open};
use crate::skeleton::Bpf;

/// Equal bytes between two different ones for which no new patch is begun.
const GAP: usize = 16;

/// What is written beside the object.
#[derive(Serialize)]
struct Written<'a> {
    scheduler: &'a str,
    version: &'a str,
    slice_ns: u64,
    timeout_ms: u32,
    sections: Vec<Section>,
}

/// What is written into one section of variables.
#[derive(Serialize)]
struct Section {
    name: String,
    bytes: usize,
    patches: Vec<Patch>,
}

/// Bytes in hexadecimal digits.
#[derive(Serialize)]
struct Patch {
    offset: usize,
    hex: String,
}

/// Writes the object and what its options and the machine make of it into `dir`, which is made.
pub fn run<P: Policy>(settings: &Settings<P::Options>, dir: &Path) -> Result<(), Error> {
    let topology = machine::<P>(settings, &settings.common.sysfs_root)?;
    let mut storage = MaybeUninit::uninit();
    let opened = open::<P>(&mut storage, settings, &topology, Abilities::default())?;
    let common = &settings.common;
    let written = Written {
        scheduler: P::PACKAGE.name,
        version: P::PACKAGE.version,
        slice_ns: common.slice_us * 1000,
        timeout_ms: common.timeout_ms,
        sections: sections(P::Bpf::OBJECT, opened.variables()),
    };
    save(P::Bpf::POLICY, P::Bpf::OBJECT, &written, dir).map_err(Error::Options)
}

fn save(policy: &str, object: &[u8], written: &Written<'_>, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let text = serde_json::to_vec(written).expect("it is plain data");
    for (end, bytes) in [("bpf.o", object), ("json", &text)] {
        let file = dir.join(format!("{policy}.{end}"));
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// What `variables`, the sections of variables by name, have that `object` has not.
fn sections(object: &[u8], variables: impl Iterator<Item = (String, Vec<u8>)>) -> Vec<Section> {
    let elf = ElfFile64::<object::Endianness>::parse(object).expect("clang has made it");
    let section = |(name, new): (String, Vec<u8>)| {
        let old = elf.section_by_name(&name)?;
        // A section of zeros has no bytes in the file.
        let mut old = old.data().unwrap_or_default().to_vec();
        old.resize(new.len(), 0);
        let patches = differences(&old, &new).into_iter().map(|range| Patch {
            offset: range.start,
            hex: new[range]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        });
        Some(Section {
            name,
            bytes: new.len(),
            patches: patches.collect(),
        })
    };
    variables.filter_map(section).collect()
}

/// Where `new` differs from `old`, which is as long; what lies near together is one range.
fn differences(old: &[u8], new: &[u8]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for (at, _) in old
        .iter()
        .zip(new)
        .enumerate()
        .filter(|(_, (old, new))| old != new)
    {
        match ranges.last_mut() {
            Some(last) if at - last.end < GAP => last.end = at + 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_and_what_is_near_joined() {
        let old = [0; 100];
        let mut new = old;
        assert_eq!(differences(&old, &new), []);
        for at in [0, 3, 3 + GAP, 3 + GAP + GAP + 1, 99] {
            new[at] = 1;
        }
        let far = 3 + GAP + GAP + 1;
        assert_eq!(differences(&old, &new), [0..4 + GAP, far..far + 1, 99..100]);
    }
}
