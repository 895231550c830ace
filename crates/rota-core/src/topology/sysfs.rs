// SPDX-License-Identifier: GPL-2.0-only
//! Reads the topology from sysfs.
//!
//! CPUs are grouped by the lists of CPUs that share a thing, never by the
//! thing's id: virtual machines hand out cache ids that differ for each CPU
//! while the lists are right.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::{Cpu, Llc, MAX_CAPACITY, MAX_CPUS, Node, Topology, cpulist};
use crate::error::Error;

/// No file that is read here is longer on the largest machine.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// What tells which of several equal CPUs is better, the most telling first: the order in which
/// AMD's driver prefers cores, the firmware's figure that it is made from, the highest frequency.
const PREFERENCES: [&str; 3] = [
    "cpufreq/amd_pstate_prefcore_ranking",
    "acpi_cppc/highest_perf",
    "cpufreq/cpuinfo_max_freq",
];
/// Cache levels times types of one CPU, with room to spare.
const MAX_CACHE_INDEX: usize = 16;

/// The CPUs that are online, if that is told.
pub(super) fn online(sysfs: &Path) -> Option<Vec<usize>> {
    let list = Reader::new(sysfs).list(&sysfs.join("devices/system/cpu/online"))?;
    (!list.is_empty()).then_some(list)
}

pub(super) fn read(sysfs: &Path) -> Result<Topology, Error> {
    let mut reader = Reader::new(sysfs);
    let hotplug_seq = reader.hotplug_seq();
    let (possible, online) = reader.cpus()?;
    let (nodes, node_ids) = reader.nodes(&online);
    let llcs = reader.llcs(&online, &nodes);
    let cores = reader.cores(&online, &llcs);
    let capacities = reader.capacities(&online);
    let preferences = reader.preferences(&online);
    let takes_requests = reader.takes_requests(&online);

    let cpus = possible.into_iter().map(|id| Cpu {
        id,
        online: online.binary_search(&id).is_ok(),
        core: cores.of.get(&id).copied().unwrap_or(0),
        llc: llcs.of.get(&id).copied().unwrap_or(0),
        node: nodes.of.get(&id).copied().unwrap_or(0),
        capacity: capacities.get(&id).copied().unwrap_or(MAX_CAPACITY),
        preference: preferences.get(&id).copied().unwrap_or(0),
    });
    let node_of = |cpus: &[usize]| nodes.of[&cpus[0]];
    Ok(Topology {
        cpus: cpus.collect(),
        llcs: (llcs.members.into_iter())
            .map(|cpus| Llc {
                node: node_of(&cpus),
                cpus,
            })
            .collect(),
        nodes: (node_ids.into_iter().zip(nodes.members.clone()))
            .map(|(id, cpus)| Node { id, cpus })
            .collect(),
        cores: cores.members,
        hotplug_seq,
        takes_requests,
        warnings: reader.warnings,
    })
}

/// A partition of the online CPUs into groups numbered by their lowest CPU.
#[derive(Default)]
pub(super) struct Partition {
    /// The group of each CPU.
    of: BTreeMap<usize, usize>,
    /// The CPUs of each group, sorted, never empty.
    pub(super) members: Vec<Vec<usize>>,
}

impl Partition {
    /// Groups `online`: `mates` names the CPUs that belong with a CPU. Where
    /// its answers contradict each other, the lowest CPU has it its way, so
    /// that the result is a partition whatever sysfs says.
    pub(super) fn new(online: &[usize], mut mates: impl FnMut(usize) -> Vec<usize>) -> Self {
        let mut partition = Self::default();
        for &cpu in online {
            if partition.of.contains_key(&cpu) {
                continue;
            }
            let mut members = vec![cpu];
            let mates = mates(cpu);
            members.extend(mates.into_iter().filter(|mate| {
                *mate != cpu
                    && online.binary_search(mate).is_ok()
                    && !partition.of.contains_key(mate)
            }));
            members.sort_unstable();
            members.dedup();
            partition.of.extend(
                members
                    .iter()
                    .map(|&member| (member, partition.members.len())),
            );
            partition.members.push(members);
        }
        partition
    }

    fn same(&self, a: usize, b: usize) -> bool {
        self.of.get(&a) == self.of.get(&b)
    }
}

pub(super) struct Reader {
    root: PathBuf,
    pub(super) warnings: Vec<String>,
}

impl Reader {
    pub(super) fn new(sysfs: &Path) -> Self {
        Reader {
            root: sysfs.to_owned(),
            warnings: Vec::new(),
        }
    }

    fn warn(&mut self, warning: String) {
        // A machine can be wrong in a thousand files; a few are enough to know.
        const MAX_WARNINGS: usize = 8;
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning);
        }
    }

    fn cpu_file(&self, cpu: usize, file: &str) -> PathBuf {
        self.root
            .join(format!("devices/system/cpu/cpu{cpu}/{file}"))
    }

    /// The text of a file; `None` if there is no such file, or with a warning
    /// if it cannot be read.
    fn text(&mut self, path: &Path) -> Option<String> {
        let mut text = String::new();
        let read = fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text));
        match read {
            Ok(_) => Some(text),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                self.warn(format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    /// How often a CPU has come or gone; 0 without sched_ext.
    fn hotplug_seq(&mut self) -> u64 {
        let path = self.root.join("kernel/sched_ext/hotplug_seq");
        let text = self.text(&path);
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// The list of CPUs in a file; `None` with a warning if it is garbled.
    fn list(&mut self, path: &Path) -> Option<Vec<usize>> {
        let text = self.text(path)?;
        match cpulist::parse(&text) {
            Ok(cpus) => Some(cpus),
            Err(problem) => {
                self.warn(format!("{} is garbled: {problem}", path.display()));
                None
            }
        }
    }

    /// The possible and the online CPUs.
    fn cpus(&mut self) -> Result<(Vec<usize>, Vec<usize>), Error> {
        let dir = self.root.join("devices/system/cpu");
        let mut lists = ["possible", "present", "online"].map(|name| self.list(&dir.join(name)));
        let online = lists[2].take().filter(|cpus| !cpus.is_empty());
        let possible = match lists.into_iter().flatten().find(|cpus| !cpus.is_empty()) {
            Some(cpus) => cpus,
            None => {
                let cpus = online
                    .clone()
                    .unwrap_or_else(|| numbered_entries(&dir, "cpu"));
                if cpus.is_empty() {
                    return Err(Error::Topology(format!("{} lists no CPU", dir.display())));
                }
                self.warn(format!("{} has no list of possible CPUs", dir.display()));
                cpus
            }
        };
        let online = match online {
            Some(cpus) => cpus,
            None => {
                self.warn(format!(
                    "{} has no list of online CPUs: took all",
                    dir.display()
                ));
                possible.clone()
            }
        };
        let highest = *online.last().expect("neither list is empty");
        if highest >= MAX_CPUS {
            let what = format!("an online CPU with the number {highest}");
            return Err(Error::TooLarge {
                what,
                limit: MAX_CPUS - 1,
            });
        }
        // Hypervisors announce thousands of CPUs that will never come.
        let mut possible: Vec<usize> = possible.into_iter().filter(|&c| c < MAX_CPUS).collect();
        possible.extend(&online);
        possible.sort_unstable();
        possible.dedup();
        Ok((possible, online))
    }

    /// The nodes, and the kernel's number of each.
    fn nodes(&mut self, online: &[usize]) -> (Partition, Vec<usize>) {
        let dir = self.root.join("devices/system/node");
        let mut id_of: BTreeMap<usize, usize> = BTreeMap::new();
        // A kernel without NUMA has no such directory, which is nothing to warn about.
        for id in numbered_entries(&dir, "node") {
            for cpu in self
                .list(&dir.join(format!("node{id}/cpulist")))
                .unwrap_or_default()
            {
                id_of.entry(cpu).or_insert(id);
            }
        }
        let lost: Vec<usize> = online
            .iter()
            .copied()
            .filter(|c| !id_of.contains_key(c))
            .collect();
        if !id_of.is_empty() && !lost.is_empty() {
            self.warn(format!(
                "CPUs {} are in no NUMA node",
                cpulist::format(&lost)
            ));
        }
        let partition = Partition::new(online, |cpu| {
            online
                .iter()
                .copied()
                .filter(|mate| id_of.get(mate) == id_of.get(&cpu))
                .collect()
        });
        let id = |cpus: &Vec<usize>| id_of.get(&cpus[0]).copied().unwrap_or(0);
        let ids = partition.members.iter().map(id).collect();
        (partition, ids)
    }

    /// The LLCs. One that spans nodes (a kernel told to fake nodes does that)
    /// is split along them.
    fn llcs(&mut self, online: &[usize], nodes: &Partition) -> Partition {
        let caches: BTreeMap<usize, Vec<usize>> = (online.iter())
            .filter_map(|&cpu| Some((cpu, self.cache(cpu, u32::MAX)?.1)))
            .collect();
        let bare: Vec<usize> = online
            .iter()
            .copied()
            .filter(|c| !caches.contains_key(c))
            .collect();
        let packages: BTreeMap<usize, Vec<usize>> = (bare.iter())
            .filter_map(|&cpu| Some((cpu, self.package(cpu)?)))
            .collect();
        if !bare.is_empty() {
            let assumed = if packages.is_empty() {
                "they share one"
            } else {
                "one per package"
            };
            self.warn(format!(
                "sysfs does not tell the caches of CPUs {}: assumed for the last level that \
                 {assumed}",
                cpulist::format(&bare)
            ));
        }
        Partition::new(online, |cpu| {
            let mates = match caches.get(&cpu) {
                Some(sharing) => sharing.clone(),
                None => {
                    let package = packages.get(&cpu).unwrap_or(&bare);
                    package
                        .iter()
                        .copied()
                        .filter(|mate| !caches.contains_key(mate))
                        .collect()
                }
            };
            mates
                .into_iter()
                .filter(|&mate| nodes.same(cpu, mate))
                .collect()
        })
    }

    /// The level of the highest cache of `cpu` that is not above `limit`, and
    /// the CPUs that share it.
    pub(super) fn cache(&mut self, cpu: usize, limit: u32) -> Option<(u32, Vec<usize>)> {
        let mut last: Option<(u32, Vec<usize>)> = None;
        for index in 0..MAX_CACHE_INDEX {
            let dir = self.cpu_file(cpu, &format!("cache/index{index}"));
            if !dir.is_dir() {
                break;
            }
            let kind = self.text(&dir.join("type")).unwrap_or_default();
            let level = self
                .text(&dir.join("level"))
                .and_then(|text| text.trim().parse().ok());
            let Some(level) = level.filter(|_| kind.trim() != "Instruction") else {
                continue;
            };
            if level > limit || last.as_ref().is_some_and(|(highest, _)| *highest >= level) {
                continue;
            }
            if let Some(cpus) = self.list(&dir.join("shared_cpu_list")) {
                last = Some((level, cpus));
            }
        }
        last
    }

    fn package(&mut self, cpu: usize) -> Option<Vec<usize>> {
        self.list(&self.cpu_file(cpu, "topology/package_cpus_list"))
    }

    fn cores(&mut self, online: &[usize], llcs: &Partition) -> Partition {
        Partition::new(online, |cpu| {
            let threads = self
                .list(&self.cpu_file(cpu, "topology/core_cpus_list"))
                .or_else(|| self.list(&self.cpu_file(cpu, "topology/thread_siblings_list")));
            // A CPU that names no siblings is a core of its own.
            let threads = threads.unwrap_or_default().into_iter();
            threads.filter(|&mate| llcs.same(cpu, mate)).collect()
        })
    }

    /// The figures of the first file that all CPUs have, which are then comparable.
    fn preferences(&mut self, online: &[usize]) -> BTreeMap<usize, u32> {
        for file in PREFERENCES {
            let figure = |reader: &mut Self, cpu| -> Option<u32> {
                let path = reader.cpu_file(cpu, file);
                let text = reader.text(&path)?;
                let figure = text.trim().parse().ok();
                if figure.is_none() {
                    reader.warn(format!("{} is garbled", path.display()));
                }
                figure
            };
            let figures: Option<BTreeMap<usize, u32>> = (online.iter())
                .map(|&cpu| Some((cpu, figure(self, cpu)?)))
                .collect();
            if let Some(figures) = figures {
                return figures;
            }
        }
        BTreeMap::new()
    }

    /// Whether the frequency of any CPU is governed by `schedutil`.
    fn takes_requests(&mut self, online: &[usize]) -> bool {
        online.iter().any(|&cpu| {
            let path = self.cpu_file(cpu, "cpufreq/scaling_governor");
            (self.text(&path)).is_some_and(|text| text.trim() == "schedutil")
        })
    }

    /// The capacities, scaled so that the strongest CPU has [`MAX_CAPACITY`].
    fn capacities(&mut self, online: &[usize]) -> BTreeMap<usize, u32> {
        let mut raw: BTreeMap<usize, u64> = BTreeMap::new();
        for &cpu in online {
            let path = self.cpu_file(cpu, "cpu_capacity");
            let Some(text) = self.text(&path) else {
                continue;
            };
            match text.trim().parse::<u32>() {
                Ok(capacity) if capacity > 0 => {
                    raw.insert(cpu, capacity.into());
                }
                _ => self.warn(format!("{} is garbled", path.display())),
            }
        }
        let highest = raw.values().copied().max().unwrap_or(1);
        let scaled = |capacity: u64| {
            let scaled = (capacity * u64::from(MAX_CAPACITY)).div_ceil(highest);
            u32::try_from(scaled).expect("no CPU is stronger than the strongest")
        };
        raw.into_iter()
            .map(|(cpu, capacity)| (cpu, scaled(capacity)))
            .collect()
    }
}

/// The numbers of the entries of a directory that are named `<prefix><number>`,
/// sorted.
fn numbered_entries(dir: &Path, prefix: &str) -> Vec<usize> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut numbers: Vec<usize> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()
        })
        .filter(|&number| number <= cpulist::MAX_CPU_ID)
        .collect();
    numbers.sort_unstable();
    numbers
}
