// SPDX-License-Identifier: GPL-2.0-only
//! Everything a Rota scheduler is besides its policy.
//!
//! A scheduler is a BPF object and a `main.rs` that implements [`Policy`] and
//! calls [`main`]. From there on this crate has the say: it reads the options
//! ([`options`], [`config`]), finds out what the machine is ([`topology`]) and
//! what the kernel can do ([`probe`]), loads and attaches the object
//! ([`loader`]), then sleeps until a signal, a client of the statistics
//! ([`stats`]) or the kernel wants something ([`run`]), and says how it ended
//! ([`report`]).
//!
//! The process has one thread. It detaches on every way out, a panic included:
//! the kernel's own scheduler takes over then.

pub mod balance;
pub mod config;
pub mod error;
pub mod loader;
pub mod options;
pub mod probe;
pub mod report;
pub mod skeleton;
pub mod stats;
pub mod topology;

mod backoff;
mod check;
mod logging;
mod monitor;
mod output;
mod panics;
mod run;
mod signals;
mod urgent;
#[cfg(feature = "write-object")]
mod written;

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub use error::Error;
pub use run::run;

use skeleton::Bpf;
use topology::Topology;

/// Who a scheduler is: what Cargo knows of its package.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// Package, binary and directory name: `scx_vtime`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it is for, in a line.
    pub description: &'static str,
}

/// The [`Package`] of the crate that says `package!()`.
#[macro_export]
macro_rules! package {
    () => {
        $crate::Package {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
        }
    };
}

/// What is special about a policy.
pub trait Policy: 'static {
    /// Its BPF object.
    type Bpf: Bpf;
    /// Its own options; [`options::NoOptions`] if it has none.
    ///
    /// An option under the heading [`options::LIVE`] must be taken over by
    /// [`Policy::apply_live`].
    type Options: clap::Args + Clone;

    /// Who it is: [`package!()`].
    const PACKAGE: Package;
    /// Its default slice in microseconds.
    const SLICE_US: u64 = 20_000;

    /// The machine as this policy sees it: CPUs grouped otherwise than by their LLC, for instance.
    /// `sysfs` is where it was read.
    ///
    /// # Errors
    /// The options make no sense on this machine.
    fn machine(
        options: &Self::Options,
        topology: Topology,
        sysfs: &Path,
    ) -> Result<Topology, Error> {
        let _ = (options, sysfs);
        Ok(topology)
    }

    /// What it does in user space while it is attached; nothing, for most. Made anew when live
    /// options change.
    fn companion(
        options: &Self::Options,
        topology: &Topology,
    ) -> Option<Box<dyn Companion<Self::Bpf>>> {
        let _ = (options, topology);
        None
    }

    /// Writes the policy's own variables before its object is loaded.
    ///
    /// # Errors
    /// The options make no sense on this machine.
    fn configure(
        options: &Self::Options,
        topology: &Topology,
        open: &mut <Self::Bpf as Bpf>::Open<'_>,
    ) -> anyhow::Result<()> {
        let _ = (options, topology, open);
        Ok(())
    }

    /// Writes the policy's own live options into the running object.
    ///
    /// # Errors
    /// The options make no sense on this machine; the old ones stay.
    fn apply_live(
        options: &Self::Options,
        topology: &Topology,
        loaded: &mut <Self::Bpf as Bpf>::Loaded<'_>,
    ) -> anyhow::Result<()> {
        let _ = (options, topology, loaded);
        Ok(())
    }
}

/// What a policy does in user space while it is attached.
pub trait Companion<B: Bpf> {
    /// Looks at the running object and may change it.
    ///
    /// Called once the policy is attached, when it signals (`signal_user()` in BPF), and when the
    /// time has passed that the last call returned. `None` is to be left alone until a signal: so
    /// should end whatever has nothing to do, because an idle machine is not to be woken.
    fn round(&mut self, loaded: &mut B::Loaded<'_>) -> Option<Duration>;

    /// What it, or the running object, knows beyond the counters.
    fn figures(&mut self, loaded: &mut B::Loaded<'_>) -> Figures;
}

/// Statistics of a policy beyond its counters.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// For people: lines below that of the counters.
    pub lines: Vec<String>,
    /// For programs: members of the event beside `counters`.
    pub members: serde_json::Map<String, serde_json::Value>,
}

/// The `main` of a scheduler: does what its command line says.
pub fn main<P: Policy>() -> ExitCode {
    signals::end_on_stop();
    let arguments: Vec<_> = std::env::args_os().collect();
    let status = panics::contain(P::PACKAGE.name, || match run::<P>(&arguments) {
        Ok(status) => status,
        Err(Error::Usage(help)) if help.exit_code() == 0 => {
            let _ = help.print();
            error::EXIT_OK
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error}", P::PACKAGE.name);
            error.exit_code()
        }
    });
    ExitCode::from(status)
}
