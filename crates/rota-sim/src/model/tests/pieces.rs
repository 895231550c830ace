// SPDX-License-Identifier: GPL-2.0-only
//! Callbacks in pieces: what happens between two of them, and what waits.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::native::{Table, Tabled};
use super::*;
use crate::kernel_api::DsqInsert;

type Log = Rc<RefCell<Vec<(u64, u32, &'static str, bool)>>>;

/// Inserts locally; each `enqueue` and `tick` takes two pieces of `insns`.
struct Slow {
    tasks: Table,
    log: Log,
    insns: u64,
}

impl Tabled for Slow {
    fn tasks(&self) -> &Table {
        &self.tasks
    }
    fn tasks_mut(&mut self) -> &mut Table {
        &mut self.tasks
    }
}

impl Ops for Slow {
    fn table(&self) -> OpsTable {
        table("slow", [Op::Enqueue, Op::Tick, Op::SelectCpu])
    }

    fn step(
        &mut self,
        activation: &mut Activation,
        core: &mut Context<'_>,
    ) -> Result<Progress, Fault> {
        let (now_ns, cpu) = (core.now_ns(), activation.cpu);
        let op = activation.callback.op().name();
        if activation.state.is_none() {
            activation.state = Some(Box::new(7u32));
            self.log.borrow_mut().push((now_ns, cpu, op, true));
            let insns = self.insns;
            return Ok(Progress::Pending { insns });
        }
        let state = activation
            .state
            .take()
            .and_then(|state| state.downcast::<u32>().ok());
        assert_eq!(state.as_deref(), Some(&7));
        self.log.borrow_mut().push((now_ns, cpu, op, false));
        let mut value = 0;
        match activation.callback {
            Callback::Enqueue { task, enq_flags } => {
                let insert = DsqInsert {
                    task: Some(task),
                    dsq: consts::dsq::LOCAL,
                    slice_ns: 100 * MS,
                    vtime: None,
                    enq_flags,
                };
                core.dsq_insert(&mut self.tasks, insert);
            }
            Callback::SelectCpu { prev_cpu, .. } => value = prev_cpu.into(),
            _ => {}
        }
        Ok(Progress::Done { value, insns: 0 })
    }
}

fn slow(machine: &str, insns: u64) -> (Sim, Log) {
    let log = Log::default();
    let policy = Slow {
        tasks: Table::default(),
        log: Rc::clone(&log),
        insns,
    };
    let config = Config {
        costs: Costs {
            insn_ps: 1000,
            tick_phase: TickPhase::Aligned,
            ..Costs::free()
        },
        ..config(machine, KernelVersion::V7_3)
    };
    (Sim::new(&config, Box::new(policy)), log)
}

#[test]
fn time_passes_between_pieces_and_other_cpus_go_on() {
    let (mut sim, log) = slow("1x2x1", 1000);
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[1], 500));
    sim.run_until(3000);
    let seen: Vec<_> = log
        .borrow()
        .iter()
        .map(|&(at, cpu, _, first)| (at, cpu, first))
        .collect();
    let expected = [
        (0, 0, true),
        (500, 1, true),
        (1000, 0, false),
        (1500, 1, false),
    ];
    assert_eq!(seen, expected);
    assert_eq!(sim.ops()[0].1.longest_insns, 1000);
}

#[test]
fn a_run_queues_lock_is_waited_for() {
    // Both wake on CPU 0's queue: one by its timer there, one by a writer on CPU 1.
    let (mut sim, log) = slow("1x2x1", 1000);
    let pipe = sim.add_channel(ChannelKind::Futex, 0, 1);
    sim.add_task(doing(
        "reader",
        &[0],
        0,
        vec![Act::Receive(pipe), Act::Run(MS)],
    ));
    sim.add_task(doing(
        "timer",
        &[0],
        0,
        vec![Act::SleepUntil(100_000), Act::Run(MS)],
    ));
    let acts = vec![Act::SleepUntil(99_700), Act::Run(1), Act::Send(pipe)];
    sim.add_task(doing("writer", &[1], 0, acts));
    sim.run_until(MS);
    // The writer's own enqueue ends at 100700; it wakes the reader while the timer's
    // callback holds the lock up to 101000.
    let late: Vec<_> = log
        .borrow()
        .iter()
        .filter(|entry| entry.0 >= 100_000)
        .map(|&(at, cpu, _, first)| (at, cpu, first))
        .collect();
    let expected = [
        (100_000, 0, true),
        (100_700, 1, false),
        (101_000, 0, false),
        (101_000, 1, true),
        (102_000, 1, false),
    ];
    assert_eq!(late, expected);
    assert!(sim.totals().rq_lock_waits >= 1);
}

#[test]
fn a_callback_delays_the_interrupts_of_its_cpu() {
    let (mut sim, log) = slow("1x1x1", MS);
    sim.add_task(hog("a", &[0], 0));
    // The tick's callback runs from 4 to 5 ms; the sleeper is due in between.
    sim.add_task(doing("b", &[0], 4 * MS + 500, vec![Act::Run(1)]));
    sim.run_until(7 * MS);
    let seen: Vec<_> = log
        .borrow()
        .iter()
        .map(|entry| (entry.0, entry.2))
        .collect();
    assert!(seen.contains(&(4 * MS, "tick")), "{seen:?}");
    assert!(seen.contains(&(5 * MS, "enqueue")), "{seen:?}");
}

#[test]
fn a_callback_that_never_returns_ejected() {
    let (mut sim, _) = slow("1x1x1", 200_000_000);
    sim.add_task(hog("a", &[0], 0));
    let exit = sim.run_until(1000 * MS).unwrap();
    assert_eq!(exit.message, "ops.enqueue() does not return");
}

#[test]
fn a_fault_ejected() {
    struct Faulty(Table);
    impl Tabled for Faulty {
        fn tasks(&self) -> &Table {
            &self.0
        }
        fn tasks_mut(&mut self) -> &mut Table {
            &mut self.0
        }
    }
    impl Ops for Faulty {
        fn table(&self) -> OpsTable {
            table("faulty", [Op::Enqueue])
        }
        fn step(&mut self, _: &mut Activation, _: &mut Context<'_>) -> Result<Progress, Fault> {
            Err(Fault("NULL at instruction 7".into()))
        }
    }
    let faulty = Faulty(Table::default());
    let mut sim = Sim::new(&config("1x1x1", KernelVersion::V7_3), Box::new(faulty));
    sim.add_task(hog("a", &[0], 0));
    let exit = sim.run_until(MS).unwrap();
    assert_eq!(exit.message, "ops.enqueue(): NULL at instruction 7");
}
