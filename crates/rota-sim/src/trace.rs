// SPDX-License-Identifier: GPL-2.0-only
//! What happened, in order: for a viewer, for tests of the order of callbacks,
//! and as a hash by which two runs are compared.
//!
//! [`Trace::to_perfetto`] writes the trace-event JSON that Perfetto and Chrome
//! open: one track for each CPU with the tasks that ran, instants for wake-ups
//! and kicks, and the lengths of queues as counters.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use crate::kernel_api::TaskId;
use crate::model::Op;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The CPU runs this task now, or idles.
    Switch,
    /// The task wakes; `arg` is the CPU that is chosen for it.
    Wake,
    /// A callback is entered.
    Callback(Op),
    /// A task is put into the queue `arg`, which then holds `len`.
    Insert,
    /// A task leaves the queue `arg`, which then holds `len`.
    Remove,
    /// The CPU `arg` is kicked; `len` are the `SCX_KICK_*` flags.
    Kick,
    /// The task moves here from the CPU `arg`.
    Migrate,
    /// The task comes to be.
    Fork,
    /// The task exits.
    Exit,
    /// The policy ends; `arg` is the kind of exit.
    End,
}

impl Event {
    fn code(self) -> u8 {
        match self {
            Event::Switch => 0,
            Event::Wake => 1,
            Event::Insert => 2,
            Event::Remove => 3,
            Event::Kick => 4,
            Event::Migrate => 5,
            Event::Fork => 6,
            Event::Exit => 7,
            Event::End => 8,
            Event::Callback(op) => 0x40 | op as u8,
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When, in nanoseconds.
    pub at_ns: u64,
    /// On which CPU.
    pub cpu: u32,
    /// What.
    pub event: Event,
    /// To which task.
    pub task: Option<TaskId>,
    /// Depends on the event.
    pub arg: u64,
    /// Depends on the event.
    pub len: u32,
}

/// Bytes of a record in the hash.
const BYTES: usize = 29;
/// Records that are hashed together.
const BATCH: usize = 64;

/// The records of a run.
pub struct Trace {
    /// `None` where only the hash is wanted.
    records: Option<Vec<Record>>,
    count: u64,
    pending: Vec<u8>,
    hash: Sha256,
}

impl Trace {
    /// An empty trace. Without `keep` there is only the hash of what is added.
    pub fn new(keep: bool) -> Self {
        Self {
            records: keep.then(Vec::new),
            count: 0,
            pending: Vec::with_capacity(BATCH * BYTES),
            hash: Sha256::new(),
        }
    }

    /// Adds a record.
    pub fn add(&mut self, record: Record) {
        self.count += 1;
        self.pending.extend_from_slice(&record.at_ns.to_le_bytes());
        self.pending.extend_from_slice(&record.cpu.to_le_bytes());
        self.pending.push(record.event.code());
        let task = record.task.map_or(u32::MAX, |task| task.0);
        self.pending.extend_from_slice(&task.to_le_bytes());
        self.pending.extend_from_slice(&record.arg.to_le_bytes());
        self.pending.extend_from_slice(&record.len.to_le_bytes());
        if self.pending.len() >= BATCH * BYTES {
            self.hash.update(&self.pending);
            self.pending.clear();
        }
        if let Some(records) = &mut self.records {
            records.push(record);
        }
    }

    /// The records, if they were kept.
    pub fn records(&self) -> &[Record] {
        self.records.as_deref().unwrap_or_default()
    }

    /// How many there were, kept or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A hash of all records, as hexadecimal digits. Equal runs have equal ones.
    pub fn hash(&self) -> String {
        let mut hash = self.hash.clone();
        hash.update(&self.pending);
        let digest = hash.finalize();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the kept records as trace-event JSON; `name` gives a task's name.
    pub fn to_perfetto(
        &self,
        out: &mut dyn Write,
        name: &dyn Fn(TaskId) -> String,
    ) -> io::Result<()> {
        let mut writer = Perfetto {
            out,
            first: true,
            running: Vec::new(),
        };
        writer
            .out
            .write_all(b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
        let mut end_ns = 0;
        for record in self.records() {
            end_ns = record.at_ns;
            writer.record(record, name)?;
        }
        for cpu in 0..writer.running.len() {
            writer.finish(cpu, end_ns, name)?;
        }
        writer.out.write_all(b"\n]}\n")
    }
}

/// The state of writing a trace.
struct Perfetto<'a> {
    out: &'a mut dyn Write,
    first: bool,
    /// What runs on each CPU and since when.
    running: Vec<Option<(TaskId, u64)>>,
}

impl Perfetto<'_> {
    fn line(&mut self, event: &serde_json::Value) -> io::Result<()> {
        let comma = if self.first { "\n" } else { ",\n" };
        self.first = false;
        write!(self.out, "{comma}{event}")
    }

    fn finish(
        &mut self,
        cpu: usize,
        end_ns: u64,
        name: &dyn Fn(TaskId) -> String,
    ) -> io::Result<()> {
        let Some((task, since_ns)) = self.running[cpu].take() else {
            return Ok(());
        };
        self.line(&serde_json::json!({
            "ph": "X", "pid": 0, "tid": cpu, "name": name(task),
            "ts": us(since_ns), "dur": us(end_ns - since_ns),
        }))
    }

    fn record(&mut self, record: &Record, name: &dyn Fn(TaskId) -> String) -> io::Result<()> {
        let cpu = record.cpu as usize;
        while self.running.len() <= cpu {
            let number = self.running.len();
            self.running.push(None);
            self.line(&serde_json::json!({
                "ph": "M", "pid": 0, "tid": number, "name": "thread_name",
                "args": { "name": format!("CPU {number}") },
            }))?;
        }
        match record.event {
            Event::Switch => {
                self.finish(cpu, record.at_ns, name)?;
                self.running[cpu] = record.task.map(|task| (task, record.at_ns));
                Ok(())
            }
            Event::Insert | Event::Remove => self.line(&serde_json::json!({
                "ph": "C", "pid": 0, "name": format!("queue {:#x}", record.arg),
                "ts": us(record.at_ns), "args": { "tasks": record.len },
            })),
            Event::Callback(_) => Ok(()),
            event => {
                let what = format!("{event:?}").to_lowercase();
                let whom = record.task.map(name).unwrap_or_default();
                self.line(&serde_json::json!({
                    "ph": "i", "s": "t", "pid": 0, "tid": cpu, "ts": us(record.at_ns),
                    "name": format!("{what} {whom}").trim(), "args": { "arg": record.arg },
                }))
            }
        }
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    //! Goal: a hash that every detail changes, and JSON that a viewer accepts.
    use super::*;

    fn record(at_ns: u64, event: Event, task: Option<u32>) -> Record {
        Record {
            at_ns,
            cpu: 1,
            event,
            task: task.map(TaskId),
            arg: 7,
            len: 2,
        }
    }

    #[test]
    fn the_hash_tells_runs_apart() {
        let hash = |records: &[Record]| {
            let mut trace = Trace::new(false);
            records.iter().for_each(|&record| trace.add(record));
            assert!(trace.records().is_empty());
            (trace.hash(), trace.count())
        };
        let base = record(5, Event::Wake, Some(3));
        let many = vec![base; 200];
        assert_eq!(hash(&many), hash(&many));
        let others = [
            record(6, Event::Wake, Some(3)),
            record(5, Event::Kick, Some(3)),
            record(5, Event::Wake, None),
            Record { cpu: 0, ..base },
            Record { arg: 0, ..base },
            Record { len: 0, ..base },
        ];
        for other in others {
            let mut changed = many.clone();
            changed[199] = other;
            assert_ne!(hash(&many).0, hash(&changed).0, "{other:?}");
        }
        assert_eq!(hash(&[]).0.len(), 64);
    }

    #[test]
    fn a_viewer_gets_tracks_and_counters() {
        let mut trace = Trace::new(true);
        trace.add(record(1_000, Event::Switch, Some(3)));
        trace.add(record(2_000, Event::Insert, Some(4)));
        trace.add(record(2_500, Event::Callback(Op::Enqueue), Some(4)));
        trace.add(record(3_000, Event::Wake, Some(4)));
        trace.add(record(4_000, Event::Switch, Some(4)));
        trace.add(record(9_000, Event::Exit, Some(4)));
        let mut text = Vec::new();
        trace
            .to_perfetto(&mut text, &|task| format!("t{}", task.0))
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let phase = |ph| events.iter().filter(|e| e["ph"] == ph).count();
        assert_eq!(
            (phase("M"), phase("X"), phase("C"), phase("i")),
            (2, 2, 1, 2)
        );
        let runs: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
        assert_eq!(
            (&runs[0]["name"], &runs[0]["ts"], &runs[0]["dur"]),
            (&"t3".into(), &1.0.into(), &3.0.into())
        );
        assert_eq!(
            (&runs[1]["name"], &runs[1]["dur"]),
            (&"t4".into(), &5.0.into())
        );
    }
}
