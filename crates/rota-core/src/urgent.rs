// SPDX-License-Identifier: GPL-2.0-only
//! Priority for a thread that loads a policy or attaches it.
//!
//! A start reads the kernel's types, and the kernel verifies the policy in the thread
//! that loads it: a second or so of CPU time. A machine whose CPUs all have hogs gives
//! that thread a part of one, while a CPU that came or went has left it without its
//! policy; it is favoured therefore.
//!
//! Linux before 7.0 switches the tasks of the machine over in the thread that
//! attaches. From when it gets to that thread itself, the tasks it has not got
//! to yet go before it: on a machine full of them it never finishes, and the
//! machine stays half switched. A real-time thread is not switched.

use std::io;

use nix::errno::Errno;
use nix::libc;

/// A thread with a low nice value, until this is dropped.
#[derive(Debug)]
pub struct Favoured {
    before: Option<i32>,
}

impl Favoured {
    /// Favours the calling thread; without leave to do so it stays as it is.
    pub fn raise() -> Self {
        let before = nice();
        // One that has a lower value already keeps it.
        let raised = set_nice(before.min(LOADING_NICE));
        Favoured {
            before: raised
                .map(|()| before)
                .inspect_err(|error| log::debug!("loading without priority: {error}"))
                .ok(),
        }
    }
}

impl Drop for Favoured {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = set_nice(before)
        {
            log::warn!("cannot give priority back: {error}");
        }
    }
}

/// Nine and a half times the usual weight: nine tenths of a CPU with one hog, and most of one with
/// five. The lowest value, 87 times, starves the others: one of nice 10 beside the load waited for
/// 3.4 s, with this one for 0.4.
const LOADING_NICE: i32 = -10;

/// That of the calling thread; it cannot be refused.
fn nice() -> i32 {
    // SAFETY: the call only reads, and 0 is the calling thread.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: 0 is the calling thread.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// A thread with real-time priority, until this is dropped.
#[derive(Debug)]
pub struct Urgent {
    before: Option<(i32, libc::sched_param)>,
}

impl Urgent {
    /// Raises the calling thread; without leave to do so it stays as it is.
    pub fn raise() -> Self {
        Urgent {
            before: raise()
                .inspect_err(|error| log::debug!("attaching without priority: {error}"))
                .ok(),
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some((policy, parameters)) = self.before
            && let Err(error) = set(policy, parameters)
        {
            log::warn!("cannot give real-time priority back: {error}");
        }
    }
}

/// The policy and its parameters before that.
fn raise() -> io::Result<(i32, libc::sched_param)> {
    let mut before = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the parameters live across the call.
    Errno::result(unsafe { libc::sched_getparam(0, &mut before) })?;
    // SAFETY: 0 is the calling thread.
    let policy = Errno::result(unsafe { libc::sched_getscheduler(0) })?;
    // The lowest priority is above all tasks that a policy has a say over.
    set(libc::SCHED_FIFO, libc::sched_param { sched_priority: 1 })?;
    Ok((policy, before))
}

fn set(policy: i32, parameters: libc::sched_param) -> io::Result<()> {
    // SAFETY: 0 is the calling thread, and the call only reads the parameters.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &parameters) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> i32 {
        // SAFETY: 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn a_thread_is_favoured_for_a_while() {
        let before = nice();
        let favoured = Favoured::raise();
        let allowed = favoured.before.is_some();
        assert_eq!(nice(), if allowed { LOADING_NICE } else { before });
        drop(favoured);
        assert_eq!(nice(), before);
    }

    #[test]
    fn a_thread_is_raised_for_a_while() {
        let before = policy();
        let urgent = Urgent::raise();
        let allowed = urgent.before.is_some();
        assert_eq!(policy(), if allowed { libc::SCHED_FIFO } else { before });
        drop(urgent);
        assert_eq!(policy(), before);
    }
}
