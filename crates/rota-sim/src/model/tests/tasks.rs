// SPDX-License-Identifier: GPL-2.0-only
//! What happens to tasks: placement, classes, affinity, birth and death, CPUs that
//! come and go.

use rota_load::spec;

use super::super::consts::{dsq, enq, wake};
use super::*;

/// Every task straight into the local queue of where it is.
fn local(ops: &[Op]) -> Script {
    let script = Script::with(ops.iter().copied());
    script.on_enqueue(|api, task, flags| {
        api.insert(task, dsq::LOCAL, 20 * MS, flags);
    })
}

fn realtime(comm: &str, allowed: &[u32], start_ns: u64, acts: Vec<Act>) -> NewTask {
    NewTask {
        policy: spec::Policy::Fifo(10),
        ..doing(comm, allowed, start_ns, acts)
    }
}

#[test]
fn select_cpu_is_skipped_without_a_choice() {
    let mut sim = sim("1x2x1", local(&[Op::SelectCpu]));
    sim.add_task(hog("pinned", &[1], MS));
    sim.run_until(2 * MS);
    assert_eq!(callbacks(&sim, MS), ["enqueue(0)"]);
    assert_eq!(switches(&sim), [(MS, 1, Some(0))]);
}

#[test]
fn enqueue_is_told_whether_select_cpu_was_asked() {
    let table = [
        (KernelVersion(6, 12), 0),
        (KernelVersion(6, 18), 0x400),
        (KernelVersion(7, 3), 0x10_0000),
    ];
    for (kernel, selected) in table {
        for (allowed, asked) in [(&[0u32, 1][..], true), (&[1][..], false)] {
            let expected = enq::WAKEUP | if asked { selected } else { 0 };
            let script = Script::with([Op::SelectCpu]).on_enqueue(move |api, task, flags| {
                assert_eq!(flags, expected, "{kernel} {asked}");
                api.insert(task, dsq::LOCAL, MS, flags);
            });
            let mut sim = sim_on("1x2x1", kernel, script);
            sim.add_task(doing("t", allowed, MS, vec![Act::Run(MS / 2)]));
            sim.run_until(2 * MS);
            assert_eq!(moments(&sim, Op::Enqueue), [MS]);
        }
    }
}

#[test]
fn without_select_cpu_the_kernel_finds_an_idle_cpu() {
    let mut sim = sim("1x2x1", Script::with([Op::Enqueue]));
    sim.add_task(hog("a", &[0, 1], MS));
    sim.add_task(hog("b", &[0, 1], 2 * MS));
    sim.run_until(10 * MS);
    assert!(moments(&sim, Op::Enqueue).is_empty());
    assert_eq!(sim.tasks()[1].stats.cpu_ns, 8 * MS);
}

#[test]
fn a_choice_outside_the_affinity_is_corrected_and_counted() {
    let mut sim = sim("1x3x1", local(&[]).on_select(|_, _, _, _| 0));
    sim.add_task(hog("a", &[1, 2], MS));
    assert_eq!(sim.run_until(2 * MS), None);
    assert_eq!(event(&sim, "SCX_EV_SELECT_CPU_FALLBACK"), 1);
    assert_eq!(switches(&sim)[0].1, 1);
}

#[test]
fn wake_flags_tell_the_kind_of_wake_up() {
    let script = local(&[]).on_select(|api, task, prev, flags| {
        let expected = match (task.0, api.core.now_ns() / MS) {
            (0, _) => wake::TTWU,
            (1, 0) => wake::TTWU,
            (1, _) => wake::TTWU | wake::SYNC,
            _ => wake::FORK,
        };
        assert_eq!(flags, expected, "{task:?}");
        prev as i32
    });
    let mut sim = sim("1x2x1", script);
    let pipe = sim.add_channel(ChannelKind::Pipe, 0, 1);
    let child = Box::new(doing("child", &[0, 1], 0, vec![Act::Run(MS)]));
    let acts = vec![
        Act::Run(2 * MS),
        Act::Send(pipe),
        Act::Fork(child),
        Act::Reap,
    ];
    sim.add_task(doing("parent", &[0, 1], 0, acts));
    sim.add_task(doing("reader", &[0, 1], 0, vec![Act::Receive(pipe)]));
    assert_eq!(sim.run_until(10 * MS), None);
    // The fifth is the parent's, whose child has exited.
    assert_eq!(moments(&sim, Op::SelectCpu).len(), 5);
}

#[test]
fn a_task_that_cannot_migrate_skips_enqueue_since_6_16() {
    for (kernel, skips) in [(KernelVersion(6, 12), false), (KernelVersion(6, 16), true)] {
        let mut sim = sim_on("1x2x1", kernel, local(&[]));
        let acts = vec![
            Act::DisableMigration(true),
            Act::SleepUntil(5 * MS),
            Act::Run(MS),
        ];
        sim.add_task(doing("t", &[0, 1], MS, acts));
        sim.run_until(10 * MS);
        let name = "SCX_EV_ENQ_SKIP_MIGRATION_DISABLED";
        assert_eq!(event(&sim, name), i64::from(skips));
        assert_eq!(moments(&sim, Op::Enqueue).contains(&(5 * MS)), !skips);
    }
}

#[test]
fn an_exiting_task_skips_enqueue() {
    let config = Config {
        costs: Costs {
            exit_ns: 30 * MS,
            ..Costs::free()
        },
        ..config("1x1x1", KernelVersion::V7_3)
    };
    let mut sim = Sim::new(&config, Box::new(Native::new(local(&[]))));
    sim.add_task(doing("t", &[0], 0, vec![Act::Run(15 * MS)]));
    sim.add_task(hog("b", &[0], MS));
    // The exit takes the task past the end of its slice, and then off the CPU.
    assert_eq!(sim.run_until(200 * MS), None);
    assert!(sim.tasks()[0].stats.ended_ns.is_some());
}

#[test]
fn real_time_takes_the_cpu_and_the_slice_is_kept() {
    let ops = [
        Op::Running,
        Op::Stopping,
        Op::CpuRelease,
        Op::CpuAcquire,
        Op::Dispatch,
    ];
    let mut sim = sim("1x1x1", local(&ops));
    sim.add_task(hog("ext", &[0], 0));
    sim.add_task(realtime("rt", &[0], 5 * MS, vec![Act::Run(10 * MS)]));
    sim.run_until(16 * MS);
    let seen = callbacks(&sim, MS);
    // No enqueue: it is at the head of the local queue with what is left.
    let expected = ["stopping(0)", "cpu_release", "cpu_acquire", "running(0)"];
    assert_eq!(seen, expected);
    let at: Vec<_> = switches(&sim).iter().map(|s| (s.0 / MS, s.2)).collect();
    assert_eq!(at, [(0, Some(0)), (5, Some(1)), (15, Some(0))]);
}

#[test]
fn a_stopping_task_that_drops_its_slice_is_queued_again() {
    let script = local(&[Op::Running]).on_stopping(|api, task, runnable| {
        use super::super::ops::Fields as _;
        if runnable != 0 {
            api.tasks.set_slice(task, 0);
        }
    });
    let mut sim = sim("1x1x1", script);
    sim.add_task(hog("ext", &[0], 0));
    sim.add_task(realtime("rt", &[0], 5 * MS, vec![Act::Run(MS)]));
    sim.run_until(10 * MS);
    assert_eq!(
        callbacks(&sim, MS),
        ["stopping(0)", "enqueue(0)", "running(0)"]
    );
}

#[test]
fn real_time_goes_by_priority_and_in_turns() {
    let mut sim = sim("1x1x1", local(&[]));
    let rr = |comm, priority, start_ns| NewTask {
        policy: spec::Policy::Rr(priority),
        ..hog(comm, &[0], start_ns)
    };
    sim.add_task(rr("a", 5, 0));
    sim.add_task(rr("b", 5, 0));
    sim.add_task(NewTask {
        policy: spec::Policy::Fifo(50),
        ..doing("high", &[0], 150 * MS, vec![Act::Run(30 * MS)])
    });
    sim.add_task(hog("ext", &[0], 0));
    sim.run_until(1000 * MS);
    let cpu: Vec<u64> = sim.tasks().iter().map(|t| t.stats.cpu_ns / MS).collect();
    assert_eq!(cpu[2..], [30, 0]);
    assert!(
        cpu[0].abs_diff(cpu[1]) <= 104 && cpu[0] + cpu[1] >= 968,
        "{cpu:?}"
    );
    assert_eq!(sim.tasks()[2].stats.longest_wait_ns, 0);
}

#[test]
fn partial_mode_leaves_ordinary_tasks_alone() {
    let mut sim = sim("1x1x1", local(&[Op::Enable]).flags(flag::SWITCH_PARTIAL));
    sim.add_task(hog("other", &[0], 0));
    sim.add_task(NewTask {
        policy: spec::Policy::Ext,
        ..hog("ext", &[0], 0)
    });
    sim.run_until(50 * MS);
    let seen = callbacks(&sim, 0);
    assert_eq!(seen, ["enable(1)", "enqueue(1)"]);
    // The kernel's own class is above.
    assert_eq!(sim.tasks()[1].stats.cpu_ns, 0);
}

#[test]
fn weights_come_with_enable_and_with_changes() {
    let ops = [
        Op::Enable,
        Op::SetWeight,
        Op::Stopping,
        Op::Quiescent,
        Op::Runnable,
        Op::Running,
    ];
    let mut sim = sim("1x1x1", local(&ops));
    let acts = vec![Act::Run(MS), Act::SetNice(TaskId(0), -5), Act::Run(MS)];
    let mut task = doing("t", &[0], MS, acts);
    task.nice = 19;
    sim.add_task(task);
    sim.run_until(0);
    assert_eq!(callbacks(&sim, 0), ["enable(0)", "set_weight(0)"]);
    assert_eq!(sim.tasks()[0].weight, 1);
    sim.run_until(2 * MS + MS / 2);
    let expected = [
        "stopping(0)",
        "quiescent(0)",
        "set_weight(0)",
        "runnable(0)",
        "running(0)",
    ];
    assert_eq!(callbacks(&sim, 2 * MS), expected);
    assert_eq!(sim.tasks()[0].weight, 305);
}

#[test]
fn weights_are_the_kernels() {
    let table = [(-20, 8668), (-5, 305), (0, 100), (5, 33), (10, 11), (19, 1)];
    for (nice, weight) in table {
        assert_eq!(consts::nice_weight(nice), weight, "nice {nice}");
    }
    assert_eq!(consts::scx_weight(3), 1);
    assert_eq!(consts::scx_weight(u32::MAX), 10_000);
}

#[test]
fn births_and_deaths_balance() {
    let ops = [
        Op::InitTask,
        Op::ExitTask,
        Op::Enable,
        Op::Disable,
        Op::SetWeight,
        Op::Runnable,
        Op::Running,
        Op::Quiescent,
        Op::Stopping,
    ];
    let mut sim = sim("1x1x1", local(&ops));
    let child = || Box::new(doing("child", &[0], 0, vec![Act::Run(MS)]));
    let acts = vec![Act::Fork(child()), Act::Reap, Act::Fork(child()), Act::Reap];
    sim.add_task(doing("parent", &[0], MS, acts));
    sim.add_task(hog("hog", &[0], 50 * MS));
    sim.run_until(40 * MS);
    let seen = callbacks(&sim, 0);
    let of_child: Vec<_> = seen.iter().filter(|name| name.ends_with("(2)")).collect();
    let expected = [
        "init_task(2)",
        "enable(2)",
        "set_weight(2)",
        "runnable(2)",
        "enqueue(2)",
        "running(2)",
        "stopping(2)",
        "quiescent(2)",
        "disable(2)",
        "exit_task(2)",
    ];
    assert_eq!(of_child, expected);
    sim.unload_at(60 * MS);
    let exit = sim.run_until(100 * MS).unwrap();
    assert_eq!(exit.kind, ExitKind::Unreg);
    for (begin, end) in [(Op::InitTask, Op::ExitTask), (Op::Enable, Op::Disable)] {
        assert_eq!(moments(&sim, begin).len(), 4);
        assert_eq!(moments(&sim, end).len(), 4);
    }
}

#[test]
fn a_fork_that_the_policy_refuses_fails() {
    let script = local(&[Op::ExitTask]).on_init_task(|_, _, fork| if fork { -12 } else { 0 });
    let mut sim = sim("1x1x1", script);
    let child = Box::new(doing("child", &[0], 0, vec![Act::Run(MS)]));
    let acts = vec![Act::Fork(child), Act::Reap, Act::Run(MS)];
    sim.add_task(doing("parent", &[0], MS, acts));
    assert_eq!(sim.run_until(40 * MS), None);
    // The parent went on without waiting for anybody, and has exited.
    assert!(sim.tasks()[0].stats.ended_ns.is_some());
    assert_eq!(sim.tasks()[1].stats.switches, 0);
    assert_eq!(moments(&sim, Op::ExitTask).len(), 1);
}

#[test]
fn a_running_task_leaves_a_cpu_that_is_forbidden() {
    let ops = [Op::SetCpumask, Op::Stopping, Op::Running];
    let mut sim = sim("1x2x1", local(&ops));
    let acts = vec![
        Act::Run(MS),
        Act::SetAffinity(TaskId(0), cpus(&[1])),
        Act::Run(MS),
    ];
    sim.add_task(doing("t", &[0], MS, acts));
    assert_eq!(sim.run_until(2 * MS + MS / 2), None);
    let expected = [
        "stopping(0)",
        "set_cpumask(0)",
        "running(0)",
        "stopping(0)",
        "enqueue(0)",
        "running(0)",
    ];
    assert_eq!(callbacks(&sim, 2 * MS), expected);
    let last = switches(&sim).last().copied();
    assert_eq!(last.map(|(_, cpu, task)| (cpu, task)), Some((1, Some(0))));
}

#[test]
fn a_waiting_task_moves_to_where_it_may_run() {
    let mut sim = sim(
        "1x2x1",
        local(&[Op::SetCpumask, Op::Runnable, Op::Quiescent]),
    );
    sim.add_task(hog("a", &[0], 0));
    sim.add_task(hog("b", &[0], MS));
    let acts = vec![
        Act::SetAffinity(TaskId(1), cpus(&[1])),
        Act::SleepUntil(u64::MAX / 2),
    ];
    sim.add_task(doing("c", &[1], 5 * MS, acts));
    sim.run_until(10 * MS);
    let of_b: Vec<_> = callbacks(&sim, 5 * MS)
        .into_iter()
        .filter(|name| name.ends_with("(1)"))
        .collect();
    // A move alone is neither quiescent nor runnable.
    let expected = [
        "quiescent(1)",
        "set_cpumask(1)",
        "runnable(1)",
        "enqueue(1)",
        "enqueue(1)",
    ];
    assert_eq!(of_b, expected);
    assert!(sim.tasks()[1].stats.cpu_ns > 4 * MS);
}

#[test]
fn a_policy_that_knows_of_hotplug_goes_on() {
    let script = local(&[Op::CpuOnline, Op::CpuOffline]);
    let mut sim = sim("1x2x1", script);
    sim.add_task(hog("a", &[0, 1], 0));
    sim.add_task(hog("pinned", &[1], 0));
    sim.hotplug_at(10 * MS, 1, false);
    sim.hotplug_at(50 * MS, 1, true);
    assert_eq!(sim.run_until(100 * MS), None);
    assert_eq!(moments(&sim, Op::CpuOffline), [10 * MS]);
    assert_eq!(moments(&sim, Op::CpuOnline), [50 * MS]);
    let on_1 = |from, to| {
        let of = switches(&sim).into_iter();
        of.filter(|&(at, cpu, task)| cpu == 1 && task.is_some() && at > from && at < to)
            .count()
    };
    assert_eq!(on_1(10 * MS, 50 * MS), 0);
    // This policy leaves tasks where they are: nobody goes back.
    let cpu: Vec<u64> = sim.tasks().iter().map(|t| t.stats.cpu_ns / MS).collect();
    assert!(cpu[0] + cpu[1] >= 109 && cpu[1] > 40, "{cpu:?}");
}

#[test]
fn a_bypass_does_without_the_policy() {
    for kernel in [KernelVersion(6, 12), KernelVersion(7, 3)] {
        let mut sim = sim_on("1x2x1", kernel, local(&[Op::Dispatch, Op::SelectCpu]));
        for _ in 0..4 {
            sim.add_task(hog("a", &[0, 1], 0));
        }
        sim.bypass_at(100 * MS, 200 * MS);
        assert_eq!(sim.run_until(500 * MS), None);
        for op in [Op::Dispatch, Op::SelectCpu, Op::Enqueue] {
            let within = moments(&sim, op);
            let within = within.iter().filter(|&&at| at > 100 * MS && at < 300 * MS);
            assert_eq!(within.count(), 0, "{op:?}");
        }
        assert!(moments(&sim, Op::Enqueue).iter().any(|&at| at > 300 * MS));
        let cpu: Vec<u64> = sim.tasks().iter().map(|t| t.stats.cpu_ns / MS).collect();
        assert_eq!(cpu.iter().sum::<u64>(), 1000, "{cpu:?}");
        assert!(cpu.iter().all(|&ms| ms > 100), "{cpu:?}");
    }
}
