// SPDX-License-Identifier: GPL-2.0-only
//! What to move between domains that share a fair level.

use std::time::Duration;

use super::{Domain, Limits, Load, MAX_TARGETS, MIN_CPUS, Move, TAKE, sane};

/// What is asked for beyond the least that makes BPF move one task.
const ONE_TASK_MARGIN: f64 = 1.01;
/// The heaviest task that moves because its domain's turn has come, by what would
/// make the two domains alike: it makes the other one crowded by three times that
/// at most, and for a third of the time.
const TURN: f64 = 4.0;
/// The part of its capacity that tasks of a domain compete for at least, for the
/// hysteresis: below it the clock says little.
const MIN_COMPETED_PART: f64 = 0.1;

/// Domains between which tasks would move, directly or by way of others.
pub(super) struct Group<'a> {
    pub loads: &'a [Load],
    pub domains: &'a [Domain],
    pub limits: &'a Limits,
    /// Weight of the lightest task that each domain could give away, infinity if
    /// there is none.
    pub lightest: &'a [f64],
    /// Whether tasks of the one may enter the other.
    pub allowed: &'a dyn Fn(usize, usize) -> bool,
}

impl Group<'_> {
    /// The moves that bring all domains to one level.
    ///
    /// No budget is asked for that moves nothing (see [`TAKE`]). Weight moves within
    /// an LLC rather than within a node, and within a node rather than across. No
    /// budget is more than one domain has too much and the other too little, with
    /// one exception: where no such budget is of use anywhere, but a single task
    /// would make two domains more alike, there is a budget for that task.
    ///
    /// In the accounts that [`super::Balancer::moved`] keeps, every plan that BPF
    /// carries out brings down the sum of the squares of what domains have too much
    /// or too little, so that none is undone by the next.
    pub fn plan(&self) -> Vec<Move> {
        let Some(level) = Level::new(self.loads, self.domains) else {
            return Vec::new();
        };
        let mut wanted: Vec<f64> = (self.loads.iter().zip(self.domains))
            .map(|(load, domain)| -level.excess(load, domain))
            .collect();
        let mut sources: Vec<Source> = (0..wanted.len())
            .filter(|&from| wanted[from] < 0.0)
            .filter_map(|from| Source::new(self, from, &level))
            .collect();
        sources.sort_by(|a, b| b.excess.total_cmp(&a.excess));

        let mut moves = Vec::new();
        // Single tasks come last: what others have too much is better for filling
        // what a domain lacks.
        for divide in [Source::budgets, Source::one_task] {
            if !moves.is_empty() {
                break;
            }
            for source in &sources {
                let targets = self.targets(source.from, &level, &wanted);
                for planned in divide(source, &targets, &wanted) {
                    wanted[planned.to] -= source.taken(planned.weight);
                    moves.push(planned);
                }
            }
        }
        moves
    }

    /// Where weight may go from a domain and is `wanted`, the best first.
    fn targets(&self, from: usize, level: &Level, wanted: &[f64]) -> Vec<usize> {
        let domains = self.domains;
        let off = |domain: usize| level.off(&self.loads[domain], &domains[domain]).abs();
        let mut targets: Vec<usize> = (0..wanted.len())
            .filter(|&to| wanted[to] > 0.0 && (self.allowed)(from, to))
            .filter(|&to| {
                let far = domains[from].node != domains[to].node;
                off(from).max(off(to)) > self.limits.hysteresis * if far { 2.0 } else { 1.0 }
            })
            .collect();
        targets.sort_by(|&a, &b| {
            let distance = |to| distance(&domains[from], &domains[to]);
            (distance(a).cmp(&distance(b))).then(wanted[b].total_cmp(&wanted[a]))
        });
        targets
    }

    /// Brings up to date what the tasks of each domain are `owed`, in seconds of their
    /// fair service, after `elapsed`. What lasts is no more than twice the patience;
    /// what is level halves with each patience.
    pub fn settle_up(&self, owed: &mut [f64], elapsed: Duration) {
        let Some(patience) = self.limits.patience else {
            return;
        };
        let (patience, elapsed) = (patience.as_secs_f64(), elapsed.as_secs_f64());
        let level = Level::new(self.loads, self.domains);
        for (domain, owed) in owed.iter_mut().enumerate() {
            let off = level.map_or(0.0, |level| {
                let off = |level: Level| level.off(&self.loads[domain], &self.domains[domain]);
                // Who has a CPU each is owed nothing, and so are those whom nobody sees.
                match self.lightest[domain] {
                    lightest if lightest.is_finite() => off(level.bounded(lightest)),
                    _ => off(level).min(0.0),
                }
            });
            *owed = if off.abs() > self.limits.hysteresis {
                (*owed + off * elapsed).clamp(-2.0 * patience, 2.0 * patience)
            } else {
                *owed * 0.5_f64.powf(elapsed / patience)
            };
        }
    }

    /// A move of the lightest task of the domain whose tasks are `owed` most, in
    /// seconds, to the one whose tasks have had too much for longest, of those where
    /// that makes sense.
    pub fn take_turn(&self, owed: &[f64]) -> Option<Move> {
        let patience = self.limits.patience?.as_secs_f64();
        let level = Level::new(self.loads, self.domains)?;
        let excess = |from: usize| {
            let level = level.bounded(self.lightest[from]);
            level.excess(&self.loads[from], &self.domains[from])
        };
        let lacks = |to: usize| -level.excess(&self.loads[to], &self.domains[to]);
        let mut by_owed: Vec<usize> = (0..owed.len()).collect();
        by_owed.sort_by(|&a, &b| owed[b].total_cmp(&owed[a]));
        let fits = |from: usize, to: usize| {
            let too_much = (excess(from) + lacks(to)) / 2.0;
            let open = lacks(to) > 0.0 && self.domains[to].capacity > MIN_CPUS;
            open && (self.allowed)(from, to) && self.lightest[from] <= TURN * too_much
        };
        (by_owed.iter())
            .filter(|&&from| owed[from] > patience && self.lightest[from].is_finite())
            .filter(|&&from| self.lightest[from] >= self.limits.min_weight && excess(from) > 0.0)
            .find_map(|&from| {
                let mut least_owed = by_owed.iter().rev();
                let to = *least_owed.find(|&&to| fits(from, to))?;
                Some(Move {
                    from,
                    to,
                    weight: enough_for(self.lightest[from]),
                })
            })
    }
}

/// The fair level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    /// CPUs that a weight of 1 gets.
    pub price: f64,
    /// Nothing is left for what competes, as averages may have it. Then weight
    /// belongs where the CPUs are, whoever uses them.
    exhausted: bool,
}

impl Level {
    /// `None` if nothing competes or there is nothing to compete for.
    pub fn new(loads: &[Load], domains: &[Domain]) -> Option<Self> {
        let sum = |value: fn(&Load) -> f64| loads.iter().map(value).sum::<f64>();
        let capacity: f64 = domains.iter().map(|domain| sane(domain.capacity)).sum();
        let mut weight = sum(|load| load.weight);
        if weight <= 0.0 || capacity <= MIN_CPUS {
            return None;
        }
        if capacity - sum(|load| load.uncontended - load.yielding) <= MIN_CPUS {
            return Some(Level {
                price: capacity / weight,
                exhausted: true,
            });
        }
        // Those that yield are let in from the dearest on, until the price is
        // not below what they have.
        let mut spare = (capacity - sum(|load| load.uncontended)).max(0.0);
        let mut yielding: Vec<&Load> = loads.iter().filter(|l| l.yielding_weight > 0.0).collect();
        let price = |load: &Load| load.yielding / load.yielding_weight;
        yielding.sort_by(|a, b| price(b).total_cmp(&price(a)));
        for load in yielding {
            if price(load) <= spare / weight {
                break;
            }
            spare += load.yielding;
            weight += load.yielding_weight;
        }
        (spare > MIN_CPUS).then_some(Level {
            price: spare / weight,
            exhausted: false,
        })
    }

    /// CPUs that a domain wants at this level.
    pub fn demand(&self, load: &Load) -> f64 {
        if self.exhausted {
            load.weight * self.price
        } else {
            load.demand(self.price)
        }
    }

    /// Weight that a domain has beyond the fair level; what it lacks if negative.
    pub fn excess(&self, load: &Load, domain: &Domain) -> f64 {
        (self.demand(load) - sane(domain.capacity)) / self.price
    }

    /// The same, in the eyes of a domain that could give away tasks of `lightest` at the
    /// least, infinity if none.
    pub fn too_much(&self, load: &Load, domain: &Domain, lightest: f64) -> f64 {
        // Those that wait where no CPU is left wait for nothing.
        if domain.capacity > MIN_CPUS && lightest.is_finite() {
            self.bounded(lightest).excess(load, domain)
        } else {
            self.excess(load, domain)
        }
    }

    /// How far the tasks that compete in a domain are from their shares, as a part
    /// of those; too little if positive. Where tasks that compete with nobody have
    /// most of the CPUs, what is a little of the capacity is much to the others.
    pub fn off(&self, load: &Load, domain: &Domain) -> f64 {
        let competed = load.weight * self.price;
        let least = MIN_COMPETED_PART * sane(domain.capacity);
        self.excess(load, domain) * self.price / competed.max(least)
    }

    /// The level as a source whose lightest task has a weight of `lightest`
    /// knows it: nobody gets more than a CPU.
    fn bounded(&self, lightest: f64) -> Self {
        Level {
            price: self.price.min(1.0 / lightest),
            ..*self
        }
    }
}

/// The least budget with which BPF takes a task of weight `lightest`, and no heavier one.
fn enough_for(lightest: f64) -> f64 {
    lightest / TAKE * ONE_TASK_MARGIN
}

/// How far from each other two domains are.
fn distance(a: &Domain, b: &Domain) -> u8 {
    if a.node != b.node {
        2
    } else if a.llc != b.llc {
        1
    } else {
        0
    }
}

/// A domain with too much, as one plan sees it.
struct Source<'a> {
    from: usize,
    loads: &'a [Load],
    limits: &'a Limits,
    /// Weight of the lightest task it could give away.
    lightest: f64,
    /// Weight that it has too much.
    excess: f64,
    /// Weight that may leave it in this round.
    most: f64,
}

impl<'a> Source<'a> {
    /// `None` if it has no task to give, or none too many.
    fn new(group: &Group<'a>, from: usize, level: &Level) -> Option<Self> {
        let (load, domain) = (&group.loads[from], &group.domains[from]);
        let (limits, lightest) = (group.limits, group.lightest[from]);
        let part = if domain.capacity > MIN_CPUS {
            sane(limits.max_part).min(1.0)
        } else {
            1.0
        };
        let excess = level.too_much(load, domain, lightest);
        let gives = excess > 0.0 && lightest.is_finite() && lightest >= 0.0;
        gives.then_some(Source {
            from,
            loads: group.loads,
            limits,
            lightest,
            excess,
            most: load.weight * part,
        })
    }

    /// Spreads the excess over `targets`, in their order.
    fn budgets(&self, targets: &[usize], wanted: &[f64]) -> Vec<Move> {
        let mut moves: Vec<Move> = Vec::new();
        let (mut excess, mut most) = (self.excess, self.most);
        for &to in targets {
            if moves.len() == MAX_TARGETS {
                break;
            }
            if let Some(planned) = self.budget(to, excess.min(wanted[to]), most) {
                excess -= self.taken(planned.weight);
                most -= planned.weight;
                moves.push(planned);
            }
        }
        moves
    }

    /// The weight that a budget takes at most, if all tasks are as light as
    /// the lightest: the last of them may be more than was left.
    fn taken(&self, budget: f64) -> f64 {
        let tasks = (budget / self.lightest - 1.0 / TAKE).ceil();
        budget.max(tasks * self.lightest)
    }

    /// A budget for the lightest task alone, for the first of `targets` from
    /// which the domain differs by more than that.
    fn one_task(&self, targets: &[usize], wanted: &[f64]) -> Vec<Move> {
        let enough = enough_for(self.lightest).max(self.limits.min_weight);
        let budget = |&to: &usize| {
            let half = (self.excess + wanted[to]) / 2.0;
            let fits = self.budget(to, half, self.most)?;
            Some(Move {
                weight: enough.min(fits.weight),
                ..fits
            })
        };
        targets.iter().find_map(budget).into_iter().collect()
    }

    /// A budget of `weight`, or what gain and limits leave of it, if it is
    /// enough for a task.
    fn budget(&self, to: usize, weight: f64, most: f64) -> Option<Move> {
        let gain = self.loads[self.from].gain.min(self.loads[to].gain);
        let weight = (weight * gain).min(most);
        let useful = weight >= self.limits.min_weight
            && weight.is_finite()
            && weight > 0.0
            && self.lightest < TAKE * weight;
        useful.then_some(Move {
            from: self.from,
            to,
            weight,
        })
    }
}
