// SPDX-License-Identifier: GPL-2.0-only
//! What is counted while the model runs. The report makes figures of it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;

use super::ops::Op;
use crate::kernel_api::CpuMask;
use crate::machine::Distance;

/// Of a task, since the measured part began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskStats {
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// When it first wanted to run, and when it exited.
    pub born_ns: u64,
    /// When it exited, if it has.
    pub ended_ns: Option<u64>,
    /// Operations of its behaviour.
    pub ops: u64,
    /// Deadlines it missed.
    pub misses: u64,
    /// Switches to it.
    pub switches: u64,
    /// Switches away from it while it wanted to run.
    pub involuntary: u64,
    /// Moves by distance: SMT, LLC, node, far.
    pub moves: [u64; 4],
    /// Wake-ups.
    pub wakeups: u64,
    /// Longest time for which it wanted to run and did not, in nanoseconds.
    pub longest_wait_ns: u64,
    /// When that ended.
    pub longest_wait_at_ns: u64,
    /// Furthest that its CPU time was behind its ideal, in nanoseconds, where an
    /// ideal rate was given.
    pub lag_ns: u64,
    /// Ideal CPU time per second of the clock, in nanoseconds; 0 where unknown.
    pub ideal_ppb: u64,
    /// Since when it waits.
    pub(super) waits_since_ns: Option<u64>,
    /// Since when it waits with the affinity that it has.
    pub(super) allowed_since_ns: u64,
    /// Since when it is awake and has not run yet.
    pub(super) woken_at_ns: Option<u64>,
}

/// Callbacks of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpStats {
    /// Calls.
    pub calls: u64,
    /// Instructions of all calls.
    pub insns: u64,
    /// Instructions of the longest call.
    pub longest_insns: u64,
}

/// Use of a queue of the policy's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueStats {
    /// Its number.
    pub dsq: u64,
    /// How often its lock was taken.
    pub taken: u64,
    /// How often by another CPU than the time before.
    pub bounced: u64,
    /// How often while another CPU held it.
    pub contended: u64,
    /// Time that was waited for it, in nanoseconds.
    pub waited_ns: u64,
    /// Most tasks in it.
    pub longest: usize,
    /// Tasks in it on average over time.
    pub mean_length: f64,
}

/// Waiting beside idle CPUs (GOALS G3).
///
/// A CPU counts as idle from the moment it has found nothing and halts to the
/// moment it is told to reschedule, so that the way of the interrupt, which no
/// policy can shorten, is not in here.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// CPUs that are halted.
    pub(super) halted: CpuMask,
    /// Tasks that wait, by where they may run.
    waiting: HashMap<CpuMask, Waiting>,
    /// Since when one of them could run.
    since_ns: Option<u64>,
    pub(super) total_ns: u64,
    /// The longest that one task waited beside idle CPUs.
    pub(super) longest_ns: u64,
    pub(super) longest_at_ns: u64,
    pub(super) episodes: u64,
}

/// Tasks that wait and may run on the same CPUs.
#[derive(Debug, Default)]
struct Waiting {
    /// When each began to.
    since_ns: BTreeMap<u64, u32>,
    /// Since when one of those CPUs is halted.
    open_ns: Option<u64>,
}

impl Beside {
    /// A task begins to wait.
    pub(super) fn begins(&mut self, allowed: &CpuMask, now_ns: u64) {
        let open = allowed.intersects(&self.halted);
        let waiting = self.waiting.entry(*allowed).or_default();
        *waiting.since_ns.entry(now_ns).or_default() += 1;
        waiting.open_ns = waiting.open_ns.or(open.then_some(now_ns));
        self.look(now_ns);
    }

    /// A task that has waited since `since_ns` no longer does.
    pub(super) fn ends(&mut self, allowed: &CpuMask, since_ns: u64, now_ns: u64) {
        let Some(waiting) = self.waiting.get_mut(allowed) else {
            return;
        };
        let open_ns = waiting.open_ns;
        if let Entry::Occupied(mut tasks) = waiting.since_ns.entry(since_ns) {
            *tasks.get_mut() -= 1;
            if *tasks.get() == 0 {
                tasks.remove();
            }
        }
        if waiting.since_ns.is_empty() {
            self.waiting.remove(allowed);
        }
        if let Some(open_ns) = open_ns {
            self.waited(since_ns.max(open_ns), now_ns);
        }
        self.look(now_ns);
    }

    /// A CPU halts, or is told to reschedule.
    pub(super) fn halts(&mut self, cpu: u32, halts: bool, now_ns: u64) {
        let changed = if halts {
            self.halted.insert(cpu)
        } else {
            self.halted.remove(cpu)
        };
        if !changed {
            return;
        }
        let mut longest_ns = now_ns;
        for (allowed, waiting) in &mut self.waiting {
            if !allowed.contains(cpu) {
                continue;
            }
            if halts {
                waiting.open_ns = waiting.open_ns.or(Some(now_ns));
            } else if !allowed.intersects(&self.halted)
                && let Some(open_ns) = waiting.open_ns.take()
                && let Some((&first_ns, _)) = waiting.since_ns.first_key_value()
            {
                longest_ns = longest_ns.min(first_ns.max(open_ns));
            }
        }
        self.waited(longest_ns, now_ns);
        self.look(now_ns);
    }

    /// A task waited beside idle CPUs from `since_ns` on.
    fn waited(&mut self, since_ns: u64, now_ns: u64) {
        if now_ns - since_ns > self.longest_ns {
            self.longest_ns = now_ns - since_ns;
            self.longest_at_ns = now_ns;
        }
    }

    fn look(&mut self, now_ns: u64) {
        let lost = self.waiting.values().any(|its| its.open_ns.is_some());
        match (lost, self.since_ns) {
            (true, None) => self.since_ns = Some(now_ns),
            (false, Some(since)) => {
                self.since_ns = None;
                self.close(since, now_ns);
            }
            _ => {}
        }
    }

    fn close(&mut self, since_ns: u64, now_ns: u64) {
        // Within one moment, as between an insertion and the kick that goes with it,
        // nothing is lost.
        if now_ns > since_ns {
            self.total_ns += now_ns - since_ns;
            self.episodes += 1;
        }
    }

    /// The measured part begins (`reset`) or ends at this moment.
    pub(super) fn cut(&mut self, now_ns: u64, reset: bool) {
        if let Some(since) = self.since_ns {
            self.close(since, now_ns);
            self.since_ns = Some(now_ns);
        }
        let firsts = self.waiting.values().filter_map(|its| {
            let (&first_ns, _) = its.since_ns.first_key_value()?;
            Some(first_ns.max(its.open_ns?))
        });
        if let Some(first_ns) = firsts.min() {
            self.waited(first_ns, now_ns);
        }
        if reset {
            (self.total_ns, self.longest_ns, self.episodes) = (0, 0, 0);
        }
    }
}

/// Of the whole machine, since the measured part began.
pub(super) struct Stats {
    pub(super) ops: BTreeMap<Op, OpStats>,
    pub(super) events: BTreeMap<&'static str, i64>,
    pub(super) beside: Beside,
    pub(super) latency: BTreeMap<u32, Histogram<u64>>,
    pub(super) wakeups: u64,
    pub(super) wakeups_beside_idle: u64,
    pub(super) wakeups_to_idle: u64,
    pub(super) kicks: u64,
    pub(super) kicks_lost: u64,
    pub(super) rq_lock_waits: u64,
    pub(super) events_done: u64,
    pub(super) switches: u64,
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            ops: BTreeMap::new(),
            events: BTreeMap::new(),
            beside: Beside::default(),
            latency: BTreeMap::new(),
            wakeups: 0,
            wakeups_beside_idle: 0,
            wakeups_to_idle: 0,
            kicks: 0,
            kicks_lost: 0,
            rq_lock_waits: 0,
            events_done: 0,
            switches: 0,
        }
    }

    /// The measured part begins: forget what came before.
    pub(super) fn reset(&mut self, now_ns: u64) {
        let mut beside = std::mem::take(&mut self.beside);
        beside.cut(now_ns, true);
        let events_done = self.events_done;
        *self = Self {
            beside,
            events_done,
            ..Self::new()
        };
    }

    /// `scx_add_event()`.
    pub(super) fn event(&mut self, name: &'static str) {
        *self.events.entry(name).or_default() += 1;
    }

    /// A task of `group` ran `waited_ns` after it woke.
    pub(super) fn latency(&mut self, group: u32, waited_ns: u64) {
        let histogram = self
            .latency
            .entry(group)
            .or_insert_with(|| Histogram::new(3).expect("three digits are a valid precision"));
        histogram.record(waited_ns).expect("it grows as it has to");
    }
}

/// The index of a distance in [`TaskStats::moves`].
pub(super) fn move_index(distance: Distance) -> usize {
    match distance {
        Distance::Smt => 0,
        Distance::Llc => 1,
        Distance::Node => 2,
        Distance::Far => 3,
    }
}

#[cfg(test)]
mod tests {
    //! Goal: only time that was really lost is counted.
    use super::*;

    #[test]
    fn waiting_counts_where_a_cpu_could_have_taken_it() {
        let mut beside = Beside::default();
        let (zero, one): (CpuMask, CpuMask) =
            ([0].into_iter().collect(), [1].into_iter().collect());
        beside.halts(0, true, 10);
        beside.begins(&one, 20);
        beside.begins(&zero, 30);
        beside.halts(0, false, 30);
        assert_eq!((beside.total_ns, beside.episodes), (0, 0));
        beside.halts(0, true, 50);
        beside.halts(0, false, 57);
        beside.ends(&zero, 30, 60);
        assert_eq!(
            (beside.total_ns, beside.longest_ns, beside.longest_at_ns),
            (7, 7, 57)
        );
    }

    #[test]
    fn the_longest_is_of_one_task() {
        let mut beside = Beside::default();
        let zero: CpuMask = [0].into_iter().collect();
        beside.halts(0, true, 0);
        beside.begins(&zero, 10);
        beside.begins(&zero, 14);
        beside.ends(&zero, 10, 15);
        beside.begins(&zero, 18);
        beside.ends(&zero, 14, 20);
        assert_eq!((beside.longest_ns, beside.longest_at_ns), (6, 20));
        beside.halts(0, false, 21);
        assert_eq!((beside.longest_ns, beside.total_ns), (6, 11));
    }
}
