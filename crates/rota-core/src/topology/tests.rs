// SPDX-License-Identifier: GPL-2.0-only
//! Topologies of machines nobody has at hand, as trees of files.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A tree of files that stands for `/sys`.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Tree(tempfile::tempdir().unwrap())
    }

    /// A machine with the given lists of possible and online CPUs.
    fn with_cpus(possible: &str, online: &str) -> Self {
        let tree = Tree::new();
        tree.cpus("possible", possible)
            .cpus("present", possible)
            .cpus("online", online)
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn cpus(self, file: &str, list: &str) -> Self {
        self.write(&format!("devices/system/cpu/{file}"), format!("{list}\n"));
        self
    }

    fn node(self, id: usize, list: &str) -> Self {
        self.write(
            &format!("devices/system/node/node{id}/cpulist"),
            format!("{list}\n"),
        );
        self
    }

    /// The cache of one level that the CPUs of `list` share.
    fn cache(self, index: usize, level: u32, kind: &str, list: &str) -> Self {
        for cpu in cpulist::parse(list).unwrap() {
            let dir = format!("devices/system/cpu/cpu{cpu}/cache/index{index}");
            // What QEMU gives CPUs that share a cache: an id each.
            self.write(&format!("{dir}/id"), format!("{cpu}\n"));
            self.write(&format!("{dir}/level"), format!("{level}\n"));
            self.write(&format!("{dir}/type"), format!("{kind}\n"));
            self.write(&format!("{dir}/shared_cpu_list"), format!("{list}\n"));
        }
        self
    }

    fn core(self, list: &str) -> Self {
        self.each(list, "topology/core_cpus_list", list)
    }

    /// The same file for each CPU of a list.
    fn each(self, cpus: &str, file: &str, content: &str) -> Self {
        for cpu in cpulist::parse(cpus).unwrap() {
            self.write(
                &format!("devices/system/cpu/cpu{cpu}/{file}"),
                format!("{content}\n"),
            );
        }
        self
    }

    fn read(&self) -> Result<Topology, Error> {
        Topology::read(self.0.path())
    }

    fn topology(&self) -> Topology {
        self.read().unwrap()
    }
}

/// Two packages with one LLC each, two cores of two threads in each.
fn two_packages() -> Tree {
    Tree::with_cpus("0-7", "0-7")
        .node(0, "0-7")
        .cache(0, 1, "Data", "0")
        .cache(2, 3, "Unified", "0-3")
        .cache(0, 1, "Instruction", "0-7")
        .cache(1, 2, "Unified", "0-1")
        .cache(1, 2, "Unified", "2-3")
        .cache(1, 2, "Unified", "4-5")
        .cache(1, 2, "Unified", "6-7")
        .cache(2, 3, "Unified", "4-7")
        .core("0-1")
        .core("2-3")
        .core("4-5")
        .core("6-7")
}

/// What policies build on, whatever sysfs says.
fn assert_sound(topology: &Topology) {
    assert!(topology.online().count() > 0);
    let mut in_cores = 0;
    for cpu in topology.online() {
        let llc = &topology.llcs[cpu.llc];
        assert!(llc.cpus.contains(&cpu.id));
        assert_eq!(llc.node, cpu.node);
        assert!(topology.nodes[cpu.node].cpus.contains(&cpu.id));
        assert!(topology.cores[cpu.core].contains(&cpu.id));
        assert!((1..=MAX_CAPACITY).contains(&cpu.capacity));
        assert!(cpu.id < MAX_CPUS);
    }
    for core in &topology.cores {
        in_cores += core.len();
        let llc = |id: &usize| topology.cpus.iter().find(|cpu| cpu.id == *id).unwrap().llc;
        assert!(core.iter().all(|id| llc(id) == llc(&core[0])));
    }
    assert_eq!(in_cores, topology.online().count());
    let in_llcs: usize = topology.llcs.iter().map(|llc| llc.cpus.len()).sum();
    assert_eq!(in_llcs, in_cores);
    assert!(topology.cpus.is_sorted_by_key(|cpu| cpu.id));
}

#[test]
fn the_count_of_hotplug_events_goes_with_the_machine() {
    let tree = Tree::with_cpus("0-3", "0-3");
    assert_eq!(tree.topology().hotplug_seq, 0);
    tree.write("kernel/sched_ext/hotplug_seq", "18\n");
    assert_eq!(tree.topology().hotplug_seq, 18);
}

#[test]
fn llcs_are_grouped_by_their_cpus() {
    let topology = two_packages().topology();
    assert_eq!(
        topology.to_string(),
        "8 CPUs, 4 cores (SMT 2), 2 LLCs, 1 node"
    );
    assert_eq!(
        topology.llcs[1],
        Llc {
            node: 0,
            cpus: vec![4, 5, 6, 7]
        }
    );
    assert_eq!(topology.cores[2], [4, 5]);
    assert_eq!(topology.warnings, [""; 0]);
    assert_sound(&topology);
}

#[test]
fn the_machine_that_runs_the_test_is_read() {
    let topology = Topology::read(Path::new("/sys")).unwrap();
    assert_sound(&topology);
    let here = std::thread::available_parallelism().unwrap().get();
    assert!(topology.online().count() >= here);
}

#[test]
fn nodes_are_dense_and_those_without_cpus_left_out() {
    let tree = Tree::with_cpus("0-3", "0-3")
        .node(0, "2-3")
        .node(1, "")
        .node(4, "0-1")
        .cache(0, 3, "Unified", "0-1")
        .cache(0, 3, "Unified", "2-3");
    let topology = tree.topology();
    assert_eq!(
        topology.nodes[0],
        Node {
            id: 4,
            cpus: vec![0, 1]
        }
    );
    assert_eq!(
        topology.nodes[1],
        Node {
            id: 0,
            cpus: vec![2, 3]
        }
    );
    assert_eq!(topology.cpus[2].node, 1);
    assert_sound(&topology);
}

#[test]
fn an_llc_that_spans_nodes_is_split() {
    let tree = two_packages().node(0, "0-1,4-7").node(1, "2-3");
    let topology = tree.topology();
    let llcs: Vec<_> = topology
        .llcs
        .iter()
        .map(|llc| cpulist::format(&llc.cpus))
        .collect();
    assert_eq!(llcs, ["0-1", "2-3", "4-7"]);
    assert_sound(&topology);
}

#[test]
fn offline_and_sparse_cpus_are_no_members() {
    // CPUs 2 and 9 are offline: the kernel removes their directories.
    let tree = Tree::with_cpus("0,2,4,9-1030", "0,4")
        .node(0, "0,4")
        .cache(0, 3, "Unified", "0,4");
    let topology = tree.topology();
    assert_eq!(topology.llcs[0].cpus, [0, 4]);
    assert_eq!(topology.nr_cpu_ids(), MAX_CPUS);
    assert!(
        topology.to_string().ends_with(", 1016 offline"),
        "{topology}"
    );
    assert_eq!(topology.summary().offline, "2,9-1023");
    assert_sound(&topology);
}

#[test]
fn capacities_are_scaled_to_the_strongest() {
    let tree = two_packages()
        .each("0-3", "cpu_capacity", "512")
        .each("4-7", "cpu_capacity", "223");
    let topology = tree.topology();
    assert_eq!(topology.cpus[0].capacity, MAX_CAPACITY);
    assert_eq!(topology.cpus[7].capacity, 446);
    assert_eq!((topology.capacity(7), topology.capacity(8)), (446, 0));
    assert!(topology.to_string().ends_with("capacities 446 to 1024"));
}

#[test]
fn without_caches_each_package_is_an_llc() {
    let tree = Tree::with_cpus("0-3", "0-3")
        .each("0-1", "topology/package_cpus_list", "0-1")
        .each("2-3", "topology/package_cpus_list", "2-3");
    let topology = tree.topology();
    assert_eq!(topology.llcs.len(), 2);
    assert!(
        topology.warnings[0].contains("one per package"),
        "{:?}",
        topology.warnings
    );
    assert_sound(&topology);
}

#[test]
fn without_anything_there_is_one_llc() {
    let topology = Tree::with_cpus("0-3", "0-3").topology();
    assert_eq!(topology.to_string(), "4 CPUs, 4 cores, 1 LLC, 1 node");
    assert_eq!(topology.warnings.len(), 1);
    assert_sound(&topology);
}

#[test]
fn lists_that_contradict_each_other_still_partition() {
    let tree = Tree::with_cpus("0-3", "0-3")
        .cache(0, 3, "Unified", "0-3")
        .each("0", "cache/index0/shared_cpu_list", "0-1")
        .each("1", "cache/index0/shared_cpu_list", "1-3")
        .each("3", "cache/index0/shared_cpu_list", "7");
    assert_sound(&tree.topology());
}

#[test]
fn garbled_files_leave_a_warning() {
    let tree = two_packages();
    tree.write(
        "devices/system/cpu/cpu0/cache/index2/shared_cpu_list",
        b"\xff\xfe",
    );
    tree.write("devices/system/cpu/cpu4/topology/core_cpus_list", "none");
    tree.write("devices/system/cpu/cpu6/cpu_capacity", "-5");
    let topology = tree.topology();
    assert_eq!(topology.warnings.len(), 3, "{:?}", topology.warnings);
    assert_sound(&topology);
}

#[test]
fn without_lists_the_directories_count() {
    let tree = Tree::new().each("0-2", "topology/physical_package_id", "0");
    let topology = tree.topology();
    assert_eq!(topology.online().count(), 3);
    assert_sound(&topology);
}

#[test]
fn a_machine_without_cpus_is_refused() {
    assert!(matches!(Tree::new().read(), Err(Error::Topology(_))));
    assert!(matches!(
        Topology::read(Path::new("/nonexistent")),
        Err(Error::Topology(_))
    ));
}

#[test]
fn a_machine_too_large_is_refused() {
    let error = Tree::with_cpus("0-4095", "0-2047").read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "this machine has an online CPU with the number 2047, the limit is 1023"
    );
    let mut tree = Tree::with_cpus("0-299", "0-299");
    for cpu in 0..300 {
        tree = tree.cache(0, 3, "Unified", &cpu.to_string());
    }
    let error = tree.read().unwrap_err();
    assert_eq!(
        error.to_string(),
        "this machine has 300 LLCs, the limit is 256"
    );
    assert_eq!(error.exit_code(), crate::error::EXIT_UNABLE);
}

#[test]
fn the_limits_are_those_of_the_shared_header() {
    let header = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../bpf-common/include/rota/topology.h"
    );
    let header = fs::read_to_string(header).unwrap();
    for (name, limit) in [("CPUS", MAX_CPUS), ("LLCS", MAX_LLCS), ("NODES", MAX_NODES)] {
        let line = header
            .lines()
            .find(|line| line.starts_with(&format!("#define MAX_{name}")));
        let value = line.unwrap().split_whitespace().last().unwrap();
        assert_eq!(value, limit.to_string());
    }
}

/// Files the fuzzer puts anything into.
const FILES: &[&str] = &[
    "devices/system/cpu/possible",
    "devices/system/cpu/present",
    "devices/system/cpu/online",
    "devices/system/node/node0/cpulist",
    "devices/system/node/node3/cpulist",
    "devices/system/cpu/cpu0/cache/index0/level",
    "devices/system/cpu/cpu0/cache/index0/type",
    "devices/system/cpu/cpu0/cache/index0/shared_cpu_list",
    "devices/system/cpu/cpu1/cache/index0/level",
    "devices/system/cpu/cpu1/cache/index0/shared_cpu_list",
    "devices/system/cpu/cpu1/topology/core_cpus_list",
    "devices/system/cpu/cpu1/topology/thread_siblings_list",
    "devices/system/cpu/cpu2/topology/package_cpus_list",
    "devices/system/cpu/cpu2/cpu_capacity",
    "devices/system/cpu/cpu3/cpu_capacity",
];

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,2}(-[0-9]{1,2})?){0,3}\n?".prop_map(String::into_bytes),
        "[0-7]-[0-7]\n".prop_map(String::into_bytes),
        "(Unified|Data|Instruction|3|0|)\n".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..24),
        Just(b"0-4294967295\n".to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn no_tree_breaks_what_policies_build_on(
        changes in prop::collection::vec((0..FILES.len(), prop::option::of(content())), 0..10),
    ) {
        let tree = two_packages();
        for (file, content) in changes {
            match content {
                Some(content) => tree.write(FILES[file], content),
                None => drop(fs::remove_file(tree.0.path().join(FILES[file]))),
            }
        }
        if let Ok(topology) = tree.read() {
            assert_sound(&topology);
        }
    }
}

/// The order in which CPUs are taken.
fn ranks(topology: &Topology, merit: Merit, fill: Fill) -> Vec<usize> {
    let ranking = topology.ranking(merit, fill);
    let mut sorted = ranking.clone();
    sorted.sort_unstable();
    let online: Vec<usize> = topology.online().map(|cpu| cpu.id).collect();
    assert_eq!(sorted, online, "each online CPU has one rank");
    ranking
}

/// Goal: a policy that wants few CPUs takes the right ones, on machines whose CPUs differ.
/// Method: a table of machines, and the order that a person who knows them would choose.
#[test]
fn the_best_cpus_come_first() {
    let big_little = Tree::with_cpus("0-7", "0-7")
        .node(0, "0-7")
        .cache(0, 3, "Unified", "0-7")
        .each("0-3", "cpu_capacity", "446")
        .each("4-6", "cpu_capacity", "871")
        .each("7", "cpu_capacity", "1024");
    // Two P cores with two threads each, of which the second is preferred; four E cores.
    let hybrid = Tree::with_cpus("0-7", "0-7")
        .node(0, "0-7")
        .cache(0, 3, "Unified", "0-7")
        .core("0-1")
        .core("2-3")
        .each("0-3", "cpu_capacity", "1024")
        .each("4-7", "cpu_capacity", "650")
        .each("0-1", "acpi_cppc/highest_perf", "68")
        .each("2-3", "acpi_cppc/highest_perf", "71")
        .each("4-7", "acpi_cppc/highest_perf", "42");
    // Two core complexes; the best cores are 5 and 6 of the second.
    let prefcore = Tree::with_cpus("0-7", "0-7")
        .node(0, "0-7")
        .cache(0, 3, "Unified", "0-3")
        .cache(0, 3, "Unified", "4-7")
        .each("0-7", "acpi_cppc/highest_perf", "255")
        .each("0-3", "cpufreq/amd_pstate_prefcore_ranking", "196")
        .each("4", "cpufreq/amd_pstate_prefcore_ranking", "206")
        .each("5", "cpufreq/amd_pstate_prefcore_ranking", "236")
        .each("6", "cpufreq/amd_pstate_prefcore_ranking", "231")
        .each("7", "cpufreq/amd_pstate_prefcore_ranking", "201");
    // The fastest CPU is on node 1, whose other LLC comes before those of node 0.
    let nodes = Tree::with_cpus("0-7", "0-7")
        .node(0, "0-3")
        .node(1, "4-7")
        .cache(0, 3, "Unified", "0-1")
        .cache(0, 3, "Unified", "2-3")
        .cache(0, 3, "Unified", "4-5")
        .cache(0, 3, "Unified", "6-7")
        .each("0-6", "cpufreq/cpuinfo_max_freq", "3000000")
        .each("7", "cpufreq/cpuinfo_max_freq", "3600000");
    use Fill::{Cores, Threads};
    use Merit::{Efficiency, Performance};
    let table = [
        (&big_little, Performance, Cores, [7, 4, 5, 6, 0, 1, 2, 3]),
        (&big_little, Efficiency, Cores, [0, 1, 2, 3, 4, 5, 6, 7]),
        (&hybrid, Performance, Cores, [2, 0, 4, 5, 6, 7, 3, 1]),
        (&hybrid, Performance, Threads, [2, 3, 0, 1, 4, 5, 6, 7]),
        (&hybrid, Efficiency, Cores, [4, 5, 6, 7, 0, 2, 1, 3]),
        (&prefcore, Performance, Cores, [5, 6, 4, 7, 0, 1, 2, 3]),
        (&prefcore, Efficiency, Cores, [0, 1, 2, 3, 7, 4, 6, 5]),
        (&nodes, Performance, Cores, [7, 6, 4, 5, 0, 1, 2, 3]),
    ];
    for (tree, merit, fill, expected) in table {
        let topology = tree.topology();
        assert_eq!(topology.warnings, [""; 0]);
        assert_eq!(
            ranks(&topology, merit, fill),
            expected,
            "{topology}, {merit:?}, {fill:?}"
        );
    }
    // Equal CPUs: an LLC is filled before the next, second threads last in each.
    let equal = two_packages().topology();
    assert_eq!(ranks(&equal, Performance, Cores), [0, 2, 1, 3, 4, 6, 5, 7]);
    assert_eq!(
        ranks(&equal, Performance, Threads),
        [0, 1, 2, 3, 4, 5, 6, 7]
    );
}

#[test]
fn what_only_some_cpus_tell_is_no_preference() {
    let tree = two_packages()
        .each("0-6", "cpufreq/amd_pstate_prefcore_ranking", "200")
        .each("0-7", "cpufreq/cpuinfo_max_freq", "3000000")
        .each("3", "cpufreq/cpuinfo_max_freq", "3600000");
    let topology = tree.topology();
    assert_eq!(topology.cpus[0].preference, 3_000_000);
    assert_eq!(ranks(&topology, Merit::Performance, Fill::Cores)[0], 2);
    tree.write("devices/system/cpu/cpu5/cpufreq/cpuinfo_max_freq", "fast");
    let topology = tree.topology();
    assert!(topology.cpus.iter().all(|cpu| cpu.preference == 0));
    assert!(topology.warnings[0].ends_with("cpu5/cpufreq/cpuinfo_max_freq is garbled"));
}

#[test]
fn only_schedutil_takes_requests() {
    let tree = two_packages();
    assert!(!tree.topology().takes_requests);
    let tree = tree.each("0-7", "cpufreq/scaling_governor", "performance");
    assert!(!tree.topology().takes_requests);
    let tree = tree.each("4-7", "cpufreq/scaling_governor", "schedutil");
    assert!(tree.topology().takes_requests);
}

#[test]
fn a_machine_that_has_changed_is_told_from_one_that_has_not() {
    let tree = two_packages();
    let topology = tree.topology();
    assert!(topology.is_current(tree.0.path()));
    tree.write("devices/system/cpu/online", "0-6\n");
    assert!(!topology.is_current(tree.0.path()));
    assert!(topology.is_current(Path::new("/nonexistent")));
}
