// SPDX-License-Identifier: GPL-2.0-only
//! From a workload to an assignment for every task on this machine.

use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::machine::Machine;
use super::roles::{self, Role};
use super::sys::SharedArray;
use super::task::Assignment;
use super::{Options, RunError};
use crate::spec::{Affinity, CpuList, Group, Kind, TASKS_MAX, Tasks, Workload};

/// Everything that tasks need, made before the first of them starts.
pub struct Plan {
    /// One for each task, groups in order.
    pub assignments: Vec<Assignment>,
    /// The tasks of each group.
    pub groups: Vec<Range<usize>>,
}

impl Plan {
    /// Plans `workload` for `machine`.
    pub fn new(
        workload: &Workload,
        machine: &Machine,
        options: &Options,
    ) -> Result<Self, RunError> {
        let total = workload.tasks(machine.cpus());
        if total > u64::from(TASKS_MAX) {
            return Err(RunError::Workload(format!(
                "{total} tasks on {} CPUs; the limit is {TASKS_MAX}: lower `count`",
                machine.cpus()
            )));
        }
        let mut plan = Self {
            assignments: Vec::new(),
            groups: Vec::new(),
        };
        for (index, group) in workload.groups.iter().enumerate() {
            let masks = Masks::new(group, machine)?;
            let first = plan.assignments.len();
            let end = first + group.task_count(machine.cpus()) as usize;
            let context = Context {
                group,
                machine,
                options,
                tasks: first..end,
            };
            let roles = context.roles().map_err(|source| RunError::System {
                what: format!("cannot set up group \"{}\"", group.name),
                source,
            })?;
            for (member, role) in roles.into_iter().enumerate() {
                plan.assignments.push(Assignment {
                    task: plan.assignments.len(),
                    group: index,
                    member: u32::try_from(member).expect("tasks are limited"),
                    name: group.name.clone(),
                    mask: masks.of(member),
                    policy: group.policy,
                    nice: group.nice,
                    start: group.start,
                    stop: group.stop,
                    role,
                });
            }
            debug_assert_eq!(plan.assignments.len(), end);
            plan.groups.push(first..end);
        }
        Ok(plan)
    }
}

/// The affinity of a group, resolved.
enum Masks {
    Free,
    Same(CpuList),
    OneEach(Vec<u32>),
}

impl Masks {
    fn new(group: &Group, machine: &Machine) -> Result<Self, RunError> {
        let refuse = |why: String| {
            let name = &group.name;
            Err(RunError::Workload(format!(
                "group \"{name}\": `affinity` is {why}"
            )))
        };
        let allowed = &machine.allowed;
        match &group.affinity {
            Affinity::All => Ok(Self::Free),
            Affinity::OneEach => Ok(Self::OneEach(allowed.iter().collect())),
            Affinity::Cpus(cpus) => {
                let missing = cpus.difference(allowed);
                match missing.is_empty() {
                    true => Ok(Self::Same(cpus.clone())),
                    false => refuse(format!(
                        "\"{cpus}\", but CPU {missing} is not online or not allowed here; \
                         allowed are {allowed}"
                    )),
                }
            }
            Affinity::Llc(index) => match machine.llcs.get(*index as usize) {
                Some(llc) => Ok(Self::Same(llc.clone())),
                None => refuse(format!(
                    "\"llc:{index}\", but this machine has LLCs 0..={}",
                    machine.llcs.len().saturating_sub(1)
                )),
            },
        }
    }

    fn of(&self, member: usize) -> Option<CpuList> {
        match self {
            Self::Free => None,
            Self::Same(cpus) => Some(cpus.clone()),
            Self::OneEach(cpus) => Some(std::iter::once(cpus[member % cpus.len()]).collect()),
        }
    }
}

/// One group on its way to roles.
struct Context<'a> {
    group: &'a Group,
    machine: &'a Machine,
    options: &'a Options,
    tasks: Range<usize>,
}

impl Context<'_> {
    fn roles(&self) -> io::Result<Vec<Role>> {
        let units = self.group.count.resolve(self.machine.cpus()) as usize;
        match self.group.kind.clone() {
            Kind::Loop(pattern) => {
                let ring = match pattern.wake_next {
                    true => Some(Arc::new(roles::Ring::new(units, pattern.tokens)?)),
                    false => None,
                };
                Ok((0..units)
                    .map(|place| {
                        let seat = ring.clone().map(|ring| (ring, place));
                        Role::Pattern(roles::Pattern {
                            pattern: pattern.clone(),
                            seat,
                        })
                    })
                    .collect())
            }
            Kind::Pipe => {
                let mut ends = Vec::new();
                for _ in 0..units {
                    let (lead, follow) = roles::pair()?;
                    ends.extend([Role::Pipe(lead), Role::Pipe(follow)]);
                }
                Ok(ends)
            }
            Kind::Messaging {
                senders,
                receivers,
                bytes,
            } => {
                let mut all = Vec::new();
                for _ in 0..units {
                    messaging_set(senders, receivers, bytes as usize, &mut all)?;
                }
                Ok(all)
            }
            Kind::ForkStorm { outstanding, run } => self.storms(units, outstanding, run, None),
            Kind::ExecStorm { outstanding } => {
                let program = Some(self.options.exec.clone());
                self.storms(units, outstanding, std::time::Duration::ZERO, program)
            }
            kind => Ok((0..units).map(|_| self.simple(&kind)).collect()),
        }
    }

    /// The role of a kind whose tasks share nothing.
    fn simple(&self, kind: &Kind) -> Role {
        match *kind {
            Kind::AffinityStorm { run, target } => {
                let cpus = match Masks::new(self.group, self.machine) {
                    Ok(Masks::Same(cpus)) => cpus,
                    _ => self.machine.allowed.clone(),
                };
                let group = self.tasks.clone();
                Role::AffinityStorm(roles::AffinityStorm {
                    run,
                    target,
                    cpus,
                    group,
                })
            }
            Kind::Frame {
                period,
                work,
                jitter_pct,
            } => Role::Frames(roles::Frames {
                period,
                work,
                jitter_pct,
            }),
            Kind::Probe { period } => Role::Probe(roles::Probe { period }),
            _ => unreachable!("kinds whose tasks share something are handled above"),
        }
    }

    fn storms(
        &self,
        units: usize,
        outstanding: u32,
        run: std::time::Duration,
        exec: Option<Vec<CString>>,
    ) -> io::Result<Vec<Role>> {
        let storm = |_| {
            let outstanding = outstanding as usize;
            let started_ns = SharedArray::new(outstanding)?;
            Ok(Role::Storm(roles::Storm {
                outstanding,
                run,
                exec: exec.clone(),
                started_ns,
            }))
        };
        (0..units).map(storm).collect()
    }
}

/// Adds one set of senders and receivers.
fn messaging_set(
    senders: u32,
    receivers: u32,
    bytes: usize,
    all: &mut Vec<Role>,
) -> io::Result<()> {
    let mut to = Vec::new();
    let mut listeners = Vec::new();
    for _ in 0..receivers {
        let (near, far) = UnixStream::pair()?;
        to.push(Arc::new(near));
        listeners.push(Role::Receiver(roles::Receiver { from: far, bytes }));
    }
    let sender = |_| {
        Role::Sender(roles::Sender {
            to: to.clone(),
            bytes,
        })
    };
    all.extend((0..senders).map(sender));
    all.extend(listeners);
    Ok(())
}

/// Whether the tasks of a group are processes.
pub fn as_processes(group: &Group) -> bool {
    group.tasks == Tasks::Processes
}
