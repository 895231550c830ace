// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's list format for sets of CPUs: `0-3,8,10-11`.

/// Above every CPU number that a kernel can be built for (8192), so that a
/// garbled list cannot make us allocate without bound.
pub const MAX_CPU_ID: usize = 65_535;

/// Parses a list; the result is sorted and free of duplicates. An empty list
/// is a set without CPUs.
pub fn parse(text: &str) -> Result<Vec<usize>, String> {
    let mut cpus = Vec::new();
    for range in text
        .trim()
        .split(',')
        .map(str::trim)
        .filter(|r| !r.is_empty())
    {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (parse_id(first)?, parse_id(last)?);
        if first > last {
            return Err(format!("range {range} runs backwards"));
        }
        cpus.extend(first..=last);
        // Overlapping ranges may repeat, but not without bound either.
        if cpus.len() > 2 * MAX_CPU_ID {
            cpus.sort_unstable();
            cpus.dedup();
        }
    }
    cpus.sort_unstable();
    cpus.dedup();
    Ok(cpus)
}

fn parse_id(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(id) if id <= MAX_CPU_ID => Ok(id),
        Ok(id) => Err(format!("CPU {id} is out of range")),
        Err(_) => Err(format!("{:?} is not a CPU number", shortened(text))),
    }
}

/// Garbage is quoted in messages, but not a page of it.
fn shortened(text: &str) -> String {
    text.chars().take(32).collect()
}

/// Formats a sorted set as a list.
pub fn format(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let ranges: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        })
        .collect();
    ranges.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        assert_eq!(parse("0-3,8,10-11\n"), Ok(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse("\n"), Ok(vec![]));
        assert_eq!(parse("5,1-2,2"), Ok(vec![1, 2, 5]));
    }

    #[test]
    fn garbage_is_refused() {
        for garbage in [
            "x",
            "3-1",
            "1-",
            "-1",
            "0-4294967295",
            "99999999999999999999",
            "1 2",
        ] {
            assert!(parse(garbage).is_err(), "{garbage:?}");
        }
    }

    proptest! {
        #[test]
        fn format_and_parse_are_inverse(set in prop::collection::btree_set(0..2000usize, 0..64)) {
            let cpus: Vec<usize> = set.into_iter().collect();
            prop_assert_eq!(parse(&format(&cpus)), Ok(cpus));
        }

        #[test]
        fn no_text_panics(text in "[0-9,\\- x\n]{0,40}") {
            let _ = parse(&text);
        }
    }
}
