// SPDX-License-Identifier: GPL-2.0-only
//! The lab's cases. The host lists them, the guest runs them.

mod balance;
mod broken;
mod classes;
mod common;
mod control;
mod counters;
mod eject;
mod hotplug;
mod life;
mod machines;
mod memory;
mod nest;
mod placement;
mod refuse;
mod session;
pub(crate) mod shares;
mod storms;

use crate::guest::{CaseResult, Guest};
use crate::topology::Topology;
use crate::vm::Clock;

/// A case that needs longer says so.
const LIMIT_S: u64 = 90;

/// Fast enough for a kernel's ticks to cost little, as each instruction counts for all CPUs.
const COUNTED: Clock = Clock::Counted { shift: 3, seed: 0 };

/// The machine for what is the same on every machine.
pub const ONE_MACHINE: &str = "1x4x1";
/// The machine for what goes wrong where CPUs meet: threads of a core, and LLCs.
const MANY_MEET: &str = "2x2x2";

/// On which kernels a case has something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernels {
    /// Those on which our schedulers load.
    Sound,
    /// Those without sched_ext.
    WithoutSchedExt,
    /// Those whose BTF lost kfunc prototypes.
    DamagedBtf,
}

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Its name: what is shown. Those that end with an ejection end in `_ejected`, those in which
    /// something must not start in `_refused`.
    pub name: &'static str,
    /// What happens.
    pub run: fn(&mut Guest) -> CaseResult,
    /// Schedulers for which it makes sense; empty means all.
    pub scheds: &'static [&'static str],
    /// Other schedulers that it needs in the guest.
    pub beside: &'static [&'static str],
    /// Kernels for which it makes sense.
    pub kernels: Kernels,
    /// CPUs without which there is nothing to see.
    pub min_cpus: usize,
    /// Last-level caches without which there is nothing to see.
    pub min_llcs: usize,
    /// Whether it is about CPUs of two strengths.
    pub hybrid: bool,
    /// What it needs on the kernel's command line; such a case gets a boot of its own.
    pub append: &'static str,
    /// How time passes for it; a clock of its own means a boot of its own, too.
    pub clock: Clock,
    /// Seconds after which it has failed.
    pub limit_s: u64,
    /// Only part of the full matrix, on the kernels and machines that the default one has too.
    pub only_full: bool,
    /// The machine of the matrix that is enough for it.
    pub machine: Option<&'static str>,
    /// The kernel that is enough for it, or has what it needs.
    pub kernel: Option<&'static str>,
    /// It asks the policy's arithmetic more than the kernel, so it takes turns in a sparse matrix even
    /// if few schedulers have it.
    pub in_turn: bool,
}

impl Case {
    /// A case for every scheduler on every sound kernel.
    pub const fn new(name: &'static str, run: fn(&mut Guest) -> CaseResult) -> Self {
        Self {
            name,
            run,
            scheds: &[],
            beside: &[],
            kernels: Kernels::Sound,
            min_cpus: 1,
            min_llcs: 1,
            hybrid: false,
            append: "",
            clock: Clock::Host,
            limit_s: LIMIT_S,
            only_full: false,
            machine: None,
            kernel: None,
            in_turn: false,
        }
    }

    /// Only for these schedulers.
    pub const fn only(mut self, scheds: &'static [&'static str]) -> Self {
        self.scheds = scheds;
        self
    }

    /// With these schedulers in the guest, too.
    pub const fn beside(mut self, scheds: &'static [&'static str]) -> Self {
        self.beside = scheds;
        self
    }

    /// On these kernels instead.
    pub const fn on(mut self, kernels: Kernels) -> Self {
        self.kernels = kernels;
        self
    }

    /// Only on machines with this many CPUs.
    pub const fn min_cpus(mut self, count: usize) -> Self {
        self.min_cpus = count;
        self
    }

    /// Only on machines with this many last-level caches.
    pub const fn min_llcs(mut self, count: usize) -> Self {
        self.min_llcs = count;
        self
    }

    /// Only on machines with strong and weak CPUs.
    pub const fn hybrid(mut self) -> Self {
        self.hybrid = true;
        self
    }

    /// With words on the kernel's command line, so in a boot of its own.
    pub const fn append(mut self, words: &'static str) -> Self {
        self.append = words;
        self
    }

    /// In virtual time, which does not pass while the host is busy with other things: for what is
    /// judged by times and shares. Such cases share a boot.
    pub const fn counted(mut self) -> Self {
        self.clock = COUNTED;
        self
    }

    /// With CPUs that run at the same time, in a boot of its own: for what goes wrong only where two
    /// meet, and is not judged by times. On one machine of the matrix only, in a sparse one on its
    /// newest kernel only. The name ends in `_in_parallel`.
    pub const fn parallel(mut self) -> Self {
        self.clock = Clock::Parallel;
        self.min_cpus = 2;
        self.machine = Some(MANY_MEET);
        self
    }

    /// With more (or less) time.
    pub const fn limit_s(mut self, seconds: u64) -> Self {
        self.limit_s = seconds;
        self
    }

    /// Only in the full matrix.
    pub const fn only_full(mut self) -> Self {
        self.only_full = true;
        self
    }

    /// About the program and the kernel, not about the machine: on one machine of the matrix only.
    pub const fn one_machine(mut self) -> Self {
        self.machine = Some(ONE_MACHINE);
        self
    }

    /// On the kernel of this name only.
    pub const fn only_kernel(mut self, name: &'static str) -> Self {
        self.kernel = Some(name);
        self
    }

    /// About the policy more than about the kernel: a sparse matrix has it on every third kernel, as it
    /// has what all schedulers do.
    pub const fn in_turn(mut self) -> Self {
        self.in_turn = true;
        self
    }

    /// Whether it belongs to cells of this kind at all.
    pub fn applies(&self, kernels: Kernels, sched: &str) -> bool {
        self.kernels == kernels && (self.scheds.is_empty() || self.scheds.contains(&sched))
    }

    /// Why there is nothing to see on this machine, if so.
    pub fn misfit(&self, topology: &Topology) -> Option<String> {
        let short = |needed, has, of| {
            (needed > has).then(|| format!("needs {needed} {of}, {topology} has {has}"))
        };
        if self.hybrid && !topology.is_hybrid() {
            return Some(format!(
                "needs strong and weak CPUs, those of {topology} are alike"
            ));
        }
        short(self.min_cpus, topology.cpus(), "CPUs")
            .or_else(|| short(self.min_llcs, topology.llcs(), "LLCs"))
    }
}

/// All cases, in the order in which they run.
pub const ALL: &[&[Case]] = &[
    life::CASES,
    machines::CASES,
    memory::CASES,
    control::CASES,
    refuse::CASES,
    eject::CASES,
    hotplug::CASES,
    shares::CASES,
    placement::CASES,
    classes::CASES,
    balance::CASES,
    nest::CASES,
    storms::CASES,
    counters::CASES,
    broken::CASES,
];

/// All cases, one by one.
pub fn all() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

/// The case called `name`.
pub fn find(name: &str) -> Option<&'static Case> {
    all().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_into_a_filter() {
        let mut names = BTreeSet::new();
        for case in all() {
            assert!(names.insert(case.name), "{} twice", case.name);
            let word = case
                .name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            assert!(word, "{}", case.name);
            let parallel = case.clock == Clock::Parallel;
            assert_eq!(
                parallel,
                case.name.ends_with("_in_parallel"),
                "{}",
                case.name
            );
            assert!(
                case.limit_s > 0 && case.min_cpus > 0 && case.min_llcs > 0,
                "{}",
                case.name
            );
        }
        assert!(find("attach_detach").is_some());
        assert!(find("nonesuch").is_none());
    }

    #[test]
    fn the_table_of_faults_names_cases_that_are_there() {
        const FAULTS: &str = include_str!("../../FAULTS.md");
        let rows = FAULTS.lines().filter(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.split('|').nth(3));
        let named: Vec<&str> = cells
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .collect();
        assert!(named.len() > 50, "{named:?}");
        for name in named.iter().filter(|name| !name.contains("::")) {
            assert!(find(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_misfit_is_explained() {
        const CASE: Case = Case::new("x", |_| Ok(String::new()))
            .min_cpus(2)
            .min_llcs(2);
        let reason = |topology: &str| CASE.misfit(&topology.parse().unwrap());
        assert_eq!(
            reason("1x1x1").as_deref(),
            Some("needs 2 CPUs, 1x1x1 has 1")
        );
        assert_eq!(
            reason("1x4x1").as_deref(),
            Some("needs 2 LLCs, 1x4x1 has 1")
        );
        assert_eq!(reason("2x2x2"), None);
        const HYBRID: Case = Case::new("x", |_| Ok(String::new())).hybrid();
        let reason = |topology: &str| HYBRID.misfit(&topology.parse().unwrap());
        assert_eq!(
            reason("2x2x2").as_deref(),
            Some("needs strong and weak CPUs, those of 2x2x2 are alike")
        );
        assert_eq!(reason("hybrid:2+2"), None);
    }

    #[test]
    fn a_case_may_be_for_some_schedulers_only() {
        const CASE: Case = Case::new("x", |_| Ok(String::new())).only(&["scx_vtime"]);
        assert!(CASE.applies(Kernels::Sound, "scx_vtime"));
        assert!(!CASE.applies(Kernels::Sound, "scx_fifo"));
        assert!(!CASE.applies(Kernels::DamagedBtf, "scx_vtime"));
    }
}
