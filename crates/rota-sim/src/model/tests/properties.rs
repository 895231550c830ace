// SPDX-License-Identifier: GPL-2.0-only
//! What holds on any machine, for any workload, under any policy that is sound.

use proptest::prelude::*;
use rota_load::spec::Workload;

use super::*;
use crate::machine::Machine;
use crate::random::{cases, machines, workloads};
use crate::report::{Claim, feasible_shares};
use crate::workload::populate;

const LENGTH_NS: u64 = 20 * MS;

fn workload_text() -> impl Strategy<Value = String> {
    workloads(20..21, -5..6)
}

/// The kernel's search leaves a task that is woken over a pipe or a socket to the CPU of its
/// waker, which is about to sleep, as it says; but it may have more to write first.
fn waits_for_no_waker(text: &str) -> bool {
    !text.contains("pipe") && !text.contains("messaging")
}

/// Everyone stays in the local queue of where it is.
fn local() -> Script {
    Script::with([Op::SelectCpu]).on_enqueue(|api, task, flags| {
        api.insert(task, consts::dsq::LOCAL, 3 * MS, flags);
    })
}

fn policies() -> Vec<Box<dyn Ops>> {
    vec![
        Box::new(Native::new(toys::GlobalFifo { slice_ns: 3 * MS })),
        Box::new(Native::new(toys::GlobalVtime::new(3 * MS))),
        Box::new(Native::new(Script::with([]))),
        Box::new(Native::new(local())),
    ]
}

fn run(machine: &str, text: &str, seed: u64, costs: Costs, ops: Box<dyn Ops>) -> Sim {
    let mut workload = Workload::parse("random", text).unwrap();
    workload.seed = seed;
    let config = Config {
        costs,
        seed,
        ..config(machine, KernelVersion::V7_3)
    };
    let mut sim = Sim::new(&config, ops);
    populate(&mut sim, &workload).unwrap();
    assert_eq!(sim.run_until(LENGTH_NS), None);
    sim
}

/// Who runs where at every switch: allowed, unless that has changed, online, and on one CPU at a time.
fn check_places(sim: &Sim, text: &str) -> Result<(), TestCaseError> {
    let changes = text.contains("affinity-storm");
    let tasks = sim.tasks();
    let online = sim.online();
    let mut on: Vec<Option<u32>> = vec![None; tasks.len()];
    let mut runs: Vec<Option<u32>> = vec![None; sim.machine().nr_cpu_ids() as usize];
    for (at, cpu, task) in switches(sim) {
        if let Some(old) = runs[cpu as usize].take() {
            on[old as usize] = None;
        }
        if let Some(task) = task {
            prop_assert!(online.contains(cpu));
            prop_assert!(
                changes || tasks[task as usize].allowed.contains(cpu),
                "{task} on {cpu} at {at}"
            );
            prop_assert_eq!(on[task as usize], None, "{} twice at {}", task, at);
            on[task as usize] = Some(cpu);
            runs[cpu as usize] = Some(task);
        }
    }
    Ok(())
}

/// Who wants to run does, or waits in a queue.
fn check_queues(sim: &Sim) -> Result<(), TestCaseError> {
    sim.kernel.with(|core| {
        for task in &core.tasks {
            let waits = task.on_rq && !task.on_cpu;
            prop_assert_eq!(waits, task.scx.on.is_some(), "{}", task.label());
        }
        Ok(())
    })
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn nobody_is_lost_or_misplaced(
        machine in machines(), text in workload_text(), seed: u64, free: bool,
    ) {
        for ops in policies() {
            let free_but_calls = Costs { syscall_ns: 5_000, ..Costs::free() };
            let costs = if free { free_but_calls } else { Costs::default() };
            let sim = run(&machine, &text, seed, costs, ops);
            check_places(&sim, &text)?;
            let tasks = sim.tasks();
            let used: u64 = tasks.iter().map(|task| task.stats.cpu_ns).sum();
            prop_assert!(used <= LENGTH_NS * u64::from(sim.online().weight()));
            // A callback that takes time has a task in no queue meanwhile.
            if free {
                check_queues(&sim)?;
            }
        }
    }

    #[test]
    fn no_cpu_halts_beside_work(
        machine in machines(), text in workload_text().prop_filter("as it says", |text| waits_for_no_waker(text)),
        seed: u64,
    ) {
        let policies: Vec<Box<dyn Ops>> = vec![
            Box::new(Native::new(toys::GlobalFifo { slice_ns: 3 * MS })),
            Box::new(Native::new(toys::GlobalVtime::new(3 * MS))),
        ];
        for ops in policies {
            let sim = run(&machine, &text, seed, Costs::default(), ops);
            let totals = sim.totals();
            // From the insertion to the kick is a callback's length, and what it waits for
            // locks; a wake-up that is lost costs a tick, 4 ms.
            prop_assert!(totals.longest_lost_ns < 100_000, "{totals:?}");
        }
    }

    #[test]
    fn the_seed_decides_everything(machine in machines(), text in workload_text(), seed: u64) {
        let vtime = || Box::new(Native::new(toys::GlobalVtime::new(3 * MS)));
        let one = run(&machine, &text, seed, Costs::default(), vtime());
        let same = run(&machine, &text, seed, Costs::default(), vtime());
        prop_assert_eq!(one.trace_hash(), same.trace_hash());
    }

    #[test]
    fn a_fair_policy_is_fair(
        cpus in 1u32..5,
        nice in proptest::collection::vec(-4i8..5, 1..10),
        seed: u64,
    ) {
        let machine: Machine = format!("1x{cpus}x1").parse().unwrap();
        let config = Config { seed, keep_trace: false, ..Config::new(machine.clone()) };
        let policy = Native::new(toys::GlobalVtime::new(4 * MS));
        let mut sim = Sim::new(&config, Box::new(policy));
        for &nice in &nice {
            let hog = NewTask::new("hog", machine.possible(), Hog);
            sim.add_task(NewTask { nice, ..hog });
        }
        let seconds = 4.0;
        prop_assert_eq!(sim.run_until(4_000 * MS), None);
        let claims: Vec<Claim> = sim
            .tasks()
            .iter()
            .map(Claim::of)
            .collect();
        let ideals = feasible_shares(&claims, &machine.online());
        for (task, ideal) in sim.tasks().iter().zip(ideals) {
            let share = task.stats.cpu_ns as f64 / 1e9 / seconds;
            prop_assert!((share - ideal).abs() < 0.03, "{share} for {ideal}: {task:?}");
        }
    }
}

#[test]
fn another_seed_is_another_run() {
    let text = "name = \"t\"\nduration = \"100ms\"\n[[group]]\nname = \"g\"\nkind = \"loop\"\n\
        run = \"1ms\"\nsleep = \"1ms\"\njitter = 50\ncount = 8";
    let hash = |seed| {
        let vtime = Box::new(Native::new(toys::GlobalVtime::new(3 * MS)));
        run("1x2x1", text, seed, Costs::default(), vtime).trace_hash()
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}
