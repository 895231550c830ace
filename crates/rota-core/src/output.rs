// SPDX-License-Identifier: GPL-2.0-only
//! Stdout: counters and reports, for people or as lines of JSON.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::Figures;
use crate::report;
use crate::skeleton::{Counter, ExitRecord};
use crate::topology::Summary;

/// Counters with their values, in the order the policy declares them.
#[derive(Clone, Debug)]
pub struct Counts<'a> {
    /// What is counted.
    pub counters: &'a [Counter],
    /// How much of it since the scheduler was attached.
    pub values: &'a [u64],
}

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.counters.len()))?;
        for (counter, value) in self.counters.iter().zip(self.values) {
            map.serialize_entry(counter.name, value)?;
        }
        map.end()
    }
}

/// A line of JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The scheduler is attached.
    Started {
        scheduler: &'a str,
        ops: &'a str,
        kernel: &'a str,
        topology: Summary,
    },
    /// The counters since it was attached.
    Stats {
        uptime_s: f64,
        counters: Counts<'a>,
        #[serde(flatten)]
        figures: serde_json::Map<String, serde_json::Value>,
    },
    /// It will be attached again.
    Restart { reason: &'a str, attempt: usize },
    /// It was detached.
    Exit {
        kind: u32,
        kind_name: &'a str,
        code: i64,
        cpu: Option<u32>,
        reason: &'a str,
        message: &'a str,
        dump_file: Option<&'a Path>,
        status: u8,
    },
    /// It cannot be attached.
    Error { status: u8, message: String },
}

impl<'a> Event<'a> {
    /// The event of a scheduler that was detached.
    pub fn exit(record: &'a ExitRecord, dump_file: Option<&'a Path>, status: u8) -> Self {
        Event::Exit {
            kind: record.kind,
            kind_name: report::kind_name(record.kind),
            code: record.code,
            cpu: u32::try_from(record.cpu).ok(),
            reason: &record.reason,
            message: &record.message,
            dump_file,
            status,
        }
    }
}

/// Stdout, or what stands for it in a test.
///
/// A reader that went away takes the output with it, not the scheduler.
pub struct Output<'w> {
    json: bool,
    to: Option<Box<dyn Write + 'w>>,
    /// The values shown last, to show what was added to them.
    shown: Vec<u64>,
}

impl<'w> Output<'w> {
    /// Writes to `to`, as JSON or for people.
    pub fn new(json: bool, to: Box<dyn Write + 'w>) -> Self {
        Output {
            json,
            to: Some(to),
            shown: Vec::new(),
        }
    }

    /// Whether it is JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes `event`, unless the output is for people.
    pub fn event(&mut self, event: &impl Serialize) {
        if self.json {
            let line = serde_json::to_string(event).expect("events have text keys");
            self.line(&line);
        }
    }

    /// Writes the counters: all of them as JSON, for people what was added to
    /// those that are not 0; and figures beyond them.
    pub fn counters(&mut self, uptime: Duration, counts: &Counts<'_>, figures: &Figures) {
        if self.json {
            // Milliseconds are enough, and keep the line readable.
            let uptime_s = (uptime.as_secs_f64() * 1e3).round() / 1e3;
            self.event(&Event::Stats {
                uptime_s,
                counters: counts.clone(),
                figures: figures.members.clone(),
            });
        } else {
            let line = self.added(uptime, counts);
            self.line(&line);
            figures.lines.iter().for_each(|line| self.line(line));
        }
        self.shown = counts.values.to_vec();
    }

    fn added(&self, uptime: Duration, counts: &Counts<'_>) -> String {
        let mut line = format!("{:>8.1}s", uptime.as_secs_f64());
        for (i, (counter, value)) in counts.counters.iter().zip(counts.values).enumerate() {
            // A restart starts the counters anew.
            let before = self
                .shown
                .get(i)
                .copied()
                .filter(|shown| shown <= value)
                .unwrap_or(0);
            if *value > 0 {
                line += &format!("  {} +{}", counter.name, value - before);
            }
        }
        line
    }

    /// Writes a line.
    pub fn line(&mut self, line: &str) {
        let Some(to) = &mut self.to else { return };
        if let Err(error) = writeln!(to, "{line}").and_then(|()| to.flush()) {
            if error.kind() != io::ErrorKind::BrokenPipe {
                log::warn!("cannot write to stdout, which ends the output: {error}");
            }
            self.to = None;
        }
    }

    /// Whether somebody can still read the output.
    pub fn is_open(&self) -> bool {
        self.to.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: &[Counter] = &[
        Counter {
            name: "nr_z",
            description: "last letter, first counter",
        },
        Counter {
            name: "nr_a",
            description: "first letter, last counter",
        },
    ];

    fn printed(json: bool, print: impl FnOnce(&mut Output<'_>)) -> String {
        let mut bytes = Vec::new();
        print(&mut Output::new(json, Box::new(&mut bytes)));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn counters_are_lines_of_json_in_their_order() {
        let text = printed(true, |output| {
            let counts = Counts {
                counters: COUNTERS,
                values: &[1, 2],
            };
            output.counters(Duration::from_millis(1500), &counts, &Figures::default());
        });
        let expected = r#"{"event":"stats","uptime_s":1.5,"counters":{"nr_z":1,"nr_a":2}}"#;
        assert_eq!(text, format!("{expected}\n"));
    }

    #[test]
    fn people_see_what_was_added() {
        let text = printed(false, |output| {
            for values in [[10, 0], [15, 0], [3, 1]] {
                let counts = Counts {
                    counters: COUNTERS,
                    values: &values,
                };
                output.counters(Duration::from_secs(1), &counts, &Figures::default());
            }
        });
        let added: Vec<&str> = text.lines().map(|line| &line[9..]).collect();
        assert_eq!(added, ["  nr_z +10", "  nr_z +5", "  nr_z +3  nr_a +1"]);
    }

    #[test]
    fn an_exit_is_a_line_of_json() {
        let record = ExitRecord {
            kind: 64,
            cpu: -1,
            reason: "unregistered from user space".into(),
            ..ExitRecord::default()
        };
        let text = printed(true, |output| output.event(&Event::exit(&record, None, 0)));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["event"], "exit");
        assert_eq!(value["kind_name"], "UNREG");
        assert!(value["dump_file"].is_null() && value["cpu"].is_null());
        assert_eq!(value["status"], 0);
    }

    #[test]
    fn events_are_not_for_people() {
        let event = Event::Restart {
            reason: "x",
            attempt: 1,
        };
        assert_eq!(printed(false, |output| output.event(&event)), "");
    }

    #[test]
    fn a_reader_that_went_away_is_survived() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(true, Box::new(writer));
        output.line("x");
        assert!(!output.is_open());
        output.line("y");
    }
}
