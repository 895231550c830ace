// SPDX-License-Identifier: GPL-2.0-only
//! Follows a comparison while it runs: a spinner for each phase, a line of stats.

use std::collections::BTreeMap;

use rota_lab::job::{Event, Machine, Phase, Ran};

use crate::figures::number;
use crate::ui::{self, Task};

/// How many counters fit into the line.
const SHOWN: usize = 5;

/// What a run brought to light.
#[derive(Default)]
pub struct Found {
    /// The guest.
    pub machine: Machine,
    /// The runs, in order.
    pub runs: Vec<Ran>,
}

/// The state of what is shown.
pub struct Live {
    kernel: String,
    scheduler: String,
    task: Option<Task>,
    last: (f64, BTreeMap<String, f64>),
    found: Found,
}

impl Live {
    /// Shows that the kernel of this release boots.
    pub fn new(kernel: &str, scheduler: &str) -> Self {
        let task = Some(ui::spinner(format!("booting Linux {kernel}")));
        let (kernel, scheduler) = (kernel.to_owned(), scheduler.to_owned());
        Self {
            kernel,
            scheduler,
            task,
            last: Default::default(),
            found: Found::default(),
        }
    }

    /// Shows `event`, or keeps it for the end.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Phase { phase, .. } => {
                let label = match phase {
                    Phase::Kernel => "workload under the kernel's scheduler".to_owned(),
                    Phase::Attach => format!("attaching {}", self.scheduler),
                    Phase::Sched => format!("workload under {}", self.scheduler),
                    Phase::Detach => format!("detaching {}", self.scheduler),
                };
                self.next(Some(label));
            }
            Event::Stats { uptime_s, counters } => self.stats(*uptime_s, counters),
            Event::Retrying { reason } => {
                self.next(None);
                ui::note(format!("starting again: {reason}"));
                self.found = Found::default();
                self.task = Some(ui::spinner(format!("booting Linux {}", self.kernel)));
            }
            Event::Booted(machine) => self.found.machine = machine.clone(),
            Event::Ran(run) => self.found.runs.push((**run).clone()),
            _ => {}
        }
    }

    /// Ends the display.
    pub fn finish(mut self) -> Found {
        self.next(None);
        self.found
    }

    fn next(&mut self, label: Option<String>) {
        if let Some(task) = self.task.take() {
            task.done("");
        }
        self.task = label.map(ui::spinner);
    }

    fn stats(&mut self, uptime_s: f64, counters: &BTreeMap<String, f64>) {
        let line = rates(&self.last, uptime_s, counters);
        self.last = (uptime_s, counters.clone());
        if let Some(task) = &self.task {
            task.tell(line);
        }
    }
}

/// The counters that move fastest since `last`, per second.
fn rates(
    last: &(f64, BTreeMap<String, f64>),
    uptime_s: f64,
    counters: &BTreeMap<String, f64>,
) -> String {
    let seconds = (uptime_s - last.0).max(0.001);
    let before = |name: &str| last.1.get(name).copied().unwrap_or_default();
    let mut rates: Vec<(&str, f64)> = counters
        .iter()
        .map(|(name, value)| (name.as_str(), (value - before(name)) / seconds))
        .collect();
    rates.sort_by(|a, b| b.1.total_cmp(&a.1));
    rates.truncate(SHOWN);
    // By name, so that the numbers stay in their places.
    rates.sort_by_key(|(name, _)| *name);
    let words = rates
        .iter()
        .map(|(name, rate)| format!("{name} {}/s", number(*rate)));
    format!("{uptime_s:.0} s  {}", words.collect::<Vec<_>>().join("  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn rates_are_differences_by_time() {
        let last = (1.0, counters(&[("nr_kick", 10.0), ("nr_enqueue", 1000.0)]));
        let now = counters(&[("nr_kick", 12.0), ("nr_enqueue", 3000.0)]);
        assert_eq!(
            rates(&last, 3.0, &now),
            "3 s  nr_enqueue 1000/s  nr_kick 1/s"
        );
    }

    #[test]
    fn only_the_fastest_counters_are_shown() {
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let now = (1..)
            .zip(names)
            .map(|(i, name)| (name.to_owned(), f64::from(i) * 10.0));
        let line = rates(&(0.0, BTreeMap::new()), 1.0, &now.collect());
        assert_eq!(line, "1 s  c 30/s  d 40/s  e 50/s  f 60/s  g 70/s");
    }

    #[test]
    fn a_restart_forgets_what_was_found() {
        let mut live = Live::new("7.3.4", "scx_fifo");
        live.take(&Event::Ran(Box::default()));
        live.take(&Event::Retrying {
            reason: "Oops: int3".into(),
        });
        live.take(&Event::Ran(Box::default()));
        let found = live.finish();
        assert_eq!(found.runs.len(), 1);
    }
}
