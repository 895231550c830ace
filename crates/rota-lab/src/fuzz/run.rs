// SPDX-License-Identifier: GPL-2.0-only
//! Acts a scenario out in a guest, and keeps what it told.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Scenario, Verdicts, Violation};
use crate::error::{Error, IoContext as _, Result};
use crate::job::{Event, Job};
use crate::kernel::Kernel;
use crate::oracles::GUEST;
use crate::topology::Topology;
use crate::vm::{self, Vm};

/// What replays a scenario: itself, and what came of it.
pub const CASE: &str = "case.json";
const EVENTS: &str = "events.jsonl";
const TRACE: &str = "trace.txt";
const WORDS: &str = "scheduler.txt";
const REPORT: &str = "report.json";

/// A guest that takes longer, in the host's time, hangs.
const LIMIT: Duration = Duration::from_secs(420);

/// A scenario and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// All that happened.
    pub scenario: Scenario,
    /// `uname -r` of the kernel.
    pub release: String,
    /// SHA-256 of all that the guest said: every line of its kernel's log, with its time, and every
    /// event. The same programs on the same kernel say the same.
    pub checksum: String,
    /// What the oracles found.
    pub violations: Vec<Violation>,
    /// The emulator's clock leapt, so that nothing can be said: see [`leap`].
    #[serde(default)]
    pub void: bool,
    /// The figures that they went by.
    pub figures: String,
}

impl Case {
    /// Reads a case that [`run`] has written: its file, or the folder with it.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() {
            path.join(CASE)
        } else {
            path.to_owned()
        };
        let text = fs::read_to_string(&file).at("reading", &file)?;
        serde_json::from_str(&text).map_err(|error| Error::BadCase {
            path: file,
            reason: error.to_string(),
        })
    }
}

/// Acts `scenario` out on `kernel`. All that it tells goes to `dir`: the case, its events, the
/// kernel's log, and if something is wrong what the scheduler wrote and the trace of the last moments.
pub fn run(kernel: &Kernel, programs: &[PathBuf], scenario: &Scenario, dir: &Path) -> Result<Case> {
    if dir.exists() {
        fs::remove_dir_all(dir).at("removing an earlier run in", dir)?;
    }
    fs::create_dir_all(dir).at("creating", dir)?;
    let topology: Topology = scenario.topology.parse()?;
    let job = Job::Fuzz(scenario.clone());
    let mut vm = Vm::new(kernel, &topology, programs, &job, dir);
    vm.clock = scenario.clock();
    vm.limits.total = LIMIT;
    let mut told = Told::default();
    let outcome = vm.run(&mut |event| told.take(event))?;
    let Told {
        lines,
        verdicts,
        leapt,
        ..
    } = told;
    let console = fs::read(&outcome.console).at("reading", &outcome.console)?;
    let mut hash = Sha256::new();
    hash.update(&console);
    hash.update(lines.as_bytes());
    let mut verdicts = verdicts.unwrap_or_default();
    if !matches!(outcome.verdict, vm::Verdict::Exited(0 | 1)) {
        verdicts.violations.push(Violation {
            oracle: GUEST.into(),
            message: outcome.verdict.to_string(),
        });
    }
    if leapt {
        verdicts.violations.clear();
    }
    let case = Case {
        void: leapt,
        scenario: scenario.clone(),
        release: kernel.release.clone(),
        checksum: hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        violations: verdicts.violations,
        figures: verdicts.figures,
    };
    let write = |name: &str, text: &str| {
        let file = dir.join(name);
        fs::write(&file, text).at("writing", &file)
    };
    write(
        CASE,
        &serde_json::to_string_pretty(&case).expect("a case is plain data"),
    )?;
    write(EVENTS, &lines)?;
    if leapt || !case.violations.is_empty() {
        write(WORDS, &verdicts.words.join("\n"))?;
        write(TRACE, &verdicts.trace.join("\n"))?;
        let report = serde_json::to_string_pretty(&verdicts.report).expect("it is plain data");
        write(REPORT, &report)?;
    }
    Ok(case)
}

/// A guest says that it lives every 5 s of its time. If it was silent for longer than this, while the
/// host saw little time pass, no instruction was executed meanwhile: now and then QEMU lets the
/// virtual time leap to some far timer although a CPU has work (seen once in 100 cases: 28 s between
/// two instructions, and the watchdogs of the guest's kernel bark).
const LEAP_S: f64 = 15.0;

/// Whether the guest's time leapt by `guest_s` while `host_s` passed on the host.
fn leap(guest_s: f64, host_s: f64) -> bool {
    /// No emulated guest in virtual time executes so much faster than that.
    const FASTER: f64 = 6.0;
    guest_s > LEAP_S && guest_s > FASTER * host_s
}

/// What a guest has said.
#[derive(Default)]
struct Told {
    lines: String,
    verdicts: Option<Verdicts>,
    /// When it last said that it lives: in its time, and in the host's.
    alive: Option<(f64, Instant)>,
    leapt: bool,
}

impl Told {
    fn take(&mut self, event: &Event) {
        match event {
            // What it said before does not count.
            Event::Retrying { .. } => *self = Self::default(),
            Event::Alive { uptime_s } => {
                let now = Instant::now();
                if let Some((before_s, before)) = self.alive.replace((*uptime_s, now)) {
                    self.leapt |= leap(uptime_s - before_s, (now - before).as_secs_f64());
                }
            }
            Event::Judged(verdicts) => self.verdicts = Some((**verdicts).clone()),
            _ => {}
        }
        self.lines += &serde_json::to_string(event).expect("an event is plain data");
        self.lines.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_is_told_from_a_hang() {
        assert!(leap(28.4, 1.0));
        assert!(!leap(28.4, 12.0));
        assert!(!leap(5.0, 0.1));
    }
}
