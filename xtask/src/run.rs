// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask run`: a workload in a VM under the kernel's own scheduler and then under one of
//! Rota's, side by side.

mod live;
pub mod report;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rota_lab::job::{self, BIN_DIR, Contender, Job, Machine, Ran};
use rota_lab::kernel::{Kernel, Spec, Store};
use rota_lab::topology::Topology;
use rota_lab::vm::{Verdict, Vm};
use serde_json::{Value, json};

use crate::build_all::{self, Program};
use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::{kernels, load, stop, ui};
use live::Live;

/// Run a workload in a VM, first under the kernel's own scheduler, then under SCHED
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The scheduler, for example scx_vtime
    #[arg(value_name = "SCHED")]
    scheduler: String,
    /// The kernel: a series (6.18), a release (7.2.12), or a bzImage
    #[arg(long, value_name = "KERNEL", default_value = "7.3")]
    kernel: String,
    /// The machine: sockets x cores x threads (2x2x2), numa:2x2x1, hybrid:2+2 (strong and weak CPUs)
    #[arg(long, value_name = "TOPOLOGY", default_value = "1x4x1")]
    topology: String,
    /// What to run: a name (see `rota-load list`) or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "mixed")]
    workload: String,
    /// How long it runs under each scheduler
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = load::seconds)]
    seconds: f64,
    /// Also write everything that was found to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    install: setup::Install,
    /// Options of the scheduler
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs `cargo xtask run`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    // Whatever can be wrong with the command line is found out before anything takes time.
    cx.require_scheduler(&args.scheduler)?;
    let topology: Topology = args.topology.parse()?;
    let spec: Spec = args.kernel.parse()?;
    let (workload, files) = load::workload(&args.workload)?;
    if let Some(file) = &args.json {
        fs::write(file, "").with_context(|| format!("writing {}", file.display()))?;
    }

    let store = Store::open()?.on(topology.arch());
    let mut groups = kernels::groups(&store, std::slice::from_ref(&spec))?;
    groups.push(Group::Build);
    setup::ensure(cx, &groups, args.install)?;
    let kernel = kernels::get(&store, &spec)?;
    let programs = build(cx, &store, &args.scheduler)?;

    let job = Job::Compare(job::Compare {
        contenders: vec![Contender {
            name: args.scheduler.clone(),
            args: options(&args.options),
            foreign: None,
        }],
        rounds: 1,
        workload,
        seconds: args.seconds,
    });
    let guest = Guest {
        kernel: &kernel,
        topology: &topology,
        programs,
        files,
        job: &job,
    };
    compare(cx, guest, &args)
}

/// Only the scheduler that is wanted: another one takes a minute more.
fn build(cx: &Context, store: &Store, scheduler: &str) -> Result<Vec<Program>> {
    let tools = Toolchain::find()?.on(store)?;
    let task = ui::spinner(format!("building {scheduler}"));
    let programs = build_all::guest_programs_in(&task, cx, &tools, &[scheduler.to_owned()])?;
    task.done("");
    Ok(programs)
}

/// What is booted.
struct Guest<'a> {
    kernel: &'a Kernel,
    topology: &'a Topology,
    programs: Vec<Program>,
    files: Vec<(String, PathBuf)>,
    job: &'a Job,
}

fn compare(cx: &Context, guest: Guest<'_>, args: &Args) -> Result<u8> {
    let dir = cx.guest_dir("run")?;
    let programs: Vec<PathBuf> = guest
        .programs
        .into_iter()
        .map(|program| program.path)
        .collect();
    let mut vm = Vm::new(
        guest.kernel,
        guest.topology,
        &programs,
        guest.job,
        dir.path(),
    );
    vm.files = guest.files;
    // Two runs, and what boot, attach and warm-up take on a slow host.
    vm.limits.total = Duration::from_secs_f64(args.seconds * 2.0) + Duration::from_secs(300);

    let mut live = Live::new(&guest.kernel.release, &args.scheduler);
    let outcome = vm.run(&mut |event| live.take(event))?;
    let mut found = live.finish();
    let last = found.runs.pop().filter(|run| !run.sched.is_empty());
    let (Some(after), Some(before)) = (last, found.runs.pop()) else {
        let console = dir.keep().join("console.log");
        bail!(
            "{}; the kernel's log is {}",
            outcome.verdict,
            console.display()
        );
    };
    if !after.attached {
        return Ok(did_not_start(&after));
    }
    report::print(&found.machine, &before, &after, &guest.topology.to_string())?;
    if let Some(file) = &args.json {
        let all = json!({
            "kernel": guest.kernel.release,
            "topology": guest.topology.to_string(),
            "scheduler": args.scheduler,
            "options": args.options,
            "accelerator": outcome.accel.name(),
            "compared": compared(&found.machine, &before, &after),
        });
        let text = serde_json::to_string_pretty(&all).context("writing JSON")?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    match outcome.verdict {
        // A foul end of the scheduler has been shown; the guest itself did its job.
        Verdict::Exited(_) => Ok(u8::try_from(after.exit_code).unwrap_or(stop::FAILED)),
        verdict => bail!("{verdict}; programs were in {BIN_DIR}"),
    }
}

/// Shows why, as the scheduler told it; its exit code, which is never that of success.
fn did_not_start(run: &Ran) -> u8 {
    for line in &run.stderr {
        ui::note(line);
    }
    let code = match u8::try_from(run.exit_code) {
        Ok(stop::OK) | Err(_) => stop::FAILED,
        Ok(code) => code,
    };
    ui::note(format!("{} did not start: exit code {code}", run.sched));
    code
}

/// Both runs as one object: all of the second, and the report of the first.
fn compared(machine: &Machine, before: &Ran, after: &Ran) -> Value {
    let mut all = json!(after);
    if let Some(fields) = all.as_object_mut() {
        fields.remove("report");
        fields.insert("sched_report".into(), json!(after.report));
        fields.insert("kernel_report".into(), json!(before.report));
        fields.insert("machine".into(), json!(machine));
    }
    all
}

/// The user's options, and stats every second unless the user has chosen another time.
fn options(given: &[String]) -> Vec<String> {
    let chosen = given
        .iter()
        .any(|arg| arg == "--stats" || arg.starts_with("--stats="));
    let stats = if chosen {
        [].as_slice()
    } else {
        &["--stats", "1"]
    };
    stats
        .iter()
        .map(|word| (*word).to_owned())
        .chain(given.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn stats_are_asked_for_unless_the_user_did() {
        assert_eq!(options(&strings(&["-v"])), ["--stats", "1", "-v"]);
        assert_eq!(options(&strings(&["--stats", "5"])), ["--stats", "5"]);
        assert_eq!(options(&strings(&["--stats=5"])), ["--stats=5"]);
    }

    #[test]
    fn a_scheduler_that_did_not_start_never_ends_with_success() {
        let code = |exit_code| {
            did_not_start(&Ran {
                exit_code,
                ..Ran::default()
            })
        };
        assert_eq!([0, 3, 139, 300].map(code), [1, 3, 139, 1]);
    }

    #[test]
    fn both_reports_are_in_the_object() {
        let all = compared(&Machine::default(), &Ran::default(), &Ran::default());
        for key in ["machine", "kernel_report", "sched_report", "counters"] {
            assert!(all.get(key).is_some(), "{key}");
        }
    }
}
