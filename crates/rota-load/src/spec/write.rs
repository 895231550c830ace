// SPDX-License-Identifier: GPL-2.0-only
//! A workload as TOML. Keys that have their default are left out.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Affinity, Count, Group, Kind, Loop, Policy, Target, Tasks, Workload, format_duration};
use crate::spec::read::defaults;

/// The lines of one table.
struct Lines(String);

impl Lines {
    fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{key} = {value}").expect("writing to a string does not fail");
    }

    fn text(&mut self, key: &str, value: impl Into<String>) {
        self.raw(key, toml::Value::String(value.into()));
    }

    fn time(&mut self, key: &str, value: Duration) {
        self.text(key, format_duration(value));
    }

    fn time_unless(&mut self, key: &str, value: Duration, default: Duration) {
        if value != default {
            self.time(key, value);
        }
    }

    fn number_unless<T: PartialEq + std::fmt::Display>(&mut self, key: &str, value: T, default: T) {
        if value != default {
            self.raw(key, value);
        }
    }
}

pub(super) fn workload(workload: &Workload) -> String {
    let mut out = Lines(String::new());
    out.text("name", &workload.name);
    if !workload.description.is_empty() {
        out.text("description", &workload.description);
    }
    out.time_unless("duration", workload.duration, defaults::DURATION);
    out.time_unless("warmup", workload.warmup, Duration::ZERO);
    // TOML integers are signed; a seed above their range is written as text.
    match i64::try_from(workload.seed) {
        Ok(seed) => out.number_unless("seed", seed, defaults::SEED as i64),
        Err(_) => out.text("seed", workload.seed.to_string()),
    }
    for entry in &workload.groups {
        out.0.push_str("\n[[group]]\n");
        group(&mut out, entry);
    }
    out.0
}

fn group(out: &mut Lines, group: &Group) {
    out.text("name", &group.name);
    out.text("kind", group.kind.name());
    match group.count {
        Count::Fixed(count) => out.number_unless("count", count, 1),
        Count::PerCpu(count) => out.text("count", format!("{count}/cpu")),
    }
    kind(out, &group.kind);
    let storm = matches!(group.kind, Kind::ForkStorm { .. } | Kind::ExecStorm { .. });
    if group.tasks == Tasks::Processes && !storm {
        out.text("tasks", "processes");
    }
    if group.policy != Policy::Other {
        out.text("policy", group.policy.to_string());
    }
    if let Policy::Fifo(priority) | Policy::Rr(priority) = group.policy {
        out.number_unless("priority", priority, 1);
    }
    out.number_unless("nice", group.nice, 0);
    if group.affinity != Affinity::All {
        out.text("affinity", group.affinity.to_string());
    }
    out.time_unless("start", group.start, Duration::ZERO);
    if let Some(stop) = group.stop {
        out.time("stop", stop);
    }
}

fn kind(out: &mut Lines, kind: &Kind) {
    match kind {
        Kind::Loop(Loop {
            run,
            sleep,
            jitter_pct,
            wake_next,
            tokens,
            yields,
        }) => {
            out.time("run", *run);
            out.time_unless("sleep", *sleep, Duration::ZERO);
            out.number_unless("jitter", *jitter_pct, 0);
            out.number_unless("wake_next", *wake_next, false);
            out.number_unless("tokens", *tokens, 1);
            out.number_unless("yield", *yields, false);
        }
        Kind::Pipe => {}
        Kind::Messaging {
            senders,
            receivers,
            bytes,
        } => {
            out.number_unless("senders", *senders, defaults::SENDERS);
            out.number_unless("receivers", *receivers, defaults::RECEIVERS);
            out.number_unless("bytes", *bytes, defaults::MESSAGE_BYTES);
        }
        Kind::ForkStorm { outstanding, run } => {
            out.number_unless("outstanding", *outstanding, defaults::OUTSTANDING);
            out.time_unless("run", *run, Duration::ZERO);
        }
        Kind::ExecStorm { outstanding } => {
            out.number_unless("outstanding", *outstanding, defaults::OUTSTANDING);
        }
        Kind::AffinityStorm { run, target } => {
            out.time_unless("run", *run, defaults::AFFINITY_RUN);
            if *target == Target::Group {
                out.text("target", "group");
            }
        }
        Kind::Frame {
            period,
            work,
            jitter_pct,
        } => {
            out.time_unless("period", *period, defaults::FRAME_PERIOD);
            out.time("work", *work);
            out.number_unless("jitter", *jitter_pct, 0);
        }
        Kind::Probe { period } => out.time_unless("period", *period, defaults::PROBE_PERIOD),
    }
}
