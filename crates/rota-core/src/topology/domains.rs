// SPDX-License-Identifier: GPL-2.0-only
//! Which CPUs are scheduled together.
//!
//! By default those of an LLC are a domain. A user may want others, larger or
//! smaller; a policy sees them as the LLCs of a [`Topology`]. A domain in turn
//! is divided into shards where one queue would have to serve too many CPUs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use anyhow::anyhow;

use super::sysfs::{Partition, Reader};
use super::{Llc, Topology, cpulist};
use crate::error::Error;

/// Shards that the tables shared with BPF have room for (`rota/shard.h`).
pub const MAX_SHARDS: usize = 256;

/// The most CPUs that one queue serves without its lock being felt.
const MAX_SHARD_CPUS: usize = 32;

/// What makes CPUs belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domains {
    /// A level-2 cache.
    L2,
    /// The last-level cache.
    L3,
    /// The NUMA node.
    Node,
    /// Being in one of these lists.
    Lists(Vec<Vec<usize>>),
}

impl FromStr for Domains {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "l2" => return Ok(Domains::L2),
            "l3" => return Ok(Domains::L3),
            "node" => return Ok(Domains::Node),
            _ => {}
        }
        let lists: Result<Vec<_>, String> = text.split('/').map(list).collect();
        let lists = lists.map_err(|problem| {
            format!("{problem}: domains are l2, l3, node, or lists of CPUs like 0-3/4-7")
        })?;
        Ok(Domains::Lists(lists))
    }
}

fn list(text: &str) -> Result<Vec<usize>, String> {
    let cpus = cpulist::parse(text)?;
    if cpus.is_empty() {
        return Err("a list is empty".into());
    }
    Ok(cpus)
}

impl fmt::Display for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domains::L2 => f.write_str("l2"),
            Domains::L3 => f.write_str("l3"),
            Domains::Node => f.write_str("node"),
            Domains::Lists(lists) => {
                let lists: Vec<String> = lists.iter().map(|cpus| cpulist::format(cpus)).collect();
                f.write_str(&lists.join("/"))
            }
        }
    }
}

/// CPUs of an LLC that share a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Index of the LLC.
    pub llc: usize,
    /// Its online CPUs, sorted, never empty.
    pub cpus: Vec<usize>,
}

impl Topology {
    /// The same machine with other domains in place of its LLCs, numbered by
    /// their lowest CPU. `sysfs` is where it was read from.
    ///
    /// A list of CPUs may span nodes, at the user's risk: its node is that of
    /// its lowest CPU, while each CPU keeps its own.
    ///
    /// # Errors
    /// The lists do not divide the online CPUs, or divide a core; there are
    /// more domains than policies have room for.
    pub fn regroup(&self, domains: &Domains, sysfs: &Path) -> Result<Self, Error> {
        let mut topology = self.clone();
        let groups = match domains {
            Domains::L3 => return Ok(topology),
            Domains::Node => self.nodes.iter().map(|node| node.cpus.clone()).collect(),
            Domains::L2 => {
                let (groups, warnings) = self.level_2_caches(sysfs);
                topology.warnings.extend(warnings);
                groups
            }
            Domains::Lists(lists) => {
                let groups = self.divide(lists).map_err(Error::Options)?;
                topology.warnings.extend(self.foreign_cpus(lists));
                groups
            }
        };
        topology.set_llcs(groups);
        topology.check_limits()?;
        Ok(topology)
    }

    /// Makes `groups`, which hold every online CPU once, the LLCs.
    fn set_llcs(&mut self, mut groups: Vec<Vec<usize>>) {
        groups.sort_unstable();
        let of: BTreeMap<usize, usize> = (groups.iter().enumerate())
            .flat_map(|(llc, cpus)| cpus.iter().map(move |&cpu| (cpu, llc)))
            .collect();
        let nodes: BTreeMap<usize, usize> = self.online().map(|cpu| (cpu.id, cpu.node)).collect();
        for cpu in self.cpus.iter_mut().filter(|cpu| cpu.online) {
            cpu.llc = of[&cpu.id];
        }
        self.llcs = (groups.into_iter())
            .map(|cpus| Llc {
                node: nodes[&cpus[0]],
                cpus,
            })
            .collect();
    }

    /// The CPUs that share a level-2 cache, by whole cores and within an LLC;
    /// a core without one is alone.
    fn level_2_caches(&self, sysfs: &Path) -> (Vec<Vec<usize>>, Vec<String>) {
        let mut reader = Reader::new(sysfs);
        let online: Vec<usize> = self.online().map(|cpu| cpu.id).collect();
        let places: BTreeMap<usize, (usize, usize)> = self
            .online()
            .map(|cpu| (cpu.id, (cpu.core, cpu.llc)))
            .collect();
        let mut bare = Vec::new();
        let partition = Partition::new(&online, |cpu| {
            let (_, llc) = places[&cpu];
            let shared = match reader.cache(cpu, 2) {
                Some((2, shared)) => shared,
                _ => {
                    bare.push(cpu);
                    Vec::new()
                }
            };
            (shared.iter().chain([&cpu]))
                .filter_map(|mate| places.get(mate))
                .filter(|place| place.1 == llc)
                .flat_map(|&(core, _)| self.cores[core].clone())
                .collect()
        });
        let mut warnings = reader.warnings;
        if !bare.is_empty() {
            warnings.push(format!(
                "sysfs does not tell the level-2 caches of CPUs {}: assumed one per core",
                cpulist::format(&bare)
            ));
        }
        (partition.members, warnings)
    }

    /// The online CPUs of each list that has any.
    fn divide(&self, lists: &[Vec<usize>]) -> anyhow::Result<Vec<Vec<usize>>> {
        let mut groups = Vec::new();
        let mut of: BTreeMap<usize, usize> = BTreeMap::new();
        for list in lists {
            let mut members = Vec::new();
            for cpu in self.online().filter(|cpu| list.contains(&cpu.id)) {
                if of.insert(cpu.id, groups.len()).is_some() {
                    return Err(anyhow!(
                        "CPU {} is in two domains: leave it in one list",
                        cpu.id
                    ));
                }
                members.push(cpu.id);
            }
            if !members.is_empty() {
                groups.push(members);
            }
        }
        if let Some(cpu) = self.online().find(|cpu| !of.contains_key(&cpu.id)) {
            return Err(anyhow!("CPU {} is in no domain: add it to a list", cpu.id));
        }
        let divided = |core: &&Vec<usize>| core.iter().any(|cpu| of[cpu] != of[&core[0]]);
        if let Some(core) = self.cores.iter().find(divided) {
            return Err(anyhow!(
                "CPUs {} are one core, but in different domains: put them in one list",
                cpulist::format(core)
            ));
        }
        Ok(groups)
    }

    /// A warning about CPUs that this machine can never have: one that is
    /// offline belongs in a list, but these may be a mistake.
    fn foreign_cpus(&self, lists: &[Vec<usize>]) -> Option<String> {
        let mut foreign: Vec<usize> = lists.iter().flatten().copied().collect();
        foreign.retain(|id| self.cpus.binary_search_by_key(id, |cpu| cpu.id).is_err());
        foreign.sort_unstable();
        foreign.dedup();
        let list = cpulist::format(&foreign);
        (!foreign.is_empty())
            .then(|| format!("the domains name CPUs {list}, which this machine has not"))
    }

    /// Divides each LLC into the fewest shards of at most `max_cpus` CPUs, of
    /// nearly equal size and by whole cores where that is possible. They are
    /// in the order of the LLCs; the caller checks that there are no more than
    /// [`MAX_SHARDS`].
    pub fn shards(&self, max_cpus: usize) -> Vec<Shard> {
        let max_cpus = max_cpus.max(1);
        let core_of: BTreeMap<usize, usize> = self.online().map(|c| (c.id, c.core)).collect();
        let mut shards = Vec::new();
        for (llc, Llc { cpus, .. }) in self.llcs.iter().enumerate() {
            let mut by_core = cpus.clone();
            by_core.sort_by_key(|cpu| (core_of.get(cpu), *cpu));
            let mut rest = &by_core[..];
            for left in (1..=cpus.len().div_ceil(max_cpus)).rev() {
                let is_between_cores =
                    |at: usize| at == rest.len() || core_of[&rest[at]] != core_of[&rest[at - 1]];
                let (shard, others) =
                    rest.split_at(cut(rest.len(), left, max_cpus, is_between_cores));
                let mut cpus = shard.to_vec();
                cpus.sort_unstable();
                shards.push(Shard { llc, cpus });
                rest = others;
            }
        }
        shards
    }

    /// The size of shards for [`Topology::shards`] when nobody chose one: up to
    /// about 32 CPUs use a queue's lock without waiting for each other, and
    /// below that the fewest shards of equal size for the largest LLC.
    pub fn default_shard_cpus(&self) -> usize {
        let largest = self.llcs.iter().map(|llc| llc.cpus.len()).max();
        let largest = largest.unwrap_or(1).max(1);
        let even = largest.div_ceil(largest.div_ceil(MAX_SHARD_CPUS));
        // A size that divides a core divides one in every shard.
        even.next_multiple_of(self.smt().max(1)).min(MAX_SHARD_CPUS)
    }
}

/// Where to cut the first of `shards` off `cpus` CPUs, so that the others can
/// hold the rest: as near to an equal part as goes, rather between cores.
fn cut(
    cpus: usize,
    shards: usize,
    max_cpus: usize,
    between_cores: impl Fn(usize) -> bool,
) -> usize {
    let others = shards - 1;
    let least = cpus.saturating_sub(others * max_cpus).max(1);
    let most = max_cpus.min(cpus - others);
    // Multiplied by the number of shards, to compare fractions.
    let off = |at: &usize| (at * shards).abs_diff(cpus);
    (least..=most)
        .min_by_key(|at| (!between_cores(*at), off(at)))
        .expect("the shards hold all CPUs, each at least one")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::topology::{Cpu, MAX_CAPACITY, Node};

    /// A machine of the given nodes, each a list of LLCs, with cores of
    /// `threads` CPUs that have consecutive numbers, and the offline CPUs.
    fn machine(nodes: &[&[&str]], threads: usize, offline: &str) -> Topology {
        let parse = |list: &str| cpulist::parse(list).unwrap();
        let mut topology = Topology {
            cpus: Vec::new(),
            cores: Vec::new(),
            llcs: Vec::new(),
            nodes: Vec::new(),
            hotplug_seq: 0,
            takes_requests: false,
            warnings: Vec::new(),
        };
        let cpu = |id, online, core, llc, node| Cpu {
            id,
            online,
            core,
            llc,
            node,
            capacity: MAX_CAPACITY,
            preference: 0,
        };
        for (node, llcs) in nodes.iter().enumerate() {
            let mut all = Vec::new();
            for (llc, list) in (topology.llcs.len()..).zip(*llcs) {
                let cpus = parse(list);
                for core in cpus.chunks(threads) {
                    let index = topology.cores.len();
                    let members = core.iter().map(|&id| cpu(id, true, index, llc, node));
                    topology.cpus.extend(members);
                    topology.cores.push(core.to_vec());
                }
                all.extend(&cpus);
                topology.llcs.push(Llc { node, cpus });
            }
            topology.nodes.push(Node {
                id: node,
                cpus: all,
            });
        }
        let gone = parse(offline).into_iter().map(|id| cpu(id, false, 0, 0, 0));
        topology.cpus.extend(gone);
        topology.cpus.sort_by_key(|cpu| cpu.id);
        topology
    }

    /// Two nodes of two LLCs with 4 CPUs each; CPUs 16 to 17 are offline.
    fn two_nodes() -> Topology {
        machine(&[&["0-3", "4-7"], &["8-11", "12-15"]], 2, "16-17")
    }

    fn regroup(topology: &Topology, domains: &str) -> Result<Topology, Error> {
        topology.regroup(&domains.parse().unwrap(), Path::new("/nonexistent"))
    }

    fn llcs(topology: &Topology) -> Vec<String> {
        let llcs = topology.llcs.iter();
        llcs.map(|llc| cpulist::format(&llc.cpus)).collect()
    }

    /// Every online CPU is in the LLC it names, and in no other.
    fn assert_divided(topology: &Topology) {
        for cpu in topology.online() {
            let holds = |llc: &Llc| llc.cpus.contains(&cpu.id);
            assert_eq!(topology.llcs.iter().position(holds), Some(cpu.llc));
            assert_eq!(topology.llcs.iter().filter(|llc| holds(llc)).count(), 1);
        }
        for core in &topology.cores {
            let llc = |id: &usize| topology.cpus.iter().find(|cpu| cpu.id == *id).unwrap().llc;
            assert!(core.iter().all(|id| llc(id) == llc(&core[0])));
        }
    }

    #[test]
    fn domains_are_written_as_they_are_read() {
        for text in ["l2", "l3", "node", "0-3/4-7", "0-3,8,10/5"] {
            let domains: Domains = text.parse().unwrap();
            assert_eq!(domains.to_string(), text);
        }
        let lists = Domains::Lists(vec![vec![0, 1, 2], vec![3]]);
        assert_eq!("2,0-1 / 3".parse(), Ok(lists));
    }

    #[test]
    fn garbled_domains_are_refused() {
        for garbage in [
            "", "/", "0-3/", "0-3//4", "l4", "L2", "3-1", "0-3;4-7", "-1",
        ] {
            let error = garbage.parse::<Domains>().unwrap_err();
            assert!(error.ends_with("lists of CPUs like 0-3/4-7"), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn the_last_level_cache_and_the_node_are_known() {
        let topology = two_nodes();
        assert_eq!(regroup(&topology, "l3").unwrap(), topology);
        let by_node = regroup(&topology, "node").unwrap();
        assert_eq!(llcs(&by_node), ["0-7", "8-15"]);
        assert_eq!(by_node.llcs[1].node, 1);
        assert_divided(&by_node);
    }

    #[test]
    fn lists_are_numbered_by_their_lowest_cpu() {
        // 16 is offline, and a list of such CPUs alone is no domain.
        let lists = regroup(&two_nodes(), "12-15,16/4-11/0-3/17").unwrap();
        assert_eq!(llcs(&lists), ["0-3", "4-11", "12-15"]);
        let nodes: Vec<usize> = lists.llcs.iter().map(|llc| llc.node).collect();
        assert_eq!(nodes, [0, 0, 1]);
        assert_eq!(lists.cpus[8].node, 1);
        assert_eq!(lists.warnings, [""; 0]);
        assert_divided(&lists);
    }

    #[test]
    fn lists_that_do_not_divide_the_machine_are_refused() {
        for (lists, problem) in [
            ("0-7/8-14", "CPU 15 is in no domain: add it to a list"),
            ("0-7/7-15", "CPU 7 is in two domains: leave it in one list"),
            (
                "0-2/3-15",
                "CPUs 2-3 are one core, but in different domains: put them in one list",
            ),
            ("16-17", "CPU 0 is in no domain: add it to a list"),
        ] {
            let error = regroup(&two_nodes(), lists).unwrap_err();
            assert_eq!(error.to_string(), problem);
            assert_eq!(error.exit_code(), crate::error::EXIT_USAGE);
        }
    }

    #[test]
    fn cpus_that_cannot_come_leave_a_warning() {
        let topology = regroup(&two_nodes(), "0-31/64").unwrap();
        assert_eq!(llcs(&topology), ["0-15"]);
        let warning = "the domains name CPUs 18-31,64, which this machine has not";
        assert_eq!(topology.warnings, [warning]);
    }

    #[test]
    fn too_many_domains_are_refused() {
        let topology = machine(&[&["0-299"]], 1, "");
        let lists: Vec<String> = (0..300).map(|cpu| cpu.to_string()).collect();
        let error = regroup(&topology, &lists.join("/")).unwrap_err();
        assert!(
            matches!(error, Error::TooLarge { limit: 256, .. }),
            "{error}"
        );
    }

    /// The level-2 caches in a tree that stands for `/sys`.
    fn level_2(caches: &[&str]) -> TempDir {
        let sysfs = tempfile::tempdir().unwrap();
        for list in caches {
            for cpu in cpulist::parse(list).unwrap() {
                let cpu = sysfs.path().join(format!("devices/system/cpu/cpu{cpu}"));
                for (level, list) in [(1, "0-99"), (2, list), (3, "0-99")] {
                    let dir = cpu.join(format!("cache/index{level}"));
                    fs::create_dir_all(&dir).unwrap();
                    fs::write(dir.join("level"), format!("{level}\n")).unwrap();
                    fs::write(dir.join("type"), "Unified\n").unwrap();
                    fs::write(dir.join("shared_cpu_list"), format!("{list}\n")).unwrap();
                }
                fs::rename(cpu.join("cache/index1"), cpu.join("cache/index0")).unwrap();
                fs::rename(cpu.join("cache/index2"), cpu.join("cache/index1")).unwrap();
                fs::rename(cpu.join("cache/index3"), cpu.join("cache/index2")).unwrap();
            }
        }
        sysfs
    }

    #[test]
    fn level_2_caches_are_read() {
        let sysfs = level_2(&["0-3", "4-5", "6-7", "8-11", "12-15"]);
        let topology = two_nodes().regroup(&Domains::L2, sysfs.path()).unwrap();
        assert_eq!(llcs(&topology), ["0-3", "4-5", "6-7", "8-11", "12-15"]);
        assert_eq!(topology.llcs[3].node, 1);
        assert_eq!(topology.warnings, [""; 0]);
        assert_divided(&topology);
    }

    #[test]
    fn without_level_2_caches_each_core_is_a_domain() {
        let topology = regroup(&two_nodes(), "l2").unwrap();
        assert_eq!(topology.llcs.len(), 8);
        assert_eq!(topology.llcs[7].cpus, [14, 15]);
        assert!(
            topology.warnings[0].contains("CPUs 0,2,4,6,8"),
            "{:?}",
            topology.warnings
        );
        assert_divided(&topology);
    }

    #[test]
    fn level_2_caches_that_contradict_the_rest_still_divide() {
        // Half a core, beyond the LLC, and a CPU that there is not.
        let sysfs = level_2(&["0", "1-5", "6-9,40", "10-15"]);
        let topology = two_nodes().regroup(&Domains::L2, sysfs.path()).unwrap();
        assert_eq!(
            llcs(&topology),
            ["0-1", "2-3", "4-5", "6-7", "8-9", "10-11", "12-15"]
        );
        assert_divided(&topology);
    }

    fn shards(topology: &Topology, max_cpus: usize) -> Vec<(usize, String)> {
        let shards = topology.shards(max_cpus).into_iter();
        shards
            .map(|shard| (shard.llc, cpulist::format(&shard.cpus)))
            .collect()
    }

    #[test]
    fn llcs_are_divided_into_even_shards() {
        let topology = machine(&[&["0-47", "48-63"]], 1, "");
        let expected = [(0, "0-23"), (0, "24-47"), (1, "48-63")];
        assert_eq!(
            shards(&topology, 32),
            expected.map(|(llc, cpus)| (llc, cpus.into()))
        );
        assert_eq!(topology.default_shard_cpus(), 24);
        assert_eq!(shards(&topology, 64).len(), 2);
        assert_eq!(shards(&topology, 0).len(), 64);
    }

    #[test]
    fn shards_keep_cores_whole_where_they_can() {
        let expected = |shards: &[&str]| -> Vec<(usize, String)> {
            shards.iter().map(|cpus| (0, cpus.to_string())).collect()
        };
        let topology = machine(&[&["0-9"]], 2, "");
        assert_eq!(shards(&topology, 6), expected(&["0-3", "4-9"]));
        assert_eq!(shards(&topology, 4), expected(&["0-3", "4-5", "6-9"]));
        // Two shards hold all only if one core is divided.
        assert_eq!(shards(&topology, 5), expected(&["0-4", "5-9"]));

        // Siblings as most firmware numbers them.
        let mut far = machine(&[&["0-7"]], 2, "");
        far.cores = (0..4).map(|core| vec![core, core + 4]).collect();
        far.cpus.iter_mut().for_each(|cpu| cpu.core = cpu.id % 4);
        assert_eq!(shards(&far, 4), expected(&["0-1,4-5", "2-3,6-7"]));
    }

    #[test]
    fn the_default_size_of_shards_is_even() {
        for (cpus, threads, size) in [
            (1, 1, 1),
            (8, 2, 8),
            (32, 2, 32),
            (33, 1, 17),
            (34, 2, 18),
            (64, 2, 32),
            (96, 2, 32),
            (104, 2, 26),
        ] {
            let topology = machine(&[&[&format!("0-{}", cpus - 1)]], threads, "");
            assert_eq!(topology.default_shard_cpus(), size, "{cpus} CPUs");
        }
        assert_eq!(machine(&[], 1, "").default_shard_cpus(), 1);
    }

    #[test]
    fn the_limit_of_shards_is_that_of_the_shared_header() {
        let header = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../bpf-common/include/rota/shard.h"
        );
        let header = fs::read_to_string(header).unwrap();
        let mut lines = header.lines();
        let line = lines.find(|line| line.starts_with("#define MAX_SHARDS"));
        let value = line.unwrap().split_whitespace().last().unwrap();
        assert_eq!(value, MAX_SHARDS.to_string());
    }

    proptest! {
        #[test]
        fn shards_divide_any_machine(
            sizes in prop::collection::vec(1..=70usize, 1..=6),
            threads in 1..=4usize,
            max_cpus in 1..=40usize,
        ) {
            let mut first = 0;
            let mut lists = Vec::new();
            for size in sizes {
                lists.push(format!("{first}-{}", first + size - 1));
                first += size;
            }
            let lists: Vec<&str> = lists.iter().map(String::as_str).collect();
            let topology = machine(&[&lists], threads, "");
            let shards = topology.shards(max_cpus);
            for (index, llc) in topology.llcs.iter().enumerate() {
                let own: Vec<&Shard> = shards.iter().filter(|shard| shard.llc == index).collect();
                prop_assert_eq!(own.len(), llc.cpus.len().div_ceil(max_cpus));
                let mut cpus: Vec<usize> = own.iter().flat_map(|s| s.cpus.clone()).collect();
                cpus.sort_unstable();
                prop_assert_eq!(&cpus, &llc.cpus);
                let sizes = || own.iter().map(|shard| shard.cpus.len());
                prop_assert!(sizes().all(|size| (1..=max_cpus).contains(&size)));
                let (most, least) = (sizes().max().unwrap(), sizes().min().unwrap());
                prop_assert!(most - least <= 2 * threads, "{:?}", own);
            }
            prop_assert!(shards.is_sorted_by_key(|shard| shard.llc));
        }
    }
}
