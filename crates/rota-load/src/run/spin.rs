// SPDX-License-Identifier: GPL-2.0-only
//! Using CPU time without asking the clock all the time.

use std::hint::black_box;

use super::sys;

/// How many turns of an empty loop take a nanosecond, learned and kept up to date.
#[derive(Clone, Copy, Debug)]
pub struct Spinner {
    turns_per_ns: f64,
}

/// Turns of the first measurement; a fraction of a millisecond on any machine.
const FIRST_TURNS: u64 = 20_000;
/// Measurements of which the median counts. In some an interrupt may come between; in others, in
/// virtual machines, the clock may hardly move.
const ROUNDS: usize = 9;
/// More turns than any CPU does in a nanosecond: whatever is measured, a few microseconds must
/// never take seconds.
const MAX_TURNS_PER_NS: f64 = 8.0;

impl Spinner {
    /// Measures this machine.
    pub fn calibrate() -> Self {
        let measure = |_| {
            let before = sys::thread_cpu_ns();
            spin(FIRST_TURNS);
            let ns = sys::thread_cpu_ns().saturating_sub(before).max(1);
            FIRST_TURNS as f64 / ns as f64
        };
        Self {
            turns_per_ns: plausible((0..ROUNDS).map(measure).collect()),
        }
    }

    /// Spins for about `ns` and returns the number of turns, for [`Spinner::learn`].
    pub fn spin(self, ns: u64) -> u64 {
        let turns = (ns as f64 * self.turns_per_ns) as u64 + 1;
        spin(turns);
        turns
    }

    /// Takes in that `turns` took `ns` of CPU time: CPUs differ and change their speed.
    pub fn learn(&mut self, turns: u64, ns: u64) {
        if ns == 0 {
            return;
        }
        // A quarter at a time, and never by more than a factor of two: one sample
        // with an interrupt in it must not send the estimate far off.
        let sample = turns as f64 / ns as f64;
        let bounded = sample.clamp(self.turns_per_ns / 2.0, self.turns_per_ns * 2.0);
        self.turns_per_ns += (bounded - self.turns_per_ns) / 4.0;
    }

    /// Uses `ns` of the calling thread's CPU time.
    pub fn burn(self, ns: u64) {
        let end = sys::thread_cpu_ns() + ns;
        loop {
            let now = sys::thread_cpu_ns();
            if now >= end {
                return;
            }
            self.spin(end - now);
        }
    }
}

/// The median of an odd number of measurements, if a CPU can be that fast.
fn plausible(mut measured: Vec<f64>) -> f64 {
    measured.sort_by(f64::total_cmp);
    measured[measured.len() / 2].min(MAX_TURNS_PER_NS)
}

fn spin(turns: u64) {
    for turn in 0..turns {
        black_box(turn);
    }
}

#[cfg(test)]
mod tests {
    //! Goal: CPU time used is what was asked for, whatever the estimate is.
    use super::*;

    #[test]
    fn burns_at_least_what_was_asked() {
        for factor in [0.01, 1.0, 3.0] {
            let measured = Spinner::calibrate().turns_per_ns;
            let before = sys::thread_cpu_ns();
            Spinner {
                turns_per_ns: measured * factor,
            }
            .burn(2_000_000);
            assert!(sys::thread_cpu_ns() - before >= 2_000_000);
        }
    }

    #[test]
    fn a_clock_that_stands_still_is_not_believed() {
        let stood = FIRST_TURNS as f64;
        assert_eq!(plausible(vec![0.3, stood, 0.31, 0.02, 0.3]), 0.3);
        assert_eq!(plausible(vec![stood; ROUNDS]), MAX_TURNS_PER_NS);
    }

    #[test]
    fn learns_toward_the_truth() {
        let mut spinner = Spinner { turns_per_ns: 1.0 };
        for _ in 0..100 {
            spinner.learn(5_000, 1_000);
        }
        assert!((spinner.turns_per_ns - 5.0).abs() < 0.01);
        spinner.learn(5_000, 0);
        assert!(spinner.turns_per_ns.is_finite());
    }
}
