// SPDX-License-Identifier: GPL-2.0-only
//! Boots a guest, hands on what it tells, and ends it: when its job is done, or when there is no
//! point in waiting any longer.

mod console;
mod device_tree;
mod host_cpu;
mod image;
mod interrupt;
mod qemu;
mod tsc;

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

pub use interrupt::requested as interrupted;
pub(crate) use qemu::find_program;
pub use qemu::{Accel, Clock};

use crate::arch::Arch;
use crate::error::{Error, IoContext as _, Result};
use crate::job::{Event, INPUT_MAX, Input, Job};
use crate::kernel::Kernel;
use crate::topology::Topology;
use console::{Console, Trouble};

/// The kernel's log, in the directory of the run.
const CONSOLE: &str = "console.log";

/// Attempts after the first. A guest whose CPUs run at once meets a fault of the emulator in one boot of
/// ten on a busy host, so two in a row are nothing rare.
pub const RETRIES: usize = 3;

/// How often the console and the limits are looked at.
const POLL: Duration = Duration::from_millis(50);
/// What a dying kernel gets to finish its message.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// How long a guest may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From start to end.
    pub total: Duration,
    /// From one protocol line to the next. A guest that lives sends one every few seconds.
    pub silent: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(600),
            silent: Duration::from_secs(90),
        }
    }
}

/// A guest to boot.
#[derive(Debug)]
pub struct Vm<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The CPUs.
    pub topology: &'a Topology,
    /// Static programs for the guest's `PATH`; `rota-guest` must be one of them. One called `busybox`
    /// takes the place of this machine's, for a guest of another architecture.
    pub programs: &'a [PathBuf],
    /// More files: where in the guest, and which file of the host.
    pub files: Vec<(String, PathBuf)>,
    /// What the guest does.
    pub job: &'a Job,
    /// Where the initramfs and the console log go; it must exist.
    pub dir: &'a Path,
    /// How long it may take.
    pub limits: Limits,
    /// How time passes in the guest.
    pub clock: Clock,
    /// Words added to the kernel's command line.
    pub append: Vec<String>,
    /// Lines for the guest.
    pub input: Option<Receiver<Input>>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The job ended with this exit code.
    Exited(i32),
    /// The guest could not do the job.
    Failed(String),
    /// The kernel gave up.
    Panic(String),
    /// A CPU did not pass a quiescent state for long.
    RcuStall(String),
    /// A CPU was caught twice in a kernel loop.
    SoftLockup(String),
    /// The job took too long.
    TimedOut(Duration),
    /// The guest said nothing for too long.
    Silent(Duration),
    /// The guest ended without a word; this was the last in its kernel's log.
    Vanished(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Failed(message) => write!(f, "the guest failed: {message}"),
            Self::Panic(line) => write!(f, "the guest's kernel panicked: {line}"),
            Self::RcuStall(line) => write!(f, "RCU stall in the guest: {line}"),
            Self::SoftLockup(line) => write!(f, "soft lockup in the guest: {line}"),
            Self::TimedOut(limit) => write!(f, "not done after {} s", limit.as_secs()),
            Self::Silent(limit) => write!(f, "silent for {} s", limit.as_secs()),
            Self::Vanished(line) => {
                write!(
                    f,
                    "the guest ended before its job was done; its kernel's last line: {line}"
                )
            }
        }
    }
}

/// What a run was like.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// From start to user space; nothing when it did not get there.
    pub boot: Option<Duration>,
    /// From start to end, of the last attempt.
    pub elapsed: Duration,
    /// Why the attempts before this one broke, each for a reason that no scheduler can cause.
    pub retries: Vec<String>,
    /// What executed the guest.
    pub accel: Accel,
    /// The kernel's log.
    pub console: PathBuf,
}

impl<'a> Vm<'a> {
    /// A guest with the usual limits. `dir` takes its files.
    pub fn new(
        kernel: &'a Kernel,
        topology: &'a Topology,
        programs: &'a [PathBuf],
        job: &'a Job,
        dir: &'a Path,
    ) -> Self {
        Self {
            kernel,
            topology,
            programs,
            files: Vec::new(),
            job,
            dir,
            limits: Limits::default(),
            clock: Clock::default(),
            append: Vec::new(),
            input: None,
        }
    }

    /// Boots the guest and stays until it has ended; `on_event` gets every event.
    ///
    /// A guest that breaks for a reason that is not the scheduler's (a known fault of the emulator,
    /// or a panic before user space) is started again, [`RETRIES`] times at most, after
    /// [`Event::Retrying`].
    pub fn run(mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Outcome> {
        interrupt::watch();
        let initramfs = self.dir.join("initramfs");
        image::build(self.programs, &self.files, self.job)?.write_file(&initramfs)?;
        let files = Files {
            device_tree: match self.topology.arch() {
                Arch::X86_64 => None,
                Arch::Arm64 => Some(device_tree::make(self.topology, self.dir)?),
            },
            initramfs,
        };
        let outcome = self.attempts(&files, on_event);
        // It is large, and can be made again at any time.
        let _ = fs::remove_file(&files.initramfs);
        outcome
    }

    fn attempts(&mut self, files: &Files, on_event: &mut dyn FnMut(&Event)) -> Result<Outcome> {
        let mut retries = Vec::new();
        loop {
            let reason = match self.attempt(files, on_event, &retries)? {
                Attempt::Done(outcome) => return Ok(outcome),
                Attempt::Innocent(reason) => reason,
            };
            let console = self.dir.join(CONSOLE);
            let kept = self
                .dir
                .join(format!("console.retried-{}.log", retries.len() + 1));
            fs::rename(&console, kept).at("renaming", &console)?;
            on_event(&Event::Retrying {
                reason: reason.clone(),
            });
            retries.push(reason);
        }
    }

    fn attempt(
        &mut self,
        files: &Files,
        on_event: &mut dyn FnMut(&Event),
        retries: &[String],
    ) -> Result<Attempt> {
        let console_path = self.dir.join(CONSOLE);
        fs::write(&console_path, "").at("creating", &console_path)?;
        let accel = Accel::with(self.clock, self.topology.arch());
        let machine = qemu::Machine {
            accel,
            clock: self.clock,
            topology: self.topology,
            kernel: &self.kernel.image,
            initramfs: &files.initramfs,
            device_tree: files.device_tree.as_deref(),
            console: &console_path,
            append: &self.append,
        };
        let started = Instant::now();
        let mut process = machine.start()?;
        let stdin = process.child.stdin.take().expect("stdin is piped");
        // A guest that is started again gets no input any more: part of it is gone already.
        let permit = forward_input(self.input.take(), stdin);
        let mut watch = Watch {
            permit,
            lines: read_lines(process.child.stdout.take().expect("stdout is piped")),
            console: Console::open(&console_path)?,
            limits: self.limits,
            started,
            last_line: started,
            boot: None,
        };
        let errors = collect(process.child.stderr.take().expect("stderr is piped"));
        let verdict = watch.until_the_end(on_event)?;
        if matches!(verdict, Verdict::Vanished(_)) && watch.boot.is_none() {
            // The pipe is closed, so QEMU is about to end, or has ended.
            let status = process.child.wait().at("waiting for", &console_path)?;
            let text = errors.join().unwrap_or_default();
            if !status.success() || !text.trim().is_empty() {
                return Err(Error::Qemu {
                    detail: qemu_detail(&status.to_string(), &text),
                });
            }
        }
        if retries.len() < RETRIES
            && let Some(reason) = watch.innocent(&verdict)
        {
            return Ok(Attempt::Innocent(reason));
        }
        Ok(Attempt::Done(Outcome {
            verdict,
            boot: watch.boot,
            elapsed: started.elapsed(),
            retries: retries.to_vec(),
            accel,
            console: console_path,
        }))
    }
}

/// What a guest is booted with, in the directory of the run.
struct Files {
    initramfs: PathBuf,
    device_tree: Option<PathBuf>,
}

enum Attempt {
    Done(Outcome),
    /// It broke, and no scheduler can be blamed.
    Innocent(String),
}

fn qemu_detail(status: &str, text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.map_or_else(|| status.to_owned(), |line| line.trim().to_owned())
}

/// Watches over one running guest.
struct Watch {
    /// Lets the next input through.
    permit: Sender<()>,
    lines: Receiver<String>,
    console: Console,
    limits: Limits,
    started: Instant,
    last_line: Instant,
    boot: Option<Duration>,
}

impl Watch {
    fn until_the_end(&mut self, on_event: &mut dyn FnMut(&Event)) -> Result<Verdict> {
        loop {
            match self.lines.recv_timeout(POLL) {
                Ok(line) => {
                    self.last_line = Instant::now();
                    if let Some(verdict) = self.take_line(&line, on_event) {
                        return Ok(verdict);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    interrupt::check()?;
                    return Ok(self.trouble().unwrap_or_else(|| {
                        Verdict::Vanished(self.console.last_line().to_owned())
                    }));
                }
            }
            interrupt::check()?;
            if let Some(verdict) = self.trouble() {
                thread::sleep(LAST_WORDS);
                self.console.poll();
                return Ok(verdict);
            }
            if self.started.elapsed() > self.limits.total {
                return Ok(Verdict::TimedOut(self.limits.total));
            }
            if self.last_line.elapsed() > self.limits.silent {
                return Ok(Verdict::Silent(self.limits.silent));
            }
        }
    }

    fn take_line(&mut self, line: &str, on_event: &mut dyn FnMut(&Event)) -> Option<Verdict> {
        let event: Event = match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) => {
                // A program in the guest may write to the port; it is not worth the run.
                log::warn!("not an event ({error}): {line}");
                return None;
            }
        };
        on_event(&event);
        match event {
            Event::Booted(_) => {
                self.boot = Some(self.started.elapsed());
                self.permit_input();
            }
            Event::InputTaken => self.permit_input(),
            Event::Exited { code } => return Some(Verdict::Exited(code)),
            Event::Failed { message } => return Some(Verdict::Failed(message)),
            _ => {}
        }
        None
    }

    fn permit_input(&self) {
        // Without input there is nobody to tell.
        let _ = self.permit.send(());
    }

    fn trouble(&mut self) -> Option<Verdict> {
        self.console.poll().map(|trouble| match trouble {
            Trouble::Panic(line) => Verdict::Panic(line),
            Trouble::RcuStall(line) => Verdict::RcuStall(line),
            Trouble::SoftLockup(line) => Verdict::SoftLockup(line),
        })
    }

    /// Why this end is not a scheduler's doing, if it is not.
    fn innocent(&self, verdict: &Verdict) -> Option<String> {
        match verdict {
            Verdict::Panic(line) if self.console.emulator_fault() => Some(format!(
                "a fault of the emulator (Oops: int3, or flags that do not exist): {line}"
            )),
            Verdict::Panic(line) if self.boot.is_none() => {
                Some(format!("a panic while booting: {line}"))
            }
            _ => None,
        }
    }
}

/// Sends the guest's lines from a thread, so that waiting for them can have a limit.
fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !text.is_empty() && sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    lines
}

fn collect(mut stderr: ChildStderr) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        // What could be read before an error is all there is to show.
        let _ = stderr.read_to_string(&mut text);
        text
    })
}

/// Writes input to the guest, a line for each permit, until there is no more input or no guest.
fn forward_input(input: Option<Receiver<Input>>, mut stdin: ChildStdin) -> Sender<()> {
    let (permit, permits) = mpsc::channel();
    thread::spawn(move || {
        for input in input.into_iter().flatten().flat_map(split) {
            let mut line = serde_json::to_string(&input).expect("input is plain data");
            line.push('\n');
            let permitted = permits.recv().is_ok();
            if !permitted || stdin.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    permit
}

/// The same input in pieces that the guest can take.
fn split(input: Input) -> Vec<Input> {
    match input {
        Input::Stdin { text } => {
            let pieces = text.as_bytes().chunks(INPUT_MAX);
            pieces
                .map(|piece| Input::Stdin { text: piece.into() })
                .collect()
        }
        Input::StdinEnd => vec![input],
    }
}

#[cfg(test)]
mod tests;
