// SPDX-License-Identifier: GPL-2.0-only
//! Log messages of the guest go to stderr, which is the kernel's console and so the console log.

use std::io::Write as _;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= LevelFilter::Info
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("rota-guest: {}: {}\n", record.level(), record.args());
            // There is no other place to complain to.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Messages are shown from here on.
pub fn start() {
    log::set_max_level(LevelFilter::Info);
    log::set_logger(&Stderr).expect("this is the only logger");
}
