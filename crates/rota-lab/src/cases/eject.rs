// SPDX-License-Identifier: GPL-2.0-only
//! Ejections: what the kernel does to a scheduler that misbehaves, and what is left afterwards.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Case;
use super::common::{
    ALIVE, BUSY, END_LIMIT, WHILE_NEEDED, check_ejected, check_survived, check_untouched,
};
use super::shares::BY_WEIGHT;
use crate::check;
use crate::guest::{CaseResult, Failure, Guest, Load, STOP_LIMIT, describe, events, last, scx};

const ERROR_BPF: (u32, &str) = (1025, "ERROR_BPF");
const ERROR_STALL: (u32, &str) = (1026, "ERROR_STALL");
const ERROR_REENQ: (u32, &str) = (1027, "ERROR_REENQ");

/// The kernel's deadline for the stalls here, in milliseconds: a task that waits only because the
/// host is busy should not be the one that is blamed.
const STALL_MS: &str = "2000";

pub const CASES: &[Case] = &[
    // Where there is one CPU, no task has a choice, and the kernel does not ask for one.
    Case::new("error_in_select_cpu_ejected", |guest| {
        error_in(guest, "select_cpu")
    })
    .one_machine()
    .min_cpus(2),
    Case::new("error_in_enqueue_ejected", |guest| {
        error_in(guest, "enqueue")
    })
    .one_machine(),
    Case::new("error_in_dispatch_ejected", |guest| {
        error_in(guest, "dispatch")
    })
    .one_machine(),
    Case::new("error_in_update_idle_ejected", |guest| {
        error_in(guest, "update_idle")
    })
    .one_machine(),
    Case::new("error_in_init_ejected", |guest| error_in(guest, "init")).one_machine(),
    Case::new("error_in_running_ejected", |guest| {
        error_in(guest, "running")
    })
    .one_machine()
    .only(BY_WEIGHT),
    Case::new("error_in_stopping_ejected", |guest| {
        error_in(guest, "stopping")
    })
    .one_machine(),
    Case::new("error_in_enable_ejected", |guest| error_in(guest, "enable"))
        .one_machine()
        .only(BY_WEIGHT),
    Case::new("error_in_tick_ejected", |guest| error_in(guest, "tick"))
        .one_machine()
        .only(&["scx_llc", "scx_freq"]),
    Case::new("panic_ejected", panic_ejected).one_machine(),
    Case::new("stall_of_named_task_ejected", stall_of_named_task_ejected),
    Case::new("stall_of_any_task_ejected", stall_of_any_task_ejected).one_machine(),
    Case::new("endless_requeue_ejected", endless_requeue_ejected).one_machine(),
    Case::new("restart_on_error_ejected", restart_on_error_ejected).one_machine(),
    Case::new("sysrq_ejected", sysrq_ejected).one_machine(),
];

/// Goal: an error that the policy itself reports ends it, and the text says where and why.
/// Method: a fault knob reports one from `op`, under load.
fn error_in(guest: &mut Guest, op: &str) -> CaseResult {
    let load = start_load(guest)?;
    let end = guest.run_sched(&["--fault", &format!("error:{op}")], END_LIMIT)?;
    check_ejected(guest, &end, ERROR_BPF, &format!("fault injected into {op}"))?;
    check_survived(&load.stop()?)?;
    Ok(String::new())
}

/// Goal: a defect of the program itself gives the machine back before it ends the process.
/// Method: a fault knob makes it panic once it is attached.
fn panic_ejected(guest: &mut Guest) -> CaseResult {
    let load = start_load(guest)?;
    let end = guest.run_sched(&["--fault", "panic"], END_LIMIT)?;
    if end.code != Some(1) {
        return Err(describe(
            guest.sched_name(),
            "did not end with code 1",
            &end,
        ));
    }
    let words = end.stderr.join("\n");
    check!(words.contains("fault injected"), "it says: {words}");
    guest.wait_state("disabled")?;
    check_survived(&load.stop()?)?;
    Ok(String::new())
}

/// A workload that goes on while errors end a scheduler, perhaps one that is not yet attached.
///
/// No hog on the only CPU: it would never idle, and an error in the middle of the switch to
/// sched_ext would leave tasks of the old scheduler, which go first, with those of the new one
/// behind them. RCU's own thread may be one of those, and without it the kernel (seen on 6.16 and 6.18)
/// does not get to the end of the ejection before the hog is gone.
fn start_load(guest: &Guest) -> Result<Load, Failure> {
    let one = guest.machine().cpus == 1;
    guest.start_load(if one { ALIVE } else { BUSY }, WHILE_NEEDED)
}

/// One task to be lost among others.
const VICTIM: &str = r#"
name = "victim"

[[group]]
name = "victim"
kind = "loop"
run = "10ms"

[[group]]
name = "others"
kind = "loop"
count = "1/cpu"
run = "200us"
sleep = "10ms"
"#;

/// Goal: a task that the policy forgets is noticed and named, comes back, and the kernel's dump is
/// saved on request.
/// Method: a fault knob loses the task with a certain name; reports, dump, and the task's share.
fn stall_of_named_task_ejected(guest: &mut Guest) -> CaseResult {
    const DUMP: &str = "/tmp/stall.dump";
    let load = guest.start_load(VICTIM, WHILE_NEEDED)?;
    // From then on it has its name.
    load.await_tasks()?;
    let args = [
        "--fault",
        "stall:victim",
        "--timeout-ms",
        STALL_MS,
        "--dump-file",
        DUMP,
    ];
    let end = guest.run_sched(&args, END_LIMIT)?;
    let exit = check_ejected(guest, &end, ERROR_STALL, "victim[")?;

    check!(exit["dump_file"] == DUMP, "the exit report says {exit}");
    let dump = fs::read_to_string(DUMP)?;
    check!(
        dump.contains("victim["),
        "the dump of {} bytes does not name the task",
        dump.len()
    );
    let saved = format!("{}: debug dump saved in {DUMP}", guest.sched_name());
    check!(
        end.stderr.contains(&saved),
        "no word of the dump: {:?}",
        end.stderr
    );

    let report = load.stop()?;
    check!(
        report.errors.is_empty(),
        "the workload reports: {}",
        report.errors.join("; ")
    );
    Ok(exit["message"].as_str().unwrap_or_default().to_owned())
}

/// Goal: a stall is noticed whichever task it hits, PID 1 or the scheduler's own process included.
/// Method: a fault knob loses the first task of user space that is queued.
fn stall_of_any_task_ejected(guest: &mut Guest) -> CaseResult {
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    let args = ["--fault", "stall", "--timeout-ms", STALL_MS];
    let end = guest.run_sched(&args, END_LIMIT)?;
    let exit = check_ejected(guest, &end, ERROR_STALL, "] failed to run for ")?;
    let dump_file = &exit["dump_file"];
    check!(dump_file.is_null(), "a dump nobody asked for: {dump_file}");
    let report = load.stop()?;
    check!(
        report.errors.is_empty(),
        "the workload reports: {}",
        report.errors.join("; ")
    );
    Ok(exit["message"].as_str().unwrap_or_default().to_owned())
}

/// One task for a CPU that is never free.
const REQUEUED: &str = r#"
name = "requeued"

[[group]]
name = "victim"
kind = "loop"
run = "1ms"
sleep = "5ms"
affinity = "0"

[[group]]
name = "hogs"
kind = "loop"
count = "2/cpu"
run = "10ms"
"#;

/// Goal: a policy that queues a task again and again, and never runs it, is ejected.
/// Method: a fault knob sends a task to a busy CPU, which has to take it at once or give it back. From
/// 7.1 on the kernel counts how often that is in vain; an older one knows no such request, and its
/// watchdog finds the task.
fn endless_requeue_ejected(guest: &mut Guest) -> CaseResult {
    let load = guest.start_load(REQUEUED, WHILE_NEEDED)?;
    load.await_tasks()?;
    let args = ["--fault", "requeue:victim", "--timeout-ms", STALL_MS];
    let end = guest.run_sched(&args, END_LIMIT)?;
    let kind = match scx::kernel_knows("SCX_ENQ_IMMED")? {
        true => ERROR_REENQ,
        false => ERROR_STALL,
    };
    let exit = check_ejected(guest, &end, kind, "victim[")?;
    check_survived(&load.stop()?)?;
    Ok(exit["message"].as_str().unwrap_or_default().to_owned())
}

/// Goal: a scheduler that is told to start again after an ejection gives up in the end.
/// Method: a policy that fails each time, and leave to restart it once.
fn restart_on_error_ejected(guest: &mut Guest) -> CaseResult {
    const GAVE_UP: i32 = 5;
    let load = start_load(guest)?;
    let args = ["--fault", "error:dispatch", "--restart-on-error", "1"];
    let end = guest.run_sched(&args, END_LIMIT)?;
    if end.code != Some(GAVE_UP) {
        return Err(describe(guest.sched_name(), "did not give up", &end));
    }
    let attempts: Vec<_> = events(&end, "restart")
        .iter()
        .map(|restart| restart["attempt"].as_u64())
        .collect();
    check!(attempts == [Some(1)], "the attempts are {attempts:?}");
    let exit = last(&end, "exit").ok_or("no exit report")?;
    check!(exit["status"] == GAVE_UP, "the exit report says {exit}");
    let words = format!("{}: gave up after 1 restart", guest.sched_name());
    let last_line = end.stderr.last().cloned().unwrap_or_default();
    check!(last_line.starts_with(&words), "it says last: {last_line}");
    guest.wait_state("disabled")?;
    check_survived(&load.stop()?)?;
    Ok(String::new())
}

/// Goal: SysRq-D only dumps; SysRq-S ends the scheduler, which is what was asked for: it is no
/// failure, and nothing starts again.
/// Method: both through `/proc/sysrq-trigger`, under load, with leave to restart after errors.
fn sysrq_ejected(guest: &mut Guest) -> CaseResult {
    const TRIGGER: &str = "/proc/sysrq-trigger";
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    let sched = guest.start(&["--restart-on-error", "3"])?;
    let before = scx::snapshot();
    fs::write(TRIGGER, "D")?;
    thread::sleep(Duration::from_millis(500));
    check_untouched(&before)?;
    check!(sched.program().is_running(), "SysRq-D ended the scheduler");

    fs::write(TRIGGER, "S")?;
    let end = (sched.program().wait(STOP_LIMIT)).ok_or("no end after SysRq-S")?;
    if end.code != Some(0) {
        return Err(describe(
            guest.sched_name(),
            "ended badly after SysRq-S",
            &end,
        ));
    }
    let head = format!("{}: stopped: kind 67 SYSRQ (", guest.sched_name());
    let told = |line: &String| line.starts_with(&head) && line.contains("sysrq");
    check!(
        end.stderr.iter().any(told),
        "it does not name SysRq: {:?}",
        end.stderr
    );
    check!(events(&end, "restart").is_empty(), "it started again");
    guest.wait_state("disabled")?;
    check!(
        !Path::new(super::control::SOCKET).exists(),
        "its socket is left"
    );
    check_survived(&load.stop()?)?;
    Ok(String::new())
}
