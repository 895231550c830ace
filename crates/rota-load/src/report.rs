// SPDX-License-Identifier: GPL-2.0-only
//! The result of a run, as it is printed with `--json` and read by the lab.
//!
//! Times of tasks are measured by the tasks themselves. Two terms need care:
//!
//! - **Wake-up latency** is the time from the moment a task became able to run (a
//!   timed sleep was due, a partner sent the wake-up, a child was forked) to its
//!   first instruction after it. A partner takes its time stamp just before the
//!   system call that wakes, so the call's own cost is part of the latency.
//!   Wake-ups of a task that was not asleep are not counted.
//! - **Longest gap** is the longest time for which a task wanted a CPU and was
//!   without one: the longest wake-up latency, or time off the CPU between two
//!   looks at the clock while it was running its pattern, whichever is longer. A
//!   sleep that the task asked for is no gap. A task that is still starved when
//!   the run ends counts with its gap up to the end of the run or later.

use serde::{Deserialize, Serialize};

/// The result of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the workload.
    pub workload: String,
    /// Seed of the run.
    pub seed: u64,
    /// Length of the measured part in seconds.
    pub seconds: f64,
    /// CPUs that the workload was allowed to use.
    pub cpus: u32,
    /// Last-level caches among them.
    pub llcs: u32,
    /// Whether a signal ended the run before its time.
    pub interrupted: bool,
    /// One entry for each group, in the order of the file.
    pub groups: Vec<GroupReport>,
    /// What went wrong during the run: a task that died or did not stop, a program
    /// that could not be executed. Empty in a good run.
    pub errors: Vec<String>,
    /// What the reader should know although nothing went wrong: a limit that a
    /// storm ran into, a CPU that went offline under a pinned task.
    pub notes: Vec<String>,
}

/// The result of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Its kind, as in the file.
    pub kind: String,
    /// Number of tasks, without the children of a storm.
    pub tasks: u32,
    /// Load weight of each task (1024 at nice 0), if weights decide under its policy.
    pub weight: Option<u32>,
    /// Seconds for which the group ran in the measured part.
    pub seconds: f64,
    /// CPU time used, children of a storm included.
    pub cpu_s: f64,
    /// CPUs' worth: `cpu_s / seconds`.
    pub share: f64,
    /// The same for each task.
    pub per_task_share: Vec<f64>,
    /// Operations done; what one is depends on the kind.
    pub ops: u64,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Wake-up latencies, if there was a wake-up.
    pub wakeup_us: Option<Latency>,
    /// Longest gap of any of its tasks, if the kind can tell.
    pub longest_gap_us: Option<f64>,
    /// The most CPU time that 0.1 ms of work took any of its tasks, warm-up included, if the kind can
    /// tell. No scheduler can make that long: a hypervisor or an emulator let the CPU stand still.
    pub longest_stall_us: Option<f64>,
    /// Context switches of its tasks.
    pub switches: u64,
    /// Those of them in which the task was still able to run.
    pub involuntary_switches: u64,
    /// Moves between CPUs.
    pub migrations: u64,
    /// Whence that number comes.
    pub migrations_source: MigrationsSource,
    /// Moves between last-level caches, as seen in samples.
    pub llc_moves: u64,
    /// Samples in which a task was seen on a CPU outside its affinity.
    pub outside_mask: u64,
    /// Frames late or dropped; for other kinds 0.
    pub misses: u64,
}

/// Where a count of migrations comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationsSource {
    /// The kernel's own count of each task.
    Kernel,
    /// Changes of the CPU between samples, a lower bound: this kernel does not
    /// show its count.
    Sampled,
}

/// A distribution of latencies in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Number of values.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
}

impl Report {
    /// The group called `name`.
    pub fn group(&self, name: &str) -> Option<&GroupReport> {
        self.groups.iter().find(|group| group.name == name)
    }
}
