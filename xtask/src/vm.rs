// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask vm`: any command in a guest.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::libc;
use nix::sys::termios::{self, SetArg, Termios};
use rota_lab::job::{Event, Exec, Input, Job, Stream, TtySize};
use rota_lab::kernel::{Spec, Store};
use rota_lab::topology::Topology;
use rota_lab::vm::{Clock, Verdict, Vm};

use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::ui::Task;
use crate::{build_all, kernels, stop, ui};

/// Run a command in a guest, with the schedulers and rota-load on its PATH
///
/// Without a command, and with a terminal, the guest runs a shell.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The kernel: a series (6.18), a release (7.2.12), `none` (without sched_ext), or a bzImage
    #[arg(long, value_name = "KERNEL", default_value = "7.3")]
    kernel: Spec,
    /// The machine: sockets x cores x threads (2x2x2), numa:2x2x1, hybrid:2+2 (strong and weak CPUs)
    #[arg(long, value_name = "TOPOLOGY", default_value = "1x4x1")]
    topology: Topology,
    /// Put a file into the guest's /rota/files; repeat for more
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Put a static program on the guest's PATH; repeat for more
    #[arg(long = "program", value_name = "FILE")]
    programs: Vec<PathBuf>,
    /// Add words to the kernel's command line
    #[arg(long, value_name = "WORDS")]
    append: Option<String>,
    /// Let time pass by instructions, each 2^SHIFT ns, instead of as on the host
    #[arg(long, value_name = "SHIFT", value_parser = clap::value_parser!(u8).range(0..=10))]
    icount: Option<u8>,
    /// Another interleaving, with --icount
    #[arg(long, value_name = "N", default_value_t = 0, requires = "icount")]
    seed: u64,
    /// Seconds after which the guest is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    timeout: u64,
    #[command(flatten)]
    install: setup::Install,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs `cargo xtask vm`; the exit code is the command's.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let job = job(args.command, terminal)?;

    let store = Store::open()?.on(args.topology.arch());
    let mut groups = kernels::groups(&store, std::slice::from_ref(&args.kernel))?;
    groups.push(Group::Build);
    setup::ensure(cx, &groups, args.install)?;
    let kernel = kernels::get(&store, &args.kernel)?;
    let built = build_all::guest_programs(cx, &Toolchain::find()?.on(&store)?)?;
    let programs: Vec<PathBuf> = built
        .into_iter()
        .map(|program| program.path)
        .chain(args.programs)
        .collect();

    let dir = cx.guest_dir("vm")?;
    let job = Job::Exec(job);
    let mut vm = Vm::new(&kernel, &args.topology, &programs, &job, dir.path());
    vm.files = guest_files(args.files)?;
    if let Some(shift) = args.icount {
        let seed = args.seed;
        vm.clock = Clock::Counted { shift, seed };
    }
    vm.append.extend(args.append);
    vm.limits.total = Duration::from_secs(args.timeout);
    vm.input = Some(read_stdin());

    let mut screen = Screen::new(&kernel.release, terminal);
    let outcome = vm.run(&mut |event| screen.show(event));
    drop(screen);
    match outcome?.verdict {
        Verdict::Exited(code) => Ok(u8::try_from(code).unwrap_or(stop::FAILED)),
        verdict => bail!(
            "{verdict}; the kernel's log is {}",
            dir.keep().join("console.log").display()
        ),
    }
}

fn job(argv: Vec<String>, terminal: bool) -> Result<Exec> {
    let tty = terminal.then(terminal_size);
    match (argv.is_empty(), terminal) {
        (true, false) => Err(stop::usage("no command; write it after `--`")),
        (true, true) => Ok(Exec {
            argv: vec!["sh".into()],
            stdin: true,
            tty,
        }),
        (false, _) => Ok(Exec {
            argv,
            stdin: true,
            tty,
        }),
    }
}

/// Where each file of the host goes.
fn guest_files(files: Vec<PathBuf>) -> Result<Vec<(String, PathBuf)>> {
    let place = |path: PathBuf| {
        let name = path.file_name().filter(|_| path.is_file());
        let name = name.ok_or_else(|| stop::usage(format!("{} is no file", path.display())))?;
        Ok((format!("/rota/files/{}", name.to_string_lossy()), path))
    };
    files.into_iter().map(place).collect()
}

/// Shows what the guest says: a spinner until it is up, then the output of its command alone.
struct Screen {
    booting: Option<Task>,
    release: String,
    terminal: bool,
    raw: Option<Raw>,
}

impl Screen {
    fn new(release: &str, terminal: bool) -> Self {
        let booting = Some(ui::spinner(format!("booting Linux {release}")));
        Self {
            booting,
            release: release.to_owned(),
            terminal,
            raw: None,
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Booted(_) => {
                if let Some(task) = self.booting.take() {
                    task.done("");
                }
                self.raw = self.terminal.then(Raw::enter).flatten();
            }
            Event::Retrying { reason } => {
                self.raw = None;
                ui::note(format!("starting again: {reason}"));
                self.booting = Some(ui::spinner(format!("booting Linux {}", self.release)));
            }
            // A closed pipe (`| head`) is the reader's choice, not an error.
            Event::Output {
                stream: Stream::Stdout,
                text,
            } => {
                let mut out = io::stdout().lock();
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            }
            Event::Output {
                stream: Stream::Stderr,
                text,
            } => {
                let _ = io::stderr().write_all(text.as_bytes());
            }
            _ => {}
        }
    }
}

/// Sends stdin to the guest from a thread, which ends with the program.
fn read_stdin() -> Receiver<Input> {
    let (sender, input) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            let line = Input::Stdin {
                text: buffer[..length].into(),
            };
            if sender.send(line).is_err() {
                return;
            }
        }
        // The receiver is gone when the guest is.
        let _ = sender.send(Input::StdinEnd);
    });
    input
}

/// The terminal passes every key to the guest; as before when this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Without a terminal there is nothing to put back.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// The size of the terminal on stdout, or the usual one where it has none.
fn terminal_size() -> TtySize {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the size lives across the call, which fills it in.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    if result != 0 || size.ws_row == 0 || size.ws_col == 0 {
        return TtySize {
            rows: 24,
            columns: 80,
        };
    }
    TtySize {
        rows: size.ws_row,
        columns: size.ws_col,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_command_is_needed_where_there_is_no_terminal() {
        let error = job(Vec::new(), false).unwrap_err();
        assert_eq!(stop::code_of(&error), 2);
        let exec = job(vec!["true".into()], false).unwrap();
        assert_eq!((exec.argv, exec.tty), (vec!["true".to_owned()], None));
    }

    #[test]
    fn a_terminal_without_a_command_gets_a_shell() {
        let exec = job(Vec::new(), true).unwrap();
        assert_eq!(exec.argv, ["sh"]);
        assert!(exec.tty.is_some());
    }

    #[test]
    fn files_keep_their_names_in_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("trace.txt");
        fs::write(&file, "x").unwrap();
        let files = guest_files(vec![file.clone()]).unwrap();
        assert_eq!(files, [("/rota/files/trace.txt".to_owned(), file)]);
        let error = guest_files(vec![dir.path().join("missing")]).unwrap_err();
        assert_eq!(stop::code_of(&error), 2);
    }
}
