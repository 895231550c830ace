// SPDX-License-Identifier: GPL-2.0-only
//! Real-time priority for the moment of attaching.
//!
//! Linux before 7.0 switches the tasks of the machine over in the thread that
//! attaches. From when it gets to that thread itself, the tasks it has not got
//! to yet go before it: on a machine full of them it never finishes, and the
//! machine stays half switched. A real-time thread is not switched.

use std::io;

use nix::errno::Errno;
use nix::libc;

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
    fn a_thread_is_raised_for_a_while() {
        let before = policy();
        let urgent = Urgent::raise();
        let allowed = urgent.before.is_some();
        assert_eq!(policy(), if allowed { libc::SCHED_FIFO } else { before });
        drop(urgent);
        assert_eq!(policy(), before);
    }
}
