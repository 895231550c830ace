// SPDX-License-Identifier: GPL-2.0-only
//! Goal: each oracle sees what it is for, and nothing else.
//! Method: evidence of a scenario in which all is well, and one thing wrong with it at a time.

use super::*;
use crate::fuzz::{Act, What};

const REPORT: &str = include_str!("report.json");

fn scenario() -> Scenario {
    Scenario {
        sched: "scx_vtime".into(),
        kernel: "7.3".into(),
        topology: "1x2x1".into(),
        seed: 1,
        options: vec!["--slice-us=5000".into()],
        workload: "name = \"w\"\n\n[[group]]\nname = \"hog\"\nkind = \"loop\"\nrun = \"10ms\"\ncount = 4\n"
            .into(),
        load_first: false,
        acts: Vec::new(),
    }
}

fn with(what: What) -> Scenario {
    let acts = vec![Act { at_ms: 0, what }];
    Scenario { acts, ..scenario() }
}

fn evidence() -> Evidence {
    let exit =
        r#"{"event":"exit","kind":64,"kind_name":"UNREG","reason":"unregistered from user space"}"#;
    let state = SchedState {
        state: "disabled".into(),
        ..SchedState::default()
    };
    let mut end = Progress::default();
    end.stdout.push(exit.into());
    end.code = Some(0);
    Evidence {
        report: Ok(serde_json::from_str(REPORT).unwrap()),
        end,
        state_before: state.clone(),
        state_after: state,
        idleness: Some(Idleness {
            longest_us: 3_000,
            longest: Some((77, 1)),
            ..Idleness::default()
        }),
        cpus: 2,
        rss_kib: vec![9_000, 9_100],
        ..Evidence::default()
    }
}

fn names(scenario: &Scenario, evidence: &Evidence) -> Vec<String> {
    let violations = judge(scenario, evidence);
    violations
        .into_iter()
        .map(|violation| violation.oracle)
        .collect()
}

#[test]
fn all_is_well() {
    assert_eq!(names(&scenario(), &evidence()), [""; 0]);
    assert!(figures(&evidence()).contains("idle beside work 3.0 ms"));
}

#[test]
fn each_oracle_sees_its_own_kind_of_wrong() {
    type Harm = fn(&mut Evidence);
    let table: [(&str, Harm); 20] = [
        ("exit", |e| e.ended_early = true),
        ("exit", |e| e.settled = Err("it has ended".into())),
        ("exit", |e| e.end.code = Some(1)),
        ("exit", |e| e.end.stdout.clear()),
        ("exit", |e| {
            e.end.stdout = vec![r#"{"event":"exit","kind":1025,"reason":"x"}"#.into()]
        }),
        ("lost", |e| e.report = Err("rota-load: exit code 1".into())),
        ("lost", |e| {
            e.report
                .as_mut()
                .unwrap()
                .errors
                .push("a task did not stop".into())
        }),
        ("lost", |e| {
            e.report.as_mut().unwrap().groups[1].per_task_share = vec![0.0]
        }),
        ("starved", |e| {
            e.report.as_mut().unwrap().groups[1].longest_gap_us = Some(9e5)
        }),
        ("idle", |e| e.idleness.as_mut().unwrap().longest_us = 17_000),
        ("idle", |e| {
            let idleness = e.idleness.as_mut().unwrap();
            (idleness.length_us, idleness.lost_us) = (1_000_000, 310_000);
        }),
        ("affinity", |e| {
            e.report.as_mut().unwrap().groups[0].outside_mask = 1
        }),
        ("weights", |e| {
            e.report.as_mut().unwrap().groups[0].per_task_share = vec![0.7, 0.5, 0.4, 0.4];
        }),
        ("events", |e| {
            e.events.insert("SCX_EV_REENQ_REPEAT".into(), 1);
        }),
        ("kernel_log", |e| {
            e.kernel_trouble.push("WARNING: CPU: 1".into())
        }),
        ("second", |e| e.intruders.push("code Some(0)".into())),
        ("state", |e| e.state_after.state = "enabled".into()),
        ("state", |e| e.state_after.nr_rejected = 1),
        ("leftovers", |e| e.left.push("BPF map 7".into())),
        ("memory", |e| e.rss_kib = vec![9_000, 14_000]),
    ];
    for (name, harm) in table {
        let mut evidence = evidence();
        harm(&mut evidence);
        assert_eq!(names(&scenario(), &evidence), [name], "{evidence:?}");
    }
    for (name, _) in ALL {
        assert!(
            table.iter().any(|(other, _)| *other == name),
            "{name} is never seen"
        );
    }
}

#[test]
fn shares_are_not_judged_where_they_may_differ() {
    let mut evidence = evidence();
    evidence.report.as_mut().unwrap().groups[0].per_task_share = vec![0.7, 0.5, 0.4, 0.4];
    assert_eq!(names(&scenario(), &evidence), ["weights"]);
    let mut one = scenario();
    one.sched = "scx_fifo".into();
    assert!(names(&one, &evidence).is_empty());
    let mut one = scenario();
    one.load_first = true;
    assert!(names(&one, &evidence).is_empty());
    let one = with(What::Hangup);
    assert!(names(&one, &evidence).is_empty());
}

#[test]
fn a_long_slice_makes_long_gaps() {
    let mut evidence = evidence();
    evidence.report.as_mut().unwrap().groups[1].longest_gap_us = Some(4.5e5);
    assert_eq!(names(&scenario(), &evidence), ["starved"]);
    let mut one = scenario();
    one.options.clear();
    assert!(names(&one, &evidence).is_empty());
}

#[test]
fn a_change_of_scheduler_or_cpus_makes_gaps() {
    let mut evidence = evidence();
    evidence.report.as_mut().unwrap().groups[1].longest_gap_us = Some(2e6);
    assert_eq!(names(&scenario(), &evidence), ["starved"]);
    let mut one = scenario();
    one.load_first = true;
    assert!(names(&one, &evidence).is_empty());
    let one = with(What::Offline { cpu: 1 });
    assert!(names(&one, &evidence).is_empty());
    evidence.report.as_mut().unwrap().groups[1].longest_gap_us = Some(4e6);
    assert_eq!(names(&one, &evidence), ["starved"]);
}
