// SPDX-License-Identifier: GPL-2.0-only
//! What can go wrong on the host.

use std::io;
use std::path::{Path, PathBuf};

use crate::arch::Arch;

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the lab, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A topology that is not understood.
    #[error("topology `{given}`: {reason}; write {}", crate::topology::FORMS)]
    BadTopology {
        /// What was asked for.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is no case of `cargo xtask fuzz`.
    #[error("{}: {reason}; give a folder or a case.json that `cargo xtask fuzz` has written", path.display())]
    BadCase {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A kernel that is not understood.
    #[error(
        "kernel `{given}` is neither a series (6.18), a release (7.2.12), `none` \
         (Debian's own 6.12, without sched_ext) nor a file"
    )]
    BadKernel {
        /// What was asked for.
        given: String,
    },
    /// The archive has no such kernel.
    #[error("Debian's archive has no kernel {wanted}; it has {}", .available.join(", "))]
    NoSuchKernel {
        /// What was asked for.
        wanted: String,
        /// The newest release of each series.
        available: Vec<String>,
    },
    /// Programs are missing; they can be installed.
    #[error("not installed: {}", .0.join(", "))]
    MissingPackages(Vec<&'static str>),
    /// The cache has no emulator.
    #[error("the cache has no QEMU for {0} guests; `cargo xtask vm {machine}-- true` fetches it", machine = machine_option(*.0))]
    NoEmulator(Arch),
    /// This machine's package sources do not name a mirror of Debian.
    #[error(
        "the apt sources of this machine name no Debian mirror; set ROTA_DEBIAN_MIRROR to the \
         URL of one (it ends in /debian)"
    )]
    NoMirror,
    /// The network or the mirror does not answer.
    #[error("cannot reach {from}: {detail}")]
    Network {
        /// The mirror.
        from: String,
        /// apt's own words.
        detail: String,
    },
    /// A file system is full.
    #[error("not enough space under {} ({} MiB are needed)", path.display(), .needed.div_ceil(1 << 20))]
    DiskFull {
        /// A directory on it.
        path: PathBuf,
        /// What must be free, in bytes.
        needed: u64,
    },
    /// A file that was to be booted cannot be.
    #[error("{image} is no {arch} kernel image ({form})", image = .0.display(), arch = .1, form = image_form(*.1))]
    NoKernelImage(PathBuf, Arch),
    /// The series that has to be built is built for one architecture only.
    #[error("Linux 6.12 is not built for {0} guests; choose a newer series")]
    NotBuilt(Arch),
    /// A program that was run failed.
    #[error("{program} failed ({status}): {detail}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// The last it said.
        detail: String,
    },
    /// Building a kernel failed.
    #[error("building Linux {version} failed: {detail}; see {}", log.display())]
    Build {
        /// The version of the source.
        version: String,
        /// The first error.
        detail: String,
        /// The whole output.
        log: PathBuf,
    },
    /// QEMU did not start or broke off.
    #[error("QEMU: {detail}")]
    Qemu {
        /// What it said.
        detail: String,
    },
    /// The user interrupted the run.
    #[error("interrupted")]
    Interrupted,
    /// A system call on a file failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: "reading", "creating".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What makes `cargo xtask vm` boot a machine of this kind.
fn machine_option(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "",
        Arch::Arm64 => "--topology hybrid:2+2 ",
    }
}

/// What QEMU boots on a machine of this kind.
fn image_form(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "bzImage",
        Arch::Arm64 => "an uncompressed Image",
    }
}

/// Said to be needed where nobody knows how much more would have been written.
pub(crate) const AT_LEAST_BYTES: u64 = 100 << 20;

/// Adds the file and the action to an [`io::Error`].
pub(crate) trait IoContext<T> {
    /// Names what was tried on which file.
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| {
            let (source, path) = (source.into(), path.as_ref().to_owned());
            match source.kind() {
                io::ErrorKind::StorageFull => Error::DiskFull {
                    path,
                    needed: AT_LEAST_BYTES,
                },
                _ => Error::Io {
                    action,
                    path,
                    source,
                },
            }
        })
    }
}
