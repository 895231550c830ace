// SPDX-License-Identifier: GPL-2.0-only
//! A CPU of the host for each guest whose time is counted.
//!
//! QEMU runs such a guest in one thread, and its devices in another. If both run at once, a request
//! of the second reaches the first at one instruction or another: of 18 runs of the same guest four
//! were not like the rest. On one CPU all 22 were, and none took longer.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// How many leases there are of each CPU that this process may use.
static LEASES: LazyLock<Mutex<BTreeMap<usize, u32>>> = LazyLock::new(|| {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu) == Ok(true));
    Mutex::new(cpus.map(|cpu| (cpu, 0)).collect())
});

/// A CPU that is this guest's, until it is dropped; others get it only when all are taken.
#[derive(Debug)]
pub struct HostCpu(usize);

impl HostCpu {
    /// The CPU with the fewest guests, if the system says which there are.
    pub fn lease() -> Option<Self> {
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        let (cpu, count) = leases.iter_mut().min_by_key(|(_, count)| **count)?;
        *count += 1;
        Some(Self(*cpu))
    }

    /// It alone.
    pub fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(self.0).expect("it came out of such a set");
        set
    }
}

impl Drop for HostCpu {
    fn drop(&mut self) {
        let mut leases = LEASES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = leases.get_mut(&self.0) {
            *count -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_share_a_cpu_only_when_all_are_taken() {
        let count = LEASES.lock().unwrap().len();
        let leases: Vec<HostCpu> = (0..count).map(|_| HostCpu::lease().unwrap()).collect();
        let mut cpus: Vec<usize> = leases.iter().map(|lease| lease.0).collect();
        cpus.sort_unstable();
        cpus.dedup();
        assert_eq!(cpus.len(), count);
        let shared = HostCpu::lease().unwrap();
        assert!(cpus.contains(&shared.0));
        drop(leases);
        let next = HostCpu::lease().unwrap();
        assert!(count == 1 || next.0 != shared.0, "{} is taken", next.0);
    }
}
