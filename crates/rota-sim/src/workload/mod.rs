// SPDX-License-Identifier: GPL-2.0-only
//! Workload files as tasks of the model.
//!
//! The format is that of `rota-load` ([`rota_load::spec`]), and so are the
//! random numbers: a task draws the same sequence here and on a machine. What
//! differs is the price of a system call, which comes from [`Costs`]. In
//! particular:
//!
//! - `run` and `work` are times on a CPU of full capacity; a weaker one takes
//!   longer. Time in the kernel comes on top of them.
//! - A message occupies its size and [`MESSAGE_OVERHEAD`] in a socket's buffer of
//!   [`SOCKET_BUFFER`] bytes, as the kernel accounts small ones.
//! - Threads and processes are the same: there is no memory to share.
//!
//! [`Costs`]: crate::model::Costs

mod behaviours;

use std::ops::Range;
use std::time::Duration;

use rota_load::spec::{Affinity, Group, Jitter, Kind, Loop, Policy, TASKS_MAX, Target, Workload};

use crate::kernel_api::{CpuMask, TaskId};
use crate::machine::Machine;
use crate::model::{Behaviour, ChannelKind, NewTask, Sim};
use behaviours::{
    AffinityStorm, Child, Frames, Pattern, PipeEnd, Probe, Receiver, Sender, Storm, Window,
};

/// Default of `net.core.wmem_default` in bytes.
pub const SOCKET_BUFFER: u32 = 212_992;
/// What the kernel charges a small message beside its bytes: an skb and its head.
pub const MESSAGE_OVERHEAD: u32 = 668;
/// Words that a pipe holds at once; the two ends have one under way.
const PIPE_ROOM: u32 = 8;

/// Why a workload does not fit a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// Too many tasks.
    #[error("{0} tasks on this machine; the limit is {TASKS_MAX}: lower `count`")]
    TooManyTasks(u64),
    /// A group may run nowhere.
    #[error("group \"{group}\": affinity {affinity} has no online CPU on this machine")]
    NoCpu {
        /// The group.
        group: String,
        /// Its affinity, as in the file.
        affinity: String,
    },
}

/// A group, once it is in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupTasks {
    /// The group.
    pub group: Group,
    /// Its tasks, without the children of a storm.
    pub tasks: Range<u32>,
    /// For how much of the measured part it runs.
    pub active: Duration,
    /// Its tasks always want the CPU, from the start to the end.
    pub hogs: bool,
}

/// A workload, once it is in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// The groups, in the order of the file; their tasks are counted by this index.
    pub groups: Vec<GroupTasks>,
    /// When the measured part begins, in nanoseconds: after the warm-up.
    pub begin_ns: u64,
    /// When it ends.
    pub end_ns: u64,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Adds the tasks of a workload to a simulation that has not begun.
pub fn populate(sim: &mut Sim, workload: &Workload) -> Result<Roster, WorkloadError> {
    let machine = sim.machine();
    let online = machine.online();
    let total = workload.tasks(online.weight());
    if total > u64::from(TASKS_MAX) {
        return Err(WorkloadError::TooManyTasks(total));
    }
    let begin_ns = ns(workload.warmup);
    let end_ns = begin_ns + ns(workload.duration);
    let mut roster = Roster {
        groups: Vec::new(),
        begin_ns,
        end_ns,
    };
    let mut first = 0;
    for (index, group) in workload.groups.iter().enumerate() {
        let masks = masks(group, &machine)?;
        let start_ns = match group.start {
            Duration::ZERO => 0,
            start => begin_ns + ns(start),
        };
        let stop_ns = group.stop.map_or(end_ns, |stop| begin_ns + ns(stop));
        let mut builder = Builder {
            sim: &mut *sim,
            group,
            index: index as u32,
            seed: workload.seed,
            masks,
            window: Window { start_ns, stop_ns },
            first,
            members: 0,
        };
        builder.build();
        let count = builder.members;
        let active = stop_ns.min(end_ns).saturating_sub(start_ns.max(begin_ns));
        roster.groups.push(GroupTasks {
            group: group.clone(),
            tasks: first..first + count,
            active: Duration::from_nanos(active),
            hogs: is_hog(group),
        });
        first += count;
    }
    Ok(roster)
}

/// Whether tasks want the CPU all the time and weights decide who gets it.
fn is_hog(group: &Group) -> bool {
    let endless = match &group.kind {
        Kind::Loop(pattern) => pattern.sleep.is_zero() && !pattern.wake_next && !pattern.yields,
        _ => false,
    };
    let weighted = !matches!(group.policy, Policy::Fifo(_) | Policy::Rr(_));
    endless && weighted && group.start.is_zero() && group.stop.is_none()
}

/// Where the tasks of a group may run: task `i` has mask `i`, round and round.
fn masks(group: &Group, machine: &Machine) -> Result<Vec<CpuMask>, WorkloadError> {
    let online = machine.online();
    let masks = match &group.affinity {
        Affinity::All => vec![machine.possible()],
        Affinity::Cpus(cpus) => {
            let cpus: CpuMask = cpus.iter().collect();
            vec![cpus.and(&machine.possible())]
        }
        Affinity::OneEach => online
            .iter()
            .map(|cpu| [cpu].into_iter().collect())
            .collect(),
        Affinity::Llc(index) => {
            let llc = machine.llcs().get(*index as usize);
            vec![llc.copied().unwrap_or(CpuMask::EMPTY)]
        }
    };
    match masks.iter().all(|mask| mask.intersects(&online)) {
        true => Ok(masks),
        false => Err(WorkloadError::NoCpu {
            group: group.name.clone(),
            affinity: group.affinity.to_string(),
        }),
    }
}

/// Makes the tasks of one group.
struct Builder<'a> {
    sim: &'a mut Sim,
    group: &'a Group,
    index: u32,
    seed: u64,
    masks: Vec<CpuMask>,
    window: Window,
    /// The number of its first task.
    first: u32,
    members: u32,
}

impl Builder<'_> {
    fn jitter(&self) -> Jitter {
        Jitter::new(self.seed, self.index, self.members)
    }

    fn new_task(&self, behaviour: Box<dyn Behaviour>) -> NewTask {
        NewTask {
            comm: self.group.name.clone(),
            group: self.index,
            policy: self.group.policy,
            nice: self.group.nice,
            allowed: self.masks[self.members as usize % self.masks.len()],
            kthread: false,
            start_ns: self.window.start_ns,
            behaviour,
        }
    }

    fn add(&mut self, behaviour: impl Behaviour + 'static) {
        let new = self.new_task(Box::new(behaviour));
        let task = self.sim.add_task(new);
        debug_assert_eq!(task, TaskId(self.first + self.members));
        self.members += 1;
    }

    fn build(&mut self) {
        let online = self.sim.machine().online();
        let units = self.group.count.resolve(online.weight());
        match self.group.kind.clone() {
            Kind::Loop(pattern) => self.patterns(&pattern, units),
            Kind::Pipe => (0..units).for_each(|_| self.pipe()),
            Kind::Messaging {
                senders,
                receivers,
                bytes,
            } => (0..units).for_each(|_| self.messaging(senders, receivers, bytes)),
            Kind::ForkStorm { outstanding, run } => {
                (0..units).for_each(|_| self.storm(outstanding, ns(run), false));
            }
            Kind::ExecStorm { outstanding } => {
                (0..units).for_each(|_| self.storm(outstanding, 0, true));
            }
            Kind::AffinityStorm { run, target } => {
                for _ in 0..units {
                    let storm = AffinityStorm {
                        window: self.window,
                        run_ns: ns(run),
                        others: (target == Target::Group).then_some(self.first..self.first + units),
                        cpus: online,
                        jitter: self.jitter(),
                        ran: false,
                        changed: false,
                    };
                    self.add(storm);
                }
            }
            Kind::Frame {
                period,
                work,
                jitter_pct,
            } => {
                for _ in 0..units {
                    let frames = Frames::new(self.window, period, work, jitter_pct, self.jitter());
                    self.add(frames);
                }
            }
            Kind::Probe { period } => {
                for _ in 0..units {
                    self.add(Probe::new(self.window, ns(period)));
                }
            }
        }
    }

    fn patterns(&mut self, pattern: &Loop, units: u32) {
        let ring: Vec<_> = match pattern.wake_next {
            false => Vec::new(),
            true => (0..units)
                .map(|place| {
                    let words = u32::from(place < pattern.tokens);
                    self.sim.add_channel(ChannelKind::Futex, words, u32::MAX)
                })
                .collect(),
        };
        for place in 0..units as usize {
            let seat = (!ring.is_empty()).then(|| (ring[place], ring[(place + 1) % ring.len()]));
            let pattern = Pattern::new(self.window, pattern.clone(), seat, self.jitter());
            self.add(pattern);
        }
    }

    fn pipe(&mut self) {
        let mut channel = || self.sim.add_channel(ChannelKind::Pipe, 0, PIPE_ROOM);
        let (there, back) = (channel(), channel());
        let window = self.window;
        self.add(PipeEnd::new(window, there, back, true));
        self.add(PipeEnd::new(window, back, there, false));
    }

    fn messaging(&mut self, senders: u32, receivers: u32, bytes: u32) {
        let room = (SOCKET_BUFFER / (bytes + MESSAGE_OVERHEAD)).max(1);
        let sockets: Vec<_> = (0..receivers)
            .map(|_| self.sim.add_channel(ChannelKind::Socket, 0, room))
            .collect();
        let window = self.window;
        for _ in 0..senders {
            self.add(Sender::new(window, sockets.clone()));
        }
        for socket in sockets {
            self.add(Receiver::new(window, socket));
        }
    }

    fn storm(&mut self, outstanding: u32, run_ns: u64, exec: bool) {
        let child = Child {
            comm: self.group.name.clone(),
            group: self.index,
            policy: self.group.policy,
            nice: self.group.nice,
            allowed: self.masks[self.members as usize % self.masks.len()],
            run_ns,
            exec,
        };
        let window = self.window;
        self.add(Storm::new(window, outstanding, child));
    }
}

#[cfg(test)]
mod tests;
