// SPDX-License-Identifier: GPL-2.0-only
//! The options that every scheduler has, and how they come together from the
//! command line, the configuration file and the defaults, in that order of
//! precedence.
//!
//! An option is declared once, as a field with its range, default and unit.
//! Its heading says the rest: under [`LIVE`] a running scheduler takes a changed
//! value over on SIGHUP; under [`COMMAND`] it makes no sense in a file;
//! everything else is for both and needs a restart to change.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Arg;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::Package;
use crate::config::{self, ConfigError, Setting};
use crate::error::Error;
use crate::skeleton::{FAULT_NAME_MAX, Fault};

/// Heading of the options that take effect on SIGHUP, without detaching.
pub const LIVE: &str = "Live options (SIGHUP takes them over from the configuration file)";
/// Heading of the options that take effect when the scheduler attaches.
pub const RESTART: &str = "Options that need a restart";
/// Heading of the options that a configuration file cannot hold.
pub const COMMAND: &str = "For the command line only";

const AFTER_HELP: &str = "\
Exit codes: 0 stopped on request; 1 ejected by the kernel or the policy; 2 bad usage or \
configuration; 3 this machine cannot run it; 4 another scheduler is running; 5 gave up after \
repeated ejections.

A configuration file holds `option = value` lines in TOML with the names above without their \
dashes. The command line beats the file, the file beats the default.";

/// The options that every scheduler has.
#[derive(Args, Clone, Debug)]
pub struct CommonOptions {
    /// Longest time a task runs before others get their turn, in microseconds
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 20_000)]
    #[arg(value_parser = within::<u64>(100..=1_000_000))]
    pub slice_us: u64,

    /// Print the counters every so many seconds
    #[arg(long, value_name = "SECS", help_heading = LIVE, value_parser = seconds)]
    pub stats: Option<Duration>,

    /// Save the kernel's debug dump of an ejection to this file
    #[arg(long, value_name = "FILE", help_heading = LIVE)]
    pub dump_file: Option<PathBuf>,

    /// Schedule only tasks with the policy SCHED_EXT
    #[arg(long, value_name = "BOOL", help_heading = RESTART, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false, hide_possible_values = true)]
    pub partial: bool,

    /// Room for the kernel's debug dump, in bytes
    #[arg(long, value_name = "BYTES", help_heading = RESTART, default_value_t = 32_768)]
    #[arg(value_parser = within::<u32>(1_024..=4_194_304))]
    pub exit_dump_len: u32,

    /// Longest time a task may wait before the kernel ejects the scheduler, in milliseconds
    #[arg(long, value_name = "N", help_heading = RESTART, default_value_t = 30_000)]
    #[arg(value_parser = within::<u32>(1_000..=30_000))]
    pub timeout_ms: u32,

    /// Attach again after an ejection, at most this often in 5 minutes
    #[arg(long, value_name = "N", help_heading = RESTART, default_value_t = 0)]
    #[arg(value_parser = within::<u32>(0..=100))]
    pub restart_on_error: u32,

    /// Write stdout as JSON, an object with the key "event" per line
    #[arg(long, value_name = "BOOL", help_heading = RESTART, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false, hide_possible_values = true)]
    pub json: bool,

    /// Read options from this file instead of /etc/rota/SCHEDULER.toml
    #[arg(long, value_name = "FILE", help_heading = COMMAND)]
    pub config: Option<PathBuf>,

    /// Say whether the scheduler would start, and how; attach nothing
    #[arg(long, help_heading = COMMAND, conflicts_with_all = ["monitor", "help_stats"])]
    #[cfg_attr(feature = "write-object", arg(group = "dry"))]
    pub check: bool,

    /// Print the counters of a running scheduler every so many seconds; attach nothing
    #[arg(long, value_name = "SECS", help_heading = COMMAND, value_parser = seconds)]
    #[arg(conflicts_with = "help_stats")]
    pub monitor: Option<Duration>,

    /// Describe the counters
    #[arg(long, help_heading = COMMAND)]
    pub help_stats: bool,

    /// Log more; twice for everything libbpf says
    #[arg(short, long, help_heading = COMMAND, action = ArgAction::Count)]
    pub verbose: u8,

    /// Misbehave on purpose: stall, stall:COMM, starve:COMM, error:OP, sleepy, unfair, stray or panic
    #[arg(long, value_name = "SPEC", hide = true, value_parser = fault)]
    pub fault: Option<Fault>,

    /// Read the machine below this directory instead of /sys
    #[arg(long, value_name = "DIR", hide = true, default_value = "/sys")]
    #[cfg_attr(not(feature = "write-object"), arg(requires = "check"))]
    #[cfg_attr(feature = "write-object", arg(requires = "dry"))]
    pub sysfs_root: PathBuf,

    /// Write the BPF object, and what it is told of the machine, into DIR; attach nothing
    #[cfg(feature = "write-object")]
    #[arg(long, value_name = "DIR", hide = true)]
    #[arg(group = "dry", conflicts_with_all = ["monitor", "help_stats"])]
    pub write_object: Option<PathBuf>,
}

/// For a policy without options of its own.
#[derive(Args, Clone, Debug)]
pub struct NoOptions {}

/// A parser of whole numbers in `range`, for options of policies too.
///
/// Every refusal names the range, however far out or garbled the text is.
pub fn within<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let refusal = || format!("{text} is not in {}..={}", range.start(), range.end());
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(refusal)
    }
}

/// Seconds that a person would give, as a duration.
///
/// For options of policies too: a file takes any number for a duration.
pub fn seconds(text: &str) -> Result<Duration, String> {
    const RANGE: RangeInclusive<f64> = 0.1..=86_400.0;
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number of seconds"))?;
    if !RANGE.contains(&seconds) {
        return Err(format!(
            "{text} is not in {}..={}",
            RANGE.start(),
            RANGE.end()
        ));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// What `--fault` takes.
const FAULTS: &str =
    "stall, stall:COMM, starve:COMM, error:OP, requeue:COMM, sleepy, unfair, stray, panic";

/// A deliberate fault, one of [`FAULTS`].
fn fault(text: &str) -> Result<Fault, String> {
    let (kind, name) = text.split_once(':').unwrap_or((text, ""));
    if name.len() > FAULT_NAME_MAX {
        return Err(format!("'{name}' is longer than {FAULT_NAME_MAX} bytes"));
    }
    match (kind, name) {
        ("stall", name) => Ok(Fault::Stall(name.to_owned())),
        ("error", name) if !name.is_empty() => Ok(Fault::Error(name.to_owned())),
        ("starve", name) if !name.is_empty() => Ok(Fault::Starve(name.to_owned())),
        ("requeue", name) if !name.is_empty() => Ok(Fault::Requeue(name.to_owned())),
        ("sleepy", "") => Ok(Fault::Sleepy),
        ("unfair", "") => Ok(Fault::Unfair),
        ("stray", "") => Ok(Fault::Stray),
        ("panic", "") => Ok(Fault::Panic),
        _ => Err(format!("is none of {FAULTS}")),
    }
}

/// `--config` or the default path, and whether the file has to exist.
fn config_path(package: &Package, cli: &ArgMatches) -> (PathBuf, bool) {
    match cli.get_one::<PathBuf>("config") {
        Some(path) => (path.clone(), true),
        None => (
            PathBuf::from(format!("/etc/rota/{}.toml", package.name)),
            false,
        ),
    }
}

/// The options that a file may set.
pub fn in_files(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|option| {
        option.get_long().is_some()
            && option.get_help_heading() != Some(COMMAND)
            && !option.is_hide_set()
            && !matches!(option.get_action(), ArgAction::Help | ArgAction::Version)
    })
}

/// The command line of a scheduler: the common options and the policy's own.
pub fn command<O: Args>(package: &Package, slice_us: u64) -> Command {
    let command = Command::new(package.name)
        .version(package.version)
        .after_help(AFTER_HELP)
        .args_override_self(true)
        .allow_negative_numbers(true)
        .next_help_heading(RESTART);
    O::augment_args(CommonOptions::augment_args(command))
        // Last, because the comments on the structs of options would be taken.
        .about(package.description)
        .mut_args(|option| match option.get_id().as_str() {
            "slice_us" => option.default_value(slice_us.to_string()),
            _ => option,
        })
}

/// Where the value of an option comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The command line.
    CommandLine,
    /// The configuration file.
    File,
    /// Nobody set it.
    Default,
}

/// All options of a scheduler with the policy's own, `O`.
#[derive(Clone, Debug)]
pub struct Settings<O> {
    /// The options that every scheduler has.
    pub common: CommonOptions,
    /// The policy's own.
    pub policy: O,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    command: Command,
    matches: ArgMatches,
    from_file: Vec<String>,
}

impl<O: Args> Settings<O> {
    /// Brings the arguments, the first of which is the program, together with
    /// the configuration file they name.
    pub fn read(command: &Command, package: &Package, argv: &[OsString]) -> Result<Self, Error> {
        let cli = command.clone().try_get_matches_from(argv)?;
        let (path, required) = config_path(package, &cli);
        let text = config::read(&path)?;
        if text.is_none() && required {
            let message = "no such file".into();
            return Err(ConfigError {
                path,
                position: None,
                message,
            }
            .into());
        }
        let mut settings = match &text {
            Some(text) => config::parse(text, &path, command)?,
            None => Vec::new(),
        };
        let on_cli = |s: &Setting| cli.value_source(&s.id) == Some(ValueSource::CommandLine);
        settings.retain(|setting| !on_cli(setting));

        let mut arguments: Vec<OsString> = argv.iter().take(1).cloned().collect();
        arguments.extend(
            settings
                .iter()
                .flat_map(|s| &s.arguments)
                .map(OsString::from),
        );
        arguments.extend(argv.iter().skip(1).cloned());
        let matches = command.clone().try_get_matches_from(arguments)?;
        Ok(Settings {
            common: CommonOptions::from_arg_matches(&matches)?,
            policy: O::from_arg_matches(&matches)?,
            file: text.map(|_| path),
            command: command.clone(),
            matches,
            from_file: settings.into_iter().map(|setting| setting.id).collect(),
        })
    }

    /// Name, value and origin of each option that a file may set.
    pub fn effective(&self) -> Vec<(String, Option<String>, Origin)> {
        let options = in_files(&self.command);
        let value = |option: &Arg| {
            let id = option.get_id().as_str();
            let origin = match self.matches.value_source(id) {
                Some(ValueSource::CommandLine) if self.from_file.iter().any(|f| f == id) => {
                    Origin::File
                }
                Some(ValueSource::CommandLine) => Origin::CommandLine,
                _ => Origin::Default,
            };
            (
                option.get_long().unwrap_or_default().to_owned(),
                self.raw(id),
                origin,
            )
        };
        options.map(value).collect()
    }

    /// The names of the options whose values differ, the live ones first.
    pub fn changes(&self, other: &Self) -> (Vec<String>, Vec<String>) {
        let changed = |option: &&Arg| {
            let id = option.get_id().as_str();
            self.raw(id) != other.raw(id)
        };
        let (live, restart): (Vec<&Arg>, Vec<&Arg>) = in_files(&self.command)
            .filter(changed)
            .partition(|option| option.get_help_heading() == Some(LIVE));
        let names = |options: Vec<&Arg>| {
            options
                .into_iter()
                .filter_map(Arg::get_long)
                .map(str::to_owned)
                .collect()
        };
        (names(live), names(restart))
    }

    /// The value of an option as text; `None` if it has none.
    fn raw(&self, id: &str) -> Option<String> {
        let values = self.matches.get_raw(id)?;
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        Some(values.join(","))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;

    const PACKAGE: Package = Package {
        name: "scx_test",
        version: "0.1.0",
        description: "A scheduler for tests",
    };

    /// Options of a policy, for tests.
    #[derive(Args, Clone, Debug)]
    struct TestOptions {
        /// CPUs
        #[arg(long, help_heading = LIVE)]
        cpus: Vec<String>,
        /// Something that needs another option
        #[arg(long, requires = "cpus", default_value_t = 7)]
        depth: u32,
    }

    pub(crate) fn test_command() -> Command {
        command::<TestOptions>(&PACKAGE, 5000)
    }

    fn read(args: &[&str]) -> Result<Settings<TestOptions>, Error> {
        let argv: Vec<OsString> = ["scx_test"]
            .iter()
            .chain(args)
            .map(OsString::from)
            .collect();
        Settings::read(&test_command(), &PACKAGE, &argv)
    }

    fn config(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap().to_owned();
        (dir, path)
    }

    #[test]
    fn the_declaration_is_sound() {
        test_command().debug_assert();
    }

    #[test]
    fn a_policy_sets_the_default_of_the_slice() {
        assert_eq!(read(&[]).unwrap().common.slice_us, 5000);
    }

    #[test]
    fn command_line_beats_file_beats_default() {
        let (_dir, path) = config("slice-us = 6000\ntimeout-ms = 2000\npartial = true\n");
        let settings = read(&["--config", &path, "--slice-us", "7000"]).unwrap();
        assert_eq!(settings.common.slice_us, 7000);
        assert_eq!(settings.common.timeout_ms, 2000);
        assert!(settings.common.partial);
        assert_eq!(settings.common.exit_dump_len, 32_768);
        assert!(
            !read(&["--config", &path, "--partial=false"])
                .unwrap()
                .common
                .partial
        );

        let effective = settings.effective();
        let origin = |name: &str| effective.iter().find(|(n, ..)| n == name).unwrap().2;
        assert_eq!(origin("slice-us"), Origin::CommandLine);
        assert_eq!(origin("timeout-ms"), Origin::File);
        assert_eq!(origin("exit-dump-len"), Origin::Default);
    }

    #[test]
    fn lists_of_the_command_line_replace_those_of_the_file() {
        let (_dir, path) = config("cpus = ['1', '2']\n");
        assert_eq!(read(&["--config", &path]).unwrap().policy.cpus, ["1", "2"]);
        assert_eq!(
            read(&["--config", &path, "--cpus", "3"])
                .unwrap()
                .policy
                .cpus,
            ["3"]
        );
    }

    #[test]
    fn the_last_of_two_arguments_counts() {
        let settings = read(&["--slice-us", "100", "--slice-us", "200", "--partial"]).unwrap();
        assert_eq!(settings.common.slice_us, 200);
        assert!(settings.common.partial);
    }

    #[test]
    fn bad_usage_is_refused() {
        let bad: [&[&str]; 11] = [
            &["--slice-us", "99"],
            &["--slice-us", "-1"],
            &["--slice-us", "99999999999999999999"],
            &["--timeout-ms", "0"],
            &["--stats", "0"],
            &["--stats", "nan"],
            &["--check", "--monitor", "1"],
            &["--fault", "explode"],
            &["--fault", "error"],
            &["--bogus"],
            &["--sysfs-root", "/tmp"],
        ];
        for args in bad {
            let error = read(args).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{args:?}");
        }
        let error = read(&["--config", "/nonexistent.toml"]).unwrap_err();
        assert_eq!(error.to_string(), "/nonexistent.toml: no such file");
    }

    #[test]
    fn asking_for_help_is_no_error() {
        assert_eq!(read(&["--help"]).unwrap_err().exit_code(), 0);
        assert_eq!(read(&["--version"]).unwrap_err().exit_code(), 0);
    }

    #[test]
    fn a_refused_number_is_told_its_range() {
        for text in ["99", "-1", "99999999999999999999999", "many", "", "1e3"] {
            let error = read(&["--slice-us", text]).unwrap_err().to_string();
            assert!(error.contains("is not in 100..=1000000"), "{error}");
        }
    }

    #[test]
    fn faults_are_read() {
        assert_eq!(fault("stall"), Ok(Fault::Stall(String::new())));
        assert_eq!(fault("stall:make"), Ok(Fault::Stall("make".into())));
        assert_eq!(fault("requeue:make"), Ok(Fault::Requeue("make".into())));
        assert_eq!(fault("panic"), Ok(Fault::Panic));
        assert_eq!(fault("error:enqueue"), Ok(Fault::Error("enqueue".into())));
        assert!(fault("error:a_name_that_is_too_long").is_err());
    }

    #[test]
    fn changes_are_told_apart() {
        let (_dir, path) = config("slice-us = 6000\npartial = true\ncpus = ['1']\n");
        let (before, after) = (read(&[]).unwrap(), read(&["--config", &path]).unwrap());
        let (live, restart) = before.changes(&after);
        assert_eq!(live, ["slice-us", "cpus"]);
        assert_eq!(restart, ["partial"]);
        assert_eq!(before.changes(&before), (vec![], vec![]));
    }
}
