// SPDX-License-Identifier: GPL-2.0-only
//! The random numbers of a workload.

use std::time::Duration;

/// The random sequence of one task.
///
/// It is part of the format: the same file with the same seed must make the same
/// decisions in the runner and in a simulator, and still do so after years of
/// updates. Hence the few fixed lines of SplitMix64 and not a crate whose
/// generator may change.
#[derive(Clone, Debug)]
pub struct Jitter {
    state: u64,
}

impl Jitter {
    /// The sequence of task `task` of group `group` under `seed`.
    pub fn new(seed: u64, group: u32, task: u32) -> Self {
        let mut mix = Self { state: seed };
        // One step between seed and position keeps neighbouring seeds from
        // sharing sequences with neighbouring tasks.
        mix.state = mix.next_u64() ^ (u64::from(group) << 32 | u64::from(task));
        mix.state = mix.next_u64();
        mix
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0; the bias is below 2^-32 for
    /// any bound that fits 32 bits.
    pub fn below(&mut self, bound: u32) -> u32 {
        let high = (u128::from(self.next_u64()) * u128::from(bound)) >> 64;
        u32::try_from(high).expect("a product shifted by 64 is below the bound")
    }

    /// `base` varied evenly by up to `percent` up or down; `percent` 0 draws no number.
    pub fn vary(&mut self, base: Duration, percent: u32) -> Duration {
        if percent == 0 {
            return base;
        }
        let ns = base.as_nanos() as u64;
        let reach = ns / 100 * u64::from(percent) + ns % 100 * u64::from(percent) / 100;
        let span = u128::from(reach) * 2 + 1;
        let offset = ((u128::from(self.next_u64()) * span) >> 64) as u64;
        Duration::from_nanos((ns + offset).saturating_sub(reach))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the sequence is a fixed part of the format and stays in its bounds.
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sequence_is_pinned() {
        let mut jitter = Jitter { state: 1_234_567 };
        // Published test vector of SplitMix64.
        assert_eq!(jitter.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(jitter.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn tasks_and_seeds_differ() {
        let first = |seed, group, task| Jitter::new(seed, group, task).next_u64();
        let all = [
            first(1, 0, 0),
            first(1, 0, 1),
            first(1, 1, 0),
            first(2, 0, 0),
            first(2, 0, 1),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(first(1, 0, 0), first(1, 0, 0));
    }

    proptest! {
        #[test]
        fn vary_stays_in_bounds(seed: u64, ns in 0u64..4_000_000_000_000, percent in 0u32..=100) {
            let varied = Jitter::new(seed, 3, 7).vary(Duration::from_nanos(ns), percent);
            let reach = u128::from(ns) * u128::from(percent) / 100;
            prop_assert!(varied.as_nanos() <= u128::from(ns) + reach);
            prop_assert!(varied.as_nanos() >= u128::from(ns) - reach);
        }

        #[test]
        fn below_is_below(seed: u64, bound in 1u32..) {
            prop_assert!(Jitter::new(seed, 0, 0).below(bound) < bound);
        }
    }
}
