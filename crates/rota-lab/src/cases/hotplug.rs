// SPDX-License-Identifier: GPL-2.0-only
//! CPUs that come and go. The kernel ejects a scheduler for it and asks to be given it again.

use std::fs;

use serde_json::Value;

use super::Case;
use super::common::{
    BUSY, END_LIMIT, WHILE_NEEDED, check_alive, check_survived, spawn_until_opened,
};
use crate::check;
use crate::guest::{CaseResult, Failure, Guest, Progress, Sched, describe, events, list, scx};

pub const CASES: &[Case] = &[
    Case::new("hotplug_under_load", hotplug_under_load).min_cpus(2),
    Case::new("hotplug_under_load_in_parallel", hotplug_under_load).parallel(),
    Case::new("hotplug_of_each_cpu", |guest| {
        let all: Vec<usize> = (1..guest.machine().cpus).collect();
        for some in all.chunks(2) {
            hotplug(guest, "hogs", some)?;
        }
        Ok(String::new())
    })
    .min_cpus(3)
    .limit_s(400)
    .only_full(),
    Case::new("hotplug_while_starting", hotplug_while_starting).min_cpus(2),
    Case::new("offline_cpu_at_start", offline_cpu_at_start).min_cpus(2),
    Case::new("offline_llc", offline_llc)
        .min_cpus(2)
        .min_llcs(2)
        .limit_s(180),
];

/// A scheduler that starts again and again, in the same process.
struct Restarting<'a> {
    guest: &'a Guest,
    sched: Sched,
    starts: usize,
}

impl<'a> Restarting<'a> {
    fn start(guest: &'a Guest) -> Result<Self, Failure> {
        let sched = guest.start(&[])?;
        let running = Self {
            guest,
            sched,
            starts: 1,
        };
        running.check_topology(&running.sched.wait_start(1).unwrap_or_default())?;
        Ok(running)
    }

    /// Waits until it runs again, with the CPUs that there are now.
    fn restarted(&mut self) -> Result<(), Failure> {
        self.starts += 1;
        let started = self.sched.wait_start(self.starts).map_err(|progress| {
            describe(self.guest.sched_name(), "did not start again", &progress)
        })?;
        self.guest.wait_state("enabled")?;
        self.check_topology(&started)
    }

    /// Waits until it has taken in everything that happened to the CPUs.
    fn settled(&mut self) -> Result<Value, Failure> {
        let online = self.guest.online().len();
        let fits = |progress: &Progress| {
            let starts = events(progress, "started");
            let last = starts.last().filter(|s| s["topology"]["cpus"] == online);
            last.map(|last| (starts.len(), last.clone()))
        };
        let limit = END_LIMIT;
        let Some((starts, started)) = self.sched.program().wait_for(limit, fits) else {
            let progress = self.sched.program().progress();
            return Err(describe(
                self.guest.sched_name(),
                &format!("does not run on the {online} CPUs that there are"),
                &progress,
            ));
        };
        self.starts = starts;
        self.guest.wait_state("enabled")?;
        self.check_topology(&started)?;
        Ok(started)
    }

    fn check_topology(&self, started: &Value) -> Result<(), Failure> {
        let online = self.guest.online();
        let topology = &started["topology"];
        let its = list(topology["online"].as_str().unwrap_or_default());
        check!(
            its == online && topology["cpus"] == online.len(),
            "CPUs {online:?} are online, it runs with {topology}"
        );
        Ok(())
    }

    /// Stops it; every end before was a CPU's, and each was told.
    fn stop(self) -> Result<(), Failure> {
        let end = self.guest.stop(&self.sched)?;
        let restarts = events(&end, "restart");
        let other = restarts
            .iter()
            .find(|restart| restart["reason"] != "a CPU came or went");
        check!(other.is_none(), "another restart: {other:?}");
        let (told, starts) = (restarts.len(), self.starts);
        check!(
            told + 1 >= starts,
            "{starts} starts, but only {told} restarts are told"
        );
        Ok(())
    }
}

/// Goal: a CPU that goes or comes under load costs one clean restart, in the same process, and no
/// task.
/// Method: takes CPUs offline and back, one at a time; the scheduler starts again each time with
/// the CPUs that there are, and ends with code 0.
fn hotplug_under_load(guest: &mut Guest) -> CaseResult {
    // As many events in a row as are answered without a delay.
    let cpus = guest.machine().cpus;
    let some = if cpus > 2 { vec![1, cpus - 1] } else { vec![1] };
    hotplug(guest, BUSY, &some)
}

/// Takes `cpus` offline and back under `workload`.
fn hotplug(guest: &mut Guest, workload: &str, cpus: &[usize]) -> CaseResult {
    let before = scx::snapshot();
    let mut sched = Restarting::start(guest)?;
    let load = guest.start_load(workload, WHILE_NEEDED)?;
    // Its tasks take their places on CPUs that have to be there.
    load.await_tasks()?;
    for &cpu in cpus {
        guest.set_online(cpu, false)?;
        sched.restarted()?;
        guest.set_online(cpu, true)?;
        sched.restarted()?;
    }
    let enables = scx::snapshot().enable_seq - before.enable_seq;
    let expected = 1 + 2 * cpus.len() as u64;
    check!(
        enables == expected,
        "{enables} enables instead of {expected}"
    );
    check_alive(guest)?;
    sched.stop()?;
    check_survived(&load.stop()?)?;
    Ok(String::new())
}

/// Goal: a CPU that goes while the scheduler is about to start is not overlooked: what it knows of
/// the machine would stay wrong until the next event.
/// Method: takes a CPU offline once the scheduler has read the machine and opens its object, before
/// it is attached.
fn hotplug_while_starting(guest: &mut Guest) -> CaseResult {
    let last = guest.machine().cpus - 1;
    let sched = spawn_until_opened(guest)?;
    let early = events(&sched.program().progress(), "started").is_empty();
    guest.set_online(last, false)?;
    let mut sched = Restarting {
        guest,
        sched,
        starts: 0,
    };
    sched.settled()?;
    check_alive(guest)?;
    guest.set_online(last, true)?;
    sched.settled()?;
    sched.stop()?;
    check!(early, "it had started before the CPU went");
    Ok(String::new())
}

/// Goal: a scheduler starts on a machine some of whose CPUs are offline, and takes them in later.
/// Method: one CPU offline before the start, back online afterwards.
fn offline_cpu_at_start(guest: &mut Guest) -> CaseResult {
    let last = guest.machine().cpus - 1;
    guest.set_online(last, false)?;
    let mut sched = Restarting::start(guest)?;
    check_alive(guest)?;
    guest.set_online(last, true)?;
    sched.restarted()?;
    check_alive(guest)?;
    sched.stop()?;
    Ok(String::new())
}

/// Goal: an LLC all of whose CPUs go takes no task with it, and is used again when they are back.
/// Method: all CPUs of the last LLC offline under load, in a row, and back.
fn offline_llc(guest: &mut Guest) -> CaseResult {
    let last = guest.machine().cpus - 1;
    let shared = format!("/sys/devices/system/cpu/cpu{last}/cache/index3/shared_cpu_list");
    let cpus = list(&fs::read_to_string(&shared)?);
    check!(!cpus.is_empty() && !cpus.contains(&0), "{shared}: {cpus:?}");
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    load.await_tasks()?;
    let mut sched = Restarting::start(guest)?;
    for (online, llcs) in [
        (false, guest.machine().llcs - 1),
        (true, guest.machine().llcs),
    ] {
        for &cpu in &cpus {
            guest.set_online(cpu, online)?;
        }
        let started = sched.settled()?;
        let its = &started["topology"]["llcs"];
        check!(*its == llcs, "it runs with {its} LLCs instead of {llcs}");
        check_alive(guest)?;
    }
    sched.stop()?;
    check_survived(&load.stop()?)?;
    Ok(String::new())
}
