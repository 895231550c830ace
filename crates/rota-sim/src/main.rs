// SPDX-License-Identifier: GPL-2.0-only
//! `rota-sim`: runs a policy's object without a kernel and reports what came of it.
//!
//! Exit status: 0 the run is complete, or callbacks are in order; 1 the policy was ejected, callbacks
//! are not in order, or a file cannot be written; 2 bad usage, a bad object, machine or workload.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use rota_load::spec::{self, Workload, parse_duration};
use rota_load::workloads;
use rota_sim::bpf::Pieces;
use rota_sim::btf::{self, Btf};
use rota_sim::kernel_api::TaskId;
use rota_sim::machine::{FORMS, Machine};
use rota_sim::model::grammar::Order;
use rota_sim::model::{KernelVersion, Op};
use rota_sim::object::{self, Object, Written};
use rota_sim::report::Options;
use rota_sim::simulation::{Setup, Simulation, Unplug};
use rota_sim::sysfs;

/// The slice of an object of which nothing else is known: the kernel's (`SCX_SLICE_DFL`).
const SLICE_NS: u64 = 20_000_000;

/// Run a sched_ext policy without a kernel
///
/// All figures are those of a model, not of a machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<Run>),
    /// Write the files under /sys that a machine would have into a directory
    Sysfs {
        /// The machine: a name, or a file that describes it in JSON
        #[arg(value_parser = machine, long_help = FORMS)]
        topology: Machine,
        /// The directory
        dir: PathBuf,
    },
    /// Hold callbacks that a kernel made against the order in which the model makes them
    Grammar {
        /// A line for each: its name and the pid of its task, as in `running 57`
        file: PathBuf,
    },
}

/// Run a workload under a policy
#[derive(clap::Args)]
struct Run {
    /// An object file, or a directory that a scheduler wrote with --write-object
    #[arg(value_name = "OBJECT|DIR")]
    policy: PathBuf,
    /// The machine: a name, or a file that describes it in JSON
    #[arg(long, value_name = "T|FILE", default_value = "2x2x2", value_parser = machine)]
    topology: Machine,
    /// Name of a workload of rota-load, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "mixed", value_parser = workload)]
    workload: Workload,
    /// Length of the measured part, such as 500ms or 60s [default: the workload's]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    length: Option<Duration>,
    /// Which of many interleavings [default: the workload's seed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Whose behaviour the core has, 6.12 to 7.3; its BTF is that of the next older one at hand
    #[arg(long, value_name = "V", default_value = "7.3")]
    kernel: KernelVersion,
    /// The kernel's types: a BTF file, such as /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,
    /// Where callbacks of different CPUs may interleave: whole, kfuncs, or every N instructions
    #[arg(long, value_name = "AT", default_value = "kfuncs")]
    cut: Pieces,
    /// Take a CPU offline, such as 3 after 300ms: the policy ends, a scheduler would restart it
    #[arg(long, value_name = "TIME:CPU")]
    unplug: Option<Unplug>,
    /// Set a variable of the object: slice_ns=5000000, topology_cpus[3].llc=1
    #[arg(long, value_name = "NAME=N", value_parser = assignment)]
    set: Vec<(String, u64)>,
    /// Give an array that user space makes larger so many elements
    #[arg(long, value_name = "NAME=N", value_parser = assignment)]
    elements: Vec<(String, u64)>,
    /// Write the timeline for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the report as JSON too; - for stdout, and then nothing else
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Sysfs { topology, dir } => sysfs::write(&topology, &dir)
            .with_context(|| format!("writing {}", dir.display()))
            .map(|()| 0)
            .map_err(Failure::of_system),
        Command::Grammar { file } => grammar(&file),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(Failure { status, error }) => {
            // Nothing is left to do if the message cannot be written.
            let _ = writeln!(io::stderr(), "rota-sim: {error:#}");
            ExitCode::from(status)
        }
    }
}

/// An error with the exit status that it stands for.
struct Failure {
    status: u8,
    error: Error,
}

impl Failure {
    fn of_system(error: Error) -> Self {
        Self { status: 1, error }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { status: 2, error }
    }
}

fn run(args: &Run) -> Result<u8, Failure> {
    let (object, btf, options) = load(args)?;
    let mut workload = args.workload.clone();
    workload.duration = args.length.unwrap_or(workload.duration);
    let setup = Setup {
        kernel: args.kernel,
        pieces: args.cut,
        seed: args.seed.unwrap_or(workload.seed),
        unplug: args.unplug,
        keep_trace: args.trace.is_some(),
        ..Setup::new(args.topology.clone())
    };
    let simulation =
        Simulation::run(&object, &btf, &workload, &setup).map_err(|error| anyhow!(error))?;
    let report = simulation.report(&workload, &options);
    if let Some(path) = &args.trace {
        write_trace(&simulation, path).map_err(Failure::of_system)?;
    }
    let mut out = io::stdout().lock();
    let json = serde_json::to_string_pretty(&report).expect("a report is plain data");
    let told = match args.json.as_deref() {
        Some(path) if path == Path::new("-") => writeln!(out, "{json}").map_err(Error::new),
        Some(path) => fs::write(path, json + "\n")
            .with_context(|| format!("writing {}", path.display()))
            .and_then(|()| Ok(writeln!(out, "{report}")?)),
        None => writeln!(out, "{report}").map_err(Error::new),
    };
    told.map_err(Failure::of_system)?;
    Ok(u8::from(report.exit.is_some()))
}

/// Whether all callbacks in `file` come where they may; tasks may have been there before.
fn grammar(file: &Path) -> Result<u8, Failure> {
    let text = String::from_utf8(read(file)?).context("the file is no text")?;
    let mut orders: HashMap<i32, Order> = HashMap::new();
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        let call = line.split_once(' ').and_then(|(name, pid)| {
            let (name, pid) = (Op::named(name)?, pid.parse::<i32>().ok()?);
            Some((name, pid))
        });
        let place = format!("{}:{}", file.display(), number + 1);
        let (op, pid) =
            call.with_context(|| format!("{place}: `{line}` is no callback and its task"))?;
        let order = orders.entry(pid).or_insert_with(Order::met);
        if !order.take(op) {
            let error = anyhow!("{place}: {} may not come while {pid} is {order}", op.name());
            return Err(Failure::of_system(error));
        }
        count += 1;
    }
    let tasks = orders.len();
    writeln!(
        io::stdout(),
        "{count} callbacks of {tasks} tasks are in order"
    )
    .map_err(|error| Failure::of_system(error.into()))?;
    Ok(0)
}

/// The object as it is to start, the kernel's types, and what the report is told.
fn load(args: &Run) -> Result<(Object, Btf, Options)> {
    let btf = match &args.btf {
        Some(path) => Btf::parse(&read(path)?).with_context(|| path.display().to_string())?,
        None => known_types(args.kernel)?,
    };
    let (file, written) = object::files(&args.policy)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".bpf.o").unwrap_or(&name);
    let mut object = Object::load(name, &read(&file)?, &btf)?;
    let mut options = Options {
        policy: name.to_owned(),
        slice_ns: SLICE_NS,
    };
    if let Some(path) = written {
        let written: Written = serde_json::from_slice(&read(&path)?)
            .with_context(|| format!("{} is not what --write-object writes", path.display()))?;
        object.write(&written)?;
        check_machine(&object, &args.topology)?;
        options = Options {
            policy: format!("{} {}", written.scheduler, written.version),
            slice_ns: written.slice_ns,
        };
    }
    for (name, elements) in &args.elements {
        object.set_elements(name, u32::try_from(*elements).unwrap_or(u32::MAX))?;
    }
    for (name, value) in &args.set {
        object.set_number(name, *value)?;
    }
    Ok((object, btf, options))
}

/// What a scheduler wrote for one machine makes no sense on another.
fn check_machine(object: &Object, machine: &Machine) -> Result<()> {
    let cpus = object.get("nr_cpu_ids")?;
    let cpus = cpus
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    if cpus != u64::from(machine.nr_cpu_ids()) {
        bail!(
            "{} was written for a machine of {cpus} CPUs, and {} has {}: write it for that one, \
             with --sysfs-root and the files of `rota-sim sysfs`",
            object.name(),
            machine.name(),
            machine.nr_cpu_ids()
        );
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The types of the latest kernel at hand that is not newer than `kernel`.
fn known_types(kernel: KernelVersion) -> Result<Btf> {
    let known = btf::KERNELS.iter().rev();
    let mut known =
        known.filter(|(name, _)| name.parse().is_ok_and(|its: KernelVersion| its <= kernel));
    let (name, _) = known.next().context("no kernel is that old")?;
    Ok(btf::kernel(name)?)
}

fn write_trace(simulation: &Simulation, path: &Path) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(writing)?);
    let tasks = simulation.sim.tasks();
    let name = |task: TaskId| {
        let found = tasks.iter().find(|its| its.task == task);
        found.map_or_else(|| format!("{task:?}"), |its| its.comm.clone())
    };
    simulation
        .sim
        .with_trace(|trace| trace.to_perfetto(&mut out, &name))
        .and_then(|()| out.flush())
        .with_context(writing)
}

fn machine(given: &str) -> Result<Machine, String> {
    let path = Path::new(given);
    if !path.is_file() {
        return given.parse::<Machine>().map_err(|error| error.to_string());
    }
    let text = fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn workload(given: &str) -> Result<Workload, String> {
    let found = match workloads::find(given) {
        Some(named) => Workload::parse(&named.file(), named.toml),
        None if Path::new(given).exists() => Workload::load(Path::new(given)),
        None => {
            let names: Vec<&str> = workloads::ALL.iter().map(|named| named.name).collect();
            return Err(format!(
                "there is no such file; named ones are {}",
                names.join(", ")
            ));
        }
    };
    found.map_err(|error| error.to_string())
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    match spec::DURATION.contains(&time) {
        true => Ok(time),
        false => Err(format!(
            "must be in {}..={}",
            spec::format_duration(*spec::DURATION.start()),
            spec::format_duration(*spec::DURATION.end())
        )),
    }
}

fn assignment(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("no `=` in it")?;
    let number = match value.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    };
    let number = number.ok_or_else(|| format!("{value} is no number"))?;
    Ok((name.to_owned(), number))
}
