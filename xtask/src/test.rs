// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask test`: everything that proves the project, in one command.
//!
//! First what needs no VM: format, clippy, tidy, unit tests. Then the lab boots its cells, a cell
//! being a kernel, a topology and a scheduler. The closing line counts the tests of both, and each
//! of the other steps (format, clippy, tidy, builds, kernels) as one; cost counts schedulers.

mod lab;
mod tally;

use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, bail};
use rota_lab::arch::Arch;
use rota_lab::kernel::{Spec, Store};
use rota_lab::vm::interrupted;

use crate::build_all;
use crate::context::Context;
use crate::kernels::{self, Prefetch};
use crate::setup::{self, Group, Toolchain};
use crate::{cost, step, stop, tidy};
use tally::{Counts, Tally};

/// Check format, lints and house rules, run the unit tests and the lab
///
/// With any of --kernel, --topology, --sched and --filter only that part of the lab runs, and nothing of
/// it is left out: each case on each kernel, machine and scheduler, which without them meet in pairs.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    selection: lab::Selection,
    /// Everything but the lab
    #[arg(long, conflicts_with = "selection")]
    no_lab: bool,
    #[command(flatten)]
    install: setup::Install,
}

/// Runs `cargo xtask test`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    let plan = args.selection.plan(cx)?;
    let kernels = plan.kernels.clone();
    let store = Store::open()?;
    let mut groups = vec![Group::Build];
    if !args.selection.narrows() {
        groups.push(Group::Lint);
    }
    if !args.no_lab {
        for arch in [Arch::X86_64, Arch::Arm64] {
            let of_arch = kernels.iter().filter(|(kind, _)| *kind == arch);
            let specs: Vec<Spec> = of_arch.map(|(_, spec)| spec.clone()).collect();
            if !specs.is_empty() {
                groups.extend(kernels::groups(&store.on(arch), &specs)?);
            }
        }
    }
    setup::ensure(cx, &groups, args.install)?;
    let tools = Toolchain::find()?;

    let mut tally = Tally::new();
    thread::scope(|scope| {
        // Kernels come over the network while the compiler is busy.
        let prefetch = (!args.no_lab).then(|| Prefetch::start(scope, &store, &kernels));
        if !args.selection.narrows() {
            without_vm(cx, &tools, &mut tally);
        }
        if let Some(prefetch) = prefetch {
            with_vms(cx, &store, &tools, &mut tally, prefetch, plan);
        }
    });
    let passed = tally.close();
    if interrupted() {
        return Err(rota_lab::Error::Interrupted.into());
    }
    Ok(if passed { stop::OK } else { stop::FAILED })
}

/// The steps that need no VM.
fn without_vm(cx: &Context, tools: &Toolchain, tally: &mut Tally) {
    tally.step("format", |task| {
        let mut command = cx.cargo();
        command.args(["fmt", "--all", "--check"]);
        step::require(command, task).map(|_| Counts::ONE_PASSED)
    });
    tally.step("clippy", |task| {
        let args = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        step::require(cargo(cx, tools, &args), task).map(|_| Counts::ONE_PASSED)
    });
    tally.step("tidy", |task| {
        let problems = tidy::check(cx)?;
        for problem in &problems {
            task.print(problem.to_string());
        }
        Ok(if problems.is_empty() {
            Counts::ONE_PASSED
        } else {
            Counts::ONE_FAILED
        })
    });
    tally.step("unit tests", |task| {
        // The lab has no cells to run unless it is told so.
        let args = ["test", "--workspace", "--no-fail-fast"];
        let output = step::watch(cargo(cx, tools, &args), task)?;
        let counts = Counts::of_libtest(&output.stdout);
        if output.status.success() {
            return Ok(counts);
        }
        output.print(task);
        Ok(counts.at_least_one_failed())
    });
}

/// The steps of the lab. A kernel that is not to be had fails, and the others are used.
fn with_vms(
    cx: &Context,
    store: &Store,
    tools: &Toolchain,
    tally: &mut Tally,
    prefetch: Prefetch<'_>,
    mut plan: lab::Plan,
) {
    let mut programs = Vec::new();
    // Cost is measured with them, whatever the lab does.
    if plan.has(Arch::X86_64) || !plan.narrows() {
        tally.step("guest programs", |task| {
            programs = build_all::guest_programs_in(task, cx, tools, &cx.schedulers)?;
            plan.take_programs(Arch::X86_64, &programs);
            Ok(Counts::ONE_PASSED)
        });
    }
    let mut built = !programs.is_empty();
    if plan.has(Arch::Arm64) {
        tally.step("arm64 programs", |task| {
            let tools = Toolchain::find()?.on(&store.on(Arch::Arm64))?;
            let programs = build_all::guest_programs_in(task, cx, &tools, &cx.schedulers)?;
            plan.take_programs(Arch::Arm64, &programs);
            built = true;
            Ok(Counts::ONE_PASSED)
        });
    }
    let mut ready = Vec::new();
    let mut measured_on = None;
    tally.step("kernels", |task| {
        let mut counts = Counts::default();
        for (arch, spec, result) in prefetch.finish(task) {
            match result {
                Ok(kernel) => {
                    if spec == cost::kernel() && arch == Arch::X86_64 {
                        measured_on = Some(kernel);
                    }
                    ready.push((arch, spec));
                    counts.passed += 1;
                }
                Err(error) => {
                    task.print(format!("Linux {spec}: {error}"));
                    counts.failed += 1;
                }
            }
        }
        Ok(counts)
    });
    if !plan.narrows() {
        tally.step("cost", |task| {
            let kernel = measured_on.as_ref().context("it needs its kernel")?;
            let programs: Vec<PathBuf> = programs
                .iter()
                .map(|program| program.path.clone())
                .collect();
            let compared = cost::check(cx, tools, &programs, kernel, task)?;
            Ok(compared.map_or(Counts::ONE_SKIPPED, |compared| Counts {
                passed: compared.passed,
                failed: compared.failed,
                skipped: 0,
            }))
        });
    }
    tally.step("lab", |task| {
        if !built || ready.is_empty() {
            bail!("it needs the programs and a kernel");
        }
        plan.run(cx, tools, &ready, task)
    });
}

fn cargo(cx: &Context, tools: &Toolchain, args: &[&str]) -> Command {
    let mut command = cx.cargo();
    tools.apply(&mut command);
    command.args(args);
    command
}
