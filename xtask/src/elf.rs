// SPDX-License-Identifier: GPL-2.0-only
//! The questions that xtask asks about a binary: what does it need to run, and where does it run?

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{elf, endian::Endianness};

/// What an ELF file says about the program in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// The machine that it is for, `EM_X86_64` for one.
    pub machine: u16,
    /// The dynamic loader that the kernel starts it with.
    pub interpreter: Option<String>,
    /// It names shared libraries.
    needs_libraries: bool,
}

impl Elf {
    /// Reads the file at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&data).with_context(|| format!("{} is not a 64-bit ELF file", path.display()))
    }

    fn parse(data: &[u8]) -> Result<Self> {
        let header = elf::FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        let mut found = Self {
            machine: header.e_machine(endian),
            interpreter: None,
            needs_libraries: false,
        };
        for segment in header.program_headers(endian, data)? {
            if let Some(path) = segment.interpreter(endian, data)? {
                found.interpreter = Some(String::from_utf8_lossy(path).into_owned());
            }
            // A static-pie program has a dynamic section too, but no library in it.
            let dynamic = segment.dynamic(endian, data)?.unwrap_or_default();
            found.needs_libraries |= dynamic
                .iter()
                .any(|entry| entry.d_tag.get(endian) == u64::from(elf::DT_NEEDED));
        }
        Ok(found)
    }
}

/// Whether the ELF program at `path` is static: it names no interpreter and no shared library.
pub fn is_static(path: &Path) -> Result<bool> {
    let elf = Elf::read(path)?;
    Ok(elf.interpreter.is_none() && !elf.needs_libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dynamic_test_binary_is_not_static() {
        let this = std::env::current_exe().unwrap();
        assert_eq!(
            is_static(&this).unwrap(),
            cfg!(target_feature = "crt-static")
        );
    }

    #[test]
    fn the_interpreter_is_a_file_of_the_machine_that_the_test_runs_on() {
        let elf = Elf::read(&std::env::current_exe().unwrap()).unwrap();
        if let Some(path) = elf.interpreter {
            assert!(Path::new(&path).is_file(), "{path}");
        }
    }

    #[test]
    fn a_text_file_is_refused() {
        assert!(Elf::parse(b"#!/bin/sh\n").is_err());
    }
}
