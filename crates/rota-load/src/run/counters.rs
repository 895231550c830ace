// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel counts about the calling task.

use nix::sys::resource::{Usage, UsageWho, getrusage};

use super::sys;
use super::task::Figures;

/// The kernel's numbers at one moment; all of them only grow.
pub struct Counters {
    cpu: CpuTime,
    counts: Counts,
}

struct CpuTime {
    own_ns: u64,
    /// Of children that ended and were reaped.
    children_ns: u64,
}

struct Counts {
    switches: u64,
    involuntary: u64,
    migrations: Option<u64>,
}

impl Counters {
    /// For the beginning of a measurement: the CPU time is read last, so that the
    /// cost of reading the rest is not part of what is measured.
    pub fn at_begin() -> Self {
        let counts = Counts::now();
        Self {
            counts,
            cpu: CpuTime::now(),
        }
    }

    /// For the end of a measurement: the CPU time is read first.
    pub fn at_end() -> Self {
        let cpu = CpuTime::now();
        Self {
            cpu,
            counts: Counts::now(),
        }
    }

    /// The part of the CPU time `own_ns` that the calling task used since.
    pub fn cpu_since(&self, own_ns: u64) -> u64 {
        own_ns.saturating_sub(self.cpu.own_ns)
    }

    /// Writes what has happened since `begin` into `figures`.
    pub fn since(&self, begin: &Self, figures: &mut Figures) {
        let children_ns = self.cpu.children_ns - begin.cpu.children_ns;
        figures.cpu_ns = self.cpu.own_ns - begin.cpu.own_ns + children_ns;
        figures.switches = self.counts.switches - begin.counts.switches;
        figures.involuntary_switches = self.counts.involuntary - begin.counts.involuntary;
        figures.kernel_migrations = match (begin.counts.migrations, self.counts.migrations) {
            (Some(begin), Some(end)) => Some(end.saturating_sub(begin)),
            _ => None,
        };
    }
}

fn usage(who: UsageWho) -> Usage {
    getrusage(who).expect("both kinds are valid on Linux")
}

impl CpuTime {
    fn now() -> Self {
        // Only storms have children, and each of them is a process of its own.
        let children = usage(UsageWho::RUSAGE_CHILDREN);
        let times = [children.user_time(), children.system_time()];
        let us: i64 = times
            .iter()
            .map(|time| time.tv_sec() * 1_000_000 + time.tv_usec())
            .sum();
        let children_ns = u64::try_from(us).unwrap_or(0) * 1000;
        Self {
            children_ns,
            own_ns: sys::thread_cpu_ns(),
        }
    }
}

impl Counts {
    fn now() -> Self {
        let own = usage(UsageWho::RUSAGE_THREAD);
        let count = |n| u64::try_from(n).unwrap_or(0);
        let involuntary = count(own.involuntary_context_switches());
        Self {
            switches: count(own.voluntary_context_switches()) + involuntary,
            involuntary,
            migrations: migrations(),
        }
    }
}

/// Migrations of the calling thread; kernels without CONFIG_SCHED_DEBUG do not show
/// the number.
fn migrations() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("se.nr_migrations"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    //! Goal: the numbers move when the task gives them reason to.
    use super::*;
    use crate::run::spin::Spinner;
    use std::time::Duration;

    #[test]
    fn work_sleep_and_children_are_counted() {
        let spinner = Spinner::calibrate();
        let begin = Counters::at_begin();
        spinner.burn(3_000_000);
        std::thread::sleep(Duration::from_millis(1));
        let child = sys::fork(|| {
            spinner.burn(5_000_000);
            0
        });
        nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
        let mut figures = Figures::default();
        Counters::at_end().since(&begin, &mut figures);
        assert!(figures.cpu_ns >= 8_000_000 - 10_000, "{figures:?}");
        assert!(figures.switches >= 1, "{figures:?}");
        assert!(
            figures.involuntary_switches <= figures.switches,
            "{figures:?}"
        );
    }
}
