// SPDX-License-Identifier: GPL-2.0-only
//! What the commands need from the machine, and which packages bring it.

use std::path::Path;

use super::probe;

/// What a command is about to do with the machine's tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Compile the schedulers and link them statically.
    Build,
    /// Check format and lints.
    Lint,
    /// Fetch kernels and boot them.
    Vm,
    /// Compile for arm64 guests, and boot them.
    Arm64,
    /// Compile a kernel from source.
    KernelBuild,
}

/// One requirement.
pub struct Need {
    /// What the user would call it.
    pub name: &'static str,
    /// Whether the machine has it.
    pub found: fn() -> bool,
    /// apt packages; of each list the first that the archive has. The last is the one that most
    /// archives have.
    pub apt: &'static [&'static [&'static str]],
    /// Fedora's packages.
    pub dnf: &'static [&'static str],
    /// Arch's packages.
    pub pacman: &'static [&'static str],
    /// The rustup component that brings it, when rustup owns the toolchain.
    pub rustup: Option<&'static str>,
}

const CLANGS: &[&str] = &["clang-21", "clang-20", "clang-19"];

/// A tool found by its name in the PATH, in a package that has one name everywhere.
macro_rules! tool {
    ($program:literal, $package:literal) => {
        Need {
            name: $program,
            found: || probe::in_path($program).is_some(),
            apt: &[&[$package]],
            dnf: &[$package],
            pacman: &[$package],
            rustup: None,
        }
    };
}

const C_COMPILER: Need = Need {
    name: "a C compiler",
    found: || probe::in_path("cc").is_some() && probe::header("stdlib.h"),
    apt: &[&["gcc"], &["libc6-dev"]],
    dnf: &["gcc", "glibc-devel"],
    pacman: &["gcc"],
    rustup: None,
};

const LIBELF: Need = Need {
    name: "libelf (headers)",
    found: || probe::header("libelf.h"),
    apt: &[&["libelf-dev"]],
    dnf: &["elfutils-libelf-devel"],
    pacman: &["libelf"],
    rustup: None,
};

const BUILD: &[Need] = &[
    Need {
        name: "clang 19 or newer with the BPF target",
        found: || probe::clang().is_some(),
        apt: &[CLANGS],
        dnf: &["clang"],
        pacman: &["clang"],
        rustup: None,
    },
    C_COMPILER,
    tool!("make", "make"),
    Need {
        name: "pkg-config",
        found: || probe::in_path("pkg-config").is_some(),
        apt: &[&["pkg-config"]],
        dnf: &["pkgconf-pkg-config"],
        pacman: &["pkgconf"],
        rustup: None,
    },
    LIBELF,
    Need {
        name: "static libelf, zlib and libc",
        found: || probe::static_libelf().is_some(),
        apt: &[&["libelf-dev"], &["zlib1g-dev"], &["libc6-dev"]],
        dnf: &[
            "elfutils-libelf-devel-static",
            "zlib-ng-compat-static",
            "glibc-static",
        ],
        pacman: &["libelf", "zlib"],
        rustup: None,
    },
    Need {
        name: "static libzstd, which this libelf calls",
        found: || !probe::libelf_wants_zstd() || probe::archive("libzstd.a").is_some(),
        apt: &[&["libzstd-dev"]],
        dnf: &["libzstd-static"],
        pacman: &["zstd"],
        rustup: None,
    },
];

const LINT: &[Need] = &[
    Need {
        name: "rustfmt",
        found: || probe::cargo_component("fmt"),
        apt: &[&["rustfmt"]],
        dnf: &["rustfmt"],
        pacman: &["rust"],
        rustup: Some("rustfmt"),
    },
    Need {
        name: "clippy",
        found: || probe::cargo_component("clippy"),
        apt: &[&["rust-clippy"]],
        dnf: &["clippy"],
        pacman: &["rust"],
        rustup: Some("clippy"),
    },
];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const DEBOOTSTRAP: &str = "/usr/share/debootstrap/scripts";

const VM: &[Need] = &[
    Need {
        name: "a static busybox",
        found: probe::static_busybox,
        apt: &[&["busybox-static"]],
        dnf: &["busybox"],
        pacman: &["busybox"],
        rustup: None,
    },
    // Kernels and QEMU come from Debian's archive, on other distributions too.
    tool!("dpkg-deb", "dpkg"),
    tool!("apt-get", "apt"),
    Need {
        name: "Debian's archive keys",
        found: || Path::new(KEYRING).is_file(),
        apt: &[&["debian-archive-keyring"]],
        dnf: &["debian-keyring"],
        pacman: &["debian-archive-keyring"],
        rustup: None,
    },
    Need {
        // The lab reads it from debootstrap's scripts where the apt sources are not Debian's.
        name: "the address of a Debian mirror",
        found: || {
            probe::is_debian()
                || std::env::var_os("ROTA_DEBIAN_MIRROR").is_some()
                || Path::new(DEBOOTSTRAP).is_dir()
        },
        apt: &[&["debootstrap"]],
        dnf: &["debootstrap"],
        pacman: &["debootstrap"],
        rustup: None,
    },
];

/// What compiles and links for arm64 guests.
pub const ARM64_CC: &str = "aarch64-linux-gnu-gcc";

/// Beside those of the other groups. The libraries come with the kernels.
const ARM64: &[Need] = &[
    Need {
        name: "a C compiler for arm64",
        found: || probe::in_path(ARM64_CC).is_some(),
        apt: &[&["gcc-aarch64-linux-gnu"]],
        dnf: &["gcc-aarch64-linux-gnu"],
        pacman: &["aarch64-linux-gnu-gcc"],
        rustup: None,
    },
    Need {
        // Distributions' own compilers come with the library for one architecture.
        name: "Rust's library for arm64 (rustup target add aarch64-unknown-linux-gnu)",
        found: || probe::rust_library(ARM64_TRIPLE),
        apt: &[&["rustup"]],
        dnf: &["rustup"],
        pacman: &["rustup"],
        rustup: Some("rust-std-aarch64-unknown-linux-gnu"),
    },
];

/// What Rust calls an arm64 guest.
pub const ARM64_TRIPLE: &str = "aarch64-unknown-linux-gnu";

const KERNEL_BUILD: &[Need] = &[
    C_COMPILER,
    tool!("make", "make"),
    tool!("flex", "flex"),
    tool!("bison", "bison"),
    tool!("bc", "bc"),
    Need {
        name: "xz",
        found: || probe::in_path("xz").is_some(),
        apt: &[&["xz-utils"]],
        dnf: &["xz"],
        pacman: &["xz"],
        rustup: None,
    },
    Need {
        name: "pahole",
        found: || probe::in_path("pahole").is_some(),
        apt: &[&["pahole", "dwarves"]],
        dnf: &["dwarves"],
        pacman: &["pahole"],
        rustup: None,
    },
    LIBELF,
    Need {
        // Writes the kernel's list of BPF helpers.
        name: "Python",
        found: || probe::in_path("python3").is_some(),
        apt: &[&["python3-minimal"]],
        dnf: &["python3"],
        pacman: &["python"],
        rustup: None,
    },
    Need {
        name: "OpenSSL (headers)",
        found: || probe::header("openssl/ssl.h"),
        apt: &[&["libssl-dev"]],
        dnf: &["openssl-devel"],
        pacman: &["openssl"],
        rustup: None,
    },
];

impl Group {
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Build => BUILD,
            Self::Lint => LINT,
            Self::Vm => VM,
            Self::Arm64 => ARM64,
            Self::KernelBuild => KERNEL_BUILD,
        }
    }
}

/// The requirements of `groups` that this machine does not meet, each once.
pub fn missing(groups: &[Group]) -> Vec<&'static Need> {
    let mut missing: Vec<&'static Need> = Vec::new();
    for need in groups.iter().flat_map(|group| group.needs()) {
        let known = missing.iter().any(|other| other.name == need.name);
        if !known && !(need.found)() {
            missing.push(need);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_has_packages_everywhere() {
        let groups = [
            Group::Build,
            Group::Lint,
            Group::Vm,
            Group::Arm64,
            Group::KernelBuild,
        ];
        for group in groups {
            for need in group.needs() {
                assert!(
                    !need.apt.is_empty() && need.apt.iter().all(|c| !c.is_empty()),
                    "{}",
                    need.name
                );
                assert!(
                    !need.dnf.is_empty() && !need.pacman.is_empty(),
                    "{}",
                    need.name
                );
            }
        }
    }

    #[test]
    fn the_library_for_arm64_is_that_of_the_triple() {
        let component = ARM64.iter().find_map(|need| need.rustup);
        assert_eq!(component, Some(format!("rust-std-{ARM64_TRIPLE}").as_str()));
    }

    #[test]
    fn clang_packages_go_from_the_newest_to_the_oldest_that_works() {
        assert_eq!(
            CLANGS.last(),
            Some(&format!("clang-{}", probe::CLANG_MIN).as_str())
        );
        assert!(CLANGS.is_sorted_by(|a, b| a > b));
        assert!(
            BUILD[0]
                .name
                .contains(&format!("clang {} or newer", probe::CLANG_MIN))
        );
    }
}
