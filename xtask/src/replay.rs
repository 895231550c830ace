// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask replay`: a case of `cargo xtask fuzz` once more, or a smaller one that fails as it did.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rota_lab::fuzz::run::Case;
use rota_lab::fuzz::shrink;
use rota_lab::kernel::Spec;

use crate::context::Context;
use crate::fuzz::Lab;
use crate::{setup, stop, ui};

/// Let a case of `cargo xtask fuzz` happen once more
///
/// The same programs on the same kernel do the same, to the last switch: the checksum of all that the
/// guest says tells. Ends with 0 if nothing is wrong with it (any more), with 1 if something is, or if
/// several runs differ.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The case: a folder that `cargo xtask fuzz` has left, or the case.json in it
    case: PathBuf,
    /// Act it out so often, and compare
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    times: u32,
    /// Look for a smaller case that fails in the same way
    #[arg(long, conflicts_with = "times")]
    minimise: bool,
    #[command(flatten)]
    install: setup::Install,
}

/// Runs `cargo xtask replay`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    let before = Case::load(&args.case).map_err(|error| stop::usage(error.to_string()))?;
    let spec: Spec = before.scenario.kernel.parse()?;
    cx.require_scheduler(&before.scenario.sched)?;
    let lab = Lab::ready(cx, &spec, args.install)?;
    if args.minimise {
        return minimise(&lab, before);
    }
    let mut same = true;
    let mut last = before.clone();
    for run in 1..=args.times {
        let task = ui::spinner(format!("acting out {}", before.scenario.name()));
        let now = lab.act_out(&before.scenario)?;
        task.done(&now.checksum);
        same &= run == 1 || now.checksum == last.checksum;
        last = now;
    }
    for violation in &last.violations {
        ui::out(violation.to_string());
    }
    if last.void {
        ui::out("void: the emulator's clock leapt");
    }
    if !last.figures.is_empty() {
        ui::out(&last.figures);
    }
    match (args.times, same, last.checksum == before.checksum) {
        (_, false, _) => ui::out("the runs differ"),
        (_, _, true) => ui::out("the same as it was, to the last byte"),
        (1, ..) => ui::out("not as it was: other programs, or another kernel"),
        _ => ui::out("all runs are the same, but not as it was: other programs, or another kernel"),
    }
    ui::out(format!("in {}", lab.dir(&before.scenario).display()));
    Ok(match same && last.violations.is_empty() {
        true => stop::OK,
        false => stop::FAILED,
    })
}

/// Takes away what can be taken away while the same oracle is violated.
fn minimise(lab: &Lab, before: Case) -> Result<u8> {
    let task = ui::spinner("minimising");
    let oracle = before.violations.first();
    let oracle = oracle
        .context("nothing is wrong with this case; give one that fails")
        .map_err(|error| stop::usage(error.to_string()))?
        .oracle
        .clone();
    let dir = lab.dir(&before.scenario).with_added_extension("smaller");
    let fails = |case: &Case| case.violations.iter().any(|found| found.oracle == oracle);
    let mut smallest = before;
    let mut tries = 0;
    loop {
        let mut next = None;
        for scenario in shrink::smaller(&smallest.scenario) {
            tries += 1;
            let case = lab.act_out_in(&scenario, dir.clone())?;
            if fails(&case) {
                next = Some(case);
                break;
            }
            task.tell(format!("try {tries}: all is well"));
        }
        let Some(case) = next else {
            break;
        };
        task.tell(format!(
            "try {tries}: still fails with {} acts, {} options, {} bytes of workload",
            case.scenario.acts.len(),
            case.scenario.options.len(),
            case.scenario.workload.len()
        ));
        smallest = case;
    }
    // The last try was one in which all was well.
    let smallest = lab.act_out_in(&smallest.scenario, dir.clone())?;
    task.done(format!("{tries} tries"));
    for violation in &smallest.violations {
        ui::out(violation.to_string());
    }
    ui::out(&smallest.scenario.workload);
    ui::out(format!("cargo xtask replay {}", dir.display()));
    Ok(stop::OK)
}
