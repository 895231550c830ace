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
//! Going to and fro therefore ends, whatever its cause.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Destinations that one source has in one round: slots of the table in BPF.
pub const MAX_TARGETS: usize = 4;

/// BPF moves a task while its weight is below this times what is left of the
/// budget. Below 2 every task brings the two domains nearer to each other;
/// this far below, what was moved is not worth moving back.
pub const TAKE: f64 = 1.6;

/// What is asked for beyond the least that makes BPF move one task.
const ONE_TASK_MARGIN: f64 = 1.01;

/// Above what competes on any machine, so that a clock that barely moves does
/// not count as infinitely many tasks.
const MAX_WEIGHT: f64 = 1e9;
/// CPUs' worth below which use is a rounding error.
const MIN_CPUS: f64 = 1e-6;
/// The idle part of its capacity below which a domain begins to be full; no
/// domain is ever quite.
const FULL_IDLE_PART: f64 = 0.1;
/// The part of its capacity that tasks of a domain compete for at least, for the
/// hysteresis: below it the clock says little.
const MIN_COMPETED_PART: f64 = 0.1;
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
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            hysteresis: 0.05,
            min_weight: 1.0,
            max_part: 0.5,
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

/// Keeps averages of all domains and plans from them.
#[derive(Clone, Debug)]
pub struct Balancer {
    domains: Vec<Domain>,
    half_life: Duration,
    limits: Limits,
    loads: Vec<Load>,
    trends: Vec<Trend>,
    observed: bool,
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
            domains,
            half_life,
            limits,
            observed: false,
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
        let part = if self.observed {
            1.0 - 0.5_f64.powf(half_lives)
        } else {
            1.0
        };
        self.observed = true;

        for ((load, domain), sample) in self.loads.iter_mut().zip(&self.domains).zip(samples) {
            load.average(sample, sane(domain.capacity), part);
        }
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

    /// Takes into account that `weight` really went from one domain to
    /// another, so that it is not asked for again while the averages lag.
    pub fn moved(&mut self, from: usize, to: usize, weight: f64) {
        let weight = sane(weight);
        if from == to || from.max(to) >= self.domains.len() || weight == 0.0 {
            return;
        }
        self.loads[from].weight = (self.loads[from].weight - weight).max(0.0);
        self.loads[to].weight = (self.loads[to].weight + weight).min(MAX_WEIGHT);
        for (domain, gave) in [(from, true), (to, false)] {
            if self.trends[domain].turn(gave, weight) {
                self.loads[domain].gain /= 2.0;
            }
        }
    }

    /// The moves that bring all domains to one level, the most urgent source
    /// first; see [`plan`] about `lightest`.
    pub fn plan(&self, lightest: &[f64]) -> Vec<Move> {
        plan(&self.loads, &self.domains, &self.limits, lightest)
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

/// The fair level.
#[derive(Clone, Copy, Debug)]
struct Level {
    /// CPUs that a weight of 1 gets.
    price: f64,
    /// Nothing is left for what competes, as averages may have it. Then weight
    /// belongs where the CPUs are, whoever uses them.
    exhausted: bool,
}

impl Level {
    /// `None` if nothing competes or there is nothing to compete for.
    fn new(loads: &[Load], domains: &[Domain]) -> Option<Self> {
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
    fn demand(&self, load: &Load) -> f64 {
        if self.exhausted {
            load.weight * self.price
        } else {
            load.demand(self.price)
        }
    }

    /// Weight that a domain has beyond the fair level; what it lacks if negative.
    fn excess(&self, load: &Load, domain: &Domain) -> f64 {
        (self.demand(load) - sane(domain.capacity)) / self.price
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

/// The moves that bring all domains to one level.
///
/// `lightest` is the weight of the lightest task that each domain could give
/// away, infinity if there is none: no budget is asked for that moves nothing
/// (see [`TAKE`]). Weight moves within an LLC rather than within a node, and
/// within a node rather than across. No budget is more than one domain has too
/// much and the other too little, with one exception: where no such budget is
/// of use anywhere, but a single task would make two domains more alike, there
/// is a budget for that task.
///
/// In the accounts that [`Balancer::moved`] keeps, every plan that BPF carries
/// out brings down the sum of the squares of what domains have too much or too
/// little, so that none is undone by the next.
pub fn plan(loads: &[Load], domains: &[Domain], limits: &Limits, lightest: &[f64]) -> Vec<Move> {
    let Some(level) = Level::new(loads, domains) else {
        return Vec::new();
    };
    let mut wanted: Vec<f64> = (loads.iter().zip(domains))
        .map(|(load, domain)| -level.excess(load, domain))
        .collect();
    // Where tasks that compete with nobody have most of the CPUs, what is a
    // little of the capacity is much to the others.
    let off: Vec<f64> = (wanted.iter().zip(loads).zip(domains))
        .map(|((wanted, load), domain)| {
            let competed = load.weight * level.price;
            let least = MIN_COMPETED_PART * sane(domain.capacity);
            wanted.abs() * level.price / competed.max(least)
        })
        .collect();
    let mut sources: Vec<Source> = (0..wanted.len())
        .filter(|&from| wanted[from] < 0.0)
        .filter_map(|from| {
            let lightest = *lightest.get(from)?;
            Source::new(from, loads, domains, limits, &level, lightest)
        })
        .collect();
    sources.sort_by(|a, b| b.excess.total_cmp(&a.excess));
    let targets = |from: usize, wanted: &[f64]| {
        let mut targets: Vec<usize> = (0..wanted.len())
            .filter(|&to| {
                let far = domains[from].node != domains[to].node;
                let bar = limits.hysteresis * if far { 2.0 } else { 1.0 };
                wanted[to] > 0.0 && (off[from] > bar || off[to] > bar)
            })
            .collect();
        targets.sort_by(|&a, &b| {
            let distance = |to| distance(&domains[from], &domains[to]);
            (distance(a).cmp(&distance(b))).then(wanted[b].total_cmp(&wanted[a]))
        });
        targets
    };

    let mut moves = Vec::new();
    // Single tasks come last: what others have too much is better for filling
    // what a domain lacks.
    for divide in [Source::budgets, Source::one_task] {
        if !moves.is_empty() {
            break;
        }
        for source in &sources {
            for planned in divide(source, &targets(source.from, &wanted), &wanted) {
                wanted[planned.to] -= source.taken(planned.weight);
                moves.push(planned);
            }
        }
    }
    moves
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
    fn new(
        from: usize,
        loads: &'a [Load],
        domains: &[Domain],
        limits: &'a Limits,
        level: &Level,
        lightest: f64,
    ) -> Option<Self> {
        let (load, domain) = (&loads[from], &domains[from]);
        let has_cpus = domain.capacity > MIN_CPUS;
        let (part, level) = if has_cpus {
            (sane(limits.max_part).min(1.0), level.bounded(lightest))
        } else {
            // Those that wait where no CPU is left wait for nothing.
            (1.0, *level)
        };
        let excess = level.excess(load, domain);
        let gives = excess > 0.0 && lightest.is_finite() && lightest >= 0.0;
        gives.then_some(Source {
            from,
            loads,
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
        let enough = (self.lightest / TAKE * ONE_TASK_MARGIN).max(self.limits.min_weight);
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
