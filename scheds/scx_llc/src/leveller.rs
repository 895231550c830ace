// SPDX-License-Identifier: GPL-2.0-only
//! The eyes of the balancer: reads what the queues' clocks and CPUs did, lets
//! `rota_core::balance` plan, and writes the budgets that BPF spends. Also what
//! `--stats` tells of each queue and node.
//!
//! It looks every interval while tasks wait, and sleeps until BPF signals when
//! none does.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use rota_core::balance::{Balancer, Domain, Limits, MAX_TARGETS, Move, Sample, TAKE};
use rota_core::topology::{MAX_CAPACITY, Shard, Topology, cpulist};
use rota_core::{Companion, Figures};
use serde_json::{Map, Value, json};

use crate::bpf::{Bpf, Loaded, types};

/// CPUs' worth of contention in an interval below which it was nothing.
const QUIET: f64 = 0.001;
/// Half of what tasks may be off their share. What slices and ticks make of the clocks of level
/// queues, averaged over a second, stays within 2 %.
const LIMITS: Limits = Limits {
    hysteresis: 0.03,
    min_weight: 1.0,
    max_part: 0.5,
    // A quarter of a percent of 20 s; and a move each second where nothing fits, with the two
    // looks that it takes to see what the last one did.
    patience: Some(Duration::from_millis(50)),
};
/// For how many looks what a task of a queue was seen to be allowed counts for its others.
const ALLOWED_FOR: u32 = 4;
/// How often a scheduler that has no balancer looks, for its statistics.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// What one queue counted up to now.
#[derive(Clone, Debug, Default)]
struct Reading {
    busy_ns: u64,
    contended_ns: u64,
    clock: u64,
    /// How far the clock went for another reason than run time, in 2^20 ns.
    leapt: u32,
}

impl Reading {
    /// How far run time has taken the clock since `old`.
    fn advance_since(&self, old: &Reading) -> u64 {
        let leapt = u64::from(self.leapt.wrapping_sub(old.leapt)) << 20;
        let passed = self.clock.wrapping_sub(old.clock);
        passed.saturating_sub(leapt)
    }
}

/// What is told of one queue.
#[derive(Clone, Debug, Default)]
struct Account {
    sample: Sample,
    /// Weight: asked to be moved away, moved away, moved here.
    asked: u64,
    out: u64,
    into: u64,
    /// What of `asked` has still to be moved, by the queue to which.
    open: BTreeMap<usize, u64>,
    /// Tasks that it has by stealing, and whether that changed in the last interval.
    stolen: u32,
    changed: bool,
}

/// The balancer of one attached scheduler.
pub struct Leveller {
    shards: Vec<Shard>,
    nodes: Vec<usize>,
    capacities: Vec<f64>,
    /// `None`: look, but move nothing.
    interval: Option<Duration>,
    balancer: Balancer,
    last: Option<(Instant, Vec<Reading>)>,
    /// What the slots of each queue had moved when they were last looked at.
    moved: Vec<Vec<u64>>,
    /// For how many looks more the tasks of each queue are taken to be allowed in each.
    allowed: Vec<Vec<u32>>,
    accounts: Vec<Account>,
}

impl Leveller {
    /// For `shards` of `topology`; an interval of 0 moves nothing.
    pub fn new(
        topology: &Topology,
        shards: Vec<Shard>,
        interval: Duration,
        half_life: Duration,
    ) -> Self {
        let strength = |id| f64::from(topology.capacity(id)) / f64::from(MAX_CAPACITY);
        let highest = topology.nr_cpu_ids();
        let nodes: Vec<usize> = (shards.iter())
            .map(|shard| topology.llcs[shard.llc].node)
            .collect();
        let capacities: Vec<f64> = (0..highest).map(strength).collect();
        let domains = std::iter::zip(&shards, &nodes).map(|(shard, &node)| Domain {
            capacity: shard.cpus.iter().map(|&cpu| capacities[cpu]).sum(),
            llc: shard.llc,
            node,
        });
        Leveller {
            balancer: Balancer::new(domains.collect(), half_life, LIMITS),
            interval: (!interval.is_zero()).then_some(interval),
            last: None,
            moved: Vec::new(),
            allowed: vec![vec![0; shards.len()]; shards.len()],
            accounts: vec![Account::default(); shards.len()],
            shards,
            nodes,
            capacities,
        }
    }

    fn read(&self, bss: &types::bss) -> Vec<Reading> {
        let read = |(index, shard): (usize, &Shard)| {
            let clock = &bss.shard_states[index].clock;
            let mut reading = Reading {
                clock: clock.now,
                leapt: clock.leapt,
                ..Reading::default()
            };
            for &cpu in &shard.cpus {
                let strength = self.capacities[cpu];
                let scaled = |ns: u64| (ns as f64 * strength) as u64;
                reading.busy_ns += scaled(bss.fair_cpus[cpu].busy_ns);
                reading.contended_ns += scaled(bss.fair_cpus[cpu].contended_ns);
            }
            reading
        };
        self.shards.iter().enumerate().map(read).collect()
    }

    /// Ends all budgets, and takes over what BPF has moved since the last call: in this order, so
    /// that what is left of a budget stays so.
    fn settle(&mut self, bss: &mut types::bss) {
        let exports = &mut bss.shard_exports[..self.shards.len()];
        (exports.iter_mut().flatten()).for_each(|slot| slot.budget = 0);
        bss.balance_active = 0;
        fence(Ordering::SeqCst);
        if self.moved.is_empty() {
            // By a predecessor, with other options.
            self.moved = slots_moved(exports);
        }
        for (from, slots) in exports.iter().enumerate() {
            for (slot, seen) in slots.iter().zip(&mut self.moved[from]) {
                let weight = slot.moved - *seen;
                *seen = slot.moved;
                let to = slot.target as usize;
                if weight > 0 && to < self.shards.len() {
                    if let Some(open) = self.accounts[from].open.get_mut(&to) {
                        *open = open.saturating_sub(weight);
                    }
                    self.balancer.moved(from, to, weight as f64);
                    self.balancer.changed(from);
                    self.balancer.changed(to);
                    self.accounts[from].out += weight;
                    self.accounts[to].into += weight;
                }
            }
        }
    }

    /// A steal that lasts divides an interval in two states. Where they go on, one is like the next.
    fn note_steals(&mut self, states: &[types::shard_state]) {
        for (shard, (state, account)) in states.iter().zip(&mut self.accounts).enumerate() {
            let changed = state.stolen != account.stolen;
            if changed && !account.changed {
                self.balancer.changed(shard);
            }
            (account.stolen, account.changed) = (state.stolen, changed);
        }
    }

    /// Takes from one task of each queue, of those that could be moved, where they may go.
    fn ask_affinity(&mut self, states: &mut [types::shard_state]) {
        for (from, state) in states.iter_mut().enumerate() {
            let allowed = &mut self.allowed[from];
            allowed
                .iter_mut()
                .for_each(|looks| *looks = looks.saturating_sub(1));
            let task = std::mem::take(&mut state.mover);
            // It may have ended; the next one will tell.
            let mask = (task != 0).then(|| sched_getaffinity(Pid::from_raw(task as i32)));
            if let Some(Ok(mask)) = mask {
                let open = |llc| {
                    let own = self.shards.iter().filter(|shard| shard.llc == llc);
                    (own.flat_map(|shard| &shard.cpus)).any(|&cpu| mask.is_set(cpu) == Ok(true))
                };
                for (looks, to) in allowed.iter_mut().zip(&self.shards) {
                    if open(to.llc) {
                        *looks = ALLOWED_FOR;
                    }
                }
            }
            self.balancer
                .allow(from, allowed.iter().map(|&looks| looks > 0));
        }
    }

    /// Gives BPF the budgets of `plan`. Tasks are moved whole, so what is asked is as many of the
    /// lightest as a budget allows.
    fn hand_out(&mut self, bss: &mut types::bss, plan: &[Move], lightest: &[f64]) {
        let exports = &mut bss.shard_exports[..self.shards.len()];
        for (from, slots) in exports.iter_mut().enumerate() {
            let moves = || plan.iter().filter(|its| its.from == from);
            let task = lightest.get(from).copied().unwrap_or(f64::INFINITY);
            let Account { asked, open, .. } = &mut self.accounts[from];
            open.retain(|&to, left| {
                let again = moves().any(|its| its.to == to);
                let counts = still_asked(again, self.allowed[from][to]);
                if counts == Some(false) {
                    *asked -= *left;
                }
                counts.is_none()
            });
            for (slot, its) in slots.iter_mut().zip(moves()) {
                slot.target = its.to as u64;
                slot.budget = its.weight.round() as i64;
                let weight = whole(its.weight, task).round() as u64;
                *open.entry(its.to).or_default() += weight;
                *asked += weight;
            }
        }
        bss.balance_active = u32::from(!plan.is_empty());
    }

    /// One look, and a plan.
    fn look(&mut self, bss: &mut types::bss) {
        let now = Instant::now();
        let readings = self.read(bss);
        self.settle(bss);
        self.note_steals(&bss.shard_states[..self.shards.len()]);
        let Some((before, old)) = self.last.replace((now, readings.clone())) else {
            return;
        };
        let elapsed = now - before;
        let per_second = |ns: u64| ns as f64 / elapsed.as_nanos().max(1) as f64;
        let mut samples = Vec::new();
        for (account, (new, old)) in self.accounts.iter_mut().zip(readings.iter().zip(&old)) {
            account.sample = Sample {
                busy: per_second(new.busy_ns.saturating_sub(old.busy_ns)),
                contended: per_second(new.contended_ns.saturating_sub(old.contended_ns)),
                advance: per_second(new.advance_since(old)),
            };
            samples.push(account.sample);
        }
        self.balancer.observe(&samples, elapsed);
        if self.interval.is_none() {
            return;
        }
        let states = &mut bss.shard_states[..self.shards.len()];
        let lightest = |weight: u64| {
            if weight == 0 {
                f64::INFINITY
            } else {
                weight as f64
            }
        };
        let lightest: Vec<f64> = states
            .iter()
            .map(|state| lightest(state.lightest))
            .collect();
        states.iter_mut().for_each(|state| state.lightest = 0);
        self.ask_affinity(states);
        let plan = self.balancer.plan(&lightest);
        log::debug!("{samples:.3?} lightest {lightest:?}: {plan:.0?}");
        self.hand_out(bss, &plan, &lightest);
    }

    /// Whether tasks waited in the last interval, or something is under way.
    fn is_busy(&self) -> bool {
        let contended = |account: &Account| account.sample.contended;
        self.accounts.iter().map(contended).sum::<f64>() > QUIET
    }
}

/// What each slot of each queue has moved since the scheduler was attached.
fn slots_moved(exports: &[[types::shard_export; MAX_TARGETS]]) -> Vec<Vec<u64>> {
    let of = |slots: &[types::shard_export; MAX_TARGETS]| slots.map(|slot| slot.moved).to_vec();
    exports.iter().map(of).collect()
}

/// Whether weight that was asked to be moved, and was not, counts as asked: not if it is asked for again,
/// nor if no task of its queue may go there, of which the last was seen to be `allowed` for so many
/// looks more. `None` while nobody knows: no task has told since.
fn still_asked(again: bool, allowed: u32) -> Option<bool> {
    match allowed {
        0 => Some(false),
        _ if again => Some(false),
        ALLOWED_FOR => Some(true),
        _ => None,
    }
}

/// What BPF moves of a budget if all tasks have the weight `task`.
fn whole(budget: f64, task: f64) -> f64 {
    let tasks = (budget / task - 1.0 / TAKE).max(0.0).ceil();
    tasks * task
}

impl Companion<Bpf> for Leveller {
    fn round(&mut self, loaded: &mut Loaded<'_>) -> Option<Duration> {
        if self.shards.len() == 1 {
            return None;
        }
        let bss = (loaded.maps.bss_data.as_deref_mut()).expect("shard.bpf.h is in it");
        let first = self.last.is_none();
        self.look(bss);
        if first || self.is_busy() {
            return Some(self.interval.unwrap_or(STATS_INTERVAL));
        }
        // Before the signal is asked for, so that the next look begins with it.
        self.last = None;
        bss.balance_sleeps = 1;
        None
    }

    fn figures(&mut self, _: &mut Loaded<'_>) -> Figures {
        let mut lines = Vec::new();
        let mut llcs = Vec::new();
        let mut nodes: Map<String, Value> = Map::new();
        for (index, (shard, account)) in self.shards.iter().zip(&self.accounts).enumerate() {
            let (node, cpus) = (self.nodes[index], cpulist::format(&shard.cpus));
            let Sample {
                busy, contended, ..
            } = account.sample;
            let load = self.balancer.load(index);
            lines.push(format!(
                "  LLC {} node {node} CPUs {cpus}: busy {busy:.2}, waited for {contended:.2}, load \
                 {load:.2}, weight asked away {}, moved away {}, moved here {}",
                shard.llc, account.asked, account.out, account.into
            ));
            llcs.push(json!({
                "llc": shard.llc, "node": node, "cpus": cpus, "busy": busy, "contended": contended,
                "load": load, "weight_asked": account.asked, "weight_moved": account.out,
                "weight_received": account.into,
            }));
            let sum = nodes
                .entry(node.to_string())
                .or_insert(json!({ "busy": 0.0, "moved": 0 }));
            sum["busy"] = json!(sum["busy"].as_f64().unwrap_or(0.0) + busy);
            sum["moved"] = json!(sum["moved"].as_u64().unwrap_or(0) + account.out);
        }
        let mut members = Map::new();
        members.insert("queues".into(), llcs.into());
        members.insert("nodes".into(), nodes.into());
        Figures { lines, members }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_moved_was_not_asked() {
        // A task that came by was allowed there; the next four are not.
        let looks: Vec<_> = (0..=ALLOWED_FOR).rev().collect();
        let told = looks.iter().map(|&allowed| still_asked(false, allowed));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [Some(true), None, None, None, Some(false)]
        );
        assert!(
            looks
                .iter()
                .all(|&allowed| still_asked(true, allowed) == Some(false))
        );
    }
}
