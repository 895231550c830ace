// SPDX-License-Identifier: GPL-2.0-only
//! A spin lock that is handed over in the order of arrival.

use std::collections::VecDeque;

/// A lock between CPUs.
#[derive(Debug, Default)]
pub(super) struct Lock {
    owner: Option<u32>,
    waiters: VecDeque<u32>,
}

impl Lock {
    /// `cpu` takes it, or waits to be given it; true if it has it.
    pub(super) fn acquire(&mut self, cpu: u32) -> bool {
        debug_assert_ne!(self.owner, Some(cpu), "a spin lock does not nest");
        if self.owner.is_none() {
            self.owner = Some(cpu);
            return true;
        }
        self.waiters.push_back(cpu);
        false
    }

    /// Nobody has it: a try would succeed.
    pub(super) fn is_free(&self) -> bool {
        self.owner.is_none()
    }

    /// The owner is done; who has it now and is to go on.
    pub(super) fn release(&mut self) -> Option<u32> {
        self.owner = self.waiters.pop_front();
        self.owner
    }
}

#[cfg(test)]
mod tests {
    //! Goal: one owner, in the order of arrival.
    use super::*;

    #[test]
    fn first_come_first_served() {
        let mut lock = Lock::default();
        assert!(lock.acquire(3));
        assert!(!lock.acquire(1));
        assert!(!lock.acquire(2));
        assert_eq!(lock.release(), Some(1));
        assert_eq!(lock.release(), Some(2));
        assert!(!lock.is_free());
        assert_eq!(lock.release(), None);
        assert!(lock.is_free());
        assert!(lock.acquire(0));
    }
}
