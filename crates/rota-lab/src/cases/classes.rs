// SPDX-License-Identifier: GPL-2.0-only
//! Tasks of other classes and policies beside those of sched_ext.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rota_load::report::Report;

use super::Case;
use super::common::{END_LIMIT, WHILE_NEEDED, check_ejected};
use super::session::{group, load, scheduled};
use super::shares::{BY_WEIGHT, check_lags};
use crate::bounds;
use crate::check;
use crate::guest::{
    CaseResult, Failure, Guest, Sched, Task, Trace, all_tasks, is_on_sched_ext, renice, scx,
    tasks_of,
};

pub const CASES: &[Case] = &[
    Case::new("mixed_classes", mixed_classes).counted(),
    Case::new("driven_off_by_real_time", driven_off_by_real_time)
        .counted()
        .min_cpus(2),
    Case::new("sleepers_beside_real_time", sleepers_beside_real_time)
        .counted()
        .min_cpus(4),
    Case::new("real_time_hog", real_time_hog)
        .min_cpus(2)
        .one_machine()
        .limit_s(180),
    Case::new("kernel_threads_are_served", kernel_threads_are_served)
        .counted()
        .one_machine(),
    Case::new("partial_mode", partial_mode),
];

const SLICE: [&str; 2] = ["--slice-us", "5000"];
const SLICE_MS: f64 = 5.0;

const MIX: &str = r#"
name = "mix"
warmup = "2s"

[[group]]
name = "real-time"
kind = "loop"
policy = "fifo"
priority = 60
run = "1ms"
sleep = "9ms"

[[group]]
name = "batch"
kind = "loop"
count = "1/cpu"
policy = "batch"
run = "10ms"

[[group]]
name = "other"
kind = "loop"
count = "1/cpu"
run = "10ms"

[[group]]
name = "reniced"
kind = "loop"
count = "1/cpu"
run = "10ms"

[[group]]
name = "idle"
kind = "loop"
count = "1/cpu"
policy = "idle"
run = "10ms"
"#;

/// As the workload has it.
const WARMUP: Duration = Duration::from_secs(2);
/// After the weights have changed, until what the tasks owe each other, a few turns, is paid back.
const SETTLE: Duration = Duration::from_millis(500);

/// Weights in sched_ext's terms once `reniced` is at nice 5; SCHED_IDLE has the smallest there is.
const WEIGHTS: [(&str, f64); 4] = [
    ("batch", 100.0),
    ("other", 100.0),
    ("reniced", 33.0),
    ("idle", 1.0),
];
/// The longest gap of a real-time task: it sleeps 9 ms, and the emulator comes round to its CPU within
/// a tick or two.
const REAL_TIME_GAP_MS: f64 = 20.0;

/// Goal: a mix of classes runs side by side, and weights hold after they have changed.
/// Method: a real-time task, and hogs of SCHED_BATCH, SCHED_OTHER and SCHED_IDLE on each CPU. During
/// the warm-up some have their nice value changed all over its range. After it the real-time task
/// goes first, and everybody runs; under a policy that knows weights, CPU time follows the last.
fn mixed_classes(guest: &mut Guest) -> CaseResult {
    scheduled(guest, &SLICE, |_| {
        let load = guest.start_load(MIX, Duration::from_millis(1500))?;
        load.await_tasks()?;
        let begun = Instant::now();
        let tasks = tasks_of(load.program().pid());
        let reniced = called(&tasks, "reniced");
        check!(
            reniced.len() == guest.machine().cpus,
            "not all tasks run yet"
        );
        for nice in [-20, 19, 0, 19, -20, -10, 10, -1, 5] {
            for task in &reniced {
                renice(task.pid, nice)?;
            }
            thread::sleep(Duration::from_millis(30));
        }
        check!(
            begun.elapsed() + SETTLE < WARMUP,
            "the warm-up is too short"
        );
        let report = load.finish()?;
        check!(report.errors.is_empty(), "{}", report.errors.join("; "));
        for group in &report.groups {
            let all_ran = group.per_task_share.iter().all(|share| *share > 0.0);
            check!(all_ran, "a task of {} never ran", group.name);
        }
        let gap_ms = group(&report, "real-time")?.longest_gap_us.unwrap_or(0.0) / 1e3;
        let mut figures = format!("real-time gap {gap_ms:.1} ms");
        if BY_WEIGHT.contains(&guest.sched_name()) {
            figures += &format!(", {}", check_weights(&report)?);
        }
        check!(gap_ms < REAL_TIME_GAP_MS, "{figures}");
        Ok(figures)
    })
}

/// The tasks of a group.
fn called<'a>(tasks: &'a [Task], name: &str) -> Vec<&'a Task> {
    tasks.iter().filter(|task| task.name == name).collect()
}

/// Checks the CPU time of the groups that have weights.
fn check_weights(report: &Report) -> CaseResult {
    let mut tasks = Vec::new();
    for (name, weight) in WEIGHTS {
        let shares = &group(report, name)?.per_task_share;
        tasks.extend(shares.iter().map(|share| (name, weight, *share)));
    }
    check_lags(&tasks, report.cpus as usize, report.seconds)
}

/// A real-time task that takes a CPU for long, and works in the others' slices: a hog for each CPU.
const DRIVEN_OFF: &str = r#"
name = "driven-off"
warmup = "300ms"

[[group]]
name = "real-time"
kind = "loop"
policy = "fifo"
priority = 60
start = "400ms"
run = "400ms"
sleep = "200ms"
affinity = "1"

[[group]]
name = "hog"
kind = "loop"
count = "1/cpu"
run = "10ms"
"#;

/// Goal: a task whose CPU a real-time task takes goes on elsewhere.
/// Method: a hog for each CPU, and a real-time task that takes CPU 1 for 400 ms again and again.
/// Nobody waits for longer than two tasks on each CPU make it, where the one that is driven off
/// would wait for all those 400 ms. That is seen up to three times: the kernel may take the CPU for
/// the real-time task just when another one's turn comes, which then waits in the CPU's local queue,
/// where no policy can get at it; one in fifty measurements has that.
fn driven_off_by_real_time(guest: &mut Guest) -> CaseResult {
    const TIMES: usize = 3;
    scheduled(guest, &SLICE, |_| {
        let mut gaps_ms = Vec::new();
        loop {
            let report = load(guest, DRIVEN_OFF, Duration::from_secs(2))?;
            let real_time = group(&report, "real-time")?.share;
            let gap_ms = group(&report, "hog")?.longest_gap_us.unwrap_or(0.0) / 1e3;
            gaps_ms.push(format!("{gap_ms:.1}"));
            let figures = format!(
                "{real_time:.2} CPUs real-time, longest gap of a hog in ms: {}",
                gaps_ms.join(", ")
            );
            let bound_ms = bounds::gap_ms(SLICE_MS, report.cpus as usize, 2);
            check!(real_time > 0.5, "the real-time task hardly ran: {figures}");
            if gap_ms < bound_ms {
                return Ok(figures);
            }
            check!(gaps_ms.len() < TIMES, "over {bound_ms:.0}: {figures}");
        }
    })
}

/// A real-time task that has CPU 1 most of the time, and tasks that wake much more often.
const SLEEPERS: &str = r#"
name = "sleepers"
warmup = "300ms"

[[group]]
name = "real-time"
kind = "loop"
policy = "fifo"
priority = 60
run = "60ms"
sleep = "20ms"
affinity = "1"

[[group]]
name = "sleeper"
kind = "loop"
count = 3
run = "100us"
sleep = "100us"
jitter = 50
"#;

/// What the real-time task of [`SLEEPERS`] takes at once.
const REAL_TIME_MS: f64 = 60.0;

/// Goal: a task that wakes on an idle CPU just before a real-time task takes it goes elsewhere.
/// Method: a real-time task that takes CPU 1 for 60 ms again and again, and three sleepers, on a
/// machine where they never need that CPU. Kernels before 7.1 give no means to get such a task away
/// again: there it waits for the real-time one, but for no longer.
fn sleepers_beside_real_time(guest: &mut Guest) -> CaseResult {
    scheduled(guest, &SLICE, |_| {
        let report = load(guest, SLEEPERS, Duration::from_secs(5))?;
        let again = scx::events().get("SCX_EV_REENQ_IMMED").copied();
        let real_time = group(&report, "real-time")?.share;
        let gap_ms = group(&report, "sleeper")?.longest_gap_us.unwrap_or(0.0) / 1e3;
        let turns_ms = bounds::gap_ms(SLICE_MS, report.cpus as usize, 1);
        let bound_ms = turns_ms + if again.is_some() { 0.0 } else { REAL_TIME_MS };
        let figures = format!(
            "{real_time:.2} CPUs real-time, longest gap of a sleeper {gap_ms:.1} ms, queued again: \
             {again:?}"
        );
        check!(real_time > 0.5, "the real-time task hardly ran: {figures}");
        check!(gap_ms < bound_ms, "over {bound_ms:.0} ms: {figures}");
        check!(again != Some(0), "it never came to that: {figures}");
        Ok(figures)
    })
}

/// A real-time task that never lets go of CPU 1, and one of ours that may run nowhere else.
const HOG: &str = r#"
name = "hog"

[[group]]
name = "real-time"
kind = "loop"
policy = "fifo"
priority = 50
run = "10ms"
affinity = "1"

[[group]]
name = "victim"
kind = "loop"
run = "10ms"
affinity = "1"

[[group]]
name = "free"
kind = "loop"
count = 2
run = "1ms"
sleep = "10ms"
"#;

/// Where the kernel keeps a part of each CPU's time for sched_ext: since 7.0.
const EXT_SERVER: &str = "/sys/kernel/debug/sched/ext_server";

/// Goal: a real-time task that takes a whole CPU does not take the system with it.
/// Method: one on CPU 1, and a task that may run nowhere else. Where the kernel keeps some time for
/// sched_ext, the task gets it; elsewhere the watchdog ends the scheduler, which blames the
/// real-time task, and EEVDF goes on.
fn real_time_hog(guest: &mut Guest) -> CaseResult {
    const STALL: (u32, &str) = (1026, "ERROR_STALL");
    const TIMEOUT: [&str; 2] = ["--timeout-ms", "2000"];
    if Path::new(EXT_SERVER).exists() {
        return scheduled(guest, &TIMEOUT, |_| {
            let report = load(guest, HOG, Duration::from_secs(5))?;
            let share = group(&report, "victim")?.share;
            let figures = format!("the victim has {share:.3} of its CPU");
            check!(share > 0.03, "{figures}");
            Ok(figures)
        });
    }
    let sched = guest.start(&TIMEOUT)?;
    let load = guest.start_load(HOG, WHILE_NEEDED)?;
    let end = sched
        .program()
        .wait(END_LIMIT)
        .ok_or("no end by the watchdog")?;
    check_ejected(guest, &end, STALL, "failed to run for ")?;
    let blames =
        |line: &String| line.contains("RT task real-time[") && line.ends_with("monopolised CPU 1");
    check!(
        end.stderr.iter().any(blames),
        "it does not blame the real-time task: {:?}",
        end.stderr
    );
    let report = load.stop()?;
    check!(report.errors.is_empty(), "{}", report.errors.join("; "));
    Ok(format!(
        "ejected; the victim has {:.3}",
        group(&report, "victim")?.share
    ))
}

/// Hogs that leave the kernel's own threads no idle CPU.
const FULL: &str = r#"
name = "full"
warmup = "300ms"

[[group]]
name = "hog"
kind = "loop"
count = "3/cpu"
run = "10ms"
nice = -10
"#;

/// Goal: the kernel's threads of a CPU, for which others wait, do not wait for their turn.
/// Method: heavy hogs on all CPUs; the kernel's trace tells how long its per-CPU workers (kworker/N)
/// wait from each wake-up on. They preempt: all that is in their way is how long an emulated CPU
/// stands still. Only those that were there before: a new one waits like everybody until its
/// creator binds it to its CPU.
fn kernel_threads_are_served(guest: &mut Guest) -> CaseResult {
    let workers: BTreeSet<i32> = all_tasks()
        .into_iter()
        .filter(|task| task.name.starts_with("kworker/") && task.cpus.len() == 1)
        .map(|task| task.pid)
        .collect();
    scheduled(guest, &["--slice-us", "20000"], |_| {
        let trace = Trace::start()?;
        let load = guest.start_load(FULL, WHILE_NEEDED)?;
        load.await_tasks()?;
        let from = Trace::now_us();
        thread::sleep(Duration::from_secs(3));
        let time = (from, Trace::now_us());
        let report = load.stop()?;
        check!(report.errors.is_empty(), "{}", report.errors.join("; "));
        let history = trace.finish()?;
        let waits = history.waits(&workers, time);
        check!(!waits.is_empty(), "none of {} workers woke", workers.len());
        let longest_ms = waits.iter().max().map_or(0.0, |us| *us as f64 / 1e3);
        let figures = format!("{} wake-ups, longest wait {longest_ms:.2} ms", waits.len());
        check!(
            longest_ms < bounds::turn_ms(0.0, guest.machine().cpus),
            "{figures}"
        );
        Ok(figures)
    })
}

/// Goal: in partial mode only tasks of SCHED_EXT are ours.
/// Method: tasks of SCHED_OTHER first: the scheduler does not come to see a single one. Then some of
/// SCHED_EXT beside them: the kernel says which is whose, and ours are scheduled by us. The others
/// leave CPU time over, because EEVDF goes before sched_ext.
fn partial_mode(guest: &mut Guest) -> CaseResult {
    scheduled(guest, &["--partial", "--stats", "0.1"], |sched| {
        check!(!scx::snapshot().switch_all, "all tasks are switched over");
        load(guest, OTHERS, Duration::from_millis(500))?;
        let seen = work_seen(sched)?;
        check!(seen == 0.0, "{seen} events of tasks that are not ours");

        let load = guest.start_load(&format!("{OTHERS}{OURS}"), WHILE_NEEDED)?;
        load.await_tasks()?;
        thread::sleep(Duration::from_millis(1500));
        let all = tasks_of(load.program().pid());
        for (name, expected) in [("ours", true), ("others", false)] {
            let tasks = called(&all, name);
            check!(
                tasks.len() == guest.machine().cpus,
                "{} tasks of {name}",
                tasks.len()
            );
            for task in tasks {
                let ext = is_on_sched_ext(task.pid)?;
                check!(ext == expected, "a task of {name}: on sched_ext is {ext}");
            }
        }
        let report = load.stop()?;
        check!(report.errors.is_empty(), "{}", report.errors.join("; "));
        let ours = group(&report, "ours")?;
        check!(
            ours.per_task_share.iter().all(|share| *share > 0.0),
            "a task of ours starved"
        );
        let seen = work_seen(sched)?;
        check!(seen > 0.0, "the scheduler has not seen its own tasks");
        Ok(format!("{seen} events of {:.2} CPUs of ours", ours.share))
    })
}

const OTHERS: &str = r#"
name = "partial"

[[group]]
name = "others"
kind = "loop"
count = "1/cpu"
run = "2ms"
sleep = "6ms"
"#;

const OURS: &str = r#"
[[group]]
name = "ours"
kind = "loop"
count = "1/cpu"
policy = "ext"
run = "5ms"
sleep = "1ms"
"#;

/// The sum of all counters, from a line of stats that is written after now.
fn work_seen(sched: &Sched) -> Result<f64, Failure> {
    use crate::guest::{counters, events};
    let before = events(&sched.program().progress(), "stats").len();
    let newer = |progress: &_| {
        let all = events(progress, "stats").len();
        // The next one may have been under way.
        (all > before + 1).then(|| counters(progress).values().sum())
    };
    let sum = sched.program().wait_for(Duration::from_secs(20), newer);
    sum.ok_or_else(|| "no line of stats".into())
}
