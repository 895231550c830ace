// SPDX-License-Identifier: GPL-2.0-only
//! Runs a program behind a spinner, and keeps what it says for the case that it fails.

use std::io::{BufRead as _, BufReader, IsTerminal as _, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use rota_lab::vm::interrupted;

use crate::stop;
use crate::ui::Task;

/// What a program left behind.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Lines of its stdout.
    pub stdout: Vec<String>,
    /// Lines of its stderr.
    pub stderr: Vec<String>,
}

/// Runs `command`, showing on `task` the latest line of its stderr.
pub fn watch(command: Command, task: &Task) -> Result<Output> {
    follow(command, task, |_| {})
}

/// Like [`watch`], and hands on each line of stdout as it comes.
pub fn follow(
    mut command: Command,
    task: &Task,
    on_line: impl FnMut(&str) + Send,
) -> Result<Output> {
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    end_with_us(&mut command);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}"))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let (over, at_end) = mpsc::channel::<()>();
    let (stdout, stderr) = thread::scope(|scope| {
        scope.spawn(move || end_if_interrupted(&at_end));
        let stdout = scope.spawn(|| lines(stdout, on_line));
        let stderr = lines(stderr, |line| task.say(line.trim()));
        let stdout = stdout.join().unwrap_or_default();
        drop(over);
        (stdout, stderr)
    });
    let status = child
        .wait()
        .with_context(|| format!("waiting for {program}"))?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// Ends this process, and the child with it, if the user asks to end before `over` is: guests that ran
/// here before have taken over the signals, which a child has no part in.
fn end_if_interrupted(over: &mpsc::Receiver<()>) {
    const LOOK: Duration = Duration::from_millis(200);
    while over.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        if interrupted() {
            process::exit(stop::INTERRUPTED.into());
        }
    }
}

/// Makes the child end when this process does, however that comes: a build or a lab that goes on
/// unseen only takes the machine's time.
fn end_with_us(command: &mut Command) {
    let end = || prctl::set_pdeathsig(Signal::SIGTERM).map_err(Into::into);
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(end) };
}

/// Like [`watch`], but a failure prints what the program said and is an error.
pub fn require(command: Command, task: &Task) -> Result<Output> {
    let output = watch(command, task)?;
    if !output.status.success() {
        output.print(task);
        bail!("{} failed", task.label());
    }
    Ok(output)
}

impl Output {
    /// Prints everything that the program said, except what was meant for programs.
    pub fn print(&self, task: &Task) {
        let stdout = self.stdout.iter().filter(|line| !line.starts_with("{\""));
        for line in self.stderr.iter().chain(stdout) {
            task.print(line);
        }
    }
}

/// Reads `pipe` to its end, whatever bytes come: a program whose pipe is closed dies of it.
pub fn lines(pipe: impl Read, mut each: impl FnMut(&str)) -> Vec<String> {
    let lines = BufReader::new(pipe).split(b'\n').map_while(Result::ok);
    lines
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .inspect(|line| each(line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let task = ui::spinner("testing");
        let output = watch(shell("echo out; echo err >&2; exit 3"), &task).unwrap();
        assert_eq!(output.stdout, ["out"]);
        assert_eq!(output.stderr, ["err"]);
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_failed_program_is_an_error_and_a_missing_one_too() {
        let task = ui::spinner("testing");
        let error = require(shell("exit 1"), &task).err().unwrap();
        assert_eq!(error.to_string(), "testing failed");
        assert!(require(Command::new("/nonexistent"), &task).is_err());
    }
}
