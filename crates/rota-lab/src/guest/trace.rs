// SPDX-License-Identifier: GPL-2.0-only
//! What each CPU and each task did, from the kernel's own trace of its scheduler.

mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

pub use usage::Usage;

/// A trace of our own, beside whatever else traces.
const INSTANCE: &str = "/sys/kernel/tracing/instances/rota";
const EVENTS: [&str; 3] = ["sched_switch", "sched_wakeup", "sched_wakeup_new"];
/// Room for each CPU: some 20 000 events, more than a case of a few seconds makes.
const BUFFER_KB: u32 = 2048;

/// The pid of every CPU's idle task.
const IDLE: i32 = 0;

/// A trace that is being taken.
#[derive(Debug)]
pub struct Trace {
    dir: PathBuf,
}

impl Trace {
    /// Begins to trace.
    pub fn start() -> io::Result<Self> {
        let trace = Self::prepare()?;
        trace.resume()?;
        Ok(trace)
    }

    /// Makes everything ready, which takes a CPU a while, but traces nothing yet.
    pub fn prepare() -> io::Result<Self> {
        fs::create_dir(INSTANCE)?;
        let trace = Self {
            dir: INSTANCE.into(),
        };
        trace.pause()?;
        trace.set("trace_clock", "mono")?;
        trace.set("buffer_size_kb", &BUFFER_KB.to_string())?;
        for event in EVENTS {
            trace.set(&format!("events/sched/{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// The present in the history's terms: microseconds on the monotonic clock.
    pub fn now_us() -> u64 {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock always exists");
        let us = now.num_microseconds();
        us.try_into().expect("the clock begins at 0")
    }

    /// Ends it; what happened since the start.
    pub fn finish(self) -> io::Result<History> {
        History::parse(&self.text()?).map_err(io::Error::other)
    }

    /// Ends it; the kernel's own words, which cost it much time to write.
    pub fn text(self) -> io::Result<String> {
        self.pause()?;
        fs::read_to_string(self.dir.join("trace"))
    }

    /// Takes in what happens from now on.
    pub fn resume(&self) -> io::Result<()> {
        self.set("tracing_on", "1")
    }

    /// Takes in nothing more.
    pub fn pause(&self) -> io::Result<()> {
        self.set("tracing_on", "0")
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.dir.join(file);
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        fs::write(&path, value).map_err(named)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // All that may be left is an empty directory of the guest's.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// `cpu` went from one task to another; the first could have gone on if `runnable`.
    Switch {
        cpu: usize,
        prev: i32,
        runnable: bool,
        next: i32,
    },
    /// A task is to run.
    Wakeup { pid: i32 },
}

/// What happened, in order.
#[derive(Debug, Default)]
pub struct History {
    /// Microseconds on the monotonic clock, and what.
    moments: Vec<(u64, What)>,
}

/// CPUs that idled beside tasks that waited for them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Idleness {
    /// Length of the time that was looked at, in microseconds.
    pub length_us: u64,
    /// CPU time that idle CPUs could have given to waiting tasks, all CPUs together.
    pub lost_us: u64,
    /// The longest time for which one CPU idled and one task waited that it was allowed to run.
    pub longest_us: u64,
    /// Who waited then, and which CPU idled.
    pub longest: Option<(i32, usize)>,
    /// The time that tasks waited, all together, whether a CPU idled or not.
    pub waited_us: u64,
    /// The time that CPUs idled, all together, whether a task waited or not.
    pub idle_us: u64,
}

impl History {
    /// Reads the text of tracefs.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut moments = Vec::new();
        for line in text.lines() {
            if let Some(counts) = line.split("entries-in-buffer/entries-written: ").nth(1) {
                let counts = counts.split_whitespace().next().unwrap_or_default();
                if counts.split_once('/').is_none_or(|(kept, all)| kept != all) {
                    return Err(format!("the trace has lost events ({counts})"));
                }
            }
            if !line.starts_with('#') && !line.trim().is_empty() {
                moments.push(moment(line).ok_or_else(|| format!("a strange event: {line}"))?);
            }
        }
        Ok(Self { moments })
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.moments.len()
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.moments.is_empty()
    }

    /// Looks from `from_us` to `to_us` at `cpus` for those that idled while one of the tasks waited
    /// that they may run. Tasks whose CPUs are not told in `allowed` do not count.
    ///
    /// The trace has to begin before the tasks do, so that none of them waits unseen.
    pub fn idleness(
        &self,
        cpus: &[usize],
        allowed: &BTreeMap<i32, Vec<usize>>,
        (from_us, to_us): (u64, u64),
    ) -> Idleness {
        let mut state = State::new(self, cpus, allowed, from_us);
        for &(at_us, what) in self.moments.iter().filter(|(at_us, _)| *at_us < to_us) {
            state.advance(at_us.max(from_us));
            state.apply(what);
        }
        state.advance(to_us);
        state.found.length_us = to_us - from_us;
        state.close_all();
        state.found
    }

    /// What each CPU did at the beginning: whatever it first turns away from. One that never does
    /// has idled all the time.
    fn first_on(&self, cpu: usize) -> i32 {
        let first = |(_, what): &(u64, What)| match what {
            What::Switch { cpu: on, prev, .. } if *on == cpu => Some(*prev),
            _ => None,
        };
        self.moments.iter().find_map(first).unwrap_or(IDLE)
    }
}

/// Who waits and who idles at one moment of a history.
struct State<'a> {
    allowed: &'a BTreeMap<i32, Vec<usize>>,
    /// What each CPU runs.
    running: BTreeMap<usize, i32>,
    now_us: u64,
    /// The start of what is looked at.
    from_us: u64,
    /// Idle CPUs, and since when.
    idle: BTreeMap<usize, u64>,
    /// Waiting tasks, and since when.
    waiting: BTreeMap<i32, u64>,
    found: Idleness,
}

impl<'a> State<'a> {
    fn new(
        history: &History,
        cpus: &[usize],
        allowed: &'a BTreeMap<i32, Vec<usize>>,
        from_us: u64,
    ) -> Self {
        let running: BTreeMap<usize, i32> = cpus
            .iter()
            .map(|cpu| (*cpu, history.first_on(*cpu)))
            .collect();
        let idle = running.iter().filter(|(_, pid)| **pid == IDLE);
        Self {
            allowed,
            now_us: from_us,
            from_us,
            idle: idle.map(|(cpu, _)| (*cpu, 0)).collect(),
            running,
            waiting: BTreeMap::new(),
            found: Idleness::default(),
        }
    }

    /// Time goes on, and nothing changes meanwhile.
    fn advance(&mut self, to_us: u64) {
        let passed = to_us - self.now_us;
        self.now_us = to_us;
        self.found.idle_us += passed * self.idle.len() as u64;
        self.found.waited_us += passed * self.waiting.len() as u64;
        let can = |pid: &&i32| {
            self.allowed[*pid]
                .iter()
                .any(|cpu| self.idle.contains_key(cpu))
        };
        let tasks: Vec<&i32> = self.waiting.keys().filter(can).collect();
        let cpus: BTreeSet<&usize> = tasks
            .iter()
            .flat_map(|pid| &self.allowed[*pid])
            .filter(|cpu| self.idle.contains_key(cpu))
            .collect();
        self.found.lost_us += passed * tasks.len().min(cpus.len()) as u64;
    }

    fn apply(&mut self, what: What) {
        match what {
            What::Wakeup { pid } => self.begin_wait(pid),
            What::Switch {
                cpu,
                prev,
                runnable,
                next,
            } => {
                self.running.insert(cpu, next);
                if next == IDLE {
                    self.idle.insert(cpu, self.now_us);
                } else {
                    self.end_wait(next);
                }
                if prev == IDLE {
                    self.end_idle(cpu);
                } else if runnable {
                    self.begin_wait(prev);
                }
            }
        }
    }

    fn begin_wait(&mut self, pid: i32) {
        // A task may be woken before it got round to sleep.
        let runs = self.running.values().any(|running| *running == pid);
        if !runs && self.allowed.contains_key(&pid) {
            self.waiting.entry(pid).or_insert(self.now_us);
        }
    }

    fn end_wait(&mut self, pid: i32) {
        let Some(since) = self.waiting.remove(&pid) else {
            return;
        };
        for cpu in &self.allowed[&pid] {
            if let Some(idle_since) = self.idle.get(cpu) {
                let since = since.max(*idle_since);
                self.found
                    .episode(self.now_us, since.max(self.from_us), pid, *cpu);
            }
        }
    }

    fn end_idle(&mut self, cpu: usize) {
        let Some(since) = self.idle.remove(&cpu) else {
            return;
        };
        for (pid, waits_since) in &self.waiting {
            if self.allowed[pid].contains(&cpu) {
                let since = since.max(*waits_since);
                self.found
                    .episode(self.now_us, since.max(self.from_us), *pid, cpu);
            }
        }
    }

    /// What still waits at the end has waited until then.
    fn close_all(&mut self) {
        let waiting: Vec<i32> = self.waiting.keys().copied().collect();
        waiting.into_iter().for_each(|pid| self.end_wait(pid));
    }
}

impl Idleness {
    /// The part of the time that was lost: 1 is one CPU's all the time.
    pub fn lost(&self) -> f64 {
        self.lost_us as f64 / self.length_us.max(1) as f64
    }

    fn episode(&mut self, now_us: u64, since_us: u64, pid: i32, cpu: usize) {
        let length = now_us.saturating_sub(since_us);
        if length > self.longest_us {
            self.longest_us = length;
            self.longest = Some((pid, cpu));
        }
    }
}

/// One line of the trace, for example
/// `hogs-71 [001] d..2. 12.345678: sched_wakeup: comm=hogs pid=72 prio=120 target_cpu=001`.
fn moment(line: &str) -> Option<(u64, What)> {
    let event = EVENTS.iter().find_map(|name| {
        let position = line.find(&format!(": {name}: "))?;
        Some((*name, &line[..position], &line[position..]))
    });
    let (name, head, fields) = event?;
    let (seconds, micros) = head.rsplit(' ').next()?.split_once('.')?;
    let at_us = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
    let field = |key: &str| {
        let (_, rest) = fields.split_once(&format!(" {key}="))?;
        rest.split_whitespace().next()
    };
    let what = match name {
        "sched_switch" => What::Switch {
            cpu: head.rsplit_once('[')?.1.split_once(']')?.0.parse().ok()?,
            prev: field("prev_pid")?.parse().ok()?,
            runnable: field("prev_state")?.starts_with('R'),
            next: field("next_pid")?.parse().ok()?,
        },
        _ => What::Wakeup {
            pid: field("pid")?.parse().ok()?,
        },
    };
    Some((at_us, what))
}

#[cfg(test)]
mod tests {
    //! Goal: the figures are right for histories small enough to be worked out by hand.
    use super::*;

    const CPUS: [usize; 2] = [0, 1];

    fn history(moments: &[(u64, What)]) -> History {
        History {
            moments: moments.to_vec(),
        }
    }

    fn switch(cpu: usize, prev: i32, next: i32) -> What {
        What::Switch {
            cpu,
            prev,
            runnable: false,
            next,
        }
    }

    fn preempt(cpu: usize, prev: i32, next: i32) -> What {
        What::Switch {
            cpu,
            prev,
            runnable: true,
            next,
        }
    }

    fn wakeup(pid: i32) -> What {
        What::Wakeup { pid }
    }

    fn masks(tasks: &[(i32, &[usize])]) -> BTreeMap<i32, Vec<usize>> {
        tasks
            .iter()
            .map(|(pid, cpus)| (*pid, cpus.to_vec()))
            .collect()
    }

    #[test]
    fn a_task_that_waits_beside_an_idle_cpu_is_a_loss() {
        // CPU 0 runs 7 all the time; 8 wakes at 10 and gets CPU 1, which idles, at 25.
        let history = history(&[(5, switch(0, 0, 7)), (10, wakeup(8)), (25, switch(1, 0, 8))]);
        let found = history.idleness(&CPUS, &masks(&[(7, &[0, 1]), (8, &[0, 1])]), (0, 40));
        assert_eq!(found.length_us, 40);
        assert_eq!((found.lost_us, found.waited_us), (15, 15));
        assert_eq!((found.longest_us, found.longest), (15, Some((8, 1))));
        assert_eq!(found.idle_us, 5 + 25);
    }

    #[test]
    fn a_cpu_that_the_task_may_not_use_is_no_loss() {
        let history = history(&[(5, switch(0, 0, 7)), (10, wakeup(8)), (25, switch(0, 7, 8))]);
        let found = history.idleness(&CPUS, &masks(&[(7, &[0]), (8, &[0])]), (0, 40));
        assert_eq!(
            (found.lost_us, found.longest_us, found.waited_us),
            (0, 0, 15)
        );
    }

    #[test]
    fn a_preempted_task_waits() {
        // CPU 1 goes idle at 20 while 7, driven off CPU 0 at 10, waits until 30.
        let history = history(&[
            (10, preempt(0, 7, 8)),
            (20, switch(1, 9, 0)),
            (30, switch(0, 8, 7)),
        ]);
        let all = masks(&[(7, &CPUS), (8, &CPUS), (9, &CPUS)]);
        let found = history.idleness(&CPUS, &all, (0, 40));
        assert_eq!(
            (found.lost_us, found.longest, found.waited_us),
            (10, Some((7, 1)), 20)
        );
    }

    #[test]
    fn two_that_wait_for_one_cpu_lose_it_once() {
        let history = history(&[(5, switch(0, 0, 7)), (10, wakeup(8)), (10, wakeup(9))]);
        let all = masks(&[(7, &CPUS), (8, &CPUS), (9, &CPUS)]);
        let found = history.idleness(&CPUS, &all, (0, 30));
        assert_eq!(
            (found.lost_us, found.waited_us, found.longest_us),
            (20, 40, 20)
        );
    }

    #[test]
    fn an_episode_is_one_cpu_and_one_task() {
        // CPU 1 is idle from 10 to 14, CPU 0 from 14 on; 8 waits all the time.
        let history = history(&[
            (1, switch(0, 0, 7)),
            (2, switch(1, 0, 6)),
            (3, wakeup(8)),
            (10, switch(1, 6, 0)),
            (14, switch(0, 7, 0)),
            (14, switch(1, 0, 6)),
            (20, switch(0, 0, 8)),
        ]);
        let found = history.idleness(&CPUS, &masks(&[(8, &CPUS)]), (0, 30));
        assert_eq!((found.lost_us, found.longest_us), (10, 6));
    }

    #[test]
    fn a_running_task_that_is_woken_does_not_wait() {
        let history = history(&[(5, switch(0, 0, 7)), (10, wakeup(7)), (30, switch(0, 7, 0))]);
        let found = history.idleness(&CPUS, &masks(&[(7, &CPUS)]), (0, 40));
        assert_eq!((found.lost_us, found.waited_us), (0, 0));
    }

    #[test]
    fn only_the_asked_time_counts() {
        let history = history(&[(5, switch(0, 0, 7)), (10, wakeup(8)), (90, switch(1, 0, 8))]);
        let found = history.idleness(&CPUS, &masks(&[(8, &CPUS)]), (20, 50));
        assert_eq!(
            (found.length_us, found.lost_us, found.longest_us),
            (30, 30, 30)
        );
    }

    #[test]
    fn lines_of_the_trace_are_read() {
        let text = "# tracer: nop\n# entries-in-buffer/entries-written: 3/3   #P:2\n#\n\
            <idle>-0       [001] d..2.    12.345678: sched_switch: prev_comm=swapper/1 prev_pid=0 \
            prev_prio=120 prev_state=R ==> next_comm=kworker/1:0 next_pid=31 next_prio=120\n\
            kworker/1:0-31 [001] d..2.    12.345700: sched_switch: prev_comm=a [b] pid=3 prev_pid=31 \
            prev_prio=120 prev_state=R+ ==> next_comm=x next_pid=40 next_prio=120\n\
            <...>-40       [000] dNh4.    13.000001: sched_wakeup: comm=x pid=41 prio=120 \
            target_cpu=000\n";
        let history = History::parse(text).unwrap();
        let expected = [
            (12_345_678, preempt(1, 0, 31)),
            (12_345_700, preempt(1, 31, 40)),
            (13_000_001, wakeup(41)),
        ];
        assert_eq!(history.moments, expected);
        assert!(History::parse(&text.replace("3/3", "3/9")).is_err());
        assert!(History::parse("x-1 [000] d..2. 1.000000: sched_switch: nonsense\n").is_err());
    }
}
