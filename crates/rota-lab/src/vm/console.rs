// SPDX-License-Identifier: GPL-2.0-only
//! Reads the kernel's log while the guest runs, and knows when there is no point in going on.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::{IoContext as _, Result};

/// What the kernel's log says about the guest's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The kernel gave up.
    Panic(String),
    /// A CPU did not pass a quiescent state for long.
    RcuStall(String),
    /// A CPU was caught twice in a kernel loop.
    SoftLockup(String),
}

/// Soft lockups that are put up with: one alone is often a busy host.
const SOFT_LOCKUPS: usize = 1;

/// How QEMU's emulator shows that it lost a race against text patching. No kernel or scheduler is
/// to blame for it.
const TEXT_CORRUPTED: &str = "Oops: int3";

/// Lines of a crash that are told: the address, the kind of fault, and the place.
const CRASH_LINES: usize = 3;

/// Flags above these do not exist; where an oops shows one, the emulator mixed up its own state.
const FLAGS_MAX: u32 = 0x3f_ffff;

/// Follows a console log that QEMU writes.
#[derive(Debug)]
pub struct Console {
    file: File,
    scan: Scan,
}

impl Console {
    /// Follows the log in `path`, which must exist.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            file: File::open(path).at("opening", path)?,
            scan: Scan::default(),
        })
    }

    /// Reads what is new; some trouble ends the guest.
    pub fn poll(&mut self) -> Option<Trouble> {
        let mut text = Vec::new();
        // A read error shows the same as silence, and silence has its own limit.
        let _ = self.file.read_to_end(&mut text);
        self.scan.feed(&text)
    }

    /// Whether the emulator itself broke the kernel.
    pub fn emulator_fault(&self) -> bool {
        self.scan.emulator_fault
    }

    /// The last line, for a message.
    pub fn last_line(&self) -> &str {
        &self.scan.last_line
    }
}

#[derive(Debug, Default)]
struct Scan {
    partial: Vec<u8>,
    last_line: String,
    /// What a panic's own line does not tell: the fault, and where it was.
    crash: Vec<String>,
    soft_lockups: usize,
    emulator_fault: bool,
    trouble: Option<Trouble>,
}

impl Scan {
    /// Takes in a piece of the log; tells the first trouble, and keeps telling it.
    fn feed(&mut self, text: &[u8]) -> Option<Trouble> {
        self.partial.extend_from_slice(text);
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
        self.trouble.clone()
    }

    fn line(&mut self, line: &str) {
        self.emulator_fault |= line.contains(TEXT_CORRUPTED) || impossible_flags(line);
        let message = strip_time(line).to_owned();
        if !message.is_empty() {
            self.last_line.clone_from(&message);
        }
        if self.belongs_to_crash(&message) {
            self.crash.push(message.clone());
        }
        if line.contains("BUG: soft lockup") {
            self.soft_lockups += 1;
        }
        let trouble = if line.contains("Kernel panic") {
            Some(Trouble::Panic(self.with_crash(message)))
        } else if line.contains("rcu:") && line.contains("stall") {
            Some(Trouble::RcuStall(message))
        } else if self.soft_lockups > SOFT_LOCKUPS {
            Some(Trouble::SoftLockup(message))
        } else {
            None
        };
        self.trouble = self.trouble.take().or(trouble);
    }

    /// Whether this line is one of the few that tell what crashed.
    fn belongs_to_crash(&self, message: &str) -> bool {
        let fault = ["BUG: ", "BUG at ", "Oops: "]
            .iter()
            .any(|mark| message.contains(mark));
        let place = ["RIP: 0010:", "pc : "]
            .iter()
            .any(|mark| message.starts_with(mark));
        let begun = !self.crash.is_empty();
        // A lockup that is put up with is another matter, and so is the place of a warning.
        self.crash.len() < CRASH_LINES
            && (fault && !message.contains("soft lockup") || place && begun)
    }

    fn with_crash(&self, message: String) -> String {
        if self.crash.is_empty() {
            return message;
        }
        format!("{message} ({})", self.crash.join("; "))
    }
}

/// Whether a register dump has flags that no processor has.
fn impossible_flags(line: &str) -> bool {
    let flags = line
        .split_once(" EFLAGS: ")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    flags
        .and_then(|word| u32::from_str_radix(word, 16).ok())
        .is_some_and(|f| f > FLAGS_MAX)
}

/// `line` without the kernel's time stamp.
fn strip_time(line: &str) -> &str {
    match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((time, rest)) if time.trim().parse::<f64>().is_ok() => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Option<Trouble> {
        Scan::default().feed(text.as_bytes())
    }

    #[test]
    fn an_ordinary_boot_is_no_trouble() {
        assert_eq!(
            scan("[    0.000000] Linux version 6.18\n[    1.2] rcu: \tOffload RCU\n"),
            None
        );
        assert_eq!(scan("[    0.1] panic=-1 on the command line\n"), None);
        assert_eq!(
            scan("[    0.1] RCU CPU stall warnings are enabled.\n"),
            None
        );
    }

    #[test]
    fn each_trouble_is_named() {
        let panic = "[    4.5] Kernel panic - not syncing: sysrq triggered crash\n";
        let text = "Kernel panic - not syncing: sysrq triggered crash";
        assert_eq!(scan(panic), Some(Trouble::Panic(text.into())));
        let stall = "[   30.1] rcu: INFO: rcu_preempt self-detected stall on CPU\n";
        assert!(matches!(scan(stall), Some(Trouble::RcuStall(_))));
        let stall = "[   30.1] rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: {\n";
        assert!(matches!(scan(stall), Some(Trouble::RcuStall(_))));
    }

    #[test]
    fn a_panic_tells_what_crashed_and_where() {
        let log = "\
[    3.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]
[    3.2] WARNING: CPU: 0 PID: 1 at kernel/sched/ext.c:1 f+0x1/0x2
[    3.2] RIP: 0010:f+0x1/0x2
[    4.1] BUG: unable to handle page fault for address: 0000000000001234
[    4.1] Oops: Oops: 0002 [#1] SMP NOPTI
[    4.1] CPU: 3 UID: 0 PID: 12 Comm: x Not tainted 7.3.4
[    4.1] RIP: 0010:__schedule+0x1a/0x8f0
[    4.1] RIP: 0033:0x7f0000001234
[    4.2] RIP: 0010:__schedule+0x1a/0x8f0
[    4.2] Kernel panic - not syncing: Fatal exception in interrupt
";
        let told = "Kernel panic - not syncing: Fatal exception in interrupt (BUG: unable to handle \
                    page fault for address: 0000000000001234; Oops: Oops: 0002 [#1] SMP NOPTI; RIP: \
                    0010:__schedule+0x1a/0x8f0)";
        assert_eq!(scan(log), Some(Trouble::Panic(told.into())));
    }

    #[test]
    fn one_soft_lockup_is_forgiven() {
        let lockup = "[   52.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]\n";
        assert_eq!(scan(lockup), None);
        let text = "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [x:1]";
        assert_eq!(
            scan(&lockup.repeat(2)),
            Some(Trouble::SoftLockup(text.into()))
        );
    }

    #[test]
    fn the_first_trouble_stays() {
        let mut scan = Scan::default();
        scan.feed(b"Kernel panic - not syncing: A\n");
        assert_eq!(
            scan.feed(b"rcu: INFO: detected stall\n"),
            Some(Trouble::Panic("Kernel panic - not syncing: A".into()))
        );
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let mut scan = Scan::default();
        assert_eq!(scan.feed(b"[ 1.0] Kernel pa"), None);
        assert_eq!(scan.feed(b"nic - x"), None);
        assert!(scan.feed(b"\n").is_some());
    }

    #[test]
    fn the_emulators_fault_is_told_from_a_kernels() {
        let mut scan = Scan::default();
        scan.feed(b"[ 9.1] Oops: int3: 0000 [#1] SMP\n[ 9.2] Kernel panic - not syncing\n");
        assert!(scan.emulator_fault);
        let mut scan = Scan::default();
        scan.feed(b"[ 9.1] RSP: 0018:ffa000000012fb60 EFLAGS: 04379b42\n");
        assert!(scan.emulator_fault);
        let mut scan = Scan::default();
        scan.feed(b"[ 9.1] Oops: general protection fault\n[ 9.1] RSP: 0018:0 EFLAGS: 00010246\n");
        assert!(!scan.emulator_fault);
    }
}
