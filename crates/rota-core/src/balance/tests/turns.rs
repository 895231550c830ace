// SPDX-License-Identifier: GPL-2.0-only
//! Tasks that do not fit, and tasks that may not go everywhere.

use super::*;

/// What each task of `tasks`, a list of weights for each domain of 4 CPUs, gets in 20 s
/// after 5 s, as a part of its share of the machine: the least and the most.
fn service(tasks: &[Vec<f64>], patience: Option<Duration>, seed: usize) -> (f64, f64) {
    const LOOK: Duration = Duration::from_millis(250);
    let limits = Limits {
        hysteresis: 0.03,
        patience,
        ..Limits::default()
    };
    let all: Vec<f64> = tasks.concat();
    let mut places: Vec<Vec<usize>> = Vec::new();
    let mut next = 0;
    for domain in tasks {
        places.push((next..next + domain.len()).collect());
        next += domain.len();
    }
    let machine = |places: &[Vec<usize>]| Machine {
        capped: Capped::Contend,
        ..Machine::new(
            &vec![4; places.len()],
            places
                .iter()
                .map(|own| own.iter().map(|&i| all[i]).collect())
                .collect(),
        )
    };
    let mut balancer = Balancer::new(machine(&places).domains(), 4 * LOOK, limits);
    let mut got = vec![0.0; all.len()];
    for round in 0..100 {
        let now = machine(&places);
        let samples = now.samples();
        if round >= 20 {
            for (own, sample) in places.iter().zip(&samples) {
                for &task in own {
                    got[task] += (all[task] * sample.advance / 100.0).min(1.0) / 80.0;
                }
            }
        }
        balancer.observe(&samples, LOOK);
        for planned in balancer.plan(&now.lightest()) {
            let mut left = planned.weight;
            let own = &mut places[planned.from];
            let len = own.len().max(1);
            own.rotate_left((seed + round) % len);
            let (going, staying): (Vec<usize>, Vec<usize>) = own.drain(..).partition(|&task| {
                let goes = all[task] < TAKE * left && all[task] < 300.0;
                left -= if goes { all[task] } else { 0.0 };
                goes
            });
            *own = staying;
            let weight = going.iter().map(|&task| all[task]).sum();
            places[planned.to].extend(going);
            balancer.moved(planned.from, planned.to, weight);
        }
    }
    let whole = Machine {
        capped: Capped::Contend,
        ..Machine::new(&[4 * tasks.len()], vec![all.clone()])
    };
    let price = whole.sample(0).advance / 100.0;
    let parts = all
        .iter()
        .zip(&got)
        .map(|(weight, got)| got / (weight * price).min(1.0));
    parts.fold((f64::INFINITY, 0.0), |(least, most), part| {
        (part.min(least), part.max(most))
    })
}

#[test]
fn what_cannot_be_divided_is_fair_over_time() {
    let patience = Some(Duration::from_millis(100));
    // Nine equal hogs on eight CPUs: five share four CPUs, and four have one each.
    let odd = [hogs(5), hogs(4)];
    let (least, most) = service(&odd, None, 0);
    assert!(least < 0.91 && most > 1.1, "{least} to {most}");
    let (least, most) = service(&odd, patience, 0);
    assert!(least > 0.95 && most < 1.05, "{least} to {most}");
    // Weights of nice -6 to 6, placed as badly as can be.
    let (heavy, light) = ([381.0, 194.0], [100.0, 51.0, 27.0]);
    let four = |weights: &[f64]| weights.iter().flat_map(|weight| [*weight; 4]).collect();
    let mixed: [Vec<f64>; 2] = [four(&heavy), four(&light)];
    for seed in 0..50 {
        let (least, most) = service(&mixed, patience, seed);
        assert!(least > 0.95 && most < 1.05, "{seed}: {least} to {most}");
    }
}

#[test]
fn what_may_not_move_is_not_asked_for() {
    // Tasks of the first and the last may go to both; the others idle.
    let machine = Machine::new(&[2; 4], vec![hogs(4), vec![], vec![], hogs(2)]);
    let mut balancer = machine.balancer(Limits::default());
    balancer.observe(&machine.samples(), ROUND);
    let targets = |balancer: &mut Balancer| -> Vec<usize> {
        let moves = balancer.plan(&machine.lightest());
        moves.iter().map(|planned| planned.to).collect()
    };
    assert_eq!(targets(&mut balancer), [1, 2]);
    for (from, allowed) in [true, false, false, true].into_iter().enumerate() {
        balancer.allow(from, [allowed, false, false, allowed]);
    }
    let groups = |balancer: &Balancer| balancer.groups(&machine.lightest());
    assert_eq!(groups(&balancer), [vec![0, 3], vec![1], vec![2]]);
    assert_eq!(targets(&mut balancer), [3]);
    // What has too little would not go the other way.
    balancer.allow(0, [true, false, false, false]);
    assert_eq!(groups(&balancer), [[0], [1], [2], [3]]);
    assert!(targets(&mut balancer).is_empty());
}

/// Somebody who has an idle LLC to himself now and then, and may go everywhere, does not open its
/// CPUs to others: to count them in made those that the others can use seem full.
#[test]
fn cpus_that_only_a_lonely_task_may_use_are_nobody_elses() {
    let machine = Machine::new(&[2; 4], vec![hogs(4), vec![], vec![1.0], hogs(2)]);
    let mut balancer = machine.balancer(Limits::default());
    balancer.observe(&machine.samples(), ROUND);
    for from in [0, 3] {
        balancer.allow(from, [true, false, false, true]);
    }
    balancer.allow(1, [false, true, false, false]);
    let moves = balancer.plan(&machine.lightest());
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!((moves[0].from, moves[0].to), (0, 3));
}

#[test]
fn a_turn_goes_to_a_task_that_can_take_it() {
    // The third is owed as much as the second, but has only tasks that are too heavy; the
    // second's gain is too small for a plan.
    let domains = [(0, 0), (1, 0), (2, 1), (3, 1)].map(|(llc, node)| Domain {
        capacity: 2.0,
        llc,
        node,
    });
    let limits = Limits {
        hysteresis: 0.03,
        patience: Some(Duration::from_millis(100)),
        ..Limits::default()
    };
    let mut balancer = Balancer::new(domains.to_vec(), HALF_LIFE, limits);
    let sample = |contended: f64, advance: f64| Sample {
        busy: 2.0,
        contended,
        advance,
    };
    let samples = [
        sample(0.0, 0.515),
        sample(1.15, 0.955),
        sample(0.1, 0.63),
        sample(0.0, 1.24),
    ];
    balancer.observe(&samples, ROUND);
    balancer.loads[1].gain = 0.25;
    let moves = balancer.plan(&[f64::INFINITY, 27.0, 100.0, f64::INFINITY]);
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert_eq!((moves[0].from, moves[0].to), (1, 3));
    assert_eq!(balancer.turns, [(1, 3)]);
}
