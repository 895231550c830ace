// SPDX-License-Identifier: GPL-2.0-only
//! Run and sleep, alone or in a ring in which each task wakes the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;

use crate::run::sys::{self, SharedArray, Zeroed};
use crate::run::task::Task;
use crate::spec::Loop;

/// A task that follows a pattern.
pub struct Pattern {
    /// The pattern.
    pub pattern: Loop,
    /// The ring, and this task's place in it.
    pub seat: Option<(Arc<Ring>, usize)>,
}

/// A ring of tasks that hand tokens on.
pub struct Ring(SharedArray<Place>);

/// Tokens that may wait at one place with their time stamps. Only the token that
/// ends a wait needs its stamp, and that is the first in an empty queue.
const STAMPS: usize = 8;

/// One task's place in a ring. Only its predecessor writes it.
#[derive(Default)]
#[repr(align(64))]
struct Place {
    /// Tokens passed here so far.
    passed: AtomicU32,
    /// When each of the last was passed.
    stamps_ns: [AtomicU64; STAMPS],
}

// SAFETY: all fields are atomics.
unsafe impl Zeroed for Place {}

impl Ring {
    /// A ring of `places` in which the first `tokens` places hold one.
    pub fn new(places: usize, tokens: u32) -> Result<Self, Errno> {
        let ring = Self(SharedArray::new(places)?);
        for place in ring.0.iter().take(tokens as usize) {
            place.passed.store(1, Ordering::Relaxed);
        }
        Ok(ring)
    }

    /// Waits at `place` for token number `number`; whether to go on.
    fn take(&self, place: usize, number: u32, task: &mut Task<'_>) -> bool {
        let place = &self.0[place];
        let mut waited = false;
        while place.passed.load(Ordering::Acquire) == number {
            if sys::monotonic_ns() >= task.end_ns() {
                return false;
            }
            waited = true;
            task.waits();
            sys::futex_wait(&place.passed, number, task.end_ns());
        }
        let now = sys::monotonic_ns();
        if waited {
            let stamp = &place.stamps_ns[number as usize % STAMPS];
            task.woken(stamp.load(Ordering::Relaxed), now);
        }
        task.go_on(now)
    }

    /// Passes a token from `place` to the next.
    fn pass(&self, place: usize) {
        let next = &self.0[(place + 1) % self.0.len()];
        let number = next.passed.load(Ordering::Relaxed) as usize;
        next.stamps_ns[number % STAMPS].store(sys::monotonic_ns(), Ordering::Relaxed);
        next.passed.fetch_add(1, Ordering::Release);
        sys::futex_wake(&next.passed, 1);
    }
}

impl Pattern {
    pub(super) fn run(self, task: &mut Task<'_>) {
        let Loop {
            run,
            sleep,
            jitter_pct,
            yields,
            ..
        } = self.pattern;
        let mut taken = 0u32;
        loop {
            if let Some((ring, place)) = &self.seat {
                if !ring.take(*place, taken, task) {
                    return;
                }
                taken = taken.wrapping_add(1);
            }
            let run = task.jitter.vary(run, jitter_pct);
            if !task.burn(run) {
                return;
            }
            task.op();
            if yields {
                std::thread::yield_now();
            }
            if let Some((ring, place)) = &self.seat {
                ring.pass(*place);
            }
            if !sleep.is_zero() {
                let sleep = task.jitter.vary(sleep, jitter_pct);
                if !task.sleep(sleep) {
                    return;
                }
            }
        }
    }
}
