// SPDX-License-Identifier: GPL-2.0-only
//! What the schedulers count.

use std::time::Duration;

use super::Case;
use super::session::load;
use crate::check;
use crate::guest::{CaseResult, Guest, counters, describe, last};

pub const CASES: &[Case] = &[Case::new("every_counter_moves", every_counter_moves)];

/// Counters of what cannot happen on every machine: CPUs and LLCs that it takes.
const NEEDS: [(&str, usize, usize); 14] = [
    // With one CPU the kernel does not ask where to wake a task.
    ("nr_idle", 2, 1),
    ("nr_pinned", 2, 1),
    ("nr_kicked", 2, 1),
    ("nr_stolen", 2, 2),
    ("nr_sync", 2, 1),
    ("nr_spread", 2, 2),
    ("nr_attached", 2, 1),
    ("nr_prev", 2, 1),
    ("nr_primary", 2, 1),
    ("nr_reserve", 2, 1),
    ("nr_grown", 2, 1),
    ("nr_promoted", 2, 1),
    ("nr_demoted", 2, 1),
    ("nr_expired", 2, 1),
];

/// Counters of what takes an uneven load on purpose, and the cases that see them move.
const ELSEWHERE: [(&str, &str); 6] = [
    ("nr_moved", "balancer_levels"),
    ("nr_returned", "stolen_tasks_go_home"),
    ("nr_spilled", "crowded_llc_spills"),
    ("nr_forced", "limited_nest_grows"),
    ("nr_impatient", "impatience_warms"),
    ("nr_perf", "performance_is_asked"),
];

/// Somebody whose slice ends while nobody waits.
const ALONE: &str = "name = \"alone\"\nwarmup = \"0s\"\n\
                     [[group]]\nname = \"hog\"\nkind = \"loop\"\nrun = \"10ms\"\n";

/// As many pairs that talk as CPUs: all are busy, and at times nobody waits.
const PAIRS: &str = "name = \"pairs\"\nwarmup = \"0s\"\n\
                     [[group]]\nname = \"pair\"\nkind = \"pipe\"\ncount = \"1/cpu\"\n";

/// Goal: each counter that a scheduler declares counts something.
/// Method: the names that `--help-stats` tells, and the counters at the end of a run with a bit of
/// everything: wake-ups alone and in masses, with and without an idle CPU, kernel threads, hogs alone and in crowds,
/// pinned tasks, changing affinities, bursts that leave CPUs idle beside full ones, pairs that talk.
fn every_counter_moves(guest: &mut Guest) -> CaseResult {
    let end = guest.run_sched(&["--help-stats", "--json"], Duration::from_secs(20))?;
    let described = last(&end, "counters").ok_or("no description of the counters")?;
    let described = described["counters"]
        .as_array()
        .ok_or("no list of counters")?;
    let mut names: Vec<&str> = described
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    names.sort_unstable();
    check!(!names.is_empty(), "no counter is described");

    let sched = guest.start(&["--stats", "1"])?;
    for (workload, length_ms) in [
        ("mixed", 1000),
        ("affinity-storm", 700),
        ("messaging", 500),
        ("probe", 500),
        (ALONE, 200),
        (PAIRS, 200),
    ] {
        load(guest, workload, Duration::from_millis(length_ms))?;
    }
    if !sched.program().is_running() {
        let progress = sched.program().progress();
        return Err(describe(guest.sched_name(), "ended meanwhile", &progress));
    }
    let counted = counters(&guest.stop(&sched)?);
    let told: Vec<&str> = counted.keys().map(String::as_str).collect();
    check!(
        told == names,
        "counters {told:?} are told, {names:?} are described"
    );
    let machine = guest.machine();
    let possible = |name: &str| {
        if ELSEWHERE.iter().any(|(there, _)| *there == name) {
            return false;
        }
        let needs = NEEDS.iter().find(|(needy, ..)| *needy == name);
        needs.is_none_or(|(_, cpus, llcs)| machine.cpus >= *cpus && machine.llcs >= *llcs)
    };
    let still: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| counted[*name] == 0.0 && possible(name))
        .collect();
    let figures: Vec<String> = counted
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    check!(
        still.is_empty(),
        "never moved: {}; {}",
        still.join(", "),
        figures.join(", ")
    );
    Ok(figures.join(", "))
}
