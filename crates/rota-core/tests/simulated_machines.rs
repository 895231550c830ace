// SPDX-License-Identifier: GPL-2.0-only
//! Goal: a scheduler sees a machine of the simulator as what it is. Method: the simulator writes the
//! files that the machine would have under /sys, and they are read as those of a real one.

use std::collections::BTreeSet;

use rota_core::topology::Topology;
use rota_sim::kernel_api::CpuMask;
use rota_sim::machine::Machine;
use rota_sim::sysfs;

const MACHINES: [&str; 8] = [
    "1x1x1",
    "1x4x1",
    "2x2x2",
    "1x2x4x1-2",
    "numa:2x2x2x2-3",
    "hybrid:2+4",
    "8x16x2",
    "numa:4x4x32x2",
];

/// Groups of CPUs, whatever their order.
fn groups<'a>(masks: impl Iterator<Item = &'a CpuMask>, online: &CpuMask) -> BTreeSet<Vec<usize>> {
    let cpus = |mask: &CpuMask| mask.and(online).iter().map(|cpu| cpu as usize).collect();
    masks
        .map(cpus)
        .filter(|cpus: &Vec<usize>| !cpus.is_empty())
        .collect()
}

#[test]
fn a_scheduler_sees_what_the_simulator_has() {
    for name in MACHINES {
        let machine: Machine = name.parse().expect("it is a name");
        let dir = tempfile::tempdir().expect("there is room for a directory");
        sysfs::write(&machine, dir.path()).expect("there is room for a few files");
        let topology = Topology::read(dir.path()).expect("it is a machine");

        assert_eq!(topology.warnings, Vec::<String>::new(), "{name}");
        let online = machine.online();
        assert_eq!(
            topology.nr_cpu_ids(),
            machine.nr_cpu_ids() as usize,
            "{name}"
        );
        let seen: Vec<usize> = topology.online().map(|cpu| cpu.id).collect();
        let there: Vec<usize> = online.iter().map(|cpu| cpu as usize).collect();
        assert_eq!(seen, there, "{name}");
        for cpu in online.iter() {
            assert_eq!(
                topology.capacity(cpu as usize),
                machine.capacity(cpu),
                "{name} {cpu}"
            );
        }
        let seen: BTreeSet<Vec<usize>> = topology.llcs.iter().map(|llc| llc.cpus.clone()).collect();
        assert_eq!(seen, groups(machine.llcs().iter(), &online), "{name}");
        let seen: BTreeSet<Vec<usize>> = topology
            .nodes
            .iter()
            .map(|node| node.cpus.clone())
            .collect();
        assert_eq!(seen, groups(machine.nodes().iter(), &online), "{name}");
        let seen: BTreeSet<Vec<usize>> = topology.cores.iter().cloned().collect();
        let cores = online.iter().map(|cpu| machine.siblings(cpu));
        assert_eq!(seen, groups(cores, &online), "{name}");
    }
}
