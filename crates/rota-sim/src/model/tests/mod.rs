// SPDX-License-Identifier: GPL-2.0-only
//! The rules of the core, one by one: a scripted policy and a few tasks, without
//! any cost, so that every moment is exact.

mod eject;
mod grammar;
mod order;
mod pieces;
mod properties;
mod queues;
mod tasks;

use super::consts::flag;
use super::native::{Api, Native, Policy, table};
use super::ops::{Op, OpsTable};
use super::*;
use crate::kernel_api::{CpuMask, TaskId};
use crate::trace::{Event, Record};

const MS: u64 = 1_000_000;

type OnSelect = Box<dyn FnMut(&mut Api<'_, '_>, TaskId, u32, u64) -> i32>;
type OnTask = Box<dyn FnMut(&mut Api<'_, '_>, TaskId, u64)>;
type OnDispatch = Box<dyn FnMut(&mut Api<'_, '_>, u32, Option<TaskId>)>;
type OnInit = Box<dyn FnMut(&mut Api<'_, '_>) -> i32>;
type OnInitTask = Box<dyn FnMut(&mut Api<'_, '_>, TaskId, bool) -> i32>;
type OnCpu = Box<dyn FnMut(&mut Api<'_, '_>, u32)>;

/// A policy made of closures. What has none does nothing.
#[derive(Default)]
struct Script {
    table: OpsTable,
    select: Option<OnSelect>,
    enqueue: Option<OnTask>,
    dispatch: Option<OnDispatch>,
    running: Option<OnTask>,
    stopping: Option<OnTask>,
    tick: Option<OnTask>,
    init: Option<OnInit>,
    init_task: Option<OnInitTask>,
    update_idle: Option<OnCpu>,
    timer: Option<OnTask>,
}

impl Script {
    /// Every callback that is named is called and shows in the trace.
    fn with(ops: impl IntoIterator<Item = Op>) -> Self {
        Self {
            table: table("script", ops),
            ..Self::default()
        }
    }

    fn also(mut self, op: Op) -> Self {
        self.table.ops = self.table.ops.with(op);
        self
    }

    fn flags(mut self, flags: u64) -> Self {
        self.table.flags |= flags;
        self
    }

    fn on_select(
        mut self,
        act: impl FnMut(&mut Api<'_, '_>, TaskId, u32, u64) -> i32 + 'static,
    ) -> Self {
        self.select = Some(Box::new(act));
        self.also(Op::SelectCpu)
    }

    fn on_enqueue(mut self, act: impl FnMut(&mut Api<'_, '_>, TaskId, u64) + 'static) -> Self {
        self.enqueue = Some(Box::new(act));
        self.also(Op::Enqueue)
    }

    fn on_dispatch(
        mut self,
        act: impl FnMut(&mut Api<'_, '_>, u32, Option<TaskId>) + 'static,
    ) -> Self {
        self.dispatch = Some(Box::new(act));
        self.also(Op::Dispatch)
    }

    fn on_stopping(mut self, act: impl FnMut(&mut Api<'_, '_>, TaskId, u64) + 'static) -> Self {
        self.stopping = Some(Box::new(act));
        self.also(Op::Stopping)
    }

    fn on_running(mut self, act: impl FnMut(&mut Api<'_, '_>, TaskId, u64) + 'static) -> Self {
        self.running = Some(Box::new(act));
        self.also(Op::Running)
    }

    fn on_tick(mut self, act: impl FnMut(&mut Api<'_, '_>, TaskId, u64) + 'static) -> Self {
        self.tick = Some(Box::new(act));
        self.also(Op::Tick)
    }

    fn on_init(mut self, act: impl FnMut(&mut Api<'_, '_>) -> i32 + 'static) -> Self {
        self.init = Some(Box::new(act));
        self.also(Op::Init)
    }

    fn on_init_task(
        mut self,
        act: impl FnMut(&mut Api<'_, '_>, TaskId, bool) -> i32 + 'static,
    ) -> Self {
        self.init_task = Some(Box::new(act));
        self.also(Op::InitTask)
    }
}

impl Policy for Script {
    fn table(&self) -> OpsTable {
        self.table.clone()
    }

    fn select_cpu(&mut self, api: &mut Api<'_, '_>, task: TaskId, prev: u32, flags: u64) -> i32 {
        match &mut self.select {
            Some(act) => act(api, task, prev, flags),
            None => prev as i32,
        }
    }

    fn enqueue(&mut self, api: &mut Api<'_, '_>, task: TaskId, flags: u64) {
        if let Some(act) = &mut self.enqueue {
            act(api, task, flags);
        }
    }

    fn dispatch(&mut self, api: &mut Api<'_, '_>, cpu: u32, prev: Option<TaskId>) {
        if let Some(act) = &mut self.dispatch {
            act(api, cpu, prev);
        }
    }

    fn running(&mut self, api: &mut Api<'_, '_>, task: TaskId) {
        if let Some(act) = &mut self.running {
            act(api, task, 0);
        }
    }

    fn stopping(&mut self, api: &mut Api<'_, '_>, task: TaskId, runnable: bool) {
        if let Some(act) = &mut self.stopping {
            act(api, task, runnable.into());
        }
    }

    fn tick(&mut self, api: &mut Api<'_, '_>, task: TaskId) {
        if let Some(act) = &mut self.tick {
            act(api, task, 0);
        }
    }

    fn init(&mut self, api: &mut Api<'_, '_>) -> i32 {
        match &mut self.init {
            Some(act) => act(api),
            None => 0,
        }
    }

    fn init_task(&mut self, api: &mut Api<'_, '_>, task: TaskId, fork: bool) -> i32 {
        match &mut self.init_task {
            Some(act) => act(api, task, fork),
            None => 0,
        }
    }

    fn update_idle(&mut self, api: &mut Api<'_, '_>, cpu: u32, _: bool) {
        if let Some(act) = &mut self.update_idle {
            act(api, cpu);
        }
    }

    fn timer(&mut self, api: &mut Api<'_, '_>, timer: u64) {
        if let Some(act) = &mut self.timer {
            act(api, TaskId(0), timer);
        }
    }
}

/// A simulation whose ticks are aligned and in which nothing costs anything.
fn config(machine: &str, kernel: KernelVersion) -> Config {
    Config {
        constants: Constants::of(kernel),
        costs: Costs {
            tick_phase: TickPhase::Aligned,
            ..Costs::free()
        },
        keep_trace: true,
        ..Config::new(machine.parse().unwrap())
    }
}

fn sim_on(machine: &str, kernel: KernelVersion, script: Script) -> Sim {
    Sim::new(&config(machine, kernel), Box::new(Native::new(script)))
}

fn sim(machine: &str, script: Script) -> Sim {
    sim_on(machine, KernelVersion::V7_3, script)
}

fn cpus(list: &[u32]) -> CpuMask {
    list.iter().copied().collect()
}

/// A hog that starts at a moment and may run on some CPUs.
fn hog(comm: &str, allowed: &[u32], start_ns: u64) -> NewTask {
    NewTask {
        start_ns,
        ..NewTask::new(comm, cpus(allowed), Hog)
    }
}

/// A task that does these things and exits.
fn doing(comm: &str, allowed: &[u32], start_ns: u64, acts: Vec<Act>) -> NewTask {
    let mut acts = acts.into_iter();
    NewTask {
        start_ns,
        ..NewTask::new(comm, cpus(allowed), move |_: TaskView<'_>| {
            acts.next().unwrap_or(Act::Exit)
        })
    }
}

/// The names of the callbacks from `from_ns` on, with the task's number.
fn callbacks(sim: &Sim, from_ns: u64) -> Vec<String> {
    let name = |record: &Record| match record.event {
        Event::Callback(op) if record.at_ns >= from_ns => Some(match record.task {
            Some(task) => format!("{}({})", op.name(), task.0),
            None => op.name().to_owned(),
        }),
        _ => None,
    };
    sim.with_trace(|trace| trace.records().iter().filter_map(name).collect())
}

/// When a callback was entered, in nanoseconds.
fn moments(sim: &Sim, op: Op) -> Vec<u64> {
    sim.with_trace(|trace| {
        let of = trace.records().iter();
        of.filter(|record| record.event == Event::Callback(op))
            .map(|record| record.at_ns)
            .collect()
    })
}

/// What each CPU runs over time: moment, CPU, task.
fn switches(sim: &Sim) -> Vec<(u64, u32, Option<u32>)> {
    sim.with_trace(|trace| {
        let of = trace.records().iter();
        of.filter(|record| record.event == Event::Switch)
            .map(|record| (record.at_ns, record.cpu, record.task.map(|task| task.0)))
            .collect()
    })
}

fn event(sim: &Sim, name: &str) -> i64 {
    let events = sim.events();
    let found = events.iter().find(|(known, _)| *known == name);
    found.map_or(0, |(_, count)| *count)
}
