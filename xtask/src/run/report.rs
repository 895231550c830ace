// SPDX-License-Identifier: GPL-2.0-only
//! What `cargo xtask run` prints in the end: both runs side by side, and what the kernel and the
//! scheduler say about the second.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use rota_lab::job::{Compared, Machine, SchedState};
use rota_load::report::{GroupReport, Report};
use serde_json::Value;

use crate::ui;

/// Heading of the scheduler's own counters.
const COUNTER: &str = "counter";

/// Prints everything that `compared` found.
pub fn print(compared: &Compared, topology: &str) -> Result<()> {
    let before = load_report(&compared.kernel_report).context("under the kernel's scheduler")?;
    let after = load_report(&compared.sched_report).context("under the scheduler")?;
    ui::out(format!("\n{}", headline(compared, topology)));
    let seconds = after.seconds;
    ui::out(format!(
        "workload {}, {seconds:.0} s under each scheduler\n",
        after.workload
    ));
    print_groups(&compared.sched, &before, &after);
    print_counters(COUNTER, &compared.counters);
    let events = compared
        .events
        .iter()
        .map(|(name, value)| (name.clone(), *value as f64));
    print_counters("kernel event", &events.collect());
    ui::out("");
    for line in facts(compared) {
        ui::out(line);
    }
    for (run, report) in [("kernel", &before), (compared.sched.as_str(), &after)] {
        for error in &report.errors {
            ui::out(format!("workload error ({run}): {error}"));
        }
    }
    for line in &compared.kernel_trouble {
        ui::out(format!("kernel log: {line}"));
    }
    Ok(())
}

fn load_report(value: &Value) -> Result<Report> {
    serde_json::from_value(value.clone()).context("reading rota-load's report")
}

/// `scx_vtime (vtime_0.1.0) on Linux 7.3.4, 2x2x2: 8 CPUs, 2 LLCs, 1 node, 2 threads per core`
fn headline(compared: &Compared, topology: &str) -> String {
    let Machine {
        kernel,
        cpus,
        llcs,
        nodes,
        smt,
        ..
    } = &compared.machine;
    let mut text = format!("{} on Linux {kernel}, {topology}:", compared.sched);
    let counts = [
        (*cpus, "CPU"),
        (*llcs, "LLC"),
        (*nodes, "node"),
        (*smt, "thread"),
    ];
    for (index, (count, name)) in counts.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let plural = if count == 1 { "" } else { "s" };
        text += &format!("{comma} {count} {name}{plural}");
    }
    text + " per core"
}

/// A figure of a group: its name, how to show it, and where to find it.
struct Figure {
    name: &'static str,
    show: fn(f64) -> String,
    get: fn(&GroupReport) -> Option<f64>,
}

const FIGURES: [Figure; 7] = [
    Figure {
        name: "CPUs' worth",
        show: |v| format!("{v:.2}"),
        get: |g| Some(g.share),
    },
    Figure {
        name: "ops/s",
        show: number,
        get: |g| (g.ops > 0).then_some(g.ops_per_s),
    },
    Figure {
        name: "wake-up p50",
        show: time,
        get: |g| g.wakeup_us.map(|w| w.p50),
    },
    Figure {
        name: "wake-up p99",
        show: time,
        get: |g| g.wakeup_us.map(|w| w.p99),
    },
    Figure {
        name: "longest gap",
        show: time,
        get: |g| g.longest_gap_us,
    },
    Figure {
        name: "migrations",
        show: number,
        get: |g| Some(g.migrations as f64),
    },
    Figure {
        name: "missed frames",
        show: number,
        get: |g| (g.kind == "frame").then_some(g.misses as f64),
    },
];

fn print_groups(sched: &str, before: &Report, after: &Report) {
    let mut table = ui::table(&["group", "", "kernel", sched, "ratio"]);
    ui::align_left(&mut table, 1);
    for group in &after.groups {
        let Some(base) = before.group(&group.name) else {
            continue;
        };
        let tasks = if group.tasks == 1 { "task" } else { "tasks" };
        let mut label = format!("{}, {} {tasks}", group.name, group.tasks);
        for figure in &FIGURES {
            let (Some(kernel), Some(ours)) = ((figure.get)(base), (figure.get)(group)) else {
                continue;
            };
            table.add_row([
                std::mem::take(&mut label),
                figure.name.to_owned(),
                (figure.show)(kernel),
                (figure.show)(ours),
                ratio(kernel, ours),
            ]);
        }
    }
    ui::print_table(&table);
}

/// Counters that moved as a table. Of those that did not, the scheduler's own as one line.
fn print_counters(title: &str, counters: &BTreeMap<String, f64>) {
    if counters.is_empty() {
        return;
    }
    let (moved, still): (Vec<_>, Vec<_>) = counters.iter().partition(|(_, value)| **value != 0.0);
    ui::out("");
    let mut table = ui::table(&[title, "total"]);
    for (name, value) in moved {
        table.add_row([name.clone(), format!("{value:.0}")]);
    }
    ui::print_table(&table);
    if title == COUNTER && !still.is_empty() {
        let names: Vec<&str> = still.iter().map(|(name, _)| name.as_str()).collect();
        ui::out(format!("  zero: {}", names.join(" ")));
    }
}

/// Start, end and state of the scheduler, a line each.
fn facts(compared: &Compared) -> Vec<String> {
    let states = [
        &compared.state_before,
        &compared.state_during,
        &compared.state_after,
    ];
    let state = states.map(state).join(" -> ");
    let rejected = compared.state_after.nr_rejected;
    vec![
        format!("state     {state}; tasks rejected: {rejected}"),
        format!(
            "attached  in {}, detached in {}",
            ms(compared.attach_ms),
            ms(compared.detach_ms)
        ),
        format!("exit      {}", exit(compared)),
    ]
}

fn state(state: &SchedState) -> String {
    let ops = if state.ops.is_empty() {
        String::new()
    } else {
        format!(" {}", state.ops)
    };
    let partial = if state.state == "enabled" && !state.switch_all {
        " (partial)"
    } else {
        ""
    };
    format!("{}{ops}{partial}", state.state)
}

/// `code 0: UNREG (64), unregistered from user space`
fn exit(compared: &Compared) -> String {
    let text = |key: &str| {
        compared
            .exit
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let mut line = format!("code {}", compared.exit_code);
    if let Some(kind) = compared.exit.get("kind").and_then(Value::as_i64) {
        line += &format!(": {} ({kind})", text("kind_name"));
    }
    for part in [text("reason"), text("message")] {
        if !part.is_empty() {
            line += &format!(", {part}");
        }
    }
    line
}

/// `0.98`, or nothing where the kernel's figure is 0.
fn ratio(kernel: f64, ours: f64) -> String {
    if kernel == 0.0 {
        String::new()
    } else {
        format!("{:.2}", ours / kernel)
    }
}

fn ms(value: f64) -> String {
    time(value * 1000.0)
}

/// A time in microseconds with the unit that suits it.
fn time(us: f64) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compared() -> Compared {
        Compared {
            machine: Machine {
                kernel: "7.3.4".into(),
                cpus: 8,
                llcs: 2,
                nodes: 1,
                smt: 2,
                ..Machine::default()
            },
            sched: "scx_vtime".into(),
            ..Compared::default()
        }
    }

    #[test]
    fn the_headline_counts_what_the_guest_has() {
        let expected =
            "scx_vtime on Linux 7.3.4, 2x2x2: 8 CPUs, 2 LLCs, 1 node, 2 threads per core";
        assert_eq!(headline(&compared(), "2x2x2"), expected);
    }

    #[test]
    fn an_ejection_is_told_with_kind_reason_and_message() {
        let mut compared = compared();
        compared.exit_code = 1;
        assert_eq!(exit(&compared), "code 1");
        compared.exit = json!({
            "kind": 1026, "kind_name": "ERROR_STALL", "reason": "runnable task stall",
            "message": "hog[1] failed to run for 1.2s",
        });
        let expected =
            "code 1: ERROR_STALL (1026), runnable task stall, hog[1] failed to run for 1.2s";
        assert_eq!(exit(&compared), expected);
    }

    #[test]
    fn the_state_names_ops_and_partial_mode() {
        let mut state_now = SchedState {
            state: "disabled".into(),
            ..SchedState::default()
        };
        assert_eq!(state(&state_now), "disabled");
        state_now.state = "enabled".into();
        state_now.ops = "vtime_0.1.0".into();
        assert_eq!(state(&state_now), "enabled vtime_0.1.0 (partial)");
        state_now.switch_all = true;
        assert_eq!(state(&state_now), "enabled vtime_0.1.0");
    }

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
        assert_eq!(ratio(2.0, 1.0), "0.50");
        assert_eq!(ratio(0.0, 1.0), "");
    }
}
