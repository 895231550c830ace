// SPDX-License-Identifier: GPL-2.0-only
//! Where tasks run, and how long they wait.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;
use rota_load::report::{GroupReport, Report};

use super::Case;
use super::common::WHILE_NEEDED;
use super::session::{group, load, range, scheduled, steady_load};
use super::shares::{hogs, loops};
use crate::bounds;
use crate::check;
use crate::guest::{
    Callbacks, CaseResult, Failure, Guest, Idleness, Task, Trace, llc_cpus, tasks_of,
};

pub const CASES: &[Case] = &[
    Case::new("busy_machine", busy_machine).counted(),
    Case::new("pinned_stay", pinned_stay).counted(),
    Case::new("pinned_crowd", |guest| pinned_crowd(guest, 500))
        .counted()
        .one_machine(),
    Case::new("pinned_crowd_of_10000", |guest| pinned_crowd(guest, 10_000))
        .limit_s(300)
        .counted()
        .only_full()
        .one_machine(),
    Case::new("chains_end", chains_end).counted().min_cpus(3),
    Case::new("no_idle_cpu_beside_work", no_idle_cpu_beside_work)
        .counted()
        .min_cpus(2),
    Case::new("idle_machine_sleeps", idle_machine_sleeps)
        .counted()
        .one_machine(),
];

const SLICE: [&str; 2] = ["--slice-us", "5000"];
const SLICE_MS: f64 = 5.0;
/// CPU time that cannot be had: the kernel's own threads, and the lab's.
const OVERHEAD: f64 = 0.04;

/// Goal: with more work than CPUs all CPUs are used, equal tasks get equal shares, and nobody waits
/// longer than it takes the others to have their turns.
/// Method: two hogs per CPU, each confined to an LLC, because not all policies level LLCs; a probe,
/// and a probe pinned to each CPU. Looks at their CPU time, and at their longest gap. The fewer CPUs
/// serve a queue, the longer it takes until turns of different lengths even out.
fn busy_machine(guest: &mut Guest) -> CaseResult {
    let (cpus, llcs) = (guest.machine().cpus, guest.machine().llcs as u64);
    let workload = format!("{BUSY}{}", in_each_llc(2, "hogs", HOG));
    scheduled(guest, &SLICE, |_| {
        let report = steady_load(guest, &workload, Duration::from_secs(2 * llcs))?;
        let gaps = check_gaps(&report, 3)?;
        let mut figures = String::new();
        let mut equal = true;
        for hogs in report.groups.iter().filter(|group| group.kind == "loop") {
            let (min, max) = range(&hogs.per_task_share);
            figures += &format!("{} {min:.3} to {max:.3}, ", hogs.name);
            equal &= min > EQUAL * max;
        }
        let total: f64 = report.groups.iter().map(|group| group.share).sum();
        figures += &format!("all {total:.2}, {gaps}");
        check!(equal, "equal hogs are not: {figures}");
        let least = cpus as f64 * (1.0 - OVERHEAD);
        check!(total > least, "CPUs are not used: {figures}");
        Ok(figures)
    })
}

/// A hog, as lines of its group.
const HOG: &str = "run = \"10ms\"";

/// Whether the policy brings the loads of LLCs to one level: scx_fifo leaves them as they are.
fn levels_llcs(guest: &Guest) -> bool {
    guest.sched_name() != "scx_fifo"
}

/// A group of loops for each LLC, so many per CPU, that may not leave it.
fn in_each_llc(per_cpu: usize, name: &str, lines: &str) -> String {
    let of = |(llc, cpus): (usize, Vec<usize>)| {
        let count = per_cpu * cpus.len();
        let lines = format!("{lines}\ncount = {count}\naffinity = \"llc:{llc}\"");
        loops(&format!("{name}-{llc}"), &lines)
    };
    llc_cpus().into_iter().enumerate().map(of).collect()
}

/// Of equal tasks the one with the least CPU time has this part of the most: a policy may
/// count turns instead of time, and turns end at ticks.
const EQUAL: f64 = 0.85;

const BUSY: &str = r#"
name = "busy"
warmup = "300ms"

[[group]]
name = "probe"
kind = "probe"
period = "10ms"

[[group]]
name = "pinned-probe"
kind = "probe"
count = "1/cpu"
period = "20ms"
affinity = "one-each"
"#;

/// No task of a workload waits longer than `per_cpu` tasks on each CPU make it; the longest gaps.
fn check_gaps(report: &Report, per_cpu: usize) -> CaseResult {
    let gap_ms = |group: &GroupReport| group.longest_gap_us.unwrap_or(0.0) / 1e3;
    let told = |group: &GroupReport| format!("{} {:.1}", group.name, gap_ms(group));
    let told: Vec<String> = report.groups.iter().map(told).collect();
    let figures = format!("longest gaps in ms: {}", told.join(", "));
    let bound = bounds::gap_ms(SLICE_MS, report.cpus as usize, per_cpu);
    for group in &report.groups {
        check!(
            gap_ms(group) < bound,
            "{} waits over {bound} ms; {figures}",
            group.name
        );
    }
    Ok(figures)
}

/// Goal: pinned tasks never run elsewhere, and are not starved by free ones, nor starve them.
/// Method: on each CPU a hog and a sleeper that may not leave it, and as many free ones, who may leave
/// it for another of their LLC only if the policy does not level LLCs. A hog gets at least half of what
/// hogs get on average, wherever it may run, and nobody waits for too long.
fn pinned_stay(guest: &mut Guest) -> CaseResult {
    let burst = "run = \"500us\"\nsleep = \"5ms\"\njitter = 30";
    let pinned = "count = \"1/cpu\"\naffinity = \"one-each\"";
    let mut workload = hogs(&[
        ("pinned", pinned),
        ("pinned-burst", &format!("{pinned}\n{burst}")),
    ]);
    if levels_llcs(guest) {
        workload += &loops("free", &format!("count = \"1/cpu\"\n{HOG}"));
        workload += &loops("free-burst", &format!("count = \"1/cpu\"\n{burst}"));
    } else {
        workload += &in_each_llc(1, "free", HOG);
        workload += &in_each_llc(1, "free-burst", burst);
    }
    scheduled(guest, &SLICE, |_| {
        let report = load(guest, &workload, Duration::from_secs(2))?;
        let outside: u64 = report.groups.iter().map(|group| group.outside_mask).sum();
        check!(outside == 0, "{outside} times a task ran where it may not");
        let shares = |of: &str| -> Vec<f64> {
            let its = |name: &str| name.starts_with(of) && !name.contains("burst");
            let groups = report.groups.iter().filter(|group| its(&group.name));
            groups
                .flat_map(|group| group.per_task_share.clone())
                .collect()
        };
        let (pinned, free) = (shares("pinned"), shares("free"));
        let average = (pinned.iter().sum::<f64>() + free.iter().sum::<f64>())
            / (pinned.len() + free.len()) as f64;
        let ((least, most), (least_free, _)) = (range(&pinned), range(&free));
        let gaps = check_gaps(&report, 4)?;
        let figures = format!(
            "pinned hogs {least:.3} to {most:.3}, free ones {least_free:.3} at least, \
             {average:.3} on average, {gaps}"
        );
        check!(
            least.min(least_free) > average / 2.0,
            "a hog has too little: {figures}"
        );
        Ok(figures)
    })
}

/// Goal: however many tasks wait for a CPU that is the only one they may use, the others neither look at
/// them nor wait for them.
/// Method: on each CPU two hogs that may not leave it, and sleepers that may; then beside a crowd of hogs
/// on the first CPU. Who puts them all in one queue has it searched from end to end, under its lock, for
/// one that may run elsewhere. The sleepers' wake-ups and a dispatch take no longer than twice as long.
fn pinned_crowd(guest: &mut Guest, crowd: usize) -> CaseResult {
    // By the guest's memory it would be half as many.
    fs::write("/proc/sys/kernel/threads-max", "20000")?;
    let workload = hogs(&[
        (
            "sleeper",
            "count = 4\nrun = \"1ms\"\nsleep = \"9ms\"\njitter = 30",
        ),
        (
            "pinned",
            "count = \"2/cpu\"\naffinity = \"one-each\"\nrun = \"1ms\"",
        ),
    ]);
    let crowd = format!("count = {crowd}\naffinity = \"0\"\nrun = \"1ms\"");
    let crowded = workload.clone() + &loops("crowd", &crowd);
    scheduled(guest, &SLICE, |sched| {
        let mut callbacks = Callbacks::default();
        let mut told = Vec::new();
        for workload in [workload, crowded] {
            let load = || load(guest, &workload, Duration::from_secs(2));
            let (report, runs) = callbacks.during(sched.program().pid(), load)?;
            let waited = group(&report, "sleeper")?.wakeup_us;
            let waited = waited.ok_or("the sleepers never woke")?;
            let dispatch = runs.get("dispatch").ok_or("dispatch was not called")?;
            told.push([waited.p50, waited.p99, dispatch.each() / 1e3]);
        }
        let pair = |nth: usize| format!("{:.0} and {:.0}", told[0][nth], told[1][nth]);
        let figures = format!(
            "wake-ups take {} (p50), {} us (p99), a dispatch {} us",
            pair(0),
            pair(1),
            pair(2)
        );
        let longer = (0..3).any(|nth| told[1][nth] > 2.0 * told[0][nth]);
        check!(!longer, "more than twice as long: {figures}");
        Ok(figures)
    })
}

/// The longest wait for a pair that talks, in milliseconds. A policy that knows no vtime lets it have a
/// slice and two ticks; one that does gives it what it has not had before: up to 40 were seen, 112 before
/// who wakes was brought near the clock, and 980 without an end of chains.
const CHAIN_MS: f64 = 60.0;

/// Goal: tasks that keep waking each other on a CPU leave it to those who may use no other.
/// Method: a pair that talks through pipes and may use two CPUs; a little later a hog comes to each of
/// them, and may not leave it. The other CPUs idle. Looks at the hogs' CPU time and longest gaps.
fn chains_end(guest: &mut Guest) -> CaseResult {
    let hog = |cpu: usize| {
        let lines = format!("{HOG}\naffinity = \"{cpu}\"\nstart = \"200ms\"");
        loops(&format!("hog-{cpu}"), &lines)
    };
    let workload = format!("{PAIR}{}{}", hog(0), hog(1));
    scheduled(guest, &SLICE, |_| {
        let report = load(guest, &workload, Duration::from_secs(2))?;
        let mut figures = String::new();
        let mut fair = true;
        for hog in report.groups.iter().filter(|group| group.kind == "loop") {
            let gap_ms = hog.longest_gap_us.unwrap_or(f64::INFINITY) / 1e3;
            figures += &format!("{} {:.3} CPUs, gap {gap_ms:.1} ms; ", hog.name, hog.share);
            fair &= gap_ms < CHAIN_MS && hog.share > 0.2;
        }
        check!(
            fair,
            "a hog waits for the pair, longer than {CHAIN_MS} ms or with 0.2 CPUs at most: {figures}"
        );
        Ok(figures)
    })
}

const PAIR: &str = r#"
name = "pair"

[[group]]
name = "pair"
kind = "pipe"
affinity = "0-1"
"#;

/// The CPU time that a scheduler may lose, as a multiple of what EEVDF loses: usually it is half of
/// it (2 % beside 4 to 7 %), and as much with scx_llc on LLCs of two CPUs, but both differ from run
/// to run.
const LOST: f64 = 1.5;

/// Goal: no CPU idles while a task waits that may run there.
/// Method: a load that keeps changing between too little and too much for the CPUs: bursts, hogs
/// for half of the CPUs, pinned bursts. The kernel's trace of switches and wake-ups tells at each
/// moment which CPU idles and which task waits; the masks of the tasks come from /proc. An idle CPU
/// beside a task that may not use it does not count, and a control shows both: three hogs pinned to
/// CPU 0 are no loss, but would be one if they were free.
///
/// Some time is lost whenever a CPU has to be woken, more so in an emulator. So the longest episode
/// is bounded, and the sum by what EEVDF loses in the same guest.
fn no_idle_cpu_beside_work(guest: &mut Guest) -> CaseResult {
    let (found, free) = watch(guest, CROWD, Duration::from_millis(300))?;
    check!(
        found.lost() < 0.1 && free.lost() > 0.8,
        "the control sees {found:?}, and {free:?} if its tasks were free"
    );
    let cpus = guest.machine().cpus;
    let workload = BURSTY.replace("HALF", &(cpus / 2).max(1).to_string());
    // Where there are several, seldom does so much come together that a second tells.
    let length = Duration::from_millis(1200) * guest.machine().llcs as u32;
    let (eevdf, _) = watch(guest, &workload, length)?;
    scheduled(guest, &SLICE, |_| {
        let (found, _) = watch(guest, &workload, length)?;
        let longest_ms = |found: &Idleness| found.longest_us as f64 / 1e3;
        let tell = |what: &Idleness| {
            let lost_pct = what.lost() * 100.0 / cpus as f64;
            format!("{lost_pct:.1} % lost, longest {:.1} ms", longest_ms(what))
        };
        let figures = format!("{}; EEVDF {}", tell(&found), tell(&eevdf));
        check!(
            longest_ms(&found) < bounds::idle_ms(cpus),
            "(task, CPU) {:?} waited beside each other: {figures}",
            found.longest
        );
        check!(found.lost() <= LOST * eevdf.lost(), "{figures}");
        Ok(figures)
    })
}

const CROWD: &str = r#"
name = "crowd"

[[group]]
name = "crowd"
kind = "loop"
count = 3
run = "10ms"
affinity = "0"
"#;

const BURSTY: &str = r#"
name = "bursty"

[[group]]
name = "bursts"
kind = "loop"
count = "1/cpu"
run = "4ms"
sleep = "4ms"
jitter = 80

[[group]]
name = "hogs"
kind = "loop"
count = HALF
run = "10ms"

[[group]]
name = "pinned"
kind = "loop"
count = "1/cpu"
run = "1ms"
sleep = "8ms"
jitter = 50
affinity = "one-each"
"#;

/// How long the tasks of a workload take to spread.
const SETTLE: Duration = Duration::from_millis(300);

/// Wake-ups a second of the scheduler's own threads on an idle machine.
const OWN: f64 = 1.0;
/// Context switches a second that an idle machine may have more: the kernel's threads' vary by up to 3
/// from one ten seconds to the next. Who woke a CPU four times a second would add 8.
const ADDED: f64 = 4.0;

/// Goal: a machine with nothing to do is left alone.
/// Method: the context switches of 10 s without any work, of the guest's own few threads, under
/// EEVDF and under the scheduler, and the wake-ups of the scheduler's process.
fn idle_machine_sleeps(guest: &mut Guest) -> CaseResult {
    let rest = Duration::from_secs(10);
    let look = |process: Option<Pid>| -> Result<(f64, f64), Failure> {
        // What a start or an end left behind is done by then.
        thread::sleep(Duration::from_secs(1));
        let trace = Trace::start()?;
        let from = Trace::now_us();
        thread::sleep(rest);
        let time = (from, Trace::now_us());
        let threads = process.map(tasks_of).unwrap_or_default();
        let threads = threads.iter().map(|task| task.pid).collect();
        let history = trace.finish()?;
        let switches = history.usage(&BTreeSet::new(), time).switches;
        let own = history.waits(&threads, time).len();
        let a_second = |count: u64| count as f64 / rest.as_secs_f64();
        Ok((a_second(switches), a_second(own as u64)))
    };
    let (eevdf, _) = look(None)?;
    scheduled(guest, &[], |sched| {
        let (ours, own) = look(Some(sched.program().pid()))?;
        let figures =
            format!("{ours:.1} switches a second, EEVDF {eevdf:.1}; {own:.1} wake-ups of its own");
        check!(ours <= eevdf + ADDED && own <= OWN, "{figures}");
        Ok(figures)
    })
}

/// Looks at a workload for idle CPUs for `length`, in the middle of its run: with the masks that
/// its tasks have, and as if they had none.
fn watch(guest: &Guest, workload: &str, length: Duration) -> Result<(Idleness, Idleness), Failure> {
    // The trace comes first, so that it sees every task begin.
    let trace = Trace::start()?;
    let load = guest.start_load(workload, WHILE_NEEDED)?;
    load.await_tasks()?;
    thread::sleep(SETTLE);
    let tasks = tasks_of(load.program().pid());
    let from = Trace::now_us();
    thread::sleep(length);
    let time = (from, Trace::now_us());
    let report = load.stop()?;
    check!(report.errors.is_empty(), "{}", report.errors.join("; "));
    let history = trace.finish()?;
    let cpus = guest.online();
    let masks = |free: bool| {
        let mask = |task: &Task| {
            if free {
                cpus.clone()
            } else {
                task.cpus.clone()
            }
        };
        tasks.iter().map(|task| (task.pid, mask(task))).collect()
    };
    let with = |masks| history.idleness(&cpus, &masks, time);
    Ok((with(masks(false)), with(masks(true))))
}
