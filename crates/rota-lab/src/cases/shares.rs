// SPDX-License-Identifier: GPL-2.0-only
//! CPU time in proportion to weight.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use rota_load::report::{GroupReport, Report};

use super::Case;
use super::session::{group, range, scheduled, steady_load};
use crate::bounds;
use crate::check;
use crate::guest::{CaseResult, Guest};

pub const CASES: &[Case] = &[
    Case::new("shares_by_weight", by_weight)
        .only(BY_WEIGHT)
        .counted(),
    Case::new("shares_with_pinned", with_pinned)
        .only(BY_WEIGHT)
        .counted()
        .min_cpus(2)
        .in_turn(),
    Case::new("shares_over_time", over_time)
        .only(BY_WEIGHT)
        .counted()
        .in_turn(),
    Case::new("shares_beside_a_crowd", beside_a_crowd)
        .only(BY_WEIGHT)
        .counted()
        .one_machine(),
    Case::new("light_beside_heavy", light_beside_heavy)
        .only(WEIGHTED)
        .counted()
        .in_turn(),
];

/// Those with one queue by virtual time for the whole machine.
pub const BY_WEIGHT: &[&str] = &["scx_vtime", "scx_freq"];

/// Those with weights at all.
const WEIGHTED: &[&str] = &["scx_vtime", "scx_freq", "scx_llc"];

const SLICE_MS: f64 = 5.0;
const SLICE: [&str; 2] = ["--slice-us", "5000"];

/// CPU time that cannot be had: the kernel's own threads, and the lab's.
const OVERHEAD: f64 = 0.04;

/// Goal: CPU time follows weight, as far as a task can use it.
/// Method: hogs of three weights on every CPU; then one whose weight is worth more than a CPU,
/// beside one of weight 100 per CPU: it gets a CPU, and the others share the rest. The ideal shares
/// come from the weights.
fn by_weight(guest: &mut Guest) -> CaseResult {
    let mix = hogs(&[
        ("heavy", "count = \"1/cpu\"\nnice = -5"),
        ("normal", "count = \"1/cpu\""),
        ("light", "count = \"1/cpu\"\nnice = 5"),
    ]);
    let huge = hogs(&[("huge", "nice = -15"), ("normal", "count = \"1/cpu\"")]);
    scheduled(guest, &SLICE, |_| {
        let mix = steady_load(guest, &mix, Duration::from_secs(3))?;
        let mix = check_ideal(&mix)?;
        let huge = steady_load(guest, &huge, Duration::from_secs(2))?;
        let huge = check_ideal(&huge)?;
        Ok(format!("{mix}; {huge}"))
    })
}

/// Goal: being pinned neither helps nor harms.
/// Method: a hog pinned to each CPU beside a free one per CPU: all get the same. Then three pinned
/// to one CPU: no share of the machine can be had on less than a CPU, so that CPU is theirs, and
/// the free ones share the others. Of that CPU the policy gives each queue one turn in nine at least.
fn with_pinned(guest: &mut Guest) -> CaseResult {
    let each = hogs(&[
        ("pinned", "count = \"1/cpu\"\naffinity = \"one-each\""),
        ("free", "count = \"1/cpu\""),
    ]);
    let crowd = hogs(&[
        ("crowd", "count = 3\naffinity = \"0\""),
        ("free", "count = \"1/cpu\""),
    ]);
    scheduled(guest, &SLICE, |_| {
        let each = check_ideal(&steady_load(guest, &each, Duration::from_secs(2))?)?;
        let report = steady_load(guest, &crowd, Duration::from_millis(1500))?;
        let (crowd, free) = (group(&report, "crowd")?, group(&report, "free")?);
        let bound = bound(free, report.cpus);
        let figures = format!(
            "crowd {:.3?}, free {:.3?}",
            crowd.per_task_share, free.per_task_share
        );
        let least = (8.0 / 9.0 - OVERHEAD) / 3.0;
        let (min, _) = range(&crowd.per_task_share);
        check!(
            min > least - bound,
            "a pinned task has less than {least:.3}: {figures}"
        );
        let cpus = f64::from(report.cpus);
        let least = (cpus - 1.0 - OVERHEAD * cpus) / cpus;
        let (min, max) = range(&free.per_task_share);
        check!(
            min > least - bound,
            "a free task has less than {least:.3}: {figures}"
        );
        check!(max - min < 2.0 * bound, "free tasks differ: {figures}");
        Ok(format!("{each}; {figures}"))
    })
}

/// Goal: time without running is neither saved up nor held against a task.
/// Method: hogs, and as many that begin 1 s later: from then on all get the same. Had the late ones
/// saved up that second, they would have all. Then hogs beside tasks that run 300 ms and sleep
/// 300 ms: while they run they get half, so 300 ms take them 600 ms, and of each 900 ms they get
/// 300. A sleeper may keep one slice of credit each time.
fn over_time(guest: &mut Guest) -> CaseResult {
    let late = hogs(&[
        ("early", "count = \"1/cpu\""),
        ("late", "count = \"1/cpu\"\nstart = \"1s\""),
    ]);
    let sleepers = hogs(&[
        ("hog", "count = \"1/cpu\""),
        (
            "sleeper",
            "count = \"1/cpu\"\nrun = \"300ms\"\nsleep = \"300ms\"",
        ),
    ]);
    scheduled(guest, &SLICE, |_| {
        let report = steady_load(guest, &late, Duration::from_secs(2))?;
        let late = group(&report, "late")?;
        let bound = bound(late, report.cpus);
        let (min, max) = range(&late.per_task_share);
        let figures = format!("late starters {min:.3} to {max:.3} of 0.5");
        check!(
            min > 0.5 - OVERHEAD - bound && max < 0.5 + bound,
            "{figures}"
        );
        let report = steady_load(guest, &sleepers, Duration::from_millis(2700))?;
        let (hog, sleeper) = (group(&report, "hog")?, group(&report, "sleeper")?);
        let part = sleeper.cpu_s / (hog.cpu_s + sleeper.cpu_s);
        let figures = format!("{figures}; sleepers {part:.3} of 0.333");
        // A slice of credit in each of the three rounds, and the rounds of different CPUs drift
        // apart.
        let credit = 3.0 * (SLICE_MS + bounds::TICK_MS) / 1e3 / report.seconds + 0.02;
        check!((part - 1.0 / 3.0).abs() < credit, "{figures}");
        Ok(figures)
    })
}

/// Goal: many light tasks do not keep a heavy one waiting, nor it them.
/// Method: one hog of the largest nice weight, which is worth more than a CPU, and one such task that
/// runs 2 of 20 ms, beside 50 of the smallest on each CPU. The hog gets a CPU; the sleeper waits for
/// turns that have begun, not for one of each light task; and those share the rest equally.
fn beside_a_crowd(guest: &mut Guest) -> CaseResult {
    let crowd = hogs(&[
        ("heavy", "nice = -20"),
        (
            "sleeper",
            "nice = -20\nrun = \"2ms\"\nsleep = \"18ms\"\njitter = 20",
        ),
        ("crowd", "count = \"50/cpu\"\nnice = 19"),
    ]);
    let crowd = crowd.replace("warmup = \"300ms\"", "warmup = \"1s\"");
    scheduled(guest, &SLICE, |_| {
        let report = steady_load(guest, &crowd, Duration::from_secs(4))?;
        let crowd = group(&report, "crowd")?;
        let light: Vec<(&str, f64, f64)> = crowd
            .per_task_share
            .iter()
            .map(|share| ("crowd", 1.0, *share))
            .collect();
        let cpus = report.cpus as usize;
        let lags = check_lags(&light, cpus, report.seconds)?;
        let (least, _) = range(&crowd.per_task_share);
        let heavy = group(&report, "heavy")?.share;
        let sleeper = group(&report, "sleeper")?.wakeup_us;
        let waited = sleeper.map_or(f64::INFINITY, |latency| latency.max / 1e3);
        let figures = format!("heavy {heavy:.3}, sleeper waited {waited:.1} ms, {lags}");
        check!(heavy > 1.0 - OVERHEAD, "{figures}");
        check!(waited < bounds::gap_ms(SLICE_MS, cpus, 2), "{figures}");
        check!(least > 0.0, "a light task never ran: {figures}");
        Ok(figures)
    })
}

/// Goal: however little a task's weight is worth, it gets a turn before the kernel's watchdog takes it
/// for lost.
/// Method: two hogs of the largest nice weight on each CPU, and of the smallest one that may not
/// leave it and one that may: by weight alone a turn of those is worth half a minute and more, while
/// the watchdog is set to 4 s. In twice that everyone has a turn.
fn light_beside_heavy(guest: &mut Guest) -> CaseResult {
    let workload = hogs(&[
        ("heavy", "count = \"2/cpu\"\nnice = -20"),
        ("light", "count = \"1/cpu\"\nnice = 19"),
        (
            "pinned",
            "count = \"1/cpu\"\nnice = 19\naffinity = \"one-each\"",
        ),
    ]);
    let options = [SLICE[0], SLICE[1], "--timeout-ms", "4000"];
    scheduled(guest, &options, |_| {
        let report = steady_load(guest, &workload, Duration::from_secs(8))?;
        let mut figures = Vec::new();
        let mut least = f64::INFINITY;
        for group in &report.groups {
            let (min, max) = range(&group.per_task_share);
            figures.push(format!("{} {min:.4} to {max:.4}", group.name));
            least = least.min(min);
        }
        let figures = figures.join(", ");
        check!(least > 0.0, "a task never ran: {figures}");
        Ok(figures)
    })
}

/// How far the CPU time of a task may be from the ideal, as a share of a CPU.
fn bound(group: &GroupReport, cpus: u32) -> f64 {
    bounds::lag_ms(SLICE_MS, cpus as usize) / 1e3 / group.seconds
}

/// A workload of groups that never sleep if their lines do not say otherwise.
pub fn hogs(groups: &[(&str, &str)]) -> String {
    let mut text = String::from("name = \"hogs\"\nwarmup = \"300ms\"\n");
    for (name, lines) in groups {
        let run = if lines.contains("run =") {
            ""
        } else {
            "run = \"10ms\"\n"
        };
        text += &loops(name, &format!("{run}{lines}"));
    }
    text
}

/// A group of loops with these lines.
pub fn loops(name: &str, lines: &str) -> String {
    format!("\n[[group]]\nname = \"{name}\"\nkind = \"loop\"\n{lines}\n")
}

/// Checks that the CPUs are busy, and that each task has had what its weight is worth.
fn check_ideal(report: &Report) -> CaseResult {
    let tasks: Vec<(&str, f64, f64)> = report
        .groups
        .iter()
        .flat_map(|group| {
            let weight = weight(group);
            let shares = group.per_task_share.iter();
            shares.map(move |share| (group.name.as_str(), weight, *share))
        })
        .collect();
    let cpus = report.cpus as usize;
    let total: f64 = tasks.iter().map(|(.., share)| share).sum();
    let figures = check_lags(&tasks, cpus, report.seconds)?;
    check!(
        total > cpus as f64 * (1.0 - OVERHEAD),
        "only {total:.2} of {cpus} CPUs are used: {figures}"
    );
    Ok(figures)
}

/// Checks that each task, of which name, weight and share are given, has had what its weight is
/// worth in `seconds`.
pub fn check_lags(tasks: &[(&str, f64, f64)], cpus: usize, seconds: f64) -> CaseResult {
    let weights: Vec<f64> = tasks.iter().map(|(_, weight, _)| *weight).collect();
    let total: f64 = tasks.iter().map(|(.., share)| share).sum();
    let ideal = feasible_shares(&weights, total);
    let lags: Vec<f64> = iter::zip(tasks, ideal)
        .map(|((.., share), ideal)| (share - ideal) * seconds * 1e3)
        .collect();
    let mut groups: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, _, share) in tasks {
        *groups.entry(name).or_default() += share;
    }
    let shares: Vec<String> = groups
        .iter()
        .map(|(name, share)| format!("{name} {share:.3}"))
        .collect();
    let (least, most) = range(&lags);
    let figures = format!("{}, lag {least:.1} to {most:.1} ms", shares.join(", "));
    let bound = bounds::lag_ms(SLICE_MS, cpus);
    for ((name, _, share), lag) in iter::zip(tasks, &lags) {
        check!(
            lag.abs() < bound,
            "a task of {name} has {share:.3}, {lag:.1} ms from its ideal ({bound} are allowed): \
             {figures}"
        );
    }
    Ok(figures)
}

/// The weight in sched_ext's terms, where 100 is that of nice 0.
pub fn weight(group: &GroupReport) -> f64 {
    let load = group.weight.map_or(1024.0, f64::from);
    (load * 100.0 / 1024.0).round().clamp(1.0, 10_000.0)
}

/// The shares of tasks with these weights in `cpus` CPUs, of which each task can use one at most:
/// what a weight is worth beyond that is for the others to share.
pub fn feasible_shares(weights: &[f64], cpus: f64) -> Vec<f64> {
    let mut shares: Vec<Option<f64>> = vec![None; weights.len()];
    loop {
        let left = cpus - shares.iter().flatten().sum::<f64>();
        let open = iter::zip(weights, &shares).filter(|(_, share)| share.is_none());
        let sum: f64 = open.map(|(weight, _)| weight).sum();
        let fair: Vec<f64> = iter::zip(weights, &shares)
            .map(|(weight, share)| share.unwrap_or(left * weight / sum))
            .collect();
        if fair.iter().all(|share| *share <= 1.0) {
            return fair;
        }
        for (share, fair) in iter::zip(&mut shares, fair) {
            if fair > 1.0 {
                *share = Some(1.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(weights: &[f64], cpus: f64) -> Vec<f64> {
        let shares = feasible_shares(weights, cpus);
        shares
            .iter()
            .map(|share| (share * 1000.0).round() / 1000.0)
            .collect()
    }

    #[test]
    fn shares_follow_weights() {
        assert_eq!(rounded(&[100.0, 300.0], 1.0), [0.25, 0.75]);
        let shares = feasible_shares(&[33.0, 100.0, 305.0, 100.0], 0.9);
        assert!(
            (shares.iter().sum::<f64>() - 0.9).abs() < 1e-9,
            "{shares:?}"
        );
    }

    #[test]
    fn nobody_uses_more_than_a_cpu() {
        // 800 of 1000 would be 1.6 CPUs, and then 150 of 200 are 0.75.
        assert_eq!(rounded(&[800.0, 150.0, 50.0], 2.0), [1.0, 0.75, 0.25]);
        // Once the first has its CPU, the second is too heavy as well.
        assert_eq!(rounded(&[800.0, 150.0, 50.0], 2.5), [1.0, 1.0, 0.5]);
    }
}
