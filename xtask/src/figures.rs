// SPDX-License-Identifier: GPL-2.0-only
//! The figures of a workload's report that schedulers are compared by, for `run` and `compare`.

use rota_load::report::GroupReport;

/// Which of two values of a figure is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The higher one: work done.
    Higher,
    /// The lower one: time waited.
    Lower,
}

/// A figure of a group of tasks.
#[derive(Debug)]
pub struct Figure {
    /// Its name in tables.
    pub name: &'static str,
    /// Its unit, as [`Self::get`] gives it.
    pub unit: &'static str,
    /// Which way is better; nothing where neither is by itself: a share that one group gains another
    /// one loses, and a move between CPUs may be what saved time.
    pub better: Option<Better>,
    /// How to show a value.
    pub show: fn(f64) -> String,
    /// The value of a group, if it has one.
    pub get: fn(&GroupReport) -> Option<f64>,
}

/// All figures, in the order in which they are shown.
pub const FIGURES: [Figure; 7] = [
    Figure {
        name: "CPUs' worth",
        unit: "CPUs",
        better: None,
        show: |v| format!("{v:.2}"),
        get: |g| Some(g.share),
    },
    Figure {
        name: "ops/s",
        unit: "1/s",
        better: Some(Better::Higher),
        show: number,
        get: |g| (g.ops > 0).then_some(g.ops_per_s),
    },
    Figure {
        name: "wake-up p50",
        unit: "us",
        better: Some(Better::Lower),
        show: time,
        get: |g| g.wakeup_us.map(|w| w.p50),
    },
    Figure {
        name: "wake-up p99",
        unit: "us",
        better: Some(Better::Lower),
        show: time,
        get: |g| g.wakeup_us.map(|w| w.p99),
    },
    Figure {
        name: "longest gap",
        unit: "us",
        better: Some(Better::Lower),
        show: time,
        get: |g| g.longest_gap_us,
    },
    Figure {
        name: "migrations",
        unit: "moves",
        better: None,
        show: number,
        get: |g| Some(g.migrations as f64),
    },
    Figure {
        name: "missed frames",
        unit: "frames",
        better: Some(Better::Lower),
        show: number,
        get: |g| (g.kind == "frame").then_some(g.misses as f64),
    },
];

/// The name of a group, with the number of its tasks.
pub fn label(group: &GroupReport) -> String {
    let tasks = if group.tasks == 1 { "task" } else { "tasks" };
    format!("{}, {} {tasks}", group.name, group.tasks)
}

/// A time in microseconds with the unit that suits it.
pub fn time(us: f64) -> String {
    match us {
        _ if us < 1000.0 => format!("{us:.0} us"),
        _ if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        _ if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        _ => format!("{:.2} s", us / 1e6),
    }
}

/// A number of three or four digits, with `k` or `M` where it takes them.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v < 10.0 && v.fract() != 0.0 => format!("{value:.1}"),
        v if v < 10_000.0 => format!("{value:.0}"),
        v if v < 1e6 => format!("{:.1}k", value / 1e3),
        _ => format!("{:.1}M", value / 1e6),
    }
}

/// `0.98`, or nothing where the kernel's figure is 0.
pub fn ratio(kernel: f64, other: f64) -> Option<f64> {
    (kernel != 0.0).then(|| other / kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!(
            ["0", "9.5", "9999", "12.3k", "4.0M"],
            [0.0, 9.5, 9999.0, 12_345.0, 4e6]
                .map(number)
                .each_ref()
                .map(String::as_str)
        );
        assert_eq!(time(87.4), "87 us");
        assert_eq!(time(1234.0), "1.2 ms");
        assert_eq!(time(123_400.0), "123 ms");
        assert_eq!(time(2_340_000.0), "2.34 s");
        assert_eq!(ratio(2.0, 1.0), Some(0.5));
        assert_eq!(ratio(0.0, 1.0), None);
    }

    #[test]
    fn no_two_figures_share_a_name() {
        let names: std::collections::BTreeSet<_> = FIGURES.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }
}
