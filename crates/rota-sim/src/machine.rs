// SPDX-License-Identifier: GPL-2.0-only
//! The machine under a simulation: its CPUs, and who shares what with whom.
//!
//! A machine has a short name in the notation of the lab (`2x2x2`, `numa:2x4x1`,
//! `hybrid:2+4`), or a description in JSON for whatever has no name:
//!
//! ```json
//! { "cpus": [ { "core": 0, "llc": 0, "node": 0, "capacity": 1024, "online": true } ] }
//! ```
//!
//! Two things hold for every machine, as they do for the topology that policies
//! are given: the CPUs of a core share its LLC, those of an LLC share its node.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::kernel_api::{CpuMask, MAX_CPUS};

/// The accepted names, for messages and help texts.
pub const FORMS: &str = "SOCKETSxCORESxTHREADS (2x2x2), SOCKETSxDIESxCORESxTHREADS (1x2x2x1; a die \
    is an LLC), numa:2x2x1 (a node for each socket), -N at the end for N CPUs that are offline at \
    the start (1x4x1-2), or hybrid:STRONG+WEAK (hybrid:2+4)";

/// The capacity of the strongest CPU, as the kernel counts it (`SCHED_CAPACITY_SCALE`).
pub const STRONG: u32 = 1024;
/// The capacity of a weak CPU of `hybrid:`; the kernel's documentation has it as an example.
pub const WEAK: u32 = 446;
/// Threads of a core, at most.
const THREADS_MAX: usize = 8;

/// Why there is no such machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The name says nothing.
    #[error("machine `{given}`: {reason}; accepted are {FORMS}")]
    BadName {
        /// The name as it was given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The description contradicts itself or exceeds a limit.
    #[error("machine: {0}")]
    Invalid(String),
}

/// One CPU of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Number of its core; CPUs of one core are SMT siblings.
    pub core: u32,
    /// Number of its last-level cache, from 0 without holes.
    pub llc: u32,
    /// Number of its NUMA node, from 0 without holes.
    pub node: u32,
    /// Its speed, 1..=[`STRONG`].
    #[serde(default = "strong")]
    pub capacity: u32,
    /// Whether it is online at the start.
    #[serde(default = "yes")]
    pub online: bool,
}

fn strong() -> u32 {
    STRONG
}

fn yes() -> bool {
    true
}

/// How far a task moves, from the nearest to the farthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// To a sibling of the same core.
    Smt,
    /// To another core of the same LLC.
    Llc,
    /// To another LLC of the same node.
    Node,
    /// To another node.
    Far,
}

/// The description of a machine: what its JSON holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// Any word for reports; the lab's name where it has one.
    #[serde(default)]
    name: String,
    /// The CPUs, CPU 0 first.
    cpus: Vec<Cpu>,
}

/// A machine that is known to be sound, with its domains worked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Description", into = "Description")]
pub struct Machine {
    name: String,
    cpus: Vec<Cpu>,
    cores: Vec<CpuMask>,
    llcs: Vec<CpuMask>,
    nodes: Vec<CpuMask>,
    /// For each CPU, which of `cores` is its own.
    core_of: Vec<usize>,
}

impl Machine {
    /// The machine with these CPUs; `name` is for reports only.
    pub fn new(name: &str, cpus: Vec<Cpu>) -> Result<Self, MachineError> {
        let invalid = |reason: String| Err(MachineError::Invalid(reason));
        if cpus.is_empty() || cpus.len() > MAX_CPUS {
            return invalid(format!("{} CPUs; allowed are 1..={MAX_CPUS}", cpus.len()));
        }
        for (number, cpu) in cpus.iter().enumerate() {
            if !(1..=STRONG).contains(&cpu.capacity) {
                let capacity = cpu.capacity;
                return invalid(format!(
                    "CPU {number} has capacity {capacity}; allowed are 1..={STRONG}"
                ));
            }
        }
        if !cpus.iter().any(|cpu| cpu.online) {
            return invalid("no CPU is online".into());
        }
        let llcs = dense(&cpus, "LLC", |cpu| cpu.llc)?;
        let nodes = dense(&cpus, "node", |cpu| cpu.node)?;
        nested(&cpus, "core", "LLC", |cpu| cpu.core, |cpu| cpu.llc)?;
        nested(&cpus, "LLC", "node", |cpu| cpu.llc, |cpu| cpu.node)?;
        let mut numbers: Vec<u32> = cpus.iter().map(|cpu| cpu.core).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let place = |cpu: &Cpu| numbers.binary_search(&cpu.core).expect("all are listed");
        let core_of: Vec<usize> = cpus.iter().map(place).collect();
        let mut cores = vec![CpuMask::EMPTY; numbers.len()];
        for (cpu, &core) in core_of.iter().enumerate() {
            cores[core].insert(cpu as u32);
        }
        Ok(Self {
            name: name.to_owned(),
            cpus,
            cores,
            llcs,
            nodes,
            core_of,
        })
    }

    /// Its name, which may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its CPUs, CPU 0 first.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// One more than the highest CPU number.
    pub fn nr_cpu_ids(&self) -> u32 {
        self.cpus.len() as u32
    }

    /// All its CPUs.
    pub fn possible(&self) -> CpuMask {
        CpuMask::first(self.nr_cpu_ids())
    }

    /// The CPUs that are online at the start.
    pub fn online(&self) -> CpuMask {
        let online = |cpu: &u32| self.cpus[*cpu as usize].online;
        (0..self.nr_cpu_ids()).filter(online).collect()
    }

    /// The CPUs of each LLC.
    pub fn llcs(&self) -> &[CpuMask] {
        &self.llcs
    }

    /// The CPUs of each node.
    pub fn nodes(&self) -> &[CpuMask] {
        &self.nodes
    }

    /// `cpu` and its SMT siblings.
    pub fn siblings(&self, cpu: u32) -> &CpuMask {
        &self.cores[self.core_of[cpu as usize]]
    }

    /// The CPUs of the LLC of `cpu`.
    pub fn llc(&self, cpu: u32) -> &CpuMask {
        &self.llcs[self.cpus[cpu as usize].llc as usize]
    }

    /// The CPUs of the node of `cpu`.
    pub fn node(&self, cpu: u32) -> &CpuMask {
        &self.nodes[self.cpus[cpu as usize].node as usize]
    }

    /// Whether any core has more than one thread.
    pub fn has_smt(&self) -> bool {
        self.cores.iter().any(|core| core.weight() > 1)
    }

    /// Speed of `cpu`, 1..=[`STRONG`].
    pub fn capacity(&self, cpu: u32) -> u32 {
        self.cpus[cpu as usize].capacity
    }

    /// How far a task moves from one CPU to another, which must differ.
    pub fn distance(&self, from: u32, to: u32) -> Distance {
        let (a, b) = (&self.cpus[from as usize], &self.cpus[to as usize]);
        if self.core_of[from as usize] == self.core_of[to as usize] {
            Distance::Smt
        } else if a.llc == b.llc {
            Distance::Llc
        } else if a.node == b.node {
            Distance::Node
        } else {
            Distance::Far
        }
    }
}

/// The members of each domain, if domains are numbered from 0 without holes.
fn dense(cpus: &[Cpu], what: &str, of: fn(&Cpu) -> u32) -> Result<Vec<CpuMask>, MachineError> {
    let count = cpus
        .iter()
        .map(of)
        .max()
        .map_or(0, |last| last as usize + 1);
    let hole = |number| MachineError::Invalid(format!("{what} {number} has no CPU"));
    // More domains than CPUs leave a hole among the first of them.
    let mut domains = vec![CpuMask::EMPTY; count.min(cpus.len() + 1)];
    for (number, cpu) in cpus.iter().enumerate() {
        if let Some(domain) = domains.get_mut(of(cpu) as usize) {
            domain.insert(number as u32);
        }
    }
    match domains.iter().position(CpuMask::is_empty) {
        Some(number) => Err(hole(number)),
        None => Ok(domains),
    }
}

/// That CPUs of one `inner` domain are in one `outer` domain, too.
fn nested(
    cpus: &[Cpu],
    inner: &str,
    outer: &str,
    of: fn(&Cpu) -> u32,
    within: fn(&Cpu) -> u32,
) -> Result<(), MachineError> {
    let mut seen = std::collections::BTreeMap::new();
    for cpu in cpus {
        let outside = *seen.entry(of(cpu)).or_insert_with(|| within(cpu));
        if outside != within(cpu) {
            let number = of(cpu);
            return Err(MachineError::Invalid(format!(
                "{inner} {number} is in {outer} {outside} and in {outer} {}",
                within(cpu)
            )));
        }
    }
    Ok(())
}

impl TryFrom<Description> for Machine {
    type Error = MachineError;

    fn try_from(description: Description) -> Result<Self, MachineError> {
        Self::new(&description.name, description.cpus)
    }
}

impl From<Machine> for Description {
    fn from(machine: Machine) -> Self {
        Self {
            name: machine.name,
            cpus: machine.cpus,
        }
    }
}

impl FromStr for Machine {
    type Err = MachineError;

    fn from_str(given: &str) -> Result<Self, MachineError> {
        let bad = |reason: String| MachineError::BadName {
            given: given.into(),
            reason,
        };
        let cpus = match given.strip_prefix("hybrid:") {
            Some(rest) => hybrid(rest),
            None => grid(given),
        };
        Self::new(given, cpus.map_err(bad)?)
    }
}

/// Reads `2+4`: strong CPUs first, all in one LLC.
fn hybrid(text: &str) -> Result<Vec<Cpu>, String> {
    let (strong, weak) = text
        .split_once('+')
        .ok_or("it has no strong and weak CPUs")?;
    let (strong, weak) = (number(strong)?, number(weak)?);
    if strong == 0 || weak == 0 {
        return Err("a count is 0".into());
    }
    let total = strong.checked_add(weak).filter(|&cpus| cpus <= MAX_CPUS);
    let total = total.ok_or_else(|| format!("more than {MAX_CPUS} CPUs"))?;
    let cpu = |cpu| Cpu {
        core: cpu as u32,
        llc: 0,
        node: 0,
        capacity: if cpu < strong { STRONG } else { WEAK },
        online: true,
    };
    Ok((0..total).map(cpu).collect())
}

/// Reads `numa:2x2x2x1-1`. The threads of a core have neighbouring numbers.
fn grid(text: &str) -> Result<Vec<Cpu>, String> {
    let (numa, rest) = match text.strip_prefix("numa:") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (shape, offline) = match rest.split_once('-') {
        Some((shape, offline)) => (shape, number(offline)?),
        None => (rest, 0),
    };
    let counts = shape
        .split('x')
        .map(number)
        .collect::<Result<Vec<_>, _>>()?;
    let [sockets, dies, cores, threads] = match counts[..] {
        [sockets, cores, threads] => [sockets, 1, cores, threads],
        [sockets, dies, cores, threads] => [sockets, dies, cores, threads],
        _ => return Err("it has neither three nor four numbers".into()),
    };
    if [sockets, dies, cores, threads].contains(&0) {
        return Err("a count is 0".into());
    }
    if threads > THREADS_MAX {
        return Err(format!("more than {THREADS_MAX} threads in a core"));
    }
    let product = [dies, cores, threads]
        .into_iter()
        .try_fold(sockets, usize::checked_mul);
    let total = product.filter(|&cpus| cpus <= MAX_CPUS);
    let total = total.ok_or_else(|| format!("more than {MAX_CPUS} CPUs"))?;
    if offline >= total {
        return Err("no CPU is online".into());
    }
    if numa && sockets < 2 {
        return Err("one socket makes one node".into());
    }
    let cpu = |cpu| Cpu {
        core: (cpu / threads) as u32,
        llc: (cpu / threads / cores) as u32,
        node: if numa {
            cpu / threads / cores / dies
        } else {
            0
        } as u32,
        capacity: STRONG,
        online: cpu < total - offline,
    };
    Ok((0..total).map(cpu).collect())
}

fn number(word: &str) -> Result<usize, String> {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    let value = if digits { word.parse().ok() } else { None };
    value.ok_or_else(|| format!("`{word}` is not a number"))
}

#[cfg(test)]
mod tests {
    //! Goal: names mean what they mean to the lab, JSON keeps everything, and a
    //! contradiction is refused.
    use super::*;
    use proptest::prelude::*;

    fn machine(name: &str) -> Machine {
        name.parse().unwrap()
    }

    #[test]
    fn names_tell_what_there_is() {
        // name, online, possible, LLCs, nodes, SMT
        let table = [
            ("1x1x1", 1, 1, 1, 1, false),
            ("1x4x1", 4, 4, 1, 1, false),
            ("2x2x2", 8, 8, 2, 1, true),
            ("1x2x4x1", 8, 8, 2, 1, false),
            ("numa:2x2x2x1", 8, 8, 4, 2, false),
            ("1x4x1-2", 2, 4, 1, 1, false),
            ("2x2x2-3", 5, 8, 2, 1, true),
            ("hybrid:2+4", 6, 6, 1, 1, false),
            ("numa:4x4x32x2", 1024, 1024, 16, 4, true),
        ];
        for (name, online, possible, llcs, nodes, smt) in table {
            let m = machine(name);
            let seen = (
                m.online().weight(),
                m.nr_cpu_ids(),
                m.llcs().len(),
                m.nodes().len(),
                m.has_smt(),
            );
            assert_eq!(seen, (online, possible, llcs, nodes, smt), "{name}");
            assert_eq!(m.name(), name);
        }
    }

    #[test]
    fn distances_grow_with_what_is_not_shared() {
        let m = machine("numa:2x2x2x2");
        let table = [
            (0, 1, Distance::Smt),
            (0, 2, Distance::Llc),
            (0, 4, Distance::Node),
            (0, 8, Distance::Far),
        ];
        for (from, to, distance) in table {
            assert_eq!(m.distance(from, to), distance);
            assert_eq!(m.distance(to, from), distance);
        }
        assert_eq!(m.siblings(5).iter().collect::<Vec<_>>(), [4, 5]);
        assert_eq!(m.llc(5).iter().collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert_eq!(m.node(5).weight(), 8);
    }

    #[test]
    fn hybrid_machines_have_strong_cpus_first() {
        let m = machine("hybrid:1+2");
        let capacities: Vec<u32> = (0..3).map(|cpu| m.capacity(cpu)).collect();
        assert_eq!(capacities, [STRONG, WEAK, WEAK]);
    }

    #[test]
    fn bad_names_are_refused() {
        let table = [
            ("", "not a number"),
            ("4", "neither three nor four"),
            ("1x0x1", "a count is 0"),
            ("1x1025x1", "more than 1024 CPUs"),
            ("1x1x9", "more than 8 threads"),
            ("1x2x1-2", "no CPU is online"),
            ("numa:1x4x1", "one socket"),
            ("hybrid:4", "no strong and weak"),
            ("hybrid:0+2", "a count is 0"),
            ("hybrid:1000+25", "more than 1024 CPUs"),
        ];
        for (name, reason) in table {
            let message = name.parse::<Machine>().unwrap_err().to_string();
            assert!(message.contains(reason), "{name}: {message}");
            assert!(message.contains("SOCKETSxCORESxTHREADS"), "{message}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let table = [
            (r#"{"cpus":[]}"#, "0 CPUs"),
            (
                r#"{"cpus":[{"core":0,"llc":1,"node":0}]}"#,
                "LLC 0 has no CPU",
            ),
            (
                r#"{"cpus":[{"core":0,"llc":0,"node":4000000000}]}"#,
                "node 0 has no CPU",
            ),
            (
                r#"{"cpus":[{"core":0,"llc":0,"node":0},{"core":0,"llc":1,"node":0}]}"#,
                "core 0 is in LLC 0 and in LLC 1",
            ),
            (
                r#"{"cpus":[{"core":0,"llc":0,"node":0},{"core":1,"llc":0,"node":1}]}"#,
                "LLC 0 is in node 0 and in node 1",
            ),
            (
                r#"{"cpus":[{"core":0,"llc":0,"node":0,"capacity":0}]}"#,
                "capacity 0",
            ),
            (
                r#"{"cpus":[{"core":0,"llc":0,"node":0,"online":false}]}"#,
                "no CPU is online",
            ),
            (r#"{"cpus":[{"core":0,"llc":0}]}"#, "missing field `node`"),
            (r#"{"cpus":[],"speed":1}"#, "unknown field"),
        ];
        for (text, reason) in table {
            let message = serde_json::from_str::<Machine>(text)
                .unwrap_err()
                .to_string();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn json_keeps_a_machine(
            sockets in 1usize..4, dies in 1usize..4, cores in 1usize..5, threads in 1usize..3,
            numa: bool,
        ) {
            let numa = if numa && sockets > 1 { "numa:" } else { "" };
            let m = machine(&format!("{numa}{sockets}x{dies}x{cores}x{threads}"));
            let text = serde_json::to_string(&m).unwrap();
            prop_assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), m);
        }
    }
}
