// SPDX-License-Identifier: GPL-2.0-only
//! Compiling for arm64 guests on another machine: a cross compiler of the distribution, and the
//! headers and static libraries that the lab gets from where its kernels come.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use rota_lab::kernel::{Store, Sysroot};

use super::needs::{ARM64_CC, ARM64_TRIPLE};
use super::probe::{self, Libelf};
use crate::kernels;

/// What makes static programs for arm64.
pub struct Cross {
    /// The root directory that the compiler sees.
    pub sysroot: Sysroot,
    libelf: Libelf,
}

impl Cross {
    /// Finds the tools of `Group::Arm64`, and fetches the libraries.
    pub fn find(store: &Store) -> Result<Self> {
        let sysroot = kernels::sysroot(store)?;
        let flags = [link_flags(&sysroot), include_flags(&sysroot)].concat();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let Some(libelf) = probe::links_libelf(Path::new(ARM64_CC), &flags) else {
            bail!(
                "{ARM64_CC} makes no static program with the libraries in {}",
                sysroot.dir.display()
            );
        };
        Ok(Self { sysroot, libelf })
    }

    /// What Rust calls such a guest.
    pub fn triple(&self) -> &'static str {
        ARM64_TRIPLE
    }

    /// Tells `command` (cargo) how C is compiled.
    pub fn apply(&self, command: &mut Command) {
        let name = ARM64_TRIPLE.replace('-', "_");
        command.env(format!("CC_{name}"), ARM64_CC);
        let flags = [link_flags(&self.sysroot), include_flags(&self.sysroot)].concat();
        command.env(format!("CFLAGS_{name}"), flags.join(" "));
    }

    /// Flags for rustc that make static programs; an object that they need goes to `dir`.
    pub fn static_flags(&self, dir: &Path) -> Result<Vec<String>> {
        let cc_flags = link_flags(&self.sysroot);
        let mut rust_flags = super::static_flags(self.libelf, ARM64_CC, &cc_flags, dir)?;
        rust_flags.push(format!("-Clinker={ARM64_CC}"));
        rust_flags.extend(cc_flags.iter().map(|flag| format!("-Clink-arg={flag}")));
        // libelf calls it, and no crate asks for it. What nobody calls is left out.
        let zstd = self.sysroot.lib.join("libzstd.a");
        rust_flags.push(format!("-Clink-arg={}", zstd.display()));
        Ok(rust_flags)
    }
}

/// Flags for the linker, through the compiler. A C library of the compiler's own would come first if
/// these did not say more than where the root directory is.
fn link_flags(sysroot: &Sysroot) -> Vec<String> {
    let lib = sysroot.lib.display();
    vec![
        format!("--sysroot={}", sysroot.dir.display()),
        format!("-B{lib}"),
        format!("-L{lib}"),
    ]
}

/// The same for headers.
fn include_flags(sysroot: &Sysroot) -> Vec<String> {
    let dirs = sysroot.include.iter();
    dirs.map(|dir| format!("-isystem{}", dir.display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_sees_our_libraries_before_its_own() {
        let sysroot = Sysroot {
            dir: "/c/sysroot".into(),
            lib: "/c/sysroot/usr/lib/aarch64-linux-gnu".into(),
            include: [
                "/c/sysroot/usr/include/x".into(),
                "/c/sysroot/usr/include".into(),
            ],
            busybox: "/c/sysroot/usr/bin/busybox".into(),
        };
        let cross = Cross {
            sysroot,
            libelf: Libelf::Complete,
        };
        let dir = tempfile::tempdir().unwrap();
        let flags = cross.static_flags(dir.path()).unwrap();
        assert_eq!(
            flags,
            [
                "-Ctarget-feature=+crt-static",
                "-Clinker=aarch64-linux-gnu-gcc",
                "-Clink-arg=--sysroot=/c/sysroot",
                "-Clink-arg=-B/c/sysroot/usr/lib/aarch64-linux-gnu",
                "-Clink-arg=-L/c/sysroot/usr/lib/aarch64-linux-gnu",
                "-Clink-arg=/c/sysroot/usr/lib/aarch64-linux-gnu/libzstd.a",
            ]
        );
        let mut cargo = Command::new("cargo");
        cross.apply(&mut cargo);
        let (name, value) = cargo.get_envs().next().unwrap();
        assert_eq!(name, "CC_aarch64_unknown_linux_gnu");
        assert_eq!(value.unwrap(), "aarch64-linux-gnu-gcc");
    }
}
