// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask sim`: a workload under a policy in the simulator, on any machine.
//!
//! What user space tells a policy of a machine comes from the scheduler itself: it is given the files
//! that the machine would have under /sys, and writes what it would load.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::ui::Task;
use crate::{load, step, stop, ui};

/// The simulator.
const SIMULATOR: &str = "rota-sim";
/// The directory in which a scheduler writes what it would load.
pub const OBJECT: &str = "object";

/// Run a workload under a policy in the simulator; the figures are those of a model
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The scheduler, for example scx_llc
    #[arg(long, value_name = "SCHED", required_unless_present = "object")]
    sched: Option<String>,
    /// Any policy's object file instead, as it is but for --set
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sched", "options"])]
    object: Option<PathBuf>,
    /// The machine: as in `run`, with up to 1024 CPUs (8x16x2), or a file that describes it in JSON
    #[arg(long, value_name = "TOPOLOGY|FILE", default_value = "2x2x2")]
    topology: String,
    /// What to run: a name (see `rota-load list`) or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "mixed")]
    workload: String,
    /// How long it is measured, such as 500ms or 60s [default: the workload's]
    #[arg(long = "for", value_name = "TIME")]
    length: Option<String>,
    /// Which of many interleavings [default: the workload's seed]
    #[arg(long, value_name = "N")]
    seed: Option<String>,
    /// The kernel whose core is modelled, 6.12 to 7.3 [default: 7.3]
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<String>,
    /// Where callbacks of different CPUs may interleave: whole, kfuncs, or every N instructions
    #[arg(long, value_name = "AT")]
    cut: Option<String>,
    /// Take a CPU offline, such as 3 after 300ms (300ms:3): the policy ends there
    #[arg(long, value_name = "TIME:CPU")]
    unplug: Option<String>,
    /// Set a variable of the object
    #[arg(long, value_name = "NAME=N")]
    set: Vec<String>,
    /// Give an array of the object that user space makes larger so many elements
    #[arg(long, value_name = "NAME=N")]
    elements: Vec<String>,
    /// Write the timeline for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<String>,
    /// Write the report as JSON too; - for stdout
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
    #[command(flatten)]
    install: setup::Install,
    /// Options of the scheduler
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs `cargo xtask sim`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    load::workload(&args.workload)?;
    if let Some(sched) = &args.sched {
        cx.require_scheduler(sched)?;
        setup::ensure(cx, &[Group::Build], args.install)?;
    }
    let simulator = build(cx)?;
    let mut command = Command::new(&simulator);
    command.args(["run", "--topology", &args.topology]);
    command.args(["--workload", &args.workload]);
    for (name, value) in [
        ("--for", &args.length),
        ("--seed", &args.seed),
        ("--kernel", &args.kernel),
        ("--cut", &args.cut),
        ("--unplug", &args.unplug),
        ("--trace", &args.trace),
        ("--json", &args.json),
    ] {
        if let Some(value) = value {
            command.args([name, value]);
        }
    }
    command.args(args.set.iter().flat_map(|set| ["--set", set]));
    command.args((args.elements.iter()).flat_map(|elements| ["--elements", elements]));
    // Lives until the simulator has ended.
    let written = match &args.sched {
        Some(sched) => {
            let program = build_writer(cx, sched)?;
            let task = ui::spinner(format!("asking {sched}"));
            let dir = write_object(&simulator, &program, &args.topology, &args.options, &task)?;
            task.done("");
            Some(dir)
        }
        None => None,
    };
    let policy = written.as_ref().map(|dir| dir.path().join(OBJECT));
    command.arg(policy.or(args.object).expect("clap wants one of them"));
    let status = command.status();
    let status = status.with_context(|| format!("running {}", simulator.display()))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}

/// Builds the simulator; its program.
pub fn build(cx: &Context) -> Result<PathBuf> {
    let task = ui::spinner("building the simulator");
    let mut command = cx.cargo();
    command.args(["build", "--release", "-p", SIMULATOR, "--bin", SIMULATOR]);
    step::require(command, &task)?;
    task.done("");
    Ok(cx.target_dir.join("release").join(SIMULATOR))
}

/// Builds `sched` so that it can write what it would load; its program.
pub fn build_writer(cx: &Context, sched: &str) -> Result<PathBuf> {
    let task = ui::spinner(format!("building {sched}"));
    let mut build = cx.cargo();
    Toolchain::find()?.apply(&mut build);
    build.args(["build", "-p", sched, "--features", "rota-core/write-object"]);
    step::require(build, &task)?;
    task.done("");
    Ok(cx.target_dir.join("debug").join(sched))
}

/// What a scheduler's `program` would load on the machine called `topology`, in the directory
/// [`OBJECT`] of the one that is returned.
pub fn write_object(
    simulator: &Path,
    program: &Path,
    topology: &str,
    options: &[String],
    task: &Task,
) -> Result<TempDir> {
    let dir = tempfile::tempdir().context("creating a temporary directory")?;
    let sysfs = dir.path().join("sys");
    let mut machine = Command::new(simulator);
    machine.args(["sysfs", topology]).arg(&sysfs);
    require(machine, task)?;
    let mut write = Command::new(program);
    write.arg("--sysfs-root").arg(&sysfs);
    write.arg("--write-object").arg(dir.path().join(OBJECT));
    write.args(options);
    require(write, task)?;
    Ok(dir)
}

/// Runs one of Rota's own programs, whose refusal of its arguments is one of ours.
pub fn require(command: Command, task: &Task) -> Result<step::Output> {
    let output = step::watch(command, task)?;
    match output.status.code() {
        Some(0) => Ok(output),
        // Its first line says what is wrong, where to read about it comes after.
        Some(2) => {
            let line = output.stderr.first().map_or("", String::as_str);
            Err(stop::usage(line.strip_prefix("error: ").unwrap_or(line)))
        }
        _ => {
            output.print(task);
            bail!("{} failed", task.label());
        }
    }
}
