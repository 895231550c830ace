// SPDX-License-Identifier: GPL-2.0-only
//! Starts that must fail, each with its exit code and a line that names the cause, before anything
//! in the kernel changes.

use std::fs;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::common::{END_LIMIT, check_untouched, refusal};
use super::{Case, Kernels};
use crate::check;
use crate::guest::{CaseResult, Failure, Guest, last, scx};

/// Bad usage or a bad configuration.
const USAGE: i32 = 2;
/// This machine cannot.
const UNABLE: i32 = 3;

pub const CASES: &[Case] = &[
    Case::new("bad_usage_refused", bad_usage_refused).one_machine(),
    Case::new("bad_config_refused", bad_config_refused).one_machine(),
    Case::new("bad_config_file_refused", bad_config_file_refused).one_machine(),
    Case::new("not_root_refused", not_root_refused).one_machine(),
    Case::new("isolcpus_refused", |guest| {
        machine_refused(guest, &["isolcpus=", "CPUs 1 "])
    })
    .append("isolcpus=1")
    .min_cpus(2)
    .only_full(),
    Case::new("lockdown_refused", |guest| {
        if !Path::new("/sys/kernel/security/lockdown").exists() {
            return Err(Failure::Skipped("this kernel cannot be locked down".into()));
        }
        machine_refused(guest, &["locked down (confidentiality)", "boot it"])
    })
    .append("lockdown=confidentiality lsm=lockdown")
    .only_full(),
    Case::new("no_sched_ext_refused", |guest| {
        machine_refused(
            guest,
            &["has no sched_ext", "Linux 6.12", "CONFIG_SCHED_CLASS_EXT=y"],
        )
    })
    .on(Kernels::WithoutSchedExt),
    Case::new("damaged_btf_refused", |guest| {
        let kernel = format!("Linux {}", guest.machine().kernel);
        machine_refused(guest, &["damaged BTF", &kernel, "pahole"])
    })
    .on(Kernels::DamagedBtf),
];

/// Goal: a command line with a mistake is refused, and the text names the option and its range.
/// Method: one mistake of each kind.
fn bad_usage_refused(guest: &mut Guest) -> CaseResult {
    const SLICE: &str = "is not in 100..=1000000";
    let mistakes: [(&[&str], &[&str]); 11] = [
        (&["--bogus"], &["--bogus"]),
        (&["stray"], &["stray"]),
        (&["--slice-us", "99"], &["--slice-us", "99", SLICE]),
        (&["--slice-us", "-1"], &["--slice-us", "-1", SLICE]),
        (&["--slice-us=99999999999999999999"], &["--slice-us", SLICE]),
        (&["--slice-us"], &["--slice-us", "value is required"]),
        (&["--timeout-ms", "0"], &["--timeout-ms", "1000..=30000"]),
        (&["--stats", "0"], &["--stats", "0.1..=86400"]),
        (&["--partial=maybe"], &["--partial", "true, false"]),
        (
            &["--check", "--monitor", "1"],
            &["--check", "cannot be used with", "--monitor"],
        ),
        (
            &["--fault", "explode"],
            &["--fault", "stall, stall:COMM, starve:COMM, error:OP"],
        ),
    ];
    let before = scx::snapshot();
    for (args, wanted) in mistakes {
        let end = guest.run_sched(args, END_LIMIT)?;
        let words = refusal(guest, &end, USAGE)?;
        let missing = wanted.iter().find(|text| !words.contains(**text));
        check!(missing.is_none(), "{args:?}: no {missing:?} in: {words}");
        check!(
            end.stdout.is_empty(),
            "{args:?}: on stdout: {:?}",
            end.stdout
        );
    }
    check_untouched(&before)?;
    Ok(String::new())
}

/// Goal: a mistake in the configuration file is refused in one line with its place, its key and
/// what is allowed.
/// Method: one mistake of each kind, below a line that is right.
fn bad_config_refused(guest: &mut Guest) -> CaseResult {
    let mistakes: [(&[u8], &str, &[&str]); 10] = [
        (b"slice-us = \n", "2:12", &[]),
        (b"= 5\n", "2:1", &[]),
        (b"slice_us = 5000\n", "2:1", &["'slice_us'", "'slice-us'"]),
        (b"zzz = 1\n", "2:1", &["unknown key 'zzz'", "--help"]),
        (
            b"slice-us = '5 ms'\n",
            "2:12",
            &["'slice-us'", "expected an integer, found a string"],
        ),
        (
            b"slice-us = 5\n",
            "2:12",
            &["'slice-us'", "5 is not in 100..=1000000"],
        ),
        (
            b"partial = 1\n",
            "2:11",
            &["'partial'", "expected a boolean"],
        ),
        (
            b"timeout-ms = 6000\n",
            "2:1",
            &["duplicate key", "'timeout-ms'"],
        ),
        (
            b"check = true\n",
            "2:1",
            &["'check'", "for the command line only"],
        ),
        (b"# \xff\xfe\n", "2:3", &["is not UTF-8"]),
    ];
    const FILE: &str = "/tmp/bad.toml";
    let before = scx::snapshot();
    for (line, place, wanted) in mistakes {
        let text = [b"timeout-ms = 5000\n", line].concat();
        fs::write(FILE, &text)?;
        let message = refused_config(guest, FILE)?;
        let text = String::from_utf8_lossy(line);
        check!(
            message.starts_with(&format!("{FILE}:{place}: ")),
            "{text}: the place is not {place}: {message}"
        );
        let missing = wanted.iter().find(|text| !message.contains(**text));
        check!(missing.is_none(), "{text}: no {missing:?} in: {message}");
    }
    check_untouched(&before)?;
    Ok(String::new())
}

/// Goal: a configuration file that is none is refused at once, whatever it is instead.
/// Method: a missing one, a directory, a FIFO that nobody writes to, a device, a huge one.
fn bad_config_file_refused(guest: &mut Guest) -> CaseResult {
    const FIFO: &str = "/tmp/fifo.toml";
    const HUGE: &str = "/tmp/huge.toml";
    const HUGE_BYTES: usize = 16 << 20;
    mkfifo(FIFO, Mode::S_IRWXU).map_err(std::io::Error::from)?;
    fs::write(HUGE, vec![b'\n'; HUGE_BYTES])?;
    let before = scx::snapshot();
    for (path, wanted) in [
        ("/tmp/missing.toml", "no such file"),
        ("/tmp", "is a directory, not a regular file"),
        (FIFO, "is a FIFO, not a regular file"),
        ("/dev/zero", "is a device, not a regular file"),
        (HUGE, "is longer than 1048576 bytes"),
    ] {
        let message = refused_config(guest, path)?;
        check!(
            message == format!("{path}: {wanted}"),
            "{path}: it says: {message}"
        );
    }
    fs::remove_file(HUGE)?;
    fs::remove_file(FIFO)?;
    check_untouched(&before)?;
    Ok(String::new())
}

fn refused_config(guest: &Guest, path: &str) -> Result<String, Failure> {
    let end = guest.run_sched(&["--config", path], END_LIMIT)?;
    refusal(guest, &end, USAGE)
}

/// Goal: somebody without the privileges is told which ones are missing.
/// Method: a start as the user nobody.
fn not_root_refused(guest: &mut Guest) -> CaseResult {
    let before = scx::snapshot();
    let end = guest.run_as_nobody(guest.sched_name(), &[], END_LIMIT)?;
    let message = refusal(guest, &end, UNABLE)?;
    let wanted = "CAP_PERFMON and CAP_BPF needed, run it as root";
    check!(message.contains(wanted), "it says: {message}");
    check_untouched(&before)?;
    Ok(message)
}

/// Goal: a machine that cannot run the scheduler is told from one where it fails: one line names
/// the cause.
/// Method: a start, and `--check`, which agrees with it; nothing is attached.
fn machine_refused(guest: &mut Guest, wanted: &[&str]) -> CaseResult {
    let before = scx::snapshot();
    let end = guest.run_sched(&[], END_LIMIT)?;
    let message = refusal(guest, &end, UNABLE)?;
    let missing = wanted.iter().find(|text| !message.contains(**text));
    check!(missing.is_none(), "no {missing:?} in: {message}");
    let event = last(&end, "error").ok_or("no event for programs")?;
    check!(
        event["status"] == UNABLE && event["message"] == message,
        "the event says {event}"
    );

    let end = guest.run_sched(&["--check"], END_LIMIT)?;
    let checked = refusal(guest, &end, UNABLE)?;
    check!(checked == message, "--check says {checked}, not {message}");
    let report = last(&end, "check").ok_or("no report of --check")?;
    check!(
        report["status"] == UNABLE && report["error"] == message,
        "--check reports {report}"
    );
    check_untouched(&before)?;
    Ok(message)
}
