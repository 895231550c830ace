// SPDX-License-Identifier: GPL-2.0-only
//! Takes a policy's object into the kernel: open, set up, load, attach, each
//! phase a type of its own, each failure an [`Error`] that says what to do.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::query::{ProgInfoIter, ProgramInfo};
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;
use libbpf_rs::{Link, Object, OpenObject, PrintLevel, Program, RingBuffer, set_print};
use nix::errno::Errno;

use crate::Policy;
use crate::error::Error;
use crate::probe::Kernel;
use crate::skeleton::{Bpf, ExitRecord, Setup};
use crate::urgent::{Favoured, Urgent};

/// How long the kernel may take to say how an attached scheduler fares.
const SETTLING: Duration = Duration::from_secs(2);
/// How long the kernel may take to detach a scheduler: the tasks of a large
/// machine have to be handed back one by one.
const DETACHING: Duration = Duration::from_secs(10);
/// The lines of libbpf that are kept for an error.
const KEPT_LINES: usize = 64;
/// The lines of the verifier that are shown.
const SHOWN_LINES: usize = 12;

type OpenOf<'o, P> = <<P as Policy>::Bpf as Bpf>::Open<'o>;
type LoadedOf<'o, P> = <<P as Policy>::Bpf as Bpf>::Loaded<'o>;

/// A policy's object, opened but unknown to the kernel.
pub struct Opened<'o, P: Policy>(OpenOf<'o, P>);

/// A policy's object in the kernel, verified but without effect.
pub struct Loaded<'o, P: Policy>(LoadedOf<'o, P>);

/// The scheduler of this machine, until it is dropped.
pub struct Attached<'o, P: Policy> {
    // Dropped first: nothing of the object may go while the kernel calls it.
    link: Option<Link>,
    signals: RingBuffer<'static>,
    loaded: LoadedOf<'o, P>,
    since: Instant,
}

impl<'o, P: Policy> Opened<'o, P> {
    /// Opens the object in `storage` and writes everything that is known before
    /// it is loaded.
    pub fn new(
        storage: &'o mut MaybeUninit<OpenObject>,
        setup: &Setup<'_>,
        options: &P::Options,
    ) -> Result<Self, Error> {
        warnings();
        let phase = "open the policy's object";
        let mut open = P::Bpf::open(storage).map_err(|error| failed(phase, &error))?;
        P::Bpf::set_up(&mut open, setup).map_err(|error| failed("set the policy up", &error))?;
        P::configure(options, setup.topology, &mut open).map_err(Error::Options)?;
        Ok(Opened(open))
    }

    /// Hands the object to the kernel, which verifies it.
    pub fn load(self, kernel: &Kernel) -> Result<Loaded<'o, P>, Error> {
        let loaded = {
            let _favoured = Favoured::raise();
            self.0
                .load()
                .map_err(|error| load_failed(kernel, &error, &warnings()))?
        };
        tell_effort(loaded.object());
        Ok(Loaded(loaded))
    }
}

impl<'o, P: Policy> Loaded<'o, P> {
    /// Makes it the scheduler of this machine.
    ///
    /// The kernel may have ended it when this returns: the call succeeds even
    /// if the policy's `init` failed. [`Attached::record`] knows.
    pub fn attach(mut self, kernel: &Kernel) -> Result<Attached<'o, P>, Error> {
        let signals =
            P::Bpf::signals(&self.0).map_err(|error| failed("listen to the policy", &error))?;
        let link = {
            let _urgent = Urgent::raise();
            P::Bpf::attach(&mut self.0).map_err(|error| attach_failed(kernel, &error))?
        };
        let attached = Attached {
            link: Some(link),
            signals,
            loaded: self.0,
            since: Instant::now(),
        };
        let deadline = Instant::now() + SETTLING;
        loop {
            let state = kernel.state().unwrap_or_default();
            if attached.record().is_some() || state == "enabled" {
                return Ok(attached);
            }
            if Instant::now() > deadline {
                let cause = format!("the kernel reports the state {state:?} and no reason");
                return Err(Error::Load {
                    phase: "attach",
                    cause,
                });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl<'o, P: Policy> Attached<'o, P> {
    /// What the kernel said when it ended the scheduler; `None` while it runs.
    pub fn record(&self) -> Option<ExitRecord> {
        P::Bpf::exit_record(&self.loaded)
    }

    /// The debug dump that goes with an error.
    pub fn dump(&self) -> String {
        P::Bpf::exit_dump(&self.loaded)
    }

    /// A descriptor that becomes readable when the policy has something to say.
    pub fn signal_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor lives as long as `self.signals`.
        unsafe { BorrowedFd::borrow_raw(self.signals.epoll_fd()) }
    }

    /// Makes the descriptor unreadable until there is something new; whether there was.
    pub fn take_signals(&self) -> bool {
        self.signals.consume_raw() > 0
    }

    /// The counters, summed over all CPUs.
    pub fn counters(&self) -> Vec<u64> {
        P::Bpf::counters(&self.loaded)
    }

    /// The time since it was attached.
    pub fn uptime(&self) -> Duration {
        self.since.elapsed()
    }

    /// The object, for live options.
    pub fn loaded(&mut self) -> &mut LoadedOf<'o, P> {
        &mut self.loaded
    }

    /// Gives the machine back to the kernel's own scheduler, and waits until
    /// the kernel has said how this one ended.
    pub fn detach(&mut self) -> ExitRecord {
        drop(self.link.take());
        let deadline = Instant::now() + DETACHING;
        loop {
            match self.record() {
                Some(record) => return record,
                None if Instant::now() > deadline => {
                    let reason = "the kernel did not say how the scheduler ended".into();
                    return ExitRecord {
                        cpu: -1,
                        reason,
                        ..ExitRecord::default()
                    };
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

/// The last lines that libbpf warned with.
static WARNINGS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Sends what libbpf says to the log, and keeps its warnings for the errors.
pub(crate) fn capture() {
    let level = if log::log_enabled!(log::Level::Trace) {
        PrintLevel::Debug
    } else {
        PrintLevel::Info
    };
    set_print(Some((level, |level, text| match level {
        PrintLevel::Debug => log::trace!("{}", text.trim_end()),
        PrintLevel::Info => log::debug!("{}", text.trim_end()),
        PrintLevel::Warn => {
            log::debug!("{}", text.trim_end());
            let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.extend(text.lines().map(str::to_owned));
            let excess = warnings.len().saturating_sub(KEPT_LINES);
            warnings.drain(..excess);
        }
    })));
}

/// Tells whoever wonders why a policy takes long to load how far the verifier had to go in each of
/// its programs, in instructions; functions that several of them call count in each.
fn tell_effort(object: &Object) {
    if !log::log_enabled!(log::Level::Debug) {
        return;
    }
    let known: Vec<ProgramInfo> = ProgInfoIter::default().collect();
    for program in object.progs() {
        let id = Program::id_from_fd(program.as_fd()).ok();
        if let Some(info) = known.iter().find(|info| Some(info.id) == id) {
            let name = program.name().to_string_lossy();
            log::debug!("{name}: {} instructions verified", info.verified_insns);
        }
    }
}

/// Takes the warnings kept so far.
fn warnings() -> Vec<String> {
    WARNINGS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
        .collect()
}

/// The error number that libbpf-rs wraps, of which it only tells the class.
fn errno(error: &libbpf_rs::Error) -> Errno {
    let text = format!("{error:#}");
    let number = text
        .rsplit_once("(os error ")
        .and_then(|(_, rest)| rest.split(')').next());
    number
        .and_then(|number| number.parse().ok())
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// A failure in words, without a raw error number.
fn failed(phase: &'static str, error: &libbpf_rs::Error) -> Error {
    Error::Load {
        phase,
        cause: cause(error, &warnings()),
    }
}

fn cause(error: &libbpf_rs::Error, warnings: &[String]) -> String {
    let cause = match errno(error) {
        Errno::UnknownErrno => "an unknown error".into(),
        errno => errno.desc().to_lowercase(),
    };
    // The first warning is the cause, those after it are its consequences.
    match warnings
        .iter()
        .map(|line| line.trim().trim_start_matches("libbpf: "))
        .next()
    {
        Some(warning) => format!("{cause} ({warning})"),
        None => cause,
    }
}

/// Why the policy could not be loaded, with what libbpf has said.
fn load_failed(kernel: &Kernel, error: &libbpf_rs::Error, said: &[String]) -> Error {
    // The verifier then only says which helper it may not let pass.
    if kernel.is_locked_down() {
        return not_permitted(kernel);
    }
    let failed = || Error::Load {
        phase: "load the policy",
        cause: cause(error, said),
    };
    match (errno(error), verdict(said)) {
        // A verifier without memory leaves a log, too, which says nothing of the program.
        (Errno::ENOMEM, _) => failed(),
        (_, Some(_)) if calls_forerunner(said) => Error::Load {
            phase: "load the policy",
            cause: "out of memory (while libbpf looked for what the kernel offers)".into(),
        },
        (_, Some((program, lines))) => Error::Verifier {
            release: kernel.release.clone(),
            program,
            lines,
        },
        (Errno::EPERM, None) => not_permitted(kernel),
        (_, None) => failed(),
    }
}

/// Whether the rejected program calls the forerunner of `bpf_probe_read_kernel()`. libbpf tries once
/// whether the kernel has that, puts the forerunner in if the trial fails, and takes each failure
/// for a no. Every kernel with sched_ext has it, so what was missing is the memory for the trial.
fn calls_forerunner(said: &[String]) -> bool {
    let forerunner = |line: &String| {
        ["call bpf_probe_read#", "call bpf_probe_read_str#"]
            .iter()
            .any(|call| line.contains(call))
    };
    said.iter().any(forerunner)
}

/// The rejected program and the end of the verifier's log, if it has spoken.
fn verdict(lines: &[String]) -> Option<(String, Vec<String>)> {
    let end = lines
        .iter()
        .position(|line| line.contains("-- END PROG LOAD LOG --"))?;
    let program = lines[end..].iter().find_map(|line| {
        let (name, rest) = line.split_once("prog '")?.1.split_once('\'')?;
        rest.contains("failed to load").then(|| name.to_owned())
    });
    let log = lines[..end]
        .iter()
        .filter(|line| !line.contains("-- BEGIN PROG LOAD LOG --"));
    let log: Vec<String> = log.map(|line| line.trim_end().to_owned()).collect();
    let shown = log[log.len().saturating_sub(SHOWN_LINES)..].to_vec();
    Some((program.unwrap_or_else(|| "a program".into()), shown))
}

fn attach_failed(kernel: &Kernel, error: &libbpf_rs::Error) -> Error {
    match errno(error) {
        Errno::EBUSY => kernel.already_running(),
        Errno::EPERM => not_permitted(kernel),
        Errno::EOPNOTSUPP if kernel.is_realtime() => Error::RealTimeKernel {
            release: kernel.release.clone(),
        },
        Errno::EINVAL => Error::Load {
            phase: "attach",
            cause: "the kernel refuses the policy as invalid; its log (dmesg) says why".into(),
        },
        _ => failed("attach", error),
    }
}

fn not_permitted(kernel: &Kernel) -> Error {
    let missing = if kernel.is_locked_down() {
        "the kernel is locked down (confidentiality); boot it without lockdown"
    } else {
        "the kernel refuses; in a container, CAP_BPF and CAP_PERFMON of the host are needed"
    };
    Error::NotPermitted {
        missing: missing.into(),
    }
}

#[cfg(feature = "write-object")]
impl<P: Policy> Opened<'_, P> {
    /// Its sections of variables by name (`.rodata`), as they will be loaded.
    pub fn variables(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        let maps = self.0.open_object().maps();
        maps.filter_map(|map| {
            // libbpf puts the object's name before that of a section that every object has.
            let name = map.name().to_string_lossy();
            let section = name[name.find('.')?..].to_owned();
            Some((section, map.initial_value()?.to_vec()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_end_of_the_verifiers_log_is_kept() {
        let log: String = (0..40).map(|i| format!("{i}: (b7) r0 = {i}\n")).collect();
        let text = format!(
            "libbpf: prog 'vtime_enqueue': -- BEGIN PROG LOAD LOG --\n{log}R1 invalid mem access\n\
             -- END PROG LOAD LOG --\n\
             libbpf: prog 'vtime_enqueue': failed to load: -EACCES\n\
             libbpf: failed to load object 'vtime_bpf'\n"
        );
        let (program, shown) = verdict(&lines(&text)).unwrap();
        assert_eq!(program, "vtime_enqueue");
        assert_eq!(shown.len(), SHOWN_LINES);
        assert_eq!(shown.last().unwrap(), "R1 invalid mem access");
    }

    #[test]
    fn without_a_log_the_verifier_is_not_blamed() {
        let text = "libbpf: map 'counters': failed to create: -ENOMEM\nlibbpf: failed to load\n";
        assert_eq!(verdict(&lines(text)), None);
        let error = libbpf_rs::Error::from_raw_os_error(Errno::ENOMEM as i32);
        let cause = cause(&error, &lines(text));
        assert_eq!(
            cause,
            "out of memory (map 'counters': failed to create: -ENOMEM)"
        );
    }

    #[test]
    fn a_verifier_without_memory_rejects_nothing() {
        let said = lines(
            "libbpf: prog 'llc_dispatch': BPF program load failed: -ENOMEM\n\
             libbpf: prog 'llc_dispatch': -- BEGIN PROG LOAD LOG --\n\
             processed 0 insns (limit 1000000) max_states_per_insn 0\n\
             -- END PROG LOAD LOG --\n\
             libbpf: prog 'llc_dispatch': failed to load: -ENOMEM\n",
        );
        let kernel = Kernel::running(std::path::Path::new("/nonexistent"));
        let failed = |errno: Errno| {
            let error = libbpf_rs::Error::from_raw_os_error(errno as i32);
            load_failed(&kernel, &error, &said)
        };
        assert_eq!(failed(Errno::EACCES).exit_code(), crate::error::EXIT_UNABLE);
        let error = failed(Errno::ENOMEM);
        assert_eq!(error.exit_code(), crate::error::EXIT_EJECTED);
        assert_eq!(
            error.to_string(),
            "cannot load the policy: out of memory (prog 'llc_dispatch': BPF program load failed: \
             -ENOMEM)"
        );
    }

    #[test]
    fn a_trial_without_memory_is_not_the_kernels_fault() {
        let kernel = Kernel::running(std::path::Path::new("/nonexistent"));
        let calling = |helper: &str| {
            let said = lines(&format!(
                "libbpf: prog 'fifo_exit': BPF program load failed: -EINVAL\n\
                 libbpf: prog 'fifo_exit': -- BEGIN PROG LOAD LOG --\n\
                 73: (85) call {helper}\n\
                 program of this type cannot use helper {helper}\n\
                 -- END PROG LOAD LOG --\n\
                 libbpf: prog 'fifo_exit': failed to load: -EINVAL\n"
            ));
            let error = libbpf_rs::Error::from_raw_os_error(Errno::EINVAL as i32);
            load_failed(&kernel, &error, &said)
        };
        for helper in ["bpf_probe_read_str#45", "bpf_probe_read#4"] {
            let error = calling(helper);
            assert_eq!(error.exit_code(), crate::error::EXIT_EJECTED);
            assert_eq!(
                error.to_string(),
                "cannot load the policy: out of memory (while libbpf looked for what the kernel \
                 offers)"
            );
        }
        let other = calling("bpf_probe_read_kernel_str#115");
        assert_eq!(other.exit_code(), crate::error::EXIT_UNABLE);
    }

    #[test]
    fn error_numbers_survive_their_context() {
        use libbpf_rs::ErrorExt as _;
        let error = libbpf_rs::Error::from_raw_os_error(Errno::EBUSY as i32).context("attach");
        assert_eq!(errno(&error), Errno::EBUSY);
        let kernel = Kernel::running(std::path::Path::new("/nonexistent"));
        assert_eq!(
            attach_failed(&kernel, &error).exit_code(),
            crate::error::EXIT_BUSY
        );
    }

    #[test]
    fn no_failure_shows_a_raw_error_number() {
        let kernel = Kernel::running(std::path::Path::new("/nonexistent"));
        for number in 1..133 {
            let error = libbpf_rs::Error::from_raw_os_error(number);
            for text in [
                load_failed(&kernel, &error, &[]),
                attach_failed(&kernel, &error),
            ] {
                assert!(!text.to_string().contains("os error"), "{text}");
            }
        }
    }
}
