// SPDX-License-Identifier: GPL-2.0-only
//! Finds out, before anything is loaded, whether this kernel can run a policy,
//! and what is missing if it cannot.
//!
//! Nothing here asks for a version: a kernel is what its files and its BTF say
//! it is. What a policy needs is read from its own object.

mod kfuncs;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::btf::{Btf, BtfType, types};
use nix::sys::utsname::uname;

use crate::error::Error;

pub use kfuncs::{Kfunc, kfuncs};

/// How long a scheduler that another process detaches may take.
const DISABLING: Duration = Duration::from_secs(2);

/// Capabilities that loading takes, with their bits, where `CAP_SYS_ADMIN` is
/// not there to stand for both.
const CAPABILITIES: [(u32, &str); 2] = [(38, "CAP_PERFMON"), (39, "CAP_BPF")];
const CAP_SYS_ADMIN: u32 = 21;

/// The running kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its release: `6.18.15-amd64`.
    pub release: String,
    sysfs: PathBuf,
    procfs: PathBuf,
}

/// What a policy needs of a kernel.
#[derive(Clone, Debug)]
pub struct Needs<'a> {
    /// The name of the scheduler, for messages.
    pub policy: &'a str,
    /// Its BPF object.
    pub object: &'a [u8],
    /// Whether only tasks that ask for it are to be scheduled.
    pub partial: bool,
}

/// What the probe learnt and the loader uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// `SCX_OPS_SWITCH_PARTIAL` of this kernel, if it was asked for.
    pub partial_flag: u64,
}

impl Kernel {
    /// The kernel that runs, as its files below `sysfs` tell.
    pub fn running(sysfs: &Path) -> Self {
        let release = uname().map(|names| names.release().to_string_lossy().into_owned());
        Kernel {
            release: release.unwrap_or_else(|_| "of unknown version".into()),
            sysfs: sysfs.into(),
            procfs: "/proc".into(),
        }
    }

    fn sched_ext(&self, file: &str) -> Option<String> {
        let path = self.sysfs.join("kernel/sched_ext").join(file);
        fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    }

    /// The state of sched_ext: `disabled`, `enabling`, `enabled`, `disabling`;
    /// `None` without sched_ext.
    pub fn state(&self) -> Option<String> {
        self.sched_ext("state")
    }

    /// The name of the scheduler that is attached.
    pub fn ops_name(&self) -> Option<String> {
        self.sched_ext("root/ops").filter(|name| !name.is_empty())
    }

    /// Whether the kernel is a real-time one.
    pub fn is_realtime(&self) -> bool {
        let file = fs::read_to_string(self.sysfs.join("kernel/realtime"));
        file.is_ok_and(|text| text.trim() == "1")
    }

    /// Whether the kernel keeps its memory even from root's programs.
    pub fn is_locked_down(&self) -> bool {
        let file = fs::read_to_string(self.sysfs.join("kernel/security/lockdown"));
        file.is_ok_and(|text| text.contains("[confidentiality]"))
    }

    /// Everything that can be known without loading anything.
    pub fn probe(&self, needs: &Needs<'_>) -> Result<Abilities, Error> {
        self.probe_sched_ext()?;
        self.probe_privileges()?;
        self.probe_idle()?;
        self.probe_isolation()?;
        let btf = self.btf()?;
        kfuncs::probe(&btf, &self.release, needs)?;
        self.probe_flags(&btf, needs)
    }

    fn probe_sched_ext(&self) -> Result<(), Error> {
        let state = self.sysfs.join("kernel/sched_ext/state");
        match fs::read(&state) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::NoSchedExt {
                release: self.release.clone(),
            }),
            Err(error) => Err(cannot_read(&state, error)),
        }
    }

    fn probe_privileges(&self) -> Result<(), Error> {
        let status = fs::read_to_string(self.procfs.join("self/status")).unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        // Without /proc the kernel itself will have to refuse.
        let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        else {
            return Ok(());
        };
        let has = |bit: u32| effective & (1 << bit) != 0;
        let missing: Vec<&str> = CAPABILITIES
            .iter()
            .filter(|(bit, _)| !has(*bit))
            .map(|(_, name)| *name)
            .collect();
        if missing.is_empty() || has(CAP_SYS_ADMIN) {
            return Ok(());
        }
        Err(Error::NotPermitted {
            missing: format!("{} needed, run it as root", missing.join(" and ")),
        })
    }

    /// Waits until a scheduler that is being detached is gone; another one that
    /// stays is an error.
    pub fn probe_idle(&self) -> Result<(), Error> {
        let deadline = Instant::now() + DISABLING;
        loop {
            match self.state().as_deref() {
                None | Some("disabled") => return Ok(()),
                Some("disabling") if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                _ => return Err(self.already_running()),
            }
        }
    }

    /// The error that names the scheduler which is attached.
    pub fn already_running(&self) -> Error {
        let name = self.ops_name().unwrap_or_else(|| "of unknown name".into());
        Error::AlreadyRunning { name }
    }

    /// CPUs isolated at boot. Partitions of cpusets, which some kernels list in
    /// the same file, are no obstacle.
    fn probe_isolation(&self) -> Result<(), Error> {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let cpus = read(self.sysfs.join("devices/system/cpu/isolated"))
            .trim()
            .to_owned();
        let booted_so = (read(self.procfs.join("cmdline")).split_whitespace())
            .any(|argument| argument.starts_with("isolcpus="));
        if booted_so && !cpus.is_empty() {
            return Err(Error::IsolatedCpus { cpus });
        }
        Ok(())
    }

    fn btf(&self) -> Result<Btf<'static>, Error> {
        let path = self.sysfs.join("kernel/btf/vmlinux");
        let no_btf = |problem: &str| Error::NoBtf {
            release: self.release.clone(),
            path: path.clone(),
            problem: problem.into(),
        };
        // libbpf tells a file that could not be read by the same error as a malformed one.
        Btf::from_path(&path).or_else(|_| {
            fs::read(&path).map_err(|error| match error.kind() {
                ErrorKind::NotFound => no_btf("there is no such file"),
                _ => cannot_read(&path, error),
            })?;
            Btf::from_path(&path).map_err(|_| no_btf("it is malformed"))
        })
    }

    fn probe_flags(&self, btf: &Btf<'_>, needs: &Needs<'_>) -> Result<Abilities, Error> {
        if !needs.partial {
            return Ok(Abilities::default());
        }
        match enumerator(btf, "scx_ops_flags", "SCX_OPS_SWITCH_PARTIAL") {
            Some(partial_flag) => Ok(Abilities { partial_flag }),
            None => Err(Error::MissingFlag {
                release: self.release.clone(),
                flag: "SCX_OPS_SWITCH_PARTIAL".into(),
                option: "--partial".into(),
            }),
        }
    }
}

/// The error for a file of the kernel that is there and cannot be read.
fn cannot_read(path: &Path, source: io::Error) -> Error {
    Error::System {
        action: format!("read {}", path.display()),
        source,
    }
}

/// The value of an enumerator of the kernel.
fn enumerator(btf: &Btf<'_>, of: &str, name: &str) -> Option<u64> {
    let of: BtfType<'_> = btf.type_by_name(of)?;
    let is = |candidate: Option<&std::ffi::OsStr>| candidate.is_some_and(|c| c == name);
    if let Ok(narrow) = types::Enum::try_from(of) {
        return narrow
            .iter()
            .find(|e| is(e.name))
            .and_then(|e| e.value.try_into().ok());
    }
    let wide = types::Enum64::try_from(of).ok()?;
    wide.iter()
        .find(|e| is(e.name))
        .and_then(|e| e.value.try_into().ok())
}
