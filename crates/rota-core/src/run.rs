// SPDX-License-Identifier: GPL-2.0-only
//! The life of a scheduler: attach, sleep until something happens, detach, and
//! attach again where the kernel asks for it.
//!
//! The process sleeps in one `poll` over the signals, the exit signal of the
//! policy and the clients of the statistics. Without `--stats` there is no
//! timer: an idle machine is not woken by its scheduler's process.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Command;
use scx_stats::Meta as _;

use crate::backoff::{Backoff, WINDOW};
use crate::error::{EXIT_GAVE_UP, EXIT_OK, Error};
use crate::loader::{Attached, Opened};
use crate::options::{self, Settings};
use crate::output::{Counts, Event, Output};
use crate::probe::{Abilities, Kernel, Needs};
use crate::report::{self, Ending};
use crate::signals::{self, Request, Signals};
use crate::skeleton::{Bpf, ExitRecord, Fault, Setup};
use crate::stats::{self, Server};
use crate::topology::Topology;
use crate::urgent::Favoured;
use crate::{Companion, Figures, Policy, check, loader, logging, monitor};

/// Does what the command line says; the value is the exit code.
///
/// # Errors
/// The scheduler did not start, or could not be started again.
pub fn run<P: Policy>(arguments: &[OsString]) -> Result<u8, Error> {
    let command = options::command::<P::Options>(&P::PACKAGE, P::SLICE_US);
    let settings = Settings::<P::Options>::read(&command, &P::PACKAGE, arguments)?;
    logging::start(settings.common.verbose);
    loader::capture();
    #[cfg(feature = "write-object")]
    if let Some(dir) = &settings.common.write_object {
        return crate::written::run::<P>(&settings, dir).map(|()| EXIT_OK);
    }
    let mut output = Output::new(settings.common.json, Box::new(io::stdout()));

    let result = if settings.common.help_stats {
        help_stats::<P>(&mut output);
        Ok(EXIT_OK)
    } else if let Some(interval) = settings.common.monitor {
        let socket = Path::new(stats::SOCKET);
        monitor::run(socket, P::Bpf::COUNTERS, interval, &mut output).map(|()| EXIT_OK)
    } else if settings.common.check {
        Ok(check::run::<P>(&settings, &mut output))
    } else {
        Scheduler::<P>::start(command, arguments, settings, &mut output).and_then(Scheduler::live)
    };
    if let Err(error) = &result {
        output.event(&Event::Error {
            status: error.exit_code(),
            message: error.to_string(),
        });
    }
    result
}

fn help_stats<P: Policy>(output: &mut Output<'_>) {
    let counters = P::Bpf::COUNTERS;
    if output.is_json() {
        let list = counters
            .iter()
            .map(|c| serde_json::json!({ "name": c.name, "description": c.description }));
        let list: Vec<_> = list.collect();
        output.event(&serde_json::json!({ "event": "counters", "counters": list }));
        return;
    }
    let width = counters
        .iter()
        .map(|counter| counter.name.len())
        .max()
        .unwrap_or(0);
    for counter in counters {
        output.line(&format!("{:width$}  {}", counter.name, counter.description));
    }
}

/// The name under which the kernel shows the scheduler.
pub(crate) fn ops_name<P: Policy>() -> String {
    // The kernel takes letters, digits, '_' and '.', and nothing else.
    let version = P::PACKAGE
        .version
        .replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_");
    format!("{}_{version}", P::Bpf::POLICY)
}

/// What the policy needs of the kernel with these options.
pub(crate) fn needs<P: Policy>(settings: &Settings<P::Options>) -> Needs<'static> {
    Needs {
        policy: P::PACKAGE.name,
        object: P::Bpf::OBJECT,
        partial: settings.common.partial,
    }
}

/// Opens the policy's object and writes the options into it.
pub(crate) fn open<'o, P: Policy>(
    storage: &'o mut MaybeUninit<libbpf_rs::OpenObject>,
    settings: &Settings<P::Options>,
    topology: &Topology,
    abilities: Abilities,
) -> Result<Opened<'o, P>, Error> {
    let common = &settings.common;
    let setup = Setup {
        topology,
        slice_ns: common.slice_us * 1000,
        ops_flags: abilities.partial_flag,
        timeout_ms: common.timeout_ms,
        exit_dump_len: common.exit_dump_len,
        ops_name: &ops_name::<P>(),
        fault: common.fault.as_ref().unwrap_or(&Fault::None),
    };
    Opened::new(storage, &setup, &settings.policy)
}

/// The machine as the policy sees it.
pub(crate) fn machine<P: Policy>(
    settings: &Settings<P::Options>,
    sysfs: &Path,
) -> Result<Topology, Error> {
    let topology = Topology::read(sysfs)?;
    P::machine(&settings.policy, topology, sysfs)
}

/// The companion of a policy, if it has one, and when it wants to be called.
struct Accompanied<P: Policy> {
    companion: Option<Box<dyn Companion<P::Bpf>>>,
    due: Option<Instant>,
}

impl<P: Policy> Accompanied<P> {
    fn start(
        settings: &Settings<P::Options>,
        topology: &Topology,
        attached: &mut Attached<'_, P>,
    ) -> Self {
        let mut accompanied = Self {
            companion: P::companion(&settings.policy, topology),
            due: None,
        };
        accompanied.call(attached);
        accompanied
    }

    /// Calls it if it is time, or if the policy has signalled.
    fn wake(&mut self, attached: &mut Attached<'_, P>) {
        let signalled = attached.take_signals();
        if signalled || self.due.is_some_and(|due| due <= Instant::now()) {
            self.call(attached);
        }
    }

    fn call(&mut self, attached: &mut Attached<'_, P>) {
        if let Some(companion) = &mut self.companion {
            let after = companion.round(attached.loaded());
            self.due = after.map(|after| Instant::now() + after);
        }
    }

    fn figures(&mut self, attached: &mut Attached<'_, P>) -> Figures {
        let companion = self.companion.as_mut();
        companion.map_or_else(Figures::default, |its| its.figures(attached.loaded()))
    }
}

/// What comes after a scheduler was detached.
enum Next {
    /// The end of the process.
    End(u8),
    /// Another attempt.
    Again { delay: Duration, reason: String },
    /// No other attempt after this many.
    GaveUp { restarts: usize },
}

fn again(backoff: &mut Backoff, reason: &str) -> Next {
    match backoff.next(Instant::now()) {
        Some(delay) => Next::Again {
            delay,
            reason: reason.to_owned(),
        },
        None => Next::GaveUp {
            restarts: backoff.count(),
        },
    }
}

struct Scheduler<'a, 'w, P: Policy> {
    command: Command,
    arguments: &'a [OsString],
    settings: Settings<P::Options>,
    sysfs: PathBuf,
    kernel: Kernel,
    abilities: Abilities,
    signals: Signals,
    /// Tried once: a restart does not make a path usable.
    server: OnceCell<Option<Server>>,
    output: &'a mut Output<'w>,
    hotplug: Backoff,
    errors: Backoff,
    restarts: usize,
}

impl<'a, 'w, P: Policy> Scheduler<'a, 'w, P> {
    /// Everything before the first load; nothing in the kernel changes.
    fn start(
        command: Command,
        arguments: &'a [OsString],
        settings: Settings<P::Options>,
        output: &'a mut Output<'w>,
    ) -> Result<Self, Error> {
        let sysfs = settings.common.sysfs_root.clone();
        let kernel = Kernel::running(&sysfs);
        let abilities = {
            let _favoured = Favoured::raise();
            kernel.probe(&needs::<P>(&settings))?
        };
        let limit = settings.common.restart_on_error as usize;
        Ok(Scheduler {
            command,
            arguments,
            settings,
            sysfs,
            kernel,
            abilities,
            signals: Signals::hold()?,
            server: OnceCell::new(),
            output,
            hotplug: Backoff::for_hotplug(),
            errors: Backoff::for_errors(limit),
            restarts: 0,
        })
    }

    fn live(mut self) -> Result<u8, Error> {
        loop {
            let (delay, reason) = match self.session()? {
                Next::End(status) => return Ok(status),
                Next::Again { delay, reason } => (delay, reason),
                Next::GaveUp { restarts } => {
                    return Err(Error::GaveUp {
                        restarts,
                        minutes: WINDOW.as_secs() / 60,
                    });
                }
            };
            self.restarts += 1;
            let attempt = self.restarts;
            self.output.event(&Event::Restart {
                reason: &reason,
                attempt,
            });
            match delay.as_secs() {
                0 => log::info!("attaching again: {reason}"),
                seconds => log::info!("attaching again in {seconds} s: {reason}"),
            }
            if self.rest(delay)? == Some(Request::Stop) {
                return Ok(EXIT_OK);
            }
            self.kernel.probe_idle()?;
        }
    }

    /// Waits before a restart, unless somebody asks to stop.
    fn rest(&mut self, delay: Duration) -> Result<Option<Request>, Error> {
        let end = Instant::now() + delay;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.signals.wait(left)? {
                Some(Request::Stop) => return Ok(Some(Request::Stop)),
                Some(Request::Reload) => self.reload_while_detached(),
                None if left.is_zero() => return Ok(None),
                None => {}
            }
        }
    }

    /// From open to detached.
    fn session(&mut self) -> Result<Next, Error> {
        // Fresh each time: CPUs coming and going is why there are restarts.
        let topology = machine::<P>(&self.settings, &self.sysfs)?;
        for warning in &topology.warnings {
            log::warn!("{warning}");
        }
        let mut storage = MaybeUninit::uninit();
        let loaded = self.signals.unattached(|| {
            let opened = open::<P>(&mut storage, &self.settings, &topology, self.abilities)?;
            opened.load(&self.kernel)
        })?;
        let mut attached = loaded.attach(&self.kernel)?;
        // One that was on its way out while the machine was read was counted before, and so does
        // not end the scheduler.
        if attached.record().is_none() && !topology.is_current(&self.sysfs) {
            drop(attached.detach());
            return Ok(again(&mut self.hotplug, report::CPU_CAME_OR_WENT));
        }
        if attached.record().is_none() {
            self.announce(&topology);
            if self.settings.common.fault == Some(Fault::Panic) {
                panic!("fault injected");
            }
            self.watch(&mut attached, &topology)?;
        }
        let uptime = attached.uptime();
        let record = attached.detach();
        Ok(self.conclude(&record, &attached, uptime))
    }

    fn announce(&mut self, topology: &Topology) {
        self.server.get_or_init(listen::<P>);
        let ops = ops_name::<P>();
        self.output.event(&Event::Started {
            scheduler: P::PACKAGE.name,
            ops: &ops,
            kernel: &self.kernel.release,
            topology: topology.summary(),
        });
        let (package, release) = (P::PACKAGE, &self.kernel.release);
        let (name, version) = (package.name, package.version);
        log::info!("{name} {version} runs on Linux {release}, {topology}; Ctrl-C to stop");
    }

    /// Sleeps until the scheduler has ended or somebody asks to stop it, and
    /// does what comes up meanwhile.
    fn watch(&mut self, attached: &mut Attached<'_, P>, topology: &Topology) -> Result<(), Error> {
        let in_effect = self.settings.clone();
        let mut due = self.next_stats();
        let mut companion = Accompanied::<P>::start(&self.settings, topology, attached);
        while attached.record().is_none() {
            let next = due.into_iter().chain(companion.due).min();
            let timeout = next.map(|due| due.saturating_duration_since(Instant::now()));
            let mut fds = vec![self.signals.as_fd(), attached.signal_fd()];
            fds.extend(
                self.server
                    .get()
                    .into_iter()
                    .flatten()
                    .map(|server| server.as_fd()),
            );
            signals::wait(&fds, timeout)?;

            match self.signals.take() {
                Some(Request::Stop) => return Ok(()),
                Some(Request::Reload) => {
                    if self.reload(attached, topology, &in_effect) {
                        companion = Accompanied::start(&self.settings, topology, attached);
                    }
                    due = self.next_stats();
                }
                None => {}
            }
            companion.wake(attached);
            if let Some(Some(server)) = self.server.get_mut() {
                server.serve(&mut || metrics::<P>(attached));
            }
            if let (Some(at), Some(interval)) = (due, self.settings.common.stats)
                && Instant::now() >= at
            {
                let figures = companion.figures(attached);
                self.print_counters(attached, attached.uptime(), &figures);
                // A suspended machine owes nobody the lines it has missed.
                due = Some(at + interval)
                    .filter(|due| *due > Instant::now())
                    .or(self.next_stats());
            }
        }
        Ok(())
    }

    fn next_stats(&self) -> Option<Instant> {
        let interval = self.settings.common.stats?;
        Some(Instant::now() + interval)
    }

    fn print_counters(&mut self, attached: &Attached<'_, P>, uptime: Duration, figures: &Figures) {
        let values = attached.counters();
        let counts = Counts {
            counters: P::Bpf::COUNTERS,
            values: &values,
        };
        self.output.counters(uptime, &counts, figures);
    }

    /// Takes over the live options of a changed configuration; whether it could.
    fn reload(
        &mut self,
        attached: &mut Attached<'_, P>,
        topology: &Topology,
        in_effect: &Settings<P::Options>,
    ) -> bool {
        let Some(new) = self.read_again() else {
            return false;
        };
        if let Err(error) = P::apply_live(&new.policy, topology, attached.loaded()) {
            log::error!("the old options stay: {error:#}");
            return false;
        }
        P::Bpf::set_slice_ns(attached.loaded(), new.common.slice_us * 1000);
        let (live, _) = self.settings.changes(&new);
        let (_, restart) = in_effect.changes(&new);
        if !restart.is_empty() {
            log::warn!("changed, but need a restart: {}", restart.join(", "));
        }
        match live.as_slice() {
            [] => log::info!("no live option has changed"),
            live => log::info!("taken over: {}", live.join(", ")),
        }
        self.settings = new;
        true
    }

    fn reload_while_detached(&mut self) {
        if let Some(new) = self.read_again() {
            self.settings = new;
        }
    }

    fn read_again(&self) -> Option<Settings<P::Options>> {
        match Settings::read(&self.command, &P::PACKAGE, self.arguments) {
            Ok(new) => Some(new),
            Err(error) => {
                log::error!("the old options stay: {error}");
                None
            }
        }
    }

    /// Reports how the scheduler ended and decides what comes next.
    fn conclude(
        &mut self,
        record: &ExitRecord,
        attached: &Attached<'_, P>,
        uptime: Duration,
    ) -> Next {
        if self.output.is_json() || self.settings.common.stats.is_some() {
            self.print_counters(attached, uptime, &Figures::default());
        }
        let dump = attached.dump();
        let dump_file = self.save_dump(&dump);
        let name = P::PACKAGE.name;
        let mut stderr = io::stderr();
        // A stderr that is gone must not keep the process from ending well.
        let _ = writeln!(stderr, "{name}: {}", report::line(record, &dump));
        if let Some(file) = &dump_file {
            let _ = writeln!(stderr, "{name}: debug dump saved in {}", file.display());
        }

        let next = self.next(record);
        let status = match &next {
            Next::End(status) => Some(*status),
            Next::GaveUp { .. } => Some(EXIT_GAVE_UP),
            Next::Again { .. } => None,
        };
        if let Some(status) = status {
            self.output
                .event(&Event::exit(record, dump_file.as_deref(), status));
        }
        next
    }

    fn next(&mut self, record: &ExitRecord) -> Next {
        let ending = Ending::of(record);
        match ending {
            Ending::Restart => again(&mut self.hotplug, report::restart_reason(record)),
            Ending::Ejected if self.settings.common.restart_on_error > 0 => {
                again(&mut self.errors, &record.reason)
            }
            Ending::Stopped | Ending::Ejected => Next::End(ending.status()),
        }
    }

    /// Saves the debug dump where the options say, if there is one.
    fn save_dump(&self, dump: &str) -> Option<PathBuf> {
        let file = self
            .settings
            .common
            .dump_file
            .as_ref()
            .filter(|_| !dump.is_empty())?;
        match std::fs::write(file, dump) {
            Ok(()) => Some(file.clone()),
            Err(error) => {
                log::error!("cannot save the debug dump in {}: {error}", file.display());
                None
            }
        }
    }
}

/// The server of the statistics; a scheduler goes on without.
fn listen<P: Policy>() -> Option<Server> {
    let path = Path::new(stats::SOCKET);
    match Server::listen(path, <P::Bpf as Bpf>::Metrics::meta()) {
        Ok(server) => Some(server),
        Err(error) => {
            log::warn!(
                "no statistics for --monitor: cannot listen at {}: {error}",
                path.display()
            );
            None
        }
    }
}

fn metrics<P: Policy>(attached: &Attached<'_, P>) -> serde_json::Value {
    let metrics = <P::Bpf as Bpf>::Metrics::from(attached.counters());
    serde_json::to_value(metrics).expect("counters are JSON")
}
