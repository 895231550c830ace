// SPDX-License-Identifier: GPL-2.0-only
//! What `cargo xtask run` prints in the end: both runs side by side, and what the kernel and the
//! scheduler say about the second.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use rota_lab::job::{Machine, Ran, SchedState};
use rota_load::report::Report;
use serde_json::Value;

use crate::figures::{self, FIGURES, ratio, time};
use crate::ui;

/// Heading of the scheduler's own counters.
const COUNTER: &str = "counter";

/// Prints everything that a run under the kernel's scheduler and one under another found.
pub fn print(machine: &Machine, kernel: &Ran, run: &Ran, topology: &str) -> Result<()> {
    let before = kernel.report.as_ref();
    let before = before.context("no report under the kernel's scheduler")?;
    let Some(after) = run.report.as_ref() else {
        let why = run.failed.as_deref().unwrap_or("no report");
        bail!("{}: {why}", run.sched);
    };
    ui::out(format!("\n{}", headline(machine, &run.sched, topology)));
    let seconds = after.seconds;
    ui::out(format!(
        "workload {}, {seconds:.0} s under each scheduler\n",
        after.workload
    ));
    print_groups(&run.sched, before, after);
    print_counters(COUNTER, &run.counters);
    let events = run
        .events
        .iter()
        .map(|(name, value)| (name.clone(), *value as f64));
    print_counters("kernel event", &events.collect());
    ui::out("");
    for line in facts(run) {
        ui::out(line);
    }
    for (name, report) in [("kernel", before), (run.sched.as_str(), after)] {
        for error in &report.errors {
            ui::out(format!("workload error ({name}): {error}"));
        }
    }
    for line in kernel.kernel_trouble.iter().chain(&run.kernel_trouble) {
        ui::out(format!("kernel log: {line}"));
    }
    Ok(())
}

/// `scx_vtime on Linux 7.3.4, 2x2x2: 8 CPUs, 2 LLCs, 1 node, 2 threads per core`
pub fn headline(machine: &Machine, who: &str, topology: &str) -> String {
    let Machine {
        kernel,
        cpus,
        llcs,
        nodes,
        smt,
        ..
    } = machine;
    let mut text = format!("{who} on Linux {kernel}, {topology}:");
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

fn print_groups(sched: &str, before: &Report, after: &Report) {
    let mut table = ui::table(&["group", "", "kernel", sched, "ratio"]);
    ui::align_left(&mut table, 1);
    for group in &after.groups {
        let Some(base) = before.group(&group.name) else {
            continue;
        };
        let mut label = figures::label(group);
        for figure in &FIGURES {
            let (Some(kernel), Some(ours)) = ((figure.get)(base), (figure.get)(group)) else {
                continue;
            };
            table.add_row([
                std::mem::take(&mut label),
                figure.name.to_owned(),
                (figure.show)(kernel),
                (figure.show)(ours),
                ratio(kernel, ours).map_or_else(String::new, |ratio| format!("{ratio:.2}")),
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
fn facts(run: &Ran) -> Vec<String> {
    let states = [&run.state_before, &run.state_during, &run.state_after];
    let state = states.map(state).join(" -> ");
    let rejected = run.state_after.nr_rejected;
    vec![
        format!("state     {state}; tasks rejected: {rejected}"),
        format!(
            "attached  in {}, detached in {}",
            ms(run.attach_ms),
            ms(run.detach_ms)
        ),
        format!("exit      {}", exit(run)),
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
fn exit(run: &Ran) -> String {
    let text = |key: &str| {
        run.exit
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let mut line = format!("code {}", run.exit_code);
    if let Some(kind) = run.exit.get("kind").and_then(Value::as_i64) {
        line += &format!(": {} ({kind})", text("kind_name"));
    }
    for part in [text("reason"), text("message")] {
        if !part.is_empty() {
            line += &format!(", {part}");
        }
    }
    line
}

fn ms(value: f64) -> String {
    time(value * 1000.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_headline_counts_what_the_guest_has() {
        let machine = Machine {
            kernel: "7.3.4".into(),
            cpus: 8,
            llcs: 2,
            nodes: 1,
            smt: 2,
            ..Machine::default()
        };
        let expected =
            "scx_vtime on Linux 7.3.4, 2x2x2: 8 CPUs, 2 LLCs, 1 node, 2 threads per core";
        assert_eq!(headline(&machine, "scx_vtime", "2x2x2"), expected);
    }

    #[test]
    fn an_ejection_is_told_with_kind_reason_and_message() {
        let mut run = Ran {
            exit_code: 1,
            ..Ran::default()
        };
        assert_eq!(exit(&run), "code 1");
        run.exit = json!({
            "kind": 1026, "kind_name": "ERROR_STALL", "reason": "runnable task stall",
            "message": "hog[1] failed to run for 1.2s",
        });
        let expected =
            "code 1: ERROR_STALL (1026), runnable task stall, hog[1] failed to run for 1.2s";
        assert_eq!(exit(&run), expected);
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
}
