// SPDX-License-Identifier: GPL-2.0-only
//! A report for people.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::report::{GroupReport, Report};

const HEADER: [&str; 12] = [
    "group", "kind", "tasks", "CPUs", "per task", "ops/s", "wake p50", "p99", "max", "gap",
    "migr.", "misses",
];

/// The report as a table with a line above and the errors below.
pub fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADER);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for group in &report.groups {
        table.add_row(row(group));
    }
    let mut text = format!(
        "workload {}, {:.1} s{}, {} CPUs, {} LLCs, seed {}\n{table}\n",
        report.workload,
        report.seconds,
        if report.interrupted {
            " (interrupted)"
        } else {
            ""
        },
        report.cpus,
        report.llcs,
        report.seed,
    );
    let outside: u64 = report.groups.iter().map(|group| group.outside_mask).sum();
    if outside > 0 {
        writeln!(
            text,
            "tasks were seen outside their affinity {outside} times"
        )
        .expect("writing to a string does not fail");
    }
    for note in &report.notes {
        writeln!(text, "note: {note}").expect("writing to a string does not fail");
    }
    for error in &report.errors {
        writeln!(text, "error: {error}").expect("writing to a string does not fail");
    }
    text
}

fn row(group: &GroupReport) -> [String; HEADER.len()] {
    let shares = || group.per_task_share.iter().copied();
    let least = shares().fold(f64::INFINITY, f64::min);
    let most = shares().fold(0.0, f64::max);
    let wakeup = |value: fn(&crate::report::Latency) -> f64| {
        group
            .wakeup_us
            .as_ref()
            .map_or("-".to_owned(), |latency| time(value(latency)))
    };
    [
        group.name.clone(),
        group.kind.clone(),
        group.tasks.to_string(),
        format!("{:.3}", group.share),
        match group.tasks {
            1 => format!("{most:.4}"),
            _ => format!("{least:.4}..{most:.4}"),
        },
        format!("{:.1}", group.ops_per_s),
        wakeup(|latency| latency.p50),
        wakeup(|latency| latency.p99),
        wakeup(|latency| latency.max),
        group.longest_gap_us.map_or("-".to_owned(), time),
        group.migrations.to_string(),
        match group.kind.as_str() {
            "frame" => group.misses.to_string(),
            _ => "-".to_owned(),
        },
    ]
}

/// Microseconds in a unit that keeps the number short.
fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.1} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.3} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the units of times, at their borders.
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(time(0.5), "0.5 us");
        assert_eq!(time(999.9), "999.9 us");
        assert_eq!(time(1_500.0), "1.50 ms");
        assert_eq!(time(2_000_000.0), "2.000 s");
    }
}
