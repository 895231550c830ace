// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel says when it ends a scheduler, and what follows from it.

use crate::error::{EXIT_EJECTED, EXIT_OK};
use crate::skeleton::ExitRecord;

/// `SCX_ECODE_ACT_RESTART`: the kernel asks to be given the scheduler again.
const ACT_RESTART: u64 = 1 << 48;
/// `SCX_ECODE_RSN_HOTPLUG`: because a CPU came or went.
const RSN_HOTPLUG: u64 = 1 << 32;
/// `SCX_ECODE_RSN_CGROUP_OFFLINE`: because its cgroup went.
const RSN_CGROUP_OFFLINE: u64 = 2 << 32;
/// The bits of an exit code that hold the kernel's reason.
const RSN_MASK: u64 = 0xffff << 32;

/// `SCX_EXIT_UNREG`: detached from user space.
const KIND_UNREG: u32 = 64;
/// `SCX_EXIT_SYSRQ`: detached with SysRq-S.
const KIND_SYSRQ: u32 = 67;
/// `SCX_EXIT_ERROR`, the first of the kinds that are errors.
const KIND_ERROR: u32 = 1024;
/// `SCX_EXIT_ERROR_STALL`: a task waited for longer than the watchdog allows.
const KIND_ERROR_STALL: u32 = 1026;

/// The kernel's name of an exit kind, without the prefix `SCX_EXIT_`.
///
/// A number that is not known here is from a kernel newer than 7.3.
pub fn kind_name(kind: u32) -> &'static str {
    match kind {
        0 => "NONE",
        1 => "DONE",
        KIND_UNREG => "UNREG",
        65 => "UNREG_BPF",
        66 => "UNREG_KERN",
        KIND_SYSRQ => "SYSRQ",
        68 => "PARENT",
        69 => "PARENT_KILL",
        KIND_ERROR => "ERROR",
        1025 => "ERROR_BPF",
        KIND_ERROR_STALL => "ERROR_STALL",
        1027 => "ERROR_REENQ",
        1028 => "ERROR_RESCUE",
        _ => "UNKNOWN",
    }
}

/// How a scheduler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody asked for it: a signal, or SysRq-S.
    Stopped,
    /// The kernel asks to be given the scheduler again.
    Restart,
    /// The kernel or the policy ended it.
    Ejected,
}

impl Ending {
    /// The ending that an exit record tells of.
    pub fn of(record: &ExitRecord) -> Self {
        match record.kind {
            kind if kind >= KIND_ERROR => Ending::Ejected,
            _ if record.code.cast_unsigned() & ACT_RESTART != 0 => Ending::Restart,
            KIND_UNREG | KIND_SYSRQ => Ending::Stopped,
            _ => Ending::Ejected,
        }
    }

    /// The exit code of the process, if this ending is its last.
    pub fn status(self) -> u8 {
        match self {
            Ending::Stopped => EXIT_OK,
            Ending::Restart | Ending::Ejected => EXIT_EJECTED,
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Ending::Stopped => "stopped",
            Ending::Restart => "detached",
            Ending::Ejected => "ejected",
        }
    }
}

/// The reason for most restarts.
pub const CPU_CAME_OR_WENT: &str = "a CPU came or went";

/// Why the kernel asks for a restart.
pub fn restart_reason(record: &ExitRecord) -> &'static str {
    match record.code.cast_unsigned() & RSN_MASK {
        RSN_HOTPLUG => CPU_CAME_OR_WENT,
        RSN_CGROUP_OFFLINE => "its cgroup went",
        _ => "the kernel asks for it",
    }
}

/// The report in one line, with the kind, its name, the reason and the message:
/// `ejected: kind 1026 ERROR_STALL (runnable task stall): make[71] failed to run for 30.1s`.
pub fn line(record: &ExitRecord, dump: &str) -> String {
    let ending = Ending::of(record);
    let mut line = format!(
        "{}: kind {} {} ({})",
        ending.verb(),
        record.kind,
        kind_name(record.kind),
        one_line(&record.reason)
    );
    if !record.message.is_empty() {
        line += &format!(": {}", one_line(&record.message));
    }
    let code = record.code.cast_unsigned();
    if code != 0 && ending != Ending::Stopped {
        line += &format!(" (code {code:#x})");
    }
    if ending == Ending::Ejected && record.cpu >= 0 {
        line += &format!(" on CPU {}", record.cpu);
    }
    let hogs = realtime_hogs(record, dump);
    if !hogs.is_empty() {
        line += &format!("; {}", hogs.join(", "));
    }
    line
}

/// The real-time tasks that held a CPU while a task stalled, from the dump.
///
/// Before Linux 7.0 nothing keeps a real-time task from starving the tasks of
/// sched_ext, so that the watchdog blames the policy for it.
fn realtime_hogs(record: &ExitRecord, dump: &str) -> Vec<String> {
    if record.kind != KIND_ERROR_STALL {
        return Vec::new();
    }
    let mut hogs = Vec::new();
    let (mut cpu, mut waiting) = (None, false);
    for line in dump.lines() {
        if let Some(rest) = line.strip_prefix("CPU ") {
            cpu = rest
                .split(':')
                .next()
                .and_then(|number| number.trim().parse::<usize>().ok());
            waiting = !rest.contains("nr_run=0 ");
        } else if let Some(curr) = line.trim_start().strip_prefix("curr=")
            && let Some((task, "rt_sched_class")) = curr.rsplit_once(" class=")
            && let (Some(cpu), true) = (cpu, waiting)
        {
            hogs.push(format!("RT task {task} monopolised CPU {cpu}"));
        }
    }
    hogs
}

/// Text of the kernel, which may hold anything a task is named, kept to a line.
fn one_line(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, code: i64) -> ExitRecord {
        ExitRecord {
            kind,
            code,
            cpu: -1,
            reason: "runnable task stall".into(),
            message: "make[71] failed to run for 30.1s".into(),
        }
    }

    #[test]
    fn a_stall_names_kind_reason_and_task() {
        assert_eq!(
            line(&record(1026, 0), ""),
            "ejected: kind 1026 ERROR_STALL (runnable task stall): make[71] failed to run for 30.1s"
        );
        assert_eq!(Ending::of(&record(1026, 0)).status(), EXIT_EJECTED);
    }

    #[test]
    fn hotplug_asks_for_a_restart() {
        let hotplug = record(66, 0x1_0001_0000_0000);
        assert_eq!(Ending::of(&hotplug), Ending::Restart);
        assert_eq!(restart_reason(&hotplug), "a CPU came or went");
    }

    #[test]
    fn an_error_is_never_restarted_by_its_code() {
        assert_eq!(
            Ending::of(&record(1025, 0x1_0001_0000_0000)),
            Ending::Ejected
        );
    }

    #[test]
    fn requests_end_well_and_the_rest_does_not() {
        assert_eq!(Ending::of(&record(64, 0)), Ending::Stopped);
        assert_eq!(Ending::of(&record(67, 0)), Ending::Stopped);
        assert_eq!(Ending::of(&record(65, 3)), Ending::Ejected);
        assert_eq!(Ending::of(&record(66, 0)), Ending::Ejected);
        assert!(line(&record(65, 3), "").ends_with("(code 0x3)"));
    }

    #[test]
    fn a_realtime_task_in_the_way_is_named() {
        let dump = "CPU states\n----------\n\
                      \nCPU 0   : nr_run=2 flags=0x1 cpu_rel=1 pnt_seq=7\n\
                      \u{20}         curr=hog[99] class=rt_sched_class\n\
                      \nCPU 1   : nr_run=0 flags=0x1 cpu_rel=1 pnt_seq=7\n\
                      \u{20}         curr=ok[12] class=rt_sched_class\n\
                      \nCPU 2   : nr_run=3 flags=0x1 cpu_rel=0 pnt_seq=7\n\
                      \u{20}         curr=make[13] class=ext_sched_class\n";
        let line = line(&record(1026, 0), dump);
        assert!(
            line.ends_with("; RT task hog[99] monopolised CPU 0"),
            "{line}"
        );
    }

    #[test]
    fn names_of_tasks_cannot_forge_lines() {
        let mut stall = record(1026, 0);
        stall.message = "a\nb[1]".into();
        assert_eq!(line(&stall, "").lines().count(), 1);
    }
}
