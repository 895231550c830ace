// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask scale`: what becomes of the schedulers as the machine grows, in the simulator.
//!
//! Each machine has as much to do per CPU as the others, so what changes is the scheduler's doing: the
//! work of its callbacks, how often they meet at a lock, how long tasks wait, how equal the shares of
//! equal tasks are.

mod chart;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::context::Context;
use crate::setup::{self, Group};
use crate::{sim, ui};

/// Machines by CPUs: LLCs of eight cores with two threads, nodes of up to 16 of them.
const MACHINES: [(u32, &str); 8] = [
    (8, "1x1x4x2"),
    (16, "1x1x8x2"),
    (32, "1x2x8x2"),
    (64, "1x4x8x2"),
    (128, "1x8x8x2"),
    (256, "1x16x8x2"),
    (512, "numa:2x16x8x2"),
    (1024, "numa:4x16x8x2"),
];

/// What runs on each.
const WORKLOAD: &str = include_str!("scale/scale.toml");

/// Measure in the simulator how the schedulers take machines of 8 to 1024 CPUs; figures of a model
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The schedulers [default: all]
    #[arg(long, value_name = "SCHED,...", value_delimiter = ',')]
    sched: Vec<String>,
    /// The largest machine, in CPUs
    #[arg(long, value_name = "CPUS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(8..=1024))]
    up_to: u32,
    /// How long each is measured, such as 200ms [default: 500ms]
    #[arg(long = "for", value_name = "TIME")]
    length: Option<String>,
    /// Where scale.svg, a chart, and scale.md, a table, are written [default: target/scale]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    install: setup::Install,
}

/// What is looked at, by [`FIGURES`].
type Point = [f64; FIGURES.len()];

/// A figure of a run.
struct Figure {
    name: &'static str,
    unit: &'static str,
    of: fn(&Run) -> f64,
}

const FIGURES: [Figure; 5] = [
    Figure {
        name: "dispatch",
        unit: "instructions per call of dispatch()",
        of: |run| run.per_call("dispatch"),
    },
    Figure {
        name: "switch",
        unit: "instructions of all callbacks per switch",
        of: Run::per_switch,
    },
    Figure {
        name: "contended",
        unit: "% of the queues' locks that another CPU had",
        of: Run::contended_pct,
    },
    Figure {
        name: "wake-up p99",
        unit: "ms until a task that wakes runs, 99th percentile",
        of: Run::wakeup_ms,
    },
    Figure {
        name: "least share",
        unit: "% of the average that the hog with the least has",
        of: Run::least_share_pct,
    },
];

/// The report of a run.
struct Run(Value);

impl Run {
    fn list(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.0[name].as_array().into_iter().flatten()
    }

    fn group(&self, name: &str) -> &Value {
        let mut groups = self.list("groups");
        let found = groups.find(|group| group["name"] == name);
        found.expect("the workload has it")
    }

    fn per_call(&self, callback: &str) -> f64 {
        let mut callbacks = self.list("callbacks");
        let found = callbacks.find(|its| its["name"] == callback);
        found.map_or(f64::NAN, |its| number(its, "insns_mean"))
    }

    fn per_switch(&self) -> f64 {
        let insns = self.list("callbacks");
        let insns: f64 = insns
            .map(|its| number(its, "insns_mean") * number(its, "calls"))
            .sum();
        insns / number(&self.0["machine_totals"], "switches")
    }

    fn contended_pct(&self) -> f64 {
        let taken: f64 = self.list("queues").map(|its| number(its, "taken")).sum();
        let contended = self.list("queues");
        let contended: f64 = contended
            .map(|its| number(its, "contended_pct") * number(its, "taken"))
            .sum();
        contended / taken
    }

    fn wakeup_ms(&self) -> f64 {
        number(&self.group("waking")["wakeup_us"], "p99") / 1e3
    }

    fn least_share_pct(&self) -> f64 {
        let shares = self.group("hog")["per_task_share"].as_array();
        let shares: Vec<f64> = shares
            .into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect();
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        least / (shares.iter().sum::<f64>() / shares.len() as f64) * 100.0
    }
}

fn number(of: &Value, name: &str) -> f64 {
    of[name].as_f64().unwrap_or(f64::NAN)
}

/// Points by scheduler and CPUs.
type Points = BTreeMap<String, Vec<(u32, Point)>>;

/// Runs `cargo xtask scale`.
pub fn run(args: &Args, cx: &Context) -> Result<u8> {
    let scheds = cx.chosen(&args.sched)?;
    setup::ensure(cx, &[Group::Build], args.install)?;
    let simulator = sim::build(cx)?;
    let machines: Vec<(u32, &str)> = MACHINES
        .into_iter()
        .filter(|(cpus, _)| *cpus <= args.up_to)
        .collect();
    let mut points = Points::new();
    for sched in &scheds {
        let program = sim::build_writer(cx, sched)?;
        let task = ui::bar(format!("running {sched}"), machines.len() as u64);
        for (done, (cpus, topology)) in machines.iter().enumerate() {
            task.say(format!("on {cpus} CPUs"));
            let written = sim::write_object(&simulator, &program, topology, &[], &task)?;
            let report = simulate(
                &simulator,
                written.path(),
                topology,
                args.length.as_deref(),
                &task,
            )?;
            let point = FIGURES.each_ref().map(|figure| (figure.of)(&report));
            points
                .entry(sched.clone())
                .or_default()
                .push((*cpus, point));
            task.reach(done as u64 + 1);
        }
        task.done("");
    }
    let text = text(&points);
    ui::out(&text);
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| cx.target_dir.join("scale"));
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    for (name, content) in [("scale.md", text), ("scale.svg", chart::draw(&points)?)] {
        let path = out.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        ui::out(format!("written: {}", path.display()));
    }
    Ok(0)
}

fn simulate(
    simulator: &Path,
    written: &Path,
    topology: &str,
    length: Option<&str>,
    task: &ui::Task,
) -> Result<Run> {
    let workload = written.join("scale.toml");
    fs::write(&workload, WORKLOAD).with_context(|| format!("writing {}", workload.display()))?;
    let mut command = Command::new(simulator);
    command.args(["run", "--topology", topology, "--json", "-", "--workload"]);
    command.arg(&workload).arg(written.join(sim::OBJECT));
    command.args(length.map(|length| ["--for", length]).iter().flatten());
    let output = sim::require(command, task)?;
    let report = serde_json::from_str(&output.stdout.join("\n"));
    report.map(Run).context("the simulator's report")
}

/// A table in Markdown for each figure.
fn text(points: &Points) -> String {
    let mut text = String::from("Figures of the model, not of a machine.\n");
    for (index, figure) in FIGURES.iter().enumerate() {
        let cpus = points
            .values()
            .next()
            .into_iter()
            .flatten()
            .map(|(cpus, _)| *cpus);
        let cpus: Vec<String> = cpus.map(|cpus| cpus.to_string()).collect();
        text += &format!("\n{}: {}\n\n", figure.name, figure.unit);
        text += &format!(
            "| CPUs | {} |\n|---|{}\n",
            cpus.join(" | "),
            "---:|".repeat(cpus.len())
        );
        for (sched, points) in points {
            let values = points.iter().map(|(_, point)| rounded(point[index]));
            text += &format!("| {sched} | {} |\n", values.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

/// Three digits are enough to compare.
fn rounded(value: f64) -> String {
    match value {
        _ if value.is_nan() => "-".into(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the simulator says, as far as it is looked at.
    fn report() -> Value {
        serde_json::json!({
            "groups": [
                { "name": "waking", "wakeup_us": { "p99": 1500.0 } },
                { "name": "hog", "per_task_share": [0.3, 0.5] },
            ],
            "callbacks": [
                { "name": "enqueue", "calls": 10, "insns_mean": 30.0 },
                { "name": "dispatch", "calls": 20, "insns_mean": 60.5 },
            ],
            "queues": [
                { "taken": 300, "contended_pct": 4.0 },
                { "taken": 100, "contended_pct": 0.0 },
            ],
            "machine_totals": { "switches": 10 },
        })
    }

    #[test]
    fn figures_are_those_of_the_report() {
        let report = Run(report());
        let point = FIGURES.each_ref().map(|figure| (figure.of)(&report));
        let expected = [60.5, 151.0, 3.0, 1.5, 75.0];
        for ((figure, value), expected) in FIGURES.iter().zip(point).zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{}: {value}", figure.name);
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_scheduler() {
        let one = vec![(8, [1.0, 2.0, 0.0, 4.0, 99.99]), (16, [f64::NAN; 5])];
        let points = Points::from([("scx_a".to_owned(), one.clone()), ("scx_b".to_owned(), one)]);
        let text = text(&points);
        assert!(
            text.contains("| CPUs | 8 | 16 |\n|---|---:|---:|\n| scx_a | 1.00 | - |\n"),
            "{text}"
        );
        assert_eq!(text.matches("| scx_b |").count(), FIGURES.len());
    }
}
