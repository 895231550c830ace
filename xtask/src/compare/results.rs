// SPDX-License-Identifier: GPL-2.0-only
//! From the runs of a comparison to figures side by side, as rows, as a table and as JSON.

use rota_lab::job::Ran;
use rota_load::report::{GroupReport, Report};
use serde_json::{Value, json};

use super::stats::{self, Summary, Verdict};
use crate::figures::{self, Better, FIGURES, Figure};
use crate::ui;

/// What the kernel's own scheduler is called.
pub const KERNEL_SCHED: &str = "eevdf";

/// A figure of a group under all schedulers.
#[derive(Debug)]
pub struct Row {
    /// The group, as in the workload.
    pub group: String,
    /// The group with the number of its tasks.
    pub label: String,
    /// Which figure.
    pub figure: &'static Figure,
    /// The kernel's own scheduler first, then all others that have the figure.
    pub cells: Vec<Cell>,
}

/// A figure of a group under one scheduler.
#[derive(Debug)]
pub struct Cell {
    /// Which scheduler.
    pub sched: String,
    /// The values.
    pub summary: Summary,
    /// Its median by that of the kernel's own, if that is not 0.
    pub ratio: Option<f64>,
    /// How it compares; nothing for the kernel's own too.
    pub verdict: Option<Verdict>,
}

/// Everything that a comparison brought to light.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order of groups and figures.
    pub rows: Vec<Row>,
    /// What is missing, a line each that names the scheduler.
    pub problems: Vec<String>,
}

impl Results {
    /// Looks through `runs` of the schedulers called `scheds`.
    ///
    /// A scheduler with a run that failed has no cells at all: its good rounds alone would flatter
    /// it.
    pub fn of(scheds: &[String], runs: &[Ran]) -> Self {
        let mut results = Self::default();
        let mut sound: Vec<(String, Vec<&Report>)> = Vec::new();
        let names = [KERNEL_SCHED.to_owned()];
        for name in names.iter().chain(scheds) {
            let own: Vec<&Ran> = runs.iter().filter(|run| called(run) == name).collect();
            let before = results.problems.len();
            for run in &own {
                results.problems.extend(problem(run));
            }
            if results.problems.len() > before {
                continue;
            }
            if own.is_empty() {
                results.problems.push(format!("{name}: not measured"));
                continue;
            }
            let reports = own.iter().filter_map(|run| run.report.as_ref());
            sound.push((name.clone(), reports.collect()));
        }
        match sound.first() {
            Some((name, reports)) if name == KERNEL_SCHED => {
                for group in &reports[0].groups {
                    for figure in &FIGURES {
                        results
                            .rows
                            .extend(row(group, figure, &sound, &mut results.problems));
                    }
                }
            }
            _ => results
                .problems
                .push(format!("nothing to compare with: no {KERNEL_SCHED}")),
        }
        results
    }

    /// Prints a table for each group.
    pub fn print(&self) {
        let mut rows = self.rows.iter().peekable();
        while let Some(first) = rows.peek() {
            let group = first.group.clone();
            ui::out(format!("\n{}", first.label));
            let header = [
                "figure",
                "scheduler",
                "median",
                "min..max",
                "ratio",
                "verdict",
            ];
            let mut table = ui::table(&header);
            ui::align_left(&mut table, 1);
            ui::align_left(&mut table, 5);
            while let Some(row) = rows.next_if(|row| row.group == group) {
                for (index, cell) in row.cells.iter().enumerate() {
                    let name = if index == 0 { row.figure.name } else { "" };
                    table.add_row(
                        [name.to_owned(), cell.sched.clone()]
                            .into_iter()
                            .chain(cell.texts(row.figure)),
                    );
                }
            }
            ui::print_table(&table);
        }
    }

    /// The rows for programs.
    pub fn to_json(&self) -> Value {
        let cell = |cell: &Cell| {
            let mut value = json!(cell.summary);
            value["scheduler"] = json!(cell.sched);
            value["ratio"] = json!(cell.ratio);
            value["verdict"] = json!(cell.verdict);
            value
        };
        let row = |row: &Row| {
            json!({
                "group": row.group,
                "figure": row.figure.name,
                "unit": row.figure.unit,
                "better": row.figure.better.map(side),
                "schedulers": row.cells.iter().map(cell).collect::<Vec<_>>(),
            })
        };
        self.rows.iter().map(row).collect()
    }
}

impl Cell {
    /// Median, range, ratio and verdict.
    fn texts(&self, figure: &Figure) -> [String; 4] {
        let show = figure.show;
        let Summary {
            median, min, max, ..
        } = &self.summary;
        let range = format!("{}..{}", show(*min), show(*max));
        let ratio = self.ratio.filter(|_| self.sched != KERNEL_SCHED);
        let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let verdict = self.verdict.map_or("", Verdict::word);
        [show(*median), range, ratio, verdict.to_owned()]
    }
}

/// Which side of a figure is the better one, in a word.
pub fn side(better: Better) -> &'static str {
    match better {
        Better::Higher => "higher",
        Better::Lower => "lower",
    }
}

/// What the scheduler of a run is called.
pub fn called(run: &Ran) -> &str {
    if run.sched.is_empty() {
        KERNEL_SCHED
    } else {
        &run.sched
    }
}

/// What is wrong with a run, if anything is.
fn problem(run: &Ran) -> Option<String> {
    let report = run.report.as_ref();
    let what = match (&run.failed, report.and_then(|report| report.errors.first())) {
        (Some(failed), _) => failed.clone(),
        (None, Some(error)) => format!("workload error: {error}"),
        (None, None) if report.is_none() => "no report".to_owned(),
        (None, None) => return None,
    };
    Some(format!("{}: {what} (round {})", called(run), run.round + 1))
}

/// The figure under all of `sound`, or nothing where the kernel's own scheduler never has it.
fn row(
    group: &GroupReport,
    figure: &'static Figure,
    sound: &[(String, Vec<&Report>)],
    problems: &mut Vec<String>,
) -> Option<Row> {
    let value = |report: &&Report| report.group(&group.name).and_then(figure.get);
    let mut cells: Vec<Cell> = Vec::new();
    for (sched, reports) in sound {
        let values: Vec<f64> = reports.iter().filter_map(value).collect();
        // A workload of another kind has no such figure under any scheduler.
        if values.is_empty() && cells.is_empty() {
            return None;
        }
        if values.len() < reports.len() {
            let lacking = reports.len() - values.len();
            problems.push(format!(
                "{sched}: no {} of {} in {lacking} of {} rounds",
                figure.name,
                group.name,
                reports.len()
            ));
            if cells.is_empty() {
                return None;
            }
            continue;
        }
        let summary = Summary::of(values)?;
        let base = cells.first().map(|cell| &cell.summary);
        cells.push(Cell {
            sched: sched.clone(),
            ratio: figures::ratio(base.unwrap_or(&summary).median, summary.median),
            verdict: base.and_then(|base| stats::verdict(base, &summary, figure.better)),
            summary,
        });
    }
    Some(Row {
        group: group.name.clone(),
        label: figures::label(group),
        figure,
        cells,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A run with one group that did `ops_per_s`, or could not.
    pub fn ran(sched: &str, round: u32, ops_per_s: f64) -> Ran {
        let report = json!({
            "workload": "messaging", "seed": 1, "seconds": 3.0, "cpus": 4, "llcs": 1,
            "interrupted": false, "errors": [], "notes": [],
            "groups": [{
                "name": "messaging", "kind": "messaging", "tasks": 20, "weight": 1024,
                "seconds": 3.0, "cpu_s": 6.0, "share": 2.0, "per_task_share": [],
                "ops": ops_per_s as u64, "ops_per_s": ops_per_s,
                "wakeup_us": {"count": 9, "p50": 1e6 / ops_per_s, "p90": 0.0, "p99": 900.0,
                              "p999": 0.0, "max": 1000.0},
                "longest_gap_us": null, "switches": 1, "involuntary_switches": 1,
                "migrations": 3, "migrations_source": "kernel", "llc_moves": 0,
                "outside_mask": 0, "misses": 0,
            }],
        });
        Ran {
            sched: sched.to_owned(),
            round,
            report: serde_json::from_value(report).unwrap(),
            ..Ran::default()
        }
    }

    /// Three rounds of the kernel's own and two others, one of them twice as fast.
    pub fn runs() -> Vec<Ran> {
        let mut runs = Vec::new();
        for round in 0..3 {
            let noise = f64::from(round) * 100.0;
            runs.push(ran("", round, 1000.0 + noise));
            runs.push(ran("scx_fast", round, 2000.0 + noise));
            runs.push(ran("scx_same", round, 1050.0 + noise));
        }
        runs
    }

    fn names(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn find<'a>(results: &'a Results, figure: &str) -> &'a Row {
        let mut rows = results.rows.iter();
        rows.find(|row| row.figure.name == figure).unwrap()
    }

    #[test]
    fn schedulers_are_side_by_side_with_ratio_and_verdict() {
        let results = Results::of(&names(&["scx_fast", "scx_same"]), &runs());
        assert!(results.problems.is_empty(), "{:?}", results.problems);
        let row = find(&results, "ops/s");
        let texts: Vec<_> = row
            .cells
            .iter()
            .map(|cell| cell.texts(row.figure))
            .collect();
        assert_eq!(texts[0], ["1100", "1000..1200", "", ""]);
        assert_eq!(texts[1], ["2100", "2000..2200", "1.91", "better"]);
        assert_eq!(texts[2], ["1150", "1050..1250", "1.05", "no difference"]);
        // Less waiting is better, too.
        let verdict = find(&results, "wake-up p50").cells[1].verdict;
        assert_eq!(verdict, Some(Verdict::Better));
        // Moves are neither good nor bad, and a kind without gaps has no row for them.
        assert_eq!(find(&results, "migrations").cells[1].verdict, None);
        assert!(
            results
                .rows
                .iter()
                .all(|row| row.figure.name != "longest gap")
        );
    }

    #[test]
    fn one_that_failed_is_named_and_the_others_stay() {
        let mut runs = runs();
        let bad = runs
            .iter_mut()
            .find(|run| run.sched == "scx_same" && run.round == 1);
        bad.unwrap().failed = Some("ended in the middle of the workload: ERROR_STALL".into());
        let results = Results::of(&names(&["scx_fast", "scx_same", "scx_gone"]), &runs);
        assert_eq!(
            results.problems,
            [
                "scx_same: ended in the middle of the workload: ERROR_STALL (round 2)",
                "scx_gone: not measured"
            ]
        );
        assert_eq!(find(&results, "ops/s").cells.len(), 2);
    }

    #[test]
    fn a_missing_figure_is_named_and_the_other_figures_stay() {
        let mut runs = runs();
        let report = runs[4].report.as_mut().unwrap();
        report.groups[0].wakeup_us = None;
        let results = Results::of(&names(&["scx_fast", "scx_same"]), &runs);
        assert_eq!(
            results.problems,
            [
                "scx_fast: no wake-up p50 of messaging in 1 of 3 rounds",
                "scx_fast: no wake-up p99 of messaging in 1 of 3 rounds"
            ]
        );
        assert_eq!(find(&results, "wake-up p50").cells.len(), 2);
        assert_eq!(find(&results, "ops/s").cells.len(), 3);
    }

    #[test]
    fn a_workload_error_counts_as_a_failure_and_nothing_stands_without_the_base() {
        let mut runs = runs();
        runs[0].report.as_mut().unwrap().errors = vec!["a task died".into()];
        let results = Results::of(&names(&["scx_fast"]), &runs);
        assert_eq!(
            results.problems,
            [
                "eevdf: workload error: a task died (round 1)",
                "nothing to compare with: no eevdf"
            ]
        );
        assert!(results.rows.is_empty());
        results.print();
    }

    #[test]
    fn programs_get_samples_sides_and_verdicts() {
        let all = Results::of(&names(&["scx_fast", "scx_same"]), &runs()).to_json();
        let row = all
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["figure"] == "ops/s");
        let row = row.unwrap();
        assert_eq!(
            (&row["better"], &row["unit"]),
            (&json!("higher"), &json!("1/s"))
        );
        let cell = &row["schedulers"][1];
        assert_eq!(cell["scheduler"], "scx_fast");
        assert_eq!(cell["samples"], json!([2000.0, 2100.0, 2200.0]));
        assert_eq!(cell["verdict"], "better");
        assert_eq!(row["schedulers"][0]["verdict"], Value::Null);
    }
}
