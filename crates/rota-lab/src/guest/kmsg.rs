// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's log from inside: what it said since a moment, and whether that means trouble.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;
use nix::sys::utsname::uname;

const DEVICE: &str = "/dev/kmsg";
/// The kernel hands out one record per read, none longer than this.
const RECORD_MAX: usize = 8192;

/// Lines that tell of trouble, wherever they come from.
const TROUBLE: [&str; 9] = [
    "WARNING:",
    "BUG:",
    "Oops:",
    "Kernel panic",
    "blocked for more than",
    "detected stall",
    "detected expedited stall",
    "self-detected stall",
    "general protection fault",
];

/// Trouble that a kernel has with itself: the release, what its line has in it, and why no policy
/// can have caused it.
const KERNELS_OWN: [(&str, &str, &str); 1] = [(
    "6.12.",
    "sub_running_bw",
    "the account of the kernel's deadline servers, which no policy reaches, after a CPU went",
)];

/// The log from a moment on.
#[derive(Debug)]
pub struct Kmsg {
    file: File,
}

impl Kmsg {
    /// Starts at the present end of the log.
    pub fn from_now() -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// The lines since the start or the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let mut record = [0; RECORD_MAX];
        let mut lines = Vec::new();
        loop {
            match self.file.read(&mut record) {
                Ok(length) => lines.extend(message(&record[..length])),
                // Records were overwritten before they were read; the next read goes on.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {
                    lines.push("(some lines of the kernel's log are lost)".into());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // There is no more for now.
                Err(_) => return lines,
            }
        }
    }
}

/// The lines among `lines`, of this kernel, that tell of trouble.
pub fn trouble(lines: &[String]) -> Vec<String> {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned());
    trouble_of(&release.unwrap_or_default(), lines)
}

fn trouble_of(release: &str, lines: &[String]) -> Vec<String> {
    let bad = |line: &&String| TROUBLE.iter().any(|sign| line.contains(sign));
    let own = |line: &String| {
        let known = KERNELS_OWN.iter();
        let mut known =
            known.filter(|(of, text, _)| release.starts_with(of) && line.contains(text));
        known
            .next()
            .map(|(.., why)| log::warn!("{line}: {why}"))
            .is_some()
    };
    let bad = lines.iter().filter(bad);
    bad.filter(|line| !own(line)).cloned().collect()
}

/// The text of a record like `6,339,5140900,-;message`, whose further lines are key-value pairs.
fn message(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let (_, message) = text.split_once(';')?;
    Some(message.lines().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_its_message() {
        let record = b"6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n DEVICE=+x\n";
        assert_eq!(message(record).as_deref(), Some("NET: Registered"));
        assert_eq!(message(b"garbage"), None);
    }

    #[test]
    fn trouble_is_told_from_ordinary_lines() {
        let lines = [
            "sched_ext: BPF scheduler \"vtime_0.1.0\" enabled",
            "WARNING: CPU: 1 PID: 77 at kernel/sched/ext.c:1234 f+0x1/0x2",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "INFO: task kworker/0:1:9 blocked for more than 120 seconds.",
            "sched_ext: BPF scheduler \"x\" disabled (runnable task stall)",
            "RCU CPU stall warnings are enabled",
        ];
        let lines = lines.map(str::to_owned);
        assert_eq!(trouble_of("7.3.4", &lines), lines[1..5]);
    }

    #[test]
    fn what_a_kernel_does_to_itself_is_not_the_schedulers() {
        let line =
            "WARNING: CPU: 0 PID: 200 at kernel/sched/deadline.c:265 sub_running_bw+0x49/0x5e";
        let lines = [line.to_owned()];
        assert!(trouble_of("6.12.117-rota", &lines).is_empty());
        assert_eq!(trouble_of("6.16.12", &lines), lines);
    }
}
