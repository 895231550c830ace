// SPDX-License-Identifier: GPL-2.0-only
//! What the command line of every scheduler does, whatever its policy.
//!
//! A scheduler includes this file in its `tests/cli.rs`, next to the path of
//! its binary as `SCHEDULER`. Nothing here needs root or sched_ext: a machine
//! without either is given to `--check` as a tree of files, and where sched_ext
//! runs nothing is attached.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::SCHEDULER;

fn run(arguments: &[&str]) -> Output {
    Command::new(SCHEDULER)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn name() -> &'static str {
    Path::new(SCHEDULER).file_name().unwrap().to_str().unwrap()
}

/// `--check` on a machine of two CPUs whose kernel has no sched_ext.
fn check(arguments: &[&str]) -> Output {
    let machine = tempfile::tempdir().unwrap();
    let cpus = machine.path().join("devices/system/cpu");
    fs::create_dir_all(&cpus).unwrap();
    for list in ["possible", "present", "online"] {
        fs::write(cpus.join(list), "0-1\n").unwrap();
    }
    let root = machine.path().to_str().unwrap();
    run(&[&["--check", "--sysfs-root", root], arguments].concat())
}

/// `--check` with a configuration file.
fn check_config(text: impl AsRef<[u8]>) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    (check(&["--config", path]), path.to_owned())
}

#[test]
fn version_and_help_end_well() {
    let version = run(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        stdout(&version),
        format!("{} {}\n", name(), env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(stdout(&version), stdout(&run(&["-V"])));

    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    let help = stdout(&help);
    for text in [
        env!("CARGO_PKG_DESCRIPTION"),
        "--slice-us",
        "SIGHUP",
        "Exit codes:",
    ] {
        assert!(help.contains(text), "{text} in:\n{help}");
    }
    for hidden in ["--fault", "--sysfs-root"] {
        assert!(!help.contains(hidden), "{hidden}");
    }
}

#[test]
fn every_counter_is_described() {
    let output = run(&["--help-stats"]);
    assert_eq!(output.status.code(), Some(0));
    let interface = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bpf/intf.h");
    let interface = fs::read_to_string(interface).unwrap();
    let declared: Vec<&str> = (interface.split("X(").skip(1))
        .filter_map(|counter| counter.split(',').next())
        .collect();
    let text = stdout(&output);
    let described: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(name, _)| name.trim())
        .collect();
    assert!(!declared.is_empty());
    assert_eq!(described, declared);

    let json: serde_json::Value =
        serde_json::from_slice(&run(&["--help-stats", "--json"]).stdout).unwrap();
    assert_eq!(json["event"], "counters");
    assert_eq!(json["counters"].as_array().unwrap().len(), declared.len());
}

#[test]
fn bad_usage_refused() {
    let bad: &[&[&str]] = &[
        &["--bogus"],
        &["surplus"],
        &["--slice-us"],
        &["--slice-us", "0"],
        &["--slice-us", "-5"],
        &["--slice-us", "1000001"],
        &["--slice-us", "99999999999999999999"],
        &["--stats", "0"],
        &["--stats", "never"],
        &["--monitor", "-1"],
        &["--monitor", "1", "--check"],
        &["--exit-dump-len", "1"],
        &["--timeout-ms", "30001"],
        &["--partial=perhaps"],
        &["--fault", "explode"],
    ];
    for arguments in bad {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let words = stderr(&output);
        assert!(
            words.lines().count() == 1 && words.starts_with(&format!("{}: ", name())),
            "{arguments:?}: {words}"
        );
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
    assert!(stderr(&run(&["--slice-us", "5"])).contains("5 is not in 100..=1000000"));
}

#[test]
fn a_bad_configuration_refused_with_its_place() {
    let bad: &[(&[u8], &str)] = &[
        (
            b"slice-us = 5\n",
            ":1:12: key 'slice-us': 5 is not in 100..=1000000",
        ),
        (
            b"\nslice-us = '5000'\n",
            ":2:12: key 'slice-us': expected an integer, found a string",
        ),
        (
            b"slice_us = 5000\n",
            ":1:1: unknown key 'slice_us'; the nearest valid ones: 'slice-us'",
        ),
        (b"slice-us = 5000\nslice-us = 5000\n", ":2:1: duplicate key"),
        (b"slice-us = \n", ":1:12: "),
        (
            b"check = true\n",
            ":1:1: key 'check' is for the command line only",
        ),
        (b"# \xff\n", ":1:3: is not UTF-8"),
        (
            b"partial = 'yes'\n",
            ":1:11: key 'partial': expected a boolean, found a string",
        ),
    ];
    for (text, message) in bad {
        let (output, path) = check_config(text);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let expected = format!("{}: {path}{message}", name());
        assert!(
            stderr(&output).starts_with(&expected),
            "{expected}, not {}",
            stderr(&output)
        );
        assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    }
}

#[test]
fn what_is_no_configuration_file_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let large = dir.path().join("large");
    fs::write(&large, "#".repeat((1 << 20) + 1)).unwrap();
    let missing = dir.path().join("missing");
    for (path, message) in [
        (dir.path(), "is a directory, not a regular file"),
        (&fifo, "is a FIFO, not a regular file"),
        (&large, "is longer than 1048576 bytes"),
        (&missing, "no such file"),
    ] {
        let output = check(&["--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{message}");
        let expected = format!("{}: {}: {message}\n", name(), path.display());
        assert_eq!(stderr(&output), expected);
    }
}

#[test]
fn a_kernel_without_sched_ext_refused_in_one_line() {
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(3));
    let error = stderr(&output);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with(&format!("{}: Linux ", name())), "{error}");
    assert!(
        error.contains("has no sched_ext: Linux 6.12 or newer"),
        "{error}"
    );
    let report = stdout(&output);
    assert!(
        report.contains("2 CPUs, 2 cores, 1 LLC, 1 node"),
        "{report}"
    );
    assert!(report.contains("would not start, exit code 3"), "{report}");
}

#[test]
fn a_check_in_json_tells_the_same() {
    let output = check(&["--json", "--slice-us", "888"]);
    assert_eq!(output.status.code(), Some(3));
    let event: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(event["event"], "check");
    assert_eq!(event["scheduler"], name());
    assert_eq!(event["status"], 3);
    assert_eq!(event["topology"]["cpus"], 2);
    assert_eq!(event["options"]["slice-us"]["value"], "888");
    assert_eq!(event["options"]["slice-us"]["origin"], "command-line");
    assert!(event["error"].as_str().unwrap().contains("no sched_ext"));
}

#[test]
fn the_file_counts_unless_the_command_line_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, "slice-us = 777\npartial = true\n").unwrap();
    let output = check(&[
        "--json",
        "--config",
        path.to_str().unwrap(),
        "--partial=false",
    ]);
    let event: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(event["options"]["slice-us"]["value"], "777");
    assert_eq!(event["options"]["slice-us"]["origin"], "file");
    assert_eq!(event["options"]["partial"]["value"], "false");
    assert_eq!(event["config"], path.to_str().unwrap());
}

#[test]
fn a_reader_that_goes_away_does_no_harm() {
    let mut command = Command::new(SCHEDULER);
    command
        .arg("--help-stats")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}
