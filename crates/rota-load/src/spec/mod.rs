// SPDX-License-Identifier: GPL-2.0-only
//! The workload format.
//!
//! A workload is a TOML file with a few keys for the whole and one `[[group]]`
//! for each set of equal tasks. [`Workload::parse`] reads it and names the place
//! of the first mistake; [`Workload::to_toml`] writes it back, so that a tool
//! which shrinks or generates workloads can hand over a file. The keys of each
//! kind of group are described at [`Kind`] and in the crate's README.

mod cpus;
mod jitter;
mod read;
mod time;
mod write;

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

pub use cpus::CpuList;
pub use jitter::Jitter;
pub use read::{DURATION, WARMUP};
pub use time::{format_duration, parse_duration};

/// A workload file larger than this is refused before it is read.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Most groups in one workload.
pub const GROUPS_MAX: usize = 64;
/// Most tasks in one workload, once counts per CPU are multiplied out.
pub const TASKS_MAX: u32 = 16_384;
/// Longest group name: the kernel keeps 15 bytes of a task's name, and tasks are
/// named after their group so that a scheduler's messages can be traced to it.
pub const GROUP_NAME_MAX: usize = 15;

/// Why a workload could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The text is wrong at a known place.
    #[error("{file}:{line}:{column}: {message}")]
    Invalid {
        /// Name of the file, as the user gave it.
        file: String,
        /// Line, counted from 1.
        line: usize,
        /// Column in characters, counted from 1.
        column: usize,
        /// What is wrong: the key, what was found, what is allowed.
        message: String,
    },
    /// The file could not be read at all.
    #[error("{file}: {reason}")]
    Unreadable {
        /// Name of the file, as the user gave it.
        file: String,
        /// What prevented it, and what is expected.
        reason: String,
    },
}

/// A whole workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Short name, `a-z 0-9 -`.
    pub name: String,
    /// One or two sentences for the reader.
    pub description: String,
    /// How long the measured part lasts unless the user says otherwise.
    pub duration: Duration,
    /// Time before the measured part during which tasks already run.
    pub warmup: Duration,
    /// Seed of every random decision.
    pub seed: u64,
    /// The groups, in the order of the file.
    pub groups: Vec<Group>,
}

/// A set of equal tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Unique name; also the name (`comm`) of its tasks.
    pub name: String,
    /// What its tasks do.
    pub kind: Kind,
    /// How many units: tasks, or pairs (`pipe`), or sets (`messaging`).
    pub count: Count,
    /// Whether its tasks are threads of one process or processes.
    pub tasks: Tasks,
    /// Nice value, -20..=19.
    pub nice: i8,
    /// Scheduling policy.
    pub policy: Policy,
    /// Where its tasks may run.
    pub affinity: Affinity,
    /// When its tasks begin, counted from the start of the measured part; a
    /// group that starts at 0 also runs during the warm-up.
    pub start: Duration,
    /// When its tasks end; `None` is the end of the run.
    pub stop: Option<Duration>,
}

/// What the tasks of a group do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Run, then sleep, for ever; without a sleep a hog. An operation is one turn.
    Loop(Loop),
    /// Pairs of tasks that send a word to and fro through two pipes. An operation
    /// is one round trip.
    Pipe,
    /// Sets of senders and receivers, every sender writing to every receiver in
    /// turn through stream sockets. An operation is one message received.
    Messaging {
        /// Senders in a set.
        senders: u32,
        /// Receivers in a set, each with a socket of its own.
        receivers: u32,
        /// Size of a message.
        bytes: u32,
    },
    /// Processes that fork children as fast as they can. An operation is one
    /// child that ended.
    ForkStorm {
        /// Most children of one task at a time.
        outstanding: u32,
        /// CPU time that each child uses before it exits.
        run: Duration,
    },
    /// As [`Kind::ForkStorm`], but each child executes a program that exits.
    ExecStorm {
        /// Most children of one task at a time.
        outstanding: u32,
    },
    /// Tasks that run and then change an affinity, for ever. An operation is one
    /// change.
    AffinityStorm {
        /// CPU time between two changes.
        run: Duration,
        /// Whose affinity they change.
        target: Target,
    },
    /// Tasks with a frame to finish in every period. An operation is a frame
    /// finished; a frame that is late or dropped is a miss.
    Frame {
        /// Time between two frames.
        period: Duration,
        /// CPU time that a frame needs.
        work: Duration,
        /// Random variation of `work` in percent.
        jitter_pct: u32,
    },
    /// Tasks that wake once in every period and do nothing else: their longest
    /// gap shows how long the scheduler kept a light task waiting.
    Probe {
        /// Time between two wake-ups.
        period: Duration,
    },
}

/// The pattern of a [`Kind::Loop`] task: wait for the token if there is a ring,
/// run, yield, pass the token on, sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// CPU time of one turn.
    pub run: Duration,
    /// Sleep after a turn; zero for none.
    pub sleep: Duration,
    /// Random variation of `run` and `sleep` in percent.
    pub jitter_pct: u32,
    /// Whether the tasks form a ring in which each wakes the next.
    pub wake_next: bool,
    /// Tokens in the ring: tasks that may run at the same time.
    pub tokens: u32,
    /// Whether to call `sched_yield` after each run.
    pub yields: bool,
}

/// How many units a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// That many.
    Fixed(u32),
    /// That many for each CPU that the workload may use.
    PerCpu(u32),
}

/// What a task is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tasks {
    /// Threads of one process.
    Threads,
    /// A process each.
    Processes,
}

/// Scheduling policy of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// `SCHED_OTHER`.
    Other,
    /// `SCHED_BATCH`.
    Batch,
    /// `SCHED_IDLE`.
    Idle,
    /// `SCHED_FIFO` with a priority.
    Fifo(u8),
    /// `SCHED_RR` with a priority.
    Rr(u8),
    /// `SCHED_EXT`: run by a sched_ext scheduler even in partial mode.
    Ext,
}

/// Where the tasks of a group may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Wherever the workload may.
    All,
    /// On these CPUs.
    Cpus(CpuList),
    /// Task `i` on the `i`-th CPU that the workload may use, round and round.
    OneEach,
    /// On the CPUs of the last-level cache with this index.
    Llc(u32),
}

/// Whose affinity the tasks of an affinity storm change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Their own; the kernel must then have moved them when the call returns.
    Own,
    /// That of a random task of the group.
    Group,
}

impl Workload {
    /// Reads a workload from text; `file` is the name used in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, SpecError> {
        read::workload(file, text)
    }

    /// Reads a workload from a regular file of at most [`FILE_BYTES_MAX`] bytes.
    pub fn load(path: &Path) -> Result<Self, SpecError> {
        let file = path.display().to_string();
        let unreadable = |reason: String| SpecError::Unreadable {
            file: file.clone(),
            reason,
        };
        // The kind is asked for before opening: opening a FIFO would block.
        let kind = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
        if !kind.is_file() {
            return Err(unreadable(
                "not a regular file; give the path of a TOML file".into(),
            ));
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|e| unreadable(e.to_string()))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(unreadable(format!(
                "larger than {FILE_BYTES_MAX} bytes, the limit"
            )));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&file, &text),
            Err(e) => {
                let valid = e.utf8_error().valid_up_to();
                let head = String::from_utf8_lossy(&e.as_bytes()[..valid]).into_owned();
                let message = "not UTF-8 here; a workload is UTF-8 text".to_owned();
                Err(read::invalid(&file, &head, valid, message))
            }
        }
    }

    /// Writes the workload as TOML that [`Workload::parse`] reads back unchanged.
    pub fn to_toml(&self) -> String {
        write::workload(self)
    }

    /// How many tasks it has on a machine where it may use `cpus` CPUs.
    pub fn tasks(&self, cpus: u32) -> u64 {
        self.groups.iter().map(|group| group.task_count(cpus)).sum()
    }
}

impl Group {
    /// How many tasks it has where the workload may use `cpus` CPUs; children of a
    /// storm are not counted.
    pub fn task_count(&self, cpus: u32) -> u64 {
        let units = u64::from(self.count.resolve(cpus));
        match self.kind {
            Kind::Pipe => 2 * units,
            Kind::Messaging {
                senders, receivers, ..
            } => units * (u64::from(senders) + u64::from(receivers)),
            _ => units,
        }
    }

    /// The load weight that the kernel gives each of its tasks (1024 at nice 0),
    /// or `None` where weights do not decide.
    pub fn weight(&self) -> Option<u32> {
        match self.policy {
            Policy::Other | Policy::Batch | Policy::Ext => Some(nice_weight(self.nice)),
            Policy::Idle => Some(3),
            Policy::Fifo(_) | Policy::Rr(_) => None,
        }
    }
}

/// The kernel's load weight of a nice value: 1024 at 0, about a quarter more for
/// each step down.
///
/// The kernel's table is not an exact power, so it is repeated here.
pub fn nice_weight(nice: i8) -> u32 {
    const WEIGHTS: [u32; 40] = [
        88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100,
        4904, 3906, 3121, 2501, 1991, 1586, 1277, 1024, 820, 655, 526, 423, 335, 272, 215, 172,
        137, 110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
    ];
    let index = i32::from(nice.clamp(-20, 19)) + 20;
    WEIGHTS[usize::try_from(index).expect("nice is clamped to -20..=19")]
}

impl Count {
    /// The number of units where the workload may use `cpus` CPUs.
    pub fn resolve(self, cpus: u32) -> u32 {
        match self {
            Count::Fixed(count) => count,
            Count::PerCpu(count) => count.saturating_mul(cpus.max(1)),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Other => "other",
            Policy::Batch => "batch",
            Policy::Idle => "idle",
            Policy::Fifo(_) => "fifo",
            Policy::Rr(_) => "rr",
            Policy::Ext => "ext",
        })
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Affinity::All => f.write_str("all"),
            Affinity::Cpus(cpus) => cpus.fmt(f),
            Affinity::OneEach => f.write_str("one-each"),
            Affinity::Llc(index) => write!(f, "llc:{index}"),
        }
    }
}

impl Kind {
    /// The name of the kind in a workload file.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Loop(_) => "loop",
            Kind::Pipe => "pipe",
            Kind::Messaging { .. } => "messaging",
            Kind::ForkStorm { .. } => "fork-storm",
            Kind::ExecStorm { .. } => "exec-storm",
            Kind::AffinityStorm { .. } => "affinity-storm",
            Kind::Frame { .. } => "frame",
            Kind::Probe { .. } => "probe",
        }
    }
}
