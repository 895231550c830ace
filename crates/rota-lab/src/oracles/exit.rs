// SPDX-License-Identifier: GPL-2.0-only
//! The scheduler runs until it is told to stop, takes in every change of the CPUs, and ends in order
//! with a complete report.

use super::Evidence;
use crate::fuzz::Scenario;
use crate::guest::last;

/// `SCX_EXIT_UNREG`: user space has unregistered it.
const UNREG: u64 = 64;
/// The last words that are quoted.
const WORDS: usize = 3;

pub(super) fn judge(_: &Scenario, evidence: &Evidence) -> Option<String> {
    let end = &evidence.end;
    let words = || {
        let first = end.stderr.len().saturating_sub(WORDS);
        end.stderr[first..].join(" | ")
    };
    if evidence.ended_early {
        return Some(format!(
            "it ended by itself with code {:?}: {}",
            end.code,
            words()
        ));
    }
    if let Err(state) = &evidence.settled {
        return Some(format!(
            "it does not run on the CPUs that there are: {state}"
        ));
    }
    if end.code != Some(0) {
        return Some(format!("it ended with code {:?}: {}", end.code, words()));
    }
    let Some(exit) = last(end, "exit") else {
        return Some("it wrote no exit report".into());
    };
    let reason = exit["reason"].as_str().unwrap_or_default();
    (exit["kind"] != UNREG || reason.is_empty()).then(|| format!("its exit report says {exit}"))
}
