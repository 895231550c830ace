// SPDX-License-Identifier: GPL-2.0-only
//! Acts a scenario out: scheduler, workload, what happens to them, and then a look at whether all is
//! well.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, gettid};

use super::footprint::rss_kib;
use super::leftovers::Leftovers;
use super::{
    Failure, Guest, History, Idleness, Load, Port, STOP_LIMIT, Sched, Task, Trace, confine,
    describe, renice, running_since, scx, tasks_of, trouble,
};
use crate::fuzz::{Scenario, Verdicts, Violation, What};
use crate::job::Event;
use crate::oracles::{self, Evidence, OTHERS_RUNNING};

/// From the last act to a scheduler that runs on all CPUs again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// What tasks may take to spread after the last act.
const SPREAD: Duration = Duration::from_millis(300);
/// The look: long enough for several slices, short enough for the trace's buffers.
const LOOK: Duration = Duration::from_millis(250);
/// For a workload that runs until it is stopped.
const WHILE_NEEDED: Duration = Duration::from_secs(600);
/// Lines of the trace that are told if something is wrong.
const TRACE_LINES: usize = 2000;
const POLL: Duration = Duration::from_millis(20);

/// Acts `scenario` out; the result is 1 if something is wrong.
pub fn run(port: &Port, scenario: &Scenario) -> Result<i32, String> {
    let mut guest = Guest::new(&scenario.sched, scenario.seed).map_err(|e| e.to_string())?;
    let mut verdicts = act_out(&mut guest, scenario);
    let wrong = guest.tidy_up();
    if verdicts.violations.is_empty() && !wrong.is_empty() {
        verdicts.violations.push(of_guest(wrong.join("; ")));
    }
    let code = i32::from(!verdicts.violations.is_empty());
    port.emit(&Event::Judged(Box::new(verdicts)));
    Ok(code)
}

/// Acts `scenario` out, and judges it.
pub fn act_out(guest: &mut Guest, scenario: &Scenario) -> Verdicts {
    let before = Leftovers::now();
    match Stage::new(guest, scenario).play() {
        Ok((mut evidence, trace)) => {
            evidence.state_after = scx::snapshot();
            evidence.kernel_trouble = trouble(guest.kernel_log());
            evidence.left = before.since();
            judge(scenario, evidence, &trace)
        }
        Err(Stop::Sched(message)) => Verdicts {
            violations: vec![Violation {
                oracle: oracles::EXIT.into(),
                message,
            }],
            ..Verdicts::default()
        },
        Err(Stop::Guest(message)) => Verdicts {
            violations: vec![of_guest(message)],
            ..Verdicts::default()
        },
    }
}

/// Why a scenario could not be acted out to its end.
enum Stop {
    /// The scheduler does not start.
    Sched(String),
    /// The guest cannot do what it should.
    Guest(String),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        let (Failure::Failed(message) | Failure::Skipped(message)) = failure;
        Self::Guest(message)
    }
}

impl From<String> for Stop {
    fn from(message: String) -> Self {
        Self::Guest(message)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Guest(error.to_string())
    }
}

/// It could not be acted out.
fn of_guest(message: String) -> Violation {
    Violation {
        oracle: oracles::GUEST.into(),
        message,
    }
}

fn judge(scenario: &Scenario, evidence: Evidence, trace: &str) -> Verdicts {
    let violations = oracles::judge(scenario, &evidence);
    let lines: Vec<&str> = match violations.is_empty() {
        true => Vec::new(),
        false => trace.lines().collect(),
    };
    let first = lines.len().saturating_sub(TRACE_LINES);
    Verdicts {
        trace: lines[first..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect(),
        report: evidence
            .report
            .as_ref()
            .ok()
            .filter(|_| !violations.is_empty())
            .cloned(),
        figures: oracles::figures(&evidence),
        words: evidence.end.stderr,
        events: evidence.events,
        violations,
    }
}

/// A scenario that is being acted out.
struct Stage<'a> {
    guest: &'a Guest,
    scenario: &'a Scenario,
    /// What a second scheduler did instead of being refused.
    intruders: Vec<String>,
    rss_kib: Vec<u64>,
}

impl<'a> Stage<'a> {
    fn new(guest: &'a Guest, scenario: &'a Scenario) -> Self {
        Self {
            guest,
            scenario,
            intruders: Vec::new(),
            rss_kib: Vec::new(),
        }
    }

    /// From the beginning to the end; what was seen, and the trace of the look.
    fn play(mut self) -> Result<(Evidence, String), Stop> {
        let state_before = scx::snapshot();
        let trace = Trace::prepare()?;
        let early = match self.scenario.load_first {
            true => Some(self.load()?),
            false => None,
        };
        let mut sched = self.start()?;
        let load = match early {
            Some(load) => load,
            None => self.load()?,
        };
        let begun = Instant::now();
        for act in &self.scenario.acts {
            let due = Duration::from_millis(act.at_ms);
            thread::sleep(due.saturating_sub(begun.elapsed()));
            self.act(&act.what, &mut sched, load.program().pid())?;
        }
        let settled = self.settled(&sched);
        thread::sleep(SPREAD);
        let look = self.look(trace, load.program().pid())?;
        let report = load.stop();
        self.rss_kib.extend(rss_kib(sched.program().pid()));
        let counted = scx::events();
        let ended_early = sched.program().progress().code.is_some();
        let end = sched.stop(Signal::SIGTERM, STOP_LIMIT);
        let end = end.unwrap_or_else(|| sched.program().progress());
        // The kernel hands the tasks back after the process has gone.
        let _ = scx::wait_for("disabled", STOP_LIMIT);
        let (idleness, trace) = look.evaluate()?;
        let evidence = Evidence {
            report,
            end,
            ended_early,
            settled,
            intruders: self.intruders,
            state_before,
            events: counted,
            idleness: Some(idleness),
            cpus: self.guest.online().len(),
            rss_kib: self.rss_kib,
            ..Evidence::default()
        };
        Ok((evidence, trace))
    }

    fn load(&self) -> Result<Load, Stop> {
        let load = self
            .guest
            .start_load(&self.scenario.workload, WHILE_NEEDED)?;
        load.await_tasks()?;
        Ok(load)
    }

    fn start(&mut self) -> Result<Sched, Stop> {
        let options: Vec<&str> = self.scenario.options.iter().map(String::as_str).collect();
        let sched = self.guest.spawn(&options)?;
        let started = sched.wait_started();
        if let Err(Failure::Failed(message) | Failure::Skipped(message)) =
            started.map_err(|end| describe(self.guest.sched_name(), "did not start", &end))
        {
            return Err(Stop::Sched(message));
        }
        self.rss_kib.clear();
        self.rss_kib.extend(rss_kib(sched.program().pid()));
        Ok(sched)
    }

    fn act(&mut self, what: &What, sched: &mut Sched, load: Pid) -> Result<(), Stop> {
        match what {
            What::Offline { cpu } => {
                // One of the machine's CPUs may be offline from the start.
                if self.guest.online().contains(cpu) {
                    self.guest.set_online(*cpu, false)?;
                }
            }
            What::Online { cpu } => self.guest.set_online(*cpu, true)?,
            What::Confine { task, cpus } => {
                if let Some(task) = pick(load, *task) {
                    let both = task.cpus.iter().filter(|cpu| cpus.contains(cpu));
                    let both: Vec<usize> = both.copied().collect();
                    if !both.is_empty() {
                        // None of them may be online just now.
                        let _ = confine(task.pid, &both);
                    }
                }
            }
            What::Renice { task, nice } => {
                if let Some(task) = pick(load, *task) {
                    // It may be gone.
                    let _ = renice(task.pid, *nice);
                }
            }
            What::Hangup => sched.program().signal(Signal::SIGHUP),
            What::Freeze { ms } => {
                sched.program().signal(Signal::SIGSTOP);
                thread::sleep(Duration::from_millis(*ms));
                sched.program().signal(Signal::SIGCONT);
            }
            What::Kill => {
                self.settled(sched)?;
                sched.stop(Signal::SIGKILL, STOP_LIMIT);
                self.guest.wait_state("disabled")?;
                *sched = self.start()?;
            }
            What::Second => self.second(sched)?,
            What::Dump => fs::write("/proc/sysrq-trigger", "D")?,
        }
        Ok(())
    }

    /// Starts a scheduler beside `first`, which must not get in.
    fn second(&mut self, first: &Sched) -> Result<(), Stop> {
        // While the first starts again, the place is free, and anybody may take it.
        self.settled(first)?;
        let end = self.guest.run_sched(&[], STOP_LIMIT)?;
        if end.code != Some(OTHERS_RUNNING) {
            self.intruders
                .push(format!("code {:?}: {:?}", end.code, end.stderr));
        }
        Ok(())
    }

    /// Waits until the scheduler runs, on the CPUs that there are. What prevents it is an error.
    fn settled(&self, sched: &Sched) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let progress = sched.program().progress();
            let online = self.guest.online().len();
            let start = running_since(&progress);
            let told = start.map(|start| start["topology"]["cpus"].clone());
            if told.as_ref().is_some_and(|cpus| *cpus == online) && scx::state() == "enabled" {
                return Ok(());
            }
            if progress.code.is_some() {
                return Err("it has ended".into());
            }
            if Instant::now() > deadline {
                let runs = match told {
                    Some(cpus) => format!("runs on {cpus} CPUs"),
                    None => "does not run".into(),
                };
                let state = scx::state();
                return Err(format!(
                    "it {runs}, sched_ext is {state}, there are {online} CPUs"
                ));
            }
            thread::sleep(POLL);
        }
    }

    /// Looks at what CPUs and tasks do for a while.
    fn look(&self, trace: Trace, load: Pid) -> Result<Look, Stop> {
        trace.resume()?;
        visit(&self.guest.online())?;
        let from = Trace::now_us();
        let masks = tasks_of(load)
            .into_iter()
            // Those of storms change while one looks.
            .filter(|task| !task.name.starts_with("move"))
            .map(|task| (task.pid, task.cpus))
            .collect();
        thread::sleep(LOOK);
        let time = (from, Trace::now_us());
        trace.pause()?;
        let online = self.guest.online();
        Ok(Look {
            trace,
            masks,
            time,
            online,
        })
    }
}

/// Runs on each of `cpus` for a moment: a CPU that has one task for the whole of the look would not
/// be in the trace, and count as idle.
fn visit(cpus: &[usize]) -> io::Result<()> {
    let own = gettid().as_raw();
    for cpu in cpus {
        confine(own, &[*cpu])?;
    }
    confine(own, cpus)
}

/// What was seen in a while, not yet read: that takes much time of a CPU, at a high priority.
struct Look {
    trace: Trace,
    masks: BTreeMap<i32, Vec<usize>>,
    time: (u64, u64),
    online: Vec<usize>,
}

impl Look {
    /// CPUs that idled beside tasks that waited, and the kernel's own words.
    fn evaluate(self) -> Result<(Idleness, String), Stop> {
        let text = self.trace.text()?;
        let history = History::parse(&text)?;
        Ok((history.idleness(&self.online, &self.masks, self.time), text))
    }
}

/// A task of a workload, by its place in the order of their ids.
fn pick(load: Pid, index: usize) -> Option<Task> {
    let mut tasks = tasks_of(load);
    tasks.sort_by_key(|task| task.pid);
    let index = index.checked_rem(tasks.len())?;
    Some(tasks.swap_remove(index))
}
