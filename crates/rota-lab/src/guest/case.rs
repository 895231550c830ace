// SPDX-License-Identifier: GPL-2.0-only
//! What a lab case works with: the guest it runs in.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use rota_load::report::Report;
use serde_json::Value;

use super::kmsg::{self, Kmsg};
use super::load::Load;
use super::program::{Program, Progress};
use super::sched::Sched;
use super::{list, machine, scx};
use crate::job::Machine;

/// From a signal to the end of a scheduler, on a busy host.
pub const STOP_LIMIT: Duration = Duration::from_secs(20);

const CPUS: &str = "/sys/devices/system/cpu";

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The guest or the scheduler did not do what it should.
    Failed(String),
    /// There is nothing to see on this machine.
    Skipped(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Self {
        Self::Failed(message.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A passed case may tell the figures that it found; empty is fine.
pub type CaseResult = Result<String, Failure>;

/// Fails the case with a message unless a condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        // Of two numbers one of which is NaN, no comparison holds.
        let holds: bool = $condition;
        if !holds {
            return Err($crate::guest::Failure::Failed(format!($($message)+)));
        }
    };
}

/// The guest, seen by one case.
#[derive(Debug)]
pub struct Guest {
    sched: String,
    seed: u64,
    machine: Machine,
    online: Vec<usize>,
    log: Kmsg,
    seen: Vec<String>,
    tolerated: Vec<&'static str>,
}

impl Guest {
    /// A fresh view for one case with the scheduler binary `sched`.
    pub(super) fn new(sched: &str, seed: u64) -> io::Result<Self> {
        Ok(Self {
            sched: sched.to_owned(),
            seed,
            machine: machine(),
            online: online(),
            log: Kmsg::from_now()?,
            seen: Vec::new(),
            tolerated: Vec::new(),
        })
    }

    /// The machine at the start of the case.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The scheduler under test: its binary.
    pub fn sched_name(&self) -> &str {
        &self.sched
    }

    /// What the kernel shall call the loaded scheduler: policy and version.
    pub fn ops_name(&self) -> String {
        let policy = self.sched.strip_prefix("scx_").unwrap_or(&self.sched);
        format!("{policy}_{}", env!("CARGO_PKG_VERSION"))
    }

    /// Starts the scheduler under test and waits until it runs.
    pub fn start(&self, args: &[&str]) -> Result<Sched, Failure> {
        let sched = self.spawn(args)?;
        sched
            .wait_started()
            .map_err(|end| describe(&self.sched, "did not start", &end))?;
        Ok(sched)
    }

    /// Starts the scheduler under test without waiting for anything.
    pub fn spawn(&self, args: &[&str]) -> Result<Sched, Failure> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Ok(Sched::spawn(&self.sched, &args, None)?)
    }

    /// Runs the scheduler under test, which is expected to end by itself within `limit`.
    pub fn run_sched(&self, args: &[&str], limit: Duration) -> Result<Progress, Failure> {
        let sched = self.spawn(args)?;
        let end = sched.program().wait(limit);
        end.ok_or_else(|| describe(&self.sched, "did not end", &sched.program().progress()))
    }

    /// Stops a scheduler with SIGTERM, and checks that it goes in order.
    pub fn stop(&self, sched: &Sched) -> Result<Progress, Failure> {
        let end = sched
            .stop(Signal::SIGTERM, STOP_LIMIT)
            .ok_or("no end after SIGTERM")?;
        if end.code != Some(0) {
            return Err(describe(&self.sched, "ended badly after SIGTERM", &end));
        }
        self.wait_state("disabled")?;
        Ok(end)
    }

    /// Waits until sched_ext is in this state.
    pub fn wait_state(&self, wanted: &str) -> Result<(), Failure> {
        scx::wait_for(wanted, STOP_LIMIT)
            .map_err(|state| format!("sched_ext is {state} instead of {wanted}").into())
    }

    /// Runs a workload to its end: a name that rota-load knows, or a spec in TOML.
    pub fn load(&self, workload: &str, length: Duration) -> Result<Report, Failure> {
        Ok(self.start_load(workload, length)?.finish()?)
    }

    /// Starts a workload.
    pub fn start_load(&self, workload: &str, length: Duration) -> Result<Load, Failure> {
        if !workload.contains('\n') {
            return Ok(Load::start(workload, length, Some(self.seed))?);
        }
        // Another workload may be about to read its file.
        static SPECS: AtomicUsize = AtomicUsize::new(0);
        let file = format!(
            "/tmp/workload-{}.toml",
            SPECS.fetch_add(1, Ordering::Relaxed)
        );
        fs::write(&file, workload)?;
        Ok(Load::start(&file, length, Some(self.seed))?)
    }

    /// Runs a program to its end.
    pub fn run(&self, name: &str, args: &[&str], limit: Duration) -> Result<Progress, Failure> {
        let program = Program::start(name, args)?;
        let late = || format!("{name} is not done after {} s", limit.as_secs());
        Ok(program.wait(limit).ok_or_else(late)?)
    }

    /// Runs a program as the user nobody, who may do nothing special.
    pub fn run_as_nobody(
        &self,
        name: &str,
        args: &[&str],
        limit: Duration,
    ) -> Result<Progress, Failure> {
        use std::os::unix::process::CommandExt as _;
        const NOBODY: u32 = 65534;
        let mut command = std::process::Command::new(name);
        command.args(args).uid(NOBODY).gid(NOBODY);
        let program = Program::spawn(&mut command, None)?;
        let late = || format!("{name} is not done after {} s", limit.as_secs());
        Ok(program.wait(limit).ok_or_else(late)?)
    }

    /// CPUs that are online.
    pub fn online(&self) -> Vec<usize> {
        online()
    }

    /// Takes a CPU offline, or brings it back.
    pub fn set_online(&self, cpu: usize, online: bool) -> Result<(), Failure> {
        let file = format!("{CPUS}/cpu{cpu}/online");
        let value = if online { "1" } else { "0" };
        fs::write(&file, value)
            .map_err(|error| format!("writing {value} to {file}: {error}").into())
    }

    /// Lines of the kernel's log since the case started.
    pub fn kernel_log(&mut self) -> &[String] {
        self.seen.extend(self.log.lines());
        &self.seen
    }

    /// Trouble with this text in the kernel's log is what the case provokes.
    pub fn tolerate(&mut self, text: &'static str) {
        self.tolerated.push(text);
    }

    /// Puts back what a case may have left changed, and tells what should not be so.
    pub(super) fn tidy_up(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        if scx::exists() && scx::wait_for("disabled", STOP_LIMIT).is_err() {
            wrong.push(format!(
                "sched_ext is left {} ({})",
                scx::state(),
                scx::snapshot().ops
            ));
            // The only way to be rid of a scheduler whose process is out of reach.
            let _ = fs::write("/proc/sysrq-trigger", "S");
            let _ = scx::wait_for("disabled", STOP_LIMIT);
        }
        let now = online();
        for cpu in 0..self.machine.possible_cpus {
            let before = self.online.contains(&cpu);
            if before != now.contains(&cpu) && self.set_online(cpu, before).is_err() {
                wrong.push(format!("CPU {cpu} does not go back to where it was"));
            }
        }
        let tolerated = self.tolerated.clone();
        let trouble = kmsg::trouble(self.kernel_log());
        let unexpected = |line: &&String| !tolerated.iter().any(|text| line.contains(text));
        wrong.extend(
            trouble
                .iter()
                .filter(unexpected)
                .map(|line| format!("kernel log: {line}")),
        );
        wrong
    }
}

fn online() -> Vec<usize> {
    list(&fs::read_to_string(format!("{CPUS}/online")).unwrap_or_default())
}

/// What went wrong with a program, with its last words.
pub fn describe(name: &str, what: &str, progress: &Progress) -> Failure {
    let code = progress
        .code
        .map_or_else(|| "still running".into(), |code| format!("code {code}"));
    let words = progress
        .stderr
        .iter()
        .rev()
        .take(5)
        .rev()
        .cloned()
        .collect::<Vec<_>>();
    Failure::Failed(format!("{name} {what} ({code}): {}", words.join(" | ")))
}

/// A number in one of a scheduler's JSON lines; nothing when it is not there.
pub fn number(event: &Value, key: &str) -> Option<f64> {
    event.get(key)?.as_f64()
}
