// SPDX-License-Identifier: GPL-2.0-only
//! sched_ext as `/sys/kernel/sched_ext` shows it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::job::SchedState;

const ROOT: &str = "/sys/kernel/sched_ext";

/// How often a state that is waited for is looked at.
pub(super) const POLL: Duration = Duration::from_millis(20);

/// Whether the kernel has sched_ext.
pub fn exists() -> bool {
    Path::new(ROOT).is_dir()
}

/// `disabled`, `enabling`, `enabled` or `disabling`; `absent` without sched_ext.
pub fn state() -> String {
    if exists() {
        text("state")
    } else {
        "absent".into()
    }
}

/// Everything about the state.
pub fn snapshot() -> SchedState {
    let number = |name| text(name).parse().unwrap_or_default();
    SchedState {
        state: state(),
        ops: text("root/ops"),
        enable_seq: number("enable_seq"),
        nr_rejected: number("nr_rejected"),
        switch_all: text("switch_all") == "1",
    }
}

/// Whether the kernel's BTF has the type, constant or function `name`.
pub fn kernel_knows(name: &str) -> io::Result<bool> {
    let btf = fs::read("/sys/kernel/btf/vmlinux")?;
    let string = format!("\0{name}\0");
    Ok(btf
        .windows(string.len())
        .any(|part| part == string.as_bytes()))
}

/// The kernel's event counters; empty on kernels without them, and without a scheduler.
pub fn events() -> BTreeMap<String, i64> {
    parse_events(&text("root/events"))
}

/// Waits until the state is `wanted`; if not, the error is the state it was left in.
pub fn wait_for(wanted: &str, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        let state = state();
        if state == wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(state);
        }
        thread::sleep(POLL);
    }
}

fn text(name: &str) -> String {
    fs::read_to_string(format!("{ROOT}/{name}"))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn parse_events(text: &str) -> BTreeMap<String, i64> {
    let pair = |line: &str| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_name() {
        let events = parse_events("SCX_EV_DISPATCH_KEEP_LAST 12\nSCX_EV_BYPASS_DURATION 345678\n");
        assert_eq!(events.len(), 2);
        assert_eq!(events["SCX_EV_BYPASS_DURATION"], 345_678);
        assert!(parse_events("").is_empty());
    }
}
