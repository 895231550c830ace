// SPDX-License-Identifier: GPL-2.0-only
//! How much weight moves from which domain to which, so that CPU time is fair
//! across domains that each have a queue by virtual time of their own.
//!
//! Within a domain virtual time makes CPU time fair, and the rate at which the
//! domain's clock advances *is* what a task of weight 100 gets there. Fair
//! across domains means equal rates. No task's load need therefore be tracked:
//! the clock and the CPU time used under contention tell the weight that
//! competes, *W = 100 contended / advance*. What is used beside that, *u*, stays
//! the same at any price.
//!
//! At a price of *lambda* CPUs per 100 of weight a domain demands
//! *u + W lambda / 100*. The fair level is the lambda at which the demand of all
//! domains is their capacity; a domain whose demand there exceeds its own
//! capacity gives weight to domains where it falls short.
//!
//! In a domain that is full, a task for each CPU and none that waits, nobody
//! competes yet, but whoever comes will. CPUs that take work from others before
//! they idle make that the rule. Those tasks yield, from what they have down to
//! what their weight is worth by the rate of their clock, and give nothing.
//!
//! The model is a straight line where the truth bends: a weight that is worth
//! more than a CPU takes only one, and a task that sleeps takes what it wants,
//! yet both count by the rate around them if they run while others wait. The
//! more of a domain they are, the more too much is moved. What then comes back
//! shows it: each reversal halves a domain's *gain*, which recovers slowly.
//! Going to and fro therefore ends, whatever its cause but the next.
//!
//! Tasks are moved whole, so some imbalance may stay that no move makes smaller.
//! It adds up: what the tasks of a domain are *owed*, their part of it times the
//! time it lasts. Once that is more than a patience a task goes although it is too
//! heavy, and the domains take turns in being the crowded one: fair over time. Only
//! what is off by more than the hysteresis adds up.
//!
//! Domains between which no task would move, directly or by way of others, share no
//! level: each such group is planned for itself.

use std::time::Duration;

mod plan;
#[cfg(test)]
mod tests;

use plan::{Group, Level};

/// Destinations that one source has in one round: slots of the table in BPF.
pub const MAX_TARGETS: usize = 4;

/// BPF moves a task while its weight is below this times what is left of the
/// budget. Below 2 every task brings the two domains nearer to each other;
/// this far below, what was moved is not worth moving back.
pub const TAKE: f64 = 1.6;

/// Above what competes on any machine, so that a clock that barely moves does
/// not count as infinitely many tasks.
const MAX_WEIGHT: f64 = 1e9;
/// CPUs' worth below which use is a rounding error.
const MIN_CPUS: f64 = 1e-6;
/// The idle part of its capacity below which a domain begins to be full; no
/// domain is ever quite.
const FULL_IDLE_PART: f64 = 0.1;
/// Half-lives within which giving and taking contradict each other.
const REVERSAL_HALF_LIVES: f64 = 16.0;
/// Half-lives without a reversal after which a lowered gain doubles. Where the
/// model stays wrong, this is how rarely it is tried again.
const RECOVERY_HALF_LIVES: f64 = 128.0;

/// One domain as seen over one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// CPU time used, in CPUs. A weak CPU counts as the part of a strong one
    /// that it is, here as in [`Domain::capacity`].
    pub busy: f64,
    /// The part of `busy` during which tasks waited in the domain's queue, best
    /// without that of tasks whose weight is worth more than the CPU they had.
    pub contended: f64,
    /// Virtual seconds that the domain's clock advanced per second: with the
    /// tasks that wait or, while none does, with those that run.
    pub advance: f64,
}

/// What does not change between samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Domain {
    /// The sum of the capacities of its CPUs, the strongest CPU being 1.
    pub capacity: f64,
    /// Its LLC, where weight moves to most readily.
    pub llc: usize,
    /// Its node, where weight moves to more readily than to another.
    pub node: usize,
}

/// What is worth moving.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The part of the CPUs for which its tasks compete by which a domain must be
    /// off its fair level before weight moves, and so the part by which those
    /// tasks may be off their shares; twice as much before it moves to another
    /// node.
    pub hysteresis: f64,
    /// The least budget worth asking for.
    pub min_weight: f64,
    /// The most of a domain's competing weight that is moved in one round.
    pub max_part: f64,
    /// How much service the tasks of a domain may be owed, in the time in which
    /// they would have it at the fair level, before a task moves that is too heavy
    /// to make domains more alike; `None` for ever.
    pub patience: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hysteresis: 0.05,
            min_weight: 1.0,
            max_part: 0.5,
            patience: None,
        }
    }
}

/// What one domain wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// CPUs used without competition.
    pub uncontended: f64,
    /// The part of them that tasks use while no CPU idles, so that they would
    /// have to share with whoever comes.
    pub yielding: f64,
    /// The weight of those tasks.
    pub yielding_weight: f64,
    /// The weight that competes for the other CPUs.
    pub weight: f64,
    /// The part of an imbalance that is moved at once: 1, or less for a domain
    /// where moves went to and fro.
    pub gain: f64,
}

impl Default for Load {
    /// Of an idle domain.
    fn default() -> Self {
        Load {
            uncontended: 0.0,
            yielding: 0.0,
            yielding_weight: 0.0,
            weight: 0.0,
            gain: 1.0,
        }
    }
}

impl Load {
    /// Takes a sample into the averages, in which it has a weight of `part`.
    fn average(&mut self, sample: &Sample, capacity: f64, part: f64) {
        let busy = sane(sample.busy);
        let contended = sane(sample.contended).min(busy);
        let mut seen = Load {
            uncontended: (busy - contended).min(capacity),
            ..*self
        };
        let weight = |cpus: f64| match sane(sample.advance) {
            _ if cpus <= MIN_CPUS => Some(0.0),
            0.0 => None,
            advance => Some((100.0 * cpus / advance).min(MAX_WEIGHT)),
        };
        if capacity > MIN_CPUS {
            seen.weight = weight(contended).unwrap_or(self.weight);
            let idle_part = (capacity - busy) / capacity;
            let full = (1.0 - idle_part / FULL_IDLE_PART).clamp(0.0, 1.0);
            if let Some(weight) = weight(full * seen.uncontended) {
                seen.yielding = full * seen.uncontended;
                seen.yielding_weight = weight;
            }
        }
        let average = |old: &mut f64, new: f64| *old += part * (new - *old);
        average(&mut self.uncontended, seen.uncontended);
        average(&mut self.yielding, seen.yielding);
        average(&mut self.yielding_weight, seen.yielding_weight);
        average(&mut self.weight, seen.weight);
    }

    /// CPUs wanted at a price of `price` CPUs for a weight of 1.
    fn demand(&self, price: f64) -> f64 {
        let yielded = (self.yielding - self.yielding_weight * price).max(0.0);
        self.uncontended - yielded + self.weight * price
    }
}

/// A budget of weight that should change its domain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Index of the domain that has too much.
    pub from: usize,
    /// Index of the domain that has too little.
    pub to: usize,
    /// How much, 100 being a task of nice 0.
    pub weight: f64,
}

impl Move {
    /// The same between the domains that have these numbers in `group`.
    fn between(&self, group: &[usize]) -> Self {
        Move {
            from: group[self.from],
            to: group[self.to],
            ..*self
        }
    }
}

/// The values that belong to the domains of a group.
fn pick<T: Copy>(values: &[T], group: &[usize]) -> Vec<T> {
    group.iter().map(|&domain| values[domain]).collect()
}

/// Keeps averages of all domains and plans from them.
#[derive(Clone, Debug)]
pub struct Balancer {
    domains: Vec<Domain>,
    half_life: Duration,
    limits: Limits,
    loads: Vec<Load>,
    trends: Vec<Trend>,
    /// What the tasks of each domain are owed, in seconds of their fair service.
    owed: Vec<f64>,
    /// The domains between which tasks were last to move for that.
    turns: Vec<(usize, usize)>,
    /// Which domains the tasks of each may enter.
    allowed: Vec<Vec<bool>>,
    known: Vec<Known>,
    /// The time for which `owed` has to be brought up to date.
    unsettled: Duration,
}

/// How much is known of a domain.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    /// Nothing: the next sample is the average.
    Not,
    /// Nothing after the next sample: that is of two states.
    NotAfter,
    /// The averages.
    Averaged,
}

/// What a domain did of late.
#[derive(Clone, Copy, Debug, Default)]
struct Trend {
    /// Whether it gave rather than took.
    gave: bool,
    /// How much, since it last did the opposite.
    weight: f64,
    /// How much was the opposite that came just before.
    reversed: Option<f64>,
    /// Half-lives since it gave or took.
    moved_ago: f64,
    /// Half-lives since its gain changed.
    changed_ago: f64,
}

impl Trend {
    /// Notes that the domain gave or took `weight`; whether that makes a
    /// reversal, of at least half of what went the other way: less is what
    /// tasks that cannot be divided leave to be corrected, and dies down.
    fn turn(&mut self, gave: bool, weight: f64) -> bool {
        let recent = self.weight > 0.0 && self.moved_ago < REVERSAL_HALF_LIVES;
        if !recent || self.gave != gave {
            *self = Trend {
                gave,
                weight: 0.0,
                reversed: recent.then_some(self.weight),
                ..*self
            };
        }
        self.weight += weight;
        self.moved_ago = 0.0;
        let reversal = (self.reversed).is_some_and(|reversed| self.weight >= reversed / 2.0);
        if reversal {
            self.reversed = None;
            self.changed_ago = 0.0;
        }
        reversal
    }
}

impl Balancer {
    /// For `domains`, with averages that forget half of the past in
    /// `half_life`. Until the first sample nothing competes.
    pub fn new(domains: Vec<Domain>, half_life: Duration, limits: Limits) -> Self {
        Balancer {
            loads: vec![Load::default(); domains.len()],
            trends: vec![Trend::default(); domains.len()],
            owed: vec![0.0; domains.len()],
            turns: Vec::new(),
            allowed: vec![vec![true; domains.len()]; domains.len()],
            known: vec![Known::Not; domains.len()],
            unsettled: Duration::ZERO,
            domains,
            half_life,
            limits,
        }
    }

    /// Takes a sample of every domain, over `elapsed`, into the averages; the
    /// first one is the average.
    ///
    /// Numbers that cannot be are taken for the nearest that can. A domain
    /// without capacity, and one whose clock stands still although tasks wait,
    /// show no weight: theirs stays what it was.
    pub fn observe(&mut self, samples: &[Sample], elapsed: Duration) {
        let half_lives = if self.half_life.is_zero() {
            f64::INFINITY
        } else {
            elapsed.as_secs_f64() / self.half_life.as_secs_f64()
        };
        let part = 1.0 - 0.5_f64.powf(half_lives);
        let domains = self.domains.iter().zip(&mut self.known);
        for ((load, sample), (domain, known)) in self.loads.iter_mut().zip(samples).zip(domains) {
            let capacity = sane(domain.capacity);
            *known = match known {
                Known::NotAfter => Known::Not,
                Known::Not => {
                    load.average(sample, capacity, 1.0);
                    Known::Averaged
                }
                Known::Averaged => {
                    load.average(sample, capacity, part);
                    Known::Averaged
                }
            };
        }
        self.unsettled += elapsed;
        // It takes rounds, however long they are, to learn from.
        let half_lives = half_lives.min(1.0);
        for (trend, load) in self.trends.iter_mut().zip(&mut self.loads) {
            trend.moved_ago += half_lives;
            trend.changed_ago += half_lives;
            if trend.changed_ago >= RECOVERY_HALF_LIVES {
                trend.changed_ago = 0.0;
                load.gain = (2.0 * load.gain).min(1.0);
            }
        }
    }

    /// Tells which domains the tasks of `from` may enter, those that could move:
    /// one entry each, all until told.
    pub fn allow(&mut self, from: usize, allowed: impl IntoIterator<Item = bool>) {
        for (old, new) in self.allowed[from].iter_mut().zip(allowed) {
            *old = new;
        }
    }

    /// The domains, each in one group with those whose CPUs its tasks can get, or
    /// whose tasks can get its CPUs.
    ///
    /// Tasks that are allowed to move connect two domains only if they would: those
    /// of a domain that has no more than its part stay, and do not bring the CPUs
    /// that they could use to others. So whoever has too little where everything
    /// that is connected shares one level ties nobody together, and what falls apart
    /// then has levels of its own, at which the same is asked again.
    fn groups(&self, lightest: &[f64]) -> Vec<Vec<usize>> {
        let mut groups = Vec::new();
        let mut left = self.connected((0..self.domains.len()).collect(), |_| true);
        while let Some(group) = left.pop() {
            let level = Level::new(&pick(&self.loads, &group), &pick(&self.domains, &group));
            let parts = match level {
                Some(level) => self.connected(group, |at| {
                    level.too_much(&self.loads[at], &self.domains[at], lightest[at]) > 0.0
                }),
                None => vec![group],
            };
            match parts.len() {
                1 => groups.extend(parts),
                _ => left.extend(parts),
            }
        }
        groups.sort_unstable();
        groups
    }

    /// What `domains` fall into if only the tasks of those that `give` connect them.
    fn connected(&self, domains: Vec<usize>, give: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
        let goes = |from: usize, to: usize| self.allowed[from][to] && give(from);
        let mut left = domains;
        let mut groups = Vec::new();
        while let Some(&first) = left.first() {
            let mut group = vec![first];
            left.retain(|&domain| domain != first);
            let mut next = 0;
            while let Some(&at) = group.get(next) {
                let connected = |to: usize| goes(at, to) || goes(to, at);
                let (found, rest) = left.into_iter().partition::<Vec<_>, _>(|&to| connected(to));
                group.extend(found);
                left = rest;
                next += 1;
            }
            group.sort_unstable();
            groups.push(group);
        }
        groups
    }

    /// The tasks of `domain` changed during the next sample, which is of neither
    /// state: it is left out, the one after it is the average, and until then no
    /// weight moves from or to this domain.
    pub fn changed(&mut self, domain: usize) {
        self.known[domain] = Known::NotAfter;
    }

    /// Takes into account that `weight` really went from one domain to
    /// another, so that it is not asked for again while the averages lag.
    pub fn moved(&mut self, from: usize, to: usize, weight: f64) {
        let weight = sane(weight);
        if from == to || from.max(to) >= self.domains.len() || weight == 0.0 {
            return;
        }
        self.loads[from].weight = (self.loads[from].weight - weight).max(0.0);
        self.loads[to].weight = (self.loads[to].weight + weight).min(MAX_WEIGHT);
        // Other tasks, another account.
        (self.owed[from], self.owed[to]) = (0.0, 0.0);
        // Whose turn it was says nothing about the model.
        if let Some(turn) = self.turns.iter().position(|&turn| turn == (from, to)) {
            self.turns.remove(turn);
            return;
        }
        for (domain, gave) in [(from, true), (to, false)] {
            if self.trends[domain].turn(gave, weight) {
                self.loads[domain].gain /= 2.0;
            }
        }
    }

    /// The moves that bring all domains of a group to one level, the most urgent
    /// source first. `lightest` is the weight of the lightest task that each domain
    /// could give away, infinity if there is none. Where nothing is planned, there
    /// may be a move for a domain whose tasks are owed too much.
    pub fn plan(&mut self, lightest: &[f64]) -> Vec<Move> {
        let lightest: Vec<f64> = (0..self.domains.len())
            .map(|domain| lightest.get(domain).copied().unwrap_or(f64::INFINITY))
            .collect();
        self.turns.clear();
        let mut moves = Vec::new();
        for group in self.groups(&lightest) {
            let its = Group {
                loads: &pick(&self.loads, &group),
                domains: &pick(&self.domains, &group),
                limits: &self.limits,
                lightest: &pick(&lightest, &group),
                allowed: &|from, to| {
                    let (from, to) = (group[from], group[to]);
                    let known = [from, to].map(|domain| self.known[domain]);
                    self.allowed[from][to] && known == [Known::Averaged; 2]
                },
            };
            let planned = its.plan();
            let mut owed = pick(&self.owed, &group);
            its.settle_up(&mut owed, self.unsettled);
            let turn = match planned.is_empty() {
                true => its.take_turn(&owed),
                false => None,
            };
            for (&domain, owed) in group.iter().zip(owed) {
                self.owed[domain] = owed;
            }
            let turn = turn.map(|its| its.between(&group));
            self.turns.extend(turn.map(|its| (its.from, its.to)));
            moves.extend(planned.iter().map(|its| its.between(&group)).chain(turn));
        }
        self.unsettled = Duration::ZERO;
        moves
    }

    /// The averages of each domain.
    pub fn loads(&self) -> &[Load] {
        &self.loads
    }

    /// What a domain wants at the fair level as a part of its capacity: 1 is
    /// fair, more is crowded. Without capacity it is what it wants, in CPUs.
    pub fn load(&self, domain: usize) -> f64 {
        let (Some(load), Some(Domain { capacity, .. })) =
            (self.loads.get(domain), self.domains.get(domain))
        else {
            return 0.0;
        };
        let demand = match Level::new(&self.loads, &self.domains) {
            Some(level) => level.demand(load),
            None => load.uncontended,
        };
        if *capacity > MIN_CPUS {
            demand / capacity
        } else {
            demand
        }
    }
}

/// A number that a measurement can give.
fn sane(value: f64) -> f64 {
    if value.is_finite() {
        value.max(0.0)
    } else {
        0.0
    }
}
