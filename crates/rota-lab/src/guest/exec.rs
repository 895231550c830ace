// SPDX-License-Identifier: GPL-2.0-only
//! Runs one command and passes on what it writes, and what it is sent.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::unistd::setsid;

use super::Port;
use super::worker::raise_priority;
use crate::job::{Bytes, Event, Exec, Input, Stream, TtySize};

/// After the command has ended, its output is awaited this long: what it left running in the
/// background may hold its pipes open for ever.
const LINGER: Duration = Duration::from_millis(200);

const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

enum Message {
    Output(Stream, Vec<u8>),
    /// One of the output streams is closed.
    Closed,
    Ended(ExitStatus),
}

/// Runs the command; the result is its exit code as a shell would give it.
pub fn run(port: &Port, job: &Exec) -> Result<i32, String> {
    let [program, args @ ..] = &job.argv[..] else {
        return Err("no command".into());
    };
    let mut command = Command::new(program);
    command.args(args);
    let started = match job.tty {
        Some(size) => start_on_terminal(port, &mut command, size),
        None => start_on_pipes(port, &mut command, job.stdin),
    };
    match started {
        Ok((messages, streams)) => Ok(exit_code(pass_on(port, &messages, streams)?)),
        Err(error) => {
            let text = format!("{program}: {error}\n");
            port.emit(&Event::Output {
                stream: Stream::Stderr,
                text: Bytes::Text(text),
            });
            let found = error.kind() != ErrorKind::NotFound;
            Ok(if found { NOT_EXECUTABLE } else { NOT_FOUND })
        }
    }
}

/// The exit code of a command, 128 + N when signal N ended it.
fn exit_code(status: ExitStatus) -> i32 {
    let by_signal = || status.signal().map(|signal| 128 + signal);
    status
        .code()
        .or_else(by_signal)
        .expect("it exited or was killed")
}

type Started = (Receiver<Message>, usize);

fn start_on_pipes(port: &Port, command: &mut Command, stdin: bool) -> std::io::Result<Started> {
    command.stdin(if stdin { Stdio::piped() } else { Stdio::null() });
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (sender, messages) = mpsc::channel();
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    read_from(stdout, Stream::Stdout, sender.clone());
    read_from(stderr, Stream::Stderr, sender.clone());
    let pipe = child.stdin.take();
    feed(port, pipe);
    await_end(child, sender);
    Ok((messages, 2))
}

fn start_on_terminal(
    port: &Port,
    command: &mut Command,
    size: TtySize,
) -> std::io::Result<Started> {
    let pty = openpty(Some(&window(size)), None)?;
    let slave = |pty: &OwnedFd| pty.try_clone().map(Stdio::from);
    command
        .stdin(slave(&pty.slave)?)
        .stdout(slave(&pty.slave)?)
        .stderr(slave(&pty.slave)?);
    command.env("TERM", "linux");
    // SAFETY: the closure only makes system calls, which is allowed between fork and exec.
    unsafe { command.pre_exec(own_terminal) };
    let child = command.spawn()?;
    // The command must hold the only copies: the last one closed ends the output.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    drop(pty.slave);
    let (sender, messages) = mpsc::channel();
    let master = File::from(pty.master);
    read_from(master.try_clone()?, Stream::Stdout, sender.clone());
    feed(port, Some(master));
    await_end(child, sender);
    Ok((messages, 1))
}

/// Makes the terminal on stdin the controlling one, so that ^C works.
fn own_terminal() -> std::io::Result<()> {
    setsid()?;
    // SAFETY: the request takes an integer.
    let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

fn window(size: TtySize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn read_from(mut from: impl Read + Send + 'static, stream: Stream, to: Sender<Message>) {
    thread::spawn(move || {
        raise_priority();
        let mut buffer = [0; 8192];
        // A terminal whose other end is closed gives EIO instead of an end.
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to
                .send(Message::Output(stream, buffer[..length].to_vec()))
                .is_err()
            {
                return;
            }
        }
        let _ = to.send(Message::Closed);
    });
}

/// Writes what the host sends to the command.
fn feed(port: &Port, to: Option<impl Write + Send + 'static>) {
    let port = port.clone();
    thread::spawn(move || {
        raise_priority();
        let mut to = to;
        let received = port.receive(|input| {
            let written = match (&mut to, input) {
                (Some(to), Input::Stdin { text }) => to.write_all(text.as_bytes()).is_ok(),
                (_, Input::StdinEnd) | (None, _) => false,
            };
            if !written {
                // There is no more, or the command does not want to read it and has closed the pipe.
                to = None;
            }
            port.emit(&Event::InputTaken);
        });
        if let Err(error) = received {
            log::error!("reading from the host: {error}");
        }
    });
}

fn await_end(mut child: Child, to: Sender<Message>) {
    thread::spawn(move || {
        let status = child.wait().expect("a child can be waited for");
        // The receiver is gone when it has given up on the command.
        let _ = to.send(Message::Ended(status));
    });
}

/// Emits output until the command has ended and its output is read.
fn pass_on(
    port: &Port,
    messages: &Receiver<Message>,
    streams: usize,
) -> Result<ExitStatus, String> {
    let mut open = streams;
    let mut ended = None;
    loop {
        if let (0, Some(status)) = (open, ended) {
            return Ok(status);
        }
        let message = match ended {
            Some(status) => match messages.recv_timeout(LINGER) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Ok(status);
                }
            },
            None => messages.recv().map_err(|_| "lost sight of the command")?,
        };
        match message {
            Message::Output(stream, bytes) => {
                port.emit(&Event::Output {
                    stream,
                    text: bytes.as_slice().into(),
                });
            }
            Message::Closed => open -= 1,
            Message::Ended(status) => ended = Some(status),
        }
    }
}
