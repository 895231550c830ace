// SPDX-License-Identifier: GPL-2.0-only
//! Builds the one kernel that Debian does not have with sched_ext: a small one, from Debian's
//! source, with a configuration of our own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::apt::{Source, source_package};
use super::{image, program};
use crate::error::{AT_LEAST_BYTES, Error, IoContext as _, Result};
use crate::{OnProgress, Progress};

/// Laid over `make tinyconfig`.
const FRAGMENT: &str = include_str!("../../config/kernel-6.12.config");

/// Lines that make prints for a whole build, about; only for the progress.
const LINES: f64 = 2050.0;

/// Programs and headers that a build needs: how it shows that one is there, and its package.
const NEEDS: [(Need, &str); 10] = [
    (Need::Program("make"), "make"),
    (Need::Program("gcc"), "gcc"),
    (Need::Program("flex"), "flex"),
    (Need::Program("bison"), "bison"),
    (Need::Program("bc"), "bc"),
    (Need::Program("xz"), "xz-utils"),
    (Need::Program("pahole"), "pahole"),
    (Need::Program("dpkg-deb"), "dpkg"),
    (Need::Header("libelf.h"), "libelf-dev"),
    (Need::Header("openssl/opensslv.h"), "libssl-dev"),
];

enum Need {
    Program(&'static str),
    Header(&'static str),
}

impl Need {
    fn is_met(&self) -> bool {
        match self {
            Self::Program(name) => crate::vm::find_program(name).is_some(),
            Self::Header(name) => header_exists(name),
        }
    }
}

/// Whether the C compiler finds the header; where there is none, it is the compiler that is missed.
fn header_exists(name: &str) -> bool {
    let mut command = Command::new("gcc");
    command.args(["-E", "-x", "c", "-include", name, "/dev/null"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().map_or(true, |status| status.success())
}

/// Fails with the packages that are missing.
pub fn require_programs() -> Result<()> {
    let missing: Vec<_> = NEEDS
        .iter()
        .filter(|(need, _)| !need.is_met())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::MissingPackages(missing))
    }
}

/// Tells configurations apart.
pub fn config_hash() -> String {
    image::hex(&Sha256::digest(FRAGMENT))
}

/// Builds the kernel from `source` in `scratch`; the path of the image.
pub fn build(scratch: &Path, source: &Source, on_progress: OnProgress<'_>) -> Result<PathBuf> {
    on_progress(Progress::Step("unpacking the kernel's source"));
    let tree = unpack(scratch, &source.deb)?;
    on_progress(Progress::Step("configuring the kernel"));
    configure(&tree)?;
    on_progress(Progress::Step("building the kernel"));
    make(&tree, source, on_progress)?;
    Ok(tree.join("arch/x86/boot/bzImage"))
}

/// Unpacks the package, and the archive in it.
fn unpack(scratch: &Path, deb: &Path) -> Result<PathBuf> {
    let mut extract = Command::new("dpkg-deb");
    program::output(
        extract
            .arg("--extract")
            .arg(deb)
            .arg(scratch)
            .current_dir(scratch),
    )?;
    fs::remove_file(deb).at("removing", deb)?;
    let package = source_package();
    let archive = scratch.join(format!("usr/src/{package}.tar.xz"));
    let mut extract = Command::new("tar");
    program::output(extract.arg("-xf").arg(&archive).current_dir(scratch))?;
    fs::remove_file(&archive).at("removing", &archive)?;
    Ok(scratch.join(package))
}

/// Writes `.config` and makes sure that it is what was asked for.
fn configure(tree: &Path) -> Result<()> {
    run_make(tree, &["tinyconfig"])?;
    let path = tree.join(".config");
    let mut config = File::options()
        .append(true)
        .open(&path)
        .at("opening", &path)?;
    // The last word on an option counts.
    config.write_all(FRAGMENT.as_bytes()).at("writing", &path)?;
    run_make(tree, &["olddefconfig"])?;
    let config = fs::read_to_string(&path).at("reading", &path)?;
    let lost = lost_options(FRAGMENT, &config);
    if lost.is_empty() {
        return Ok(());
    }
    let detail = format!("the configuration lost {}", lost.join(", "));
    Err(Error::Build {
        version: "6.12".into(),
        detail,
        log: path,
    })
}

fn run_make(tree: &Path, targets: &[&str]) -> Result<()> {
    program::output(Command::new("make").args(targets).current_dir(tree)).map(drop)
}

/// Options of `fragment` that `config` does not have as asked.
fn lost_options<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let holds = |option: &&str| match option.strip_suffix("=n") {
        Some(name) => !config
            .lines()
            .any(|line| line.starts_with(&format!("{name}="))),
        None => config.lines().any(|line| line == *option),
    };
    let options = fragment.lines().filter(|line| line.starts_with("CONFIG_"));
    options.filter(|option| !holds(option)).collect()
}

/// Runs the build proper, its output in a log file beside the cache's kernels until it succeeds.
fn make(tree: &Path, source: &Source, on_progress: OnProgress<'_>) -> Result<()> {
    let jobs = thread::available_parallelism().map_or(1, |count| count.get());
    // The source's directory is removed whatever happens; the log of a failure is for reading.
    let log_path = tree
        .parent()
        .and_then(Path::parent)
        .unwrap_or(tree)
        .join("build-6.12.log");
    let mut log = File::create(&log_path).at("creating", &log_path)?;
    let errors = log.try_clone().at("opening", &log_path)?;
    let mut command = Command::new("make");
    command
        .arg(format!("-j{jobs}"))
        .arg("bzImage")
        .current_dir(tree);
    command.envs([("KBUILD_BUILD_USER", "rota"), ("KBUILD_BUILD_HOST", "lab")]);
    command.stdout(Stdio::piped()).stderr(errors);
    let spawned = program::prepare(&mut command).spawn();
    let mut child = spawned.map_err(|error| program::not_started(&command, &error))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut lines = 0.0;
    for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
        writeln!(log, "{line}").at("writing", &log_path)?;
        lines += 1.0;
        on_progress(Progress::Done(f64::min(lines / LINES, 1.0)));
    }
    let status = child.wait().at("waiting for make in", tree)?;
    if status.success() {
        return fs::remove_file(&log_path).at("removing", &log_path);
    }
    let text = fs::read_to_string(&log_path).at("reading", &log_path)?;
    if text.contains("No space left on device") {
        return Err(Error::DiskFull {
            path: tree.to_owned(),
            needed: AT_LEAST_BYTES,
        });
    }
    let error = text
        .lines()
        .find(|line| line.contains("error:") || line.contains("***"));
    let detail = error.unwrap_or("make failed").trim().to_owned();
    Err(Error::Build {
        version: source.version.clone(),
        detail,
        log: log_path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_not_taken_is_noticed() {
        let fragment = "# CONFIG_COMMENT=y\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"x\"\n";
        assert!(
            lost_options(
                fragment,
                "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\""
            )
            .is_empty()
        );
        assert_eq!(
            lost_options(fragment, "CONFIG_A=m\nCONFIG_C=\"x\"\n"),
            ["CONFIG_A=y"]
        );
        assert_eq!(
            lost_options(fragment, "CONFIG_A=y\nCONFIG_B=y\n"),
            ["CONFIG_B=n", "CONFIG_C=\"x\""]
        );
    }

    #[test]
    fn the_configuration_asks_for_what_the_lab_needs() {
        for option in [
            "SCHED_CLASS_EXT",
            "EXT_GROUP_SCHED",
            "DEBUG_INFO_BTF",
            "HOTPLUG_CPU",
            "NUMA",
        ] {
            assert!(
                FRAGMENT.contains(&format!("\nCONFIG_{option}=y\n")),
                "{option}"
            );
        }
    }

    #[test]
    fn each_option_is_asked_for_once() {
        let mut names: Vec<_> = FRAGMENT
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(name, _)| name)
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_missing_header_is_noticed() {
        assert!(!header_exists("rota/no-such-header.h"));
    }
}
