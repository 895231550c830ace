// SPDX-License-Identifier: GPL-2.0-only
//! What a process takes of the machine.

use std::fmt;
use std::fs;

use nix::unistd::Pid;

/// What a process takes, as `/proc` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Memory in use, in KiB.
    pub rss_kib: u64,
    /// Open files, BPF maps and programs among them.
    pub files: usize,
    /// Memory that the kernel keeps for those maps and programs, in bytes.
    pub locked: u64,
}

impl Footprint {
    /// That of `pid`; nothing once it has ended.
    pub fn of(pid: Pid) -> Option<Self> {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
        let (mut files, mut locked) = (0, 0);
        for info in infos.flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            files += 1;
            locked += number(&text, "memlock:").unwrap_or(0);
        }
        Some(Self {
            rss_kib: rss_kib(pid)?,
            files,
            locked,
        })
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rss_kib,
            files,
            locked,
        } = self;
        write!(f, "{rss_kib} KiB, {files} files, {locked} bytes locked")
    }
}

/// The memory that a process has in use, in KiB.
pub fn rss_kib(pid: Pid) -> Option<u64> {
    number(
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        "VmRSS:",
    )
}

/// The number after `key` at the start of a line.
fn number(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use nix::unistd::getpid;

    use super::*;

    #[test]
    fn our_own_is_more_than_nothing() {
        let ours = Footprint::of(getpid()).unwrap();
        assert!(ours.rss_kib > 100 && ours.files >= 3, "{ours:?}");
        assert_eq!(Footprint::of(Pid::from_raw(i32::MAX)), None);
    }

    #[test]
    fn a_number_follows_its_key() {
        let info = "pos:\t0\nmap_type:\t2\nmemlock:\t8192\n";
        assert_eq!(number(info, "memlock:"), Some(8192));
        assert_eq!(number(info, "lock:"), None);
    }
}
