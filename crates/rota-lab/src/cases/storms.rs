// SPDX-License-Identifier: GPL-2.0-only
//! Work that comes in masses: tasks born, changed and gone, wake-ups by the thousand.

use std::time::{Duration, Instant};

use rota_load::report::Report;

use super::Case;
use super::common::{BUSY, WHILE_NEEDED, check_survived};
use super::session::{load, scheduled};
use crate::check;
use crate::guest::{CaseResult, Cgroup, Failure, Guest, STOP_LIMIT};

pub const CASES: &[Case] = &[
    Case::new("affinity_storm", affinity_storm),
    Case::new("task_and_message_storms", task_and_message_storms).counted(),
    Case::new("cgroup_storm", cgroup_storm).one_machine(),
    Case::new("affinity_storm_in_parallel", affinity_storm).parallel(),
    Case::new(
        "task_and_message_storms_in_parallel",
        task_and_message_storms,
    )
    .parallel(),
    Case::new("cgroup_storm_in_parallel", cgroup_storm).parallel(),
];

/// Goal: tasks whose affinity changes all the time run where they may, and the scheduler never
/// gives one to a CPU that it may not use.
/// Method: tasks that change their own and each other's masks beside hogs; each looks at its CPU
/// after every change. The kernel ejects a scheduler for a wrong CPU, and counts its corrections.
fn affinity_storm(guest: &mut Guest) -> CaseResult {
    scheduled(guest, &[], |_| {
        let report = load(guest, "affinity-storm", Duration::from_secs(2))?;
        let outside: u64 = report.groups.iter().map(|group| group.outside_mask).sum();
        check!(outside == 0, "{outside} times a task ran where it may not");
        let storms = report
            .groups
            .iter()
            .filter(|group| group.kind == "affinity-storm");
        let changes: u64 = storms.map(|group| group.ops).sum();
        check!(changes > 20, "only {changes} changes");
        check_all_ran(&report)?;
        Ok(format!("{changes} changes"))
    })
}

/// Goal: task creation and exit, exec, and wake-ups in masses go on to their end without an error.
/// Method: forks, execs, messages over sockets, and words through a pipe, one after the other under
/// one scheduler, each beside what else its workload has. Slices are short, so that everybody has
/// many turns.
fn task_and_message_storms(guest: &mut Guest) -> CaseResult {
    scheduled(guest, &["--slice-us", "5000"], |_| {
        let mut told = Vec::new();
        for name in ["fork-storm", "exec-storm", "messaging", "pipe"] {
            let mut report = load(guest, name, Duration::from_millis(700))?;
            // How many is a matter of the emulator; on a host that stood still there may be none.
            if report.groups[0].ops == 0 {
                report = load(guest, name, Duration::from_secs(7))?;
            }
            check_all_ran(&report)?;
            let storm = &report.groups[0];
            check!(storm.ops > 0, "{name}: no operation is done");
            told.push(format!("{name} {}", storm.ops));
        }
        Ok(told.join(", "))
    })
}

/// Goal: cgroups that come, go and change, and forks that fail half way, go by without an error.
/// Method: for a second and a half cgroups are made and removed around a running workload, with
/// changing weights and limits; and shells fork in one that may hold few processes.
fn cgroup_storm(guest: &mut Guest) -> CaseResult {
    const LENGTH: Duration = Duration::from_millis(1500);
    const WEIGHTS: [&str; 4] = ["1", "10000", "100", "333"];
    const FORKS: &str = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.01 & done; wait";
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    load.await_tasks()?;
    let pid = load.program().pid();
    let figures = scheduled(guest, &[], |_| {
        let begun = Instant::now();
        let (mut rounds, mut refused) = (0, 0);
        while begun.elapsed() < LENGTH {
            let cgroup = Cgroup::create("storm", &["cpu", "pids"])?;
            cgroup.set("cpu.weight", WEIGHTS[rounds % WEIGHTS.len()])?;
            cgroup.set("cpu.max", "5000 10000")?;
            cgroup.enter(pid)?;
            cgroup.set("cpu.max", "max 10000")?;
            cgroup.leave(pid)?;
            cgroup.set("pids.max", "4")?;
            let shell = cgroup.start("sh", &["-c", FORKS])?;
            shell.wait(STOP_LIMIT).ok_or("a shell does not end")?;
            let events = cgroup.get("pids.events")?;
            refused += u64::from(events.split_whitespace().nth(1) != Some("0"));
            rounds += 1;
        }
        check!(refused > 0, "no fork was refused in {rounds} rounds");
        Ok(format!("{rounds} cgroups, {refused} with forks refused"))
    })?;
    check_survived(&load.stop()?)?;
    Ok(figures)
}

/// No task of a workload was left without any CPU time.
fn check_all_ran(report: &Report) -> Result<(), Failure> {
    for group in &report.groups {
        let starved = group.per_task_share.iter().filter(|share| **share <= 0.0);
        let starved = starved.count();
        check!(
            starved == 0,
            "{}: {starved} of {} tasks of {} never ran",
            report.workload,
            group.tasks,
            group.name
        );
    }
    Ok(())
}
