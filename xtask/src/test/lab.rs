// SPDX-License-Identifier: GPL-2.0-only
//! The lab's part of `cargo xtask test`: chooses the cells, and follows the test program that boots
//! them, `crates/rota-lab/tests/lab.rs`.

use std::path::PathBuf;

use anyhow::Result;
use rota_lab::arch::Arch;
use rota_lab::kernel::Spec;
use rota_lab::matrix::Settings;

use super::cargo;
use super::tally::Counts;
use crate::build_all::Program;
use crate::context::Context;
use crate::setup::Toolchain;
use crate::step;
use crate::ui::Task;

/// Which cells and cases of the lab run.
#[derive(clap::Args, Debug)]
#[group(id = "selection")]
pub struct Selection {
    /// Also on the other kernels, two NUMA nodes, LLCs of unequal size, strong and weak CPUs, and the kernels on which a scheduler must refuse to start; and the cases that take minutes
    #[arg(long)]
    full: bool,
    /// Only on this kernel; repeat for more
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<String>,
    /// Only on this machine (2x2x2, numa:2x2x1, hybrid:2+2); repeat for more
    #[arg(long, value_name = "TOPOLOGY")]
    topology: Vec<String>,
    /// Only with this scheduler; repeat for more
    #[arg(long, value_name = "SCHED")]
    sched: Vec<String>,
    /// Only cases with this in their name (kernel/topology/scheduler/case)
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Another interleaving for the cases in virtual time
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Guests at a time [default: one for every two CPUs, at least 2]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,
}

/// What will run.
pub struct Plan {
    /// Kernels to have ready, and for which guests.
    pub kernels: Vec<(Arch, Spec)>,
    narrow: bool,
    settings: Settings,
    filter: Option<String>,
}

impl Selection {
    /// Whether somebody wants to see one part of the lab, and nothing else.
    pub fn narrows(&self) -> bool {
        let lists = [&self.kernel, &self.topology, &self.sched];
        self.filter.is_some() || lists.iter().any(|list| !list.is_empty())
    }

    /// Checks the names, and makes a plan.
    pub fn plan(&self, cx: &Context) -> Result<Plan> {
        for name in &self.sched {
            cx.require_scheduler(name)?;
        }
        let all = self.sched.is_empty();
        let settings = Settings {
            programs: Vec::new(),
            arm64_programs: Vec::new(),
            scheds: if all {
                cx.schedulers.clone()
            } else {
                self.sched.clone()
            },
            kernels: self.kernel.clone(),
            absent: Vec::new(),
            topologies: self.topology.clone(),
            full: self.full,
            // Whoever chooses a part wants to see all of it.
            sparse: !self.narrows(),
            seed: self.seed,
            jobs: self.jobs,
            results: cx.target_dir.join("lab/test"),
        };
        Ok(Plan {
            kernels: settings.kernels()?,
            settings,
            narrow: self.narrows(),
            filter: self.filter.clone(),
        })
    }
}

impl Plan {
    /// Whether guests of this kind are among it.
    pub fn has(&self, arch: Arch) -> bool {
        self.kernels.iter().any(|(kind, _)| *kind == arch)
    }

    /// Whether it is one part of the lab, and nothing else.
    pub fn narrows(&self) -> bool {
        self.narrow
    }

    /// Takes over the programs for guests of this kind.
    pub fn take_programs(&mut self, arch: Arch, programs: &[Program]) {
        let programs = programs.iter().map(|program| program.path.clone());
        match arch {
            Arch::X86_64 => self.settings.programs = programs.collect(),
            Arch::Arm64 => self.settings.arm64_programs = programs.collect(),
        }
    }

    /// Runs the cells on those kernels that are `ready`.
    pub fn run(
        mut self,
        cx: &Context,
        tools: &Toolchain,
        ready: &[(Arch, Spec)],
        task: &Task,
    ) -> Result<Counts> {
        let absent = self.kernels.iter().filter(|kernel| !ready.contains(kernel));
        self.settings.absent = absent
            .map(|(arch, spec)| (*arch, spec.to_string()))
            .collect();
        // The whole workspace, so that the crates are those that the unit tests were built with.
        let mut command = cargo(cx, tools, &["test", "--workspace", "--test", "lab", "--"]);
        command.args(self.filter);
        let (name, value) = self.settings.to_env();
        command.env(name, value);

        let (mut done, mut total) = (0, 0);
        let output = step::follow(command, task, |line| {
            if let Some(test) = finished(line) {
                done += 1;
                task.tell(format!("{done}/{total} {test}"));
            } else if let Some(count) = announced(line) {
                total = count;
            }
        })?;
        let counts = Counts::of_libtest(&output.stdout);
        if output.status.success() {
            table(&output.stdout).for_each(|line| task.print(line));
            return Ok(counts);
        }
        let lines = output.stdout.iter().filter(|line| finished(line).is_none());
        if counts == Counts::default() {
            output.stderr.iter().for_each(|line| task.print(line));
        }
        lines.for_each(|line| task.print(line));
        let logs: PathBuf = self.settings.results;
        task.print(format!("results and kernel logs are in {}", logs.display()));
        Ok(counts.at_least_one_failed())
    }
}

/// How many tests will run: `running 60 tests`.
fn announced(line: &str) -> Option<usize> {
    let (count, noun) = line.strip_prefix("running ")?.split_once(' ')?;
    let count = count.parse().ok()?;
    ["test", "tests"].contains(&noun).then_some(count)
}

/// The name and result of a test that is over: `test 7.3/1x4x1/scx_fifo/attach ... ok`.
fn finished(line: &str) -> Option<&str> {
    line.strip_prefix("test ")
        .filter(|rest| rest.contains(" ... "))
}

/// What the test program prints after its result: the table of cells.
fn table(stdout: &[String]) -> impl Iterator<Item = &String> {
    let after = |line: &&String| !line.starts_with("test result: ");
    stdout.iter().skip_while(after).skip(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        selection: Selection,
    }

    fn selection(args: &[&str]) -> Selection {
        Cli::parse_from([&["test"], args].concat()).selection
    }

    #[test]
    fn only_a_choice_of_cells_narrows() {
        assert!(!selection(&[]).narrows());
        assert!(!selection(&["--full", "--jobs", "3"]).narrows());
        for choice in [
            ["--kernel", "6.18"],
            ["--sched", "scx_fifo"],
            ["--filter", "stall"],
        ] {
            assert!(selection(&choice).narrows(), "{choice:?}");
        }
    }

    #[test]
    fn lines_of_the_test_program_are_understood() {
        assert_eq!(announced("running 60 tests"), Some(60));
        assert_eq!(announced("running 1 test"), Some(1));
        assert_eq!(announced("running late"), None);
        let line = "test 7.3/1x4x1/scx_fifo/attach ... ok";
        assert_eq!(finished(line), Some("7.3/1x4x1/scx_fifo/attach ... ok"));
        assert_eq!(finished("test result: ok. 1 passed; 0 failed"), None);
    }

    #[test]
    fn the_table_follows_the_result() {
        let text = "test a ... ok\n\ntest result: ok. 1 passed\n\nkernel  passed\n7.3  1";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(
            table(&lines).collect::<Vec<_>>(),
            ["", "kernel  passed", "7.3  1"]
        );
    }
}
