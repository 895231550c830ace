// SPDX-License-Identifier: GPL-2.0-only
//! The tasks as a whole: started together, stopped in time, and none left behind.

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::RunError;
use super::plan::Plan;
use super::sys;
use super::task::{self, Assignment, Attempt, Figures, Message, News, Stage};
use crate::spec::Policy;

/// How long tasks may take to get ready, without one of them making progress. Slow
/// guests with thousands of tasks need minutes in all, but never this long for one.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long after the end a task may take before its system calls are interrupted,
/// and the time between two such attempts.
const NUDGE_INTERVAL: Duration = Duration::from_millis(100);
/// The same for each task that was interrupted, if that is longer: thousands would do nothing else.
const NUDGE_EACH: Duration = Duration::from_millis(1);
/// So many tasks that did not stop are named; there may be thousands.
const NAMED_MAX: usize = 10;
/// How long killed processes may take to disappear.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Stack of a task's thread; its deepest use is writing its result.
const STACK_BYTES: usize = 256 << 10;
/// Room for the largest message: a histogram with every bucket in use.
const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Signals that end a run early, read from a file descriptor while this lives.
pub struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Takes SIGINT, SIGTERM and SIGHUP out of their usual way for this thread and
    /// all tasks started from it.
    pub fn take() -> Result<Self, Errno> {
        let mut ours = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            ours.add(signal);
        }
        let before = ours.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&ours, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, before })
    }

    fn arrived(&self) -> bool {
        matches!(self.fd.read_signal(), Ok(Some(_)))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // There is no remedy, and the mask was valid before.
        let _ = self.before.thread_set_mask();
    }
}

/// All tasks of a run.
pub struct Crew {
    stage: Arc<Stage>,
    inbox: UnixDatagram,
    /// The process of each task that is one.
    processes: Vec<Option<Pid>>,
    /// The result of each task.
    figures: Vec<Option<Figures>>,
    /// What went wrong.
    pub errors: Vec<String>,
    names: Vec<String>,
    buffer: Vec<u8>,
    /// How long it took until all were ready.
    readying: Duration,
}

/// What woke the controller.
enum Wake {
    News(Message),
    Signal,
    Time,
}

impl Crew {
    /// Starts a task for each assignment and waits until all are ready.
    pub fn assemble(
        stage: Arc<Stage>,
        inbox: UnixDatagram,
        plan: Plan,
        as_process: &[bool],
        signals: &Signals,
    ) -> Result<Self, RunError> {
        let count = plan.assignments.len();
        let names = plan
            .assignments
            .iter()
            .map(|a| format!("{}/{}", a.name, a.member))
            .collect();
        let policies: Vec<_> = plan
            .assignments
            .iter()
            .map(|a| (a.policy, a.nice))
            .collect();
        let mut crew = Self {
            stage,
            inbox,
            processes: vec![None; count],
            figures: vec![None; count],
            errors: Vec::new(),
            names,
            buffer: vec![0; MESSAGE_BYTES_MAX],
            readying: Duration::ZERO,
        };
        let begin = Instant::now();
        // Processes first: a fork copies only the calling thread.
        let (processes, threads): (Vec<_>, Vec<_>) = plan
            .assignments
            .into_iter()
            .partition(|a| as_process[a.group]);
        for assignment in processes {
            crew.fork(assignment)?;
        }
        for assignment in threads {
            crew.spawn(assignment)?;
        }
        crew.await_ready(&policies, signals)?;
        crew.readying = begin.elapsed();
        Ok(crew)
    }

    fn fork(&mut self, assignment: Assignment) -> Result<(), RunError> {
        let task = assignment.task;
        let parent = nix::unistd::getpid();
        let stage = &self.stage;
        let mut assignment = Some(assignment);
        let forked = sys::fork(|| {
            // A group of its own, so that it can be killed with its children.
            let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            if nix::unistd::getppid() == parent
                && let Some(assignment) = assignment.take()
            {
                task::perform(stage, assignment);
            }
            0
        });
        let pid = forked.map_err(|e| self.cannot_create(task, e.into()))?;
        // In both processes, so that it is done whoever comes first.
        let _ = nix::unistd::setpgid(pid, pid);
        self.processes[task] = Some(pid);
        Ok(())
    }

    fn spawn(&mut self, assignment: Assignment) -> Result<(), RunError> {
        let task = assignment.task;
        let stage = Arc::clone(&self.stage);
        // Not joined: its result says that it is done, and a scheduler under test
        // may keep it from ever running again.
        std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || task::perform(&stage, assignment))
            .map(drop)
            .map_err(|e| self.cannot_create(task, e))
    }

    fn cannot_create(&self, task: usize, source: std::io::Error) -> RunError {
        RunError::Machine(format!(
            "cannot create task {} of {}, {}: {source}; lower `count` or raise the limit \
             (ulimit -u, pids.max)",
            task + 1,
            self.names.len(),
            self.names[task]
        ))
    }

    fn await_ready(
        &mut self,
        policies: &[(Policy, i8)],
        signals: &Signals,
    ) -> Result<(), RunError> {
        let mut missing = self.names.len();
        while missing > 0 {
            match self.wait(Instant::now() + READY_PATIENCE, signals)? {
                Wake::News(Message {
                    news: News::Ready, ..
                }) => missing -= 1,
                Wake::News(Message {
                    task,
                    news: News::Refused { attempt, errno },
                }) => {
                    let (policy, nice) = policies[task];
                    return Err(refused(&self.names[task], attempt, errno, policy, nice));
                }
                Wake::News(_) => {}
                Wake::Signal => return Err(RunError::Interrupted),
                Wake::Time => {
                    return Err(RunError::Machine(format!(
                        "{missing} of {} tasks did not get ready within {} s; \
                         are they starved, or were they killed?",
                        self.names.len(),
                        READY_PATIENCE.as_secs()
                    )));
                }
            }
        }
        Ok(())
    }

    /// Waits for a message or a signal, at most until `until`, without using the CPU.
    fn wait(&mut self, until: Instant, signals: &Signals) -> Result<Wake, RunError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // Rounded up: a wait of zero would be a busy loop for the last millisecond.
            let left_ms = left.as_nanos().div_ceil(1_000_000);
            let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX);
            let mut fds = [
                PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(0) if left_ms == 0 || Instant::now() >= until => return Ok(Wake::Time),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(system("cannot wait for tasks", e.into())),
            }
            if signals.arrived() {
                return Ok(Wake::Signal);
            }
            let size = self.inbox.recv(&mut self.buffer);
            let size = size.map_err(|e| system("cannot read a task's message", e))?;
            match serde_json::from_slice(&self.buffer[..size]) {
                Ok(message) => return Ok(Wake::News(message)),
                Err(e) => return Err(system("cannot read a task's message", e.into())),
            }
        }
    }

    /// Lets the tasks run for `length` from a moment that all of them can meet.
    /// Returns when they began and whether a signal ended it early.
    pub fn run(&mut self, length: Duration, signals: &Signals) -> Result<(u64, bool), RunError> {
        // Time to wake everybody: to start them took longer, on any machine.
        let lead = Duration::from_millis(10) + self.readying;
        let stage = Arc::clone(&self.stage);
        let control = &stage.control[0];
        let begin = Instant::now() + lead;
        let start_ns = sys::monotonic_ns() + lead.as_nanos() as u64;
        control.start_ns.store(start_ns, Ordering::Release);
        control
            .stop_ns
            .store(start_ns + length.as_nanos() as u64, Ordering::Release);
        control.gate.open();
        loop {
            match self.wait(begin + length, signals)? {
                Wake::Time => return Ok((start_ns, false)),
                Wake::Signal => {
                    control
                        .stop_ns
                        .store(sys::monotonic_ns(), Ordering::Release);
                    self.nudge();
                    return Ok((start_ns, true));
                }
                // A group that stops early is done early.
                Wake::News(message) => accept(&mut self.figures, message),
            }
        }
    }

    /// Collects the results. A task that shows no sign of life for `grace` is given up
    /// with an entry in `errors`, and so is one that died.
    pub fn collect(&mut self, grace: Duration, signals: &Signals) -> Result<(), RunError> {
        let mut given_up = Instant::now() + grace;
        let mut interval = NUDGE_INTERVAL;
        while self.figures.iter().any(Option::is_none) {
            match self.wait(Instant::now() + interval, signals)? {
                Wake::News(message) => {
                    accept(&mut self.figures, message);
                    given_up = Instant::now() + grace;
                }
                // The second signal means now.
                Wake::Signal => break,
                Wake::Time if Instant::now() >= given_up => break,
                Wake::Time => {
                    self.bury();
                    let nudged = self.nudge();
                    interval = (nudged * NUDGE_EACH).min(grace / 2).max(NUDGE_INTERVAL);
                }
            }
        }
        self.give_up(grace);
        Ok(())
    }

    /// Interrupts the system calls of all tasks that have not finished, and says how many they are.
    fn nudge(&self) -> u32 {
        let mut nudged = 0;
        for (slot, figures) in self.stage.slots.iter().zip(&self.figures) {
            let (pid, tid) = (
                slot.pid.load(Ordering::Relaxed),
                slot.tid.load(Ordering::Relaxed),
            );
            if figures.is_none() && pid != 0 && tid != 0 {
                sys::interrupt(pid, tid);
                nudged += 1;
            }
        }
        nudged
    }

    /// Finds processes that died without a result.
    fn bury(&mut self) {
        for task in 0..self.processes.len() {
            let Some(pid) = self.processes[task] else {
                continue;
            };
            let how = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
                Ok(WaitStatus::Exited(_, status)) => format!("ended with status {status}"),
                _ => continue,
            };
            self.processes[task] = None;
            if self.figures[task].is_none() {
                // Its result may still be in the inbox if it ended well.
                if how.starts_with("ended with status 0") {
                    continue;
                }
                let name = &self.names[task];
                self.errors.push(format!(
                    "task {name} (process {pid}) {how} without a result"
                ));
                self.figures[task] = Some(Figures::default());
            }
        }
    }

    /// Makes up what can be known of tasks that did not stop, and kills those that are processes.
    fn give_up(&mut self, grace: Duration) {
        let now = sys::monotonic_ns();
        let mut given_up = 0;
        for (task, figures) in self.figures.iter_mut().enumerate() {
            if figures.is_some() {
                continue;
            }
            given_up += 1;
            if let Some(pid) = self.processes[task] {
                let _ = killpg(pid, Signal::SIGKILL);
            }
            let slot = &self.stage.slots[task];
            let since = slot.runnable_since_ns.load(Ordering::Relaxed);
            let gap = now.saturating_sub(since);
            if given_up <= NAMED_MAX {
                self.errors.push(format!(
                    "task {} (thread {}) did not stop within {} s of the end{}",
                    self.names[task],
                    slot.tid.load(Ordering::Relaxed),
                    grace.as_secs(),
                    match since {
                        u64::MAX => "; it waits for a partner".to_owned(),
                        _ => format!("; it has had no CPU for {:.3} s", gap as f64 / 1e9),
                    }
                ));
            }
            *figures = Some(Figures {
                cpu_ns: slot.cpu_ns.load(Ordering::Relaxed),
                longest_gap_ns: (since != u64::MAX).then_some(gap),
                ..Figures::default()
            });
        }
        if given_up > NAMED_MAX {
            self.errors
                .push(format!("{} more did not stop", given_up - NAMED_MAX));
        }
    }

    /// The results in the order of the tasks, after [`Crew::collect`].
    pub fn figures(&self) -> impl Iterator<Item = (&str, &Figures)> {
        let names = self.names.iter().map(String::as_str);
        names.zip(self.figures.iter().flatten())
    }
}

fn accept(figures: &mut [Option<Figures>], message: Message) {
    if let News::Done(result) = message.news {
        figures[message.task] = Some(*result);
    }
}

fn system(what: &str, source: std::io::Error) -> RunError {
    RunError::System {
        what: what.to_owned(),
        source,
    }
}

/// Why a task could not be prepared, with the remedy.
fn refused(name: &str, attempt: Attempt, errno: i32, policy: Policy, nice: i8) -> RunError {
    let errno = Errno::from_raw(errno);
    let what = match attempt {
        Attempt::Affinity => "its affinity".to_owned(),
        Attempt::Nice => format!("nice {nice}"),
        Attempt::Policy => format!("policy \"{policy}\""),
    };
    let remedy = match (attempt, errno) {
        (_, Errno::EPERM | Errno::EACCES) => "run as root or with CAP_SYS_NICE",
        (Attempt::Policy, Errno::EINVAL) if policy == Policy::Ext => {
            "this kernel has no SCHED_EXT: it needs Linux 6.12 or later with \
             CONFIG_SCHED_CLASS_EXT=y"
        }
        (Attempt::Affinity, Errno::EINVAL) => "its CPUs went offline just now; try again",
        _ => "the kernel refuses it",
    };
    RunError::Machine(format!(
        "task {name} cannot have {what}: {}; {remedy}",
        errno.desc()
    ))
}

impl Drop for Crew {
    /// Leaves no process behind, whatever happened.
    fn drop(&mut self) {
        let control = &self.stage.control[0];
        control.stop_ns.store(0, Ordering::Release);
        control.gate.cancel();
        self.nudge();
        // Those that have sent their result are about to exit by themselves.
        for (pid, figures) in self.processes.iter().zip(&self.figures) {
            if let (Some(pid), None) = (pid, figures) {
                let _ = killpg(*pid, Signal::SIGKILL);
            }
        }
        let until = Instant::now() + KILL_PATIENCE;
        for pid in self.processes.iter().flatten() {
            while let Ok(WaitStatus::StillAlive) = waitpid(*pid, Some(WaitPidFlag::WNOHANG)) {
                if Instant::now() >= until {
                    // Its death is certain, but the scheduler does not let it happen
                    // yet; init will reap it.
                    let _ = killpg(*pid, Signal::SIGKILL);
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
