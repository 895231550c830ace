// SPDX-License-Identifier: GPL-2.0-only
//! The emulator that guests run in, with its libraries, from where the kernels come.
//!
//! Not the machine's own. QEMU before 8.1 gives counted time to the first CPU that can use it, until
//! a timer is due: beside two busy CPUs a third stood still for up to 100 ms, under any scheduler, and
//! half a second has been seen. And one emulator everywhere makes a counted run the same everywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::apt::Archive;
use super::{FETCH_PREFIX, Store, packages, require_space};
use crate::arch::Arch;
use crate::error::{IoContext as _, Result};
use crate::{OnProgress, Progress};

const RECORD: &str = "emulator.json";
/// What the packages take, packed and unpacked.
const EMULATOR_BYTES: u64 = 300 << 20;
/// Unpacked, but of no use to a program.
const UNUSED: [&str; 5] = [
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
];

/// An emulator for guests of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    dir: PathBuf,
    arch: Arch,
    version: String,
}

/// What a directory was made of.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The package with the emulator, and its version.
    emulator: String,
    /// All of them.
    packages: Vec<String>,
}

/// The package with QEMU for guests of `arch`, and its program.
fn qemu(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("qemu-system-x86", "qemu-system-x86_64"),
        Arch::Arm64 => ("qemu-system-arm", "qemu-system-aarch64"),
    }
}

impl Emulator {
    /// The package that it is from, and its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A command that starts it, with its own libraries.
    pub fn command(&self) -> Command {
        let usr = self.dir.join("usr");
        let mut command = Command::new(usr.join("lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path");
        command.arg(usr.join("lib/x86_64-linux-gnu"));
        command.arg(usr.join("bin").join(qemu(self.arch).1));
        for data in ["qemu", "seabios"] {
            command.arg("-L").arg(usr.join("share").join(data));
        }
        command
    }
}

impl Store {
    /// The emulator for guests of this architecture, if the cache has it.
    pub fn find_emulator(&self) -> Option<Emulator> {
        let dir = self.emulator_dir();
        let record: Record = packages::record(&dir, RECORD)?;
        Some(Emulator {
            dir,
            arch: self.arch,
            version: record.emulator,
        })
    }

    fn emulator_dir(&self) -> PathBuf {
        self.dir.join(format!("qemu-{}", self.arch.debian()))
    }

    /// The same, from the archive if the cache does not have it.
    pub fn get_emulator(&self, on_progress: OnProgress<'_>) -> Result<Emulator> {
        if let Some(emulator) = self.find_emulator() {
            return Ok(emulator);
        }
        let _lock = self.lock("apt.lock", on_progress)?;
        // Somebody else may have made it while this one waited.
        if let Some(emulator) = self.find_emulator() {
            return Ok(emulator);
        }
        require_space(&self.dir, EMULATOR_BYTES)?;
        // It runs on this machine, whatever its guests are.
        let archive = Archive::open(&self.dir, Arch::X86_64)?;
        let scratch = self.scratch(FETCH_PREFIX)?;
        let (package, _) = qemu(self.arch);
        let closure = archive.closure_stable(package, on_progress)?;
        let debs = scratch.path().join("debs");
        fs::create_dir(&debs).at("creating", &debs)?;
        archive.download_all(package, &closure, &debs, on_progress)?;
        on_progress(Progress::Step(&format!("unpacking {package}")));
        let entry = scratch.path().join("entry");
        fs::create_dir(&entry).at("creating", &entry)?;
        for deb in fs::read_dir(&debs).at("reading", &debs)?.flatten() {
            packages::unpack(&deb.path(), &entry)?;
        }
        strip(&entry)?;
        let prefix = format!("{package}=");
        let own = closure.iter().find_map(|one| one.strip_prefix(&prefix));
        let record = Record {
            emulator: format!("{package} {}", own.unwrap_or_default()),
            packages: closure,
        };
        let dir = self.emulator_dir();
        packages::put(&entry, &dir, RECORD, &record)?;
        Ok(Emulator {
            dir,
            arch: self.arch,
            version: record.emulator,
        })
    }
}

fn strip(entry: &Path) -> Result<()> {
    for unused in UNUSED {
        let dir = entry.join(unused);
        if dir.exists() {
            fs::remove_dir_all(&dir).at("removing", &dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_cache_is_found_and_started_with_its_own_libraries() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open_at(cache.path()).unwrap().on(Arch::Arm64);
        let dir = cache.path().join("qemu-arm64");
        fs::create_dir(&dir).unwrap();
        assert_eq!(store.find_emulator(), None);
        let record = r#"{"emulator":"qemu-system-arm 1:10.0","packages":[]}"#;
        fs::write(dir.join(RECORD), record).unwrap();
        let emulator = store.find_emulator().unwrap();
        assert_eq!(emulator.version(), "qemu-system-arm 1:10.0");
        let command = emulator.command();
        let program = dir.join("usr/bin/qemu-system-aarch64");
        assert!(command.get_program().to_string_lossy().contains("ld-linux"));
        assert!(command.get_args().any(|arg| arg == program));
        assert_eq!(store.on(Arch::X86_64).find_emulator(), None);
    }
}
