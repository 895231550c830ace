// SPDX-License-Identifier: GPL-2.0-only
//! A panic detaches the scheduler first and is reported afterwards.

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::error::EXIT_EJECTED;

/// What the first panic said, for when the scheduler is detached.
static FIRST: Mutex<Option<String>> = Mutex::new(None);

/// Runs `f`, whose value is an exit code, so that no panic gets past it.
///
/// The panic of the thread that calls unwinds `f`, which detaches by dropping
/// the link. That of another thread asks the run loop to stop, as SIGTERM does.
pub fn contain(name: &str, f: impl FnOnce() -> u8) -> u8 {
    let main = thread::current().id();
    panic::set_hook(Box::new(move |info| {
        let mut first = FIRST.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| info.to_string());
        drop(first);
        if thread::current().id() != main {
            let _ = signal::kill(Pid::this(), Signal::SIGTERM);
        }
    }));
    let status = panic::catch_unwind(AssertUnwindSafe(f));
    let message = FIRST.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (status, message) {
        (Ok(status), None) => status,
        (_, message) => {
            let message = message.unwrap_or_default();
            let _ = writeln!(
                std::io::stderr(),
                "{name}: detached after a bug of its own: {message}"
            );
            EXIT_EJECTED
        }
    }
}
