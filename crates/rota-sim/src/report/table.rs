// SPDX-License-Identifier: GPL-2.0-only
//! The report as text.

use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::Report;

/// Callbacks and queues that are shown; the rest is in the JSON.
const ROWS_MAX: usize = 24;

/// A table whose columns but the first are numbers.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn or_dash(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} on {} ({} CPUs), workload {}, {:.3} s: {}",
            self.policy, self.machine, self.cpus, self.workload, self.seconds, self.figures
        )?;
        if let Some(exit) = &self.exit {
            let (reason, message) = (&exit.reason, &exit.message);
            writeln!(f, "ENDED after {:.3} ms: {reason} ({message})", exit.at_ms)?;
        }
        writeln!(f, "{}", self.groups_table())?;
        let m = &self.machine_totals;
        writeln!(
            f,
            "busy {:.2} %, {} wake-ups ({} % to an idle CPU where one was), lost {:.4} % (longest \
             {:.1} us), {} kicks, {} switches, {} waits for run queues",
            m.busy_pct,
            m.wakeups,
            or_dash(m.to_idle_pct, 2),
            m.lost_pct,
            m.longest_lost_us,
            m.kicks,
            m.switches,
            m.rq_lock_waits,
        )?;
        writeln!(f, "{}", self.callbacks_table())?;
        if !self.queues.is_empty() {
            writeln!(f, "{}", self.queues_table())?;
        }
        write!(f, "trace {}", self.trace_hash)
    }
}

impl Report {
    fn groups_table(&self) -> Table {
        let mut table = table(&[
            "group",
            "tasks",
            "weight",
            "CPUs",
            "ideal",
            "worst",
            "lag",
            "ops/s",
            "misses",
            "wake p50 us",
            "p99",
            "wait ms",
            "/bound",
            "moves",
            "far",
        ]);
        for group in &self.groups {
            let moves = &group.moves;
            table.add_row([
                group.name.clone(),
                group.tasks.to_string(),
                group.weight.to_string(),
                format!("{:.4}", group.share),
                or_dash(group.ideal_share, 4),
                or_dash(group.worst_share, 4),
                or_dash(group.lag_slices, 2),
                format!("{:.1}", group.ops_per_s),
                group.misses.to_string(),
                or_dash(group.wakeup_us.map(|us| us.p50), 1),
                or_dash(group.wakeup_us.map(|us| us.p99), 1),
                format!("{:.2}", group.longest_wait_ms),
                or_dash(group.wait_over_bound, 2),
                (moves.smt + moves.llc).to_string(),
                (moves.node + moves.far).to_string(),
            ]);
        }
        table
    }

    fn callbacks_table(&self) -> Table {
        let mut table = table(&["callback", "calls", "insns", "max"]);
        for callback in self.callbacks.iter().take(ROWS_MAX) {
            table.add_row([
                callback.name.clone(),
                callback.calls.to_string(),
                format!("{:.1}", callback.insns_mean),
                callback.insns_max.to_string(),
            ]);
        }
        table
    }

    /// The queues with most use of their locks.
    fn queues_table(&self) -> Table {
        let mut table = table(&[
            "queue",
            "locked",
            "bounced %",
            "contended %",
            "waited us",
            "longest",
            "mean",
        ]);
        let mut queues: Vec<_> = self.queues.iter().collect();
        queues.sort_by_key(|queue| std::cmp::Reverse(queue.taken));
        for queue in queues.into_iter().take(ROWS_MAX) {
            table.add_row([
                queue.dsq.clone(),
                queue.taken.to_string(),
                format!("{:.1}", queue.bounced_pct),
                format!("{:.2}", queue.contended_pct),
                format!("{:.1}", queue.waited_us),
                queue.longest.to_string(),
                format!("{:.2}", queue.mean_length),
            ]);
        }
        table
    }
}
