// SPDX-License-Identifier: GPL-2.0-only
//! CPU lists as the kernel writes them: `0-3,6`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// CPU numbers from here on are refused: Linux supports no more.
pub(crate) const CPU_LIMIT: u32 = 8192;

/// A set of CPU numbers, never empty when parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList(BTreeSet<u32>);

impl CpuList {
    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many CPUs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is among them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// The CPUs that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// The CPUs that `other` lacks.
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut cpus = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let cpu = |number: &str| match number.parse::<u32>() {
                Ok(cpu) if number.bytes().all(|b| b.is_ascii_digit()) => Ok(cpu),
                _ => Err(format!("`{text}` is not a CPU list such as \"0-3,6\"")),
            };
            let (first, last) = (cpu(first)?, cpu(last)?);
            if last >= CPU_LIMIT {
                return Err(format!("CPU {last} is out of range 0..={}", CPU_LIMIT - 1));
            }
            if first > last {
                return Err(format!("the range {first}-{last} runs backwards"));
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|&next| next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the kernel's notation both ways, and nothing else.
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kernel_notation() {
        let cpus: CpuList = "6,0-3,2".parse().unwrap();
        assert_eq!(cpus.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 6]);
        assert_eq!(cpus.to_string(), "0-3,6");
    }

    #[test]
    fn malformed_refused() {
        for text in [
            "",
            ",",
            "0-",
            "-1",
            "a",
            "0 ,1",
            "3-1",
            "8192",
            "0-99999999",
            "+1",
            "1-2-3",
        ] {
            assert!(text.parse::<CpuList>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(cpus in proptest::collection::btree_set(0..CPU_LIMIT, 1..40)) {
            let list = CpuList(cpus);
            prop_assert_eq!(list.to_string().parse::<CpuList>(), Ok(list));
        }
    }
}
