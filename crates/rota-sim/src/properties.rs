// SPDX-License-Identifier: GPL-2.0-only
//! What every scheduler promises, on random machines, kernels, workloads and interleavings: a test
//! of a scheduler is a call of [`check`].
//!
//! The object is the one that the scheduler would load there: it is asked to write it.

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, fs, thread};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};
use rota_load::spec::{Kind, Workload};

use crate::bpf::Pieces;
use crate::btf::{self, Btf};
use crate::machine::Machine;
use crate::model::{ECODE_RESTART_HOTPLUG, TaskFigures};
use crate::object::{self, Object, Written};
use crate::random::{cases, machines, workloads};
use crate::report::feasible_shares;
use crate::report::{Claim, Options};
use crate::simulation::{Setup, Simulation, Unplug};
use crate::sysfs;

/// Cases that a plain `cargo test` runs.
const CASES: u32 = 24;
/// Threads that search.
const LANES: u32 = 4;
/// Of a case that was found before, how many are run.
const INTERLEAVINGS: u64 = 8;
/// How long each is measured, in milliseconds: long enough that a task can starve.
const LENGTHS_MS: Range<u64> = 200..1500;
/// Who is worth as much of a CPU competes with nobody; less only by rounding.
const WHOLE_CPU: f64 = 1.0 - 1e-9;
/// A tick of the model.
const TICK_NS: u64 = 4_000_000;

/// What a scheduler promises besides what all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// CPU time follows weight over the whole machine, or the part of it that all who compete are
    /// confined to, whoever has CPUs to himself beside it: no task is more than four turns off.
    pub exact_shares: bool,
    /// How long a task may wait beside an idle CPU that it may use, in nanoseconds.
    pub idle_ns: u64,
}

/// Runs `scheduler` (the path of its program) through random cases.
///
/// # Panics
/// It breaks a promise; the message has the smallest case in which it does.
pub fn check(scheduler: &str, promises: Promises) {
    if let Some(found) = search(scheduler, None, promises, CASES) {
        panic!("{found}");
    }
}

/// Runs `scheduler` (the path of its program) through a case that was found before, and through other
/// interleavings of it: what is found in one is lost to it by any change of the policy.
///
/// # Panics
/// It breaks a promise.
pub fn check_case(scheduler: &str, promises: Promises, case: &Scenario) {
    let scheduler = Scheduler::new(scheduler, None, promises);
    for further in 0..INTERLEAVINGS {
        let case = Scenario {
            seed: case.seed.wrapping_add(further),
            ..case.clone()
        };
        if let Err(error) = scheduler.judge(&case) {
            panic!("{error}\n{case}");
        }
    }
}

/// The smallest case in which `scheduler` (the path of its program) breaks a promise, if one of
/// `number` random ones is. With `object`, that is run in place of its own: the same variables, other
/// code.
pub fn search(
    scheduler: &str,
    object: Option<&[u8]>,
    promises: Promises,
    number: u32,
) -> Option<Violation> {
    let scheduler = Scheduler::new(scheduler, object, promises);
    let found = AtomicBool::new(false);
    thread::scope(|scope| {
        let lanes: Vec<_> = lanes(&cases(number))
            .map(|lane| scope.spawn(|| scheduler.search(lane, &found)))
            .collect();
        let violations = lanes.into_iter().map(|lane| match lane.join() {
            Ok(violation) => violation,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        violations.fold(None, Option::or)
    })
}

/// The parts of a search, which have cases of their own and run side by side. Their number does not
/// depend on the machine, so that the cases do not.
fn lanes(config: &ProptestConfig) -> impl Iterator<Item = ProptestConfig> {
    (0..LANES).map(|lane| ProptestConfig {
        cases: config.cases.div_ceil(LANES),
        rng_seed: match config.rng_seed {
            RngSeed::Fixed(seed) => {
                RngSeed::Fixed(seed.wrapping_mul(u64::from(LANES)) + u64::from(lane))
            }
            RngSeed::Random => RngSeed::Random,
        },
        ..config.clone()
    })
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which, and how.
    pub what: String,
    /// In which case.
    pub scenario: Scenario,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, self.scenario)
    }
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let kernels = proptest::sample::select(btf::KERNELS.map(|(name, _)| name).to_vec());
    let cuts = prop_oneof![
        1 => Just(Pieces::Whole),
        3 => Just(Pieces::Kfuncs),
        3 => (1u64..40).prop_map(Pieces::Insns),
    ];
    let unplugs = (0..LENGTHS_MS.end, 0u32..8).prop_map(|(at_ms, cpu)| Unplug {
        at: Duration::from_millis(at_ms),
        cpu,
    });
    let cases_of = (
        machines(),
        kernels,
        workloads(LENGTHS_MS, -20..20),
        cuts,
        proptest::option::weighted(0.1, unplugs),
        any::<u64>(),
    );
    cases_of.prop_map(|(machine, kernel, workload, cut, unplug, seed)| Scenario {
        machine,
        kernel,
        workload,
        cut,
        unplug,
        seed,
    })
}

/// A case.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The name of the machine.
    pub machine: String,
    /// Whose core.
    pub kernel: &'static str,
    /// The workload's text.
    pub workload: String,
    /// Where callbacks are cut.
    pub cut: Pieces,
    /// Whether a CPU goes, which ends the run: the scheduler starts anew.
    pub unplug: Option<Unplug>,
    /// Which of many interleavings.
    pub seed: u64,
}

/// What makes it happen again.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            kernel,
            cut,
            seed,
            ..
        } = self;
        write!(
            f,
            "cargo xtask sim --topology {machine} --kernel {kernel} --cut {cut} --seed {seed} "
        )?;
        if let Some(unplug) = &self.unplug {
            write!(f, "--unplug {unplug} ")?;
        }
        write!(f, "--workload FILE, with\n{}", self.workload)
    }
}

struct Scheduler {
    program: PathBuf,
    /// What is run in place of its own.
    object: Option<Vec<u8>>,
    promises: Promises,
    /// What it wrote, by machine.
    written: Mutex<HashMap<String, (Vec<u8>, Written)>>,
}

impl Scheduler {
    fn new(program: &str, object: Option<&[u8]>, promises: Promises) -> Self {
        Self {
            program: PathBuf::from(program),
            object: object.map(<[u8]>::to_vec),
            promises,
            written: Mutex::default(),
        }
    }

    /// A violation in the cases of `lane`, unless somebody has `found` one already.
    fn search(&self, lane: ProptestConfig, found: &AtomicBool) -> Option<Violation> {
        // Who has found one goes on, to make it smaller.
        let own = Cell::new(false);
        let judge = |scenario: Scenario| {
            if found.load(Ordering::Relaxed) && !own.get() {
                return Ok(());
            }
            self.judge(&scenario).inspect_err(|_| {
                own.set(true);
                found.store(true, Ordering::Relaxed);
            })
        };
        match TestRunner::new(lane).run(&scenarios(), judge) {
            Ok(()) => None,
            Err(TestError::Fail(reason, scenario)) => Some(Violation {
                what: reason.to_string(),
                scenario,
            }),
            Err(error) => panic!("{error}"),
        }
    }

    /// The object that it would load on `machine`, and what it writes into it.
    fn object(&self, machine: &Machine) -> (Vec<u8>, Written) {
        let mut written = self.written.lock().expect("no case panics while it asks");
        let known = written.entry(machine.name().to_owned());
        let (object, written) = known.or_insert_with(|| self.ask(machine)).clone();
        (self.object.clone().unwrap_or(object), written)
    }

    fn ask(&self, machine: &Machine) -> (Vec<u8>, Written) {
        let dir = tempfile::tempdir().expect("there is room for a directory");
        let (sys, object) = (dir.path().join("sys"), dir.path().join("object"));
        sysfs::write(machine, &sys).expect("there is room for a few files");
        let mut command = Command::new(&self.program);
        command.arg("--sysfs-root").arg(&sys);
        command.arg("--write-object").arg(&object);
        let output = command.output().expect("the scheduler can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", machine.name());
        let (object, written) = object::files(&object).expect("the scheduler wrote them");
        let read = |path: PathBuf| fs::read(path).expect("it can be read");
        let written = read(written.expect("the scheduler wrote both"));
        let written = serde_json::from_slice(&written);
        (read(object), written.expect("the scheduler wrote it"))
    }

    fn judge(&self, scenario: &Scenario) -> Result<(), TestCaseError> {
        let machine: Machine = scenario.machine.parse().expect("it is one of ours");
        let (bytes, written) = self.object(&machine);
        let types: Btf = btf::kernel(scenario.kernel).expect("it comes with this crate");
        let failed = |error: &dyn fmt::Display| TestCaseError::fail(error.to_string());
        let mut object =
            Object::load(&written.scheduler, &bytes, &types).map_err(|error| failed(&error))?;
        object.write(&written).map_err(|error| failed(&error))?;
        let workload = Workload::parse("random", &scenario.workload).expect("it is valid");
        let online = machine.online();
        let unplug = scenario.unplug.filter(|unplug| {
            online.contains(unplug.cpu) && online.weight() > 1 && unplug.at < workload.duration
        });
        let setup = Setup {
            kernel: scenario.kernel.parse().expect("it is a version"),
            pieces: scenario.cut,
            seed: scenario.seed,
            unplug,
            ..Setup::new(machine)
        };
        let simulation =
            Simulation::run(&object, &types, &workload, &setup).map_err(|error| failed(&error))?;
        match simulation.sim.exit() {
            Some(exit) if exit.code == ECODE_RESTART_HOTPLUG && unplug.is_some() => {}
            Some(exit) => return Err(TestCaseError::fail(format!("ejected: {exit}"))),
            None => prop_assert!(unplug.is_none(), "goes on without a CPU that it knows of"),
        }
        self.judge_run(&simulation, &workload, &written)
    }

    fn judge_run(
        &self,
        simulation: &Simulation,
        workload: &Workload,
        written: &Written,
    ) -> Result<(), TestCaseError> {
        let sim = &simulation.sim;
        let options = Options {
            policy: written.scheduler.clone(),
            slice_ns: written.slice_ns,
        };
        let report = || simulation.report(workload, &options);
        let lost = sim.totals().kicks_lost;
        prop_assert!(
            lost == 0,
            "a CPU that goes kicks {lost} times\n{}",
            report()
        );
        let lost_ns = sim.totals().longest_lost_ns;
        prop_assert!(
            lost_ns <= self.promises.idle_ns,
            "a task waits {lost_ns} ns beside an idle CPU\n{}",
            report()
        );
        let tasks = sim.tasks();
        let tasks: Vec<&TaskFigures> = tasks.iter().filter(|task| task.ext).collect();
        let turn_ns = written.slice_ns + TICK_NS;
        let roams = |task: &TaskFigures| {
            let group = &workload.groups[task.group as usize];
            matches!(group.kind, Kind::AffinityStorm { .. })
        };
        // Who goes from one CPU's queue to another's comes so far from its clock, and those who
        // have been there let it catch up, or it them.
        let lag_ns = 4 * written.slice_ns + 40_000_000;
        let roaming = tasks.iter().filter(|task| roams(task)).count() as u64;
        let weights: u64 = tasks.iter().map(|task| u64::from(task.weight)).sum();
        for task in &tasks {
            let turns: u64 = tasks
                .iter()
                .map(|other| u64::from(other.weight.div_ceil(task.weight)))
                .sum();
            // Both queues of a CPU, its own and the shared one, have turns.
            let mut bound_ns = 2 * (turns + 1) * turn_ns + roaming * lag_ns;
            if roams(task) {
                bound_ns += lag_ns * weights / u64::from(task.weight);
            }
            let wait_ns = task.stats.longest_wait_ns;
            prop_assert!(
                wait_ns <= bound_ns,
                "{} of weight {} waits {wait_ns} ns, over {bound_ns}\n{}",
                task.comm,
                task.weight,
                report()
            );
        }
        if self.promises.exact_shares && simulation.roster.groups.iter().all(|its| its.hogs) {
            self.judge_shares(simulation, &tasks, turn_ns, &report)?;
        }
        Ok(())
    }

    fn judge_shares(
        &self,
        simulation: &Simulation,
        tasks: &[&TaskFigures],
        turn_ns: u64,
        report: &dyn Fn() -> crate::report::Report,
    ) -> Result<(), TestCaseError> {
        let sim = &simulation.sim;
        let claims: Vec<Claim> = tasks.iter().map(|task| Claim::of(task)).collect();
        let elapsed_ns = sim.now_ns() - sim.measured_from_ns();
        let shares = feasible_shares(&claims, &sim.online());
        // A queue has one clock: where tasks compete in two parts of a machine it is wrong for one.
        let mut parts = tasks
            .iter()
            .zip(&shares)
            .filter(|(_, share)| **share < WHOLE_CPU)
            .map(|(task, _)| &task.allowed);
        if let Some(part) = parts.next()
            && parts.any(|other| other != part)
        {
            return Ok(());
        }
        for (task, share) in tasks.iter().zip(shares) {
            let lag_ns = task.stats.cpu_ns as f64 - share * elapsed_ns as f64;
            // Two at each end of the measured part.
            prop_assert!(
                lag_ns.abs() <= 4.0 * turn_ns as f64,
                "{} is {lag_ns:.0} ns from its share\n{}",
                task.comm,
                report()
            );
        }
        Ok(())
    }
}
