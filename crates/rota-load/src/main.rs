// SPDX-License-Identifier: GPL-2.0-only
//! `rota-load`: runs a workload and reports how the scheduler treated it.
//!
//! Exit status: 0 the run is complete; 1 a task died or did not stop, or the system
//! failed; 2 bad usage or a bad workload; 3 this machine cannot run it.

use std::ffi::CString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rota_load::run::{self, Options, RunError};
use rota_load::spec::{SpecError, Workload, parse_duration};
use rota_load::workloads::{self, Named};

/// First argument of the program that an exec storm executes: this one, which then
/// exits at once.
const EXEC_CHILD: &str = "exec-child";

#[derive(Parser)]
#[command(
    version,
    about = "Run a workload and report how the scheduler treated it"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a named workload or a file
    Run {
        /// Name of a workload (see `list`), or path of a TOML file
        #[arg(value_name = "NAME|FILE")]
        workload: String,
        /// Length of the measured part, such as 500ms or 10s [default: the workload's]
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        length: Option<std::time::Duration>,
        /// Time before the measured part [default: the workload's]
        #[arg(long, value_name = "TIME", value_parser = warmup)]
        warmup: Option<std::time::Duration>,
        /// Seed of the random decisions [default: the workload's]
        #[arg(long, allow_negative_numbers = true)]
        seed: Option<u64>,
        /// Print the report as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the named workloads
    List,
    /// Print a named workload as TOML, to be changed and run as a file
    Show {
        /// Name of a workload
        name: String,
    },
    /// Check a file without running it
    Check {
        /// Path of a TOML file
        file: String,
    },
}

/// An error with the exit status that it stands for.
struct Failure {
    status: u8,
    error: anyhow::Error,
}

impl Failure {
    fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            status: 2,
            error: error.into(),
        }
    }
}

impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self::usage(error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let status = match error {
            RunError::Workload(_) => 2,
            RunError::Machine(_) => 3,
            RunError::Interrupted | RunError::System { .. } => 1,
        };
        Self {
            status,
            error: error.into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self {
            status: 1,
            error: anyhow::Error::new(error).context("cannot write the output"),
        }
    }
}

fn main() -> ExitCode {
    // Before anything else: a storm executes this by the thousand.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == EXEC_CHILD)
    {
        return ExitCode::SUCCESS;
    }
    match command(Cli::parse().command) {
        Ok(status) => ExitCode::from(status),
        Err(Failure { status, error }) => {
            // Nothing is left to do if the message cannot be written.
            let _ = writeln!(std::io::stderr(), "rota-load: {error:#}");
            ExitCode::from(status)
        }
    }
}

fn command(command: Command) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    match command {
        Command::List => {
            for named in workloads::ALL {
                let workload = Workload::parse(&named.file(), named.toml)?;
                writeln!(out, "{:<16}{}", named.name, workload.description)?;
            }
        }
        Command::Show { name } => {
            let named = workloads::find(&name).ok_or_else(|| unknown(&name))?;
            out.write_all(named.toml.as_bytes())?;
        }
        Command::Check { file } => {
            let workload = Workload::load(Path::new(&file))?;
            let groups = workload.groups.len();
            writeln!(
                out,
                "{file}: workload \"{}\" with {groups} groups is valid",
                workload.name
            )?;
        }
        Command::Run {
            workload,
            length,
            warmup,
            seed,
            json,
        } => {
            let workload = find(&workload)?;
            let mut options = Options::of(&workload, exec_child());
            options.duration = length.unwrap_or(options.duration);
            options.warmup = warmup.unwrap_or(options.warmup);
            options.seed = seed.unwrap_or(options.seed);
            let report = run::run(&workload, &options, |tasks| {
                // For whoever waits for it; the report goes without.
                let length = rota_load::spec::format_duration(options.duration);
                let name = &workload.name;
                let _ = writeln!(
                    std::io::stderr(),
                    "rota-load: {name} runs for {length}, tasks: {tasks}"
                );
            })?;
            if json {
                let text = serde_json::to_string(&report).expect("a report is plain data");
                writeln!(out, "{text}")?;
            } else {
                out.write_all(run::table(&report).as_bytes())?;
            }
            return Ok(u8::from(!report.errors.is_empty()));
        }
    }
    Ok(0)
}

/// A named workload, or a file if no workload has that name.
fn find(name: &str) -> Result<Workload, Failure> {
    if let Some(named) = workloads::find(name) {
        return Ok(Workload::parse(&named.file(), named.toml)?);
    }
    // What looks like a path is meant as one, and its own error says more.
    if name.contains(['/', '.']) || Path::new(name).exists() {
        return Ok(Workload::load(Path::new(name))?);
    }
    Err(unknown(name))
}

fn unknown(name: &str) -> Failure {
    let names: Vec<_> = workloads::ALL
        .iter()
        .map(|Named { name, .. }| *name)
        .collect();
    Failure::usage(anyhow::anyhow!(
        "no workload is called \"{name}\", and there is no such file; known are {}",
        names.join(", ")
    ))
}

fn exec_child() -> Vec<CString> {
    let text = |text: &str| CString::new(text).expect("the text has no zero byte");
    vec![text("/proc/self/exe"), text(EXEC_CHILD)]
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    let range = rota_load::spec::DURATION;
    parse_duration(text).and_then(|time| in_range(time, &range))
}

fn warmup(text: &str) -> Result<std::time::Duration, String> {
    let range = rota_load::spec::WARMUP;
    parse_duration(text).and_then(|time| in_range(time, &range))
}

fn in_range(
    time: std::time::Duration,
    range: &std::ops::RangeInclusive<std::time::Duration>,
) -> Result<std::time::Duration, String> {
    let format = rota_load::spec::format_duration;
    match range.contains(&time) {
        true => Ok(time),
        false => Err(format!(
            "must be in {}..={}",
            format(*range.start()),
            format(*range.end())
        )),
    }
}
