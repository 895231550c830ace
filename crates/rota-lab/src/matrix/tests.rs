// SPDX-License-Identifier: GPL-2.0-only
//! The matrix, without booting it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::vm::Accel;

fn settings() -> Settings {
    let scheds = ["scx_fifo", "scx_vtime"].map(str::to_owned).into();
    Settings {
        scheds,
        results: "/r".into(),
        ..Settings::default()
    }
}

fn names(cells: &[Cell]) -> Vec<String> {
    cells.iter().map(Cell::to_string).collect()
}

#[test]
fn the_default_matrix_is_kernels_by_machines_by_schedulers() {
    let cells = settings().cells().unwrap();
    assert_eq!(cells.len(), 3 * 3 * 2);
    let names = names(&cells);
    assert_eq!(names[0], "6.16/1x1x1/scx_fifo");
    assert_eq!(names[17], "7.3/2x2x2/scx_vtime");
}

#[test]
fn what_takes_minutes_is_for_kernels_and_machines_of_the_default_matrix() {
    let full = Settings {
        full: true,
        ..Settings::default()
    };
    let has = |settings: &Settings, kernel: &str, topology: &str| {
        let cell = Cell {
            kernel: kernel.parse().unwrap(),
            topology: topology.parse().unwrap(),
            sched: "scx_vtime".into(),
        };
        let cases = settings.cases(&cell);
        assert!(cases.iter().any(|case| case.name == "attach_detach"));
        cases.iter().any(|case| case.only_full)
    };
    assert!(has(&full, "6.16", "2x2x2"));
    assert!(!has(&full, "6.17", "2x2x2"));
    assert!(!has(&full, "6.16", "numa:2x2x2x1"));
    assert!(!has(&Settings::default(), "6.16", "2x2x2"));
    // Asked for by name.
    let named = Settings {
        kernels: vec!["6.17".into()],
        ..full
    };
    assert!(has(&named, "6.17", "2x2x2"));
}

#[test]
fn the_full_matrix_adds_kernels_nodes_and_refusals() {
    let cells = Settings {
        full: true,
        ..settings()
    }
    .cells()
    .unwrap();
    let names = names(&cells);
    assert_eq!(cells.len(), (7 * 3 + 3 * 2 + 1) * 2 + 2 * 2);
    for name in [
        "6.12/2x2x2/scx_fifo",
        "6.18/numa:2x2x2x1/scx_fifo",
        "7.3/1x2x4x1-2/scx_vtime",
        "7.3/hybrid:2+2/scx_fifo",
        "none/1x4x1/scx_vtime",
        "7.2.12/1x4x1/scx_fifo",
    ] {
        assert!(names.iter().any(|n| n == name), "{name}");
    }
    assert!(!names.iter().any(|name| name.starts_with("none/2x2x2")));
}

#[test]
fn what_is_the_same_everywhere_runs_on_one_machine() {
    let has = |settings: &Settings, topology: &str, name: &str| {
        let cells = settings.cells().unwrap();
        let cell = cells
            .iter()
            .find(|cell| cell.topology.to_string() == topology);
        let cases = settings.cases(cell.unwrap());
        cases.iter().any(|case| case.name == name)
    };
    let all = settings();
    for topology in TOPOLOGIES {
        assert!(has(&all, topology, "attach_detach"), "{topology}");
        assert_eq!(
            has(&all, topology, "bad_usage_refused"),
            topology == ONE_MACHINE
        );
    }
    let chosen = Settings {
        topologies: vec!["1x8x1".into()],
        ..settings()
    };
    assert!(has(&chosen, "1x8x1", "bad_usage_refused"));
    assert!(has(&chosen, "1x8x1", "affinity_storm_in_parallel"));
    assert!(!has(&all, ONE_MACHINE, "affinity_storm_in_parallel"));
    assert!(has(&all, "2x2x2", "affinity_storm_in_parallel"));
}

const SCHEDS: [&str; 4] = ["scx_fifo", "scx_freq", "scx_llc", "scx_vtime"];

/// The cells of a sparse matrix of four schedulers that have a case.
fn cells_of(name: &str, full: bool) -> Vec<Cell> {
    let sparse = Settings {
        sparse: true,
        full,
        scheds: SCHEDS.map(str::to_owned).into(),
        ..settings()
    };
    let mut cells = sparse.cells().unwrap();
    cells.retain(|cell| sparse.cases(cell).iter().any(|case| case.name == name));
    cells
}

#[test]
fn what_one_kernel_alone_has_runs_there_with_each_scheduler() {
    let here = SCHEDS.map(|sched| format!("6.12/{ONE_MACHINE}/{sched}"));
    let name = "memory_fails_while_starting";
    assert_eq!(names(&cells_of(name, true)), here);
    assert!(cells_of(name, false).is_empty());
}

#[test]
fn a_sparse_matrix_has_each_two_of_kernel_machine_and_scheduler_together() {
    // One for each clock, and one that is the same on all machines.
    for name in ["attach_detach", "busy_machine", "bad_usage_refused"] {
        let one_machine = cases::find(name).unwrap().machine.is_some();
        for full in [false, true] {
            let mut pairs = [const { BTreeSet::new() }; 3];
            let cells = cells_of(name, full);
            for cell in &cells {
                let (kernel, topology) = (cell.kernel.to_string(), cell.topology.to_string());
                if topology == HYBRID.1 {
                    continue;
                }
                pairs[0].insert((topology.clone(), cell.sched.clone()));
                pairs[1].insert((kernel.clone(), topology));
                pairs[2].insert((kernel, cell.sched.clone()));
            }
            let found = pairs.map(|pairs| pairs.len());
            let expected = match (one_machine, full) {
                // Each kernel with one or two of the four schedulers.
                (true, false) => [4, 3, 4],
                (true, true) => [4, 7, 9],
                (false, false) => [3 * 4, 3 * 3, 3 * 4],
                // Two of the five machines are for three of the seven kernels.
                (false, true) => [5 * 4, 3 * 5 + 4 * 3, 7 * 4],
            };
            assert_eq!(found, expected, "{name} {full}");
        }
    }
}

#[test]
fn what_few_schedulers_do_takes_turns_unless_the_matrix_is_full() {
    let kernels = |name, topology: &str, full| -> Vec<String> {
        let cells = cells_of(name, full).into_iter();
        let here = cells.filter(|cell| cell.topology.to_string() == topology);
        here.map(|cell| cell.kernel.to_string()).collect()
    };
    let all = [&KERNELS[..], &MORE_KERNELS].concat();
    let (mut met, mut met_more) = (BTreeSet::new(), BTreeSet::new());
    for name in [
        "balancer_levels",
        "shares_across_llcs",
        "wakeups_stay_local",
    ] {
        let full = kernels(name, "2x2x2", true);
        let (usual, more) = full.split_at(KERNELS.len());
        assert_eq!(usual, KERNELS, "{name}");
        assert!(!more.is_empty(), "{name} runs on none of {MORE_KERNELS:?}");
        met_more.extend(more.iter().cloned());
        let [kernel] = &kernels(name, "2x2x2", false)[..] else {
            panic!("{name} runs on more than one kernel, or none");
        };
        met.insert(kernel.clone());
    }
    assert!(met.len() > 1, "all on {met:?}");
    assert!(met_more.len() > 1, "all on {met_more:?}");
    // Three of the four schedulers, each on kernels of its own.
    assert_eq!(kernels("light_beside_heavy", "1x4x1", false), KERNELS);
    assert_eq!(kernels("light_beside_heavy", "1x4x1", true), all);
    // All four.
    for full in [false, true] {
        assert_eq!(kernels("sigkill_in_parallel", "2x2x2", full), ["7.3"; 4]);
    }
}

#[test]
fn any_other_matrix_has_it_everywhere() {
    for kernel in KERNELS {
        for name in ["attach_detach", "light_beside_heavy"] {
            let cell = Cell {
                kernel: kernel.parse().unwrap(),
                topology: "1x4x1".parse().unwrap(),
                sched: "scx_vtime".into(),
            };
            let cases = settings().cases(&cell);
            assert!(
                cases.iter().any(|case| case.name == name),
                "{kernel} {name}"
            );
        }
    }
}

#[test]
fn a_hybrid_machine_is_tested_on_one_kernel_unless_another_is_named() {
    let hybrid = Settings {
        topologies: vec!["hybrid:4+4".into()],
        scheds: vec!["scx_fifo".into()],
        ..settings()
    };
    assert_eq!(names(&hybrid.cells().unwrap()), ["7.3/hybrid:4+4/scx_fifo"]);
    assert_eq!(
        hybrid.kernels().unwrap(),
        [(Arch::Arm64, "7.3".parse().unwrap())]
    );
    let other = Settings {
        kernels: vec!["6.18".into()],
        ..hybrid
    };
    assert_eq!(names(&other.cells().unwrap()), ["6.18/hybrid:4+4/scx_fifo"]);
}

#[test]
fn a_kernel_that_could_not_be_had_takes_only_its_own_cells_along() {
    let full = Settings {
        full: true,
        ..settings()
    };
    let kernels = full.kernels().unwrap();
    assert_eq!(kernels.len(), 7 + 2 + 1);
    assert!(kernels.contains(&(Arch::Arm64, "7.3".parse().unwrap())));
    let without = |absent: (Arch, &str)| {
        let absent = vec![(absent.0, absent.1.to_owned())];
        let cells = Settings {
            absent,
            ..full.clone()
        }
        .cells();
        cells.unwrap().len()
    };
    let all = full.cells().unwrap().len();
    assert_eq!(without((Arch::Arm64, "7.3")), all - 2);
    assert_eq!(without((Arch::X86_64, "7.3")), all - 2 * 5);
}

#[test]
fn a_choice_replaces_the_matrix() {
    let chosen = Settings {
        kernels: vec!["6.18".into()],
        topologies: vec!["1x8x1".into()],
        scheds: vec!["scx_fifo".into()],
        ..settings()
    };
    assert_eq!(names(&chosen.cells().unwrap()), ["6.18/1x8x1/scx_fifo"]);
    assert_eq!(
        chosen.kernels().unwrap(),
        [(Arch::X86_64, "6.18".parse().unwrap())]
    );
    let wrong = Settings {
        kernels: vec!["6".into()],
        ..settings()
    };
    assert!(wrong.cells().is_err());
}

#[test]
fn each_kind_of_kernel_has_its_own_cases() {
    let kind_of = |text: &str| kind(&text.parse().unwrap());
    assert_eq!(kind_of("none"), Kernels::WithoutSchedExt);
    for damaged in ["7.1", "7.1.13", "7.2.9", "7.2.12"] {
        assert_eq!(kind_of(damaged), Kernels::DamagedBtf, "{damaged}");
    }
    for sound in ["6.12", "6.18", "7.2", "7.2.13", "7.2.12+deb14", "7.3"] {
        assert_eq!(kind_of(sound), Kernels::Sound, "{sound}");
    }
}

#[test]
fn settings_survive_the_environment() {
    let (name, text) = settings().to_env();
    assert_eq!(name, "ROTA_LAB");
    assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings());
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome {
        verdict,
        boot: Some(Duration::from_secs(5)),
        elapsed: Duration::from_secs(9),
        retries: Vec::new(),
        accel: Accel::Tcg,
        console: "/r/console.log".into(),
    }
}

fn started(name: &str) -> Event {
    Event::CaseStarted { name: name.into() }
}

fn passed(name: &str) -> Event {
    Event::CaseResult {
        name: name.into(),
        outcome: CaseOutcome::Passed,
        message: String::new(),
        seconds: 1.0,
    }
}

fn after(events: &[Event], verdict: Verdict) -> Vec<(String, CaseOutcome, String)> {
    let mut seen = Seen::of(0);
    for event in events {
        seen.take(event);
    }
    let names = ["a", "b", "c"].map(str::to_owned);
    let records = seen.finish(&names, &outcome(verdict));
    records
        .into_iter()
        .map(|r| (r.name, r.outcome, r.message))
        .collect()
}

#[test]
fn the_case_that_ran_when_the_guest_died_has_failed() {
    let events = [started("a"), passed("a"), started("b")];
    let records = after(
        &events,
        Verdict::Panic("Kernel panic - not syncing: x".into()),
    );
    assert_eq!(records.len(), 2, "c is left for another boot");
    assert_eq!(
        (records[1].0.as_str(), records[1].1),
        ("b", CaseOutcome::Failed)
    );
    assert!(
        records[1]
            .2
            .contains("panicked: Kernel panic - not syncing: x"),
        "{}",
        records[1].2
    );
    assert!(records[1].2.contains("/r/console.log"));
}

#[test]
fn a_guest_that_does_not_boot_fails_all_its_cases() {
    let records = after(&[], Verdict::Silent(Duration::from_secs(60)));
    let seen: Vec<_> = records.iter().map(|r| (r.0.as_str(), r.1)).collect();
    let failed = CaseOutcome::Failed;
    assert_eq!(seen, [("a", failed), ("b", failed), ("c", failed)]);
    assert!(
        records[2].2.starts_with("silent for 60 s; console: "),
        "{}",
        records[2].2
    );
}

#[test]
fn a_guest_that_dies_between_cases_costs_the_next() {
    let verdict = Verdict::Vanished("reboot: Restarting system".into());
    let records = after(&[started("a"), passed("a")], verdict);
    let seen: Vec<_> = records.iter().map(|r| (r.0.as_str(), r.1)).collect();
    assert_eq!(
        seen,
        [("a", CaseOutcome::Passed), ("b", CaseOutcome::Failed)]
    );
}

#[test]
fn a_case_that_gave_the_guest_up_is_not_counted_twice() {
    let stuck = Event::CaseResult {
        name: "a".into(),
        outcome: CaseOutcome::Failed,
        message: "not done after 90 s".into(),
        seconds: 90.0,
    };
    let records = after(&[started("a"), stuck], Verdict::Exited(3));
    assert_eq!(records.len(), 1);
}

#[test]
fn a_second_attempt_starts_from_nothing() {
    let retried = Event::Retrying {
        reason: "Oops: int3".into(),
    };
    let events = [
        started("a"),
        passed("a"),
        started("b"),
        retried,
        started("a"),
        passed("a"),
    ];
    let records = after(&events, Verdict::Exited(0));
    assert_eq!(records.len(), 1);
}

#[test]
fn a_guest_gets_the_schedulers_that_its_cases_need() {
    let all: Vec<PathBuf> = [
        "rota-guest",
        "rota-load",
        "scx_fifo",
        "scx_freq",
        "scx_vtime",
    ]
    .map(|name| PathBuf::from("/p").join(name))
    .into();
    let names = |sched: &str, cases: &[&str]| -> Vec<String> {
        let cases: Vec<String> = cases.iter().map(|name| (*name).to_owned()).collect();
        let needed = needed(&all, sched, &cases);
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        needed.iter().map(name).collect()
    };
    assert_eq!(
        names("scx_fifo", &["attach_detach"]),
        ["rota-guest", "rota-load", "scx_fifo"]
    );
    assert_eq!(
        names("scx_freq", &["attach_detach", "full_machine_is_as_fast"]),
        ["rota-guest", "rota-load", "scx_freq", "scx_vtime"]
    );
}
