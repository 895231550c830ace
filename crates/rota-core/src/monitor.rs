// SPDX-License-Identifier: GPL-2.0-only
//! `--monitor`: prints the counters of a scheduler that is already running.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use scx_stats::StatsClient;
use serde_json::{Map, Value};

use crate::Figures;
use crate::error::Error;
use crate::output::{Counts, Output};
use crate::skeleton::Counter;

/// How long a scheduler may take to answer.
const TIMEOUT_MS: u64 = 5_000;

/// Prints the counters that the scheduler behind `socket` serves, every
/// `interval`, until a signal or the end of the scheduler.
pub fn run(
    socket: &Path,
    counters: &[Counter],
    interval: Duration,
    output: &mut Output<'_>,
) -> Result<(), Error> {
    let mut client = StatsClient::new()
        .set_path(socket)
        .connect(Some(TIMEOUT_MS))
        .map_err(|_| {
            Error::Monitor(format!(
                "no scheduler serves statistics at {}",
                socket.display()
            ))
        })?;
    let start = Instant::now();
    while output.is_open() {
        let Ok(values) = client.request::<Map<String, Value>>("stats", Vec::new()) else {
            log::info!("the scheduler has ended");
            return Ok(());
        };
        let values = known(counters, &values)?;
        output.counters(
            start.elapsed(),
            &Counts {
                counters,
                values: &values,
            },
            &Figures::default(),
        );
        // Ends on SIGINT or SIGTERM like everything that has attached nothing.
        thread::sleep(interval);
    }
    Ok(())
}

/// The values of this scheduler's counters, an error if another one answers.
fn known(counters: &[Counter], values: &Map<String, Value>) -> Result<Vec<u64>, Error> {
    let value = |counter: &Counter| values.get(counter.name).and_then(Value::as_u64);
    counters
        .iter()
        .map(value)
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Error::Monitor(
                "another scheduler than this one is running; use its own --monitor".into(),
            )
        })
}
