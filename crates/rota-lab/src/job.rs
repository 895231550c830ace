// SPDX-License-Identifier: GPL-2.0-only
//! What the host asks of a guest, and what the guest tells while it does it.
//!
//! The [`Job`] travels in the initramfs as `/rota/job.json`. The guest answers on its second
//! serial port with one JSON [`Event`] per line, the last of them [`Event::Exited`]. The host may
//! send [`Input`] lines the other way.

use std::borrow::Cow;
use std::collections::BTreeMap;

use rota_load::report::Report;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fuzz::{Scenario, Verdicts};

/// Where the job lies in the guest.
pub const JOB_PATH: &str = "/rota/job.json";

/// Where the programs under test lie in the guest; first on its `PATH`.
pub const BIN_DIR: &str = "/rota/bin";

/// What a guest is booted for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    /// Run one command.
    Exec(Exec),
    /// Run a workload under the kernel's own scheduler and under others, in turn.
    Compare(Compare),
    /// Run lab cases for one scheduler.
    Cases(Cases),
    /// Measure what a scheduler costs.
    Cost(Cost),
    /// Act a scenario out, and judge it.
    Fuzz(Scenario),
}

/// Run one command and pass on its output and exit code.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; the program is looked up on the guest's `PATH`.
    pub argv: Vec<String>,
    /// Pass [`Input`] on to the command; without it its stdin is empty.
    #[serde(default)]
    pub stdin: bool,
    /// Give the command a terminal of this size instead of pipes; all output is then stdout.
    #[serde(default)]
    pub tty: Option<TtySize>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// Run one workload under the kernel's own scheduler and under each contender, round after round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Compare {
    /// The schedulers besides the kernel's own, each with another name.
    pub contenders: Vec<Contender>,
    /// How often all of them run.
    pub rounds: u32,
    /// A workload that rota-load knows by name, or the path of a file in the guest.
    pub workload: String,
    /// How long each run lasts.
    pub seconds: f64,
}

/// A scheduler that takes part in a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    /// Its binary in [`BIN_DIR`].
    pub name: String,
    /// Options for it.
    #[serde(default)]
    pub args: Vec<String>,
    /// Set for one that is not Rota's: it prints no JSON, so the kernel alone says how it fares.
    #[serde(default)]
    pub foreign: Option<Foreign>,
}

/// What a scheduler from elsewhere needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Where its shared libraries are in the guest.
    pub library_dirs: Vec<String>,
}

/// Run lab cases one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cases {
    /// The scheduler under test, a binary in [`BIN_DIR`].
    pub sched: String,
    /// Names from [`crate::cases::ALL`], run in this order.
    pub names: Vec<String>,
    /// Chooses when a case begins between two ticks, and what its workloads draw by lot. In virtual
    /// time all else follows from these, so each seed is another interleaving.
    pub seed: u64,
}

/// Measure what one scheduler costs, in a guest with one CPU online where an instruction takes a
/// nanosecond.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Its binary in [`BIN_DIR`]; nothing for the kernel's own scheduler.
    pub sched: Option<String>,
}

/// One line from the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// User space is up, the job starts.
    Booted(Machine),
    /// Nothing new, but the guest lives.
    Alive {
        /// Seconds since the guest's kernel started.
        uptime_s: f64,
    },
    /// The command, or the scheduler of a comparison, wrote something.
    Output {
        /// To which stream.
        stream: Stream,
        /// What.
        text: Bytes,
    },
    /// The last [`Input`] has arrived where it belongs; the next may be sent.
    InputTaken,
    /// A comparison enters its next phase.
    Phase {
        /// Which one.
        phase: Phase,
        /// In which round, from 0.
        round: u32,
        /// The scheduler; empty for the kernel's own.
        sched: String,
        /// How long it is meant to last; 0 when that is not known.
        seconds: f64,
    },
    /// A line of stats from the running scheduler, as it printed it.
    Stats {
        /// Seconds since the scheduler attached.
        uptime_s: f64,
        /// Totals since the scheduler attached.
        counters: BTreeMap<String, f64>,
    },
    /// The scheduler whose cost is wanted did not start.
    SchedFailed {
        /// Its exit code, or 128 + the signal that ended it.
        code: i32,
        /// What it wrote to stderr.
        stderr: Vec<String>,
    },
    /// One run of a comparison is over.
    Ran(Box<Ran>),
    /// What a scheduler costs.
    Costs(Costs),
    /// What came of a scenario.
    Judged(Box<Verdicts>),
    /// A lab case starts.
    CaseStarted {
        /// Its name.
        name: String,
    },
    /// A lab case is over.
    CaseResult {
        /// Its name.
        name: String,
        /// How it went.
        outcome: CaseOutcome,
        /// Why it failed or was skipped; for a passed one the figures it reports, if any.
        message: String,
        /// How long it took.
        seconds: f64,
    },
    /// The guest cannot do the job at all.
    Failed {
        /// What is wrong.
        message: String,
    },
    /// Told by the host itself: the guest fell over for a reason that is not the scheduler's, and
    /// is started again from the beginning. Forget what it has told so far.
    Retrying {
        /// What happened.
        reason: String,
    },
    /// The job is over, the guest goes down.
    Exited {
        /// The job's exit code: the command's, the scheduler's, or 1 when a case failed.
        code: i32,
    },
}

/// The longest input, in bytes; its line, even of bytes that are no text, fits into the guest's
/// terminal buffer, which drops what it cannot hold.
pub const INPUT_MAX: usize = 512;

/// One line to the guest. The first may be sent once the guest has booted, each further one after
/// [`Event::InputTaken`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Input {
    /// Something for the command's stdin.
    Stdin {
        /// The bytes.
        text: Bytes,
    },
    /// Nothing more will come on stdin.
    StdinEnd,
}

/// An output stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// The phases of a run in a comparison; the kernel's own scheduler has only the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The workload runs under the kernel's own scheduler.
    Kernel,
    /// The scheduler loads and attaches.
    Attach,
    /// The workload runs under it.
    Sched,
    /// The scheduler detaches.
    Detach,
}

/// How a lab case went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseOutcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// It has nothing to say about this machine.
    Skipped,
}

/// The guest as its kernel sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// CPUs online.
    pub cpus: usize,
    /// CPUs that may ever be online.
    pub possible_cpus: usize,
    /// Last-level caches.
    pub llcs: usize,
    /// NUMA nodes with CPUs.
    pub nodes: usize,
    /// Threads per core.
    pub smt: usize,
    /// This kernel knows sched_ext.
    pub sched_ext: bool,
}

/// What `/sys/kernel/sched_ext` says at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedState {
    /// `disabled`, `enabling`, `enabled` or `disabling`; `absent` without sched_ext.
    pub state: String,
    /// The name of the loaded scheduler, empty without one.
    pub ops: String,
    /// How often a scheduler was enabled since boot.
    pub enable_seq: u64,
    /// Tasks that a scheduler refused.
    pub nr_rejected: u64,
    /// All tasks of the fair class are moved over.
    pub switch_all: bool,
}

/// What one run of a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// The scheduler's binary; empty for the kernel's own, which fills in nothing but `round`,
    /// `report`, `state_before` and `kernel_trouble`.
    pub sched: String,
    /// In which round, from 0.
    pub round: u32,
    /// What went wrong, in one line; nothing when the report is what the scheduler achieved.
    pub failed: Option<String>,
    /// The kernel has said that the scheduler runs.
    pub attached: bool,
    /// Its own "started" line; null from a foreign one.
    pub started: Value,
    /// rota-load's report.
    pub report: Option<Report>,
    /// The scheduler's counters at its end, if it was asked for stats.
    pub counters: BTreeMap<String, f64>,
    /// The kernel's sched_ext event counters, empty on kernels without them.
    pub events: BTreeMap<String, i64>,
    /// The scheduler's own "exit" line; null when it wrote none.
    pub exit: Value,
    /// The scheduler's exit code, or 128 + the signal that ended it.
    pub exit_code: i32,
    /// What the scheduler wrote to stderr.
    pub stderr: Vec<String>,
    /// sched_ext before the scheduler started.
    pub state_before: SchedState,
    /// sched_ext when it had attached.
    pub state_during: SchedState,
    /// sched_ext after it ended.
    pub state_after: SchedState,
    /// Lines of the kernel log that tell of trouble.
    pub kernel_trouble: Vec<String>,
    /// From the request to stop to the scheduler's end.
    pub detach_ms: f64,
    /// From the scheduler's start to the moment when the kernel ran it.
    pub attach_ms: f64,
}

/// What a scheduler costs. An operation is what rota-load counts, with all that the kernel does for
/// it, ticks included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Instructions for a round trip of a byte through two pipes: two wake-ups, two switches.
    pub pipe: f64,
    /// Instructions for a message of a sender in a crowd of them.
    pub messaging: f64,
    /// Instructions for a call of each BPF program of the scheduler, kfuncs included, while both of
    /// these run. The names are those of the programs, without the policy's prefix.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub callbacks: BTreeMap<String, f64>,
    /// How many calls each of these is the mean of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub calls: BTreeMap<String, u64>,
    /// Milliseconds (10^6 instructions, or idle time) from the scheduler's start to its "started"
    /// line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_ms: Option<f64>,
    /// Milliseconds from SIGTERM to the scheduler's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detach_ms: Option<f64>,
}

/// Bytes that are nearly always text: a JSON string where they are UTF-8, else a list of numbers,
/// so that nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// Valid UTF-8.
    Text(String),
    /// Anything else.
    Raw(Vec<u8>),
}

impl Bytes {
    /// The bytes themselves.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Raw(bytes) => bytes,
        }
    }

    /// The bytes as text, with replacement characters where they are none.
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Raw(bytes.to_vec()),
        }
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_events_survive_the_wire() {
        let job = Job::Compare(Compare {
            contenders: vec![Contender {
                name: "scx_fifo".into(),
                args: vec!["--slice-us".into(), "5000".into()],
                foreign: None,
            }],
            rounds: 1,
            workload: "mixed".into(),
            seconds: 2.5,
        });
        let text = serde_json::to_string(&job).unwrap();
        assert!(
            text.starts_with(r#"{"job":"compare","contenders":[{"name":"scx_fifo""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);

        let event = Event::Booted(Machine {
            cpus: 4,
            ..Machine::default()
        });
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.starts_with(r#"{"event":"booted","#), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn bytes_that_are_no_text_survive_the_wire() {
        for bytes in [
            &b"plain\n"[..],
            "gr\u{fc}n".as_bytes(),
            b"\xff\x00half \xc3",
        ] {
            let event = Event::Output {
                stream: Stream::Stdout,
                text: bytes.into(),
            };
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n'));
            let Event::Output { text, .. } = serde_json::from_str(&line).unwrap() else {
                panic!("another event came back");
            };
            assert_eq!(text.as_bytes(), bytes);
        }
    }

    #[test]
    fn exec_needs_only_its_command() {
        let job: Job = serde_json::from_str(r#"{"job":"exec","argv":["true"]}"#).unwrap();
        assert_eq!(
            job,
            Job::Exec(Exec {
                argv: vec!["true".into()],
                ..Exec::default()
            })
        );
    }
}
