// SPDX-License-Identifier: GPL-2.0-only
//! The built-in tracking of idle CPUs, and the search for one.

use super::consts::{Constants, errno, pick};
use crate::kernel_api::CpuMask;
use crate::machine::Machine;

/// The idle masks.
#[derive(Debug)]
pub(super) struct Idle {
    /// CPUs that idle and nobody has claimed.
    pub(super) cpu: CpuMask,
    /// CPUs of cores of which all of them do.
    pub(super) smt: CpuMask,
    /// Whether anyone may look: a policy's own `update_idle` turns it off.
    pub(super) enabled: bool,
    /// `SCX_OPS_BUILTIN_IDLE_PER_NODE`.
    pub(super) per_node: bool,
    online: CpuMask,
    has_smt: bool,
    /// The search has a step for the LLC, and one for the node.
    llc_step: bool,
    node_step: bool,
    sibling_step: bool,
    sync_prev: bool,
}

/// A search for an idle CPU.
pub(super) struct Search<'a> {
    /// Where the task may run.
    pub(super) allowed: &'a CpuMask,
    pub(super) prev: u32,
    /// The CPU of the waker, if it is about to sleep (`SCX_WAKE_SYNC`), and whether
    /// the task could take its place: it does not exit, and nobody waits there.
    pub(super) sync_waker: Option<(u32, bool)>,
    /// `SCX_PICK_IDLE_*`.
    pub(super) flags: u64,
}

impl Idle {
    pub(super) fn new(machine: &Machine, constants: &Constants, per_node: bool) -> Self {
        let online = machine.online();
        let first = online.next(0).unwrap_or(0);
        let llc = machine.llc(first).and(&online);
        // As scx_idle_update_selcpu_topology() decides: by the domains of the first
        // online CPU. A single LLC or node makes the step pointless.
        let has_steps = constants.since(6, 13);
        let nodes = machine.nodes().len();
        let node = machine.node(first).and(&online);
        Self {
            cpu: online,
            smt: online,
            enabled: true,
            per_node,
            online,
            has_smt: machine.has_smt(),
            llc_step: has_steps && llc != online,
            node_step: has_steps && nodes > 1 && node != llc && !per_node,
            sibling_step: constants.since(6, 16),
            sync_prev: constants.since(6, 13),
        }
    }

    /// A CPU comes or goes: siblings that are offline do not count.
    pub(super) fn set_online(&mut self, machine: &Machine, cpu: u32, online: bool, idle: bool) {
        if online {
            self.online.insert(cpu);
        } else {
            self.online.remove(cpu);
        }
        self.update(machine, cpu, online && idle);
    }

    /// `update_builtin_idle()`: a CPU goes idle or stops to.
    pub(super) fn update(&mut self, machine: &Machine, cpu: u32, idle: bool) {
        let core = &machine.siblings(cpu).and(&self.online);
        if idle {
            self.cpu.insert(cpu);
            if core.is_subset(&self.cpu) {
                self.smt = self.smt.or(core);
            }
        } else {
            self.cpu.remove(cpu);
            self.smt = without(&self.smt, core);
        }
    }

    /// `scx_idle_test_and_clear_cpu()`: claim `cpu` if it idles.
    pub(super) fn claim(&mut self, machine: &Machine, cpu: u32) -> bool {
        if self.has_smt {
            // The whole core counts as busy as soon as one of it is claimed.
            let core = machine.siblings(cpu);
            if core.intersects(&self.smt) {
                self.smt = without(&self.smt, core);
            }
        }
        self.cpu.remove(cpu)
    }

    /// `pick_idle_cpu_in_node()`: claim one of `among`, going round from
    /// `distribute` on as `cpumask_any_and_distribute()` does.
    pub(super) fn pick(
        &mut self,
        machine: &Machine,
        among: &CpuMask,
        flags: u64,
        distribute: &mut u32,
    ) -> Option<u32> {
        if self.has_smt {
            if let Some(cpu) = any_and(&self.smt, among, distribute) {
                return self.claim(machine, cpu).then_some(cpu);
            }
            if flags & pick::CORE != 0 {
                return None;
            }
        }
        let cpu = any_and(&self.cpu, among, distribute)?;
        self.claim(machine, cpu).then_some(cpu)
    }

    /// `scx_pick_idle_cpu()`: near `node` first if masks are kept per node. The
    /// model has all other nodes at one distance, in the order of their numbers.
    pub(super) fn pick_near(
        &mut self,
        machine: &Machine,
        among: &CpuMask,
        node: Option<u32>,
        flags: u64,
        distribute: &mut u32,
    ) -> Option<u32> {
        let Some(node) = node.filter(|_| self.per_node) else {
            return self.pick(machine, among, flags, distribute);
        };
        let nodes = machine.nodes().len() as u32;
        let reach = if flags & pick::IN_NODE != 0 { 1 } else { nodes };
        (0..reach).find_map(|step| {
            let near = machine.nodes()[((node + step) % nodes) as usize].and(among);
            self.pick(machine, &near, flags, distribute)
        })
    }

    /// `scx_select_cpu_dfl()`: the CPU for a task that wakes, claimed; `-EBUSY` if
    /// none idles.
    pub(super) fn select(
        &mut self,
        machine: &Machine,
        search: &Search<'_>,
        distribute: &mut u32,
    ) -> Result<u32, i32> {
        let prev = search.prev;
        let prev_allowed = search.allowed.contains(prev);
        if let Some((waker, free)) = search.sync_waker {
            let near = machine.llc(waker).contains(prev);
            if self.sync_prev && prev_allowed && near && self.claim(machine, prev) {
                return Ok(prev);
            }
            if free && !self.cpu.is_empty() && search.allowed.contains(waker) {
                return Ok(waker);
            }
        }
        if self.cpu.is_empty() {
            return Err(errno::BUSY);
        }
        let mut domains = Vec::with_capacity(3);
        if self.llc_step {
            domains.push(search.allowed.and(machine.llc(prev)));
        }
        if self.node_step {
            domains.push(search.allowed.and(machine.node(prev)));
        }
        let node = Some(machine.cpus()[prev as usize].node);
        if self.has_smt {
            if prev_allowed && self.smt.contains(prev) && self.claim(machine, prev) {
                return Ok(prev);
            }
            let core = search.flags | pick::CORE;
            for domain in &domains {
                if let Some(cpu) = self.pick(machine, domain, core, distribute) {
                    return Ok(cpu);
                }
            }
            if let Some(cpu) = self.pick_near(machine, search.allowed, node, core, distribute) {
                return Ok(cpu);
            }
            if search.flags & pick::CORE != 0 {
                return Err(errno::BUSY);
            }
        }
        if prev_allowed && self.claim(machine, prev) {
            return Ok(prev);
        }
        if self.has_smt && self.sibling_step {
            let siblings = machine.siblings(prev).and(search.allowed).and(&self.cpu);
            if let Some(cpu) = siblings.iter().find(|&cpu| self.claim(machine, cpu)) {
                return Ok(cpu);
            }
        }
        for domain in &domains {
            if let Some(cpu) = self.pick(machine, domain, 0, distribute) {
                return Ok(cpu);
            }
        }
        self.pick_near(machine, search.allowed, node, search.flags, distribute)
            .ok_or(errno::BUSY)
    }
}

fn without(mask: &CpuMask, other: &CpuMask) -> CpuMask {
    mask.combine(other, |a, b| a & !b)
}

/// `cpumask_any_and_distribute()`: the next after the last answer, going round.
pub(super) fn any_and(a: &CpuMask, b: &CpuMask, last: &mut u32) -> Option<u32> {
    let both = a.and(b);
    let found = both.next(*last + 1).or_else(|| both.next(0))?;
    *last = found;
    Some(found)
}

#[cfg(test)]
mod tests {
    //! Goal: the kernel's order of search, version by version.
    use super::super::consts::KernelVersion;
    use super::*;

    struct Case {
        machine: &'static str,
        kernel: KernelVersion,
        idle: &'static [u32],
        prev: u32,
        flags: u64,
        sync_waker: Option<(u32, bool)>,
    }

    const CASE: Case = Case {
        machine: "2x2x2",
        kernel: KernelVersion::V7_3,
        idle: &[],
        prev: 0,
        flags: 0,
        sync_waker: None,
    };

    fn found(case: &Case) -> Result<u32, i32> {
        let machine: Machine = case.machine.parse().unwrap();
        let mut idle = Idle::new(&machine, &Constants::of(case.kernel), false);
        for cpu in 0..machine.nr_cpu_ids() {
            idle.update(&machine, cpu, false);
        }
        for &cpu in case.idle {
            idle.update(&machine, cpu, true);
        }
        let search = Search {
            allowed: &machine.possible(),
            prev: case.prev,
            sync_waker: case.sync_waker,
            flags: case.flags,
        };
        idle.select(&machine, &search, &mut 0)
    }

    const V6_12: KernelVersion = KernelVersion::V6_12;

    /// What idles, and what is found.
    const SEARCHES: &[(&str, Case, Result<u32, i32>)] = &[
        ("nobody", Case { ..CASE }, Err(errno::BUSY)),
        (
            "prev's whole core",
            Case {
                idle: &[0, 1, 2, 3],
                ..CASE
            },
            Ok(0),
        ),
        (
            "a whole core beats prev",
            Case {
                idle: &[0, 2, 3],
                ..CASE
            },
            Ok(2),
        ),
        (
            "in prev's LLC first",
            Case {
                idle: &[2, 3, 4, 5],
                prev: 6,
                ..CASE
            },
            Ok(4),
        ),
        (
            "or in any",
            Case {
                idle: &[2, 3],
                prev: 6,
                ..CASE
            },
            Ok(2),
        ),
        (
            "prev before others",
            Case {
                idle: &[0, 2, 4],
                prev: 4,
                ..CASE
            },
            Ok(4),
        ),
        (
            "its sibling next",
            Case {
                idle: &[1, 5, 6],
                prev: 4,
                ..CASE
            },
            Ok(5),
        ),
        (
            "then its LLC",
            Case {
                idle: &[1, 6],
                prev: 4,
                ..CASE
            },
            Ok(6),
        ),
        (
            "then anywhere",
            Case {
                idle: &[1],
                prev: 4,
                ..CASE
            },
            Ok(1),
        ),
        (
            "6.12 has no step for the LLC",
            Case {
                idle: &[2, 3, 4, 5],
                prev: 6,
                kernel: V6_12,
                ..CASE
            },
            Ok(2),
        ),
        (
            "nor one for the sibling",
            Case {
                idle: &[1, 5, 6],
                prev: 4,
                kernel: V6_12,
                ..CASE
            },
            Ok(1),
        ),
        (
            "whole cores or nothing",
            Case {
                idle: &[0, 2],
                flags: pick::CORE,
                ..CASE
            },
            Err(errno::BUSY),
        ),
    ];

    #[test]
    fn the_search_goes_from_near_to_far_and_from_whole_cores_to_threads() {
        for (what, case, expected) in SEARCHES {
            assert_eq!(found(case), *expected, "{what}");
        }
    }

    #[test]
    fn a_node_is_searched_before_the_rest() {
        let case = Case {
            machine: "numa:2x2x2x1",
            idle: &[1, 4],
            prev: 6,
            ..CASE
        };
        assert_eq!(found(&case), Ok(4));
    }

    #[test]
    fn a_waker_that_sleeps_gives_its_place() {
        let base = Case {
            idle: &[5],
            prev: 2,
            sync_waker: Some((0, true)),
            ..CASE
        };
        assert_eq!(found(&base), Ok(0));
        // Not if somebody waits for it.
        let taken = Case {
            sync_waker: Some((0, false)),
            ..base
        };
        assert_eq!(found(&taken), Ok(5));
        // A prev that idles and shares the cache comes first, since 6.13.
        let near = Case {
            idle: &[2, 5],
            sync_waker: Some((0, true)),
            prev: 2,
            ..CASE
        };
        assert_eq!(found(&near), Ok(2));
        let old = Case {
            kernel: KernelVersion::V6_12,
            ..near
        };
        assert_eq!(found(&old), Ok(0));
        // A saturated machine is left as it is.
        let full = Case {
            idle: &[],
            prev: 2,
            sync_waker: Some((0, true)),
            ..CASE
        };
        assert_eq!(found(&full), Err(errno::BUSY));
    }

    #[test]
    fn one_thread_claimed_makes_the_core_busy() {
        let machine: Machine = "1x2x2".parse().unwrap();
        let mut idle = Idle::new(&machine, &Constants::of(KernelVersion::V7_3), false);
        assert!(idle.claim(&machine, 1) && !idle.claim(&machine, 1));
        assert_eq!(idle.smt.iter().collect::<Vec<_>>(), [2, 3]);
        idle.update(&machine, 1, true);
        assert_eq!(idle.smt.weight(), 4);
    }

    #[test]
    fn an_offline_sibling_does_not_keep_a_core_busy() {
        let machine: Machine = "1x2x2-1".parse().unwrap();
        let mut idle = Idle::new(&machine, &Constants::of(KernelVersion::V7_3), false);
        idle.update(&machine, 2, false);
        assert!(!idle.smt.contains(2));
        idle.update(&machine, 2, true);
        assert!(idle.smt.contains(2));
        idle.set_online(&machine, 3, true, false);
        idle.update(&machine, 2, false);
        idle.update(&machine, 2, true);
        assert!(!idle.smt.contains(2));
    }

    #[test]
    fn picks_go_round() {
        let machine: Machine = "1x4x1".parse().unwrap();
        let mut idle = Idle::new(&machine, &Constants::of(KernelVersion::V7_3), false);
        let mut last = 0;
        let all = machine.possible();
        let mut picked = Vec::new();
        while let Some(cpu) = idle.pick(&machine, &all, 0, &mut last) {
            picked.push(cpu);
        }
        assert_eq!(picked, [1, 2, 3, 0]);
    }
}
