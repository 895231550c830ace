// SPDX-License-Identifier: GPL-2.0-only
//! One guest in which a workload runs under several schedulers in turn.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use rota_lab::job::{self, Contender, Event, Job, Machine, Ran};
use rota_lab::kernel::Kernel;
use rota_lab::topology::Topology;
use rota_lab::vm::{Clock, Outcome, Vm};

use super::results::KERNEL_SCHED;
use crate::ui::{self, Task};

/// What is compared, and where.
pub struct Guest<'a> {
    pub kernel: &'a Kernel,
    pub topology: &'a Topology,
    /// What the guest has on its `PATH`.
    pub programs: &'a [PathBuf],
    /// More files, by their names in the guest.
    pub files: Vec<(String, PathBuf)>,
    pub contenders: Vec<Contender>,
    pub rounds: u32,
    /// As the guest knows it.
    pub workload: String,
    /// How long each run lasts.
    pub seconds: f64,
    pub clock: Clock,
}

impl Guest<'_> {
    /// Boots it and waits for its end; `dir` is for its files.
    pub fn run(self, dir: &Path) -> Result<(Found, Outcome)> {
        let schedulers = self.contenders.iter().map(|one| one.name.clone());
        let schedulers: Vec<String> = schedulers.collect();
        let job = Job::Compare(job::Compare {
            contenders: self.contenders,
            rounds: self.rounds,
            workload: self.workload,
            seconds: self.seconds,
        });
        let mut vm = Vm::new(self.kernel, self.topology, self.programs, &job, dir);
        vm.files = self.files;
        vm.clock = self.clock;
        let runs = self.rounds * (u32::try_from(schedulers.len()).unwrap_or(u32::MAX - 1) + 1);
        // Loading takes up to half a minute where the host is slow, and counted time up to four
        // times as long as the host's.
        vm.limits.total = (Duration::from_secs_f64(self.seconds * 4.0) + Duration::from_secs(60))
            * runs
            + Duration::from_secs(300);
        let mut live = Live::new(&self.kernel.release, self.rounds, runs);
        let outcome = vm.run(&mut |event| live.take(event))?;
        let mut found = live.finish();
        found.schedulers = schedulers;
        Ok((found, outcome))
    }
}

/// What a comparison found.
#[derive(Default)]
pub struct Found {
    /// The guest.
    pub machine: Machine,
    /// All but the kernel's own, in the order of the command line.
    pub schedulers: Vec<String>,
    /// In the order in which they ended.
    pub runs: Vec<Ran>,
    /// The run that was started last, as the user reads it.
    pub latest: String,
}

/// Follows a comparison while it runs.
struct Live {
    kernel: String,
    rounds: u32,
    runs: u32,
    task: Task,
    found: Found,
}

impl Live {
    fn new(kernel: &str, rounds: u32, runs: u32) -> Self {
        Self {
            kernel: kernel.to_owned(),
            rounds,
            runs,
            task: ui::spinner(format!("booting Linux {kernel}")),
            found: Found::default(),
        }
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Booted(machine) => {
                self.found.machine = machine.clone();
                let label = "comparing";
                let task = std::mem::replace(&mut self.task, ui::bar(label, self.runs.into()));
                task.done("");
            }
            Event::Phase {
                phase: job::Phase::Kernel | job::Phase::Attach,
                round,
                sched,
                ..
            } => {
                let name = if sched.is_empty() {
                    KERNEL_SCHED
                } else {
                    sched
                };
                let (round, rounds) = (round + 1, self.rounds);
                self.task.tell(format!("round {round}/{rounds}: {name}"));
                self.found.latest = format!("{name} (round {round}): ");
            }
            Event::Ran(run) => {
                self.found.runs.push((**run).clone());
                self.task.reach(self.found.runs.len() as u64);
            }
            Event::Retrying { reason } => {
                self.task.print(format!("starting again: {reason}"));
                self.found = Found::default();
                self.task = ui::spinner(format!("booting Linux {}", self.kernel));
            }
            _ => {}
        }
    }

    fn finish(self) -> Found {
        self.task.done("");
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_forgets_what_was_found() {
        let mut live = Live::new("7.3.4", 5, 10);
        live.take(&Event::Booted(Machine::default()));
        live.take(&Event::Ran(Box::default()));
        live.take(&Event::Retrying {
            reason: "Oops: int3".into(),
        });
        live.take(&Event::Ran(Box::default()));
        assert_eq!(live.finish().runs.len(), 1);
    }
}
