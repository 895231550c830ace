// SPDX-License-Identifier: GPL-2.0-only
//! Sets of CPUs.

use std::fmt;

/// The largest number of CPUs that a simulated machine can have.
pub const MAX_CPUS: usize = 1024;
/// Words of a mask.
pub(super) const WORDS: usize = MAX_CPUS / 64;

/// A set of CPUs: numbers from 0 to [`MAX_CPUS`] - 1.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CpuMask {
    words: [u64; WORDS],
}

impl CpuMask {
    /// The empty set.
    pub const EMPTY: CpuMask = CpuMask { words: [0; WORDS] };

    /// The CPUs from 0 to `nr` - 1, at most [`MAX_CPUS`] of them.
    pub fn first(nr: u32) -> Self {
        (0..nr.min(MAX_CPUS as u32)).collect()
    }

    /// From little-endian bytes, as many as there are.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut mask = Self::EMPTY;
        for (word, chunk) in mask.words.iter_mut().zip(bytes.chunks(8)) {
            let mut buffer = [0; 8];
            buffer[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(buffer);
        }
        mask
    }

    /// As little-endian bytes.
    pub fn to_bytes(&self) -> [u8; MAX_CPUS / 8] {
        let mut bytes = [0; MAX_CPUS / 8];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Whether `cpu` is in it; false for any number out of range.
    #[inline]
    pub fn contains(&self, cpu: u32) -> bool {
        self.words
            .get(cpu as usize / 64)
            .is_some_and(|word| word >> (cpu % 64) & 1 != 0)
    }

    /// Add `cpu`; true if it was not in it. A number out of range is not added.
    pub fn insert(&mut self, cpu: u32) -> bool {
        match self.words.get_mut(cpu as usize / 64) {
            Some(word) => {
                let bit = 1 << (cpu % 64);
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            None => false,
        }
    }

    /// Take `cpu` out; true if it was in it.
    pub fn remove(&mut self, cpu: u32) -> bool {
        let had = self.contains(cpu);
        if had {
            self.words[cpu as usize / 64] &= !(1 << (cpu % 64));
        }
        had
    }

    /// How many there are.
    pub fn weight(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The lowest number in it that is `from` or higher.
    pub fn next(&self, from: u32) -> Option<u32> {
        let first = from as usize / 64;
        let words = self.words.iter().enumerate().skip(first);
        words
            .map(|(index, word)| {
                let keep = if index == first {
                    !0 << (from % 64)
                } else {
                    !0
                };
                (index, word & keep)
            })
            .find(|(_, word)| *word != 0)
            .map(|(index, word)| index as u32 * 64 + word.trailing_zeros())
    }

    /// Those in it in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let cpu = self.next(from)?;
            from = cpu + 1;
            Some(cpu)
        })
    }

    /// Word by word.
    #[must_use]
    pub fn combine(&self, other: &CpuMask, with: impl Fn(u64, u64) -> u64) -> CpuMask {
        let mut mask = *self;
        for (word, other) in mask.words.iter_mut().zip(other.words) {
            *word = with(*word, other);
        }
        mask
    }

    /// Those in both.
    #[must_use]
    pub fn and(&self, other: &CpuMask) -> CpuMask {
        self.combine(other, |a, b| a & b)
    }

    /// Those in either.
    #[must_use]
    pub fn or(&self, other: &CpuMask) -> CpuMask {
        self.combine(other, |a, b| a | b)
    }

    /// Some CPU is in both.
    pub fn intersects(&self, other: &CpuMask) -> bool {
        self.words.iter().zip(other.words).any(|(a, b)| a & b != 0)
    }

    /// All of its CPUs are in `other`.
    pub fn is_subset(&self, other: &CpuMask) -> bool {
        self.words.iter().zip(other.words).all(|(a, b)| a & !b == 0)
    }
}

impl FromIterator<u32> for CpuMask {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut mask = CpuMask::EMPTY;
        for cpu in cpus {
            mask.insert(cpu);
        }
        mask
    }
}

impl fmt::Debug for CpuMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_in_no_mask() {
        let mut mask = CpuMask::first(2000);
        assert_eq!(mask.weight(), 1024);
        assert!(!mask.contains(1024) && !mask.insert(1024) && !mask.remove(u32::MAX));
        assert!(mask.remove(1023) && !mask.remove(1023));
        assert_eq!(mask.next(1023), None);
        assert_eq!(mask.next(4000), None);
    }

    #[test]
    fn bytes_and_order_survive() {
        let mask: CpuMask = [0, 63, 64, 129, 1023].into_iter().collect();
        assert_eq!(CpuMask::from_bytes(&mask.to_bytes()), mask);
        assert_eq!(mask.iter().collect::<Vec<_>>(), [0, 63, 64, 129, 1023]);
        assert_eq!(mask.next(65), Some(129));
        assert_eq!(CpuMask::from_bytes(&mask.to_bytes()[..9]).weight(), 3);
    }
}
