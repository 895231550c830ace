// SPDX-License-Identifier: GPL-2.0-only
//! `bench/cost.toml`: the accepted figures, and how others differ from them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use rota_lab::job::Costs;
use serde::{Deserialize, Serialize};

use crate::{stop, ui};

/// The kernel's own scheduler in the table and the file.
pub const KERNEL_SCHED: &str = "eevdf";

/// A figure may be worse by this much: more is a change of the code, not of where it lies.
const TOLERANCE: f64 = 0.02;
/// A callback's calls are not alike (a tick finds tasks that wait or finds none), and how many of each
/// kind there are is chance where there are few: a mean of N calls, which differ by about that mean, is
/// known to 1/sqrt(N) of it. At 200 ticks that is 7 %, and less than [`TOLERANCE`] from 2500 calls on.
fn scatter(calls: u64) -> f64 {
    1.0 / (calls.max(1) as f64).sqrt()
}

/// What begins just after a tick may end just before one or just after: at 250 Hz, 4 ms.
const TICK_MS: f64 = 4.0;

const HEAD: &str = "\
# SPDX-License-Identifier: GPL-2.0-only
#
# What the schedulers cost, as accepted; `cargo xtask cost` compares with it, and with
# `--accept REASON` writes it. pipe and messaging: instructions for each operation; callbacks:
# instructions for each call; attach_ms and detach_ms: virtual milliseconds.
";

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Why the figures are what they are.
    #[serde(default)]
    pub reason: String,
    /// What they were made with.
    pub made: Option<Made>,
    /// By scheduler.
    #[serde(default)]
    pub costs: BTreeMap<String, Costs>,
}

/// Everything but the sources that figures depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// `uname -r` of the guest.
    pub kernel: String,
    /// The emulator; it decides what the guest's CPU can do.
    pub qemu: String,
    /// The compiler of the BPF side.
    pub clang: String,
    /// The compiler of the rest.
    pub rustc: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Linux {}, {}, {}, {}",
            self.kernel, self.qemu, self.clang, self.rustc
        )
    }
}

/// A figure that differs from the accepted one.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    sched: String,
    figure: String,
    then: Option<f64>,
    now: Option<f64>,
    worse: bool,
}

impl Change {
    /// Whether it must not be so.
    pub fn is_worse(&self) -> bool {
        self.worse
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sched, figure, .. } = self;
        match (self.then, self.now) {
            (Some(then), Some(now)) => {
                let percent = (now / then - 1.0) * 100.0;
                let word = match self.worse {
                    true => "worse",
                    false if now > then => "not ours",
                    false => "better",
                };
                write!(
                    f,
                    "{sched}: {figure} {then:.0} -> {now:.0}, {percent:+.1} %, {word}"
                )
            }
            (None, Some(now)) => write!(f, "{sched}: {figure} {now:.0}, none was accepted"),
            (then, None) => write!(
                f,
                "{sched}: {figure} {:.0} is gone",
                then.unwrap_or_default()
            ),
        }
    }
}

impl Ledger {
    /// Reads the file; one that is not there accepts nothing.
    pub fn load(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Writes the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = HEAD.to_owned() + "\n" + &toml::to_string(self).context("writing TOML")?;
        let dir = path.parent().map_or(Ok(()), fs::create_dir_all);
        dir.and_then(|()| fs::write(path, text))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// With the figures in `measured`: instead of all that were, or of the same schedulers' alone,
    /// which must then have been made with the same.
    pub fn accept(
        mut self,
        made: Made,
        measured: BTreeMap<String, Costs>,
        reason: String,
        all: bool,
    ) -> Result<Self> {
        self.require_same(&made, all)?;
        if all {
            self.costs.clear();
        }
        self.costs.extend(
            measured
                .into_iter()
                .map(|(name, costs)| (name, rounded(costs))),
        );
        self.made = Some(made);
        self.reason = reason;
        Ok(self)
    }

    /// Refuses figures of some schedulers that were not made with the same as the others.
    pub fn require_same(&self, made: &Made, all: bool) -> Result<()> {
        if all || self.made.as_ref() == Some(made) {
            return Ok(());
        }
        Err(stop::usage(
            "the other figures were made with something else: accept all, without --sched",
        ))
    }

    /// How the `costs` of `sched` differ from the accepted ones, beyond the tolerance.
    pub fn changes(&self, sched: &str, costs: &Costs) -> Vec<Change> {
        let then = self.costs.get(sched).map(figures).unwrap_or_default();
        let now = figures(costs);
        let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
        let change = |figure: &String| {
            let (then, now) = (then.get(figure).copied(), now.get(figure).copied());
            let worse = match (then, now) {
                (Some(then), Some(now)) => {
                    let scatter = costs.calls.get(figure).map_or(0.0, |calls| scatter(*calls));
                    let slack = match figure.ends_with("_ms") {
                        true => TICK_MS,
                        false => then * scatter,
                    };
                    let limit = (then * TOLERANCE).max(slack);
                    if (now - then).abs() <= limit {
                        return None;
                    }
                    // The kernel's own differs by the moments that the benches meet, and is nobody's
                    // to mend here.
                    now > then && sched != KERNEL_SCHED
                }
                // A figure that comes or goes is somebody's decision, to be written down.
                _ => true,
            };
            Some(Change {
                sched: sched.into(),
                figure: figure.clone(),
                then,
                now,
                worse,
            })
        };
        names.into_iter().filter_map(change).collect()
    }
}

/// All figures by name.
fn figures(costs: &Costs) -> BTreeMap<String, f64> {
    let callbacks = costs
        .callbacks
        .iter()
        .map(|(name, value)| (name.clone(), *value));
    let mut all: BTreeMap<String, f64> = callbacks.collect();
    all.insert("pipe".into(), costs.pipe);
    all.insert("messaging".into(), costs.messaging);
    all.extend(costs.attach_ms.map(|value| ("attach_ms".into(), value)));
    all.extend(costs.detach_ms.map(|value| ("detach_ms".into(), value)));
    all
}

/// As they are written: more digits, or how often chance called what, would only make diffs.
fn rounded(mut costs: Costs) -> Costs {
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    costs.pipe = tenth(costs.pipe);
    costs.messaging = tenth(costs.messaging);
    costs
        .callbacks
        .values_mut()
        .for_each(|value| *value = tenth(*value));
    costs.calls.clear();
    costs.attach_ms = costs.attach_ms.map(tenth);
    costs.detach_ms = costs.detach_ms.map(tenth);
    costs
}

/// Prints the figures: operations with their ratio to the kernel's own scheduler, then callbacks.
pub fn print(measured: &BTreeMap<String, Costs>) {
    let own = measured.get(KERNEL_SCHED);
    let header = [
        "scheduler",
        "pipe",
        "ratio",
        "messaging",
        "ratio",
        "attach ms",
        "detach ms",
    ];
    let mut table = ui::table(&header);
    let ratio = |value: f64, own: Option<f64>| {
        own.map_or_else(String::new, |own| format!("{:.3}", value / own))
    };
    let milliseconds = |value: Option<f64>| value.map_or_else(String::new, |ms| format!("{ms:.0}"));
    for (name, costs) in measured {
        table.add_row([
            name.clone(),
            format!("{:.0}", costs.pipe),
            ratio(costs.pipe, own.map(|own| own.pipe)),
            format!("{:.0}", costs.messaging),
            ratio(costs.messaging, own.map(|own| own.messaging)),
            milliseconds(costs.attach_ms),
            milliseconds(costs.detach_ms),
        ]);
    }
    ui::print_table(&table);
    ui::out("");

    let schedulers: Vec<(&String, &Costs)> = measured
        .iter()
        .filter(|(_, costs)| !costs.callbacks.is_empty())
        .collect();
    let names = schedulers.iter().map(|(name, _)| name.as_str());
    let mut table = ui::table(&["callback"].into_iter().chain(names).collect::<Vec<_>>());
    let callbacks: BTreeSet<&String> = schedulers
        .iter()
        .flat_map(|(_, costs)| costs.callbacks.keys())
        .collect();
    for callback in callbacks {
        let cells = schedulers.iter().map(|(_, costs)| {
            let value = costs.callbacks.get(callback);
            value.map_or_else(String::new, |value| format!("{value:.0}"))
        });
        table.add_row([callback.clone()].into_iter().chain(cells));
    }
    ui::print_table(&table);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(pipe: f64, enqueue: f64) -> Costs {
        Costs {
            pipe,
            messaging: 5000.0,
            callbacks: [("enqueue".to_owned(), enqueue)].into(),
            calls: [("enqueue".to_owned(), 40_000)].into(),
            attach_ms: Some(100.0),
            detach_ms: Some(90.0),
        }
    }

    fn ledger(costs: Costs) -> Ledger {
        let measured = [("scx_vtime".to_owned(), costs)].into();
        Ledger::default()
            .accept(Made::default(), measured, "first".into(), true)
            .unwrap()
    }

    #[test]
    fn more_than_two_percent_is_a_change() {
        let accepted = ledger(costs(10_000.0, 300.0));
        let changes = |pipe, enqueue| accepted.changes("scx_vtime", &costs(pipe, enqueue));
        assert_eq!(changes(10_199.0, 294.1), []);
        let worse = changes(10_201.0, 300.0);
        assert!(worse[0].is_worse());
        assert_eq!(
            worse[0].to_string(),
            "scx_vtime: pipe 10000 -> 10201, +2.0 %, worse"
        );
        let better = changes(10_000.0, 200.0);
        assert!(!better[0].is_worse());
        assert_eq!(
            better[0].to_string(),
            "scx_vtime: enqueue 300 -> 200, -33.3 %, better"
        );
    }

    #[test]
    fn what_is_seldom_called_may_differ_by_chance() {
        let accepted = ledger(costs(10_000.0, 300.0));
        let changes = |enqueue, calls| {
            let mut now = costs(10_000.0, enqueue);
            now.calls.insert("enqueue".into(), calls);
            accepted.changes("scx_vtime", &now)
        };
        assert_eq!(changes(320.0, 200), []);
        assert!(changes(322.0, 200)[0].is_worse());
        assert!(changes(320.0, 400)[0].is_worse());
        assert!(changes(307.0, 1_000_000)[0].is_worse());
    }

    #[test]
    fn the_kernels_own_scheduler_is_told_of_and_not_judged() {
        let then = costs(10_000.0, 300.0);
        let mut accepted = ledger(then.clone());
        accepted.costs.insert(KERNEL_SCHED.to_owned(), then);
        let changes = accepted.changes(KERNEL_SCHED, &costs(10_300.0, 300.0));
        assert!(!changes[0].is_worse());
        assert_eq!(
            changes[0].to_string(),
            "eevdf: pipe 10000 -> 10300, +3.0 %, not ours"
        );
    }

    #[test]
    fn a_time_may_differ_by_a_tick() {
        let accepted = ledger(costs(1.0, 1.0));
        let mut now = costs(1.0, 1.0);
        now.detach_ms = Some(93.9);
        assert_eq!(accepted.changes("scx_vtime", &now), []);
        now.detach_ms = Some(94.1);
        assert!(accepted.changes("scx_vtime", &now)[0].is_worse());
    }

    #[test]
    fn figures_that_come_or_go_must_be_accepted() {
        let accepted = ledger(costs(1.0, 1.0));
        assert!(
            accepted
                .changes("scx_new", &costs(1.0, 1.0))
                .iter()
                .all(Change::is_worse)
        );
        let mut now = costs(1.0, 1.0);
        now.callbacks.clear();
        let changes = accepted.changes("scx_vtime", &now);
        assert_eq!(changes[0].to_string(), "scx_vtime: enqueue 1 is gone");
        assert!(changes[0].is_worse());
    }

    #[test]
    fn some_can_be_accepted_only_beside_figures_of_the_same_making() {
        let old = ledger(costs(1.0, 1.0));
        let one = || [("scx_fifo".to_owned(), costs(2.04, 3.0))].into();
        let both = old
            .clone()
            .accept(Made::default(), one(), "second".into(), false)
            .unwrap();
        assert_eq!(both.costs.len(), 2);
        assert_eq!(both.costs["scx_fifo"].pipe, 2.0);
        let other = Made {
            kernel: "9.9".into(),
            ..Made::default()
        };
        let error = old.accept(other, one(), "third".into(), false).unwrap_err();
        assert_eq!(stop::code_of(&error), 2);
    }

    #[test]
    fn the_file_keeps_what_was_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bench/cost.toml");
        assert_eq!(Ledger::load(&path).unwrap(), Ledger::default());
        let accepted = ledger(costs(10_000.0, 300.0));
        accepted.save(&path).unwrap();
        assert_eq!(Ledger::load(&path).unwrap(), accepted);
        fs::write(&path, "made = 3\n").unwrap();
        assert!(
            Ledger::load(&path)
                .unwrap_err()
                .to_string()
                .contains("cost.toml")
        );
    }
}
