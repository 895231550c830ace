// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask validate`: the same workloads in guests and in the simulator, side by side.
//!
//! The guests are counted, so both sides say the same every time. Shares have to agree to a stated
//! part of the machine. Latencies do not, as the model's kernel is not the kernel; but where one
//! scheduler has much longer ones than another in a guest, it has to have longer ones in the model.

mod calls;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rota_lab::job::{Contender, Event, Exec, Job, Stream};
use rota_lab::kernel::{Kernel, Spec, Store};
use rota_lab::topology::Topology;
use rota_lab::vm::{Clock, Verdict, Vm};
use rota_load::report::Latency;
use serde::Deserialize;

use crate::compare::SHIFT;
use crate::compare::guest::Guest;
use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::{build_all, kernels, load, sim, step, stop, ui};
use table::{Row, Side};

/// The machine on which callbacks are traced.
const TRACED: &str = "1x4x1";

/// What runs: shares by weight, and beside a frame loop; shares beside pinned tasks, of sleepers, and of
/// chains of wake-ups. The files have runs of several milliseconds: the CPUs of a guest take turns of
/// up to one, and while one stands still the time of who runs there goes on, so that a short run takes
/// longer there.
const NAMED: [&str; 2] = ["weights", "frames"];
const FILES: [&str; 3] = ["chain", "confined", "crowd"];
const DIR: &str = "crates/rota-sim/validation";

/// Compare what the simulator says with what guests do
///
/// Each workload runs under each scheduler in a guest with counted time, and in the simulator.
/// Exit code 1 if a share is further off than the tolerance, or a callback comes where the model
/// makes none.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The schedulers [default: all]
    #[arg(long, value_name = "SCHED,...", value_delimiter = ',')]
    sched: Vec<String>,
    /// The kernel: a series (6.18) or a release (7.3.4)
    #[arg(long, value_name = "KERNEL", default_value = "7.3")]
    kernel: Spec,
    /// The machines
    #[arg(long, value_name = "TOPOLOGY,...", value_delimiter = ',', default_values = ["1x2x1", "1x4x1"])]
    topology: Vec<Topology>,
    /// What to run: names (see `rota-load list`) or TOML files [default: weights, frames, and those in
    /// crates/rota-sim/validation]
    #[arg(long, value_name = "NAME|FILE,...", value_delimiter = ',')]
    workload: Vec<String>,
    /// How long each is measured
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = load::seconds)]
    seconds: f64,
    /// Write the tables to this file too, in Markdown
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    install: setup::Install,
}

/// The simulator's report, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Report {
    groups: Vec<Simulated>,
}

#[derive(Debug, Deserialize)]
struct Simulated {
    name: String,
    share: f64,
    wakeup_us: Option<Latency>,
}

/// Figures of groups by their names.
type Groups = BTreeMap<String, Side>;

/// Runs `cargo xtask validate`.
pub fn run(args: &Args, cx: &Context) -> Result<u8> {
    let scheds = cx.chosen(&args.sched)?;
    let workloads = match args.workload.is_empty() {
        true => usual(cx),
        false => args.workload.clone(),
    };
    for workload in &workloads {
        load::workload(workload)?;
    }
    if let Some(hybrid) = args.topology.iter().find(|its| its.is_hybrid()) {
        return Err(stop::usage(format!(
            "{hybrid} is another architecture, which is not compared; name machines like 1x4x1"
        )));
    }
    if let Some(out) = &args.out {
        // Before it takes minutes.
        save(out, "")?;
    }
    let store = Store::open()?;
    let mut groups = kernels::groups(&store, std::slice::from_ref(&args.kernel))?;
    groups.push(Group::Build);
    setup::ensure(cx, &groups, args.install)?;
    let kernel = kernels::get(&store, &args.kernel)?;
    let simulator = sim::build(cx)?;
    let programs = scheds.iter().map(|sched| sim::build_writer(cx, sched));
    let writers: Vec<PathBuf> = programs.collect::<Result<_>>()?;
    let task = ui::spinner("building the schedulers");
    let programs = build_all::guest_programs_in(&task, cx, &Toolchain::find()?, &scheds)?;
    task.done("");
    let programs: Vec<PathBuf> = programs.into_iter().map(|program| program.path).collect();

    let mut rows = Vec::new();
    for topology in &args.topology {
        for workload in &workloads {
            let guest = guest(args, cx, &kernel, &programs, topology, workload, &scheds)?;
            let model = scheds.iter().zip(&writers).map(|(sched, writer)| {
                let report = simulate(args, &kernel, &simulator, writer, topology, workload);
                report.map(|groups| (sched.clone(), groups))
            });
            let model: BTreeMap<String, Groups> = model.collect::<Result<_>>()?;
            let cpus = topology.cpus();
            rows.extend(Row::all(
                &topology.to_string(),
                cpus,
                title(workload),
                &guest,
                &model,
            ));
        }
    }
    let mut text = table::text(&kernel.release, args.seconds, &scheds, &rows);
    text += "\nCallbacks that the kernel made, by the model's grammar.\n\n";
    let mut orderly = true;
    for sched in &scheds {
        let (fits, found) = order(cx, &kernel, &programs, sched, &simulator)?;
        text += &format!("- {sched}: {found}\n");
        orderly &= fits;
    }
    ui::out(&text);
    if let Some(out) = &args.out {
        save(out, &text)?;
    }
    Ok(match orderly && !table::fails(&rows) {
        true => stop::OK,
        false => stop::FAILED,
    })
}

/// What runs when nothing is named.
fn usual(cx: &Context) -> Vec<String> {
    let file = |name| format!("{}/{DIR}/{name}.toml", cx.root.display());
    let files = FILES.into_iter().map(file);
    NAMED.into_iter().map(str::to_owned).chain(files).collect()
}

/// A workload's name, or that of its file.
fn title(workload: &str) -> &str {
    let stem = Path::new(workload).file_stem();
    stem.and_then(OsStr::to_str).unwrap_or(workload)
}

fn save(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// A workload under all schedulers in one guest.
fn guest(
    args: &Args,
    cx: &Context,
    kernel: &Kernel,
    programs: &[PathBuf],
    topology: &Topology,
    workload: &str,
    scheds: &[String],
) -> Result<BTreeMap<String, Groups>> {
    let contenders = scheds.iter().map(|name| Contender {
        name: name.clone(),
        ..Contender::default()
    });
    let (name, files) = load::workload(workload)?;
    let dir = cx.guest_dir("validate")?;
    let guest = Guest {
        kernel,
        topology,
        programs,
        files,
        contenders: contenders.collect(),
        rounds: 1,
        workload: name,
        seconds: args.seconds,
        clock: Clock::Counted {
            shift: SHIFT,
            seed: 0,
        },
    };
    let (found, outcome) = guest.run(dir.path())?;
    anyhow::ensure!(
        matches!(outcome.verdict, Verdict::Exited(0)),
        "{} on {topology}: {}",
        title(workload),
        outcome.verdict
    );
    let runs = found.runs.into_iter().filter(|run| !run.sched.is_empty());
    let reports = runs.map(|run| {
        let report = run.report.context("a run without a report")?;
        let groups = report.groups.into_iter().map(|group| {
            let side = Side::new(group.share, group.wakeup_us);
            (group.name, side)
        });
        Ok((run.sched, groups.collect()))
    });
    reports.collect()
}

/// Whether the callbacks that the kernel makes of a scheduler come in the order in which the model
/// makes them, and the simulator's words on it.
fn order(
    cx: &Context,
    kernel: &Kernel,
    programs: &[PathBuf],
    sched: &str,
    simulator: &Path,
) -> Result<(bool, String)> {
    let task = ui::spinner(format!("tracing {sched}"));
    let dir = cx.guest_dir("validate")?;
    let argv = ["sh", "-c", calls::SCRIPT, "sh", sched].map(str::to_owned);
    let job = Job::Exec(Exec {
        argv: argv.into(),
        ..Exec::default()
    });
    let topology = TRACED.parse()?;
    let vm = Vm::new(kernel, &topology, programs, &job, dir.path());
    let (mut trace, mut words) = (String::new(), String::new());
    let outcome = vm.run(&mut |event| {
        if let Event::Output { stream, text } = event {
            match stream {
                Stream::Stdout => trace += &text.to_text(),
                Stream::Stderr => words += &text.to_text(),
            }
        }
    })?;
    anyhow::ensure!(
        matches!(outcome.verdict, Verdict::Exited(0)),
        "{sched}: {}\n{words}",
        outcome.verdict
    );
    let file = dir.path().join("calls");
    let calls = calls::callbacks(&trace);
    save(&file, &calls)?;
    let mut command = Command::new(simulator);
    command.arg("grammar").arg(&file);
    let output = step::watch(command, &task)?;
    task.done("");
    let fits = output.status.success();
    let said = if fits { output.stdout } else { output.stderr };
    Ok((fits, said.join(" ")))
}

/// The same in the simulator, under one scheduler.
fn simulate(
    args: &Args,
    kernel: &Kernel,
    simulator: &Path,
    writer: &Path,
    topology: &Topology,
    workload: &str,
) -> Result<Groups> {
    let topology = topology.to_string();
    let task = ui::spinner(format!("simulating {} on {topology}", title(workload)));
    let written = sim::write_object(simulator, writer, &topology, &[], &task)?;
    let length = format!("{}ms", args.seconds * 1e3);
    let series: Vec<&str> = kernel.release.splitn(3, '.').take(2).collect();
    let mut command = Command::new(simulator);
    command.args(["run", "--topology", &topology, "--workload", workload]);
    command.args(["--kernel", &series.join("."), "--for", &length]);
    command
        .args(["--json", "-"])
        .arg(written.path().join(sim::OBJECT));
    let output = sim::require(command, &task)?;
    task.done("");
    let report: Report =
        serde_json::from_str(&output.stdout.join("\n")).context("the simulator's report")?;
    let groups = report.groups.into_iter().map(|group| {
        let side = Side::new(group.share, group.wakeup_us);
        (group.name, side)
    });
    Ok(groups.collect())
}
