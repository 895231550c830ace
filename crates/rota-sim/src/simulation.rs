// SPDX-License-Identifier: GPL-2.0-only
//! A whole run: a policy's object, a machine, a workload, and the report of what came of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rota_load::spec::{self, Workload};

use crate::bpf::{BpfPolicy, Pieces, StartError};
use crate::btf::Btf;
use crate::machine::Machine;
use crate::model::{Config, Constants, Costs, KernelVersion, Sim};
use crate::object::Object;
use crate::report::{self, Options, Report};
use crate::workload::{Roster, WorkloadError, populate};

/// What a run is made of besides the object and the workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The machine.
    pub machine: Machine,
    /// Whose behaviour the core has.
    pub kernel: KernelVersion,
    /// How long things take.
    pub costs: Costs,
    /// Where callbacks are cut.
    pub pieces: Pieces,
    /// Which of many interleavings.
    pub seed: u64,
    /// Whether a CPU goes offline.
    pub unplug: Option<Unplug>,
    /// Whether to keep every record of the trace.
    pub keep_trace: bool,
}

/// A CPU goes offline. Written `300ms:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unplug {
    /// How long after the measured part has begun.
    pub at: Duration,
    /// Which.
    pub cpu: u32,
}

impl fmt::Display for Unplug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", spec::format_duration(self.at), self.cpu)
    }
}

impl FromStr for Unplug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at, cpu) = text.split_once(':').ok_or("no `:` in it")?;
        Ok(Self {
            at: spec::parse_duration(at)?,
            cpu: cpu.parse().map_err(|_| format!("{cpu} is no CPU"))?,
        })
    }
}

impl Setup {
    /// The latest kernel on `machine`, with default costs and seed 1.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            kernel: KernelVersion::V7_3,
            costs: Costs::default(),
            pieces: Pieces::default(),
            seed: 1,
            unplug: None,
            keep_trace: false,
        }
    }
}

/// Why a run cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// The object does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The workload does not fit the machine.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// There is no such CPU to go offline.
    #[error("CPU {0} is not online: none can go offline")]
    Unplug(u32),
}

/// A run that is over.
pub struct Simulation {
    /// The machine, the tasks and the policy, as they are at the end.
    pub sim: Sim,
    /// The policy's variables and maps.
    pub policy: BpfPolicy,
    /// The tasks by group.
    pub roster: Roster,
}

impl Simulation {
    /// Run `workload` under `object`, which was loaded for the kernel that `btf` is of,
    /// to its end or that of the policy.
    ///
    /// # Errors
    /// The object does not start there, or the workload does not fit the machine. That
    /// the policy is ended by the kernel is no error of the run: the report tells it.
    pub fn run(
        object: &Object,
        btf: &Btf,
        workload: &Workload,
        setup: &Setup,
    ) -> Result<Self, SimulationError> {
        if let Some(Unplug { cpu, .. }) = setup.unplug
            && !setup.machine.online().contains(cpu)
        {
            return Err(SimulationError::Unplug(cpu));
        }
        let nr_cpus = setup.machine.nr_cpu_ids();
        let policy = BpfPolicy::new(object, btf, nr_cpus, setup.pieces)?;
        let config = Config {
            machine: setup.machine.clone(),
            constants: Constants::of(setup.kernel),
            costs: setup.costs.clone(),
            seed: setup.seed,
            keep_trace: setup.keep_trace,
        };
        let mut sim = Sim::new(&config, Box::new(policy.clone()));
        let roster = populate(&mut sim, workload)?;
        report::set_ideals(&mut sim, &roster);
        if sim.run_until(roster.begin_ns).is_none() {
            sim.begin_measuring();
            if let Some(Unplug { at, cpu }) = setup.unplug {
                let at_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
                sim.hotplug_at(roster.begin_ns.saturating_add(at_ns), cpu, false);
            }
            sim.run_until(roster.end_ns);
        }
        Ok(Self {
            sim,
            policy,
            roster,
        })
    }

    /// What came of it.
    pub fn report(&self, workload: &Workload, options: &Options) -> Report {
        report::report(&self.sim, &self.roster, &workload.name, options)
    }
}
