// SPDX-License-Identifier: GPL-2.0-only
//! What came of a run: shares, waits, latencies, what was lost, what it cost.
//!
//! All figures are **figures of the model**. Shares, counts, orders and
//! instructions mean something; times depend on costs that nobody has calibrated,
//! and none of them is a measurement of a machine.

mod ideal;
mod table;

use rota_load::report::Latency;
use serde::{Deserialize, Serialize};

pub use ideal::{Claim, feasible_shares};

use crate::model::{Sim, TaskFigures};
use crate::workload::{GroupTasks, Roster};

/// What the reader has to know about the figures.
pub const LABEL: &str = "figures of the model, not of a machine";

/// What the report is to judge by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the policy, for the reader.
    pub policy: String,
    /// Slice that the policy gives, in nanoseconds: the unit of lag and of the bound
    /// on waits.
    pub slice_ns: u64,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`LABEL`].
    pub figures: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the workload.
    pub workload: String,
    /// Name of the machine.
    pub machine: String,
    /// CPUs that are online.
    pub cpus: u32,
    /// Length of the measured part in seconds of the model.
    pub seconds: f64,
    /// Why the policy ended before its time, if it did.
    pub exit: Option<ExitReport>,
    /// One entry for each group, in the order of the file.
    pub groups: Vec<GroupReport>,
    /// The machine as a whole.
    pub machine_totals: MachineReport,
    /// Callbacks by name.
    pub callbacks: Vec<CallbackReport>,
    /// Queues of the policy, by number.
    pub queues: Vec<QueueReport>,
    /// The core's counters (`SCX_EV_*`) that are not 0.
    pub events: Vec<(String, i64)>,
    /// Hash of all that happened: equal runs have equal ones.
    pub trace_hash: String,
}

/// Why a policy ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Number of the kind, as in `scx_exit_info`.
    pub kind: u32,
    /// The kernel's text for the kind.
    pub reason: String,
    /// Code of the policy or the kernel.
    pub code: i64,
    /// Details.
    pub message: String,
    /// When, in milliseconds from the load on.
    pub at_ms: f64,
}

/// The result of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Its kind, as in the file.
    pub kind: String,
    /// Number of tasks, without the children of a storm.
    pub tasks: u32,
    /// `scx.weight` of each task.
    pub weight: u32,
    /// CPUs' worth of all its tasks, children included.
    pub share: f64,
    /// CPUs' worth that they have a right to, if all tasks of the workload always
    /// want the CPU; otherwise nobody can tell.
    pub ideal_share: Option<f64>,
    /// Smallest share of one of its tasks over its ideal.
    pub worst_share: Option<f64>,
    /// Largest share of one of its tasks over its ideal.
    pub best_share: Option<f64>,
    /// CPUs' worth of each task, without children.
    pub per_task_share: Vec<f64>,
    /// Furthest that a task was behind its ideal, in slices.
    pub lag_slices: Option<f64>,
    /// Operations done.
    pub ops: u64,
    /// The same per second.
    pub ops_per_s: f64,
    /// Deadlines missed.
    pub misses: u64,
    /// From wake-up to running.
    pub wakeup_us: Option<Latency>,
    /// Longest time for which a task wanted to run and did not, in milliseconds.
    pub longest_wait_ms: f64,
    /// When it ended, in milliseconds from the load on.
    pub longest_wait_at_ms: f64,
    /// That time over the bound, the sum of all weights over its own, by slice.
    pub wait_over_bound: Option<f64>,
    /// Switches to its tasks.
    pub switches: u64,
    /// Switches away from one that still wanted to run.
    pub involuntary: u64,
    /// Moves between CPUs.
    pub moves: Moves,
}

/// Moves between CPUs by distance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// To an SMT sibling.
    pub smt: u64,
    /// To another core of the LLC.
    pub llc: u64,
    /// To another LLC of the node.
    pub node: u64,
    /// To another node.
    pub far: u64,
}

/// The result of the machine as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MachineReport {
    /// Share of the time for which CPUs had a task, in percent.
    pub busy_pct: f64,
    /// Wake-ups of tasks that sched_ext runs.
    pub wakeups: u64,
    /// Of those for which an idle CPU was there, the part that was sent to one, in
    /// percent; `None` if there was no such wake-up.
    pub to_idle_pct: Option<f64>,
    /// Time for which a task waited beside an idle CPU that could have run it, over
    /// the measured time, in percent. The way of an interrupt is not in it.
    pub lost_pct: f64,
    /// The longest such time of one task, in microseconds.
    pub longest_lost_us: f64,
    /// When it ended, in milliseconds from the load on.
    pub longest_lost_at_ms: f64,
    /// Kicks.
    pub kicks: u64,
    /// Switches.
    pub switches: u64,
    /// How often a CPU waited for the lock of a run queue.
    pub rq_lock_waits: u64,
    /// Most tasks in the local queue of a CPU.
    pub longest_local_queue: usize,
}

/// Callbacks of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallbackReport {
    /// Its name.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Instructions of a call, on average.
    pub insns_mean: f64,
    /// Instructions of the longest call.
    pub insns_max: u64,
}

/// A queue of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueReport {
    /// Its number, in hexadecimal digits.
    pub dsq: String,
    /// How often its lock was taken.
    pub taken: u64,
    /// The part of these in which another CPU had it the time before, in percent.
    pub bounced_pct: f64,
    /// The part in which another CPU held it at that moment, in percent.
    pub contended_pct: f64,
    /// Time that was waited for it, in microseconds.
    pub waited_us: f64,
    /// Most tasks in it.
    pub longest: usize,
    /// Tasks in it, on average over time.
    pub mean_length: f64,
}

/// Tells a simulation what its tasks have a right to, so that their lag is kept.
/// To be called once they are there, and before anything is measured.
pub fn set_ideals(sim: &mut Sim, roster: &Roster) {
    let tasks = sim.tasks();
    for (task, ideal) in tasks.iter().zip(ideals(sim, &tasks, roster)) {
        if let Some(ideal) = ideal {
            sim.set_ideal(task.task, (ideal * 1e9) as u64);
        }
    }
}

/// The ideal share of each task, where all want the CPU all the time.
fn ideals(sim: &Sim, tasks: &[TaskFigures], roster: &Roster) -> Vec<Option<f64>> {
    let all_hogs = roster.groups.iter().all(|group| group.hogs);
    if !all_hogs || tasks.iter().any(|task| !task.ext) {
        return vec![None; tasks.len()];
    }
    let claims: Vec<Claim> = tasks.iter().map(Claim::of).collect();
    let shares = feasible_shares(&claims, &sim.online());
    shares.into_iter().map(Some).collect()
}

/// Makes the report of a run that has come to its end.
pub fn report(sim: &Sim, roster: &Roster, workload: &str, options: &Options) -> Report {
    let tasks = sim.tasks();
    let ideals = ideals(sim, &tasks, roster);
    let elapsed_ns = (sim.now_ns() - sim.measured_from_ns()).max(1);
    let ext = tasks
        .iter()
        .filter(|task| task.ext && task.stats.ended_ns.is_none());
    let view = View {
        sim,
        options,
        tasks: &tasks,
        ideals: &ideals,
        elapsed_ns,
        weights: ext.map(|task| u64::from(task.weight)).sum(),
    };
    let machine = sim.machine();
    Report {
        figures: LABEL.to_owned(),
        policy: options.policy.clone(),
        workload: workload.to_owned(),
        machine: machine.name().to_owned(),
        cpus: sim.online().weight(),
        seconds: elapsed_ns as f64 / 1e9,
        exit: sim.exit().map(|exit| ExitReport {
            kind: exit.kind.number(),
            reason: exit.kind.reason().to_owned(),
            code: exit.code,
            message: exit.message,
            at_ms: exit.at_ns as f64 / 1e6,
        }),
        groups: (0..)
            .zip(&roster.groups)
            .map(|(index, group)| view.group(index, group))
            .collect(),
        machine_totals: view.machine(),
        callbacks: callbacks(sim),
        queues: queues(sim),
        events: sim
            .events()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        trace_hash: sim.trace_hash(),
    }
}

/// What the parts of a report are made from.
struct View<'a> {
    sim: &'a Sim,
    options: &'a Options,
    tasks: &'a [TaskFigures],
    ideals: &'a [Option<f64>],
    elapsed_ns: u64,
    /// Sum over all tasks that sched_ext runs.
    weights: u64,
}

impl View<'_> {
    fn group(&self, index: u32, group: &GroupTasks) -> GroupReport {
        let all: Vec<&TaskFigures> = self.tasks.iter().filter(|t| t.group == index).collect();
        let range = group.tasks.start as usize..group.tasks.end as usize;
        let own = &self.tasks[range.clone()];
        let seconds = (group.active.as_secs_f64())
            .min(self.elapsed_ns as f64 / 1e9)
            .max(1e-9);
        let share = |task: &TaskFigures| task.stats.cpu_ns as f64 / 1e9 / seconds;
        let ideals: Option<Vec<f64>> = self.ideals[range].iter().copied().collect();
        let ratios: Option<Vec<f64>> = ideals.as_ref().map(|ideals| {
            let ratio = |(task, ideal): (&TaskFigures, &f64)| share(task) / ideal.max(1e-9);
            own.iter().zip(ideals).map(ratio).collect()
        });
        let sum = |of: fn(&TaskFigures) -> u64| all.iter().map(|task| of(task)).sum::<u64>();
        let ops: u64 = own.iter().map(|task| task.stats.ops).sum();
        let longest = all.iter().max_by_key(|task| task.stats.longest_wait_ns);
        let wait = longest.map(|task| (task.stats.longest_wait_ns, task.stats.longest_wait_at_ns));
        let (wait_ns, wait_at_ns) = wait.unwrap_or((0, 0));
        let over = all
            .iter()
            .filter(|task| task.ext)
            .map(|task| self.over_bound(task));
        let lag = own.iter().map(|task| task.stats.lag_ns).max().unwrap_or(0);
        GroupReport {
            name: group.group.name.clone(),
            kind: group.group.kind.name().to_owned(),
            tasks: group.tasks.end - group.tasks.start,
            weight: own.first().map_or(0, |task| task.weight),
            share: all.iter().map(|task| share(task)).sum(),
            ideal_share: ideals.map(|ideals| ideals.iter().sum()),
            worst_share: ratios
                .as_ref()
                .map(|all| all.iter().copied().fold(f64::MAX, f64::min)),
            best_share: ratios
                .as_ref()
                .map(|all| all.iter().copied().fold(0.0, f64::max)),
            per_task_share: own.iter().map(share).collect(),
            lag_slices: ratios.map(|_| lag as f64 / self.options.slice_ns.max(1) as f64),
            ops,
            ops_per_s: ops as f64 / seconds,
            misses: own.iter().map(|task| task.stats.misses).sum(),
            wakeup_us: self.latency(index),
            longest_wait_ms: wait_ns as f64 / 1e6,
            longest_wait_at_ms: wait_at_ns as f64 / 1e6,
            wait_over_bound: over.reduce(f64::max),
            switches: sum(|task| task.stats.switches),
            involuntary: sum(|task| task.stats.involuntary),
            moves: Moves {
                smt: sum(|task| task.stats.moves[0]),
                llc: sum(|task| task.stats.moves[1]),
                node: sum(|task| task.stats.moves[2]),
                far: sum(|task| task.stats.moves[3]),
            },
        }
    }

    fn over_bound(&self, task: &TaskFigures) -> f64 {
        let turns = self.weights as f64 / f64::from(task.weight);
        let bound = turns.max(1.0) * self.options.slice_ns.max(1) as f64;
        task.stats.longest_wait_ns as f64 / bound
    }

    fn latency(&self, group: u32) -> Option<Latency> {
        let all = self.sim.latency(group)?;
        let us = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1e3;
        Some(Latency {
            count: all.len(),
            p50: us(0.5),
            p90: us(0.9),
            p99: us(0.99),
            p999: us(0.999),
            max: all.max() as f64 / 1e3,
        })
    }

    fn machine(&self) -> MachineReport {
        let totals = self.sim.totals();
        let cpus = self.sim.cpus();
        let busy: u64 = cpus.iter().map(|cpu| cpu.busy_ns).sum();
        let possible = f64::from(self.sim.online().weight()) * self.elapsed_ns as f64;
        let beside = totals.wakeups_beside_idle;
        MachineReport {
            busy_pct: busy as f64 / possible * 100.0,
            wakeups: totals.wakeups,
            to_idle_pct: (beside > 0).then(|| percent(totals.wakeups_to_idle, beside)),
            lost_pct: percent(totals.lost_ns, self.elapsed_ns),
            longest_lost_us: totals.longest_lost_ns as f64 / 1e3,
            longest_lost_at_ms: totals.longest_lost_at_ns as f64 / 1e6,
            kicks: totals.kicks,
            switches: totals.switches,
            rq_lock_waits: totals.rq_lock_waits,
            longest_local_queue: cpus.iter().map(|cpu| cpu.longest_local).max().unwrap_or(0),
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64 * 100.0
}

fn callbacks(sim: &Sim) -> Vec<CallbackReport> {
    let callback = |(op, stats): (crate::model::Op, crate::model::OpStats)| CallbackReport {
        name: op.name().to_owned(),
        calls: stats.calls,
        insns_mean: stats.insns as f64 / stats.calls.max(1) as f64,
        insns_max: stats.longest_insns,
    };
    sim.ops().into_iter().map(callback).collect()
}

fn queues(sim: &Sim) -> Vec<QueueReport> {
    let queue = |queue: crate::model::QueueStats| QueueReport {
        dsq: format!("{:#x}", queue.dsq),
        taken: queue.taken,
        bounced_pct: percent(queue.bounced, queue.taken),
        contended_pct: percent(queue.contended, queue.taken),
        waited_us: queue.waited_ns as f64 / 1e3,
        longest: queue.longest,
        mean_length: queue.mean_length,
    };
    sim.queues().into_iter().map(queue).collect()
}

#[cfg(test)]
mod tests;
