// SPDX-License-Identifier: GPL-2.0-only
//! The device tree of a hybrid machine: QEMU's own, with CPUs of two strengths.
//!
//! QEMU emulates all CPUs alike and says nothing of their strength. The kernel believes the tree, as
//! it would on a telephone, and counts with what it says.

use std::fs;
use std::path::{Path, PathBuf};

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

use super::qemu;
use crate::error::{Error, IoContext as _};
use crate::topology::Topology;

/// The tree's file, in the directory of the run.
const FILE: &str = "machine.dtb";
/// What the CPUs refer to their cache by. QEMU's own references begin at 0x8000.
const CACHE: u32 = 1;
/// Of the emulated processor, the last level.
const CACHE_LEVEL: u32 = 2;

/// Makes the device tree of `topology` in `dir`.
pub fn make(topology: &Topology, dir: &Path) -> crate::Result<PathBuf> {
    let path = dir.join(FILE);
    qemu::dump_device_tree(topology, &path)?;
    let tree = fs::read(&path).at("reading", &path)?;
    let tree = hybrid(&tree, &topology.capacities()).map_err(|reason| Error::Qemu {
        detail: format!("its device tree: {reason}"),
    })?;
    fs::write(&path, tree).at("writing", &path)?;
    Ok(path)
}

/// `tree` with capacities for its CPUs, and one last-level cache for all of them: without a word
/// about caches each CPU would have its own.
fn hybrid(tree: &[u8], capacities: &[u32]) -> Result<Vec<u8>, String> {
    let fdt = Fdt::new(tree).map_err(|error| error.to_string())?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    if let Some(chosen) = tree.find_node_mut("/chosen") {
        // Drawn anew for each tree; a guest shall depend on its seed alone.
        for seed in ["rng-seed", "kaslr-seed"] {
            chosen.remove_property(seed);
        }
    }
    let cpus = tree.find_node_mut("/cpus").ok_or("it has no CPUs")?;
    for (index, capacity) in capacities.iter().enumerate() {
        let name = format!("cpu@{index}");
        let cpu = cpus.child_mut(&name).ok_or_else(|| format!("no {name}"))?;
        cpu.add_property(property("capacity-dmips-mhz", *capacity)?);
        cpu.add_property(property("next-level-cache", CACHE)?);
    }
    cpus.add_child(cache()?);
    Ok(tree.to_dtb())
}

fn cache() -> Result<DeviceTreeNode, String> {
    let unified = DeviceTreeProperty::new("cache-unified", Vec::<u8>::new());
    let compatible = DeviceTreeProperty::new("compatible", "cache");
    let text = |error: dtoolkit::error::ModelError| error.to_string();
    Ok(DeviceTreeNode::builder("l2-cache")
        .map_err(text)?
        .property(compatible.map_err(text)?)
        .property(property("cache-level", CACHE_LEVEL)?)
        .property(unified.map_err(text)?)
        .property(property("phandle", CACHE)?)
        .build())
}

fn property(name: &str, value: u32) -> Result<DeviceTreeProperty, String> {
    DeviceTreeProperty::new(name, value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use dtoolkit::{Node as _, Property as _};

    use super::*;

    /// A tree like QEMU's, with `cpus` CPUs.
    fn plain(cpus: usize) -> Vec<u8> {
        let mut tree = DeviceTree::new();
        let mut node = DeviceTreeNode::new("cpus").unwrap();
        for index in 0..cpus {
            let mut cpu = DeviceTreeNode::new(format!("cpu@{index}")).unwrap();
            cpu.add_property(property("reg", u32::try_from(index).unwrap()).unwrap());
            node.add_child(cpu);
        }
        tree.root.add_child(node);
        let mut chosen = DeviceTreeNode::new("chosen").unwrap();
        chosen.add_property(property("rng-seed", 7).unwrap());
        chosen.add_property(DeviceTreeProperty::new("stdout-path", "/pl011").unwrap());
        tree.root.add_child(chosen);
        tree.to_dtb()
    }

    #[test]
    fn each_cpu_gets_its_capacity_and_all_share_a_cache() {
        let tree = hybrid(&plain(3), &[1024, 1024, 446]).unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let number = |path: &str, name: &str| {
            let property = fdt.find_node(path)?.property(name)?;
            Some(u32::from_be_bytes(property.value().try_into().ok()?))
        };
        for (index, capacity) in [1024, 1024, 446].into_iter().enumerate() {
            let cpu = format!("/cpus/cpu@{index}");
            assert_eq!(number(&cpu, "capacity-dmips-mhz"), Some(capacity));
            assert_eq!(number(&cpu, "reg"), u32::try_from(index).ok());
            assert_eq!(
                number(&cpu, "next-level-cache"),
                number("/cpus/l2-cache", "phandle")
            );
        }
        assert_eq!(number("/cpus/l2-cache", "cache-level"), Some(2));
    }

    #[test]
    fn nothing_in_it_is_random() {
        let tree = hybrid(&plain(1), &[1024]).unwrap();
        let fdt = Fdt::new(&tree).unwrap();
        let chosen = fdt.find_node("/chosen").unwrap();
        assert!(chosen.property("rng-seed").is_none());
        assert!(chosen.property("stdout-path").is_some());
    }

    #[test]
    fn a_tree_without_the_cpus_is_refused() {
        assert_eq!(hybrid(&plain(1), &[1024, 446]).unwrap_err(), "no cpu@1");
        assert!(hybrid(b"no tree at all", &[1024]).is_err());
    }
}
