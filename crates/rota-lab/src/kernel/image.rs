// SPDX-License-Identifier: GPL-2.0-only
//! A kernel as a file, a bzImage or an arm64 Image: is it one, which release, which hash.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Kernel, Release};
use crate::arch::Arch;
use crate::error::{Error, IoContext as _, Result};

/// Where the boot protocol puts its signature in the setup header.
const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
/// Where the header keeps the place of the version text, counted from the second sector.
const VERSION_AT: usize = 0x20e;
const SECTOR: usize = 0x200;
/// The setup code, version text included, is no longer than this.
const SETUP_MAX: u64 = 64 * 512;

/// Where an arm64 kernel puts its signature. Its header has no version text; the kernel has one, for
/// its log.
const ARM_MAGIC_AT: usize = 0x38;
const ARM_MAGIC: &[u8] = b"ARMd";
const BANNER: &[u8] = b"Linux version ";

/// A kernel for `arch` that the user has.
pub fn open(path: &Path, arch: Arch) -> Result<Kernel> {
    let release = release(path, arch)?;
    let series = release
        .parse::<Release>()
        .map_or_else(|_| release.clone(), |r| r.series());
    Ok(Kernel {
        series,
        release,
        image: path.to_owned(),
        origin: "file".into(),
    })
}

/// What `uname -r` will say under the kernel for `arch` in `path`.
pub fn release(path: &Path, arch: Arch) -> Result<String> {
    let found = match arch {
        Arch::X86_64 => release_in(&setup(path)?),
        Arch::Arm64 => release_in_arm64(&fs::read(path).at("reading", path)?),
    };
    found.ok_or_else(|| Error::NoKernelImage(path.to_owned(), arch))
}

/// The part of a bzImage with the header.
fn setup(path: &Path) -> Result<Vec<u8>> {
    let mut setup = Vec::new();
    let file = File::open(path).at("opening", path)?;
    file.take(SETUP_MAX)
        .read_to_end(&mut setup)
        .at("reading", path)?;
    Ok(setup)
}

fn release_in_arm64(image: &[u8]) -> Option<String> {
    if image.get(ARM_MAGIC_AT..)?.get(..ARM_MAGIC.len())? != ARM_MAGIC {
        return None;
    }
    // The kernel also has the words in a format string.
    memchr::memmem::find_iter(image, BANNER).find_map(|at| {
        let text = &image[at + BANNER.len()..];
        let word = text.split(|byte| byte.is_ascii_whitespace()).next()?;
        let release = std::str::from_utf8(word).ok()?;
        release.parse::<Release>().ok()?;
        Some(release.to_owned())
    })
}

fn release_in(setup: &[u8]) -> Option<String> {
    if setup.get(MAGIC_AT..)?.get(..MAGIC.len())? != MAGIC {
        return None;
    }
    let place = setup.get(VERSION_AT..VERSION_AT + 2)?;
    let place = usize::from(u16::from_le_bytes([place[0], place[1]])) + SECTOR;
    let text = setup.get(place..)?.split(|&byte| byte == 0).next()?;
    let text = std::str::from_utf8(text).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// Size and SHA-256 of a file.
pub fn digest(path: &Path) -> Result<(u64, String)> {
    let bytes = fs::read(path).at("reading", path)?;
    Ok((bytes.len() as u64, hex(&Sha256::digest(&bytes))))
}

/// `bytes` in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The smallest file that counts as a kernel called `release`.
    pub fn bzimage(release: &str) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(MAGIC);
        let place = u16::try_from(image.len() - SECTOR).unwrap();
        image[VERSION_AT..VERSION_AT + 2].copy_from_slice(&place.to_le_bytes());
        image.extend_from_slice(format!("{release} (builder@host) #1 SMP\0rest").as_bytes());
        image
    }

    #[test]
    fn the_release_is_read_from_the_header() {
        assert_eq!(
            release_in(&bzimage("6.12.9-rota")).as_deref(),
            Some("6.12.9-rota")
        );
    }

    #[test]
    fn the_release_of_an_arm64_kernel_is_that_of_its_banner() {
        let mut image = vec![0; 0x100];
        image[ARM_MAGIC_AT..ARM_MAGIC_AT + 4].copy_from_slice(ARM_MAGIC);
        assert_eq!(release_in_arm64(&image), None);
        image.extend_from_slice(b"Linux version %s (%s)\0Linux version 7.3.4-arm64 (builder) #1");
        assert_eq!(release_in_arm64(&image).as_deref(), Some("7.3.4-arm64"));
        image[ARM_MAGIC_AT] = b'?';
        assert_eq!(release_in_arm64(&image), None);
    }

    #[test]
    fn other_files_are_no_kernels() {
        let mut cut = bzimage("6.12.9");
        cut.truncate(0x3f0);
        let mut elf = bzimage("6.12.9");
        elf[MAGIC_AT] = b'?';
        for bytes in [Vec::new(), b"#!/bin/sh\n".to_vec(), cut, elf] {
            assert_eq!(release_in(&bytes), None);
        }
    }

    #[test]
    fn a_digest_is_the_usual_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        fs::write(&file, "abc").unwrap();
        let (bytes, sha256) = digest(&file).unwrap();
        assert_eq!(bytes, 3);
        assert_eq!(
            sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
