// SPDX-License-Identifier: GPL-2.0-only
//! A program that runs in the guest, watched: its lines as they come, its end, with time limits.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::worker::{lower_priority, raise_priority};
use crate::job::Stream;

/// A program that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    pid: Pid,
    watched: Arc<Watched>,
}

/// What a program has done so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Lines of its stdout.
    pub stdout: Vec<String>,
    /// Lines of its stderr.
    pub stderr: Vec<String>,
    /// Its exit code, 128 + N when signal N ended it; nothing while it runs.
    pub code: Option<i32>,
    /// Nothing is left of it, and its id may be another's.
    pub(super) is_reaped: bool,
    pub(super) streams_open: usize,
}

impl Progress {
    /// It has ended, and everything it wrote is here.
    fn is_over(&self) -> bool {
        self.code.is_some() && self.streams_open == 0
    }
}

#[derive(Debug, Default)]
struct Watched {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Sees each line at the moment it is written.
pub type OnLine = Box<dyn Fn(Stream, &str) + Send + Sync>;

impl Program {
    /// Starts a program from the `PATH`, with no stdin.
    pub fn start<S: AsRef<OsStr>>(name: &str, args: &[S]) -> io::Result<Self> {
        let mut command = Command::new(name);
        command.args(args);
        Self::spawn(&mut command, None)
    }

    /// Starts `command`, whose streams are taken over.
    pub fn spawn(command: &mut Command, on_line: Option<OnLine>) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        let mut child = command.spawn().map_err(named)?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let watched = Arc::new(Watched::default());
        watched.lock().streams_open = 2;
        let on_line: Arc<Option<OnLine>> = Arc::new(on_line);
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        watch_stream(stdout, Stream::Stdout, &watched, &on_line);
        watch_stream(stderr, Stream::Stderr, &watched, &on_line);
        watch_end(child, &watched);
        Ok(Self { name, pid, watched })
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What it has done until now.
    pub fn progress(&self) -> Progress {
        self.watched.lock().clone()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&self) -> bool {
        self.watched.lock().code.is_none()
    }

    /// Sends it a signal; one that has ended does not mind.
    pub fn signal(&self, signal: Signal) {
        let progress = self.watched.lock();
        // It is reaped after its code is on record, so until then its id is not another's.
        if progress.code.is_none()
            && let Err(error) = kill(self.pid, signal)
        {
            log::warn!("{signal} to {}: {error}", self.name);
        }
    }

    /// Waits until `seen` finds what it looks for; nothing when the program ended or the time was
    /// up before.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        mut seen: impl FnMut(&Progress) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut progress = self.watched.lock();
        loop {
            if let Some(found) = seen(&progress) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if (progress.is_over() && progress.is_reaped) || left.is_zero() {
                return None;
            }
            let waited = self.watched.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until it has ended and all its output is read; nothing when the time was up before.
    pub fn wait(&self, limit: Duration) -> Option<Progress> {
        self.wait_for(limit, |progress| {
            progress.is_over().then(|| progress.clone())
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        // A process stuck in the kernel cannot be waited for; the kernel's log tells of it.
        self.wait_for(Duration::from_secs(10), |progress| {
            progress.is_reaped.then_some(())
        });
    }
}

fn watch_stream(
    from: impl Read + Send + 'static,
    stream: Stream,
    watched: &Arc<Watched>,
    on_line: &Arc<Option<OnLine>>,
) {
    let (watched, on_line) = (Arc::clone(watched), Arc::clone(on_line));
    thread::spawn(move || {
        raise_priority();
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line)
                .trim_end_matches('\n')
                .to_owned();
            if let Some(on_line) = on_line.as_ref() {
                on_line(stream, &text);
            }
            watched.change(|progress| match stream {
                Stream::Stdout => progress.stdout.push(text),
                Stream::Stderr => progress.stderr.push(text),
            });
            line.clear();
        }
        watched.change(|progress| progress.streams_open -= 1);
    });
}

/// Tells at once that the program has ended, and takes what is left of it away at normal priority.
///
/// Then the kernel drops the files of its threads in /proc, and spins while a thread that was
/// preempted is dropping the same ones. A real-time thread would never let that one go on.
fn watch_end(mut child: Child, watched: &Arc<Watched>) {
    let watched = Arc::clone(watched);
    thread::spawn(move || {
        raise_priority();
        let code = await_exit(Pid::from_raw(child.id().cast_signed()));
        watched.change(|progress| progress.code = Some(code));
        lower_priority();
        child.wait().expect("a child can be waited for");
        watched.change(|progress| progress.is_reaped = true);
    });
}

/// The exit code of a child, which is left to be reaped.
fn await_exit(pid: Pid) -> i32 {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Err(Errno::EINTR) => {}
            other => panic!("waiting for the end of a child: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn sh(script: &str) -> Program {
        Program::start("sh", &["-c", script]).unwrap()
    }

    #[test]
    fn lines_and_the_exit_code_are_collected() {
        let program = sh("echo one; echo two >&2; printf three; exit 7");
        let end = program.wait(LONG).unwrap();
        assert_eq!(end.stdout, ["one", "three"]);
        assert_eq!(end.stderr, ["two"]);
        assert_eq!(end.code, Some(7));
        assert!(!program.is_running());
    }

    #[test]
    fn a_line_is_seen_while_the_program_runs() {
        let program = sh("echo ready; sleep 600");
        let seen = program.wait_for(LONG, |progress| progress.stdout.first().cloned());
        assert_eq!(seen.as_deref(), Some("ready"));
        assert!(program.is_running());
        program.signal(Signal::SIGTERM);
        assert_eq!(
            program.wait_for(LONG, |progress| progress.code),
            Some(128 + 15)
        );
    }

    #[test]
    fn waiting_has_a_limit() {
        let program = sh("sleep 600");
        assert!(program.wait(Duration::from_millis(50)).is_none());
    }

    #[test]
    fn waiting_in_vain_ends_with_the_program() {
        let program = sh("echo other");
        let start = Instant::now();
        assert!(
            program
                .wait_for(LONG, |p| p.stdout.contains(&"x".into()).then_some(()))
                .is_none()
        );
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn a_dropped_program_is_killed() {
        let program = sh("sleep 600");
        let pid = program.pid();
        drop(program);
        assert!(kill(pid, None).is_err());
    }

    #[test]
    fn lines_are_told_at_once() {
        let (sender, lines) = std::sync::mpsc::channel();
        let told: OnLine = Box::new(move |stream, line| {
            sender.send((stream, line.to_owned())).unwrap();
        });
        let mut command = Command::new("sh");
        command.args(["-c", "echo now; sleep 600"]);
        let _program = Program::spawn(&mut command, Some(told)).unwrap();
        assert_eq!(
            lines.recv_timeout(LONG).unwrap(),
            (Stream::Stdout, "now".to_owned())
        );
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = Program::start("rota-no-such-program", &["x"]).unwrap_err();
        assert!(
            error.to_string().starts_with("rota-no-such-program: "),
            "{error}"
        );
    }
}
