// SPDX-License-Identifier: GPL-2.0-only
//! Queues of the policy: custody, iterators, moves, other CPUs' local queues.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::consts::{dsq, enq, errno};
use super::*;
use crate::kernel_api::DsqMove;

fn shared() -> Script {
    Script::with([])
        .on_init(|api| api.core.create_dsq(1, -1))
        .on_enqueue(|api, task, flags| {
            api.insert(task, 1, 4 * MS, flags);
        })
        .on_dispatch(|api, _, _| {
            api.move_to_local(1);
        })
}

#[test]
fn queues_are_made_and_destroyed() {
    let script = shared().on_init(|api| {
        assert_eq!(api.core.create_dsq(1, -1), 0);
        assert_eq!(api.core.create_dsq(1, -1), errno::EXIST);
        assert_eq!(api.core.create_dsq(dsq::GLOBAL, -1), errno::INVAL);
        assert_eq!(api.core.create_dsq(2, 7), errno::INVAL);
        assert_eq!(api.core.create_dsq(2, 0), 0);
        assert_eq!(api.core.dsq_nr_queued(2), 0);
        api.core.destroy_dsq(2);
        assert_eq!(api.core.dsq_nr_queued(2), errno::NOENT);
        assert_eq!(api.core.dsq_nr_queued(dsq::GLOBAL), errno::NOENT);
        assert_eq!(api.core.dsq_nr_queued(dsq::LOCAL_ON | 1), 0);
        0
    });
    assert_eq!(sim("1x2x1", script).run_until(MS), None);
}

#[test]
fn a_queue_is_passed_over_for_those_that_may_not_run_here() {
    let script = shared().on_select(|_, _, _, _| 0);
    let mut sim = sim("1x2x1", script);
    sim.add_task(hog("runs", &[0], 0));
    sim.add_task(hog("pinned", &[0], MS));
    sim.add_task(hog("free", &[0, 1], 2 * MS));
    // CPU 1 has to be sent for it: a tick of CPU 0 does nothing of the kind.
    sim.add_task(doing("wakes", &[1], 3 * MS, vec![Act::Run(1)]));
    sim.run_until(3 * MS + 2);
    let tasks = sim.tasks();
    let free = &tasks[2];
    assert_eq!(
        (free.stats.switches, free.stats.moves[1]),
        (1, u64::from(free.allowed.contains(0)))
    );
    assert_eq!(tasks[1].stats.switches, 0);
}

#[test]
fn an_iterator_shows_those_that_were_there() {
    let seen: Rc<RefCell<Vec<Vec<u32>>>> = Rc::default();
    let log = Rc::clone(&seen);
    let script = shared().on_enqueue(move |api, task, flags| {
        api.insert(task, 1, 4 * MS, flags);
        for reverse in [0, dsq::ITER_REV] {
            let iter = api.core.dsq_iter_new(1, reverse).unwrap();
            let all = std::iter::from_fn(|| api.core.dsq_iter_next(iter));
            let all: Vec<u32> = all.map(|task| task.0).collect();
            assert_eq!(api.core.dsq_iter_next(iter), None);
            api.core.dsq_iter_destroy(iter);
            log.borrow_mut().push(all);
        }
        assert_eq!(api.core.dsq_iter_new(9, 0), Err(errno::NOENT));
        assert_eq!(api.core.dsq_iter_new(1, 64), Err(errno::INVAL));
    });
    let mut sim = sim("1x1x1", script);
    for start in 0..4 {
        sim.add_task(hog("t", &[0], start * MS / 2));
    }
    sim.run_until(2 * MS);
    let expected: [&[u32]; 8] = [&[], &[], &[], &[], &[1], &[1], &[1, 2], &[2, 1]];
    assert_eq!(*seen.borrow(), expected);
}

#[test]
fn moves_take_slice_and_time_along() {
    use super::super::ops::Fields as _;
    let script = shared()
        .on_init(|api| api.core.create_dsq(1, -1) + api.core.create_dsq(2, -1))
        .on_dispatch(|api, _, _| {
            if let Some(task) = api.core.dsq_peek(1) {
                let iter = api.core.dsq_iter_new(1, 0).unwrap();
                let to = DsqMove {
                    task: Some(task),
                    dsq: 2,
                    slice_ns: Some(8 * MS),
                    vtime: Some(77),
                    by_vtime: true,
                    enq_flags: 0,
                };
                assert!(api.core.dsq_move(api.tasks, Some(iter), to));
                // It is not there any more.
                assert!(!api.core.dsq_move(api.tasks, Some(iter), to));
                assert!(!api.core.dsq_move(api.tasks, None, to));
                api.core.dsq_iter_destroy(iter);
                assert_eq!(
                    (api.tasks.slice(task), api.tasks.dsq_vtime(task)),
                    (8 * MS, 77)
                );
            }
            api.move_to_local(2);
        });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("a", &[0], MS));
    sim.add_task(hog("b", &[0], MS));
    assert_eq!(sim.run_until(100 * MS), None);
    assert_eq!(switches(&sim).len(), 13);
}

#[test]
fn custody_ends_with_a_dequeue_since_7_1() {
    // Before, only a task that the policy holds itself is taken from it.
    for (kernel, by_dispatch, by_change) in
        [(KernelVersion(6, 12), 0, 0), (KernelVersion(7, 1), 1, 1)]
    {
        let mut sim = sim_on("1x1x1", kernel, shared().also(Op::Dequeue));
        sim.add_task(doing(
            "a",
            &[0],
            MS,
            vec![Act::Run(MS), Act::SleepUntil(u64::MAX / 2)],
        ));
        sim.run_until(3 * MS);
        assert_eq!(moments(&sim, Op::Dequeue).len(), by_dispatch, "{kernel}");

        let mut sim = sim_on("1x2x1", kernel, shared().also(Op::Dequeue));
        sim.add_task(hog("runs", &[0], 0));
        sim.add_task(hog("waits", &[0], MS));
        sim.add_task(doing(
            "nices",
            &[1],
            2 * MS,
            vec![Act::SetNice(TaskId(1), 5)],
        ));
        sim.run_until(2 * MS + 10);
        let seen = callbacks(&sim, 2 * MS);
        let of_1 = seen.iter().filter(|name| *name == "dequeue(1)").count();
        assert_eq!(of_1, by_change, "{kernel}");
    }
    // What is in no queue is taken on every kernel.
    for kernel in [KernelVersion(6, 12), KernelVersion(7, 3)] {
        let held = Script::with([Op::Dequeue]).on_enqueue(|api, task, flags| {
            if task.0 == 0 {
                api.insert(task, dsq::LOCAL, 20 * MS, flags);
            }
        });
        let mut sim = sim_on("1x2x1", kernel, held);
        sim.add_task(doing(
            "nices",
            &[0],
            2 * MS,
            vec![Act::SetNice(TaskId(1), 5)],
        ));
        sim.add_task(hog("held", &[0], MS));
        sim.run_until(3 * MS);
        assert_eq!(moments(&sim, Op::Dequeue).len(), 1);
    }
}

#[test]
fn another_cpus_local_queue_is_reached_from_enqueue() {
    let script = Script::with([])
        .on_select(|_, _, _, _| 0)
        .on_enqueue(|api, task, flags| {
            api.insert(task, dsq::LOCAL_ON | 1, 20 * MS, flags);
        });
    let mut sim = sim("1x2x1", script);
    sim.add_task(hog("a", &[0, 1], MS));
    assert_eq!(sim.run_until(2 * MS), None);
    assert_eq!(switches(&sim), [(MS, 1, Some(0))]);
}

#[test]
fn an_offline_cpu_gets_nothing() {
    let script = Script::with([])
        .on_select(|_, _, _, _| 0)
        .on_enqueue(|_, _, _| {})
        .on_dispatch(|api, _, _| {
            api.insert(TaskId(0), dsq::LOCAL_ON | 3, 20 * MS, 0);
        });
    let mut sim = sim("1x4x1-1", script);
    sim.add_task(hog("a", &[0, 1, 3], MS));
    assert_eq!(sim.run_until(2 * MS), None);
    assert_eq!(event(&sim, "SCX_EV_DISPATCH_LOCAL_DSQ_OFFLINE"), 1);
    assert_eq!(sim.tasks()[0].stats.cpu_ns, MS);
}

#[test]
fn an_insertion_that_is_out_of_date_is_ignored() {
    // The policy names a task that has gone to sleep, and one that runs.
    let script = shared().on_dispatch(|api, _, _| {
        api.insert(TaskId(0), dsq::LOCAL, MS, 0);
        api.insert(TaskId(1), dsq::LOCAL, MS, 0);
        api.move_to_local(1);
    });
    let mut sim = sim("1x2x1", script);
    sim.add_task(doing(
        "a",
        &[0],
        0,
        vec![Act::Run(MS), Act::SleepUntil(u64::MAX / 2)],
    ));
    sim.add_task(hog("b", &[1], 0));
    assert_eq!(sim.run_until(50 * MS), None);
    assert!(sim.tasks()[1].stats.cpu_ns > 49 * MS);
}

#[test]
fn a_head_insertion_goes_first() {
    let head = Constants::of(KernelVersion::V7_3).enq_head;
    assert_eq!(head, 0x1_0000);
    assert_eq!(Constants::of(KernelVersion(6, 18)).enq_head, 0x10);
    let script = shared().on_enqueue(move |api, task, flags| {
        let flags = if task.0 == 2 { flags | head } else { flags };
        api.insert(task, 1, 4 * MS, flags);
    });
    let mut sim = sim("1x1x1", script);
    for start in 0..3 {
        sim.add_task(hog("t", &[0], start));
    }
    sim.run_until(5 * MS);
    let order: Vec<_> = switches(&sim).iter().map(|s| s.2).collect();
    assert_eq!(order, [Some(0), Some(2)]);
}

#[test]
fn a_local_queue_can_be_enqueued_again() {
    let script = Script::default().on_select(|_, _, _, _| 0);
    let mut sim = sim(
        "1x2x1",
        script.on_enqueue(|api, task, flags| {
            let again = flags & enq::REENQ != 0;
            let cpu = if again { 1 } else { 0 };
            api.insert(task, dsq::LOCAL_ON | cpu, 20 * MS, flags & !enq::REENQ);
            if !again && task.0 == 1 {
                api.core.dsq_reenq(dsq::LOCAL_ON, 0);
            }
        }),
    );
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0, 1], MS));
    assert_eq!(sim.run_until(10 * MS), None);
    assert_eq!(sim.tasks()[1].stats.cpu_ns, 9 * MS);
}

#[test]
fn what_cannot_run_at_once_is_enqueued_again() {
    // CPU 0 is busy; who is enqueued again goes to CPU 1.
    let on = |kernel| {
        let script = Script::default().on_select(|_, _, _, _| 0);
        let script = script.on_enqueue(|api, task, flags| {
            let cpu = u64::from(flags & enq::REENQ != 0);
            let flags = flags & !enq::REENQ | enq::IMMED;
            api.insert(task, dsq::LOCAL_ON | cpu, 20 * MS, flags);
        });
        let config = config("1x2x1", kernel);
        let mut sim = Sim::new(&config, Box::new(Native::new(script)));
        sim.add_task(hog("a", &[0], 0));
        sim.add_task(hog("b", &[0, 1], MS));
        assert_eq!(sim.run_until(10 * MS), None);
        let mut events = sim.events().into_iter();
        let again = events.find(|(name, _)| *name == "SCX_EV_REENQ_IMMED");
        (sim.tasks()[1].stats.cpu_ns, again.map_or(0, |its| its.1))
    };
    assert_eq!(on(KernelVersion::V7_3), (9 * MS, 1));
    assert_eq!(on(KernelVersion(7, 0)), (0, 0));
}

#[test]
fn the_use_of_a_queue_is_counted() {
    let config = Config {
        costs: Costs::default(),
        ..config("1x2x1", KernelVersion::V7_3)
    };
    let mut sim = Sim::new(
        &config,
        Box::new(Native::new(toys::GlobalFifo { slice_ns: 4 * MS })),
    );
    for _ in 0..4 {
        sim.add_task(hog("t", &[0, 1], 0));
    }
    sim.run_until(1000 * MS);
    let queue = &sim.queues()[0];
    assert_eq!((queue.dsq, queue.longest), (1, 2));
    assert!(queue.taken > 900 && queue.bounced > 100, "{queue:?}");
    assert!((1.9..2.1).contains(&queue.mean_length), "{queue:?}");
}
