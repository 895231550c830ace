// SPDX-License-Identifier: GPL-2.0-only
//! Each mistake that ends a policy, with the kernel's kind and text.

use super::super::consts::{ExitKind, dsq, enq, kick};
use super::*;

/// Runs a script with two tasks, the second of which may use CPU 1 only, until the
/// policy ends; kind and text.
fn ends_on(kernel: KernelVersion, script: Script) -> (ExitKind, String) {
    let mut sim = sim_on("1x2x1", kernel, script);
    sim.add_task(hog("first", &[0, 1], MS));
    sim.add_task(hog("second", &[1], 2 * MS));
    let exit = sim.run_until(100 * MS).expect("the policy ends");
    assert_eq!(sim.exit(), Some(exit.clone()));
    (exit.kind, exit.message)
}

#[track_caller]
fn ejected(script: Script, text: &str) {
    let (kind, message) = ends_on(KernelVersion::V7_3, script);
    assert_eq!((kind, message.as_str()), (ExitKind::Error, text));
}

fn enqueuing(act: impl FnMut(&mut Api<'_, '_>, TaskId, u64) + 'static) -> Script {
    Script::with([])
        .on_init(|api| api.core.create_dsq(1, -1))
        .on_select(|_, _, prev, _| prev as i32)
        .on_enqueue(act)
}

fn dispatching(act: impl FnMut(&mut Api<'_, '_>, u32, Option<TaskId>) + 'static) -> Script {
    enqueuing(|_, _, _| {}).on_dispatch(act)
}

#[test]
fn direct_dispatch_twice_ejected() {
    let script = enqueuing(|api, task, flags| {
        api.insert(task, dsq::LOCAL, MS, flags);
        api.insert(task, dsq::LOCAL, MS, flags);
    });
    ejected(script, "first[1000] already direct-dispatched");
}

#[test]
fn direct_dispatch_of_another_task_ejected() {
    let script = enqueuing(|api, task, flags| {
        api.insert(TaskId(1 - task.0), dsq::LOCAL, MS, flags);
    });
    ejected(
        script,
        "scheduling for first[1000] but trying to direct-dispatch second[1001]",
    );
}

#[test]
fn unknown_queues_ejected() {
    let script = enqueuing(|api, task, flags| {
        api.insert(task, 0xbad, MS, flags);
    });
    ejected(script, "non-existent DSQ 0xbad for first[1000]");
    let script = dispatching(|api, _, _| {
        api.move_to_local(0xbad);
    });
    ejected(script, "invalid DSQ ID 0x0000000000000bad");
}

#[test]
fn vtime_in_a_builtin_queue_ejected() {
    let script = enqueuing(|api, task, flags| {
        api.insert_vtime(task, dsq::LOCAL, MS, 5, flags);
    });
    ejected(script, "cannot use vtime ordering for built-in DSQs");
}

#[test]
fn mixed_orders_ejected() {
    // The first task runs; the second and third wait, in two orders.
    for (first_vtime, had) in [(false, "FIFO"), (true, "PRIQ")] {
        let mut number = 0;
        let script = enqueuing(move |api, task, flags| {
            number += 1;
            match (number % 2 == 1) == first_vtime {
                true => api.insert_vtime(task, 1, 20 * MS, 5, flags),
                false => api.insert(task, 1, 20 * MS, flags),
            };
        });
        let expected = format!("DSQ ID 0x0000000000000001 already had {had}-enqueued tasks");
        ejected(script, &expected);
    }
}

#[test]
fn a_cpu_that_is_not_there_ejected() {
    let (_, message) = ends_on(
        KernelVersion::V7_3,
        Script::with([]).on_select(|_, _, _, _| 99),
    );
    assert_eq!(message, "invalid CPU 99 from ops.select_cpu()");
    let script = enqueuing(|api, task, flags| {
        api.insert(task, dsq::LOCAL_ON | 77, MS, flags);
    });
    ejected(
        script,
        "invalid CPU 77 in SCX_DSQ_LOCAL_ON dispatch verdict",
    );
    let script = enqueuing(|api, _, _| api.core.kick_cpu(-1, 0));
    ejected(script, "invalid CPU -1");
}

#[test]
fn a_cpu_outside_the_affinity_ejected_from_dispatch() {
    let script = dispatching(|api, _, _| {
        if api.core.now_ns() >= 2 * MS {
            api.insert(TaskId(1), dsq::LOCAL_ON, MS, 0);
        }
    });
    ejected(
        script,
        "SCX_DSQ_LOCAL[_ON] target CPU 0 not allowed for second[1001]",
    );
}

#[test]
fn a_task_that_may_not_migrate_ejected_from_dispatch() {
    let script = dispatching(|api, cpu, _| {
        if cpu == 0 && api.tasks.get(TaskId(0)).queued {
            let late = api.core.now_ns() >= 5 * MS;
            api.insert(TaskId(0), dsq::LOCAL_ON | u64::from(late), MS, 0);
        }
    })
    .flags(flag::ENQ_MIGRATION_DISABLED);
    let mut sim = sim("1x2x1", script);
    let acts = vec![
        Act::DisableMigration(true),
        Act::Run(MS),
        Act::SleepUntil(5 * MS),
        Act::Run(50 * MS),
    ];
    sim.add_task(doing("still", &[0, 1], MS, acts));
    let exit = sim.run_until(100 * MS);
    let message = exit.map(|exit| exit.message);
    let expected = "SCX_DSQ_LOCAL[_ON] cannot move migration disabled still[1000] from CPU 0 to 1";
    assert_eq!(message.as_deref(), Some(expected));
}

#[test]
fn the_dispatch_buffer_has_bounds_ejected() {
    let script = dispatching(|api, _, _| {
        for _ in 0..33 {
            api.insert(TaskId(0), 1, MS, 0);
        }
    });
    ejected(script, "dispatch buffer overflow");
    let script = dispatching(|api, _, _| api.core.dispatch_cancel());
    ejected(script, "dispatch buffer underflow");
    let script = dispatching(|api, _, _| {
        assert_eq!(api.core.dispatch_nr_slots(), 32);
        api.insert(TaskId(0), 1, MS, 0);
        assert_eq!(api.core.dispatch_nr_slots(), 31);
        api.core.dispatch_cancel();
        assert_eq!(api.core.dispatch_nr_slots(), 32);
        api.core.error("fine".into());
    });
    let (kind, message) = ends_on(KernelVersion::V7_3, script);
    assert_eq!((kind, message.as_str()), (ExitKind::ErrorBpf, "fine"));
}

#[test]
fn kfuncs_from_the_wrong_callback_ejected() {
    let script = enqueuing(|api, _, _| {
        api.move_to_local(1);
    });
    ejected(
        script,
        "kfunc with mask 0x2 called from an operation only allowing 0x4",
    );
    let script = Script::with([]).on_running(|api, task, _| {
        api.insert(task, dsq::LOCAL, MS, 0);
    });
    ejected(
        script,
        "kfunc with mask 0x4 called from an operation only allowing 0x10",
    );
    // 6.12 lets select_cpu alone search for a CPU, later kernels enqueue as well.
    let search = || {
        enqueuing(|api, task, _| {
            api.core.select_cpu_dfl(task, 0, 0);
            api.core.exit(5, "found".into());
        })
    };
    let (kind, _) = ends_on(KernelVersion::V6_12, search());
    assert_eq!(kind, ExitKind::Error);
    let (kind, _) = ends_on(KernelVersion(6, 16), search());
    assert_eq!(kind, ExitKind::UnregBpf);
}

#[test]
fn flags_that_exclude_each_other_ejected() {
    let script = enqueuing(|api, _, _| api.core.kick_cpu(0, kick::IDLE | kick::PREEMPT));
    ejected(script, "PREEMPT/WAIT cannot be used with SCX_KICK_IDLE");
    let script = enqueuing(|api, task, flags| {
        api.insert(task, 1, MS, flags | enq::INTERNAL);
    });
    let (_, message) = ends_on(KernelVersion::V7_3, script);
    assert!(
        message.starts_with("invalid enq_flags 0xff0000000"),
        "{message}"
    );
}

#[test]
fn idle_tracking_that_is_off_ejected() {
    let script = enqueuing(|api, _, _| {
        api.core.pick_idle_cpu(&cpus(&[0]), None, 0);
    });
    ejected(
        script.also(Op::UpdateIdle),
        "built-in idle tracking is disabled",
    );
    let script = enqueuing(|api, _, _| {
        api.core.pick_idle_cpu(&cpus(&[0]), Some(0), 0);
    });
    ejected(script, "per-node idle tracking is disabled");
    let script = enqueuing(|api, _, _| {
        api.core.pick_idle_cpu(&cpus(&[0]), None, 0);
    });
    ejected(
        script.flags(flag::BUILTIN_IDLE_PER_NODE),
        "per-node idle tracking is enabled",
    );
}

#[test]
fn destroying_a_queue_in_use_ejected() {
    let script = enqueuing(|api, task, flags| {
        if task.0 == 0 {
            api.insert(task, 1, MS, flags);
        } else {
            api.core.destroy_dsq(1);
        }
    });
    ejected(
        script,
        "attempting to destroy in-use dsq 0x0000000000000001 (nr=1)",
    );
}

#[test]
fn more_speed_than_there_is_ejected() {
    let script = enqueuing(|api, _, _| api.core.cpuperf_set(0, 1025));
    ejected(script, "Invalid cpuperf target 1025 for CPU 0");
}

#[test]
fn loads_that_fail_ejected() {
    ejected(Script::with([]).on_init(|_| -12), "ops.init() failed (-12)");
    ejected(
        Script::with([]).on_init(|_| 7),
        "ops.init() returned an invalid errno 7",
    );
    ejected(
        Script::with([]).on_init_task(|_, task, _| if task.0 == 1 { -22 } else { 0 }),
        "ops.init_task() failed (-22) for second[1001] while loading",
    );
    ejected(
        Script::with([]).flags(flag::ENQ_LAST),
        "SCX_OPS_ENQ_LAST requires ops.enqueue() to be implemented",
    );
}

#[test]
fn a_policy_may_end_itself() {
    let script = enqueuing(|api, _, _| api.core.exit(42, "enough".into()));
    let mut sim = sim("1x2x1", script.also(Op::Exit));
    sim.add_task(hog("t", &[0], MS));
    let exit = sim.run_until(10 * MS).unwrap();
    assert_eq!(
        (exit.kind, exit.code, exit.at_ns),
        (ExitKind::UnregBpf, 42, MS)
    );
    assert_eq!(exit.to_string(), "unregistered from BPF (enough)");
    assert_eq!(moments(&sim, Op::Exit), [MS]);
    // Nothing happens any more.
    let before = sim.trace_hash();
    sim.run_until(20 * MS);
    assert_eq!(sim.trace_hash(), before);
}

#[test]
fn a_lost_task_stalls_between_one_and_one_and_a_half_timeouts() {
    for start_ms in [0, 300, 700, 999] {
        let policy = toys::Loser {
            comm: "lost",
            timeout_ms: 1000,
        };
        let config = config("1x2x1", KernelVersion::V7_3);
        let mut sim = Sim::new(&config, Box::new(Native::new(policy)));
        sim.add_task(hog("kept", &[0, 1], 0));
        sim.add_task(hog("lost", &[0, 1], start_ms * MS));
        let exit = sim.run_until(10_000 * MS).expect("it is ejected");
        assert_eq!(exit.kind, ExitKind::ErrorStall);
        let waited = exit.at_ns - start_ms * MS;
        assert!((1000 * MS..=1500 * MS).contains(&waited), "{waited}");
        let expected = format!(
            "lost[1001] failed to run for {}.{:03}s",
            waited / MS / 1000,
            waited / MS % 1000
        );
        assert_eq!(exit.message, expected);
        assert_eq!(exit.kind.reason(), "runnable task stall");
    }
}

#[test]
fn a_cpu_that_goes_restarts_a_policy_that_does_not_know() {
    let mut sim = sim("1x2x1", enqueuing(|_, _, _| {}));
    sim.hotplug_at(5 * MS, 1, false);
    let exit = sim.run_until(10 * MS).unwrap();
    assert_eq!(exit.kind, ExitKind::UnregKern);
    assert_eq!(exit.code, 1 << 48 | 1 << 32);
    assert_eq!(exit.message, "cpu 1 going offline, exiting scheduler");
}
