// SPDX-License-Identifier: GPL-2.0-only
//! Signals as events of the run loop.

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{EXIT_OK, Error};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGINT or SIGTERM: detach and end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// Lets SIGINT and SIGTERM end the process at once and well, for as long as no
/// scheduler is attached: there is nothing to clean up.
pub fn end_on_stop() {
    extern "C" fn end(_: c_int) {
        // SAFETY: _exit is async-signal-safe and has no other condition.
        unsafe { libc::_exit(EXIT_OK.into()) }
    }
    let action = SigAction::new(SigHandler::Handler(end), SaFlags::empty(), SigSet::empty());
    for signal in STOP {
        // SAFETY: the handler calls nothing but _exit.
        let installed = unsafe { sigaction(signal, &action) };
        installed.expect("SIGINT and SIGTERM can be handled");
    }
}

/// The signals that ask to stop.
const STOP: [Signal; 2] = [Signal::SIGINT, Signal::SIGTERM];

/// Signals that wait until somebody asks for them.
pub struct Signals(SignalFd);

impl Signals {
    /// Holds SIGINT, SIGTERM and SIGHUP back from here on.
    pub fn hold() -> Result<Self, Error> {
        let set = SigSet::from_iter(STOP.into_iter().chain([Signal::SIGHUP]));
        let held = set.thread_block().and_then(|()| {
            SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        });
        match held {
            Ok(fd) => Ok(Signals(fd)),
            Err(error) => Err(Error::System {
                action: "block signals".into(),
                source: error.into(),
            }),
        }
    }

    /// Does something long before a scheduler is attached, in which being asked
    /// to stop ends the process: the verifier may take seconds on a busy machine.
    pub fn unattached<T>(&self, f: impl FnOnce() -> T) -> T {
        let stop = SigSet::from_iter(STOP);
        stop.thread_unblock()
            .expect("a set of signals can be unblocked");
        let value = f();
        stop.thread_block()
            .expect("a set of signals can be blocked");
        value
    }

    /// What was asked for since the last call; stopping outweighs the rest.
    pub fn take(&self) -> Option<Request> {
        let mut request = None;
        while let Ok(Some(info)) = self.0.read_signal() {
            if info.ssi_signo == Signal::SIGHUP as u32 {
                request = request.or(Some(Request::Reload));
            } else {
                request = Some(Request::Stop);
            }
        }
        request
    }

    /// Waits for a request for at most this long.
    pub fn wait(&self, timeout: Duration) -> Result<Option<Request>, Error> {
        wait(&[self.as_fd()], Some(timeout))?;
        Ok(self.take())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sleeps until one of the descriptors is readable, or until the timeout.
pub fn wait(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<(), Error> {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    let timeout = match timeout {
        // Rounded up: waking a little early would mean waking twice.
        Some(timeout) => {
            let millis = timeout.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        }
        None => PollTimeout::NONE,
    };
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(Error::System {
            action: "wait for events".into(),
            source: error.into(),
        }),
    }
}
