// SPDX-License-Identifier: GPL-2.0-only
//! Schedules that nobody would think of, each from a seed, each to be had again.
//!
//! A [`Scenario`] says all that happens in one guest: machine, scheduler and options, a workload, and
//! what is done to them while it runs. [`draw`] makes one from a seed. The guest (`guest::fuzz`) acts
//! it out in virtual time, so that the same scenario is the same schedule to the last switch, and the
//! [`crate::oracles`] judge what they saw. [`shrink`] makes a scenario that fails smaller.

pub mod draw;
pub mod run;
pub mod shrink;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::vm::Clock;

/// All that happens in one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The scheduler, a binary in [`crate::job::BIN_DIR`].
    pub sched: String,
    /// The kernel, as [`crate::kernel::Spec`] reads it.
    pub kernel: String,
    /// The machine, as [`crate::topology::Topology`] reads it.
    pub topology: String,
    /// What the scenario was drawn from; also chooses the interleaving, and what the workload draws.
    pub seed: u64,
    /// Options of the scheduler.
    pub options: Vec<String>,
    /// The workload, as rota-load reads it.
    pub workload: String,
    /// Whether the workload begins before the scheduler does, and is taken over.
    pub load_first: bool,
    /// What is done, in order of time.
    pub acts: Vec<Act>,
}

/// Something that is done at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// Milliseconds from the moment at which both scheduler and workload run.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can be done to a machine, a scheduler, a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum What {
    /// A CPU goes offline.
    Offline {
        /// Its number.
        cpu: usize,
    },
    /// A CPU comes back.
    Online {
        /// Its number.
        cpu: usize,
    },
    /// A task may only use some CPUs from now on, those of them that it might use before.
    Confine {
        /// Its index among the tasks of the workload, counted round and round.
        task: usize,
        /// The CPUs.
        cpus: Vec<usize>,
    },
    /// A task gets another nice value.
    Renice {
        /// Its index among the tasks of the workload, counted round and round.
        task: usize,
        /// The value.
        nice: i32,
    },
    /// SIGHUP: the scheduler reads its options again.
    Hangup,
    /// The scheduler's process stands still for a while; the policy goes on.
    Freeze {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// SIGKILL, and a new scheduler once the kernel has taken over.
    Kill,
    /// Another scheduler is started, and refused.
    Second,
    /// SysRq-D: the kernel dumps the scheduler's state to its log.
    Dump,
}

/// An instruction takes 2^3 ns.
const SHIFT: u8 = 3;

impl Scenario {
    /// Its name: what `cargo xtask replay` takes.
    pub fn name(&self) -> String {
        format!(
            "{}-{}-{}-{}",
            self.sched, self.kernel, self.topology, self.seed
        )
        .replace([':', '/'], "-")
    }

    /// How time passes for it.
    pub fn clock(&self) -> Clock {
        Clock::Counted {
            shift: SHIFT,
            seed: self.seed,
        }
    }
}

/// What an oracle found to be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The oracle's name, one of [`crate::oracles::ALL`].
    pub oracle: String,
    /// What it saw.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.message)
    }
}

/// What a guest tells of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// What is wrong; nothing if all is well.
    pub violations: Vec<Violation>,
    /// A line of figures for the curious.
    pub figures: String,
    /// What the scheduler wrote to stderr: messages, the report of an ejection with its dump.
    pub words: Vec<String>,
    /// The kernel's sched_ext event counters.
    pub events: std::collections::BTreeMap<String, i64>,
    /// rota-load's report; only if something is wrong.
    pub report: Option<rota_load::report::Report>,
    /// The end of the kernel's trace of switches and wake-ups; only if something is wrong.
    pub trace: Vec<String>,
}
