// SPDX-License-Identifier: GPL-2.0-only
//! The CPUs of the machine as a policy sees them.
//!
//! Cores, last-level caches (LLCs) and NUMA nodes are numbered densely from 0
//! in the order of their lowest CPU; CPUs keep the kernel's numbers, which may
//! have holes. Three things hold whatever sysfs says, and policies build on
//! them: every online CPU belongs to one core, one LLC and one node; the CPUs
//! of a core share its LLC; the CPUs of an LLC share its node.
//!
//! Everything is read below a root that the caller names, so that trees of
//! files can stand for machines that nobody has at hand.

pub mod cpulist;
mod domains;
mod ranking;
mod sysfs;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use serde::Serialize;

pub use domains::{Domains, MAX_SHARDS, Shard};
pub use ranking::{Fill, Merit};

use crate::error::Error;

/// CPUs that the tables shared with BPF have room for (`rota/topology.h`).
pub const MAX_CPUS: usize = 1024;
/// LLCs that the tables shared with BPF have room for (`rota/topology.h`).
pub const MAX_LLCS: usize = 256;
/// Nodes that the tables shared with BPF have room for (`rota/topology.h`).
pub const MAX_NODES: usize = 64;

/// The capacity of the strongest CPU of a machine (`SCHED_CAPACITY_SCALE`).
pub const MAX_CAPACITY: u32 = 1024;

/// One possible CPU.
///
/// The kernel does not tell where an offline CPU belongs, so core, LLC and
/// node of one are 0; it is in no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number.
    pub id: usize,
    /// Whether tasks can run on it.
    pub online: bool,
    /// Index of its core.
    pub core: usize,
    /// Index of its LLC.
    pub llc: usize,
    /// Index of its node.
    pub node: usize,
    /// Its strength, 1..=[`MAX_CAPACITY`].
    pub capacity: u32,
    /// How far it is to be preferred to CPUs of the same strength, in the terms of whatever tells
    /// it on this machine: only comparisons make sense. 0 where nothing does.
    pub preference: u32,
}

/// The CPUs that share a last-level cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Llc {
    /// Index of its node.
    pub node: usize,
    /// Its online CPUs, sorted.
    pub cpus: Vec<usize>,
}

/// A NUMA node with at least one online CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number.
    pub id: usize,
    /// Its online CPUs, sorted.
    pub cpus: Vec<usize>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The possible CPUs, sorted by number.
    pub cpus: Vec<Cpu>,
    /// The online CPUs of each core, sorted: more than one with SMT.
    pub cores: Vec<Vec<usize>>,
    /// The LLCs.
    pub llcs: Vec<Llc>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The kernel's count of CPUs that came and went, from before anything else
    /// was read; 0 without sched_ext. An attach that hands it over fails, with a
    /// restart asked for, if a CPU came or went since.
    pub hotplug_seq: u64,
    /// Whether a policy's requests for a level of performance reach the hardware: only the
    /// frequency governor `schedutil` passes them on.
    pub takes_requests: bool,
    /// What sysfs left out or garbled, and what was assumed instead.
    pub warnings: Vec<String>,
}

impl Topology {
    /// Reads the machine below `sysfs`, which is `/sys` but in tests.
    ///
    /// Missing or garbled files degrade the result and leave a warning. It is
    /// an error if no CPU is found at all, or more than policies have room for.
    pub fn read(sysfs: &Path) -> Result<Self, Error> {
        let topology = sysfs::read(sysfs)?;
        topology.check_limits()?;
        Ok(topology)
    }

    fn check_limits(&self) -> Result<(), Error> {
        let limits = [
            ("LLCs", self.llcs.len(), MAX_LLCS),
            ("nodes", self.nodes.len(), MAX_NODES),
        ];
        for (what, number, limit) in limits {
            if number > limit {
                return Err(Error::TooLarge {
                    what: format!("{number} {what}"),
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Whether the CPUs that are online below `sysfs` are those that this was read with. Where
    /// nothing tells, they are.
    pub fn is_current(&self, sysfs: &Path) -> bool {
        let known = self.online().map(|cpu| cpu.id);
        sysfs::online(sysfs).is_none_or(|online| known.eq(online))
    }

    /// One more than the highest possible CPU number.
    pub fn nr_cpu_ids(&self) -> usize {
        self.cpus.last().map_or(0, |cpu| cpu.id + 1)
    }

    /// The CPUs that tasks can run on.
    pub fn online(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(|cpu| cpu.online)
    }

    /// The strength of a CPU, 1..=[`MAX_CAPACITY`]; 0 of one that cannot be.
    pub fn capacity(&self, cpu: usize) -> u32 {
        let found = self.cpus.binary_search_by_key(&cpu, |its| its.id);
        found.map_or(0, |index| self.cpus[index].capacity)
    }

    /// Threads of the core that has most, 1 without SMT.
    pub fn smt(&self) -> usize {
        self.cores.iter().map(Vec::len).max().unwrap_or(1)
    }

    /// The machine for reports in JSON.
    pub fn summary(&self) -> Summary {
        let (online, offline): (Vec<&Cpu>, Vec<&Cpu>) = self.cpus.iter().partition(|c| c.online);
        let list =
            |cpus: &[&Cpu]| cpulist::format(&cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>());
        Summary {
            cpus: online.len(),
            online: list(&online),
            offline: list(&offline),
            cores: self.cores.len(),
            smt: self.smt(),
            llcs: self.llcs.len(),
            nodes: self.nodes.len(),
            llc_cpus: self
                .llcs
                .iter()
                .map(|llc| cpulist::format(&llc.cpus))
                .collect(),
            node_cpus: self
                .nodes
                .iter()
                .map(|node| cpulist::format(&node.cpus))
                .collect(),
        }
    }
}

/// The machine for reports in JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Number of online CPUs.
    pub cpus: usize,
    /// The online CPUs as a list.
    pub online: String,
    /// The possible CPUs that are offline as a list.
    pub offline: String,
    /// Number of cores.
    pub cores: usize,
    /// Threads of a core.
    pub smt: usize,
    /// Number of LLCs.
    pub llcs: usize,
    /// Number of nodes with CPUs.
    pub nodes: usize,
    /// The CPUs of each LLC as lists.
    pub llc_cpus: Vec<String>,
    /// The CPUs of each node as lists.
    pub node_cpus: Vec<String>,
}

/// The machine in short: `8 CPUs, 4 cores (SMT 2), 2 LLCs, 1 node`.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: usize, noun: &str| {
            format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
        };
        let online = self.online().count();
        write!(
            f,
            "{}, {}",
            count(online, "CPU"),
            count(self.cores.len(), "core")
        )?;
        if self.smt() > 1 {
            write!(f, " (SMT {})", self.smt())?;
        }
        let (llcs, nodes) = (self.llcs.len(), self.nodes.len());
        write!(f, ", {}, {}", count(llcs, "LLC"), count(nodes, "node"))?;

        let weakest = self
            .online()
            .map(|cpu| cpu.capacity)
            .min()
            .unwrap_or(MAX_CAPACITY);
        if weakest < MAX_CAPACITY {
            write!(f, ", capacities {weakest} to {MAX_CAPACITY}")?;
        }
        match self.cpus.len() - online {
            0 => Ok(()),
            offline => write!(f, ", {offline} offline"),
        }
    }
}
