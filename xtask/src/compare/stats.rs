// SPDX-License-Identifier: GPL-2.0-only
//! What several rounds say about a figure, and when two schedulers differ in it.

use serde::Serialize;

use crate::figures::Better;

/// With fewer rounds than this there is no verdict: ranges of two values miss each other by chance
/// in one of three cases.
pub const ROUNDS_MIN: usize = 3;

/// A figure over the rounds. The spread is the whole range, from the lowest to the highest value:
/// with a handful of rounds, anything narrower would hide half of what was seen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The value in each round, in the order of the rounds.
    pub samples: Vec<f64>,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Summary {
    /// Of at least one value; nothing where there is none.
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            samples,
            median,
            min,
            max,
        })
    }

    /// Whether some value can lie in both ranges; ranges that touch do.
    fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

/// How a scheduler compares with the kernel's own in one figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every round was better than every round of the kernel's own scheduler.
    Better,
    /// Every round was worse than every round of the kernel's own scheduler.
    Worse,
    /// The ranges overlap: what there is of a difference is within the spread.
    NoDifference,
}

impl Verdict {
    /// The word in a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoDifference => "no difference",
        }
    }
}

/// Judges `other` against `base`, the kernel's own.
///
/// It is better, or worse, only if the ranges do not overlap, so if its worst round was better than
/// the best of `base`, or the other way about. The size of the difference does not matter. Were both
/// the same in truth, n rounds each would come out so by chance in 2 / C(2n, n) of all cases: 1 in
/// 10 for three rounds, 1 in 126 for five.
///
/// There is no verdict on a figure without a better side, nor with fewer than [`ROUNDS_MIN`] rounds
/// of either: a range of one value is no spread.
pub fn verdict(base: &Summary, other: &Summary, better: Option<Better>) -> Option<Verdict> {
    let better = better?;
    if base.samples.len().min(other.samples.len()) < ROUNDS_MIN {
        return None;
    }
    if base.overlaps(other) {
        return Some(Verdict::NoDifference);
    }
    let higher = other.min > base.max;
    Some(if higher == (better == Better::Higher) {
        Verdict::Better
    } else {
        Verdict::Worse
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[f64]) -> Summary {
        Summary::of(samples.to_vec()).unwrap()
    }

    #[test]
    fn the_median_is_in_the_middle_and_the_spread_is_the_range() {
        let odd = of(&[9.0, 1.0, 4.0]);
        assert_eq!((odd.median, odd.min, odd.max), (4.0, 1.0, 9.0));
        assert_eq!(odd.samples, [9.0, 1.0, 4.0]);
        assert_eq!(of(&[4.0, 1.0, 2.0, 9.0]).median, 3.0);
        assert_eq!(of(&[5.0]).median, 5.0);
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn ranges_that_do_not_overlap_are_a_verdict_by_the_side_that_is_better() {
        let (low, high) = (of(&[1.0, 2.0, 3.0]), of(&[3.1, 4.0, 5.0]));
        let judge = |base, other, better| verdict(base, other, Some(better)).unwrap();
        assert_eq!(judge(&low, &high, Better::Higher), Verdict::Better);
        assert_eq!(judge(&low, &high, Better::Lower), Verdict::Worse);
        assert_eq!(judge(&high, &low, Better::Higher), Verdict::Worse);
        assert_eq!(judge(&high, &low, Better::Lower), Verdict::Better);
    }

    #[test]
    fn ranges_that_overlap_or_touch_are_no_difference() {
        let base = of(&[1.0, 2.0, 3.0]);
        for other in [
            [3.0, 4.0, 5.0],
            [0.0, 1.5, 9.0],
            [1.0, 2.0, 3.0],
            [0.0, 0.5, 1.0],
        ] {
            let judged = verdict(&base, &of(&other), Some(Better::Higher));
            assert_eq!(judged, Some(Verdict::NoDifference), "{other:?}");
        }
    }

    #[test]
    fn there_is_no_verdict_without_a_better_side_or_enough_rounds() {
        let (base, other) = (of(&[1.0, 2.0, 3.0]), of(&[7.0, 8.0, 9.0]));
        assert_eq!(verdict(&base, &other, None), None);
        let few = of(&[7.0, 8.0]);
        assert_eq!(verdict(&base, &few, Some(Better::Higher)), None);
        assert_eq!(verdict(&few, &base, Some(Better::Higher)), None);
    }
}
