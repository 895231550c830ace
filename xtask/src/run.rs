// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask run`: a workload in a VM under the kernel's own scheduler and then under one of
//! Rota's, side by side.

mod live;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rota_lab::job::{self, BIN_DIR, Job};
use rota_lab::kernel::{Kernel, Spec, Store};
use rota_lab::topology::Topology;
use rota_lab::vm::{Verdict, Vm};
use rota_load::{spec::Workload, workloads};
use serde_json::json;

use crate::build_all::{self, Program};
use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::{kernels, stop, ui};
use live::Live;

/// The shortest and longest run that make sense under emulation.
const SECONDS: std::ops::RangeInclusive<f64> = 1.0..=600.0;
/// Where a workload of the user's lies in the guest.
const GUEST_WORKLOAD: &str = "/rota/workload.toml";

/// Run a workload in a VM, first under the kernel's own scheduler, then under SCHED
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The scheduler, for example scx_vtime
    #[arg(value_name = "SCHED")]
    scheduler: String,
    /// The kernel: a series (6.18), a release (7.2.12), or a bzImage
    #[arg(long, value_name = "KERNEL", default_value = "7.3")]
    kernel: String,
    /// The machine: sockets x cores x threads (2x2x2), numa:2x2x1
    #[arg(long, value_name = "TOPOLOGY", default_value = "1x4x1")]
    topology: String,
    /// What to run: a name (see `rota-load list`) or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "mixed")]
    workload: String,
    /// How long it runs under each scheduler
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = seconds)]
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

/// Reads `10`, `10s` or `1.5s`.
fn seconds(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let value = number.parse().ok().filter(|value| SECONDS.contains(value));
    value.ok_or_else(|| format!("from {}s to {}s", SECONDS.start(), SECONDS.end()))
}

/// Runs `cargo xtask run`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    // Whatever can be wrong with the command line is found out before anything takes time.
    cx.require_scheduler(&args.scheduler)?;
    let topology: Topology = args.topology.parse()?;
    let spec: Spec = args.kernel.parse()?;
    let (workload, files) = workload(&args.workload)?;
    if let Some(file) = &args.json {
        fs::write(file, "").with_context(|| format!("writing {}", file.display()))?;
    }

    let store = Store::open()?;
    let mut groups = kernels::groups(&store, std::slice::from_ref(&spec))?;
    groups.push(Group::Build);
    setup::ensure(cx, &groups, args.install)?;
    let kernel = kernels::get(&store, &spec)?;
    let programs = build(cx, &args.scheduler)?;

    let job = Job::Compare(job::Compare {
        sched: args.scheduler.clone(),
        sched_args: args.options.clone(),
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
fn build(cx: &Context, scheduler: &str) -> Result<Vec<Program>> {
    let tools = Toolchain::find()?;
    let task = ui::spinner(format!("building {scheduler}"));
    let programs = build_all::guest_programs_in(&task, cx, &tools, &[scheduler.to_owned()])?;
    task.done("");
    Ok(programs)
}

/// The workload as the guest shall know it, and the file to bring along.
fn workload(given: &str) -> Result<(String, Vec<(String, PathBuf)>)> {
    if workloads::find(given).is_some() {
        return Ok((given.to_owned(), Vec::new()));
    }
    let path = Path::new(given);
    if !path.exists() {
        let names: Vec<&str> = workloads::ALL.iter().map(|named| named.name).collect();
        let names = names.join(", ");
        return Err(stop::usage(format!(
            "no workload or file `{given}`; there are: {names}"
        )));
    }
    Workload::load(path).map_err(|error| stop::usage(error.to_string()))?;
    Ok((
        GUEST_WORKLOAD.to_owned(),
        vec![(GUEST_WORKLOAD.to_owned(), path.to_owned())],
    ))
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
    let found = live.finish();
    if let Some((code, stderr)) = found.failed {
        for line in &stderr {
            ui::note(line);
        }
        ui::note(format!(
            "{} did not start: exit code {code}",
            args.scheduler
        ));
        return Ok(u8::try_from(code).unwrap_or(stop::FAILED));
    }
    let Some(compared) = found.compared else {
        let console = dir.keep().join("console.log");
        bail!(
            "{}; the kernel's log is {}",
            outcome.verdict,
            console.display()
        );
    };
    report::print(&compared, &guest.topology.to_string())?;
    if let Some(file) = &args.json {
        let all = json!({
            "kernel": guest.kernel.release,
            "topology": guest.topology.to_string(),
            "scheduler": args.scheduler,
            "options": args.options,
            "accelerator": outcome.accel.name(),
            "compared": compared,
        });
        let text = serde_json::to_string_pretty(&all).context("writing JSON")?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    match outcome.verdict {
        Verdict::Exited(code) => Ok(u8::try_from(code).unwrap_or(stop::FAILED)),
        verdict => bail!("{verdict}; programs were in {BIN_DIR}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_seconds_and_limits() {
        assert_eq!(seconds("10s"), Ok(10.0));
        assert_eq!(seconds("1.5"), Ok(1.5));
        for bad in ["0s", "601s", "NaN", "1m", "-1", ""] {
            assert_eq!(seconds(bad), Err("from 1s to 600s".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_named_workload_needs_no_file_and_an_unknown_one_is_refused() {
        assert_eq!(workload("mixed").unwrap(), ("mixed".to_owned(), Vec::new()));
        let error = workload("nonesuch").unwrap_err();
        assert!(error.to_string().contains("there are: mixed, "), "{error}");
        assert_eq!(stop::code_of(&error), 2);
    }

    #[test]
    fn a_bad_workload_file_is_refused_before_the_guest_boots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        fs::write(&path, "name = 3\n").unwrap();
        let error = workload(path.to_str().unwrap()).unwrap_err();
        assert_eq!(stop::code_of(&error), 2);
        fs::write(&path, workloads::ALL[0].toml).unwrap();
        let (name, files) = workload(path.to_str().unwrap()).unwrap();
        assert_eq!(files, [(name, path)]);
    }
}
