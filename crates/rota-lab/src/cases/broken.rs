// SPDX-License-Identifier: GPL-2.0-only
//! Oracles see what they are for: those that judge what a policy decides are shown one that decides
//! wrongly. (What comes of an error that the policy itself reports is a matter of the cases in `eject.rs`;
//! each oracle's own test shows it evidence with its defect. `starve:COMM` is for the hand: now and
//! then its victim slips through, and nobody knows yet how.)

use super::Case;
use super::shares::hogs;
use crate::check;
use crate::fuzz::{Act, Scenario, Violation, What};
use crate::guest::{CaseResult, Guest, act_out};

pub const CASES: &[Case] = &[
    Case::new("broken_policies_are_caught", broken_policies_are_caught)
        // Has weights and a queue by virtual time, without which two of the defects are none.
        .only(&["scx_vtime"])
        .counted()
        .min_cpus(2)
        .limit_s(300)
        .one_machine(),
];

/// Hogs of two weights on every CPU.
fn weighted() -> String {
    hogs(&[
        ("heavy", "count = \"1/cpu\"\nnice = -10"),
        ("light", "count = \"1/cpu\""),
    ])
}

/// Equal hogs, more than there are CPUs.
fn equal() -> String {
    hogs(&[("hog", "count = \"4/cpu\"")])
}

/// Tasks that may use two CPUs.
const CONFINED: &str = r#"
name = "confined"

[[group]]
name = "confined"
kind = "loop"
run = "2ms"
sleep = "1ms"
count = 4
affinity = "1-2"
"#;

/// Goal: an oracle that says nothing is one that has nothing to say.
/// Method: a fault knob gives the policy one defect at a time; the oracle for it finds it, and with
/// the same workloads but without a defect none finds anything.
fn broken_policies_are_caught(guest: &mut Guest) -> CaseResult {
    let (weighted, equal, confined) = (weighted(), equal(), CONFINED.to_owned());
    // A defect, a workload that brings it out, and the oracle that sees it.
    let defects = [
        ("unfair", &weighted, "weights"),
        ("sleepy", &equal, "idle"),
        ("stray", &confined, "events"),
    ];
    let mut told = Vec::new();
    // 6.12 counts no events.
    let counts = guest.machine().kernel.split('.').nth(1) != Some("12");
    let visible = |oracle: &str| counts || oracle != "events";
    for (fault, workload, oracle) in defects.into_iter().filter(|defect| visible(defect.2)) {
        // Shares are only judged if nothing is done meanwhile; else there is more time to be seen.
        let longer = (oracle != "weights").then_some(Act {
            at_ms: 1000,
            what: What::Hangup,
        });
        let found = judge(guest, &[&format!("--fault={fault}")], workload, longer);
        let seen = found.iter().find(|(name, _)| name == oracle);
        let Some((_, message)) = seen else {
            return Err(
                format!("{oracle} does not see {fault}, all that is seen is {found:?}").into(),
            );
        };
        told.push(format!("{fault}: {message}"));
    }
    for workload in [weighted, equal, confined] {
        let found = judge(guest, &[], &workload, None);
        check!(found.is_empty(), "without a defect: {found:?}");
    }
    Ok(told.join("; "))
}

/// What the oracles find, by name.
fn judge(
    guest: &mut Guest,
    options: &[&str],
    workload: &str,
    act: Option<Act>,
) -> Vec<(String, String)> {
    let mut all = vec!["--slice-us=1000".to_owned()];
    all.extend(options.iter().map(|option| (*option).to_owned()));
    let scenario = Scenario {
        sched: guest.sched_name().to_owned(),
        kernel: String::new(),
        topology: String::new(),
        seed: 0,
        options: all,
        workload: workload.to_owned(),
        load_first: false,
        acts: act.into_iter().collect(),
    };
    let verdicts = act_out(guest, &scenario);
    let pair = |found: Violation| (found.oracle, found.message);
    verdicts.violations.into_iter().map(pair).collect()
}
