// SPDX-License-Identifier: GPL-2.0-only
//! `--check`: goes as far as a start would, short of attaching, and tells what
//! it found. On a kernel with sched_ext that includes the verifier.

use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Policy;
use crate::error::{EXIT_OK, Error};
use crate::options::{Origin, Settings};
use crate::output::Output;
use crate::probe::Kernel;
use crate::run::{machine, needs, open, ops_name};
use crate::topology::{Summary, Topology};

/// The event of `--check --json`.
#[derive(Serialize)]
struct CheckEvent<'a> {
    event: &'static str,
    scheduler: &'a str,
    version: &'a str,
    ops: &'a str,
    kernel: &'a str,
    status: u8,
    error: Option<String>,
    topology: Option<Summary>,
    warnings: &'a [String],
    config: Option<&'a Path>,
    options: Map<String, Value>,
}

/// Prints the report; the value is the exit code that a start would have, were
/// it not to run.
pub fn run<P: Policy>(settings: &Settings<P::Options>, output: &mut Output<'_>) -> u8 {
    let sysfs = &settings.common.sysfs_root;
    let kernel = Kernel::running(sysfs);
    let topology = machine::<P>(settings, sysfs);
    let known = topology.as_ref().ok().cloned();
    let verdict = topology.and_then(|topology| would_start::<P>(&kernel, settings, &topology));
    let status = verdict.as_ref().map_or_else(Error::exit_code, |()| EXIT_OK);

    if output.is_json() {
        let package = P::PACKAGE;
        let options = settings
            .effective()
            .into_iter()
            .map(|(name, value, origin)| (name, json!({ "value": value, "origin": origin })));
        output.event(&CheckEvent {
            event: "check",
            scheduler: package.name,
            version: package.version,
            ops: &ops_name::<P>(),
            kernel: &kernel.release,
            status,
            error: verdict.as_ref().err().map(Error::to_string),
            topology: known.as_ref().map(Topology::summary),
            warnings: known
                .as_ref()
                .map_or(&[], |topology| topology.warnings.as_slice()),
            config: settings.file.as_deref(),
            options: options.collect(),
        });
    } else {
        for line in report::<P>(&kernel, settings, known.as_ref(), status) {
            output.line(&line);
        }
    }
    if let Err(error) = verdict {
        let _ = writeln!(io::stderr(), "{}: {error}", P::PACKAGE.name);
    }
    status
}

fn would_start<P: Policy>(
    kernel: &Kernel,
    settings: &Settings<P::Options>,
    topology: &Topology,
) -> Result<(), Error> {
    let abilities = kernel.probe(&needs::<P>(settings))?;
    let mut storage = MaybeUninit::uninit();
    let opened = open::<P>(&mut storage, settings, topology, abilities)?;
    // Loaded, an object has no effect; it is gone when this returns.
    opened.load(kernel).map(drop)
}

fn report<P: Policy>(
    kernel: &Kernel,
    settings: &Settings<P::Options>,
    topology: Option<&Topology>,
    status: u8,
) -> Vec<String> {
    let package = P::PACKAGE;
    let config = match &settings.file {
        Some(file) => file.display().to_string(),
        None => format!("/etc/rota/{}.toml does not exist", package.name),
    };
    let machine = topology.map_or_else(|| "unknown".to_owned(), Topology::to_string);
    let result = match status {
        EXIT_OK => format!("would attach as {}", ops_name::<P>()),
        status => format!("would not start, exit code {status}"),
    };
    let mut lines = vec![
        format!("scheduler  {} {}", package.name, package.version),
        format!("kernel     Linux {}", kernel.release),
        format!("machine    {machine}"),
    ];
    let warnings = topology.map_or(&[][..], |topology| &topology.warnings);
    lines.extend(
        warnings
            .iter()
            .map(|warning| format!("           {warning}")),
    );
    lines.push(format!("config     {config}"));
    for (i, (name, value, origin)) in settings.effective().into_iter().enumerate() {
        let head = if i == 0 { "options" } else { "" };
        let value = value.unwrap_or_else(|| "-".into());
        let origin = match origin {
            Origin::CommandLine => "command line",
            Origin::File => "file",
            Origin::Default => "default",
        };
        lines.push(format!("{head:<11}{name:<18}{value:<12}{origin}"));
    }
    lines.push(format!("result     {result}"));
    lines
}
