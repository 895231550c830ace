// SPDX-License-Identifier: GPL-2.0-only
//! Machines larger than a guest can be: what is written under `/sys` of them is enough to load for.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rota_sim::machine::Machine;
use rota_sim::sysfs;

use super::Case;
use crate::check;
use crate::guest::{CaseResult, Guest, describe};

pub const CASES: &[Case] = &[Case::new("large_machines_load", large_machines_load)
    .one_machine()
    .limit_s(180)];

/// From a desktop to the largest that is not refused: 1024 CPUs, 256 LLCs, 64 nodes.
const MACHINES: [&str; 4] = ["1x8x2", "numa:2x2x4x2", "numa:2x8x8x2", "numa:64x4x2x2"];
/// The kernel gives a program up after a million, and a start takes as long as they take.
const VERIFIED_MAX: u64 = 100_000;
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// Goal: the verifier accepts the scheduler on any machine, and far from its limit: the size of the
/// machine is constant data to it, and a loop that it follows turn by turn ends there.
/// Method: `--check` with the files of machines from small to the largest; how many instructions
/// the verifier went through in each program.
fn large_machines_load(guest: &mut Guest) -> CaseResult {
    let mut figures = Vec::new();
    for name in MACHINES {
        let machine: Machine = name.parse().map_err(|error| format!("{name}: {error}"))?;
        let root = Path::new("/tmp/machine");
        sysfs::write(&machine, root)?;
        symlink("/sys/kernel", root.join("kernel"))?;
        let args = ["--check", "-vv", "--sysfs-root", "/tmp/machine"];
        let end = guest.run_sched(&args, CHECK_LIMIT)?;
        fs::remove_dir_all(root)?;
        if end.code != Some(0) {
            let what = format!("does not load on {name}");
            return Err(describe(guest.sched_name(), &what, &end));
        }
        let most = end.stderr.iter().filter_map(|line| verified(line)).max();
        let (count, program) = most.ok_or("nothing is told of the verifier")?;
        check!(
            count <= VERIFIED_MAX,
            "{program} takes {count} instructions of the verifier on {name}, {VERIFIED_MAX} are \
             allowed"
        );
        figures.push(format!("{name} {program} {count}"));
    }
    Ok(figures.join(", "))
}

/// The effort for a program and its name, if this line tells them.
fn verified(line: &str) -> Option<(u64, &str)> {
    let (program, count) = line
        .strip_suffix(" instructions verified")?
        .rsplit_once(": ")?;
    Some((count.parse().ok()?, program.rsplit(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effort_is_found_in_the_log() {
        let line = "[2026-01-01T00:00:05Z DEBUG] llc_tick: 5163 instructions verified";
        assert_eq!(verified(line), Some((5163, "llc_tick")));
        assert_eq!(verified("llc_tick: no instructions verified"), None);
        assert_eq!(verified("5163 instructions"), None);
    }
}
