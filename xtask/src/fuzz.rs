// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask fuzz`: scenarios from seeds, each in a guest of its own, judged by oracles.

mod choices;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rota_lab::arch::Arch;
use rota_lab::fuzz::draw::{Subject, TOPOLOGIES, draw};
use rota_lab::fuzz::run::Case;
use rota_lab::fuzz::{Scenario, run as act_out};
use rota_lab::kernel::{Kernel, Spec, Store};
use rota_lab::topology::Topology;
use rota_load::spec::parse_duration;

use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::ui::Task;
use crate::{build_all, kernels, pool, stop, ui};

/// Let scenarios drawn from seeds happen in guests, and look for anything that must not be
///
/// A seed decides on machine, options, workload, and on what is done to them: CPUs go and come, tasks
/// are confined and reniced, the scheduler is killed, frozen, told to read its options. In a guest
/// whose time counts instructions all follows from that, so that a seed is a schedule. What fails is
/// kept in target/lab/fuzz, for `cargo xtask replay`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only with this scheduler; repeat for more
    #[arg(long, value_name = "SCHED")]
    sched: Vec<String>,
    /// The kernel
    #[arg(long, value_name = "KERNEL", default_value = "7.3")]
    kernel: Spec,
    /// Only on this machine; repeat for more [default: drawn from seven small ones]
    #[arg(long, value_name = "TOPOLOGY")]
    topology: Vec<Topology>,
    /// Seeds, the second of the two not included
    #[arg(long, value_name = "A..B", default_value = "0..20")]
    seeds: Seeds,
    /// Guests at a time; each keeps a CPU busy [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Only every Nth case, from the Ith (counted from 0), so that N machines share the work
    #[arg(
        long,
        value_name = "I/N",
        default_value = "0/1",
        hide_default_value = true
    )]
    shard: Shard,
    /// Begin no more cases after this time
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    length: Option<Duration>,
    #[command(flatten)]
    install: setup::Install,
    /// More options for the scheduler
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

fn time(text: &str) -> Result<Duration, String> {
    // The workload format knows no minutes.
    match text.strip_suffix('m').map(str::parse::<u32>) {
        Some(Ok(minutes)) => Ok(Duration::from_secs(60 * u64::from(minutes))),
        _ => parse_duration(text).map_err(|_| "is no time such as 90s or 30m".into()),
    }
}

/// `A..B`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seeds {
    first: u64,
    end: u64,
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, end) = text.split_once("..").ok_or("is no range such as 0..100")?;
        let number = |word: &str| word.parse().map_err(|_| format!("`{word}` is no number"));
        let (first, end) = (number(first)?, number(end)?);
        if first >= end {
            return Err("there is no seed in it".into());
        }
        Ok(Self { first, end })
    }
}

/// `I/N`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    index: usize,
    count: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?))
        });
        match numbers {
            Some((index, count)) if index < count => Ok(Self { index, count }),
            Some(_) => Err("the first number is from 0 to the second - 1".into()),
            None => Err("is no share such as 0/4".into()),
        }
    }
}

/// Runs `cargo xtask fuzz`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    for name in &args.sched {
        cx.require_scheduler(name)?;
    }
    if let Some(other) = args.topology.iter().find(|one| one.arch() != Arch::X86_64) {
        return Err(stop::usage(format!(
            "{other} is {}; scenarios are for x86_64",
            other.arch()
        )));
    }
    let waiting = scenarios(&args, cx)?;
    let lab = Lab::ready(cx, &args.kernel, args.install)?;
    let started = Instant::now();
    let task = ui::spinner("fuzzing");
    let count = waiting.len();
    let late = || args.length.is_some_and(|length| started.elapsed() > length);
    let jobs = args.jobs.map_or_else(pool::cpus, usize::from);
    let found = pool::each(jobs, waiting, late, |scenario| {
        let name = scenario.name();
        let case = lab.act_out(&scenario).with_context(|| name.clone())?;
        match (case.void, case.violations.is_empty()) {
            (true, _) => task.tell(format!("{name}: void, the emulator's clock leapt")),
            (false, true) => task.tell(format!("{name}: {}", case.figures)),
            (false, false) => tell(&lab, &case, &task),
        }
        Ok(case)
    })?;
    let elapsed = started.elapsed();
    task.done(format!("{} of {count} cases", found.len()));
    summary(&found, elapsed);
    let failed = found
        .iter()
        .filter(|case| !case.violations.is_empty())
        .count();
    let void = found.iter().filter(|case| case.void).count();
    let passed = found.len() - failed - void;
    ui::out(format!("{passed} passed, {failed} failed, {void} skipped"));
    Ok(if failed == 0 { stop::OK } else { stop::FAILED })
}

/// All scenarios of this share of the work.
fn scenarios(args: &Args, cx: &Context) -> Result<Vec<Scenario>> {
    let scheds = match args.sched.is_empty() {
        true => &cx.schedulers,
        false => &args.sched,
    };
    let topologies: Vec<String> = match args.topology.is_empty() {
        true => TOPOLOGIES.map(str::to_owned).into(),
        false => args.topology.iter().map(Topology::to_string).collect(),
    };
    let kernel = args.kernel.to_string();
    let mut all = Vec::new();
    for sched in scheds {
        let choices = choices::load(cx, sched)?;
        let subject = Subject {
            sched,
            kernel: &kernel,
            topologies: &topologies,
            choices: &choices,
        };
        all.extend((args.seeds.first..args.seeds.end).map(|seed| {
            let mut scenario = draw(&subject, seed);
            scenario.options.extend(args.options.iter().cloned());
            scenario
        }));
    }
    let Shard { index, count } = args.shard;
    Ok(all.into_iter().skip(index).step_by(count).collect())
}

fn tell(lab: &Lab, case: &Case, task: &Task) {
    let dir = lab.dir(&case.scenario);
    for violation in &case.violations {
        task.print(format!("{}: {violation}", case.scenario.name()));
    }
    task.print(format!("    cargo xtask replay {}", dir.display()));
}

fn summary(found: &[Case], elapsed: Duration) {
    let mut by_sched: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for case in found {
        let entry = by_sched.entry(&case.scenario.sched).or_default();
        entry.0 += 1;
        entry.1 += usize::from(!case.violations.is_empty());
        entry.2 += usize::from(case.void);
    }
    let mut table = ui::table(&["scheduler", "cases", "violated", "void"]);
    for (sched, (cases, violated, void)) in by_sched {
        let counts = [cases, violated, void].map(|count| count.to_string());
        table.add_row([vec![sched.to_owned()], counts.into()].concat());
    }
    ui::print_table(&table);
    let per_hour = found.len() as f64 * 3600.0 / elapsed.as_secs_f64().max(1.0);
    ui::out(format!(
        "in {}, {per_hour:.0} cases an hour",
        ui::seconds(elapsed)
    ));
}

/// What it takes to act a scenario out.
pub struct Lab {
    kernel: Kernel,
    programs: Vec<PathBuf>,
    results: PathBuf,
}

impl Lab {
    /// Gets the kernel and builds the programs.
    pub fn ready(cx: &Context, spec: &Spec, install: setup::Install) -> Result<Self> {
        let store = Store::open()?;
        let mut groups = kernels::groups(&store, std::slice::from_ref(spec))?;
        groups.push(Group::Build);
        setup::ensure(cx, &groups, install)?;
        let kernel = kernels::get(&store, spec)?;
        let programs = build_all::guest_programs(cx, &Toolchain::find()?)?;
        Ok(Self {
            kernel,
            programs: programs.into_iter().map(|program| program.path).collect(),
            results: cx.target_dir.join("lab/fuzz"),
        })
    }

    /// Where a scenario's results go.
    pub fn dir(&self, scenario: &Scenario) -> PathBuf {
        self.results.join(scenario.name())
    }

    /// Acts a scenario out.
    pub fn act_out(&self, scenario: &Scenario) -> Result<Case> {
        self.act_out_in(scenario, self.dir(scenario))
    }

    /// The same, with another place for the results.
    pub fn act_out_in(&self, scenario: &Scenario, dir: PathBuf) -> Result<Case> {
        Ok(act_out::run(&self.kernel, &self.programs, scenario, &dir)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range() {
        let seeds = |text: &str| text.parse::<Seeds>();
        assert_eq!(seeds("3..7"), Ok(Seeds { first: 3, end: 7 }));
        for bad in ["7", "7..3", "3..3", "a..b", "1..", "-1..2"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shard_is_a_part() {
        let shard = |text: &str| text.parse::<Shard>();
        assert_eq!(shard("1/4"), Ok(Shard { index: 1, count: 4 }));
        for bad in ["4/4", "0/0", "1", "/", "-1/2"] {
            assert!(shard(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_may_be_minutes() {
        assert_eq!(time("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("1500ms"), Ok(Duration::from_millis(1500)));
        assert!(time("soon").is_err());
    }
}
