// SPDX-License-Identifier: GPL-2.0-only
//! Load on several last-level caches: what moves between them, and what stays.
//!
//! For schedulers with a queue per LLC and a balancer. The lab puts tasks where it wants them by
//! their affinity, then gives them the whole machine.

use std::iter;
use std::thread;
use std::time::Duration;

use rota_load::report::Report;

use super::Case;
use super::common::WHILE_NEEDED;
use super::session::{load, next_stats, scheduled, under};
use super::shares::{feasible_shares, hogs, weight};
use crate::check;
use crate::guest::{
    CaseResult, Failure, Guest, Load, Sched, confine, counters_of, last_cpu, llc_cpus, tasks_of,
};

pub const CASES: &[Case] = &[
    Case::new("balancer_levels", balancer_levels)
        .only(&["scx_llc"])
        .limit_s(180)
        .min_llcs(2)
        .min_cpus(4)
        .counted(),
    Case::new("shares_across_llcs", shares_across_llcs)
        .only(&["scx_llc"])
        .limit_s(180)
        .min_llcs(2)
        .min_cpus(4)
        .counted(),
    Case::new("crowded_llc_spills", crowded_llc_spills)
        .only(&["scx_llc"])
        .min_llcs(2)
        .min_cpus(4)
        .counted(),
    Case::new("stolen_tasks_go_home", stolen_tasks_go_home)
        .only(&["scx_llc"])
        .min_llcs(2)
        .min_cpus(4)
        .counted(),
    Case::new("level_load_stays", level_load_stays)
        .only(&["scx_llc"])
        .min_llcs(2)
        .counted(),
    Case::new("wakeups_stay_local", wakeups_stay_local)
        .only(&["scx_llc"])
        .beside(&["scx_vtime"])
        .min_llcs(2)
        .counted()
        .limit_s(180),
];

/// Goal: load that lies on one LLC is levelled: at once where a CPU would idle, in seconds by the
/// balancer alone, and what the balancer asks to be moved is moved.
/// Method: two hogs per CPU; then all but two of the last LLC's end. Without stealing, the balancer
/// has 3 s. The control, with neither, shows that the hogs stay where they are otherwise.
/// Where there are more LLCs, somebody has one of them to himself now and then, as the system's own
/// tasks have.
fn balancer_levels(guest: &mut Guest) -> CaseResult {
    let stuck = after_exodus(guest, &["--steal", "false", "--balance-ms", "0"])?;
    check!(
        stuck.first > stuck.many - 1.0,
        "the hogs move without anybody who moves them: {stuck}"
    );
    let levelled = after_exodus(guest, &["--steal", "false"])?;
    check!(
        levelled.excess().abs() <= 1.0,
        "the balancer does not level: {levelled}; without it {stuck}"
    );
    let (asked, moved) = (levelled.asked, levelled.moved);
    check!(
        moved > 0.0 && (asked - moved).abs() <= 0.2 * asked,
        "weight {asked} is asked away, and {moved} is moved: {levelled}"
    );
    let stolen = after_exodus(guest, &[])?;
    check!(
        stolen.excess().abs() <= 1.0 && stolen.at_once >= stolen.last_cpus - 0.5,
        "with stealing: {stolen}"
    );
    Ok(format!(
        "hogs on the first and the last LLC: {levelled}, weight asked {asked}, moved {moved}; \
         with stealing {stolen}; with neither {stuck}"
    ))
}

/// Where the hogs are after most of the last LLC's have ended.
struct Exodus {
    first_cpus: f64,
    last_cpus: f64,
    /// Hogs that were put on the first LLC.
    many: f64,
    /// On the last LLC right after the end of the others, and after 3 s on the first and the last.
    at_once: f64,
    first: f64,
    last: f64,
    asked: f64,
    moved: f64,
}

impl Exodus {
    /// How many more hogs than by its CPUs the first LLC has.
    fn excess(&self) -> f64 {
        let part = self.first_cpus / (self.first_cpus + self.last_cpus);
        self.first - part * (self.first + self.last)
    }
}

impl std::fmt::Display for Exodus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} and {:.1} ({:.1} on the last at once)",
            self.first, self.last, self.at_once
        )
    }
}

/// On the first and the last LLC of the machine; others are left alone.
fn after_exodus(guest: &Guest, args: &[&str]) -> Result<Exodus, Failure> {
    let llcs = llc_cpus();
    let (first, last_llc) = (&llcs[0], &llcs[llcs.len() - 1]);
    let both: Vec<usize> = first.iter().chain(last_llc).copied().collect();
    let (many, few) = (2 * first.len(), 2);
    let leave = 2 * last_llc.len() - few;
    let last = llcs.len() - 1;
    // It has an LLC to itself now and then, and may go everywhere: that opens its LLC to nobody else.
    let lonely = match llcs.len() {
        3.. => "[[group]]\nname = \"lonely\"\nkind = \"loop\"\nrun = \"20ms\"\nsleep = \"200ms\"\n",
        _ => "",
    };
    let workload = format!(
        "name = \"exodus\"\nwarmup = \"100ms\"\n\
         [[group]]\nname = \"many\"\nkind = \"loop\"\ncount = {many}\nrun = \"10ms\"\n\
         affinity = \"llc:0\"\n\
         [[group]]\nname = \"few\"\nkind = \"loop\"\ncount = {few}\nrun = \"10ms\"\n\
         affinity = \"llc:{last}\"\n\
         [[group]]\nname = \"leave\"\nkind = \"loop\"\ncount = {leave}\nrun = \"10ms\"\n\
         affinity = \"llc:{last}\"\nstop = \"1s\"\n{lonely}"
    );
    let mut result = None;
    let args = [args, &["--stats", "0.5", "--slice-us", "5000"]].concat();
    scheduled(guest, &args, |sched| {
        let load = guest.start_load(&workload, WHILE_NEEDED)?;
        load.await_tasks()?;
        // Until now nothing could be moved, so nothing was asked for.
        thread::sleep(Duration::from_millis(200));
        let tasks = tasks_of(load.program().pid()).into_iter();
        for hog in tasks.filter(|task| ["many", "few", "leave"].contains(&task.name.as_str())) {
            confine(hog.pid, &both)?;
        }
        // Their end, and what steals do at once.
        thread::sleep(Duration::from_millis(1000));
        let at_once = hogs_on(&load, last_llc)?;
        thread::sleep(Duration::from_secs(3));
        let (first_now, last_now) = (hogs_on(&load, first)?, hogs_on(&load, last_llc)?);
        let (asked, moved) = (total(sched, "weight_asked")?, total(sched, "weight_moved")?);
        load.stop()?;
        result = Some(Exodus {
            first_cpus: first.len() as f64,
            last_cpus: last_llc.len() as f64,
            many: many as f64,
            at_once,
            first: first_now,
            last: last_now,
            asked,
            moved,
        });
        Ok(String::new())
    })?;
    result.ok_or_else(|| "no result".into())
}

/// Confines the tasks of groups to CPUs until they run there, then gives all of them `everywhere`.
fn place(load: &Load, groups: &[(&str, &[usize])], everywhere: &[usize]) -> Result<(), Failure> {
    let tasks = tasks_of(load.program().pid());
    for (name, cpus) in groups {
        for task in tasks.iter().filter(|task| task.name == *name) {
            confine(task.pid, cpus)?;
        }
    }
    thread::sleep(Duration::from_millis(200));
    for (name, _) in groups {
        for task in tasks.iter().filter(|task| task.name == *name) {
            confine(task.pid, everywhere)?;
        }
    }
    Ok(())
}

/// The running hogs that were on one of `cpus` last, on average over a while.
fn hogs_on(load: &Load, cpus: &[usize]) -> Result<f64, Failure> {
    const LOOKS: usize = 10;
    let mut found = 0;
    for _ in 0..LOOKS {
        thread::sleep(Duration::from_millis(20));
        let tasks = tasks_of(load.program().pid());
        let here = |name: &str, pid| {
            ["many", "few"].contains(&name) && last_cpu(pid).is_some_and(|cpu| cpus.contains(&cpu))
        };
        found += tasks
            .iter()
            .filter(|task| here(&task.name, task.pid))
            .count();
    }
    Ok(found as f64 / LOOKS as f64)
}

/// The sum of a figure over all queues, in the line of stats that comes next.
fn total(sched: &Sched, key: &str) -> Result<f64, Failure> {
    let stats = next_stats(sched)?;
    let queues = stats["queues"]
        .as_array()
        .ok_or("no statistics of queues")?;
    let figures = queues.iter().filter_map(|queue| queue[key].as_f64());
    Ok(figures.sum())
}

/// Goal: CPU time follows weight across LLCs, too.
/// Method: weights from 25 to 400, the heavy ones all on the first LLC, the light ones on the last.
/// After 5 s for the balancer, each task gets over 20 s what its weight is worth on the whole
/// machine, within 5 % and a turn. The same without the balancer is told beside it.
fn shares_across_llcs(guest: &mut Guest) -> CaseResult {
    let without = off_by(guest, &["--balance-ms", "0"], Duration::from_secs(5))?;
    let with = off_by(guest, &[], Duration::from_secs(20))?;
    let figures = format!(
        "{:.1} % off at most, {:.1} % without balancer",
        with * 100.0,
        without * 100.0
    );
    check!(with < 0.05, "a task is {figures}");
    check!(without > 0.2, "the control shows nothing: {figures}");
    Ok(figures)
}

/// How far a task is from its feasible share at most, as a part of it, beyond a turn.
fn off_by(guest: &Guest, args: &[&str], length: Duration) -> Result<f64, Failure> {
    let llcs = llc_cpus();
    let (first, last_llc) = (&llcs[0], &llcs[llcs.len() - 1]);
    let all: Vec<usize> = llcs.concat();
    let per_llc = first.len();
    let count = format!("count = {per_llc}\nnice = ");
    let line = |nice: i32| format!("{count}{nice}");
    let (w400, w200, w100, w50, w25) = (line(-6), line(-3), line(0), line(3), line(6));
    let text = hogs(&[
        ("w400", &w400),
        ("w200", &w200),
        ("w100", &w100),
        ("w50", &w50),
        ("w25", &w25),
    ])
    .replace("warmup = \"300ms\"", "warmup = \"5s\"");
    let mut worst = 0.0;
    let args = [args, &["--slice-us", "5000"]].concat();
    scheduled(guest, &args, |_| {
        let load = guest.start_load(&text, length)?;
        load.await_tasks()?;
        let places: [(&str, &[usize]); 5] = [
            ("w400", first),
            ("w200", first),
            ("w100", last_llc),
            ("w50", last_llc),
            ("w25", last_llc),
        ];
        place(&load, &places, &all)?;
        let report = load.finish()?;
        check!(report.errors.is_empty(), "{}", report.errors.join("; "));
        worst = worst_share(&report);
        Ok(String::new())
    })?;
    Ok(worst)
}

fn worst_share(report: &Report) -> f64 {
    /// A slice, its tick, and a late one.
    const TURN_S: f64 = 0.013;
    let tasks: Vec<(f64, f64)> = (report.groups.iter())
        .flat_map(|group| {
            group
                .per_task_share
                .iter()
                .map(|share| (weight(group), *share))
        })
        .collect();
    let weights: Vec<f64> = tasks.iter().map(|(weight, _)| *weight).collect();
    let total: f64 = tasks.iter().map(|(_, share)| share).sum();
    let off = iter::zip(&tasks, feasible_shares(&weights, total)).map(|((_, share), ideal)| {
        let beyond = (share - ideal).abs() - TURN_S / report.seconds;
        beyond.max(0.0) / ideal
    });
    off.fold(0.0, f64::max)
}

/// Goal: a task that wakes in a crowded LLC goes where whole cores idle.
/// Method: three hogs for each CPU of the first LLC, which may not leave it, and sleepers that may,
/// after they began there. They are spilled (or a CPU of the last LLC comes for them, so it is tried
/// several times), and nearly all their runs are on the last LLC.
fn crowded_llc_spills(guest: &mut Guest) -> CaseResult {
    let llcs = llc_cpus();
    let (first, last_llc) = (&llcs[0], &llcs[llcs.len() - 1]);
    let hogs = 3 * first.len();
    let workload = format!(
        "name = \"crowded\"\n\
         [[group]]\nname = \"crowd\"\nkind = \"loop\"\ncount = {hogs}\nrun = \"10ms\"\n\
         affinity = \"llc:0\"\n\
         [[group]]\nname = \"few\"\nkind = \"loop\"\ncount = 2\nrun = \"1ms\"\nsleep = \"5ms\"\n"
    );
    scheduled(guest, &["--stats", "0.5"], |sched| {
        let load = guest.start_load(&workload, WHILE_NEEDED)?;
        load.await_tasks()?;
        let both: Vec<usize> = first.iter().chain(last_llc).copied().collect();
        for _ in 0..5 {
            place(&load, &[("few", first)], &both)?;
            thread::sleep(Duration::from_millis(200));
        }
        let away = hogs_on(&load, last_llc)?;
        load.stop()?;
        let spilled = counters_of(&next_stats(sched)?)["nr_spilled"];
        let figures = format!("{away:.1} of 2 sleepers on the last LLC, nr_spilled {spilled}");
        check!(spilled > 0.0 && away > 1.5, "{figures}");
        Ok(figures)
    })
}

/// Goal: who is taken by a CPU that idles for a moment does not stay for longer than that.
/// Method: as many tasks as the first LLC has CPUs, which may not leave it; one of them sleeps now
/// and then. The others have a hog for each CPU, and a light one, which comes for that time and
/// leaves the rest to those that have no other place.
fn stolen_tasks_go_home(guest: &mut Guest) -> CaseResult {
    let llcs = llc_cpus();
    let (first, others) = (&llcs[0], llcs[1..].concat());
    let (steady, hogs) = (first.len() - 1, others.len());
    let workload = format!(
        "name = \"visits\"\nwarmup = \"1s\"\n\
         [[group]]\nname = \"sleeper\"\nkind = \"loop\"\nrun = \"20ms\"\nsleep = \"6ms\"\n\
         affinity = \"llc:0\"\n\
         [[group]]\nname = \"steady\"\nkind = \"loop\"\ncount = {steady}\nrun = \"10ms\"\n\
         affinity = \"llc:0\"\n\
         [[group]]\nname = \"hog\"\nkind = \"loop\"\ncount = {hogs}\nrun = \"10ms\"\n\
         [[group]]\nname = \"light\"\nkind = \"loop\"\nrun = \"10ms\"\nnice = 5\n"
    );
    let args = ["--balance-ms", "0", "--slice-us", "5000", "--stats", "0.5"];
    let mut figures = String::new();
    scheduled(guest, &args, |sched| {
        let load = guest.start_load(&workload, Duration::from_secs(4))?;
        load.await_tasks()?;
        let all: Vec<usize> = llcs.concat();
        place(&load, &[("hog", &others), ("light", &others)], &all)?;
        let report = load.finish()?;
        let counted = counters_of(&next_stats(sched)?);
        let (stolen, returned) = (counted["nr_stolen"], counted["nr_returned"]);
        let least = (report.groups.iter())
            .filter(|group| group.name == "steady")
            .flat_map(|group| group.per_task_share.iter().copied())
            .fold(1.0, f64::min);
        figures = format!("{least:.3} CPUs for a steady one, {stolen} stolen, {returned} returned");
        check!(returned > 0.0 && returned <= stolen, "{figures}");
        // All but those that were taken when the tasks of the first LLC had ended.
        check!(returned > 0.5 * stolen, "{figures}");
        check!(least > 0.85, "{figures}");
        Ok(String::new())
    })?;
    Ok(figures)
}

/// Goal: nothing moves for its own sake.
/// Method: two equal hogs per CPU; once they are level, nothing more is asked to be moved for 10 s.
fn level_load_stays(guest: &mut Guest) -> CaseResult {
    let workload = hogs(&[("hog", "count = \"2/cpu\"")]);
    scheduled(guest, &["--stats", "0.5", "--slice-us", "5000"], |sched| {
        let load = guest.start_load(&workload, WHILE_NEEDED)?;
        load.await_tasks()?;
        thread::sleep(Duration::from_secs(4));
        let before = total(sched, "weight_asked")?;
        thread::sleep(Duration::from_secs(10));
        let after = total(sched, "weight_asked")?;
        load.stop()?;
        check!(
            after == before,
            "weight {} is asked away from level LLCs",
            after - before
        );
        Ok(format!("{before} to come to rest, then none"))
    })
}

/// Goal: tasks that talk to each other stay near each other.
/// Method: a ring of tasks that wake each other, a pair that talks through pipes, and sleepers, and
/// how often they change their LLC: at most a quarter as often as under the kernel's own scheduler,
/// and as under scx_vtime. In 5 s those are 150 to 400 moves of the one and 40 to 90 of the other, too few
/// to tell by.
fn wakeups_stay_local(guest: &mut Guest) -> CaseResult {
    let moves = |guest: &Guest| -> Result<f64, Failure> {
        let report = load(guest, PAIRS, Duration::from_secs(15))?;
        let sum = |field: fn(&rota_load::report::GroupReport) -> u64| {
            report.groups.iter().map(field).sum::<u64>() as f64
        };
        Ok(1000.0 * sum(|group| group.llc_moves) / sum(|group| group.switches).max(1.0))
    };
    let eevdf = moves(guest)?;
    let vtime = under(guest, "scx_vtime", || moves(guest))?;
    scheduled(guest, &["--stats", "0.5"], |sched| {
        let ours = moves(guest)?;
        let counters = sched.counters();
        let why: Vec<String> = [
            "nr_sync",
            "nr_spilled",
            "nr_spread",
            "nr_stolen",
            "nr_moved",
        ]
        .iter()
        .map(|name| format!("{name} {}", counters.get(*name).copied().unwrap_or(0.0)))
        .collect();
        let figures = format!(
            "{ours:.2} moves in 1000 switches, EEVDF {eevdf:.2}, scx_vtime {vtime:.2}; {}",
            why.join(", ")
        );
        check!(ours <= eevdf.min(vtime) / 4.0, "{figures}");
        Ok(figures)
    })
}

const PAIRS: &str = r#"
name = "pairs"
warmup = "500ms"

[[group]]
name = "ring"
kind = "loop"
count = "1/cpu"
run = "100us"
jitter = 50
wake_next = true
tokens = 3

[[group]]
name = "pipe"
kind = "pipe"

[[group]]
name = "background"
kind = "loop"
count = "1/cpu"
run = "300us"
sleep = "1ms"
jitter = 50
"#;
