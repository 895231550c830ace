// SPDX-License-Identifier: GPL-2.0-only
//! Processes that fork, and perhaps execute, as fast as they can.

use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};

use crate::run::sys::{self, SharedArray};
use crate::run::task::Task;

/// Exit status of a child that could not execute the program, as shells use it.
const EXEC_FAILED: i32 = 127;

/// A task that forks.
pub struct Storm {
    /// Most children at a time.
    pub outstanding: usize,
    /// CPU time that each child uses.
    pub run: Duration,
    /// The program with arguments that each child executes, if any.
    pub exec: Option<Vec<CString>>,
    /// When the child in each place took its first step.
    pub started_ns: SharedArray<AtomicU64>,
}

/// A child that has not been reaped.
struct Child {
    pid: Pid,
    forked_ns: u64,
}

impl Storm {
    pub(super) fn run(self, task: &mut Task<'_>) {
        let mut children: Vec<Option<Child>> = Vec::new();
        children.resize_with(self.outstanding, || None);
        while task.go_on(sys::monotonic_ns()) {
            let full = match children.iter().position(Option::is_none) {
                Some(place) => !self.spawn(place, &mut children, task),
                None => true,
            };
            if full && !self.reap(&mut children, task) {
                break;
            }
        }
        // Children alive when the measurement began were counted as a whole when they
        // ended; in return, those alive now do not count.
        task.stop_measuring();
        for child in children.iter().flatten() {
            let _ = nix::sys::signal::kill(child.pid, Signal::SIGKILL);
        }
        // Until there is no child left (ECHILD).
        while matches!(waitpid(None, None), Ok(_) | Err(Errno::EINTR)) {}
    }

    /// Forks into `place`; false when the system is out of processes or memory.
    fn spawn(&self, place: usize, children: &mut [Option<Child>], task: &mut Task<'_>) -> bool {
        self.started_ns[place].store(0, Ordering::Relaxed);
        let parent = getpid();
        let spinner = task.stage.spinner;
        let forked_ns = sys::monotonic_ns();
        let forked = sys::fork(|| {
            self.started_ns[place].store(sys::monotonic_ns(), Ordering::Relaxed);
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            if getppid() != parent {
                return 0; // the parent died before it could be watched
            }
            if !self.run.is_zero() {
                spinner.burn(self.run.as_nanos() as u64);
            }
            let Some(argv) = &self.exec else { return 0 };
            let _ = nix::unistd::execv(&argv[0], argv);
            EXEC_FAILED
        });
        match forked {
            Ok(pid) => {
                children[place] = Some(Child { pid, forked_ns });
                true
            }
            Err(e) => {
                // A storm may well run into a limit; that is part of the workload.
                task.note(&format!("fork: {}", e.desc()));
                // With no child to wait for, time must pass before another try.
                if children.iter().all(Option::is_none) {
                    task.sleep(Duration::from_millis(1));
                }
                false
            }
        }
    }

    /// Waits for a child; false at the end.
    fn reap(&self, children: &mut [Option<Child>], task: &mut Task<'_>) -> bool {
        task.waits();
        let status = match waitpid(None, None) {
            Ok(status) => status,
            Err(Errno::EINTR) => return task.go_on(sys::monotonic_ns()),
            // No child is left: a fork failed, and the sleep has passed.
            Err(_) => return true,
        };
        let mine = |child: &Option<Child>| child.as_ref().map(|c| c.pid) == status.pid();
        let Some(place) = children.iter().position(mine) else {
            return true;
        };
        let Some(child) = children[place].take() else {
            return true;
        };
        match status {
            WaitStatus::Exited(_, 0) => {}
            WaitStatus::Exited(_, EXEC_FAILED) => task.failure("exec of the program failed"),
            _ => task.failure("a child was killed"),
        }
        let started_ns = self.started_ns[place].load(Ordering::Relaxed);
        if started_ns >= child.forked_ns {
            task.woken(child.forked_ns, started_ns);
        }
        task.op();
        true
    }
}
