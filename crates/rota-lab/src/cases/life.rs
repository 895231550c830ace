// SPDX-License-Identifier: GPL-2.0-only
//! Start and end of a scheduler.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Case;
use super::common::{
    BUSY, END_LIMIT, WHILE_NEEDED, check_monitor, check_survived, check_untouched, refusal,
    spawn_until_opened,
};
use super::control::SOCKET;
use super::session::{load, scheduled};
use crate::check;
use crate::guest::{CaseResult, Footprint, Guest, STOP_LIMIT, describe, events, last, scx};

pub const CASES: &[Case] = &[
    Case::new("attach_detach", attach_detach),
    Case::new("sigterm", |guest| stops_on(guest, Signal::SIGTERM)),
    Case::new("sigint", |guest| stops_on(guest, Signal::SIGINT)).one_machine(),
    Case::new("sigterm_twice", sigterm_twice).one_machine(),
    Case::new("sigterm_while_starting", sigterm_while_starting).one_machine(),
    Case::new("sigkill", sigkill),
    Case::new("sigkill_in_parallel", sigkill).parallel(),
    Case::new("second_scheduler_refused", second_scheduler_refused).one_machine(),
    Case::new("start_on_full_machine", start_on_full_machine)
        .limit_s(180)
        .only_full(),
    Case::new("a_day", a_day)
        .counted()
        .only_full()
        .one_machine()
        .only_kernel("7.3")
        .limit_s(2 * 86_400),
    Case::new("reload_loop", |guest| reload_loop(guest, 3)).one_machine(),
    Case::new("reload_loop_in_parallel", |guest| reload_loop(guest, 3)).parallel(),
    Case::new("reload_loop_long", |guest| reload_loop(guest, 20))
        .one_machine()
        .limit_s(240)
        .only_full(),
];

/// Goal: the kernel knows our scheduler by its name while it runs, and none before and after.
/// Method: what `/sys/kernel/sched_ext` says at each step.
fn attach_detach(guest: &mut Guest) -> CaseResult {
    let before = scx::snapshot();
    check!(
        before.state == "disabled",
        "state before is {}",
        before.state
    );

    let sched = guest.start(&[])?;
    let during = scx::snapshot();
    check!(during.ops == guest.ops_name(), "ops is `{}`", during.ops);
    check!(during.switch_all, "not all tasks are switched over");
    check!(
        during.enable_seq == before.enable_seq + 1,
        "enable_seq is {}",
        during.enable_seq
    );
    check!(
        during.nr_rejected == before.nr_rejected,
        "{} tasks rejected",
        during.nr_rejected
    );

    guest.stop(&sched)?;
    let after = scx::snapshot();
    check!(after.ops.is_empty(), "ops is still `{}`", after.ops);
    Ok(String::new())
}

/// Goal: a request to stop ends the scheduler in order and at once, under load too.
/// Method: the signal while a workload runs; exit code, exit report, and the time it took.
fn stops_on(guest: &mut Guest, signal: Signal) -> CaseResult {
    let sched = guest.start(&[])?;
    let load = guest.start_load("hogs", WHILE_NEEDED)?;
    // Who begins while the kernel disables a scheduler belongs to its own one, and goes before all
    // that do not yet. A hog on each CPU so keeps it from getting through: the thread that ends RCU's
    // grace periods, for which it waits, is one of those.
    load.await_tasks()?;
    let asked = Instant::now();
    let Some(end) = sched.stop(signal, STOP_LIMIT) else {
        return Err(format!("still running {} s after {signal}", STOP_LIMIT.as_secs()).into());
    };
    let took = asked.elapsed();
    if end.code != Some(0) {
        return Err(describe(
            guest.sched_name(),
            &format!("ended badly after {signal}"),
            &end,
        ));
    }
    let exit = last(&end, "exit").ok_or("no exit report")?;
    check!(exit["kind_name"] == "UNREG", "the exit report says {exit}");
    guest.wait_state("disabled")?;
    check!(load.program().is_running(), "the workload did not survive");
    Ok(format!("{} ms", took.as_millis()))
}

/// Goal: somebody impatient does no harm: the scheduler still detaches in order.
/// Method: two SIGTERM in a row; exit code and exit report are as after one.
fn sigterm_twice(guest: &mut Guest) -> CaseResult {
    let sched = guest.start(&[])?;
    sched.program().signal(Signal::SIGTERM);
    let end = guest.stop(&sched)?;
    let exit = last(&end, "exit").ok_or("no exit report")?;
    check!(
        exit["kind_name"] == "UNREG" && exit["status"] == 0,
        "the exit report says {exit}"
    );
    Ok(String::new())
}

/// Goal: who changes their mind at once is obeyed, too.
/// Method: SIGTERM while the object is opened and loaded, before it is attached.
fn sigterm_while_starting(guest: &mut Guest) -> CaseResult {
    let sched = spawn_until_opened(guest)?;
    let early = events(&sched.program().progress(), "started").is_empty();
    guest.stop(&sched)?;
    check!(early, "it had started before the signal came");
    Ok(String::new())
}

/// Goal: a scheduler that is killed leaves nothing to clean up: the kernel takes over by itself,
/// and the next scheduler takes the abandoned stats socket.
/// Method: kill -9 under load; state and workload; a second start with `--monitor`.
fn sigkill(guest: &mut Guest) -> CaseResult {
    const SIGKILLED: i32 = 128 + 9;
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    let sched = guest.start(&[])?;
    let end = sched.stop(Signal::SIGKILL, STOP_LIMIT);
    let code = end.and_then(|end| end.code);
    check!(code == Some(SIGKILLED), "exit code {code:?} after kill -9");
    guest.wait_state("disabled")?;
    let ops = scx::snapshot().ops;
    check!(ops.is_empty(), "ops is still `{ops}`");
    check!(
        Path::new(SOCKET).exists(),
        "no stale socket, so nothing to reclaim"
    );

    let next = guest.start(&[])?;
    check_monitor(guest)?;
    guest.stop(&next)?;
    check!(!Path::new(SOCKET).exists(), "the socket is left behind");
    check_survived(&load.stop()?)?;
    Ok(String::new())
}

/// Goal: a second scheduler is refused with the name of the first, which does not notice.
/// Method: start one, then try to start another, and to `--check` whether it would start.
fn second_scheduler_refused(guest: &mut Guest) -> CaseResult {
    const BUSY: i32 = 4;
    let first = guest.start(&[])?;
    let before = scx::snapshot();
    for args in [&[][..], &["--check"]] {
        let end = guest.run_sched(args, END_LIMIT)?;
        let message = refusal(guest, &end, BUSY)?;
        let names_it = format!(
            "another sched_ext scheduler is running: {}",
            guest.ops_name()
        );
        check!(
            message.starts_with(&names_it),
            "{args:?}: it says: {message}"
        );
        check_untouched(&before)?;
        check!(first.program().is_running(), "{args:?}: the first is gone");
    }
    guest.stop(&first)?;
    Ok(String::new())
}

/// Goal: a machine with no CPU to spare can still be taken over, although the kernel switches one
/// task after another, and those of the old scheduler go before those of the new one.
/// Method: a start beside twice as many hogs as CPUs, which are younger than the scheduler's
/// process, so that the kernel gets to them last. In an emulated guest it takes long.
fn start_on_full_machine(guest: &mut Guest) -> CaseResult {
    let started = Instant::now();
    let sched = guest.spawn(&[])?;
    let load = guest.start_load("hogs", WHILE_NEEDED)?;
    sched
        .wait_started()
        .map_err(|end| describe(guest.sched_name(), "did not start", &end))?;
    let took = started.elapsed();
    guest.stop(&sched)?;
    check_survived(&load.stop()?)?;
    Ok(format!("{:.1} s", took.as_secs_f64()))
}

/// Goal: a scheduler is after a day what it was at its start.
/// Method: 24 hours, of which every tenth minute begins with half a second of a mixed load: to be idle
/// costs an emulated guest nothing. No error counter moves, and neither the process nor what the kernel
/// keeps for it grows.
fn a_day(guest: &mut Guest) -> CaseResult {
    const HOURS: u32 = 24;
    const EACH: Duration = Duration::from_secs(600);
    let rounds = HOURS * 3600 / EACH.as_secs() as u32;
    scheduled(guest, &[], |sched| {
        let footprint = || {
            let now = Footprint::of(sched.program().pid());
            now.ok_or("the scheduler's process is gone")
        };
        let begin = Instant::now();
        let mut first = None;
        for round in 1..=rounds {
            load(guest, "mixed", Duration::from_millis(500))?;
            thread::sleep((begin + round * EACH).saturating_duration_since(Instant::now()));
            let now = footprint()?;
            let first = first.get_or_insert(now);
            check!(
                now.rss_kib <= first.rss_kib + GROWTH_KIB
                    && (now.files, now.locked) == (first.files, first.locked),
                "after {round} rounds it has {now}, after the first {first}"
            );
        }
        let hours = begin.elapsed().as_secs_f64() / 3600.0;
        Ok(format!("{hours:.1} hours; {}", footprint()?))
    })
}

/// What its allocator may take back and forth, in KiB.
const GROWTH_KIB: u64 = 256;

/// Goal: coming and going leaves nothing behind in the kernel, under load too.
/// Method: start and stop over and over; the kernel counts as many enables, and rejects no task.
fn reload_loop(guest: &mut Guest, rounds: u64) -> CaseResult {
    let before = scx::snapshot();
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    let started = Instant::now();
    for _ in 0..rounds {
        let sched = guest.start(&[])?;
        thread::sleep(Duration::from_millis(50));
        guest.stop(&sched)?;
    }
    let took = started.elapsed();
    let after = scx::snapshot();
    let enables = after.enable_seq - before.enable_seq;
    check!(
        enables == rounds,
        "{enables} enables instead of {rounds}, the scheduler restarted"
    );
    check!(
        after.nr_rejected == before.nr_rejected,
        "{} tasks rejected",
        after.nr_rejected - before.nr_rejected
    );
    check_survived(&load.stop()?)?;
    let each = took.as_secs_f64() / Duration::from_secs(rounds).as_secs_f64();
    Ok(format!("{each:.1} s a round"))
}
