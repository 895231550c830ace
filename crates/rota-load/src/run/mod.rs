// SPDX-License-Identifier: GPL-2.0-only
//! Runs a workload on this machine.
//!
//! The controller (the calling thread) makes all tasks, lets them start at one
//! moment, sleeps until the end, and collects their results. Tasks keep their own
//! figures and know their own deadline, so that a run ends in time and truthfully
//! even if the scheduler under test starves the controller.

mod counters;
mod crew;
mod machine;
mod plan;
mod roles;
mod spin;
mod summary;
mod sys;
mod table;
mod task;

use std::ffi::CString;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::report::Report;
use crate::spec::Workload;
use crew::{Crew, Signals};
use machine::Machine;
use plan::Plan;
use spin::Spinner;
use sys::SharedArray;
use task::Stage;

pub use table::table;

/// How to run a workload.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of the measured part.
    pub duration: Duration,
    /// Length of the part before it.
    pub warmup: Duration,
    /// Seed of every random decision.
    pub seed: u64,
    /// How long a task may take to stop before it is given up.
    pub grace: Duration,
    /// Program and arguments that an exec storm executes; it should exit at once.
    pub exec: Vec<CString>,
}

/// Why a workload could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The workload does not fit this machine.
    #[error("{0}")]
    Workload(String),
    /// The machine cannot do what the workload asks, or does not permit it.
    #[error("{0}")]
    Machine(String),
    /// A signal came before the tasks had started.
    #[error("interrupted before the workload started")]
    Interrupted,
    /// A system call failed that usually does not.
    #[error("{what}: {source}")]
    System {
        /// What was to be done.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Options {
    /// The options that the workload itself asks for.
    pub fn of(workload: &Workload, exec: Vec<CString>) -> Self {
        Self {
            duration: workload.duration,
            warmup: workload.warmup,
            seed: workload.seed,
            grace: Duration::from_secs(10),
            exec,
        }
    }
}

/// Runs `workload` to its end, or until SIGINT, SIGTERM or SIGHUP, and reports.
///
/// `ready` is called with the number of tasks once they all have their places and may begin.
pub fn run(
    workload: &Workload,
    options: &Options,
    ready: impl FnOnce(usize),
) -> Result<Report, RunError> {
    let system = |what: &'static str| {
        move |e: nix::errno::Errno| RunError::System {
            what: what.to_owned(),
            source: e.into(),
        }
    };
    let signals = Signals::take().map_err(system("cannot take signals over"))?;
    let allowed = sys::affinity().map_err(system("cannot read the own affinity"))?;
    let machine = Machine::discover(allowed, Path::new("/sys"));
    raise_file_limit();
    let plan = Plan::new(workload, &machine, options)?;
    let groups = plan.groups.clone();
    sys::prepare_interrupts().map_err(system("cannot install a signal handler"))?;
    let (results, inbox) = UnixDatagram::pair().map_err(|source| RunError::System {
        what: "cannot make a socket".into(),
        source,
    })?;
    let memory = system("cannot share memory");
    let stage = Arc::new(Stage {
        control: SharedArray::new(1).map_err(memory)?,
        slots: SharedArray::new(plan.assignments.len()).map_err(memory)?,
        machine,
        results,
        spinner: Spinner::calibrate(),
        seed: options.seed,
        warmup_ns: options.warmup.as_nanos() as u64,
    });
    let as_process: Vec<_> = workload.groups.iter().map(plan::as_processes).collect();
    let mut crew = Crew::assemble(Arc::clone(&stage), inbox, plan, &as_process, &signals)?;
    ready(stage.slots.len());
    let (start_ns, interrupted) = crew.run(options.warmup + options.duration, &signals)?;
    crew.collect(options.grace, &signals)?;
    Ok(summary::report(
        workload,
        &stage,
        &crew,
        &groups,
        start_ns,
        interrupted,
    ))
}

/// Pipes and sockets need many descriptors; a failure shows where they run out.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
