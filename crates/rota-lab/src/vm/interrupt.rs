// SPDX-License-Identifier: GPL-2.0-only
//! ^C ends the guests in order; a second one ends the program at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

/// 128 + SIGINT, as a shell would say it.
const INTERRUPTED: i32 = 130;

static REQUESTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Takes over the signals that ask the program to end.
pub fn watch() {
    REQUESTED.get_or_init(|| {
        let requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal finds the flag still down and only raises it.
            let second =
                flag::register_conditional_shutdown(signal, INTERRUPTED, requested.clone());
            let first = flag::register(signal, requested.clone());
            if let Err(error) = second.and(first) {
                log::warn!("cannot catch signal {signal}: {error}");
            }
        }
        requested
    });
}

/// Whether the user has asked to end.
pub fn requested() -> bool {
    REQUESTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// An error once the user has asked to end.
pub fn check() -> Result<()> {
    if requested() {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}
