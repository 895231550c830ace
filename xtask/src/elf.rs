// SPDX-License-Identifier: GPL-2.0-only
//! The one question that xtask asks about a binary: does it need anything else to run?

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{elf, endian::Endianness};

/// Whether the ELF program at `path` is static: it names no interpreter and no shared library.
pub fn is_static(path: &Path) -> Result<bool> {
    let data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    needs_nothing(&data).with_context(|| format!("{} is not a 64-bit ELF file", path.display()))
}

fn needs_nothing(data: &[u8]) -> Result<bool> {
    let header = elf::FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, data)? {
        if segment.p_type(endian) == elf::PT_INTERP {
            return Ok(false);
        }
        // A static-pie program has a dynamic section too, but no library in it.
        let dynamic = segment.dynamic(endian, data)?.unwrap_or_default();
        if dynamic
            .iter()
            .any(|entry| entry.d_tag.get(endian) == u64::from(elf::DT_NEEDED))
        {
            return Ok(false);
        }
    }
    Ok(true)
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
    fn a_text_file_is_refused() {
        assert!(needs_nothing(b"#!/bin/sh\n").is_err());
    }
}
