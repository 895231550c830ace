// SPDX-License-Identifier: GPL-2.0-only
//! From the figures of tasks to the report.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::crew::Crew;
use super::task::{Figures, Stage, histogram};
use crate::report::{GroupReport, Latency, MigrationsSource, Report};
use crate::spec::{Group, Workload};

/// The report of a run whose results are collected.
pub fn report(
    workload: &Workload,
    stage: &Stage,
    crew: &Crew,
    groups: &[Range<usize>],
    start_ns: u64,
    interrupted: bool,
) -> Report {
    let stop_ns = stage.control[0].stop_ns.load(Ordering::Relaxed);
    let measured_ns = stop_ns.saturating_sub(start_ns + stage.warmup_ns);
    let all: Vec<_> = crew.figures().collect();
    let mut errors = crew.errors.clone();
    let mut notes = Vec::new();
    let mut reports = Vec::new();
    for (group, tasks) in workload.groups.iter().zip(groups) {
        let figures: Vec<&Figures> = all[tasks.clone()]
            .iter()
            .map(|(_, figures)| *figures)
            .collect();
        let seconds = active_seconds(group, measured_ns);
        if seconds == 0.0 {
            notes.push(format!(
                "group \"{}\" did not run in the measured part",
                group.name
            ));
        }
        errors.extend(events(
            &group.name,
            figures.iter().map(|task| &task.failures),
        ));
        notes.extend(events(&group.name, figures.iter().map(|task| &task.notes)));
        reports.push(group_report(group, &figures, seconds));
    }
    Report {
        workload: workload.name.clone(),
        seed: stage.seed,
        seconds: measured_ns as f64 / 1e9,
        cpus: stage.machine.cpus(),
        llcs: u32::try_from(stage.machine.llcs.len()).expect("no more LLCs than CPUs"),
        interrupted,
        groups: reports,
        errors,
        notes,
    }
}

/// How long the group was active in a measured part of that length.
fn active_seconds(group: &Group, measured_ns: u64) -> f64 {
    let start_ns = group.start.as_nanos() as u64;
    let stop_ns = group.stop.map_or(u64::MAX, |stop| stop.as_nanos() as u64);
    stop_ns.min(measured_ns).saturating_sub(start_ns) as f64 / 1e9
}

/// One line for each kind of event in a group.
fn events<'a>(group: &str, tasks: impl Iterator<Item = &'a Vec<(String, u64)>>) -> Vec<String> {
    let mut counts = BTreeMap::new();
    for (what, count) in tasks.flatten() {
        *counts.entry(what).or_insert(0) += count;
    }
    let line = |(what, count): (&String, u64)| format!("group \"{group}\": {what} ({count} times)");
    counts.into_iter().map(line).collect()
}

fn group_report(group: &Group, figures: &[&Figures], seconds: f64) -> GroupReport {
    let sum = |field: fn(&Figures) -> u64| figures.iter().map(|task| field(task)).sum::<u64>();
    let per_second = |value: f64| if seconds > 0.0 { value / seconds } else { 0.0 };
    let share = |cpu_ns: u64| per_second(cpu_ns as f64 / 1e9);
    let kernel: Option<Vec<u64>> = figures.iter().map(|task| task.kernel_migrations).collect();
    let (migrations, migrations_source) = match kernel {
        Some(counts) => (counts.into_iter().sum(), MigrationsSource::Kernel),
        None => (
            sum(|task| task.sampled_migrations),
            MigrationsSource::Sampled,
        ),
    };
    let cpu_ns = sum(|task| task.cpu_ns);
    let ops = sum(|task| task.ops);
    GroupReport {
        name: group.name.clone(),
        kind: group.kind.name().to_owned(),
        tasks: u32::try_from(figures.len()).expect("tasks are limited"),
        weight: group.weight(),
        seconds,
        cpu_s: cpu_ns as f64 / 1e9,
        share: share(cpu_ns),
        per_task_share: figures.iter().map(|task| share(task.cpu_ns)).collect(),
        ops,
        ops_per_s: per_second(ops as f64),
        wakeup_us: latency(figures),
        longest_gap_us: figures
            .iter()
            .filter_map(|task| task.longest_gap_ns)
            .max()
            .map(us),
        longest_stall_us: figures
            .iter()
            .filter_map(|task| task.longest_stall_ns)
            .max()
            .map(us),
        switches: sum(|task| task.switches),
        involuntary_switches: sum(|task| task.involuntary_switches),
        migrations,
        migrations_source,
        llc_moves: sum(|task| task.llc_moves),
        outside_mask: sum(|task| task.outside_mask),
        misses: sum(|task| task.misses),
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn latency(figures: &[&Figures]) -> Option<Latency> {
    let mut all = histogram();
    for (value, count) in figures.iter().flat_map(|task| &task.wakeups_ns) {
        all.record_n(*value, *count)
            .expect("the histogram grows as needed");
    }
    let max_ns = figures.iter().map(|task| task.wakeup_max_ns).max()?;
    // A bucket's upper end may lie above the largest value in it.
    let quantile = |q: f64| us(all.value_at_quantile(q).min(max_ns));
    (!all.is_empty()).then(|| Latency {
        count: all.len(),
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        p999: quantile(0.999),
        max: us(max_ns),
    })
}

#[cfg(test)]
mod tests {
    //! Goal: sums, rates and quantiles from known figures, without a run.
    use super::*;

    fn group(toml: &str) -> Group {
        let text = format!("name = \"t\"\n[[group]]\nname = \"g\"\n{toml}");
        Workload::parse("t.toml", &text).unwrap().groups.remove(0)
    }

    #[test]
    fn figures_add_up() {
        let group = group("kind = \"loop\"\nrun = \"1ms\"\ncount = 2\nnice = 5");
        let one = Figures {
            cpu_ns: 1_500_000_000,
            ops: 10,
            kernel_migrations: Some(3),
            sampled_migrations: 1,
            longest_gap_ns: Some(2_000),
            longest_stall_ns: Some(130_000),
            wakeups_ns: vec![(1_000, 98), (100_000, 1)],
            wakeup_max_ns: 99_900,
            ..Figures::default()
        };
        let two = Figures {
            cpu_ns: 500_000_000,
            ops: 5,
            ..one.clone()
        };
        let report = group_report(&group, &[&one, &two], 2.0);
        assert_eq!((report.cpu_s, report.share), (2.0, 1.0));
        assert_eq!(report.per_task_share, [0.75, 0.25]);
        assert_eq!((report.ops, report.ops_per_s), (15, 7.5));
        assert_eq!(
            (report.migrations, report.migrations_source),
            (6, MigrationsSource::Kernel)
        );
        assert_eq!(report.weight, Some(335));
        assert_eq!(report.longest_gap_us, Some(2.0));
        assert_eq!(report.longest_stall_us, Some(130.0));
        let latency = report.wakeup_us.unwrap();
        assert_eq!((latency.count, latency.max), (198, 99.9));
        assert!((latency.p50 - 1.0).abs() < 0.02, "{latency:?}");
        assert_eq!(latency.p999, 99.9);
    }

    #[test]
    fn one_task_without_kernel_count_means_samples() {
        let group = group("kind = \"probe\"");
        let shown = Figures {
            kernel_migrations: Some(9),
            sampled_migrations: 2,
            ..Figures::default()
        };
        let hidden = Figures {
            kernel_migrations: None,
            ..shown.clone()
        };
        let report = group_report(&group, &[&shown, &hidden], 1.0);
        assert_eq!(
            (report.migrations, report.migrations_source),
            (4, MigrationsSource::Sampled)
        );
        assert_eq!(report.wakeup_us, None);
        assert_eq!(report.longest_gap_us, None);
    }

    #[test]
    fn active_time_is_clipped_to_the_run() {
        let group = group("kind = \"probe\"\nstart = \"2s\"\nstop = \"5s\"");
        assert_eq!(active_seconds(&group, 10_000_000_000), 3.0);
        assert_eq!(active_seconds(&group, 4_000_000_000), 2.0);
        assert_eq!(active_seconds(&group, 1_000_000_000), 0.0);
    }

    #[test]
    fn events_are_counted_by_kind() {
        let task = vec![("fork: no".to_owned(), 2), ("exec: no".to_owned(), 1)];
        assert_eq!(
            events("g", [&task, &task].into_iter()),
            [
                "group \"g\": exec: no (2 times)",
                "group \"g\": fork: no (4 times)"
            ]
        );
    }
}
