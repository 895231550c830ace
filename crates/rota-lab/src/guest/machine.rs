// SPDX-License-Identifier: GPL-2.0-only
//! The guest as its kernel describes it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::utsname::uname;

use crate::job::Machine;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";

/// Reads the machine from sysfs.
pub fn machine() -> Machine {
    let online = list(&text(&format!("{CPUS}/online")));
    let shared: BTreeSet<String> = online.iter().filter_map(|cpu| last_level(*cpu)).collect();
    let siblings = |cpu| {
        list(&text(&format!(
            "{CPUS}/cpu{cpu}/topology/thread_siblings_list"
        )))
    };
    let node_has_cpus = |node: &usize| !text(&format!("{NODES}/node{node}/cpulist")).is_empty();
    let nodes = list(&text(&format!("{NODES}/online")));
    Machine {
        kernel: uname()
            .map(|n| n.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        cpus: online.len(),
        possible_cpus: list(&text(&format!("{CPUS}/possible"))).len(),
        llcs: shared.len().max(1),
        nodes: nodes
            .iter()
            .filter(|node| node_has_cpus(node))
            .count()
            .max(1),
        smt: online
            .iter()
            .map(|cpu| siblings(*cpu).len())
            .max()
            .unwrap_or(1)
            .max(1),
        sched_ext: Path::new("/sys/kernel/sched_ext").is_dir(),
    }
}

/// The online CPUs of each last-level cache, in the order of their lowest CPU.
pub fn llc_cpus() -> Vec<Vec<usize>> {
    let online = list(&text(&format!("{CPUS}/online")));
    let mut llcs: Vec<Vec<usize>> = Vec::new();
    for cpus in online.iter().filter_map(|cpu| last_level(*cpu)) {
        let mut cpus = list(&cpus);
        cpus.retain(|cpu| online.contains(cpu));
        if !llcs.contains(&cpus) {
            llcs.push(cpus);
        }
    }
    llcs
}

/// The CPUs that share the cache of the highest level with `cpu`, as the kernel writes them.
fn last_level(cpu: usize) -> Option<String> {
    let caches = fs::read_dir(format!("{CPUS}/cpu{cpu}/cache")).ok()?;
    let dirs = caches
        .flatten()
        .map(|entry| entry.path().display().to_string());
    let levels =
        dirs.filter_map(|dir| Some((text(&format!("{dir}/level")).parse::<u8>().ok()?, dir)));
    levels
        .max()
        .map(|(_, dir)| text(&format!("{dir}/shared_cpu_list")))
}

/// A file of sysfs without its line end; empty when it is not there.
fn text(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The numbers in a list like `0-3,8`.
pub fn list(text: &str) -> Vec<usize> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(list("5"), [5]);
        assert!(list("").is_empty());
    }
}
