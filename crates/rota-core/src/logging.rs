// SPDX-License-Identifier: GPL-2.0-only
//! The log, on stderr.

use log::LevelFilter;

/// Starts the log: `verbose` counts the `-v`, `RUST_LOG` outweighs it.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    // Fails only if there is a log already, which then is as good.
    let _ = env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .format_target(false)
        .format_timestamp_secs()
        .try_init();
}
