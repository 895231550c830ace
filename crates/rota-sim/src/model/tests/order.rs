// SPDX-License-Identifier: GPL-2.0-only
//! In which order a CPU does things: slices, ticks, dispatch, preemption, kicks.

use super::super::consts::{SLICE_DFL_NS, dsq, enq, kick};
use super::*;

const LIFE: [Op; 6] = [
    Op::Runnable,
    Op::Running,
    Op::Stopping,
    Op::Quiescent,
    Op::Dispatch,
    Op::Enqueue,
];

/// All tasks in one queue, `slice_ns` each.
fn fifo(slice_ns: u64) -> Script {
    Script::with([])
        .on_init(|api| api.core.create_dsq(1, -1))
        .on_enqueue(move |api, task, flags| {
            api.insert(task, 1, slice_ns, flags);
        })
        .on_dispatch(|api, _, _| {
            api.move_to_local(1);
        })
}

fn fifo_with(slice_ns: u64, ops: &[Op]) -> Script {
    ops.iter()
        .fold(fifo(slice_ns), |script, &op| script.also(op))
}

#[test]
fn a_life_in_callbacks() {
    let script = fifo_with(5 * MS, &LIFE).also(Op::SelectCpu);
    let mut sim = sim("1x2x1", script);
    let acts = vec![Act::Run(MS), Act::SleepUntil(20 * MS), Act::Run(MS)];
    sim.add_task(doing("t", &[0, 1], 10 * MS, acts));
    assert_eq!(sim.run_until(15 * MS), None);
    let expected = [
        "select_cpu(0)",
        "runnable(0)",
        "enqueue(0)",
        "dispatch",
        "running(0)",
        "stopping(0)",
        "quiescent(0)",
        "dispatch",
    ];
    assert_eq!(callbacks(&sim, 10 * MS), expected);
}

#[test]
fn a_slice_that_ends_is_dispatch_stopping_enqueue_running() {
    let mut sim = sim("1x1x1", fifo_with(4 * MS, &LIFE));
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], 0));
    sim.run_until(4 * MS);
    let first = switches(&sim)[0].2.unwrap();
    let (prev, next) = (first, 1 - first);
    let expected = [
        "dispatch".to_owned(),
        format!("stopping({prev})"),
        format!("enqueue({prev})"),
        format!("running({next})"),
    ];
    assert_eq!(callbacks(&sim, 4 * MS), expected);
}

#[test]
fn slices_end_at_ticks_only() {
    // 5 ms are over at 5 ms, which the tick at 8 ms sees.
    let mut sim = sim("1x1x1", fifo(5 * MS));
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], 0));
    sim.run_until(25 * MS);
    let times: Vec<u64> = switches(&sim).iter().map(|s| s.0 / MS).collect();
    assert_eq!(times, [0, 8, 16, 24]);
}

#[test]
fn nobody_else_keeps_the_task_with_twenty_milliseconds() {
    let mut sim = sim("1x1x1", fifo_with(5 * MS, &LIFE));
    let task = sim.add_task(hog("a", &[0], 0));
    sim.run_until(100 * MS);
    // The first slice ends at the tick of 8 ms, then 20 ms at a time.
    let asked: Vec<u64> = moments(&sim, Op::Dispatch).iter().map(|t| t / MS).collect();
    assert_eq!(asked[asked.len() - 5..], [8, 28, 48, 68, 88]);
    assert_eq!(event(&sim, "SCX_EV_DISPATCH_KEEP_LAST"), 5);
    assert_eq!(event(&sim, "SCX_EV_REFILL_SLICE_DFL"), 5);
    assert!(moments(&sim, Op::Stopping).is_empty());
    assert_eq!(sim.tasks()[task.0 as usize].stats.cpu_ns, 100 * MS);
}

#[test]
fn dispatch_can_extend_prev_by_its_slice() {
    let script = fifo(4 * MS).on_dispatch(|api, _, prev| {
        use super::super::ops::Fields as _;
        if let Some(prev) = prev {
            api.tasks.set_slice(prev, 12 * MS);
        } else {
            api.move_to_local(1);
        }
    });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], 0));
    sim.run_until(100 * MS);
    assert_eq!(switches(&sim).len(), 1);
    assert_eq!(event(&sim, "SCX_EV_DISPATCH_KEEP_LAST"), 0);
}

#[test]
fn a_local_queue_goes_before_dispatch() {
    let script = Script::with(LIFE).on_enqueue(|api, task, flags| {
        api.insert(task, dsq::LOCAL, 4 * MS, flags);
    });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("a", &[0], MS));
    sim.add_task(hog("b", &[0], MS));
    sim.run_until(40 * MS);
    assert_eq!(switches(&sim).len(), 10);
    // At the load only, when there is nothing yet.
    assert_eq!(moments(&sim, Op::Dispatch), [0]);
}

#[test]
fn the_global_queue_is_served_without_dispatch() {
    let mut sim = sim("1x2x1", Script::with([Op::Dispatch]));
    for _ in 0..3 {
        sim.add_task(hog("a", &[0, 1], MS));
    }
    sim.run_until(200 * MS);
    let total: u64 = sim.tasks().iter().map(|t| t.stats.cpu_ns).sum();
    assert_eq!(total, 2 * 199 * MS);
    assert!(moments(&sim, Op::Dispatch).iter().all(|&at| at == 0));
}

#[test]
fn enq_last_gives_the_last_task_to_the_policy() {
    let script = fifo(4 * MS)
        .flags(flag::ENQ_LAST)
        .on_enqueue(|api, task, flags| {
            let last = flags & enq::LAST != 0;
            api.insert(task, if last { dsq::LOCAL } else { 1 }, 4 * MS, flags);
        });
    let mut sim = sim("1x1x1", script.also(Op::Stopping));
    sim.add_task(hog("a", &[0], 0));
    sim.run_until(40 * MS);
    assert_eq!(moments(&sim, Op::Stopping).len(), 10);
    assert_eq!(event(&sim, "SCX_EV_DISPATCH_KEEP_LAST"), 0);
    assert_eq!(sim.tasks()[0].stats.cpu_ns, 40 * MS);
}

#[test]
fn dispatch_is_asked_again_while_it_serves_others() {
    let script = fifo(20 * MS).on_dispatch(|api, cpu, _| {
        if cpu == 0 && api.core.dsq_nr_queued(1) > 0 {
            let task = api.core.dsq_peek(1).unwrap();
            let it = api.core.dsq_iter_new(1, 0).unwrap();
            let to = crate::kernel_api::DsqMove {
                task: Some(task),
                dsq: dsq::LOCAL_ON | 1,
                slice_ns: None,
                vtime: None,
                by_vtime: false,
                enq_flags: 0,
            };
            assert!(api.core.dsq_move(api.tasks, Some(it), to));
            api.core.dsq_iter_destroy(it);
        }
    });
    let mut sim = sim("1x2x1", script.on_select(|_, _, _, _| 0));
    sim.add_task(hog("a", &[0, 1], MS));
    sim.run_until(3 * MS);
    // CPU 0 serves CPU 1, is asked once more, and idles.
    let asked = moments(&sim, Op::Dispatch);
    assert_eq!(asked.iter().filter(|&&at| at == MS).count(), 2);
    assert_eq!(switches(&sim), [(MS, 1, Some(0))]);
}

#[test]
fn a_dispatch_that_never_ends_lets_interrupts_in_after_32_rounds() {
    let script = Script::with([])
        .on_enqueue(|api, task, flags| {
            api.insert(task, dsq::GLOBAL, 20 * MS, flags);
        })
        .on_init(|api| api.core.create_dsq(1, -1))
        .on_dispatch(|api, _, _| {
            // It claims to have dispatched somebody, whom nobody knows.
            if api.core.now_ns() < 2 {
                api.insert(TaskId(0), 1, 1, 0);
            }
        });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("a", &[0], 0));
    assert_eq!(sim.run_until(10 * MS), None);
    assert!(moments(&sim, Op::Dispatch).len() <= 64);
}

/// One task runs on CPU 0 with an endless slice; a second wakes at 1 ms.
fn against_a_runner(mut on_second: impl FnMut(&mut Api<'_, '_>, TaskId, u64) + 'static) -> Sim {
    let script = fifo(100 * MS).on_enqueue(move |api, task, flags| {
        if task.0 == 1 && flags & enq::WAKEUP != 0 {
            on_second(api, task, flags);
        } else {
            api.insert(task, 1, 100 * MS, flags);
        }
    });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(doing(
        "b",
        &[0],
        MS,
        vec![Act::Run(MS), Act::SleepUntil(MS * 1000)],
    ));
    sim.run_until(50 * MS);
    sim
}

#[test]
fn only_preemption_takes_a_cpu_from_a_task_with_slice_left() {
    let runs_at_1ms = |sim: &Sim| switches(sim).contains(&(MS, 0, Some(1)));
    let plain = against_a_runner(|api, task, flags| {
        api.insert(task, dsq::LOCAL, 5 * MS, flags);
    });
    assert!(!runs_at_1ms(&plain));
    let preempt = against_a_runner(|api, task, flags| {
        api.insert(task, dsq::LOCAL, 5 * MS, flags | enq::PREEMPT);
    });
    assert!(runs_at_1ms(&preempt));
    let kicked = against_a_runner(|api, task, flags| {
        api.insert(task, 1, 5 * MS, flags);
        api.core.kick_cpu(0, 0);
    });
    assert!(!runs_at_1ms(&kicked));
    let forced = against_a_runner(|api, task, flags| {
        api.insert(task, 1, 5 * MS, flags);
        api.core.kick_cpu(0, kick::PREEMPT);
    });
    assert!(runs_at_1ms(&forced));
    let idle_only = against_a_runner(|api, task, flags| {
        api.insert(task, 1, 5 * MS, flags);
        api.core.kick_cpu(0, kick::IDLE);
    });
    assert!(!runs_at_1ms(&idle_only));
}

#[test]
fn a_kick_wakes_an_idle_cpu() {
    for flags in [0, kick::IDLE] {
        let script =
            fifo(20 * MS)
                .on_select(|_, _, _, _| 0)
                .on_enqueue(move |api, task, enq_flags| {
                    api.insert(task, 1, 20 * MS, enq_flags);
                    api.core.kick_cpu(1, flags);
                });
        let mut sim = sim("1x2x1", script);
        sim.add_task(hog("a", &[0, 1], MS));
        sim.add_task(hog("b", &[0, 1], 2 * MS));
        sim.run_until(3 * MS);
        let at: Vec<u64> = switches(&sim).iter().map(|s| s.0).collect();
        assert_eq!(at, [MS, 2 * MS], "{flags}");
    }
}

#[test]
fn a_kick_with_wait_holds_the_kicker_until_the_other_has_chosen() {
    let script = fifo(100 * MS).on_tick(|api, task, _| {
        if task.0 == 0 && api.core.now_ns() == 4 * MS {
            api.core.kick_cpu(1, kick::WAIT | kick::PREEMPT);
        }
    });
    let mut sim = sim("1x2x1", script.also(Op::Dispatch));
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[1], 0));
    assert_eq!(sim.run_until(20 * MS), None);
    assert!(moments(&sim, Op::Dispatch).contains(&(4 * MS)));
    assert_eq!(sim.tasks()[0].stats.cpu_ns, 20 * MS);
}

#[test]
fn an_endless_slice_never_ends() {
    let mut sim = sim("1x1x1", fifo(consts::SLICE_INF));
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], 0));
    sim.run_until(1000 * MS);
    assert_eq!(switches(&sim).len(), 1);
}

#[test]
fn tick_may_end_a_slice() {
    let script = fifo(100 * MS).on_tick(|api, task, _| {
        use super::super::ops::Fields as _;
        api.tasks.set_slice(task, 0);
    });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], 0));
    sim.run_until(21 * MS);
    assert_eq!(switches(&sim).len(), 6);
}

#[test]
fn yield_gives_the_slice_away() {
    let mut sim = sim("1x1x1", fifo(100 * MS));
    let acts = vec![
        Act::Run(MS),
        Act::Yield,
        Act::Run(MS),
        Act::SleepUntil(u64::MAX / 2),
    ];
    sim.add_task(doing("a", &[0], 0, acts));
    sim.add_task(hog("b", &[0], MS / 2));
    sim.run_until(10 * MS);
    let order: Vec<_> = switches(&sim).iter().map(|s| (s.0 / MS, s.2)).collect();
    assert_eq!(order[..2], [(0, Some(0)), (1, Some(1))]);
}

#[test]
fn a_slice_of_zero_keeps_what_the_task_has() {
    let mut sim = sim("1x1x1", fifo(0));
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], 0));
    sim.run_until(100 * MS);
    // 20 ms from the start, then 1 ns each time: every tick.
    let at: Vec<u64> = switches(&sim).iter().map(|s| s.0 / MS).collect();
    assert_eq!(at[..4], [0, SLICE_DFL_NS / MS, 40, 44]);
}

#[test]
fn ticks_are_skewed_if_asked() {
    let config = Config {
        costs: Costs::free(),
        ..config("1x4x1", KernelVersion::V7_3)
    };
    let script = fifo(20 * MS).also(Op::Tick);
    let mut sim = Sim::new(&config, Box::new(Native::new(script)));
    for cpu in 0..4 {
        sim.add_task(hog("a", &[cpu], 0));
    }
    sim.run_until(4 * MS);
    assert_eq!(moments(&sim, Op::Tick), [MS, 2 * MS, 3 * MS, 4 * MS]);
}

#[test]
fn update_idle_tells_of_real_changes_only() {
    for kernel in [KernelVersion::V6_12, KernelVersion::V7_3] {
        let script = fifo_with(5 * MS, &[Op::UpdateIdle, Op::Running])
            .flags(flag::KEEP_BUILTIN_IDLE)
            .on_dispatch(|api, _, _| {
                api.move_to_local(1);
            });
        let mut sim = sim_on("1x1x1", kernel, script);
        sim.add_task(doing(
            "a",
            &[0],
            MS,
            vec![Act::Run(MS), Act::SleepUntil(u64::MAX / 2)],
        ));
        sim.run_until(10 * MS);
        let seen = callbacks(&sim, MS);
        let seen: Vec<_> = seen
            .iter()
            .filter(|name| !name.starts_with("dispatch"))
            .collect();
        assert_eq!(
            seen,
            ["enqueue(0)", "update_idle", "running(0)", "update_idle"]
        );
    }
}

#[test]
fn masks_change_before_update_idle_since_6_16() {
    for (kernel, marked) in [(KernelVersion(6, 12), false), (KernelVersion(6, 16), true)] {
        let mut script = fifo_with(5 * MS, &[Op::UpdateIdle]).flags(flag::KEEP_BUILTIN_IDLE);
        script.update_idle = Some(Box::new(move |api, cpu| {
            let mask = api
                .core
                .peek_idle_mask(crate::kernel_api::IdleMask::Cpu, None);
            let idle = api.core.current().is_some();
            assert_eq!(mask.contains(cpu), idle == marked);
        }));
        let mut sim = sim_on("1x1x1", kernel, script);
        sim.add_task(doing(
            "a",
            &[0],
            MS,
            vec![Act::Run(MS), Act::SleepUntil(u64::MAX / 2)],
        ));
        sim.run_until(10 * MS);
        assert_eq!(moments(&sim, Op::UpdateIdle).len(), 2);
    }
}

#[test]
fn timers_fire_when_they_are_due() {
    let mut script = fifo(5 * MS).also(Op::Timer).on_init(|api| {
        api.core.timer_start(7, 3 * MS);
        api.core.timer_start(8, 4 * MS);
        api.core.timer_start(9, 5 * MS);
        assert!(api.core.timer_cancel(8) && !api.core.timer_cancel(8));
        // Set anew: the first moment is void.
        api.core.timer_start(9, 6 * MS);
        api.core.create_dsq(1, -1)
    });
    script.timer = Some(Box::new(|api, _, timer| {
        if timer == 7 && api.core.now_ns() < 10 * MS {
            api.core.timer_start(7, 10 * MS);
        }
    }));
    let mut sim = sim("1x1x1", script);
    sim.run_until(20 * MS);
    assert_eq!(moments(&sim, Op::Timer), [3 * MS, 6 * MS, 10 * MS]);
}
