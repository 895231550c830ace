// SPDX-License-Identifier: GPL-2.0-only
//! Few tasks on few CPUs: how compact a nest is, how fast it grows and shrinks, where it begins.
//!
//! For schedulers that concentrate work on warm CPUs. What tasks used is read from the kernel's own
//! trace, in virtual time.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rota_load::report::Report;

use super::Case;
use super::common::WHILE_NEEDED;
use super::session::{load, next_stats, scheduled, under};
use super::shares::hogs;
use crate::bounds;
use crate::check;
use crate::guest::{
    CaseResult, Failure, Guest, History, Load, Sched, Trace, Usage, all_tasks, counters_of,
    llc_cpus, tasks_of,
};
use crate::topology::{STRONG, WEAK};

pub const CASES: &[Case] = &[
    Case::new("few_tasks_few_cpus", few_tasks_few_cpus)
        .only(NEST)
        .min_llcs(2)
        .counted(),
    Case::new("nest_grows_and_shrinks", nest_grows_and_shrinks)
        .only(NEST)
        .min_llcs(2)
        .counted(),
    Case::new("impatience_warms", impatience_warms)
        .only(NEST)
        .min_llcs(2)
        .counted(),
    Case::new("limited_nest_grows", limited_nest_grows)
        .only(NEST)
        .min_llcs(2)
        .counted(),
    Case::new(
        "nest_begins_with_the_strongest",
        nest_begins_with_the_strongest,
    )
    .only(NEST)
    .min_llcs(2)
    .counted(),
    Case::new("nest_is_on_the_strong_cpus", nest_is_on_the_strong_cpus)
        .only(NEST)
        .hybrid()
        .counted(),
    Case::new("tasks_kept_out_of_the_nest", tasks_kept_out_of_the_nest)
        .only(NEST)
        .min_llcs(2)
        .counted(),
    Case::new("full_machine_is_as_fast", full_machine_is_as_fast)
        .beside(&["scx_vtime"])
        .only(NEST)
        .min_llcs(2)
        .counted(),
    Case::new("performance_is_asked", performance_is_asked)
        .only(NEST)
        .min_llcs(2)
        .counted(),
];

const NEST: &[&str] = &["scx_freq"];

/// CPUs used for each that is needed (G10).
const COMPACT: f64 = 1.15;
/// An emulated CPU stands still while others run, for a tick or two: what is cold or late after 2 ms
/// on a real machine is so after more than that.
const PATIENT: [&str; 4] = ["--remove-us", "8000", "--grow-us", "20000"];
/// CPUs that are used are counted in pieces of this length, and averaged: where a kernel thread
/// stands still with its CPU, a task moves for good, and uses no more CPUs for that.
const PIECE_US: u64 = 100_000;
/// What passes before CPUs are counted.
const WARM: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_secs(1);
/// A task moves once or twice a second, with luck not at all, and each time uses two CPUs in a piece:
/// one second says more of the luck than of the policy.
const LONG_LOOK: Duration = Duration::from_secs(3);

/// Goal: tasks that would fit on few CPUs use no more.
/// Method: one, two and three tasks that run 2 ms and sleep 1 ms, and processes that are born, run
/// and end one after another like those of a configure script. After a second, the CPUs that they
/// use in the next three, against the least number that holds what was runnable; EEVDF's beside.
/// Processes may have one CPU more: where a thread of the kernel stands still with its CPU as one
/// is born, it begins elsewhere, and stays for all of its short life.
fn few_tasks_few_cpus(guest: &mut Guest) -> CaseResult {
    let loads: Vec<(String, String)> = [1, 2, 3]
        .map(|count| (format!("{count} tasks"), few(count)))
        .into_iter()
        .chain([("script".to_owned(), SCRIPT.to_owned())])
        .collect();
    let all = |guest: &Guest| -> Result<Vec<Spread>, Failure> {
        loads
            .iter()
            .map(|(_, workload)| spread(guest, workload))
            .collect()
    };
    let eevdf = all(guest)?;
    scheduled(guest, &PATIENT, |_| {
        let ours = all(guest)?;
        let tell =
            |found: &Spread| format!("{:.1} CPUs for {:.2} runnable", found.cpus, found.runnable);
        let figures: Vec<String> = (loads.iter().zip(ours.iter().zip(&eevdf)))
            .map(|((name, _), (ours, eevdf))| {
                format!("{name}: {}, EEVDF {}", tell(ours), tell(eevdf))
            })
            .collect();
        let figures = figures.join("; ");
        for ((name, _), found) in loads.iter().zip(&ours) {
            let needed = found.runnable.ceil().max(1.0);
            let most = match name.as_str() {
                "script" => needed.max(2.0) + 1.0,
                _ => needed * COMPACT,
            };
            check!(found.cpus <= most, "{figures}");
        }
        Ok(figures)
    })
}

fn few(count: usize) -> String {
    format!(
        "name = \"few\"\n[[group]]\nname = \"few\"\nkind = \"loop\"\ncount = {count}\n\
         run = \"2ms\"\nsleep = \"1ms\"\n"
    )
}

const SCRIPT: &str = "name = \"script\"\n[[group]]\nname = \"script\"\nkind = \"exec-storm\"\n\
                      count = 1\noutstanding = 1\n";

/// A workload, and how long ago it began does not matter any more.
struct Traced {
    trace: Trace,
    load: Load,
    others: BTreeSet<i32>,
}

impl Traced {
    fn start(guest: &Guest, workload: &str) -> Result<Self, Failure> {
        let others = all_tasks().iter().map(|task| task.pid).collect();
        // The trace comes first, so that it sees every task begin.
        let trace = Trace::start()?;
        let load = guest.start_load(workload, WHILE_NEEDED)?;
        load.await_tasks()?;
        Ok(Self {
            trace,
            load,
            others,
        })
    }

    /// Ends it; what happened.
    fn finish(self) -> Result<History, Failure> {
        let report = self.load.stop()?;
        check!(report.errors.is_empty(), "{}", report.errors.join("; "));
        Ok(self.trace.finish()?)
    }
}

/// How many CPUs tasks used at a time, and how many of them were runnable, on average.
struct Spread {
    cpus: f64,
    runnable: f64,
}

/// How the tasks of a workload are spread once they are warm.
fn spread(guest: &Guest, workload: &str) -> Result<Spread, Failure> {
    let traced = Traced::start(guest, workload)?;
    thread::sleep(WARM);
    let from = Trace::now_us();
    thread::sleep(LONG_LOOK);
    let pieces = (Trace::now_us() - from) / PIECE_US;
    let piece = |index| (from + index * PIECE_US, from + (index + 1) * PIECE_US);
    let others = traced.others.clone();
    let history = traced.finish()?;
    let look = |index| history.usage(&others, piece(index));
    let found: Vec<Usage> = (0..pieces).map(look).collect();
    let mean = |value: fn(&Usage) -> f64| found.iter().map(value).sum::<f64>() / pieces as f64;
    Ok(Spread {
        cpus: mean(|usage| usage.cpus() as f64),
        runnable: mean(Usage::mean_runnable),
    })
}

/// What the tasks of a workload use once they are warm.
fn usage(guest: &Guest, workload: &str) -> Result<Usage, Failure> {
    let traced = Traced::start(guest, workload)?;
    thread::sleep(WARM);
    let from = Trace::now_us();
    thread::sleep(LOOK);
    let (others, time) = (traced.others.clone(), (from, Trace::now_us()));
    Ok(traced.finish()?.usage(&others, time))
}

/// The bound on waiting for a warm CPU, in milliseconds, and options that set it.
const GROW_MS: f64 = 2.0;
/// It is seen at a tick, and then a CPU is woken.
fn growth_ms(cpus: usize) -> f64 {
    GROW_MS + bounds::idle_ms(cpus)
}

/// One task all the time, and for a second one for each CPU.
fn burst(cpus: usize) -> String {
    format!(
        "name = \"burst\"\nwarmup = \"100ms\"\n\
         [[group]]\nname = \"one\"\nkind = \"loop\"\nrun = \"2ms\"\nsleep = \"1ms\"\n\
         [[group]]\nname = \"burst\"\nkind = \"loop\"\ncount = {}\nrun = \"5ms\"\n\
         start = \"500ms\"\nstop = \"1500ms\"\n",
        cpus - 1
    )
}

/// A burst: how its tasks got CPUs, and what was used afterwards.
struct Burst {
    /// CPUs that were used in it.
    cpus: usize,
    /// The longest time for which a task waited beside an idle CPU, in milliseconds.
    wait_ms: f64,
    /// What was used in [`LOOK_AFTER`], from 120 to 420 ms after the end on.
    after: Usage,
    /// CPUs of the primary nest then, on average; 0 without a scheduler that has one.
    nest: f64,
}

impl std::fmt::Display for Burst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} CPUs, {:.1} ms beside an idle one",
            self.cpus, self.wait_ms
        )
    }
}

/// How often the scheduler tells of its nests where bursts are looked at, in seconds. Its thread does
/// so on a warm CPU, and drives the one task that is left there away: [`LOOK_AFTER`] lies between two
/// lines.
const TELL_S: &str = "0.3";
const LOOK_AFTER: Duration = Duration::from_millis(200);

fn run_burst(guest: &Guest, sched: Option<&Sched>) -> Result<Burst, Failure> {
    let online = guest.online();
    let traced = Traced::start(guest, &burst(online.len()))?;
    let tasks = tasks_of(traced.load.program().pid()).into_iter();
    let allowed = tasks.map(|task| (task.pid, online.clone())).collect();
    // The burst begins 600 ms after its tasks were let go, which was just before.
    let due = Trace::now_us() + 550_000;
    thread::sleep(Duration::from_millis(1700));
    sched.map(next_stats).transpose()?;
    // Until who wrote the line, and who read it, sleep.
    thread::sleep(Duration::from_millis(20));
    let end = Trace::now_us();
    thread::sleep(LOOK_AFTER);
    let look = (end, Trace::now_us());
    let nest = sched.map(nest_size).transpose()?.unwrap_or_default();
    let others = traced.others.clone();
    let history = traced.finish()?;
    let time = (due, due + 500_000);
    let waits = history.idleness(&online, &allowed, time);
    Ok(Burst {
        cpus: history.usage(&others, time).cpus(),
        wait_ms: waits.longest_us as f64 / 1e3,
        after: history.usage(&others, look),
        nest,
    })
}

/// CPUs of the primary nest, on average from one line of stats to the next.
fn nest_size(sched: &Sched) -> Result<f64, Failure> {
    let stats = next_stats(sched)?;
    let mean = stats["nests"]["primary"]["mean"].as_f64();
    mean.ok_or_else(|| "no sizes of nests are told".into())
}

/// Goal: the nest never costs work conservation, and lets go of what is no longer used.
/// Method: beside a task that sleeps now and then, one more for each other CPU begins at once and
/// ends after a second. All CPUs are used, and none idles beside a task that waits for longer than
/// the bound; soon after the end the nest has two CPUs at most, and the task that is left runs there.
/// EEVDF's figures beside.
fn nest_grows_and_shrinks(guest: &mut Guest) -> CaseResult {
    let cpus = guest.machine().cpus;
    let eevdf = run_burst(guest, None)?;
    scheduled(guest, &["--stats", TELL_S], |sched| {
        let found = run_burst(guest, Some(sched))?;
        let figures = format!(
            "{found}, EEVDF {eevdf}; afterwards {} used, nest of {:.1}",
            found.after.cpus(),
            found.nest
        );
        check_grown(&found, cpus, 1.0, &figures)?;
        check!(found.after.cpus() <= 2 && found.nest <= 2.0, "{figures}");
        Ok(figures)
    })
}

/// All CPUs are used, within so many times the bound.
fn check_grown(found: &Burst, cpus: usize, times: f64, figures: &str) -> Result<(), Failure> {
    let bound = times * growth_ms(cpus);
    check!(
        found.cpus == cpus && found.wait_ms <= bound,
        "not all within {bound} ms: {figures}"
    );
    Ok(())
}

/// Goal: impatient tasks make a CPU warm at once.
/// Method: the same burst with tasks that are impatient from the beginning: all CPUs that they get
/// beyond the nests become primary, and none goes through the reserve.
fn impatience_warms(guest: &mut Guest) -> CaseResult {
    scheduled(guest, &["--stats", TELL_S, "--impatience", "0"], |sched| {
        run_burst(guest, Some(sched))?;
        let counters = counters_of(&next_stats(sched)?);
        let (impatient, grown) = (counters["nr_impatient"], counters["nr_grown"]);
        let figures = format!("nr_impatient {impatient}, nr_grown {grown}");
        check!(impatient > 0.0 && grown == 0.0, "{figures}");
        Ok(figures)
    })
}

/// Goal: a limit on the nest is one on what wake-ups choose, not on who may run.
/// Method: the same burst with a limit of one CPU. Tasks wait for it, and cold CPUs are woken for
/// them, a few at each tick, all within twice the bound; `nr_forced` counts it.
fn limited_nest_grows(guest: &mut Guest) -> CaseResult {
    let cpus = guest.machine().cpus;
    let args = [
        "--stats",
        TELL_S,
        "--primary-max",
        "1",
        "--remove-us",
        "8000",
    ];
    scheduled(guest, &args, |sched| {
        let found = run_burst(guest, Some(sched))?;
        let forced = counters_of(&next_stats(sched)?)["nr_forced"];
        let used = found.after.cpus();
        let figures = format!("{found}, nr_forced {forced}; afterwards {used} used");
        check_grown(&found, cpus, 2.0, &figures)?;
        check!(forced > 0.0 && used <= 2, "{figures}");
        Ok(figures)
    })
}

/// Where the kernel tells how strong a CPU is.
fn capacity_file(cpu: usize) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/cpu_capacity")
}

/// Files of sysfs that tell the strength of CPUs, replaced while this lives.
struct Disguise {
    files: Vec<String>,
}

impl Disguise {
    /// Gives CPUs capacities; nothing where the kernel tells none.
    fn capacities(cpus: &[usize], capacity: u32) -> Result<Self, Failure> {
        let mut disguise = Self { files: Vec::new() };
        for cpu in cpus {
            let file = capacity_file(*cpu);
            let mask = format!("/tmp/capacity-{cpu}");
            if fs::metadata(&file).is_err() {
                return Err(Failure::Skipped("this kernel tells no capacities".into()));
            }
            fs::write(&mask, format!("{capacity}\n"))?;
            mount(
                Some(mask.as_str()),
                file.as_str(),
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|error| format!("binding {mask} to {file}: {error}"))?;
            disguise.files.push(file);
        }
        Ok(disguise)
    }
}

impl Drop for Disguise {
    fn drop(&mut self) {
        for file in &self.files {
            // The guest is of no use to later cases if this fails, and they will say so.
            let _ = umount2(file.as_str(), MntFlags::MNT_DETACH);
        }
    }
}

/// Goal: on a machine with strong and weak CPUs the nest is on the strong ones, or with `--energy`
/// on the weak ones.
/// Method: the files that tell the capacity of the first half of the CPUs are replaced in the
/// guest's sysfs. A task that sleeps now and then runs on CPUs of the other half; with `--energy` on
/// those of the first. A thread of the kernel may stand still with a CPU there and drive it away for
/// a while.
fn nest_begins_with_the_strongest(guest: &mut Guest) -> CaseResult {
    let cpus = llc_cpus().concat();
    let (weak, strong) = cpus.split_at(cpus.len() / 2);
    let _disguise = Disguise::capacities(weak, WEAK)?;
    preferred(guest, weak, strong)
}

/// Goal: the same without any disguise: the kernel itself knows of strong and weak CPUs.
/// Method: the capacities that the kernel took from the device tree are those of a hybrid machine,
/// and its strongest CPUs are where a task runs that sleeps now and then; with `--energy` the others.
fn nest_is_on_the_strong_cpus(guest: &mut Guest) -> CaseResult {
    let (mut weak, mut strong) = (Vec::new(), Vec::new());
    let mut capacities = Vec::new();
    for cpu in guest.online() {
        let text = fs::read_to_string(capacity_file(cpu))?;
        match text.trim().parse() {
            Ok(STRONG) => strong.push(cpu),
            Ok(WEAK) => weak.push(cpu),
            _ => return Err(format!("CPU {cpu} has a capacity of {}", text.trim()).into()),
        }
        capacities.push(text.trim().to_owned());
    }
    let capacities = format!("capacities {}", capacities.join("/"));
    check!(!weak.is_empty() && !strong.is_empty(), "{capacities}");
    let told = preferred(guest, &weak, &strong)?;
    Ok(format!("{capacities}; {told}"))
}

/// Checks that one task runs on strong CPUs, and with `--energy` on weak ones.
fn preferred(guest: &Guest, weak: &[usize], strong: &[usize]) -> CaseResult {
    let mut told = Vec::new();
    for (args, expected) in [(&[][..], strong), (&["--energy"], weak)] {
        told.push(scheduled(guest, args, |_| {
            let found = usage(guest, &few(1))?;
            let (inside, outside): (Vec<_>, Vec<_>) = found
                .ran_us
                .iter()
                .partition(|(cpu, _)| expected.contains(cpu));
            let sum = |part: &[(&usize, &u64)]| part.iter().map(|(_, ran)| **ran).sum::<u64>();
            let (inside, outside) = (sum(&inside), sum(&outside));
            let figures = format!("{args:?}: CPUs {expected:?} {inside} us, others {outside} us");
            check!(inside > 9 * outside, "{figures}");
            Ok(figures)
        })?);
    }
    Ok(told.join("; "))
}

/// Goal: requests for performance are made, and the kernel takes them.
/// Method: `--cpuperf max`, which does not ask whether the hardware listens: in a guest it never
/// does. Busy CPUs ask for all there is; `nr_perf` counts it. With `off` nothing is asked.
fn performance_is_asked(guest: &mut Guest) -> CaseResult {
    let asked = |mode: &str| {
        let mut asked = 0.0;
        scheduled(guest, &["--stats", "0.2", "--cpuperf", mode], |sched| {
            let load = guest.start_load("hogs", WHILE_NEEDED)?;
            load.await_tasks()?;
            thread::sleep(Duration::from_millis(500));
            asked = counters_of(&next_stats(sched)?)["nr_perf"];
            load.stop()?;
            Ok(String::new())
        })?;
        Ok::<_, Failure>(asked)
    };
    let (max, off) = (asked("max")?, asked("off")?);
    let cpus = guest.machine().cpus as f64;
    check!(
        max >= cpus && off == 0.0,
        "{max} requests, {off} with `off`"
    );
    Ok(format!("{max} requests, {off} with `off`"))
}

/// A task waits no longer than this for a CPU that nobody else wants, in milliseconds: the bound, a
/// tick, and the emulator's rounds, with room for the kernel's own threads.
const GAP_MS: f64 = 50.0;

/// Goal: a nest where tasks may not run is no reason to wait for it.
/// Method: a nest of one CPU at most, kept warm by a task there; a task that may use the last two CPUs
/// only, and one pinned to each of them. All run where they may, get most of what
/// they want, and wait for no longer than the bound.
fn tasks_kept_out_of_the_nest(guest: &mut Guest) -> CaseResult {
    let cpus = guest.online();
    let (before, last) = (cpus[cpus.len() - 2], cpus[cpus.len() - 1]);
    let group = |name: &str, affinity: &str| {
        format!(
            "[[group]]\nname = \"{name}\"\nkind = \"loop\"\nrun = \"1ms\"\nsleep = \"4ms\"\n\
             affinity = \"{affinity}\"\n"
        )
    };
    let workload = [
        "name = \"outside\"\nwarmup = \"300ms\"\n".to_owned(),
        group("inside", &cpus[0].to_string()),
        group("either", &format!("{before},{last}")),
        group("last", &last.to_string()),
        group("before", &before.to_string()),
    ]
    .concat();
    scheduled(guest, &["--primary-max", "1"], |_| {
        let report = load(guest, &workload, LOOK)?;
        let outside: u64 = report.groups.iter().map(|group| group.outside_mask).sum();
        check!(outside == 0, "{outside} times a task ran where it may not");
        let mut figures = Vec::new();
        let mut fine = true;
        for group in &report.groups {
            let gap_ms = group.longest_gap_us.unwrap_or(0.0) / 1e3;
            fine &= gap_ms < GAP_MS && group.share > 0.1;
            figures.push(format!(
                "{} {:.2} of 0.20, gap {gap_ms:.1} ms",
                group.name, group.share
            ));
        }
        let figures = figures.join(", ");
        check!(fine, "not within {GAP_MS} ms, or too little: {figures}");
        Ok(figures)
    })
}

/// What the throughput of a full machine may be below that of scx_vtime.
const FULL: f64 = 0.02;

/// Goal: a nest of the whole machine costs nothing.
/// Method: one hog for each CPU, under the scheduler and under scx_vtime: the CPU time that they get
/// together.
fn full_machine_is_as_fast(guest: &mut Guest) -> CaseResult {
    let hogs = hogs(&[("hog", "count = \"1/cpu\"")]);
    let total = |report: Report| report.groups.iter().map(|group| group.share).sum::<f64>();
    let reference = total(under(guest, "scx_vtime", || load(guest, &hogs, LOOK))?);
    scheduled(guest, &[], |_| {
        let ours = total(load(guest, &hogs, LOOK)?);
        let figures = format!("{ours:.3} CPUs used, scx_vtime {reference:.3}");
        check!(ours >= reference * (1.0 - FULL), "{figures}");
        Ok(figures)
    })
}
