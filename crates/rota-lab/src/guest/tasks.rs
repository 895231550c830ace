// SPDX-License-Identifier: GPL-2.0-only
//! The tasks of the guest, as /proc shows them.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::list;

/// A thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its thread id.
    pub pid: i32,
    /// Its name; a workload calls its tasks by their group.
    pub name: String,
    /// The CPUs that it may use.
    pub cpus: Vec<usize>,
}

/// The threads of all processes, the kernel's included.
pub fn all_tasks() -> Vec<Task> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .flat_map(|pid| tasks_of(Pid::from_raw(pid)))
        .collect()
}

/// The threads of a process; none if it is gone.
pub fn tasks_of(process: Pid) -> Vec<Task> {
    let entries = fs::read_dir(format!("/proc/{process}/task"));
    let entries = entries.into_iter().flatten().flatten();
    entries.filter_map(|entry| task(&entry)).collect()
}

fn task(entry: &fs::DirEntry) -> Option<Task> {
    let text = fs::read_to_string(entry.path().join("status")).ok()?;
    let field = |key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
    };
    Some(Task {
        pid: entry.file_name().to_str()?.parse().ok()?,
        name: field("Name")?.to_owned(),
        cpus: list(field("Cpus_allowed_list")?),
    })
}

/// Whether sched_ext has the task.
pub fn is_on_sched_ext(pid: i32) -> io::Result<bool> {
    let path = format!("/proc/{pid}/sched");
    let text = fs::read_to_string(&path)?;
    let line = text.lines().find(|line| line.starts_with("ext.enabled"));
    let value = line.and_then(|line| line.rsplit(':').next());
    value
        .map(|value| value.trim() == "1")
        .ok_or_else(|| io::Error::other(format!("{path} does not tell of sched_ext")))
}

/// The CPU on which a task runs or ran last; nothing if it is gone.
pub fn last_cpu(pid: i32) -> Option<usize> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; `processor` is the 37th field after it.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(36)?.parse().ok()
}

/// Confines a task to some CPUs; one that is gone does not mind.
pub fn confine(pid: i32, cpus: &[usize]) -> io::Result<()> {
    let mut mask = CpuSet::new();
    for &cpu in cpus {
        mask.set(cpu)?;
    }
    match sched_setaffinity(Pid::from_raw(pid), &mask) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Changes the nice value of a task.
pub fn renice(pid: i32, nice: i32) -> io::Result<()> {
    let who = libc::id_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: the call takes plain numbers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, who, nice) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found() {
        let name = "rota-lab-tasks";
        let thread = std::thread::Builder::new().name(name.into());
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let body = move || {
            tell.send(nix::unistd::gettid().as_raw()).unwrap();
            stopped.recv().unwrap_err();
        };
        let thread = thread.spawn(body).unwrap();
        let pid = told.recv().unwrap();
        let all = tasks_of(nix::unistd::getpid());
        let found = all.iter().find(|task| task.pid == pid).unwrap();
        assert_eq!(found.name, name);
        assert!(!found.cpus.is_empty() && all_tasks().contains(found));
        renice(pid, 1).unwrap();
        confine(pid, &[found.cpus[0]]).unwrap();
        assert!(last_cpu(pid).is_some());
        drop(stop);
        thread.join().unwrap();
    }
}
