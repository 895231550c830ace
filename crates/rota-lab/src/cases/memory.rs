// SPDX-License-Identifier: GPL-2.0-only
//! Memory that runs out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::Case;
use super::common::{BUSY, END_LIMIT, WHILE_NEEDED, check_survived};
use crate::check;
use crate::guest::{
    CaseResult, Cgroup, Failure, Guest, Leftovers, Program, Progress, STOP_LIMIT, describe, last,
};

pub const CASES: &[Case] = &[
    Case::new("out_of_memory", out_of_memory).one_machine(),
    Case::new("memory_fails_while_starting", memory_fails_while_starting)
        .only_kernel("6.12")
        .one_machine()
        .limit_s(300),
];

/// Goal: a scheduler that the kernel kills for want of memory leaves nothing to clean up, and one
/// that has what it needs does not come into that danger.
/// Method: a start in a cgroup with a limit on memory, of which it is told what it took; then the
/// limit is lowered below that, under load. The next one starts.
fn out_of_memory(guest: &mut Guest) -> CaseResult {
    const ENOUGH: u64 = 32 << 20;
    const KILLED: i32 = 128 + 9;
    let cgroup = Cgroup::create("small", &["memory"])?;
    cgroup.set("memory.max", &ENOUGH.to_string())?;
    let load = guest.start_load(BUSY, WHILE_NEEDED)?;
    let sched = cgroup.start(guest.sched_name(), &["--json"])?;
    let started = |progress: &Progress| last(progress, "started").map(drop);
    if sched.wait_for(END_LIMIT, started).is_none() {
        return Err(describe(
            guest.sched_name(),
            "did not start",
            &sched.progress(),
        ));
    }
    guest.wait_state("enabled")?;
    let peak: u64 = cgroup.get("memory.peak")?.parse().unwrap_or_default();
    cgroup.set("memory.max", "4096")?;
    let end = sched.wait(STOP_LIMIT).ok_or("it lives on without memory")?;
    check!(end.code == Some(KILLED), "exit code {:?}", end.code);
    guest.wait_state("disabled")?;
    let next = guest.start(&[])?;
    guest.stop(&next)?;
    check_survived(&load.stop()?)?;
    Ok(format!(
        "{:.1} MiB at most",
        peak as f64 / f64::from(1 << 20)
    ))
}

/// Goal: a start for which the kernel has no memory, whichever part of it that hits, leaves nothing
/// behind, and the next one succeeds.
/// Method: of all memory that the kernel takes for the scheduler's process it fails to get one piece, or
/// several in a row, later ones in each round. Either the scheduler ends, which it does not blame on its
/// usage or the kernel, or it does without and runs.
fn memory_fails_while_starting(guest: &mut Guest) -> CaseResult {
    const ROUNDS: u64 = 16;
    const BLAMED: std::ops::RangeInclusive<i32> = 2..=5;
    let mut told = Vec::new();
    for failing in [Failing("failslab"), Failing("fail_page_alloc")] {
        failing.arm()?;
        failing.fail_after(NEVER, 1)?;
        let end = start_and_stop(guest)?;
        check!(end.code == Some(0), "exit code {:?}", end.code);
        let all = NEVER - failing.get("space")?;
        check!(all > ROUNDS, "the kernel took {all} of it in all");
        let (mut refused, mut ended) = (0, 0);
        for round in 0..ROUNDS {
            // Many a piece can be had in another way, which fails too then.
            failing.fail_after(all * round / ROUNDS, 1 + 7 * (round % 2))?;
            let before = Leftovers::now();
            let end = start_and_stop(guest)?;
            guest.wait_state("disabled")?;
            let more = before.since();
            check!(more.is_empty(), "left behind: {}", more.join(", "));
            refused += u64::from(failing.get("times")? == 0);
            log::info!("{failing:?} {round}: {:?} {:?}", end.code, end.stderr);
            check!(
                !BLAMED.contains(&end.code.unwrap_or_default()),
                "exit code {:?}: {:?}",
                end.code,
                end.stderr
            );
            ended += u64::from(end.code != Some(0));
        }
        failing.set("probability", "0")?;
        told.push(format!("{}: {refused} refused, {ended} ended", failing.0));
        check!(
            refused > ROUNDS / 2,
            "hardly anything failed: {}",
            told.join("; ")
        );
    }
    let next = guest.start(&[])?;
    guest.stop(&next)?;
    Ok(told.join("; "))
}

/// Starts the scheduler, as one whose memory may fail, and stops it once it runs; how it ended.
fn start_and_stop(guest: &Guest) -> Result<Progress, Failure> {
    const MARKED: &str = "echo 1 > /proc/self/make-it-fail; exec \"$0\" --json";
    let sched = Program::start("sh", &["-c", MARKED, guest.sched_name()])?;
    let started = |progress: &Progress| last(progress, "started").map(drop);
    if sched.wait_for(END_LIMIT, started).is_some() {
        sched.signal(Signal::SIGTERM);
    }
    let end = sched.wait(STOP_LIMIT);
    end.ok_or_else(|| describe(guest.sched_name(), "does not end", &sched.progress()))
}

/// More than any process takes, in the kernel's 31 bits.
const NEVER: u64 = 1 << 30;

/// A way to get memory that fails when it is told to: its directory in debugfs.
#[derive(Debug)]
struct Failing(&'static str);

impl Failing {
    /// From now on it fails for marked processes, once [`Failing::fail_after`] has said when.
    fn arm(&self) -> io::Result<()> {
        self.set("times", "0")?;
        self.set("task-filter", "Y")?;
        self.set("ignore-gfp-wait", "N")?;
        self.set("verbose", "0")?;
        if self.0 == "fail_page_alloc" {
            self.set("ignore-gfp-highmem", "N")?;
            self.set("min-order", "0")?;
        }
        self.set("probability", "100")
    }

    /// Lets it fail so many times, after so many bytes or pages.
    fn fail_after(&self, space: u64, times: u64) -> io::Result<()> {
        self.set("space", &space.to_string())?;
        self.set("times", &times.to_string())
    }

    fn path(&self, key: &str) -> PathBuf {
        Path::new("/sys/kernel/debug").join(self.0).join(key)
    }

    fn set(&self, key: &str, value: &str) -> io::Result<()> {
        fs::write(self.path(key), value)
    }

    fn get(&self, key: &str) -> Result<u64, Failure> {
        let text = fs::read_to_string(self.path(key))?;
        Ok(text
            .trim()
            .parse()
            .map_err(|_| format!("{key} is {text}"))?)
    }
}
