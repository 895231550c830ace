// SPDX-License-Identifier: GPL-2.0-only
//! Plans, applied to machines whose fair shares are computed exactly.
//!
//! A machine has domains of some CPUs and tasks that never sleep. Each round
//! samples it, plans, and moves tasks in the way that BPF does.

use proptest::prelude::*;

use super::*;

mod turns;

/// What is planned for these domains if tasks may go everywhere.
fn plan(loads: &[Load], domains: &[Domain], limits: &Limits, lightest: &[f64]) -> Vec<Move> {
    let group = Group {
        loads,
        domains,
        limits,
        lightest,
        allowed: &|_, _| true,
    };
    group.plan()
}

const HALF_LIFE: Duration = Duration::from_millis(100);
/// So long that the averages are the last sample.
const ROUND: Duration = Duration::from_secs(3);
/// Where weights are what the model takes them for, all is settled within this.
const ROUNDS_TO_SETTLE: usize = 12;
/// Anywhere else: gains must come down first, but most take no longer.
const ROUNDS_AT_MOST: usize = 24;
/// Rounds in which what is settled must stay.
const ROUNDS_TO_STAY: usize = 10;

/// Whether the time of tasks that have all they can use counts as contended
/// because others wait. BPF may tell it either way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Capped {
    Contend,
    LeftOut,
}

#[derive(Clone, Debug)]
struct Machine {
    /// CPUs, LLC and node of each domain.
    domains: Vec<(usize, usize, usize)>,
    /// Weights of the tasks in each domain.
    tasks: Vec<Vec<f64>>,
    capped: Capped,
}

impl Machine {
    fn new(cpus: &[usize], tasks: Vec<Vec<f64>>) -> Self {
        Machine {
            domains: cpus.iter().map(|&cpus| (cpus, 0, 0)).collect(),
            tasks,
            capped: Capped::Contend,
        }
    }

    fn domains(&self) -> Vec<Domain> {
        let domain = |&(cpus, llc, node): &(usize, usize, usize)| Domain {
            capacity: cpus as f64,
            llc,
            node,
        };
        self.domains.iter().map(domain).collect()
    }

    fn balancer(&self, limits: Limits) -> Balancer {
        Balancer::new(self.domains(), HALF_LIFE, limits)
    }

    /// Fair shares within a domain: in proportion to weight, and no task gets
    /// more than a CPU.
    fn sample(&self, domain: usize) -> Sample {
        let (cpus, tasks) = (self.domains[domain].0, &self.tasks[domain]);
        if tasks.len() <= cpus {
            return Sample {
                busy: tasks.len() as f64,
                contended: 0.0,
                // A clock shows the latest virtual time.
                advance: 100.0 / tasks.iter().copied().fold(f64::INFINITY, f64::min),
            };
        }
        let mut weights = tasks.clone();
        weights.sort_by(|a, b| b.total_cmp(a));
        let (mut left, mut weight) = (cpus as f64, weights.iter().sum::<f64>());
        for heaviest in weights {
            if heaviest * left < weight {
                break;
            }
            left -= 1.0;
            weight -= heaviest;
        }
        Sample {
            busy: cpus as f64,
            contended: match self.capped {
                Capped::Contend => cpus as f64,
                Capped::LeftOut => left,
            },
            advance: 100.0 * left / weight,
        }
    }

    fn samples(&self) -> Vec<Sample> {
        (0..self.domains.len()).map(|i| self.sample(i)).collect()
    }

    fn lightest(&self) -> Vec<f64> {
        let lightest = |tasks: &Vec<f64>| tasks.iter().copied().fold(f64::INFINITY, f64::min);
        self.tasks.iter().map(lightest).collect()
    }

    /// Moves tasks as BPF does, in an order that `seed` rotates; what moved.
    fn apply(&mut self, moves: &[Move], seed: usize) -> Vec<Move> {
        let mut done = Vec::new();
        for planned in moves {
            let source = &mut self.tasks[planned.from];
            let len = source.len().max(1);
            source.rotate_left(seed % len);
            let mut left = planned.weight;
            let (mut going, mut staying) = (Vec::new(), Vec::new());
            for weight in source.drain(..) {
                if weight < TAKE * left {
                    left -= weight;
                    going.push(weight);
                } else {
                    staying.push(weight);
                }
            }
            *source = staying;
            self.tasks[planned.to].extend(&going);
            done.push(Move {
                weight: going.iter().sum(),
                ..*planned
            });
        }
        done
    }

    /// A round of the balancer; whether anything was planned.
    fn round(&mut self, balancer: &mut Balancer, seed: usize) -> bool {
        balancer.observe(&self.samples(), ROUND);
        let moves = balancer.plan(&self.lightest());
        let done = self.apply(&moves, seed);
        let useful = |done: &[Move]| done.iter().any(|done| done.weight > 0.0);
        assert!(
            moves.is_empty() || useful(&done),
            "no budget is used: {moves:?}"
        );
        for done in done {
            balancer.moved(done.from, done.to, done.weight);
        }
        !moves.is_empty()
    }

    /// Runs until nothing is planned; the number of rounds with moves.
    fn settle(&mut self, balancer: &mut Balancer, seed: usize) -> usize {
        let mut last = 0;
        for round in 1..=ROUNDS_AT_MOST + ROUNDS_TO_STAY {
            if self.round(balancer, seed + round) {
                last = round;
            }
        }
        last
    }

    fn counts(&self) -> Vec<usize> {
        self.tasks.iter().map(Vec::len).collect()
    }
}

fn hogs(number: usize) -> Vec<f64> {
    vec![100.0; number]
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

/// What plans make smaller: the sum of squares of what domains have too much
/// or too little. Moving *w* from an excess *e* to a lack *d* changes it by
/// *2w (w - e - d)*, and BPF keeps *w* below that. The greatest excess alone
/// would not do: it need not fall while two other domains become equal.
fn potential(loads: &[Load], domains: &[Domain]) -> f64 {
    let Some(level) = Level::new(loads, domains) else {
        return 0.0;
    };
    let excess = |(load, domain)| level.excess(load, domain);
    loads.iter().zip(domains).map(excess).map(|e| e * e).sum()
}

fn weight() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => Just(100.0),
        1 => Just(1.0),
        1 => Just(10_000.0),
        3 => (0.0..4.0_f64).prop_map(|exponent| 10.0_f64.powf(exponent).round()),
    ]
}

prop_compose! {
    fn machine()(
        domains in prop::collection::vec((1..=8usize, 0..3usize), 1..=8),
        tasks in prop::collection::vec((weight(), any::<prop::sample::Index>()), 0..=64),
        capped in prop_oneof![Just(Capped::Contend), Just(Capped::LeftOut)],
    ) -> Machine {
        let mut machine = Machine {
            tasks: vec![Vec::new(); domains.len()],
            // Two LLCs in a node.
            domains: domains.into_iter().map(|(cpus, llc)| (cpus, llc, llc / 2)).collect(),
            capped,
        };
        for (weight, domain) in tasks {
            let domain = domain.index(machine.tasks.len());
            machine.tasks[domain].push(weight);
        }
        machine
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn budgets_are_sound(
        machine in machine(),
        gains in prop::collection::vec(0.01..=1.0_f64, 8),
    ) {
        let mut balancer = machine.balancer(Limits::default());
        balancer.observe(&machine.samples(), ROUND);
        for (load, gain) in balancer.loads.iter_mut().zip(gains) {
            load.gain = gain;
        }
        let (moves, lightest) = (balancer.plan(&machine.lightest()), machine.lightest());
        let level = Level::new(balancer.loads(), &balancer.domains);
        for planned in &moves {
            prop_assert!(planned.weight.is_finite() && planned.weight >= 1.0);
            prop_assert!(planned.from != planned.to);
            prop_assert!(planned.from.max(planned.to) < machine.domains.len());
            prop_assert!(lightest[planned.from] < TAKE * planned.weight);
            let excess = |i: usize| level.unwrap().excess(&balancer.loads[i], &balancer.domains[i]);
            prop_assert!(excess(planned.from) > 0.0 && excess(planned.to) < 0.0);
        }
        for (from, load) in balancer.loads().iter().enumerate() {
            let own = moves.iter().filter(|planned| planned.from == from);
            prop_assert!(own.clone().count() <= MAX_TARGETS);
            let total: f64 = own.map(|planned| planned.weight).sum();
            prop_assert!(total <= 0.5 * load.weight * (1.0 + 1e-9));
        }
    }

    /// In the accounts, where weight is weight, no plan makes anything worse.
    #[test]
    fn no_plan_makes_the_imbalance_worse(
        mut machine in machine(),
        uncontended in prop::collection::vec(0.0..=1.0_f64, 8),
        seed in 0..64usize,
    ) {
        let domains = machine.domains();
        let load = |(tasks, (domain, part)): (&Vec<f64>, (&Domain, f64))| Load {
            uncontended: part * domain.capacity,
            weight: tasks.iter().sum(),
            ..Load::default()
        };
        let parts = domains.iter().zip(uncontended);
        let loads: Vec<Load> = machine.tasks.iter().zip(parts).map(load).collect();
        let mut balancer = machine.balancer(Limits::default());
        balancer.loads = loads;
        let before = potential(balancer.loads(), &domains);
        let moves = balancer.plan(&machine.lightest());
        for done in machine.apply(&moves, seed) {
            balancer.moved(done.from, done.to, done.weight);
        }
        let after = potential(balancer.loads(), &domains);
        prop_assert!(moves.is_empty() || after < before, "{before} became {after}: {moves:?}");
    }

    #[test]
    fn any_start_settles_and_stays(mut machine in machine(), seed in 0..64usize) {
        let mut balancer = machine.balancer(Limits::default());
        let start = machine.clone();
        let rounds = machine.settle(&mut balancer, seed);
        prop_assert!(rounds <= ROUNDS_AT_MOST, "{rounds} rounds from {start:?} to {machine:?}");
    }

    /// Where tasks may go from some domains to some, too.
    #[test]
    fn any_start_settles_whatever_is_allowed(
        mut machine in machine(),
        ways in prop::collection::vec(any::<bool>(), 64),
        seed in 0..64usize,
    ) {
        let mut balancer = machine.balancer(Limits::default());
        for from in 0..machine.domains.len() {
            balancer.allow(from, ways[from * 8..].iter().copied());
        }
        let start = machine.clone();
        let rounds = machine.settle(&mut balancer, seed);
        prop_assert!(rounds <= ROUNDS_AT_MOST, "{rounds} rounds from {start:?} to {machine:?}");
    }

    #[test]
    fn modest_weights_end_up_level(
        domains in prop::collection::vec(1..=4usize, 2..=6),
        weights in prop::collection::vec(50..=200u32, 64),
        start in any::<prop::sample::Index>(),
        seed in 0..64usize,
    ) {
        let mut machine = Machine::new(&domains, vec![Vec::new(); domains.len()]);
        machine.tasks[start.index(domains.len())] = weights.into_iter().map(f64::from).collect();
        let mut balancer = machine.balancer(Limits::default());
        let rounds = machine.settle(&mut balancer, seed);
        prop_assert!(rounds <= ROUNDS_TO_SETTLE, "{rounds} rounds");
        // Off by the hysteresis, or by less than a task.
        let level = Level::new(balancer.loads(), &machine.domains()).unwrap();
        for (load, domain) in balancer.loads().iter().zip(&machine.domains()) {
            let allowed = 0.05 * domain.capacity / level.price + 200.0;
            let excess = level.excess(load, domain);
            prop_assert!(excess.abs() <= allowed, "{excess} of {load:?} in {machine:?}");
        }
    }

    #[test]
    fn equal_hogs_end_up_in_equal_numbers(
        domains in 2..=8usize,
        cpus in 1..=6usize,
        surplus in 0..=40usize,
        start in any::<prop::sample::Index>(),
        hysteresis in prop_oneof![Just(0.0), Just(0.05)],
    ) {
        let number = 2 * domains * cpus + surplus;
        let mut machine = Machine::new(&vec![cpus; domains], vec![Vec::new(); domains]);
        machine.tasks[start.index(domains)] = hogs(number);
        let limits = Limits { hysteresis, ..Limits::default() };
        let mut balancer = machine.balancer(limits);
        let rounds = machine.settle(&mut balancer, 0);
        prop_assert!(rounds <= ROUNDS_TO_SETTLE, "{rounds} rounds");
        // Where one task is less than the hysteresis, that is how equal they get.
        let within = 2.0 * hysteresis * number as f64 / domains as f64;
        let counts = machine.counts();
        prop_assert!(spread(&counts) <= 1.max(within as usize), "{counts:?}");
    }

    #[test]
    fn a_level_machine_is_left_alone(
        domains in prop::collection::vec(1..=6usize, 1..=8),
        per_cpu in 2..=5usize,
        off in prop::collection::vec(-0.04..0.04_f64, 8),
    ) {
        let domains: Vec<Domain> = domains
            .iter()
            .map(|&cpus| Domain { capacity: cpus as f64, llc: 0, node: 0 })
            .collect();
        let load = |(domain, off): (&Domain, &f64)| Load {
            weight: domain.capacity * 100.0 * per_cpu as f64 * (1.0 + off / 2.0),
            ..Load::default()
        };
        let loads: Vec<Load> = domains.iter().zip(&off).map(load).collect();
        let lightest = vec![1.0; domains.len()];
        prop_assert_eq!(plan(&loads, &domains, &Limits::default(), &lightest), []);
    }

    #[test]
    fn where_nothing_competes_nothing_moves(
        cpus in prop::collection::vec((1..=8usize, 0..=8usize), 1..=8),
    ) {
        let tasks = cpus.iter().map(|&(cpus, tasks)| hogs(tasks.min(cpus))).collect();
        let cpus: Vec<usize> = cpus.into_iter().map(|(cpus, _)| cpus).collect();
        let mut machine = Machine::new(&cpus, tasks);
        let mut balancer = machine.balancer(Limits::default());
        prop_assert!(!machine.round(&mut balancer, 0));
    }

    #[test]
    fn no_numbers_break_a_plan(
        numbers in prop::collection::vec(any::<[f64; 5]>(), 1..=8),
        lightest in prop::collection::vec(any::<f64>(), 0..=8),
    ) {
        let domains = numbers.iter().map(|n| Domain { capacity: n[4].abs() % 64.0, llc: 0, node: 0 });
        let mut balancer = Balancer::new(domains.collect(), HALF_LIFE, Limits::default());
        let sample = |n: &[f64; 5]| Sample { busy: n[0], contended: n[1], advance: n[2] };
        let samples: Vec<Sample> = numbers.iter().map(sample).collect();
        for _ in 0..3 {
            balancer.observe(&samples, HALF_LIFE);
            for planned in balancer.plan(&lightest) {
                prop_assert!(planned.weight.is_finite() && planned.weight > 0.0, "{planned:?}");
                balancer.moved(planned.from, planned.to, numbers[0][3]);
            }
            for (i, load) in balancer.loads().iter().enumerate() {
                prop_assert!(load.weight.is_finite() && load.weight >= 0.0, "{load:?}");
                prop_assert!(load.uncontended.is_finite() && load.uncontended >= 0.0, "{load:?}");
                prop_assert!(balancer.load(i).is_finite());
            }
        }
    }
}

/// Two domains of 4 CPUs, with a weight of nice -20 alone in the first.
fn heavy_beside(hogs_beside: usize) -> Machine {
    Machine::new(&[4, 4], vec![vec![8876.0], hogs(hogs_beside)])
}

#[test]
fn hogs_move_beside_a_weight_that_is_worth_more_than_a_cpu() {
    let machine = heavy_beside(8);
    let mut balancer = machine.balancer(Limits::default());
    balancer.observe(&machine.samples(), ROUND);
    let moves = balancer.plan(&machine.lightest());
    assert_eq!(moves.len(), 1);
    assert_eq!((moves[0].from, moves[0].to), (1, 0));
    // 7 CPUs for 8 hogs, 3 of the CPUs beside the heavy one.
    assert!(
        (moves[0].weight - 800.0 * 3.0 / 7.0).abs() < 1e-6,
        "{moves:?}"
    );
}

#[test]
fn a_weight_that_is_worth_more_than_a_cpu_never_moves() {
    for capped in [Capped::Contend, Capped::LeftOut] {
        for number in [8, 20, 50] {
            let mut machine = Machine {
                capped,
                ..heavy_beside(number)
            };
            let mut balancer = machine.balancer(Limits::default());
            for seed in 0..ROUNDS_AT_MOST {
                machine.round(&mut balancer, seed);
                assert!(machine.tasks[0].contains(&8876.0), "{machine:?}");
            }
            let beside = machine.tasks[0].len() - 1;
            let fair = number as f64 * 3.0 / 7.0;
            assert!(
                (beside as f64 - fair).abs() <= 1.0 + 0.1 * fair,
                "{capped:?} {machine:?}"
            );
        }
    }
}

#[test]
fn a_model_that_asks_for_too_much_stops_going_to_and_fro() {
    // Seven of eight CPUs belong to heavy weights, but the rate on the eighth
    // makes all eight count: without a lower gain the light tasks swing.
    let mut light = vec![10_000.0; 7];
    light.extend(hogs(20));
    let mut machine = Machine::new(&[8, 8], vec![light, hogs(80)]);
    let mut balancer = machine.balancer(Limits::default());
    let rounds = machine.settle(&mut balancer, 0);
    assert!(rounds <= ROUNDS_TO_SETTLE, "{rounds} rounds");
    assert!(balancer.loads()[0].gain < 1.0);
}

#[test]
fn a_gain_recovers() {
    let mut balancer = heavy_beside(8).balancer(Limits::default());
    let samples = heavy_beside(8).samples();
    balancer.observe(&samples, HALF_LIFE);
    balancer.moved(1, 0, 100.0);
    assert_eq!(balancer.loads()[0].gain, 1.0);
    balancer.moved(0, 1, 100.0);
    assert_eq!(balancer.loads()[0].gain, 0.5);
    for _ in 0..RECOVERY_HALF_LIVES as usize {
        assert_eq!(balancer.loads()[0].gain, 0.5);
        balancer.observe(&samples, HALF_LIFE);
    }
    assert_eq!(balancer.loads()[0].gain, 1.0);
    // What happened that long ago is no contradiction, and what is less than
    // half of it no reversal.
    balancer.moved(1, 0, 100.0);
    balancer.moved(0, 1, 49.0);
    assert_eq!(balancer.loads()[0].gain, 1.0);
    balancer.moved(0, 1, 1.0);
    assert_eq!(balancer.loads()[0].gain, 0.5);
}

#[test]
fn averages_forget_half_in_a_half_life() {
    let domain = Domain {
        capacity: 4.0,
        llc: 0,
        node: 0,
    };
    let mut balancer = Balancer::new(vec![domain], HALF_LIFE, Limits::default());
    let crowd = Sample {
        busy: 4.0,
        contended: 4.0,
        advance: 0.5,
    };
    let idle = Sample {
        busy: 2.0,
        contended: 0.0,
        advance: 0.0,
    };
    balancer.observe(&[crowd], Duration::from_millis(1));
    assert_eq!(balancer.loads()[0].weight, 800.0);
    balancer.observe(&[idle], HALF_LIFE);
    assert!((balancer.loads()[0].weight - 400.0).abs() < 1e-9);
    assert!((balancer.loads()[0].uncontended - 1.0).abs() < 1e-9);
    balancer.observe(&[idle], 2 * HALF_LIFE);
    assert!((balancer.loads()[0].weight - 100.0).abs() < 1e-9);
    balancer.observe(&[crowd], Duration::ZERO);
    assert!((balancer.loads()[0].weight - 100.0).abs() < 1e-9);
}

#[test]
fn what_moved_is_not_asked_for_again() {
    let mut machine = Machine::new(&[2, 2], vec![hogs(12), hogs(4)]);
    let mut balancer = machine.balancer(Limits::default());
    balancer.observe(&machine.samples(), ROUND);
    let moves = balancer.plan(&machine.lightest());
    for done in machine.apply(&moves, 0) {
        assert_eq!(done.weight, 400.0);
        balancer.moved(done.from, done.to, done.weight);
    }
    assert_eq!(balancer.plan(&machine.lightest()), []);
    assert!((balancer.load(0) - 1.0).abs() < 1e-9);

    // More than there was, and what makes no sense.
    balancer.moved(0, 1, 5000.0);
    assert_eq!(balancer.loads()[0].weight, 0.0);
    let before = balancer.loads().to_vec();
    balancer.moved(1, 1, 100.0);
    balancer.moved(1, 2, 100.0);
    balancer.moved(1, 0, f64::NAN);
    balancer.moved(1, 0, -5.0);
    assert_eq!(balancer.loads(), before);
}

#[test]
fn near_domains_are_served_first_and_far_ones_need_more() {
    // Domain 0 is crowded; the others are in its LLC, its node, and another node.
    let machine = |crowd: usize| Machine {
        domains: vec![(4, 0, 0), (4, 2, 1), (4, 1, 0), (4, 0, 0)],
        tasks: vec![hogs(crowd), hogs(8), hogs(8), hogs(8)],
        capped: Capped::Contend,
    };
    let targets = |machine: &Machine, lightest: f64| -> Vec<usize> {
        let mut balancer = machine.balancer(Limits::default());
        balancer.observe(&machine.samples(), ROUND);
        let moves = balancer.plan(&[lightest; 4]);
        moves.iter().map(|planned| planned.to).collect()
    };
    assert_eq!(targets(&machine(20), 100.0), [3, 2, 1]);
    // An excess of 9 %.
    let slight = Machine {
        tasks: vec![hogs(9), hogs(8), hogs(8), hogs(8)],
        ..machine(9)
    };
    assert_eq!(targets(&slight, 1.0), [3, 2]);
}

#[test]
fn the_rest_of_a_division_moves_too() {
    // Each domain lacks half a task: no budget of its own would move one.
    let mut machine = Machine::new(&[1; 4], vec![hogs(3), hogs(1), hogs(1), hogs(1)]);
    machine
        .tasks
        .iter_mut()
        .for_each(|tasks| tasks.extend(hogs(4)));
    let mut balancer = machine.balancer(Limits::default());
    assert_eq!(machine.settle(&mut balancer, 0), 1);
    assert_eq!(spread(&machine.counts()), 1);
}

#[test]
fn a_domain_without_cpus_gives_all() {
    let domains = [(0.0, 0), (4.0, 0)].map(|(capacity, llc)| Domain {
        capacity,
        llc,
        node: 0,
    });
    let mut balancer = Balancer::new(domains.to_vec(), HALF_LIFE, Limits::default());
    let samples = [
        Sample::default(),
        Sample {
            busy: 4.0,
            contended: 4.0,
            advance: 0.5,
        },
    ];
    balancer.observe(&samples, ROUND);
    balancer.moved(1, 0, 300.0);
    balancer.observe(&samples, ROUND);
    let moves = balancer.plan(&[100.0; 2]);
    assert_eq!(moves.len(), 1);
    assert!((moves[0].weight - 300.0).abs() < 1e-9, "{moves:?}");
    assert!(balancer.load(0) > 0.0 && balancer.load(0).is_finite());
}

#[test]
fn a_clock_that_stands_still_tells_nothing() {
    let domain = Domain {
        capacity: 4.0,
        llc: 0,
        node: 0,
    };
    let mut balancer = Balancer::new(vec![domain], HALF_LIFE, Limits::default());
    let mut sample = Sample {
        busy: 4.0,
        contended: 4.0,
        advance: 0.5,
    };
    balancer.observe(&[sample], ROUND);
    sample.advance = 0.0;
    balancer.observe(&[sample], ROUND);
    assert_eq!(balancer.loads()[0].weight, 800.0);
    sample.contended = f64::NAN;
    balancer.observe(&[sample], ROUND);
    assert!(balancer.loads()[0].weight < 1e-3);
}

#[test]
fn the_load_of_a_level_machine_is_one() {
    let machine = Machine::new(&[4, 2], vec![hogs(8), hogs(8)]);
    let mut balancer = machine.balancer(Limits::default());
    assert_eq!(balancer.load(0), 0.0);
    balancer.observe(&machine.samples(), ROUND);
    assert!((balancer.load(0) - 0.75).abs() < 1e-9);
    assert!((balancer.load(1) - 1.5).abs() < 1e-9);
    assert_eq!(balancer.load(7), 0.0);
}

/// CPUs that take work before they idle fill every domain: then nobody waits
/// there, but whoever comes shares.
#[test]
fn a_full_domain_takes_its_share() {
    let mut machine = Machine::new(&[4, 4], vec![hogs(12), hogs(4)]);
    let mut balancer = machine.balancer(Limits::default());
    machine.settle(&mut balancer, 0);
    assert_eq!(machine.counts(), [8, 8]);

    // Where CPUs idle beside them, tasks want no more and yield nothing.
    let mut samples = machine.samples();
    samples[1] = Sample {
        busy: 2.0,
        contended: 0.0,
        advance: 1.0,
    };
    let mut balancer = machine.balancer(Limits::default());
    balancer.observe(&samples, ROUND);
    assert_eq!(balancer.loads()[1].yielding, 0.0);
    assert_eq!(balancer.load(1), 0.5);
}

/// Heavy tasks that have a CPU each keep it, and are no reason to leave what
/// is uneven among the others.
#[test]
fn a_full_domain_of_heavy_tasks_is_no_excuse() {
    let heavy = vec![10_000.0; 4];
    let mut machine = Machine::new(&[4, 4, 4], vec![heavy.clone(), hogs(8), hogs(16)]);
    let mut balancer = machine.balancer(Limits::default());
    machine.settle(&mut balancer, 0);
    assert_eq!(machine.tasks[0], heavy);
    assert_eq!(machine.counts(), [4, 12, 12]);
}

/// No domain gives so much that its own CPUs idle.
#[test]
fn a_crowd_of_light_tasks_draws_no_heavy_ones() {
    let mut machine = Machine::new(&[4, 4], vec![hogs(5), vec![1.0; 4]]);
    let mut balancer = machine.balancer(Limits::default());
    assert!(machine.round(&mut balancer, 0));
    assert_eq!(machine.counts(), [4, 5]);
}

/// Goal: planner and BPF go by the same rule. Method: reads the header that BPF includes.
#[test]
fn bpf_has_the_same_slots_and_takes_as_much() {
    let header = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../bpf-common/include/rota/shard.h"
    );
    let header = std::fs::read_to_string(header).unwrap();
    let value = |name: &str| -> f64 {
        let define = format!("#define {name}\t");
        let line = header.lines().find_map(|line| line.strip_prefix(&define));
        line.unwrap().trim().parse().unwrap()
    };
    assert_eq!(value("EXPORT_TARGETS"), MAX_TARGETS as f64);
    assert_eq!(value("EXPORT_TAKE_PCT"), TAKE * 100.0);
}

#[test]
fn what_is_little_of_a_machine_is_much_of_what_is_left_of_it() {
    // Weights worth a CPU each have three CPUs of the one, one of the other.
    let load = |uncontended: f64, weight: f64| Load {
        uncontended,
        weight,
        ..Load::default()
    };
    let domains = [Domain {
        capacity: 4.0,
        llc: 0,
        node: 0,
    }; 2];
    let limits = Limits {
        hysteresis: 0.03,
        ..Limits::default()
    };
    let plan = |more: f64| {
        let loads = [load(3.0, 375.0 + more), load(1.0, 1125.0 - more)];
        plan(&loads, &domains, &limits, &[27.0, 27.0])
    };
    assert_eq!(plan(0.0), []);
    // 0.07 of 4 CPUs, but 6 % of what those tasks have.
    let moves = plan(25.0);
    assert_eq!((moves.len(), moves[0].from, moves[0].to), (1, 0, 1));
}
