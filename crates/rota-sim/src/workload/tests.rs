// SPDX-License-Identifier: GPL-2.0-only
//! Goal: every kind does what it does on a machine, as far as counts can tell.

use rota_load::spec::Workload;
use rota_load::workloads;

use super::*;
use crate::model::native::Native;
use crate::model::toys::GlobalVtime;
use crate::model::{Config, Costs};

fn run(machine: &str, text: &str, costs: Costs) -> (Sim, Roster) {
    let workload = Workload::parse("test.toml", text).unwrap();
    let machine: Machine = machine.parse().unwrap();
    let config = Config {
        costs,
        ..Config::new(machine)
    };
    let mut sim = Sim::new(&config, Box::new(Native::new(GlobalVtime::new(5_000_000))));
    let roster = populate(&mut sim, &workload).unwrap();
    assert_eq!(sim.run_until(roster.begin_ns), None);
    sim.begin_measuring();
    assert_eq!(sim.run_until(roster.end_ns), None);
    (sim, roster)
}

fn ops(sim: &Sim, group: u32) -> Vec<u64> {
    let tasks = sim.tasks();
    let mine = tasks.iter().filter(|task| task.group == group);
    mine.map(|task| task.stats.ops).collect()
}

fn one(kind: &str, more: &str) -> String {
    lasting("1s", kind, more)
}

fn lasting(duration: &str, kind: &str, more: &str) -> String {
    format!(
        "name = \"t\"\nduration = \"{duration}\"\n[[group]]\nname = \"g\"\nkind = \"{kind}\"\n{more}"
    )
}

#[test]
fn loops_turn_as_often_as_their_times_allow() {
    let text = one("loop", "run = \"1ms\"\nsleep = \"9ms\"");
    let (sim, _) = run("1x1x1", &text, Costs::free());
    assert_eq!(ops(&sim, 0), [100]);
    let cpu_ns = sim.tasks()[0].stats.cpu_ns;
    assert!((99_900_000..101_000_000).contains(&cpu_ns), "{cpu_ns}");
}

#[test]
fn a_ring_runs_as_many_tasks_as_it_has_tokens() {
    let text = one(
        "loop",
        "count = 4\nrun = \"1ms\"\nwake_next = true\ntokens = 2",
    );
    let (sim, _) = run("1x4x1", &text, Costs::free());
    let total: u64 = ops(&sim, 0).iter().sum();
    assert!((1990..=2001).contains(&total), "{total}");
}

#[test]
fn pipes_send_words_to_and_fro() {
    let (sim, _) = run("1x1x1", &lasting("50ms", "pipe", ""), Costs::default());
    let ops = ops(&sim, 0);
    // Four system calls and two switches each: some microseconds.
    assert!((5_000..50_000).contains(&ops[0]), "{ops:?}");
    assert_eq!(ops[1], 0);
}

#[test]
fn every_message_is_received_once() {
    let text = lasting("50ms", "messaging", "senders = 3\nreceivers = 2");
    let (sim, _) = run("1x2x1", &text, Costs::default());
    let ops = ops(&sim, 0);
    assert_eq!(ops.len(), 5);
    assert_eq!(ops[..3], [0, 0, 0]);
    // Every sender writes to every receiver in turn.
    assert!(ops[3] > 1_000 && ops[3].abs_diff(ops[4]) < 1000, "{ops:?}");
}

#[test]
fn storms_fork_and_reap() {
    for kind in ["fork-storm", "exec-storm"] {
        let (sim, roster) = run(
            "1x2x1",
            &lasting("100ms", kind, "outstanding = 3"),
            Costs::default(),
        );
        let tasks = sim.tasks();
        let ended = tasks.iter().filter(|t| t.stats.ended_ns.is_some()).count() as u64;
        let parent = tasks[0].stats.ops;
        assert!(parent > 100, "{kind}: {parent}");
        assert!(
            ended >= parent && ended <= parent + 3,
            "{kind}: {ended} {parent}"
        );
        assert_eq!(roster.groups[0].tasks, 0..1);
    }
}

#[test]
fn affinities_change_and_are_kept() {
    for target in ["self", "group"] {
        let text = lasting(
            "200ms",
            "affinity-storm",
            &format!("count = 6\ntarget = \"{target}\""),
        );
        let (sim, _) = run("1x4x1", &text, Costs::default());
        let total: u64 = ops(&sim, 0).iter().sum();
        assert!(total > 400, "{total}");
    }
}

#[test]
fn frames_are_missed_only_without_time() {
    let light = one("frame", "period = \"10ms\"\nwork = \"4ms\"");
    let (sim, _) = run("1x1x1", &light, Costs::free());
    let tasks = sim.tasks();
    assert_eq!((tasks[0].stats.ops, tasks[0].stats.misses), (100, 0));
    // A weak CPU takes longer for the same work.
    let (sim, _) = run(
        "hybrid:1+1",
        &one(
            "frame",
            "period = \"10ms\"\nwork = \"6ms\"\naffinity = \"1\"",
        ),
        Costs::free(),
    );
    assert!(sim.tasks()[0].stats.misses > 50);
}

#[test]
fn probes_wake_in_every_period() {
    let (sim, _) = run("1x1x1", &one("probe", "period = \"1ms\""), Costs::default());
    assert!((998..=1001).contains(&ops(&sim, 0)[0]));
    let latency = sim.latency(0).unwrap();
    assert!(latency.max() < 10_000, "{}", latency.max());
}

#[test]
fn groups_start_and_stop() {
    let text = "name = \"t\"\nduration = \"1s\"\nwarmup = \"200ms\"
        [[group]]\nname = \"all\"\nkind = \"loop\"\nrun = \"1ms\"
        [[group]]\nname = \"part\"\nkind = \"loop\"\nrun = \"1ms\"\nstart = \"300ms\"\nstop = \"700ms\"";
    let (sim, roster) = run("1x2x1", text, Costs::free());
    let cpu: Vec<u64> = sim
        .tasks()
        .iter()
        .map(|t| t.stats.cpu_ns / 1_000_000)
        .collect();
    assert_eq!(cpu, [1000, 400]);
    assert_eq!(roster.groups[1].active, Duration::from_millis(400));
    assert!(roster.groups[0].hogs && !roster.groups[1].hogs);
}

#[test]
fn affinities_resolve() {
    let group = |affinity: &str| {
        one(
            "loop",
            &format!("count = 3\nrun = \"1ms\"\naffinity = \"{affinity}\""),
        )
    };
    let masks = |affinity: &str| {
        let (sim, _) = run("2x2x1", &group(affinity), Costs::free());
        let tasks = sim.tasks();
        let lists = tasks.iter().map(|t| t.allowed.iter().collect::<Vec<_>>());
        lists.collect::<Vec<_>>()
    };
    assert_eq!(masks("one-each"), [vec![0], vec![1], vec![2]]);
    assert_eq!(masks("llc:1")[0], [2, 3]);
    assert_eq!(masks("1-2")[2], [1, 2]);
    let workload = Workload::parse("t", &group("llc:7")).unwrap();
    let config = Config::new("2x2x1".parse().unwrap());
    let mut sim = Sim::new(&config, Box::new(Native::new(GlobalVtime::new(1))));
    let error = populate(&mut sim, &workload).unwrap_err();
    assert!(error.to_string().contains("no online CPU"), "{error}");
}

#[test]
fn shipped_workloads_run() {
    for named in workloads::ALL {
        let mut workload = Workload::parse(&named.file(), named.toml).unwrap();
        workload.duration = Duration::from_millis(30);
        workload.warmup = Duration::from_millis(10);
        let config = Config::new("2x2x2".parse().unwrap());
        let mut sim = Sim::new(&config, Box::new(Native::new(GlobalVtime::new(5_000_000))));
        let roster = populate(&mut sim, &workload).unwrap();
        assert_eq!(sim.run_until(roster.end_ns), None, "{}", named.name);
        let done: u64 = sim.tasks().iter().map(|t| t.stats.ops).sum();
        assert!(done > 0, "{}", named.name);
    }
}
