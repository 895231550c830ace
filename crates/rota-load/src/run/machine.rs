// SPDX-License-Identifier: GPL-2.0-only
//! What the runner must know of the machine: CPUs it may use and their last-level
//! caches.

use std::collections::BTreeMap;
use std::path::Path;

use crate::spec::CpuList;

/// The machine as the workload sees it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// CPUs that are online and allowed to the program.
    pub allowed: CpuList,
    /// CPUs of each last-level cache with an allowed CPU, by lowest CPU.
    pub llcs: Vec<CpuList>,
    /// Index into `llcs` by CPU number.
    llc_of: Vec<Option<usize>>,
}

impl Machine {
    /// Looks at the machine; `sysfs` is usually `/sys`. CPUs whose caches sysfs does
    /// not show share one last-level cache.
    pub fn discover(allowed: CpuList, sysfs: &Path) -> Self {
        // Keyed by lowest CPU, which identifies the cache.
        let mut caches: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let unknown = allowed.iter().next().unwrap_or(0);
        for cpu in allowed.iter() {
            let shared = last_level_cache(cpu, sysfs);
            let lowest = shared
                .and_then(|cpus| cpus.iter().next())
                .unwrap_or(unknown);
            caches.entry(lowest).or_default().push(cpu);
        }
        let llcs: Vec<CpuList> = caches.into_values().map(CpuList::from_iter).collect();
        let top = allowed.iter().next_back().map_or(0, |cpu| cpu as usize + 1);
        let mut llc_of = vec![None; top];
        for (index, llc) in llcs.iter().enumerate() {
            for cpu in llc.iter() {
                llc_of[cpu as usize] = Some(index);
            }
        }
        Self {
            allowed,
            llcs,
            llc_of,
        }
    }

    /// Number of CPUs that the workload may use.
    pub fn cpus(&self) -> u32 {
        u32::try_from(self.allowed.len()).expect("CPU numbers fit u32")
    }

    /// The last-level cache of `cpu`; `None` for a CPU that came online later.
    pub fn llc_of(&self, cpu: u32) -> Option<usize> {
        self.llc_of.get(cpu as usize).copied().flatten()
    }
}

/// The CPUs that share the highest data cache of `cpu`.
fn last_level_cache(cpu: u32, sysfs: &Path) -> Option<CpuList> {
    let caches = sysfs.join(format!("devices/system/cpu/cpu{cpu}/cache"));
    let levels = std::fs::read_dir(caches)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).ok();
            if read("type")?.trim() == "Instruction" {
                return None;
            }
            let level: u32 = read("level")?.trim().parse().ok()?;
            let shared: CpuList = read("shared_cpu_list")?.trim().parse().ok()?;
            Some((level, shared))
        });
    levels
        .max_by_key(|(level, _)| *level)
        .map(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    //! Goal: last-level caches from fixture trees of sysfs, and from none.
    use super::*;

    fn cache(root: &Path, cpu: u32, index: u32, level: u32, kind: &str, shared: &str) {
        let dir = root.join(format!("devices/system/cpu/cpu{cpu}/cache/index{index}"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("level"), format!("{level}\n")).unwrap();
        std::fs::write(dir.join("type"), format!("{kind}\n")).unwrap();
        std::fs::write(dir.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
    }

    #[test]
    fn two_caches_and_a_mask() {
        let root = tempfile::tempdir().unwrap();
        for cpu in 0..8 {
            cache(root.path(), cpu, 0, 1, "Data", &cpu.to_string());
            cache(root.path(), cpu, 1, 1, "Instruction", "0-7");
            cache(
                root.path(),
                cpu,
                3,
                3,
                "Unified",
                if cpu < 4 { "0-3" } else { "4-7" },
            );
        }
        let machine = Machine::discover("1-5".parse().unwrap(), root.path());
        assert_eq!(machine.cpus(), 5);
        let llcs: Vec<_> = machine.llcs.iter().map(CpuList::to_string).collect();
        assert_eq!(llcs, ["1-3", "4-5"]);
        assert_eq!(machine.llc_of(3), Some(0));
        assert_eq!(machine.llc_of(4), Some(1));
        assert_eq!(machine.llc_of(7), None);
    }

    #[test]
    fn no_sysfs_is_one_cache() {
        let machine = Machine::discover("0-2".parse().unwrap(), Path::new("/nonexistent"));
        assert_eq!(machine.llcs.len(), 1);
        assert_eq!(machine.llc_of(2), Some(0));
    }

    #[test]
    fn garbage_is_one_cache() {
        let root = tempfile::tempdir().unwrap();
        cache(root.path(), 0, 0, 3, "Unified", "zero to one");
        cache(root.path(), 1, 0, 3, "Unified", "");
        let machine = Machine::discover("0-1".parse().unwrap(), root.path());
        assert_eq!(machine.llcs.len(), 1);
    }
}
