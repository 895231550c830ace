// SPDX-License-Identifier: GPL-2.0-only
//! What guests and model say side by side, and whether that is alike.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rota_load::report::Latency;

use super::Groups;

/// How far shares may differ, in percent of the machine's CPU time.
const TOLERANCE_PCT: f64 = 3.0;
/// Latencies of two schedulers that differ by less in a guest are not compared.
const MUCH: f64 = 2.0;

/// What one side says about a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Side {
    /// CPUs' worth.
    share: f64,
    /// 99th percentile, if it wakes up at all.
    wakeup_us: Option<f64>,
}

impl Side {
    pub fn new(share: f64, wakeup: Option<Latency>) -> Self {
        Self {
            share,
            wakeup_us: wakeup.map(|latency| latency.p99),
        }
    }
}

/// A group of a workload on a machine under all schedulers.
#[derive(Debug)]
pub struct Row {
    topology: String,
    cpus: usize,
    workload: String,
    group: String,
    /// Guest and model by scheduler; nothing where it has not run.
    sides: BTreeMap<String, (Side, Side)>,
}

impl Row {
    /// The groups of a workload that ran under the same schedulers in a guest and in the model.
    pub fn all(
        topology: &str,
        cpus: usize,
        workload: &str,
        guest: &BTreeMap<String, Groups>,
        model: &BTreeMap<String, Groups>,
    ) -> Vec<Self> {
        let mut rows: BTreeMap<&str, Self> = BTreeMap::new();
        for (sched, groups) in guest {
            for (group, &side) in groups {
                let modelled = model.get(sched).and_then(|groups| groups.get(group));
                let row = rows.entry(group).or_insert_with(|| Self {
                    topology: topology.to_owned(),
                    cpus,
                    workload: workload.to_owned(),
                    group: group.clone(),
                    sides: BTreeMap::new(),
                });
                if let Some(&modelled) = modelled {
                    row.sides.insert(sched.clone(), (side, modelled));
                }
            }
        }
        rows.into_values().collect()
    }

    /// How far the shares under a scheduler differ, in percent of the machine.
    fn off_pct(&self, (guest, model): &(Side, Side)) -> f64 {
        (model.share - guest.share).abs() / self.cpus as f64 * 100.0
    }

    fn worst_pct(&self) -> f64 {
        let off = self.sides.values().map(|sides| self.off_pct(sides));
        off.fold(0.0, f64::max)
    }

    /// Pairs of schedulers of which the first has much longer latencies in the guest, and whether it
    /// has longer ones in the model.
    fn orders(&self) -> Vec<(&str, &str, bool)> {
        let waits: Vec<(&str, f64, f64)> = self
            .sides
            .iter()
            .filter_map(|(sched, (guest, model))| {
                Some((sched.as_str(), guest.wakeup_us?, model.wakeup_us?))
            })
            .collect();
        let pairs = waits
            .iter()
            .flat_map(|long| waits.iter().map(move |short| (long, short)));
        pairs
            .filter(|(long, short)| long.1 > short.1 * MUCH)
            .map(|(long, short)| (long.0, short.0, long.2 > short.2))
            .collect()
    }
}

/// Whether a share is too far off.
pub fn fails(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.worst_pct() > TOLERANCE_PCT)
}

/// Everything, in Markdown.
pub fn text(kernel: &str, seconds: f64, scheds: &[String], rows: &[Row]) -> String {
    let mut text = format!(
        "Linux {kernel} in guests with counted time, {seconds} s each, and the model of it.\n\n\
         CPUs' worth, guest / model; off: the largest difference in % of the machine, of which \
         {TOLERANCE_PCT} are allowed.\n\n"
    );
    let columns = scheds.join(" | ");
    let lines = "---|".repeat(scheds.len());
    let _ = writeln!(text, "| machine | workload | group | {columns} | off |");
    let _ = writeln!(text, "|---|---|---|{lines}---:|");
    for row in rows {
        let cells = row.cells(scheds, |side| format!("{:.2}", side.share));
        let off = row.worst_pct();
        let mark = if off > TOLERANCE_PCT { " (!)" } else { "" };
        let _ = writeln!(text, "{} {cells} | {off:.1}{mark} |", row.head());
    }
    let _ = writeln!(
        text,
        "\nWake-up latencies, 99th percentile in us, guest / model.\n"
    );
    let _ = writeln!(text, "| machine | workload | group | {columns} |");
    let _ = writeln!(text, "|---|---|---|{lines}");
    let wait = |side: &Side| side.wakeup_us.map_or("-".into(), |us| format!("{us:.0}"));
    for row in rows.iter().filter(|row| row.wakes()) {
        let _ = writeln!(text, "{} {} |", row.head(), row.cells(scheds, wait));
    }
    let orders: Vec<_> = rows
        .iter()
        .flat_map(|row| row.orders().into_iter().map(move |order| (row, order)))
        .collect();
    let alike = orders.iter().filter(|(_, order)| order.2).count();
    let _ = writeln!(
        text,
        "\nOf {} pairs of schedulers whose latencies differ by more than {MUCH} times in a guest, \
         {alike} are in the same order in the model.",
        orders.len()
    );
    for (row, (long, short, _)) in orders.iter().filter(|(_, order)| !order.2) {
        let _ = writeln!(
            text,
            "Not so: {} of {} on {}, {long} above {short}.",
            row.group, row.workload, row.topology
        );
    }
    text
}

impl Row {
    fn head(&self) -> String {
        format!("| {} | {} | {} |", self.topology, self.workload, self.group)
    }

    fn cells(&self, scheds: &[String], show: impl Fn(&Side) -> String) -> String {
        let cells = scheds.iter().map(|sched| match self.sides.get(sched) {
            Some((guest, model)) => format!("{} / {}", show(guest), show(model)),
            None => "-".into(),
        });
        cells.collect::<Vec<_>>().join(" | ")
    }

    fn wakes(&self) -> bool {
        let sides = self.sides.values();
        let mut sides = sides.flat_map(|(guest, model)| [guest, model]);
        sides.any(|side| side.wakeup_us.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(share: f64, wakeup_us: f64) -> Side {
        Side {
            share,
            wakeup_us: Some(wakeup_us),
        }
    }

    fn rows(share: f64, modelled_us: f64) -> Vec<Row> {
        let groups = |side| Groups::from([("g".to_owned(), side)]);
        let guest = BTreeMap::from([
            ("a".to_owned(), groups(side(1.0, 100.0))),
            ("b".to_owned(), groups(side(0.5, 10.0))),
        ]);
        let model = BTreeMap::from([
            ("a".to_owned(), groups(side(share, modelled_us))),
            ("b".to_owned(), groups(side(0.5, 50.0))),
        ]);
        Row::all("1x2x1", 2, "w", &guest, &model)
    }

    fn shown(rows: &[Row]) -> String {
        text("7.3.4", 3.0, &["a".to_owned(), "b".to_owned()], rows)
    }

    #[test]
    fn shares_may_differ_by_so_much_and_no_more() {
        let near = rows(1.05, 60.0);
        assert!(!fails(&near));
        let text = shown(&near);
        assert!(
            text.contains("| 1x2x1 | w | g | 1.00 / 1.05 | 0.50 / 0.50 | 2.5 |"),
            "{text}"
        );
        let far = rows(0.9, 60.0);
        assert!(fails(&far));
        assert!(shown(&far).contains("| 5.0 (!) |"));
    }

    #[test]
    fn who_waits_much_longer_in_a_guest_waits_longer_in_the_model() {
        let text = shown(&rows(1.0, 60.0));
        assert!(text.contains("Of 1 pairs of schedulers"), "{text}");
        assert!(text.contains("2 times in a guest, 1 are"), "{text}");
        let text = shown(&rows(1.0, 40.0));
        assert!(
            text.contains("Not so: g of w on 1x2x1, a above b."),
            "{text}"
        );
    }
}
