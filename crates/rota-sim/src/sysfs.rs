// SPDX-License-Identifier: GPL-2.0-only
//! A machine as the files under `/sys` that tell of it: what a scheduler reads to find out about
//! its machine (`--sysfs-root`).

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use crate::kernel_api::CpuMask;
use crate::machine::{Machine, STRONG};

/// The CPUs of `mask` as the kernel writes them, `0-3,6`.
pub fn cpu_list(mask: &CpuMask) -> String {
    let mut text = String::new();
    let mut next = mask.next(0);
    while let Some(first) = next {
        let last = (first..).take_while(|cpu| mask.contains(*cpu)).last();
        let last = last.unwrap_or(first);
        let comma = if text.is_empty() { "" } else { "," };
        let _ = match last - first {
            0 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
        next = mask.next(last + 1);
    }
    text
}

/// Write the files of `machine` below `root`, which stands for `/sys` and is made.
///
/// Of an offline CPU the kernel tells nothing, and so do these.
///
/// # Errors
/// A file cannot be written.
pub fn write(machine: &Machine, root: &Path) -> io::Result<()> {
    let online = machine.online();
    let cpus = root.join("devices/system/cpu");
    let put = |dir: &Path, name: &str, text: &str| {
        fs::create_dir_all(dir)?;
        fs::write(dir.join(name), format!("{text}\n"))
    };
    let possible = cpu_list(&machine.possible());
    put(&cpus, "possible", &possible)?;
    put(&cpus, "present", &possible)?;
    put(&cpus, "online", &cpu_list(&online))?;
    let hybrid = machine.cpus().iter().any(|cpu| cpu.capacity != STRONG);
    for cpu in online.iter() {
        let dir = cpus.join(format!("cpu{cpu}"));
        let core = cpu_list(&machine.siblings(cpu).and(&online));
        put(&dir.join("topology"), "core_cpus_list", &core)?;
        let llc = cpu_list(&machine.llc(cpu).and(&online));
        for (index, level, sharers) in [(0, 1, &core), (1, 2, &core), (2, 3, &llc)] {
            let dir = dir.join(format!("cache/index{index}"));
            put(&dir, "level", &level.to_string())?;
            put(&dir, "type", "Unified")?;
            put(&dir, "shared_cpu_list", sharers)?;
        }
        if hybrid {
            put(&dir, "cpu_capacity", &machine.capacity(cpu).to_string())?;
        }
    }
    for (number, node) in machine.nodes().iter().enumerate() {
        let dir = root.join(format!("devices/system/node/node{number}"));
        put(&dir, "cpulist", &cpu_list(&node.and(&online)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_the_kernel_does() {
        let list = |cpus: &[u32]| cpu_list(&cpus.iter().copied().collect());
        assert_eq!(list(&[]), "");
        assert_eq!(list(&[0]), "0");
        assert_eq!(list(&[0, 1, 2, 4, 6, 7]), "0-2,4,6-7");
        assert_eq!(cpu_list(&CpuMask::first(1024)), "0-1023");
    }

    #[test]
    fn an_offline_cpu_is_possible_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        write(&"numa:2x2x2x2-3".parse().unwrap(), dir.path()).unwrap();
        let text = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(text("devices/system/cpu/possible"), "0-15\n");
        assert_eq!(text("devices/system/cpu/online"), "0-12\n");
        assert_eq!(text("devices/system/node/node1/cpulist"), "8-12\n");
        let shared = "devices/system/cpu/cpu12/cache/index2/shared_cpu_list";
        assert_eq!(text(shared), "12\n");
        assert!(!dir.path().join("devices/system/cpu/cpu13").exists());
        assert!(
            !dir.path()
                .join("devices/system/cpu/cpu0/cpu_capacity")
                .exists()
        );
    }
}
