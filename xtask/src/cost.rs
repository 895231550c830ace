// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask cost`: what each scheduler costs in instructions, against what was accepted.
//!
//! Each scheduler, and the kernel's own, gets a guest whose time counts instructions, so the figures
//! are the same on every machine, busy or not, as long as kernel, emulator and compilers are. The
//! accepted figures are in `bench/cost.toml`.

mod ledger;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rota_lab::job::{self, Costs, Event, Job};
use rota_lab::kernel::{Kernel, Spec, Store};
use rota_lab::topology::Topology;
use rota_lab::vm::{Clock, Verdict, Vm};

use crate::build_all;
use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::ui::Task;
use crate::{kernels, pool, stop, ui};
use ledger::{KERNEL_SCHED, Ledger, Made};

/// The kernel that is measured on.
const KERNEL: &str = "7.3";
/// Two CPUs, of which one is online: see `rota_lab`'s guest.
const TOPOLOGY: &str = "1x2x1-1";
/// An instruction takes 2^0 ns.
const CLOCK: Clock = Clock::Counted { shift: 0, seed: 0 };
/// How figures come into the file.
const ACCEPT: &str = "cargo xtask cost --accept REASON";
/// How long a guest may be silent: it measures for seconds of virtual time and says nothing, which on
/// a host with other work takes minutes.
const SILENT: Duration = Duration::from_secs(300);
/// Guests at a time; each keeps a CPU busy.
const JOBS: usize = 2;

/// Measure what each scheduler costs in instructions, and compare with bench/cost.toml
///
/// Fails if a figure is more than 2 % above the accepted one; of a callback that is called N times,
/// more than 1/sqrt(N), if that is more. The figures of another kernel, emulator or compiler are
/// shown, but not compared.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this scheduler; repeat for more
    #[arg(long, value_name = "SCHED")]
    sched: Vec<String>,
    /// Write the figures to bench/cost.toml; REASON says what made them change
    #[arg(long, value_name = "REASON", value_parser = reason)]
    accept: Option<String>,
    #[command(flatten)]
    install: setup::Install,
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a reason has at least one word".into());
    }
    Ok(text.to_owned())
}

/// What came of a comparison.
pub struct Compared {
    /// Schedulers that cost no more than was accepted.
    pub passed: usize,
    /// Those that cost more, or of which nothing was accepted.
    pub failed: usize,
}

/// Runs `cargo xtask cost`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    for name in &args.sched {
        cx.require_scheduler(name)?;
    }
    let file = file(cx);
    let accepted = Ledger::load(&file)?;
    let spec = kernel();
    let store = Store::open()?;
    let mut groups = kernels::groups(&store, std::slice::from_ref(&spec))?;
    groups.push(Group::Build);
    setup::ensure(cx, &groups, args.install)?;
    let kernel = kernels::get(&store, &spec)?;
    let tools = Toolchain::find()?;
    let programs = build_all::guest_programs(cx, &tools)?;
    let programs: Vec<PathBuf> = programs.into_iter().map(|program| program.path).collect();

    let chosen = if args.sched.is_empty() {
        &cx.schedulers
    } else {
        &args.sched
    };
    let made = made(cx, &kernel, &tools)?;
    // Before it takes time.
    if args.accept.is_some() {
        accepted.require_same(&made, args.sched.is_empty())?;
    }
    let task = ui::spinner("measuring");
    let measured = measure(cx, &kernel, &programs, chosen, &task)?;
    task.done("");
    ledger::print(&measured);
    if let Some(reason) = args.accept {
        let all = args.sched.is_empty();
        accepted.accept(made, measured, reason, all)?.save(&file)?;
        ui::note(format!("written to {}", file.display()));
        return Ok(stop::OK);
    }
    let task = ui::spinner("comparing");
    if !comparable(&accepted, &made, &task) {
        return Ok(stop::OK);
    }
    match compare(&accepted, &measured, &task).failed {
        0 => Ok(stop::OK),
        _ => Ok(stop::FAILED),
    }
}

/// The same as a step of `cargo xtask test`, for which programs and kernel are there; nothing if the
/// accepted figures were made with something else.
pub fn check(
    cx: &Context,
    tools: &Toolchain,
    programs: &[PathBuf],
    kernel: &Kernel,
    task: &Task,
) -> Result<Option<Compared>> {
    let accepted = Ledger::load(&file(cx))?;
    let made = made(cx, kernel, tools)?;
    if !comparable(&accepted, &made, task) {
        return Ok(None);
    }
    let measured = measure(cx, kernel, programs, &cx.schedulers, task)?;
    Ok(Some(compare(&accepted, &measured, task)))
}

/// The kernel that [`check`] needs.
pub fn kernel() -> Spec {
    KERNEL.parse().expect("it is a series")
}

fn file(cx: &Context) -> PathBuf {
    cx.root.join("bench/cost.toml")
}

/// Everything but the sources that the figures depend on.
fn made(cx: &Context, kernel: &Kernel, tools: &Toolchain) -> Result<Made> {
    let version = |program: &Path, arg: &str| -> Result<String> {
        let output = Command::new(program).arg(arg).output();
        let output = output.with_context(|| format!("running {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    Ok(Made {
        kernel: kernel.release.clone(),
        qemu: kernels::emulator(&Store::open()?)?.version().to_owned(),
        clang: version(tools.clang(), "--version")?,
        rustc: version(&cx.rustc(), "--version")?,
    })
}

/// Boots a guest for the kernel's own scheduler and for each of `schedulers`.
fn measure(
    cx: &Context,
    kernel: &Kernel,
    programs: &[PathBuf],
    schedulers: &[String],
    task: &Task,
) -> Result<BTreeMap<String, Costs>> {
    let kernels_own = [None];
    let all = schedulers.iter().cloned().map(Some).chain(kernels_own);
    let found = pool::each(
        JOBS,
        all.collect(),
        || false,
        |sched: Option<String>| {
            let name = sched.clone().unwrap_or_else(|| KERNEL_SCHED.to_owned());
            let costs = measure_one(cx, kernel, programs, sched).with_context(|| name.clone())?;
            task.tell(format!("{name} is measured"));
            Ok((name, costs))
        },
    )?;
    Ok(found.into_iter().collect())
}

fn measure_one(
    cx: &Context,
    kernel: &Kernel,
    programs: &[PathBuf],
    sched: Option<String>,
) -> Result<Costs> {
    let dir = cx.guest_dir("cost")?;
    let topology: Topology = TOPOLOGY.parse()?;
    // A guest's course depends on each byte in it, down to which tasks meet in a queue. So the other
    // schedulers stay out: a change of one is no change of the figures of all.
    let mut others = cx.schedulers.clone();
    others.retain(|other| Some(other) != sched.as_ref());
    let mut programs = programs.to_vec();
    programs.retain(|program| !others.iter().any(|other| program.ends_with(other)));
    let job = Job::Cost(job::Cost { sched });
    let mut vm = Vm::new(kernel, &topology, &programs, &job, dir.path());
    vm.clock = CLOCK;
    vm.limits.silent = SILENT;
    let (mut costs, mut words) = (None, Vec::new());
    let outcome = vm.run(&mut |event| match event {
        Event::Costs(found) => costs = Some(found.clone()),
        Event::SchedFailed { stderr, .. } => words.clone_from(stderr),
        _ => {}
    })?;
    match (outcome.verdict, costs) {
        (Verdict::Exited(0), Some(costs)) => Ok(costs),
        (verdict, _) => {
            let console = dir.keep().join("console.log");
            let words = words.join("\n");
            bail!(
                "{verdict}; the kernel's log is {}\n{words}",
                console.display()
            )
        }
    }
}

/// Whether the accepted figures were made with the same; says it if not.
fn comparable(accepted: &Ledger, made: &Made, task: &Task) -> bool {
    let then = match &accepted.made {
        Some(then) if then == made => return true,
        Some(then) => then.to_string(),
        None => "nothing".to_owned(),
    };
    task.print(format!(
        "bench/cost.toml was made with {then}; this is {made}, so nothing is compared. \
         `{ACCEPT}` writes it anew"
    ));
    false
}

fn compare(accepted: &Ledger, measured: &BTreeMap<String, Costs>, task: &Task) -> Compared {
    let (mut passed, mut failed) = (0, 0);
    for (name, costs) in measured {
        let changes = accepted.changes(name, costs);
        changes
            .iter()
            .for_each(|change| task.print(change.to_string()));
        if changes.iter().any(ledger::Change::is_worse) {
            failed += 1;
        } else {
            passed += 1;
        }
    }
    if failed > 0 {
        task.print(format!("if it is worth that: `{ACCEPT}`"));
    }
    Compared { passed, failed }
}
