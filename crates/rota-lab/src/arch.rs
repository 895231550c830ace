// SPDX-License-Identifier: GPL-2.0-only
//! The architecture of a guest, which decides on its kernel, its emulator and its programs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An architecture that guests can have.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Arch {
    /// What all machines are whose CPUs are alike.
    #[default]
    X86_64,
    /// What hybrid machines are: here the kernel takes a CPU's capacity from the device tree. On
    /// x86 only the processor itself can tell it, and the emulated one does not.
    Arm64,
}

impl Arch {
    /// The name that Debian has for it, which ends the names of its kernels.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The start of its target triples.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// The architecture of the kernel that calls itself `release`: Debian ends names with it, and
    /// a kernel that is built here is for x86.
    pub(crate) fn of_release(release: &str) -> Self {
        if release.ends_with("-arm64") {
            Self::Arm64
        } else {
            Self::X86_64
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_name_tells_its_architecture() {
        let table = [
            ("7.3.4+deb13-cloud-arm64", Arch::Arm64),
            ("7.3.4+deb13-cloud-amd64", Arch::X86_64),
            ("6.12.107-rota", Arch::X86_64),
        ];
        for (release, arch) in table {
            assert_eq!(Arch::of_release(release), arch, "{release}");
        }
    }
}
