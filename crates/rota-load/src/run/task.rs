// SPDX-License-Identifier: GPL-2.0-only
//! What every task does whatever its kind: prepare itself, wait for the start, keep
//! its figures, stop in time, and send its result.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::machine::Machine;
use super::roles::Role;
use super::spin::Spinner;
use super::sys::{self, Gate, SharedArray, Zeroed};
use crate::spec::{CpuList, Jitter, Policy};

/// CPU time between two looks at the clock while a task runs: short enough to see
/// gaps, moves and the deadline in time, long enough to cost little even where
/// reading a clock takes some microseconds.
const CHUNK_NS: u64 = 100_000;

/// What the controller and all tasks share.
pub struct Stage {
    /// Moments of the run; one element.
    pub control: SharedArray<Control>,
    /// One for each task.
    pub slots: SharedArray<Slot>,
    /// The machine.
    pub machine: Machine,
    /// Where results go.
    pub results: UnixDatagram,
    /// The spinner as calibrated by the controller.
    pub spinner: Spinner,
    /// Seed of the run.
    pub seed: u64,
    /// Length of the warm-up.
    pub warmup_ns: u64,
}

/// Moments of the run.
#[derive(Default)]
pub struct Control {
    /// Opened by the controller when all tasks are ready.
    pub gate: Gate,
    /// When the warm-up begins, set before the gate opens.
    pub start_ns: AtomicU64,
    /// When everything ends; moved forward by an interrupt.
    pub stop_ns: AtomicU64,
}

// SAFETY: `Gate` is an atomic, and so are the others.
unsafe impl Zeroed for Control {}

/// A task as the controller sees it while it runs; written by the task alone.
#[derive(Default)]
#[repr(align(64))]
pub struct Slot {
    /// Its process, 0 before it is ready.
    pub pid: AtomicI32,
    /// Its thread.
    pub tid: AtomicI32,
    /// Since when it could use a CPU; the future while it sleeps, the maximum while
    /// it waits for a partner.
    pub runnable_since_ns: AtomicU64,
    /// CPU time used in the measured part so far.
    pub cpu_ns: AtomicU64,
}

// SAFETY: all fields are atomics.
unsafe impl Zeroed for Slot {}

/// What one task has to do.
pub struct Assignment {
    /// Index over all tasks.
    pub task: usize,
    /// Index of the group.
    pub group: usize,
    /// Index within the group.
    pub member: u32,
    /// Name of the group and thus of the task.
    pub name: String,
    /// CPUs that it is confined to, if any.
    pub mask: Option<CpuList>,
    /// Its policy.
    pub policy: Policy,
    /// Its nice value.
    pub nice: i8,
    /// When it begins, after the warm-up.
    pub start: Duration,
    /// When it stops, after the warm-up.
    pub stop: Option<Duration>,
    /// Its work.
    pub role: Role,
}

/// What a task tells the controller.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// Index over all tasks.
    pub task: usize,
    /// The news.
    pub news: News,
}

/// The news in a [`Message`].
#[derive(Debug, Serialize, Deserialize)]
pub enum News {
    /// It waits at the gate.
    Ready,
    /// It could not be prepared.
    Refused {
        /// What it tried.
        attempt: Attempt,
        /// The system's error number.
        errno: i32,
    },
    /// It has finished.
    Done(Box<Figures>),
}

/// Steps of a task's preparation that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attempt {
    /// Its affinity.
    Affinity,
    /// Its nice value.
    Nice,
    /// Its policy.
    Policy,
}

/// The result of one task.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// CPU time in the measured part, children included.
    pub cpu_ns: u64,
    /// Operations done.
    pub ops: u64,
    /// Deadlines missed.
    pub misses: u64,
    /// Context switches.
    pub switches: u64,
    /// Those in which the task could have gone on.
    pub involuntary_switches: u64,
    /// Moves between CPUs as the kernel counts them, where it shows that.
    pub kernel_migrations: Option<u64>,
    /// Moves between CPUs as seen in samples.
    pub sampled_migrations: u64,
    /// Moves between last-level caches as seen in samples.
    pub llc_moves: u64,
    /// Samples on a CPU outside the mask.
    pub outside_mask: u64,
    /// Longest gap, if the kind can tell.
    pub longest_gap_ns: Option<u64>,
    /// The most CPU time that a chunk of work took, if the kind has such.
    pub longest_stall_ns: Option<u64>,
    /// Wake-up latencies: value and count.
    pub wakeups_ns: Vec<(u64, u64)>,
    /// Largest of them, exactly.
    pub wakeup_max_ns: u64,
    /// What failed on the way, and how often.
    pub failures: Vec<(String, u64)>,
    /// What the reader should know although nothing failed, and how often.
    pub notes: Vec<(String, u64)>,
}

/// A new, empty histogram of nanoseconds, good to 1 %.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(2).expect("2 is a valid precision")
}

/// A task at work.
pub struct Task<'a> {
    /// What it shares with all others.
    pub stage: &'a Stage,
    /// What it has to do.
    pub assignment: &'a Assignment,
    /// Its random numbers.
    pub jitter: Jitter,
    slot: &'a Slot,
    spinner: Spinner,
    measure_ns: u64,
    stop_ns: u64,
    begin: Option<Counters>,
    end: Option<Counters>,
    mask: Option<CpuList>,
    last_cpu: u32,
    wakeups: Histogram<u64>,
    figures: Figures,
}

/// Runs a task from preparation to result.
pub fn perform(stage: &Stage, mut assignment: Assignment) {
    let slot = &stage.slots[assignment.task];
    let send = |news| {
        let message = Message {
            task: assignment.task,
            news,
        };
        let bytes = serde_json::to_vec(&message).expect("figures are plain data");
        // A controller that is gone wants no result.
        let _ = stage.results.send(&bytes);
    };
    slot.pid
        .store(nix::unistd::getpid().as_raw(), Ordering::Relaxed);
    slot.tid
        .store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    if let Err((attempt, errno)) = prepare(&assignment) {
        return send(News::Refused {
            attempt,
            errno: errno as i32,
        });
    }
    send(News::Ready);
    let control = &stage.control[0];
    if !control.gate.pass() {
        return;
    }
    let role = std::mem::replace(&mut assignment.role, Role::Taken);
    let mut task = Task::new(stage, slot, &assignment);
    if task.sleep_until_start() {
        role.run(&mut task);
    }
    let figures = task.finish();
    send(News::Done(Box::new(figures)));
}

fn prepare(assignment: &Assignment) -> Result<(), (Attempt, nix::errno::Errno)> {
    // A name is a courtesy to whoever reads `ps` or a scheduler's message.
    if let Ok(name) = std::ffi::CString::new(assignment.name.as_str()) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    // The default slack of 50 us would count as wake-up latency.
    let _ = nix::sys::prctl::set_timerslack(1);
    if let Some(mask) = &assignment.mask {
        sys::set_affinity(0, mask).map_err(|e| (Attempt::Affinity, e))?;
    }
    sys::set_nice(assignment.nice).map_err(|e| (Attempt::Nice, e))?;
    sys::set_policy(assignment.policy).map_err(|e| (Attempt::Policy, e))
}

impl<'a> Task<'a> {
    fn new(stage: &'a Stage, slot: &'a Slot, assignment: &'a Assignment) -> Self {
        let control = &stage.control[0];
        let warm_ns = control.start_ns.load(Ordering::Acquire) + stage.warmup_ns;
        let after_warmup = |moment: Duration| warm_ns.saturating_add(moment.as_nanos() as u64);
        let group = u32::try_from(assignment.group).expect("groups are limited");
        Self {
            stage,
            assignment,
            jitter: Jitter::new(stage.seed, group, assignment.member),
            slot,
            spinner: stage.spinner,
            measure_ns: after_warmup(assignment.start),
            stop_ns: assignment.stop.map_or(u64::MAX, after_warmup),
            begin: None,
            end: None,
            mask: assignment.mask.clone(),
            last_cpu: sys::current_cpu(),
            wakeups: histogram(),
            figures: Figures::default(),
        }
    }

    fn sleep_until_start(&mut self) -> bool {
        let begin_ns = self.begin_ns();
        let now = sys::monotonic_ns();
        // Late from the gate: it has been kept waiting since its beginning.
        if now >= begin_ns {
            self.woken(begin_ns, now);
        }
        self.sleep_until(begin_ns)
    }

    /// When this task begins by plan.
    pub fn begin_ns(&self) -> u64 {
        match self.assignment.start.is_zero() {
            true => self.measure_ns - self.stage.warmup_ns,
            false => self.measure_ns,
        }
    }

    /// When this task ends.
    pub fn end_ns(&self) -> u64 {
        self.stage.control[0]
            .stop_ns
            .load(Ordering::Relaxed)
            .min(self.stop_ns)
    }

    /// To be called at every opportunity while running: samples the CPU, begins the
    /// measurement when its time has come, and says whether to go on.
    pub fn go_on(&mut self, now_ns: u64) -> bool {
        self.slot.runnable_since_ns.store(now_ns, Ordering::Relaxed);
        let end_ns = self.end_ns();
        if self.begin.is_none() && now_ns >= self.measure_ns {
            self.begin = Some(Counters::at_begin());
        }
        self.sample_cpu();
        now_ns < end_ns
    }

    /// Uses `work` of CPU time; whether to go on.
    pub fn burn(&mut self, work: Duration) -> bool {
        let mut now = sys::monotonic_ns();
        let mut cpu = sys::thread_cpu_ns();
        let end = cpu + work.as_nanos() as u64;
        while cpu < end {
            let turns = self.spinner.spin((end - cpu).min(CHUNK_NS));
            let (now_before, cpu_before) = (now, cpu);
            // The CPU clock first: a gap between the two readings counts now, and
            // none is lost.
            cpu = sys::thread_cpu_ns();
            now = sys::monotonic_ns();
            self.spinner.learn(turns, cpu - cpu_before);
            let stall = self.figures.longest_stall_ns.max(Some(cpu - cpu_before));
            self.figures.longest_stall_ns = stall;
            self.gap(now_before + (cpu - cpu_before), now);
            if let Some(begin) = &self.begin {
                self.slot
                    .cpu_ns
                    .store(begin.cpu_since(cpu), Ordering::Relaxed);
            }
            if !self.go_on(now) {
                return false;
            }
        }
        true
    }

    /// Sleeps for `time`; whether to go on.
    pub fn sleep(&mut self, time: Duration) -> bool {
        self.sleep_until(sys::monotonic_ns().saturating_add(time.as_nanos() as u64))
    }

    /// Sleeps until `due_ns` or the end; whether to go on. A wake-up after a real
    /// sleep counts with its latency.
    pub fn sleep_until(&mut self, due_ns: u64) -> bool {
        self.slot.runnable_since_ns.store(due_ns, Ordering::Relaxed);
        let mut slept = false;
        let mut now = sys::monotonic_ns();
        // The end is read anew after each signal: it may have moved.
        while now < due_ns.min(self.end_ns()) {
            sys::sleep_until(due_ns.min(self.end_ns()));
            now = sys::monotonic_ns();
            slept = true;
        }
        if slept && now >= due_ns {
            self.woken(due_ns, now);
        }
        self.go_on(now)
    }

    /// To be called before waiting for a partner.
    pub fn waits(&self) {
        self.slot
            .runnable_since_ns
            .store(u64::MAX, Ordering::Relaxed);
    }

    /// Counts a wake-up that was due at `due_ns` and happened at `now_ns`.
    pub fn woken(&mut self, due_ns: u64, now_ns: u64) {
        if now_ns < self.measure_ns {
            return;
        }
        // Of a wait that began in the warm-up, only the later part counts.
        let latency = now_ns.saturating_sub(due_ns.max(self.measure_ns));
        self.wakeups
            .record(latency)
            .expect("the histogram grows as needed");
        self.figures.wakeup_max_ns = self.figures.wakeup_max_ns.max(latency);
        self.gap(due_ns, now_ns);
    }

    /// Takes note that the task was without a CPU from `from_ns` to `to_ns` at most.
    pub fn gap(&mut self, from_ns: u64, to_ns: u64) {
        if to_ns < self.measure_ns {
            return;
        }
        let gap = to_ns.saturating_sub(from_ns.max(self.measure_ns));
        self.figures.longest_gap_ns = Some(self.figures.longest_gap_ns.unwrap_or(0).max(gap));
    }

    /// Whether the measured part has begun.
    pub fn measures(&self) -> bool {
        self.begin.is_some()
    }

    /// Counts an operation.
    pub fn op(&mut self) {
        if self.measures() {
            self.figures.ops += 1;
        }
    }

    /// Counts a missed deadline.
    pub fn miss(&mut self) {
        if self.measures() {
            self.figures.misses += 1;
        }
    }

    /// Counts a failure.
    pub fn failure(&mut self, what: &str) {
        count(&mut self.figures.failures, what);
    }

    /// Counts something that the reader should know although nothing failed.
    pub fn note(&mut self, what: &str) {
        count(&mut self.figures.notes, what);
    }

    /// Replaces the mask after the task changed its own affinity, and checks at once
    /// that the kernel has moved it.
    pub fn confined_to(&mut self, mask: CpuList) {
        self.mask = Some(mask);
        self.sample_cpu();
    }

    fn sample_cpu(&mut self) {
        let cpu = sys::current_cpu();
        if self.measures() && cpu != self.last_cpu {
            self.figures.sampled_migrations += 1;
            let machine = &self.stage.machine;
            if let (Some(from), Some(to)) = (machine.llc_of(self.last_cpu), machine.llc_of(cpu))
                && from != to
            {
                self.figures.llc_moves += 1;
            }
        }
        self.last_cpu = cpu;
        if self.mask.as_ref().is_some_and(|mask| !mask.contains(cpu)) {
            self.outside_mask(cpu);
        }
    }

    /// Tells a scheduler's fault from the kernel's own doing: when all CPUs of a mask
    /// go offline, the kernel widens the mask.
    fn outside_mask(&mut self, cpu: u32) {
        match sys::affinity() {
            Ok(mask) if mask.contains(cpu) => {
                self.note("the kernel widened an affinity because its CPUs went offline");
                self.mask = None;
            }
            _ => self.figures.outside_mask += 1,
        }
    }

    /// Ends the measurement before the task cleans up.
    pub fn stop_measuring(&mut self) {
        self.end = Some(Counters::at_end());
    }

    fn finish(mut self) -> Figures {
        if let Some(begin) = &self.begin {
            let end = self.end.take().unwrap_or_else(Counters::at_end);
            end.since(begin, &mut self.figures);
        }
        let recorded = self.wakeups.iter_recorded();
        self.figures.wakeups_ns = recorded
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect();
        self.figures
    }
}

fn count(events: &mut Vec<(String, u64)>, what: &str) {
    match events.iter_mut().find(|(known, _)| known == what) {
        Some((_, count)) => *count += 1,
        None => events.push((what.to_owned(), 1)),
    }
}
