// SPDX-License-Identifier: GPL-2.0-only
//! The model keeps to its grammar: in all shipped workloads, on old and new kernels,
//! whatever the costs.

use std::time::Duration;

use rota_load::spec::Workload;
use rota_load::workloads;

use super::*;
use crate::model::grammar::Order;
use crate::workload::populate;

fn everything(slice_ns: u64) -> Script {
    let ops = Op::ALL.into_iter();
    let mut script = Script::with(ops.filter(|op| !matches!(op, Op::Timer)))
        .flags(flag::KEEP_BUILTIN_IDLE)
        .on_init(|api| api.core.create_dsq(1, -1))
        .on_select(move |api, task, prev, flags| toys::place_idle(api, task, prev, flags, slice_ns))
        .on_enqueue(move |api, task, flags| {
            api.insert(task, 1, slice_ns, flags);
            toys::kick_idle(api, task);
        })
        .on_dispatch(|api, _, _| {
            api.move_to_local(1);
        });
    script.update_idle = Some(Box::new(|api, cpu| {
        if api.core.dsq_nr_queued(1) > 0 {
            api.core.kick_cpu(cpu as i32, consts::kick::IDLE);
        }
    }));
    script
}

fn check(sim: &Sim, what: &str) {
    let mut orders = vec![Order::unborn(); sim.tasks().len()];
    sim.with_trace(|trace| {
        for record in trace.records() {
            let (Event::Callback(op), Some(task)) = (record.event, record.task) else {
                continue;
            };
            let order = &mut orders[task.0 as usize];
            assert!(
                order.take(op),
                "{what}: {op:?} of {task:?}, {order:?}, at {}",
                record.at_ns
            );
        }
    });
    assert!(!orders.iter().any(Order::is_unborn));
}

#[test]
fn shipped_workloads_keep_the_order() {
    for named in workloads::ALL {
        for kernel in [
            KernelVersion(6, 12),
            KernelVersion(6, 18),
            KernelVersion(7, 3),
        ] {
            let instant = Costs {
                // A pair of tasks that only call the kernel would never let time pass.
                syscall_ns: 5_000,
                ..Costs::free()
            };
            for costs in [instant, Costs::default()] {
                let mut workload = Workload::parse(&named.file(), named.toml).unwrap();
                workload.duration = Duration::from_millis(20);
                workload.warmup = Duration::ZERO;
                let config = Config {
                    costs,
                    ..config("2x2x2", kernel)
                };
                let policy = Native::new(everything(3 * MS));
                let mut sim = Sim::new(&config, Box::new(policy));
                let roster = populate(&mut sim, &workload).unwrap();
                let what = format!("{} on {kernel}", named.name);
                assert_eq!(sim.run_until(roster.end_ns), None, "{what}");
                sim.unload_at(roster.end_ns);
                assert_eq!(
                    sim.run_until(roster.end_ns + MS).map(|e| e.kind),
                    Some(ExitKind::Unreg)
                );
                check(&sim, &what);
            }
        }
    }
}

#[test]
fn real_time_and_hotplug_keep_the_order() {
    let mut script = everything(3 * MS);
    script.table.ops = script.table.ops.with(Op::CpuOnline).with(Op::CpuOffline);
    let mut sim = Sim::new(
        &config("2x2x1", KernelVersion::V7_3),
        Box::new(Native::new(script)),
    );
    for cpu in 0..4 {
        sim.add_task(hog("free", &[0, 1, 2, 3], cpu * MS));
        sim.add_task(hog("pinned", &[cpu as u32], 0));
        let mut bursts = 0;
        sim.add_task(NewTask {
            policy: rota_load::spec::Policy::Fifo(3),
            ..NewTask::new("rt", cpus(&[0, 1, 2, 3]), move |view: TaskView<'_>| {
                bursts += 1;
                match bursts % 2 {
                    0 => Act::Run(2 * MS),
                    _ => Act::SleepUntil(view.now_ns + 5 * MS),
                }
            })
        });
    }
    sim.hotplug_at(30 * MS, 3, false);
    sim.bypass_at(50 * MS, 20 * MS);
    sim.hotplug_at(90 * MS, 3, true);
    assert_eq!(sim.run_until(200 * MS), None);
    check(&sim, "real time");
}
