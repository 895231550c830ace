// SPDX-License-Identifier: GPL-2.0-only
//! The matrix of the lab's tests: kernel x topology x scheduler. Each cell boots once and runs all
//! its cases, unless one of them takes the guest down or needs a command line of its own.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::cases::{self, Case, Kernels, ONE_MACHINE};
use crate::error::{Error, IoContext as _, Result};
use crate::job::{CaseOutcome, Cases, Event, Job};
use crate::kernel::{Kernel, Spec};
use crate::topology::Topology;
use crate::vm::{Clock, Outcome, Verdict, Vm};

/// Kernels of the default matrix: the oldest and the newest, and the one with long support.
pub const KERNELS: [&str; 3] = ["6.16", "6.18", "7.3"];
/// Kernels that the full matrix adds.
pub const MORE_KERNELS: [&str; 4] = ["6.12", "6.17", "6.19", "7.0"];
/// Kernels on which a scheduler must refuse to start, and say why.
pub const NEGATIVE_KERNELS: [&str; 2] = ["none", "7.2.12"];
/// Machines of the default matrix: one CPU, one LLC, two LLCs with SMT.
pub const TOPOLOGIES: [&str; 3] = ["1x1x1", "1x4x1", "2x2x2"];
/// Machines that the full matrix adds, with the kernels of the default one: two NUMA nodes with two
/// LLCs each, and LLCs of unequal size.
pub const MORE_TOPOLOGIES: [&str; 2] = ["numa:2x2x2x1", "1x2x4x1-2"];
/// The machine with strong and weak CPUs that the full matrix adds, with one kernel: what it is
/// there for, the schedulers read from sysfs, and that is the same on all.
pub const HYBRID: (&str, &str) = ("7.3", "hybrid:2+2");

/// The environment variable that brings the settings to the test program.
const VARIABLE: &str = "ROTA_LAB";

/// What to run, and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Static programs for the guests: `rota-guest`, `rota-load` and the schedulers.
    pub programs: Vec<PathBuf>,
    /// The same for arm64 guests, with a busybox.
    #[serde(default)]
    pub arm64_programs: Vec<PathBuf>,
    /// Schedulers to test.
    pub scheds: Vec<String>,
    /// Kernels to test on; empty means those of the matrix.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// Kernels of the matrix that could not be had.
    #[serde(default)]
    pub absent: Vec<(Arch, String)>,
    /// Machines to test on; empty means those of the matrix.
    #[serde(default)]
    pub topologies: Vec<String>,
    /// The full matrix instead of the default one.
    #[serde(default)]
    pub full: bool,
    /// What every scheduler has to do, in a third of the cells only: each case meets each two of
    /// kernel, machine and scheduler together, not each three.
    #[serde(default)]
    pub sparse: bool,
    /// Which of many interleavings the cases in virtual time see.
    #[serde(default)]
    pub seed: u64,
    /// Guests at a time; 0 means one for every two CPUs of the host, at least 2.
    #[serde(default)]
    pub jobs: usize,
    /// Where results and console logs go.
    pub results: PathBuf,
}

impl Settings {
    /// The settings as a variable for the environment of the test program.
    pub fn to_env(&self) -> (&'static str, String) {
        (
            VARIABLE,
            serde_json::to_string(self).expect("settings are plain data"),
        )
    }

    /// The settings from the environment, if there are any.
    pub fn from_env() -> Option<std::result::Result<Self, String>> {
        let text = env::var(VARIABLE).ok()?;
        Some(serde_json::from_str(&text).map_err(|error| format!("{VARIABLE}: {error}")))
    }

    /// How many guests run at a time.
    pub fn parallel(&self) -> usize {
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
        if self.jobs > 0 {
            self.jobs
        } else {
            (cpus / 2).max(2)
        }
    }

    /// The cells, kernel by kernel.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        let more = |more: &'static [&str]| if self.full { more } else { &[] };
        let usual = |lists: &[&[&str]]| lists.concat().into_iter().map(str::to_owned).collect();
        let kernels: Vec<String> = if self.kernels.is_empty() {
            usual(&[&KERNELS, more(&MORE_KERNELS), more(&NEGATIVE_KERNELS)])
        } else {
            self.kernels.clone()
        };
        let mut cells = Vec::new();
        for name in &kernels {
            let kernel: Spec = name.parse()?;
            let topologies: Vec<String> = if !self.topologies.is_empty() {
                self.topologies.clone()
            } else if kind(&kernel) != Kernels::Sound {
                usual(&[&[ONE_MACHINE]])
            } else if KERNELS.contains(&name.as_str()) {
                let hybrid: &[&str] = if self.full && name == HYBRID.0 {
                    &[HYBRID.1]
                } else {
                    &[]
                };
                usual(&[&TOPOLOGIES, more(&MORE_TOPOLOGIES), hybrid])
            } else {
                usual(&[&TOPOLOGIES])
            };
            for topology in topologies {
                let topology: Topology = topology.parse()?;
                // Unless it is asked for by name.
                let other = self.kernels.is_empty() && name != HYBRID.0;
                let absent = self.absent.contains(&(topology.arch(), name.clone()));
                if topology.is_hybrid() && other || absent {
                    continue;
                }
                cells.extend(self.scheds.iter().map(|sched| Cell {
                    kernel: kernel.clone(),
                    topology: topology.clone(),
                    sched: sched.clone(),
                }));
            }
        }
        Ok(cells)
    }

    /// The cases that belong into a cell, those that do not fit the machine included.
    pub fn cases(&self, cell: &Cell) -> Vec<&'static Case> {
        let (kernel, topology) = (cell.kernel.to_string(), cell.topology.to_string());
        // Who names a kernel or a machine wants to see all of it.
        let chosen = !self.topologies.is_empty();
        let here = |case: &Case| chosen || case.machine.is_none_or(|name| name == topology);
        let added =
            |named: &[String], more: &[&str], it: &str| named.is_empty() && more.contains(&it);
        // What takes minutes is not for the kernels and machines that the full matrix adds.
        let full = self.full
            && !added(&self.kernels, &MORE_KERNELS, &kernel)
            && !added(&self.topologies, &MORE_TOPOLOGIES, &topology);
        let belongs = |case: &&Case| {
            case.applies(kind(&cell.kernel), &cell.sched)
                && (full || !case.only_full)
                && here(case)
                && case.kernel.is_none_or(|name| name == kernel)
                && (!self.sparse || self.has_turn(cell, case))
        };
        cases::all().filter(belongs).collect()
    }

    /// Whether `case` runs in `cell` though only a part of the cells has it: each machine has each
    /// scheduler on every third kernel, and the next machine, scheduler or clock on the next. What
    /// some schedulers alone have to do runs on all kernels of the default matrix if this one is full
    /// (unless it is `in_turn`), and what one alone has not all on the same if it is not. CPUs run at
    /// the same time on the newest only.
    fn has_turn(&self, cell: &Cell, case: &Case) -> bool {
        let (kernel, topology) = (cell.kernel.to_string(), cell.topology.to_string());
        let kernels = [&KERNELS[..], &MORE_KERNELS].concat();
        let machines = [&TOPOLOGIES[..], &MORE_TOPOLOGIES].concat();
        if case.clock == Clock::Parallel {
            return KERNELS.last().is_some_and(|newest| *newest == kernel);
        }
        // A kernel or a machine that is there for one thing has all of it.
        let Some(kernel) = kernels.iter().position(|name| *name == kernel) else {
            return true;
        };
        let Some(machine) = machines.iter().position(|name| *name == topology) else {
            return true;
        };
        let few = !case.scheds.is_empty() && !case.in_turn;
        if few && self.full && kernel < KERNELS.len() || case.kernel.is_some() {
            return true;
        }
        let sched = self.scheds.iter().position(|name| *name == cell.sched);
        let boot = usize::from(case.clock != Clock::Host);
        // If cases of several schedulers were spread too, they would need boots of their own.
        let own = match case.scheds {
            [_] => case.name.bytes().map(usize::from).sum(),
            _ => 0,
        };
        (machine + sched.unwrap_or(0) + boot + own) % KERNELS.len() == kernel % KERNELS.len()
    }

    /// The kernels of all cells, each once, and which guests they are for.
    pub fn kernels(&self) -> Result<Vec<(Arch, Spec)>> {
        let mut kernels = Vec::new();
        for cell in self.cells()? {
            let kernel = (cell.topology.arch(), cell.kernel);
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        Ok(kernels)
    }
}

/// What can be expected of a kernel.
fn kind(kernel: &Spec) -> Kernels {
    match kernel {
        Spec::WithoutSchedExt => Kernels::WithoutSchedExt,
        // Debian's builds for its stable release from 7.1 up to 7.2.12.
        Spec::Series(7, 1) => Kernels::DamagedBtf,
        Spec::Release(name) if name.starts_with("7.1.") => Kernels::DamagedBtf,
        Spec::Release(name) if ["7.2.9", "7.2.11", "7.2.12"].contains(&name.as_str()) => {
            Kernels::DamagedBtf
        }
        _ => Kernels::Sound,
    }
}

/// One kernel on one machine with one scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The kernel.
    pub kernel: Spec,
    /// The machine.
    pub topology: Topology,
    /// The scheduler's binary.
    pub sched: String,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kernel, self.topology, self.sched)
    }
}

impl Cell {
    /// A directory name.
    fn slug(&self) -> String {
        self.to_string().replace(['/', ':', '+'], "-")
    }
}

/// One case in one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Its name.
    pub name: String,
    /// How it went.
    pub outcome: CaseOutcome,
    /// Why it failed or was skipped, or the figures that it found.
    pub message: String,
    /// How long it took.
    pub seconds: f64,
    /// In which boot of its cell, from 0.
    pub boot: usize,
}

/// One boot of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootRecord {
    /// Words added to the kernel's command line.
    pub append: String,
    /// How it ended.
    pub verdict: String,
    /// What executed the guest, as [`Accel::name`](crate::vm::Accel::name) has it.
    pub accel: String,
    /// Seconds to user space; 0 when it did not get there.
    pub boot_s: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// Why the attempts before this one broke, each for a reason that no scheduler can cause.
    pub retries: Vec<String>,
    /// The kernel's log.
    pub console: PathBuf,
}

/// What a cell found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CellRecord {
    /// The kernel as it was asked for.
    pub kernel: String,
    /// What `uname -r` says.
    pub release: String,
    /// The machine.
    pub topology: String,
    /// The scheduler's binary.
    pub sched: String,
    /// Its boots.
    pub boots: Vec<BootRecord>,
    /// Its cases.
    pub cases: Vec<CaseRecord>,
}

impl CellRecord {
    /// The case called `name`.
    pub fn case(&self, name: &str) -> Option<&CaseRecord> {
        self.cases.iter().find(|case| case.name == name)
    }

    /// How many cases went like this.
    pub fn count(&self, outcome: CaseOutcome) -> usize {
        self.cases
            .iter()
            .filter(|case| case.outcome == outcome)
            .count()
    }
}

/// Runs the cases called `names` in `cell`, in as many boots as it takes, and writes the record
/// under the results directory.
pub fn run(
    settings: &Settings,
    cell: &Cell,
    kernel: &Kernel,
    names: &[&str],
) -> Result<CellRecord> {
    let dir = settings.results.join(cell.slug());
    if dir.exists() {
        fs::remove_dir_all(&dir).at("removing the results of an earlier run in", &dir)?;
    }
    fs::create_dir_all(&dir).at("creating", &dir)?;
    let mut record = CellRecord {
        kernel: cell.kernel.to_string(),
        release: kernel.release.clone(),
        topology: cell.topology.to_string(),
        sched: cell.sched.clone(),
        boots: Vec::new(),
        cases: Vec::new(),
    };
    let runner = Runner {
        settings,
        cell,
        kernel,
        dir: &dir,
    };
    for (kind, mut left) in by_boot(names) {
        while !left.is_empty() {
            let done = record.cases.len();
            runner.boot(kind, &left, &mut record)?;
            // At least one case is over, if only because it took the guest down.
            let over = record.cases[done..].iter().map(|case| case.name.clone());
            let over: Vec<String> = over.collect();
            left.retain(|name| !over.contains(name));
        }
    }
    let file = dir.join("cell.json");
    let text = serde_json::to_string_pretty(&record).expect("a record is plain data");
    fs::write(&file, text).at("writing", &file)?;
    Ok(record)
}

/// What a case asks of the boot it runs in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct BootKind {
    append: &'static str,
    clock: Clock,
}

/// The cases in groups that can share a boot.
fn by_boot(names: &[&str]) -> BTreeMap<BootKind, VecDeque<String>> {
    let mut groups: BTreeMap<_, VecDeque<String>> = BTreeMap::new();
    for name in names {
        let kind = cases::find(name).map(|case| BootKind {
            append: case.append,
            clock: case.clock,
        });
        let group = groups.entry(kind.unwrap_or_default()).or_default();
        group.push_back((*name).to_owned());
    }
    groups
}

struct Runner<'a> {
    settings: &'a Settings,
    cell: &'a Cell,
    kernel: &'a Kernel,
    dir: &'a Path,
}

impl Runner<'_> {
    /// Boots once and runs the cases until they are done or the guest is.
    fn boot(
        &self,
        kind: BootKind,
        names: &VecDeque<String>,
        record: &mut CellRecord,
    ) -> Result<()> {
        let dir = self.dir.join(format!("boot-{}", record.boots.len() + 1));
        fs::create_dir_all(&dir).at("creating", &dir)?;
        let names: Vec<String> = names.iter().cloned().collect();
        let limits = names
            .iter()
            .filter_map(|name| cases::find(name))
            .map(|case| case.limit_s);
        let seconds: u64 = limits.sum();
        let job = Job::Cases(Cases {
            sched: self.cell.sched.clone(),
            names: names.clone(),
            seed: self.settings.seed,
        });
        let programs = match self.cell.topology.arch() {
            Arch::X86_64 => &self.settings.programs,
            Arch::Arm64 => &self.settings.arm64_programs,
        };
        let programs = needed(programs, &self.cell.sched, &names);
        let mut vm = Vm::new(self.kernel, &self.cell.topology, &programs, &job, &dir);
        vm.clock = kind.clock.seeded(self.settings.seed);
        vm.append = kind.append.split_whitespace().map(str::to_owned).collect();
        vm.limits.total = vm.limits.silent + std::time::Duration::from_secs(seconds);
        let mut seen = Seen::of(record.boots.len());
        let outcome = vm.run(&mut |event| seen.take(event))?;
        record.boots.push(boot_record(kind.append, &outcome));
        record.cases.extend(seen.finish(&names, &outcome));
        Ok(())
    }
}

/// Those of `programs` that the cases called `names` of `sched` need. A change of one scheduler then
/// leaves the guests of the others as they were, to the last instruction of those that count.
fn needed(programs: &[PathBuf], sched: &str, names: &[String]) -> Vec<PathBuf> {
    let cases = names.iter().filter_map(|name| cases::find(name));
    let beside: Vec<&str> = cases.flat_map(|case| case.beside).copied().collect();
    let is_needed = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with("scx_") || name == sched || beside.contains(&&*name)
    };
    programs.iter().filter(is_needed).cloned().collect()
}

fn boot_record(append: &str, outcome: &Outcome) -> BootRecord {
    BootRecord {
        append: append.to_owned(),
        verdict: outcome.verdict.to_string(),
        accel: outcome.accel.name().to_owned(),
        boot_s: outcome.boot.unwrap_or_default().as_secs_f64(),
        seconds: outcome.elapsed.as_secs_f64(),
        retries: outcome.retries.clone(),
        console: outcome.console.clone(),
    }
}

/// The cases that a guest has told of.
#[derive(Debug)]
struct Seen {
    boot: usize,
    records: Vec<CaseRecord>,
    running: Option<(String, Instant)>,
}

impl Seen {
    fn of(boot: usize) -> Self {
        Self {
            boot,
            records: Vec::new(),
            running: None,
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::CaseStarted { name } => {
                self.running = Some((name.clone(), Instant::now()));
            }
            Event::CaseResult {
                name,
                outcome,
                message,
                seconds,
            } => {
                self.running = None;
                self.records.push(CaseRecord {
                    name: name.clone(),
                    outcome: *outcome,
                    message: message.clone(),
                    seconds: *seconds,
                    boot: self.boot,
                });
            }
            Event::Retrying { .. } => *self = Self::of(self.boot),
            _ => {}
        }
    }

    /// All records. The case that ran when the guest broke down has failed; the rest is left for
    /// another boot. A guest that did not get as far as a case fails them all.
    fn finish(mut self, names: &[String], outcome: &Outcome) -> Vec<CaseRecord> {
        let orderly = matches!(outcome.verdict, Verdict::Exited(_));
        if orderly && self.running.is_none() && !self.records.is_empty() {
            return self.records;
        }
        let untold = names
            .iter()
            .filter(|name| !self.records.iter().any(|r| r.name == **name));
        let (victims, seconds) = match &self.running {
            Some((name, started)) => (vec![name.clone()], started.elapsed().as_secs_f64()),
            None if self.records.is_empty() => (untold.cloned().collect(), 0.0),
            None => (untold.take(1).cloned().collect(), 0.0),
        };
        let message = format!(
            "{}; console: {}",
            outcome.verdict,
            outcome.console.display()
        );
        self.records
            .extend(victims.into_iter().map(|name| CaseRecord {
                name,
                outcome: CaseOutcome::Failed,
                message: message.clone(),
                seconds,
                boot: self.boot,
            }));
        self.records
    }
}

/// Whether `error` concerns one cell, or everything.
pub fn is_fatal(error: &Error) -> bool {
    matches!(
        error,
        Error::Interrupted | Error::MissingPackages(_) | Error::DiskFull { .. }
    )
}

#[cfg(test)]
mod tests;
