// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the arithmetic of bpf-common is right for every input a policy can
//! meet. Method: the headers are compiled for the host and checked against
//! 128-bit arithmetic over random inputs, wrap-around included.

use proptest::prelude::*;
use rota_build as _; // links the compiled headers

unsafe extern "C" {
    fn pure_vtime_before(a: u64, b: u64) -> bool;
    fn pure_vtime_scale(run_ns: u64, weight: u32) -> u64;
    fn pure_vtime_clamp(vtime: u64, clock: u64, behind: u64, ahead: u64) -> u64;
    fn pure_vtime_carry(vtime: u64, from: u64, to: u64) -> u64;
    fn pure_bit_lowest(bits: u64) -> u32;
    fn pure_bit_highest(bits: u64) -> u32;
    fn pure_bit_count(bits: u64) -> u32;
}

fn before(a: u64, b: u64) -> bool {
    // SAFETY: a pure function of its arguments.
    unsafe { pure_vtime_before(a, b) }
}

fn scale(run_ns: u64, weight: u32) -> u64 {
    // SAFETY: a pure function of its arguments.
    unsafe { pure_vtime_scale(run_ns, weight) }
}

fn clamp(vtime: u64, clock: u64, behind: u64, ahead: u64) -> u64 {
    // SAFETY: a pure function of its arguments.
    unsafe { pure_vtime_clamp(vtime, clock, behind, ahead) }
}

proptest! {
    #[test]
    fn carry_keeps_the_distance(vtime: u64, from: u64, to: u64) {
        // SAFETY: a pure function of its arguments.
        let carried = unsafe { pure_vtime_carry(vtime, from, to) };
        prop_assert_eq!(carried.wrapping_sub(to), vtime.wrapping_sub(from));
    }

    #[test]
    fn bits_are_found_and_counted(bits in 1..=u64::MAX, zeros in 0..64u32) {
        let low = bits << zeros | 1 << zeros;
        let high = bits >> zeros | 1;
        // SAFETY: pure functions of their arguments.
        let (lowest, highest) = unsafe { (pure_bit_lowest(low), pure_bit_highest(high)) };
        prop_assert_eq!(lowest, low.trailing_zeros());
        prop_assert_eq!(highest, 63 - high.leading_zeros());
        // SAFETY: a pure function of its argument.
        prop_assert_eq!(unsafe { pure_bit_count(low) }, low.count_ones());
    }

    #[test]
    fn before_orders_across_the_wrap(a: u64, distance in 1..1u64 << 63) {
        prop_assert!(before(a, a.wrapping_add(distance)));
        prop_assert!(!before(a.wrapping_add(distance), a));
        prop_assert!(!before(a, a));
    }

    #[test]
    fn scale_is_exact(run_ns in 0..1u64 << 57, weight in 1..=10_000u32) {
        let exact = u128::from(run_ns) * 100 / u128::from(weight);
        prop_assert_eq!(u128::from(scale(run_ns, weight)), exact);
    }

    #[test]
    fn scale_of_weight_zero_does_not_trap(run_ns in 0..1u64 << 50) {
        prop_assert_eq!(scale(run_ns, 0), run_ns * 100);
    }

    #[test]
    fn clamp_stays_near_the_clock(
        clock: u64,
        offset in -(1i64 << 62)..1i64 << 62,
        behind in 0..1u64 << 61,
        ahead in 0..1u64 << 61,
    ) {
        let vtime = clock.wrapping_add_signed(offset);
        let clamped = clamp(vtime, clock, behind, ahead);
        let expected = i128::from(offset).clamp(-i128::from(behind), i128::from(ahead));
        prop_assert_eq!(i128::from(clamped.wrapping_sub(clock) as i64), expected);
    }
}
