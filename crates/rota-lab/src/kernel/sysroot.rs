// SPDX-License-Identifier: GPL-2.0-only
//! What programs for guests of another architecture are linked with, from where the kernels come.
//!
//! The packages are unpacked, not installed: the machine's own package manager is not told of the
//! other architecture, and a distribution that has no such libraries will do as well.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::apt::Archive;
use super::{FETCH_PREFIX, Store, packages, require_space};
use crate::arch::Arch;
use crate::error::{IoContext as _, Result};
use crate::{OnProgress, Progress};

/// The C library, the kernel's headers for it, what libbpf needs, and the guest's shell.
const PACKAGES: [&str; 6] = [
    "libc6-dev",
    "linux-libc-dev",
    "libelf-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "busybox-static",
];
const RECORD: &str = "sysroot.json";
/// What they take, packed and unpacked.
const SYSROOT_BYTES: u64 = 100 << 20;

/// Headers, static libraries and a busybox for guests of another architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysroot {
    /// What a compiler takes for the root directory.
    pub dir: PathBuf,
    /// The directory with the libraries.
    pub lib: PathBuf,
    /// The directories with headers, the more special one first.
    pub include: [PathBuf; 2],
    /// A static busybox.
    pub busybox: PathBuf,
}

/// What a directory was made of.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    packages: Vec<String>,
}

impl Record {
    fn wanted() -> Self {
        Self {
            packages: PACKAGES.map(str::to_owned).into(),
        }
    }
}

impl Sysroot {
    fn at(dir: PathBuf, arch: Arch) -> Self {
        let usr = dir.join("usr");
        let multiarch = format!("{arch}-linux-gnu");
        Self {
            lib: usr.join("lib").join(&multiarch),
            include: [usr.join("include").join(multiarch), usr.join("include")],
            busybox: usr.join("bin/busybox"),
            dir,
        }
    }
}

impl Store {
    /// What programs for this architecture are linked with, if the cache has it.
    pub fn find_sysroot(&self) -> Option<Sysroot> {
        let dir = self.sysroot_dir();
        is_whole(&dir).then(|| Sysroot::at(dir, self.arch))
    }

    fn sysroot_dir(&self) -> PathBuf {
        self.dir.join(format!("sysroot-{}", self.arch.debian()))
    }

    /// The same, from the archive.
    pub fn fetch_sysroot(&self, on_progress: OnProgress<'_>) -> Result<Sysroot> {
        let _lock = self.lock("apt.lock", on_progress)?;
        // Somebody else may have made it while this one waited.
        if let Some(sysroot) = self.find_sysroot() {
            return Ok(sysroot);
        }
        let dir = self.sysroot_dir();
        require_space(&self.dir, SYSROOT_BYTES)?;
        let archive = Archive::open(&self.dir, self.arch)?;
        let scratch = self.scratch(FETCH_PREFIX)?;
        let entry = scratch.path().join("entry");
        fs::create_dir(&entry).at("creating", &entry)?;
        for package in PACKAGES {
            let place = scratch.path().join(package);
            fs::create_dir(&place).at("creating", &place)?;
            let deb = archive.download_stable(package, &place, on_progress)?;
            on_progress(Progress::Step(&format!("unpacking {package}")));
            packages::unpack(&deb, &entry)?;
        }
        packages::put(&entry, &dir, RECORD, &Record::wanted())?;
        Ok(Sysroot::at(dir, self.arch))
    }
}

/// Whether `dir` holds all that is wanted; one that an older Rota made may not.
fn is_whole(dir: &Path) -> bool {
    packages::record(dir, RECORD) == Some(Record::wanted())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_cache_is_found() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open_at(cache.path()).unwrap().on(Arch::Arm64);
        let dir = cache.path().join("sysroot-arm64");
        fs::create_dir(&dir).unwrap();
        assert_eq!(store.find_sysroot(), None);
        let record = serde_json::to_string(&Record::wanted()).unwrap();
        fs::write(dir.join(RECORD), record).unwrap();
        let sysroot = store.find_sysroot().unwrap();
        assert_eq!(sysroot.lib, dir.join("usr/lib/aarch64-linux-gnu"));
        assert_eq!(sysroot.busybox, dir.join("usr/bin/busybox"));
    }

    #[test]
    fn a_directory_of_other_packages_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(RECORD), r#"{"packages":["libc6-dev"]}"#).unwrap();
        assert!(!is_whole(dir.path()));
    }
}
