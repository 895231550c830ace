// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask compare`: several schedulers and the kernel's own, several rounds each, in one
//! guest: a table of what differs by more than chance, JSON, and a picture.

mod chart;
mod foreign;
pub mod guest;
mod results;
mod stats;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rota_lab::arch::Arch;
use rota_lab::job::Contender;
use rota_lab::kernel::{Spec, Store};
use rota_lab::topology::Topology;
use rota_lab::vm::{Clock, Outcome, Verdict};
use serde_json::json;

use crate::build_all::{self, GUEST_INIT};
use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::{kernels, load, run, stop, ui};
use foreign::Foreign;
use guest::{Found, Guest};
use results::{KERNEL_SCHED, Results};

/// An instruction of a counted guest takes 2^3 ns: about as long as with the host's clock.
pub const SHIFT: u8 = 3;
/// Programs that a guest has besides schedulers, so names that no scheduler may have.
const TAKEN: [&str; 3] = [KERNEL_SCHED, GUEST_INIT, "rota-load"];

/// Compare schedulers with the kernel's own, several rounds in one VM
///
/// For each figure of the workload: the median over the rounds, the range from the lowest to the
/// highest round, the ratio of the medians to that of the kernel's own scheduler (eevdf), and a
/// verdict. A scheduler is better or worse only if the ranges do not overlap; fewer than 3 rounds
/// give no verdict. The order changes from round to round. Exit code 1 if a scheduler failed or a
/// figure is missing.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Schedulers of Rota, separated by commas
    #[arg(long, value_name = "SCHED,...", value_delimiter = ',')]
    sched: Vec<String>,
    /// A sched_ext scheduler from elsewhere, an executable of this machine, which is brought along
    /// with its shared libraries; repeat for more
    #[arg(long, value_name = "FILE")]
    foreign: Vec<PathBuf>,
    /// What to run: a name (see `rota-load list`) or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "messaging")]
    workload: String,
    /// The kernel: a series (6.18), a release (7.2.12), or a bzImage
    #[arg(long, value_name = "KERNEL", default_value = "7.3")]
    kernel: Spec,
    /// The machine: sockets x cores x threads (2x2x2), numa:2x2x1
    #[arg(long, value_name = "TOPOLOGY", default_value = "1x4x1")]
    topology: Topology,
    /// How many rounds
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    repeat: u32,
    /// How long the workload runs under each scheduler in each round
    #[arg(long = "for", value_name = "TIME", default_value = "3s", value_parser = load::seconds)]
    seconds: f64,
    /// Let time pass by instructions, so that the result is the same every time
    #[arg(long)]
    counted: bool,
    /// Another interleaving, with --counted
    #[arg(long, value_name = "N", default_value_t = 0, requires = "counted")]
    seed: u64,
    /// Also write everything that was found to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the ratios into this file, as SVG
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    #[command(flatten)]
    install: setup::Install,
}

/// Runs `cargo xtask compare`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    // Whatever can be wrong with the command line is found out before anything takes time.
    for name in &args.sched {
        cx.require_scheduler(name)?;
    }
    let foreign: Vec<Foreign> = args
        .foreign
        .iter()
        .map(|path| Foreign::find(path))
        .collect::<Result<_>>()?;
    let arch = args.topology.arch();
    if !foreign.is_empty() && arch != Arch::X86_64 {
        return Err(stop::usage(format!(
            "--foreign is for machines like this one; {} is {arch}",
            args.topology
        )));
    }
    let contenders = contenders(&args.sched, &foreign)?;
    let (workload, mut files) = load::workload(&args.workload)?;
    for file in args.json.iter().chain(&args.chart) {
        save(file, "")?;
    }

    let store = Store::open()?.on(arch);
    let mut groups = kernels::groups(&store, std::slice::from_ref(&args.kernel))?;
    groups.push(Group::Build);
    setup::ensure(cx, &groups, args.install)?;
    let kernel = kernels::get(&store, &args.kernel)?;
    let programs = programs(cx, &store, &args.sched, &foreign)?;
    files.extend(foreign.iter().flat_map(Foreign::files));

    let dir = cx.guest_dir("compare")?;
    let clock = match args.counted {
        true => Clock::Counted {
            shift: SHIFT,
            seed: args.seed,
        },
        false => Clock::Host,
    };
    let guest = Guest {
        kernel: &kernel,
        topology: &args.topology,
        programs: &programs,
        files,
        contenders,
        rounds: args.repeat,
        workload,
        seconds: args.seconds,
        clock,
    };
    let (found, outcome) = guest.run(dir.path())?;
    let unfinished = unfinished(&outcome.verdict).map(|what| {
        let console = dir.keep().join("console.log");
        let latest = &found.latest;
        format!("{latest}{what}; the kernel's log is {}", console.display())
    });
    report(&args, &found, &outcome, unfinished)
}

/// All that take part besides the kernel's own scheduler.
fn contenders(ours: &[String], foreign: &[Foreign]) -> Result<Vec<Contender>> {
    let ours = ours.iter().map(|name| Contender {
        name: name.clone(),
        ..Contender::default()
    });
    let all: Vec<Contender> = ours.chain(foreign.iter().map(Foreign::contender)).collect();
    if all.is_empty() {
        return Err(stop::usage(
            "nothing to compare; name schedulers with --sched A,B or --foreign FILE",
        ));
    }
    let mut names: BTreeSet<&str> = TAKEN.into();
    for contender in &all {
        if !names.insert(&contender.name) {
            return Err(stop::usage(format!(
                "the name `{}` is taken already; each scheduler needs another one",
                contender.name
            )));
        }
    }
    Ok(all)
}

/// What the guest has on its `PATH`: only the schedulers that are wanted, as each takes a minute to
/// build.
fn programs(
    cx: &Context,
    store: &Store,
    ours: &[String],
    foreign: &[Foreign],
) -> Result<Vec<PathBuf>> {
    let tools = Toolchain::find()?.on(store)?;
    let task = ui::spinner("building the schedulers");
    let built = build_all::guest_programs_in(&task, cx, &tools, ours)?;
    task.done("");
    let built = built.into_iter().map(|program| program.path);
    let foreign = foreign.iter().map(|foreign| foreign.path.clone());
    Ok(built.chain(foreign).collect())
}

/// What a guest says that did not get to its end.
fn unfinished(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Exited(_) => None,
        verdict => Some(verdict.to_string()),
    }
}

/// Prints and writes what there is; the exit code.
fn report(args: &Args, found: &Found, outcome: &Outcome, unfinished: Option<String>) -> Result<u8> {
    let mut results = Results::of(&found.schedulers, &found.runs);
    results.problems.extend(unfinished);
    let topology = args.topology.to_string();
    let who = format!("{} and {KERNEL_SCHED}", found.schedulers.join(", "));
    let headline = run::report::headline(&found.machine, &who, &topology);
    let rounds = if args.repeat == 1 { "round" } else { "rounds" };
    let clock = if args.counted {
        format!(", counted time, seed {}", args.seed)
    } else {
        String::new()
    };
    let how = format!(
        "workload {}, {} {rounds} of {} s{clock}, {}",
        args.workload,
        args.repeat,
        args.seconds,
        outcome.accel.name()
    );
    ui::out(format!("\n{headline}\n{how}"));
    results.print();
    if (args.repeat as usize) < stats::ROUNDS_MIN {
        ui::out(format!(
            "\nno verdicts: they take {} rounds",
            stats::ROUNDS_MIN
        ));
    }
    for run in &found.runs {
        for line in &run.kernel_trouble {
            ui::out(format!("kernel log ({}): {line}", results::called(run)));
        }
    }
    if let Some(file) = &args.json {
        let all = json!({
            "kernel": found.machine.kernel,
            "machine": found.machine,
            "topology": topology,
            "workload": args.workload,
            "seconds": args.seconds,
            "rounds": args.repeat,
            "clock": if args.counted { "counted" } else { "host" },
            "seed": args.counted.then_some(args.seed),
            "accelerator": outcome.accel.name(),
            "spread": "min..max",
            "schedulers": found.schedulers,
            "figures": results.to_json(),
            "problems": results.problems,
            "runs": found.runs,
        });
        let text = serde_json::to_string_pretty(&all).context("writing JSON")?;
        save(file, &(text + "\n"))?;
    }
    if let Some(file) = &args.chart {
        let title = format!("{} on {topology}: ratios to {KERNEL_SCHED}", args.workload);
        let subtitle = format!("Linux {}, {how}", found.machine.kernel);
        save(file, &chart::draw(&title, &subtitle, &results.rows)?)?;
    }
    for problem in &results.problems {
        ui::note(problem);
    }
    Ok(if results.problems.is_empty() {
        stop::OK
    } else {
        stop::FAILED
    })
}

fn save(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, i32> {
        let words = ["compare"].iter().chain(words);
        let parsed = Line::try_parse_from(words);
        parsed
            .map(|line| line.args)
            .map_err(|error| error.exit_code())
    }

    fn names(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_command_line_has_lists_limits_and_defaults() {
        let args = parse(&["--sched", "scx_fifo,scx_llc", "--for", "1.5s"]).unwrap();
        assert_eq!(args.sched, ["scx_fifo", "scx_llc"]);
        assert_eq!((args.repeat, args.seconds), (5, 1.5));
        assert_eq!(args.workload, "messaging");
        let bad: [&[&str]; 7] = [
            &["--repeat", "0"],
            &["--repeat", "51"],
            &["--for", "0s"],
            &["--topology", "0x1"],
            &["--seed", "3"],
            &["--kernel", "4.19x"],
            &["scx_fifo"],
        ];
        for words in bad {
            assert_eq!(parse(words).unwrap_err(), 2, "{words:?}");
        }
    }

    #[test]
    fn each_scheduler_has_a_name_of_its_own() {
        let foreign = [Foreign::find(Path::new("/bin/sh")).unwrap()];
        let all = contenders(&names(&["scx_fifo"]), &foreign).unwrap();
        let foreign_ones: Vec<_> = all.iter().map(|one| one.foreign.is_some()).collect();
        assert_eq!(
            (all[1].name.as_str(), foreign_ones),
            ("sh", vec![false, true])
        );
        for taken in [&["scx_fifo", "scx_fifo"], &["sh", "scx_fifo"]] {
            let error = contenders(&names(taken), &foreign).unwrap_err();
            assert_eq!(stop::code_of(&error), 2);
            assert!(error.to_string().contains("is taken already"), "{error}");
        }
        let error = contenders(&[], &[]).unwrap_err();
        assert!(error.to_string().contains("--foreign FILE"), "{error}");
    }

    #[test]
    fn a_guest_that_did_not_end_is_a_problem() {
        assert_eq!(unfinished(&Verdict::Exited(3)), None);
        let panic = Verdict::Panic("Oops".into());
        assert!(unfinished(&panic).unwrap().contains("panicked"));
    }
}
