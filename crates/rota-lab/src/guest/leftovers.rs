// SPDX-License-Identifier: GPL-2.0-only
//! What a scheduler may leave behind in the kernel and on disk.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

/// Where schedulers have their sockets.
const SOCKETS: &str = "/var/run/scx/root";
/// The kernel frees BPF objects some time after their last user is gone.
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Commands of bpf(2), from the kernel's `uapi/linux/bpf.h`.
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_MAP_GET_NEXT_ID: libc::c_int = 12;

/// BPF programs and maps in the kernel, and files beside the sockets, each by a name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// What there is now.
    pub fn now() -> Self {
        let mut all = BTreeSet::new();
        for (command, what) in [
            (BPF_PROG_GET_NEXT_ID, "BPF program"),
            (BPF_MAP_GET_NEXT_ID, "BPF map"),
        ] {
            let mut id = 0;
            while let Some(next) = next_id(command, id) {
                all.insert(format!("{what} {next}"));
                id = next;
            }
        }
        let files = fs::read_dir(SOCKETS).into_iter().flatten().flatten();
        all.extend(files.map(|file| file.path().display().to_string()));
        Self(all)
    }

    /// What there is beyond `self`, once the kernel had time to clear up.
    pub fn since(&self) -> Vec<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let more: Vec<String> = Self::now().0.difference(&self.0).cloned().collect();
            if more.is_empty() || Instant::now() > deadline {
                return more;
            }
            thread::sleep(POLL);
        }
    }
}

/// The smallest id above `id`; nothing if there is none, or if the kernel does not tell.
fn next_id(command: libc::c_int, id: u32) -> Option<u32> {
    /// The part of `union bpf_attr` that these commands use.
    #[repr(C)]
    struct Attr {
        start_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attr = Attr {
        start_id: id,
        next_id: 0,
        open_flags: 0,
    };
    // SAFETY: the kernel reads and writes no more than the size that it is told, and `attr` lives
    // across the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<Attr>()) };
    (result == 0).then_some(attr.next_id)
}
