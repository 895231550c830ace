// SPDX-License-Identifier: GPL-2.0-only
//! Control groups of the guest's.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::case::Failure;
use super::program::Program;

const ROOT: &str = "/sys/fs/cgroup";

/// How long the last process of a cgroup may take to be gone for good.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

/// A control group, which is removed when this is dropped.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one below the root, with these controllers; the case is skipped on a kernel that has not
    /// all of them.
    pub fn create(name: &str, controllers: &[&str]) -> Result<Self, Failure> {
        let has = fs::read_to_string(format!("{ROOT}/cgroup.controllers"))?;
        for controller in controllers {
            if !has.split_whitespace().any(|its| its == *controller) {
                let why = format!("this kernel has no {controller} controller");
                return Err(Failure::Skipped(why));
            }
            fs::write(
                format!("{ROOT}/cgroup.subtree_control"),
                format!("+{controller}"),
            )?;
        }
        let dir = PathBuf::from(ROOT).join(name);
        fs::create_dir(&dir)?;
        Ok(Self { dir })
    }

    /// What one of its files says, without the end of the line.
    pub fn get(&self, file: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.dir.join(file))?.trim().to_owned())
    }

    /// Writes to one of its files.
    pub fn set(&self, file: &str, value: &str) -> Result<(), Failure> {
        let path = self.dir.join(file);
        fs::write(&path, value)
            .map_err(|error| format!("writing {value} to {}: {error}", path.display()).into())
    }

    /// Puts a process into it.
    pub fn enter(&self, pid: Pid) -> Result<(), Failure> {
        self.set("cgroup.procs", &pid.to_string())
    }

    /// Puts a process back into the root.
    pub fn leave(&self, pid: Pid) -> io::Result<()> {
        fs::write(format!("{ROOT}/cgroup.procs"), pid.to_string())
    }

    /// Starts a program that is in it from its first instruction on.
    pub fn start(&self, name: &str, args: &[&str]) -> io::Result<Program> {
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.dir.display()
        );
        let args = [&["-c", &enter, "sh", name], args].concat();
        Program::start("sh", &args)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + EMPTY_LIMIT;
        while fs::remove_dir(&self.dir).is_err() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}
