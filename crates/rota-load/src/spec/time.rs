// SPDX-License-Identifier: GPL-2.0-only
//! Durations with units, exact to the nanosecond in both directions.

use std::time::Duration;

/// Units from the longest; the first that fits is used for writing.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration such as `2ms`, `16.6ms`, `250us`, `10s`, `5m` or `1h`.
///
/// The error says what is expected, for use behind the name of a key.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as \"2ms\", \"16.6ms\" or \"10s\"");
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if unit.is_empty() {
        return Err(format!(
            "`{text}` has no unit: add one of ns, us, ms, s, m, h"
        ));
    }
    let (_, unit_ns) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(wrong());
    }
    let too_long = || format!("`{text}` is too long");
    let mut ns = whole
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(*unit_ns))
        .ok_or_else(too_long)?;
    let mut step = *unit_ns;
    for digit in fraction.bytes() {
        let part = u64::from(digit - b'0') * step;
        if !part.is_multiple_of(10) {
            return Err(format!("`{text}` is finer than a nanosecond"));
        }
        step /= 10;
        ns = ns.checked_add(part / 10).ok_or_else(too_long)?;
    }
    Ok(Duration::from_nanos(ns))
}

/// Writes a duration so that [`parse_duration`] gives it back exactly.
pub fn format_duration(duration: Duration) -> String {
    let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if ns == 0 {
        return "0s".to_owned();
    }
    // Minutes and hours only when whole: decimals of them are not exact.
    let (name, unit) = UNITS
        .iter()
        .find(|(_, unit)| ns.is_multiple_of(*unit) || (ns >= *unit && *unit <= 1_000_000_000))
        .expect("every number is a multiple of one nanosecond");
    let (whole, rest) = (ns / unit, ns % unit);
    if rest == 0 {
        return format!("{whole}{name}");
    }
    let width = unit.ilog10() as usize;
    let fraction = format!("{rest:0width$}");
    format!("{whole}.{}{name}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    //! Goal: durations are exact and wrong ones are refused with the reason.
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn usual_forms() {
        for (text, ns) in [
            ("2ms", 2_000_000),
            ("16.6ms", 16_600_000),
            ("0.5s", 500_000_000),
            ("250us", 250_000),
            ("7ns", 7),
            ("1.25us", 1_250),
            ("3m", 180_000_000_000),
            ("24h", 86_400_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        assert_eq!(format_duration(Duration::from_nanos(16_600_000)), "16.6ms");
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_duration(Duration::from_secs(7200)), "2h");
    }

    #[test]
    fn malformed_refused() {
        for (text, part) in [
            ("10", "has no unit"),
            ("", "has no unit"),
            ("ms", "is not a duration"),
            ("-1ms", "is not a duration"),
            ("1.ms", "is not a duration"),
            (".5s", "is not a duration"),
            ("1.2.3s", "is not a duration"),
            ("1 s", "is not a duration"),
            ("1e3s", "is not a duration"),
            ("3days", "is not a duration"),
            ("0.5ns", "finer than a nanosecond"),
            ("99999999999999h", "too long"),
            ("99999999999999999999999s", "too long"),
        ] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(ns in 0u64..) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_handled(text in "\\PC{0,20}") {
            let _ = parse_duration(&text);
        }
    }
}
