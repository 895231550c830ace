// SPDX-License-Identifier: GPL-2.0-only
//! Which CPUs are better than others, for policies that do not need all of them.
//!
//! Strength comes first (`cpu_capacity`), then what the firmware or the driver
//! prefers among CPUs of equal strength, or their highest frequency.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Topology;

/// What makes a CPU a good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merit {
    /// Being strong and fast.
    Performance,
    /// Being weak and slow, and so taking little power.
    Efficiency,
}

/// What is filled up before the next is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// One thread of each core, then the second threads.
    Cores,
    /// All threads of a core, then those of the next.
    Threads,
}

/// The more, the better: capacity and preference of a CPU, turned round for efficiency.
type Score = (i64, i64);

impl Topology {
    /// The online CPUs, the best first, those of an LLC and LLCs of a node in a row.
    ///
    /// An LLC, and a node, is as good as its best CPU; among equals the lower number comes first.
    /// Within an LLC cores are ordered by their best CPU, and filled as `fill` says.
    pub fn ranking(&self, merit: Merit, fill: Fill) -> Vec<usize> {
        let scores: BTreeMap<usize, Score> = self
            .online()
            .map(|cpu| {
                let (capacity, preference) = (i64::from(cpu.capacity), i64::from(cpu.preference));
                let score = match merit {
                    Merit::Performance => (capacity, preference),
                    Merit::Efficiency => (-capacity, -preference),
                };
                (cpu.id, score)
            })
            .collect();
        let best = |cpus: &[usize]| cpus.iter().map(|cpu| scores[cpu]).max();

        let mut llcs: Vec<usize> = (0..self.llcs.len()).collect();
        llcs.sort_by_key(|&llc| {
            let node = self.llcs[llc].node;
            let of_node = self.llcs.iter().filter(|other| other.node == node);
            let node_score = of_node.map(|other| best(&other.cpus)).max();
            (
                Reverse(node_score),
                node,
                Reverse(best(&self.llcs[llc].cpus)),
                llc,
            )
        });
        llcs.into_iter()
            .flat_map(|llc| {
                let mut cores: Vec<&Vec<usize>> = (self.cores.iter())
                    .filter(|core| self.llcs[llc].cpus.contains(&core[0]))
                    .collect();
                cores.sort_by_key(|core| (Reverse(best(core)), core[0]));
                in_turn(&cores, fill)
            })
            .collect()
    }
}

/// The CPUs of `cores`.
fn in_turn(cores: &[&Vec<usize>], fill: Fill) -> Vec<usize> {
    match fill {
        Fill::Threads => cores.iter().flat_map(|core| core.iter().copied()).collect(),
        Fill::Cores => {
            let threads = cores.iter().map(|core| core.len()).max().unwrap_or(0);
            let round = |thread: usize| cores.iter().filter_map(move |core| core.get(thread));
            (0..threads).flat_map(round).copied().collect()
        }
    }
}
