// SPDX-License-Identifier: GPL-2.0-only
//! What user space writes into the nests (`bpf/nest.bpf.h`), and what it tells of them.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rota_core::topology::{MAX_CPUS, Topology, cpulist};
use rota_core::{Companion, Figures};
use serde_json::{Map, json};

use crate::bpf::{Bpf, Loaded, types};
use crate::options::{Options, Performance};

/// `RANK_NONE` of rank.bpf.h.
const RANK_NONE: u16 = u16::MAX;

/// `enum perf_mode` of intf.h.
const PERF_OFF: u32 = 0;
const PERF_AUTO: u32 = 1;
const PERF_MAX: u32 = 2;

/// Writes the order of CPUs, and whether whole cores come before second threads.
pub fn rank(
    rodata: Option<&mut types::rodata>,
    topology: &Topology,
    ranking: &[usize],
    whole_cores: bool,
) {
    let rodata = rodata.expect("rank.bpf.h is in it");
    rodata.nr_ranks = ranking.len() as u32;
    rodata.whole_cores = whole_cores;
    rodata.cpu_ranks = [RANK_NONE; MAX_CPUS];
    let llc = |cpu: usize| {
        topology
            .cpus
            .iter()
            .find(|its| its.id == cpu)
            .map(|its| its.llc)
    };
    let capacity = |cpu: usize| topology.capacity(cpu);
    for (rank, &cpu) in ranking.iter().enumerate() {
        rodata.rank_cpus[rank] = cpu as u16;
        if capacity(cpu) == capacity(ranking[0]) {
            rodata.preferred.words[rank / 64] |= 1 << (rank % 64);
        }
        rodata.cpu_ranks[cpu] = rank as u16;
        let next = ranking[rank..]
            .iter()
            .position(|&other| llc(other) != llc(cpu));
        rodata.rank_llc_ends[rank] = next.map_or(ranking.len(), |after| rank + after) as u16;
    }
}

/// Writes the live options.
pub fn tune(
    options: &Options,
    topology: &Topology,
    data: Option<&mut types::data>,
    bss: Option<&mut types::bss>,
) {
    let (data, bss) = (
        data.expect("nest.bpf.h is in it"),
        bss.expect("wait.bpf.h is in it"),
    );
    data.remove_ns = options.remove_us * 1000;
    data.expire_ns = options.expire_us * 1000;
    data.reserve_max = options.reserve_max;
    data.impatience = options.impatience;
    data.grow_ns = options.grow_us * 1000;
    bss.primary_max = options.primary_max;
    bss.perf_mode = match options.cpuperf {
        Performance::Auto if topology.takes_requests => PERF_AUTO,
        Performance::Auto | Performance::Off => PERF_OFF,
        Performance::Max => PERF_MAX,
    };
}

/// The size of a nest over the time since the last look.
struct Size {
    now: i64,
    min: i64,
    max: i64,
    mean: f64,
}

/// What the last look saw of a nest: when, and the integral of its size up to then.
#[derive(Clone, Copy, Default)]
struct Look {
    at_ns: u64,
    integral: u64,
}

impl Look {
    /// Looks at a nest now, and lets it find its least and largest size anew.
    fn again(&mut self, size: &mut types::nest_size, at_ns: u64) -> Size {
        let integral = (size.nr as u64)
            .wrapping_mul(at_ns)
            .wrapping_sub(size.moments);
        let passed = at_ns - self.at_ns;
        // A change while this is read is wrong by one CPU for less than a microsecond.
        let mean = integral.wrapping_sub(self.integral) as i64 as f64 / passed.max(1) as f64;
        let seen = Size {
            now: size.nr,
            min: size.min,
            max: size.max,
            mean: mean.max(0.0),
        };
        (size.min, size.max) = (size.nr, size.nr);
        *self = Look { at_ns, integral };
        seen
    }
}

/// The nests of one attached scheduler.
pub struct Nests {
    topology: Topology,
    ranking: Vec<usize>,
    looks: Option<[Look; 2]>,
}

impl Nests {
    /// Those of `topology`, whose CPUs are ranked like this.
    pub fn new(topology: Topology, ranking: Vec<usize>) -> Self {
        Nests {
            topology,
            ranking,
            looks: None,
        }
    }

    /// A letter for each CPU of a list: primary, reserve, neither.
    fn draw(&self, cpus: &[usize], bss: &types::bss) -> String {
        let is_in = |mask: &types::mask, rank: usize| mask.words[rank / 64] >> (rank % 64) & 1 == 1;
        let letter = |cpu: &usize| match self.ranking.iter().position(|its| its == cpu) {
            Some(rank) if is_in(&bss.primary, rank) => 'P',
            Some(rank) if is_in(&bss.reserve, rank) => 'r',
            _ => '.',
        };
        cpus.iter().map(letter).collect()
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock always exists");
    Duration::from(now).as_nanos() as u64
}

impl Companion<Bpf> for Nests {
    fn round(&mut self, loaded: &mut Loaded<'_>) -> Option<Duration> {
        if self.looks.is_none() {
            let bss = (loaded.maps.bss_data.as_deref_mut()).expect("nest.bpf.h is in it");
            let mut looks = [Look::default(); 2];
            looks[0].again(&mut bss.primary_size, now_ns());
            looks[1].again(&mut bss.reserve_size, now_ns());
            self.looks = Some(looks);
        }
        None
    }

    fn figures(&mut self, loaded: &mut Loaded<'_>) -> Figures {
        let bss = (loaded.maps.bss_data.as_deref_mut()).expect("nest.bpf.h is in it");
        let mut figures = Figures::default();
        let mut nests = Map::new();
        let mut words = Vec::new();
        let [primary, reserve] = self.looks.get_or_insert_default();
        for (name, look, size) in [
            ("primary", primary, &mut bss.primary_size),
            ("reserve", reserve, &mut bss.reserve_size),
        ] {
            let Size {
                now,
                min,
                max,
                mean,
            } = look.again(size, now_ns());
            words.push(format!(
                "{name} {now} ({min} to {max}, {mean:.1} on average)"
            ));
            nests.insert(
                name.into(),
                json!({ "cpus": now, "min": min, "max": max, "mean": mean }),
            );
        }
        figures.lines.push(format!("  {}", words.join(", ")));
        let mut maps = Vec::new();
        for (index, llc) in self.topology.llcs.iter().enumerate() {
            let (cpus, drawn) = (cpulist::format(&llc.cpus), self.draw(&llc.cpus, bss));
            let node = self.topology.nodes[llc.node].id;
            figures
                .lines
                .push(format!("  LLC {index} node {node} CPUs {cpus}: {drawn}"));
            maps.push(json!({ "llc": index, "node": node, "cpus": cpus, "map": drawn }));
        }
        let offline = self.topology.cpus.iter().filter(|cpu| !cpu.online);
        let offline: Vec<usize> = offline.map(|cpu| cpu.id).collect();
        if !offline.is_empty() {
            let (cpus, drawn) = (cpulist::format(&offline), "-".repeat(offline.len()));
            figures
                .lines
                .push(format!("  offline CPUs {cpus}: {drawn}"));
        }
        figures.members.insert("nests".into(), nests.into());
        figures.members.insert("llcs".into(), maps.into());
        figures
    }
}
