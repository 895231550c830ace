// SPDX-License-Identifier: GPL-2.0-only
//! A scenario from a seed.

use std::time::Duration;

use fastrand::Rng;
use rota_load::spec::{Affinity, Count, Group, Kind, Loop, Policy, Target, Tasks, Workload};

use super::{Act, Scenario, What};
use crate::topology::Topology;

/// Machines from which is drawn if none is named: one CPU, one LLC, SMT, CPUs offline, many LLCs.
pub const TOPOLOGIES: [&str; 7] = [
    "1x1x1", "1x2x1", "1x4x1", "1x2x2", "2x2x1", "2x2x2", "1x4x1-1",
];

/// A value that an option may have; the policy's own are in its `fuzz.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The option, without dashes.
    pub option: String,
    /// Its values; each as likely as the default.
    pub values: Vec<String>,
}

/// What a scenario is drawn for.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The scheduler.
    pub sched: &'a str,
    /// The kernel.
    pub kernel: &'a str,
    /// Machines to choose from.
    pub topologies: &'a [String],
    /// What the scheduler's options may be.
    pub choices: &'a [Choice],
}

/// Most groups of a workload, and most acts beside it.
const GROUPS_MAX: usize = 5;
const ACTS_MAX: usize = 4;
/// The acts are over by then, in milliseconds.
const ACTS_END_MS: u64 = 400;

/// The scenario of `seed`.
pub fn draw(subject: &Subject<'_>, seed: u64) -> Scenario {
    let mut rng = Rng::with_seed(seed);
    let topology = rng
        .choice(subject.topologies)
        .expect("there is a machine")
        .clone();
    let machine: Topology = topology.parse().expect("the machine is one");
    let options = options(&mut rng, subject.choices);
    // In quiet ones nothing happens, so that shares can be told.
    let quiet = rng.u8(0..6) == 0;
    let workload = workload(&mut rng, &machine, seed, quiet);
    let load_first = !quiet && rng.bool();
    let acts = match quiet {
        true => Vec::new(),
        false => acts(&mut rng, &machine),
    };
    Scenario {
        sched: subject.sched.to_owned(),
        kernel: subject.kernel.to_owned(),
        topology,
        seed,
        options,
        workload: workload.to_toml(),
        load_first,
        acts,
    }
}

/// About every third option is given.
fn options(rng: &mut Rng, choices: &[Choice]) -> Vec<String> {
    let mut options = Vec::new();
    for choice in choices {
        let value = rng.choice(&choice.values);
        if let (0, Some(value)) = (rng.u8(0..3), value) {
            options.push(format!("--{}={value}", choice.option));
        }
    }
    options
}

fn workload(rng: &mut Rng, machine: &Topology, seed: u64, quiet: bool) -> Workload {
    let mut groups: Vec<Group> = (0..rng.usize(1..=GROUPS_MAX))
        .map(|index| match quiet {
            true => hogs(rng, machine, index),
            false => group(rng, machine, index),
        })
        .collect();
    // Somebody to look after in every scenario: a light task that must not be kept waiting.
    groups.push(plain(
        "probe".into(),
        Kind::Probe {
            period: Duration::from_millis(10),
        },
        Count::Fixed(1),
    ));
    Workload {
        name: format!("fuzz-{seed}"),
        description: String::new(),
        duration: Duration::from_secs(1),
        warmup: Duration::ZERO,
        seed,
        groups,
    }
}

fn plain(name: String, kind: Kind, count: Count) -> Group {
    Group {
        name,
        kind,
        count,
        tasks: Tasks::Threads,
        nice: 0,
        policy: Policy::Other,
        affinity: Affinity::All,
        start: Duration::ZERO,
        stop: None,
    }
}

const NICES: [i8; 8] = [-10, -5, 0, 0, 0, 0, 5, 10];

/// Tasks that want all they can get, each for its weight.
fn hogs(rng: &mut Rng, machine: &Topology, index: usize) -> Group {
    let most = u32::try_from(machine.cpus()).expect("few CPUs");
    let kind = Kind::Loop(Loop {
        run: Duration::from_millis(10),
        sleep: Duration::ZERO,
        jitter_pct: 0,
        wake_next: false,
        tokens: 1,
        yields: false,
    });
    let mut group = plain(format!("hog{index}"), kind, Count::Fixed(rng.u32(1..=most)));
    group.nice = *rng.choice(&NICES).expect("not empty");
    group
}

fn group(rng: &mut Rng, machine: &Topology, index: usize) -> Group {
    let cpus = u32::try_from(machine.cpus()).expect("few CPUs");
    let (name, kind, most) = kind(rng, cpus);
    // A ring of one wakes nobody.
    let least = if name == "ring" { 2 } else { 1 };
    let count = Count::Fixed(rng.u32(least..=most));
    let mut group = plain(format!("{name}{index}"), kind, count);
    let ordinary = matches!(group.kind, Kind::Loop(_) | Kind::Frame { .. });
    if ordinary {
        group.affinity = affinity(rng, machine);
        group.policy = match rng.u8(0..8) {
            0 => Policy::Batch,
            1 => Policy::Idle,
            _ => Policy::Other,
        };
        if group.policy != Policy::Idle {
            group.nice = *rng.choice(&NICES).expect("not empty");
        }
        if rng.u8(0..4) == 0 {
            group.tasks = Tasks::Processes;
        }
    }
    group
}

/// What the tasks of a group do, by a name for it, and how many there are at most.
fn kind(rng: &mut Rng, cpus: u32) -> (&'static str, Kind, u32) {
    let us = Duration::from_micros;
    match rng.u8(0..12) {
        0..=2 => ("hog", lap(rng, us(10_000), Duration::ZERO, false), 2 * cpus),
        3..=5 => {
            let run = us(rng.u64(20..8_000));
            let sleep = us(rng.u64(50..20_000));
            ("nap", lap(rng, run, sleep, false), 3 * cpus)
        }
        6 => {
            let run = us(rng.u64(20..2_000));
            ("ring", lap(rng, run, Duration::ZERO, true), cpus + 3)
        }
        7 => ("pipe", Kind::Pipe, 2),
        8 => {
            let (senders, receivers) = (rng.u32(1..4), rng.u32(1..4));
            let bytes = 64;
            let kind = Kind::Messaging {
                senders,
                receivers,
                bytes,
            };
            ("msg", kind, 1)
        }
        9 => {
            let (outstanding, run) = (rng.u32(1..6), us(rng.u64(10..500)));
            ("fork", Kind::ForkStorm { outstanding, run }, 2)
        }
        10 => {
            let run = us(rng.u64(100..3_000));
            let target = if rng.bool() {
                Target::Own
            } else {
                Target::Group
            };
            ("move", Kind::AffinityStorm { run, target }, cpus + 1)
        }
        _ => {
            let period = us(16_667);
            let (work, jitter_pct) = (us(rng.u64(500..6_000)), 30);
            let kind = Kind::Frame {
                period,
                work,
                jitter_pct,
            };
            ("frame", kind, 2)
        }
    }
}

fn lap(rng: &mut Rng, run: Duration, sleep: Duration, wake_next: bool) -> Kind {
    Kind::Loop(Loop {
        run,
        sleep,
        jitter_pct: rng.u32(0..=80),
        wake_next,
        tokens: 1,
        yields: rng.u8(0..6) == 0,
    })
}

fn affinity(rng: &mut Rng, machine: &Topology) -> Affinity {
    match rng.u8(0..6) {
        0 => Affinity::OneEach,
        1 => Affinity::Llc(rng.u32(0..u32::try_from(machine.llcs()).expect("few LLCs"))),
        2 => {
            let cpus = some_cpus(rng, machine);
            let cpu = |cpu: &usize| u32::try_from(*cpu).expect("few CPUs");
            Affinity::Cpus(cpus.iter().map(cpu).collect())
        }
        _ => Affinity::All,
    }
}

/// One CPU at least, each with even chances.
fn some_cpus(rng: &mut Rng, machine: &Topology) -> Vec<usize> {
    let must = rng.usize(0..machine.cpus());
    (0..machine.cpus())
        .filter(|cpu| *cpu == must || rng.bool())
        .collect()
}

fn acts(rng: &mut Rng, machine: &Topology) -> Vec<Act> {
    let mut acts = Vec::new();
    for _ in 0..rng.usize(0..=ACTS_MAX) {
        let at_ms = rng.u64(0..ACTS_END_MS / 2);
        let what = what(rng, machine);
        if let What::Offline { cpu } = what {
            let back_ms = at_ms + rng.u64(1..ACTS_END_MS / 2);
            acts.push(Act {
                at_ms: back_ms,
                what: What::Online { cpu },
            });
        }
        acts.push(Act { at_ms, what });
    }
    acts.sort_by_key(|act| act.at_ms);
    acts
}

fn what(rng: &mut Rng, machine: &Topology) -> What {
    match rng.u8(0..10) {
        0 | 1 if machine.cpus() > 1 => What::Offline {
            cpu: rng.usize(1..machine.cpus()),
        },
        2 | 3 => What::Renice {
            task: rng.usize(0..64),
            nice: rng.i32(-20..20),
        },
        4 => What::Hangup,
        5 => What::Freeze {
            ms: rng.u64(1..200),
        },
        6 => What::Kill,
        7 => What::Second,
        8 => What::Dump,
        _ => What::Confine {
            task: rng.usize(0..64),
            cpus: some_cpus(rng, machine),
        },
    }
}

#[cfg(test)]
mod tests {
    //! Goal: every scenario can be acted out, and is the same whenever it is drawn.
    use super::*;

    fn subject<'a>(topologies: &'a [String], choices: &'a [Choice]) -> Subject<'a> {
        Subject {
            sched: "scx_x",
            kernel: "7.3",
            topologies,
            choices,
        }
    }

    fn machines() -> Vec<String> {
        TOPOLOGIES.map(str::to_owned).into()
    }

    #[test]
    fn a_seed_is_a_scenario() {
        let machines = machines();
        let choices = [Choice {
            option: "slice-us".into(),
            values: vec!["1000".into(), "5000".into()],
        }];
        let subject = subject(&machines, &choices);
        let all: Vec<Scenario> = (0..300).map(|seed| draw(&subject, seed)).collect();
        assert!((0..300).all(|seed| draw(&subject, seed as u64) == all[seed]));
        assert!(all.iter().any(|one| one.options == ["--slice-us=5000"]));
        assert!(all.iter().any(|one| one.options.is_empty()));
        for topology in TOPOLOGIES {
            assert!(all.iter().any(|one| one.topology == topology), "{topology}");
        }
        for word in ["hog", "nap", "ring", "pipe", "msg", "fork", "move", "frame"] {
            assert!(all.iter().any(|one| one.workload.contains(word)), "{word}");
        }
        for act in [What::Hangup, What::Kill, What::Second, What::Dump] {
            let has = |one: &Scenario| one.acts.iter().any(|a| a.what == act);
            assert!(all.iter().any(has), "{act:?}");
        }
    }

    #[test]
    fn every_scenario_survives_its_file() {
        let machines = machines();
        for seed in 0..300 {
            let one = draw(&subject(&machines, &[]), seed);
            let text = serde_json::to_string(&one).unwrap();
            assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), one);
            let workload = Workload::parse("fuzz", &one.workload).unwrap();
            assert_eq!(workload.to_toml(), one.workload);
        }
    }

    #[test]
    fn a_cpu_that_goes_comes_back() {
        let machines = machines();
        for seed in 0..300 {
            let one = draw(&subject(&machines, &[]), seed);
            let mut off: Vec<usize> = Vec::new();
            for act in &one.acts {
                match act.what {
                    What::Offline { cpu } => off.push(cpu),
                    What::Online { cpu } => off.retain(|other| *other != cpu),
                    _ => {}
                }
            }
            assert!(off.is_empty(), "seed {seed}: {:?}", one.acts);
        }
    }
}
