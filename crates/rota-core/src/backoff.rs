// SPDX-License-Identifier: GPL-2.0-only
//! How soon, and how often, a scheduler that was detached attaches again.

use std::time::{Duration, Instant};

/// The time that restarts are counted over.
pub const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Restarts this close to each other belong together.
const BURST: Duration = Duration::from_secs(10);
/// The longest delay: an hour of hotplug must not leave the machine without
/// its scheduler for minutes afterwards.
const LONGEST: Duration = Duration::from_secs(8);

/// Decides about the restarts of one cause.
#[derive(Debug)]
pub struct Backoff {
    /// Restarts in a burst that need not wait.
    free: usize,
    /// Restarts in [`WINDOW`] after which to give up.
    limit: usize,
    restarts: Vec<Instant>,
}

impl Backoff {
    /// For CPUs that come and go. Taking one core of SMT siblings off and back
    /// on is four events; a machine whose CPUs never rest for 5 minutes is
    /// better off without a scheduler that has to attach each time.
    pub fn for_hotplug() -> Self {
        Backoff {
            free: 4,
            limit: 60,
            restarts: Vec::new(),
        }
    }

    /// For ejections, of which the user allows `limit`.
    pub fn for_errors(limit: usize) -> Self {
        Backoff {
            free: 0,
            limit,
            restarts: Vec::new(),
        }
    }

    /// How long to wait before the next restart; `None` to give up.
    pub fn next(&mut self, now: Instant) -> Option<Duration> {
        self.restarts.retain(|&at| now.duration_since(at) < WINDOW);
        if self.restarts.len() >= self.limit {
            return None;
        }
        // Errors are counted over the whole window, hotplug in bursts.
        let together = if self.free == 0 { WINDOW } else { BURST };
        let recent = self
            .restarts
            .iter()
            .filter(|&&at| now.duration_since(at) < together)
            .count();
        self.restarts.push(now);
        Some(match recent.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_secs(1 << doublings.min(8)).min(LONGEST),
        })
    }

    /// The restarts in the window.
    pub fn count(&self) -> usize {
        self.restarts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(delays: &[Option<Duration>]) -> Vec<Option<u64>> {
        delays
            .iter()
            .map(|delay| delay.map(|delay| delay.as_secs()))
            .collect()
    }

    #[test]
    fn errors_back_off_and_end() {
        let (mut backoff, now) = (Backoff::for_errors(5), Instant::now());
        let delays: Vec<_> = (0..6).map(|_| backoff.next(now)).collect();
        assert_eq!(
            seconds(&delays),
            [Some(1), Some(2), Some(4), Some(8), Some(8), None]
        );
        assert_eq!(backoff.count(), 5);
    }

    #[test]
    fn no_restart_is_allowed_by_default() {
        assert_eq!(Backoff::for_errors(0).next(Instant::now()), None);
    }

    #[test]
    fn old_errors_are_forgotten() {
        let (mut backoff, now) = (Backoff::for_errors(1), Instant::now());
        assert!(backoff.next(now).is_some());
        assert!(backoff.next(now + WINDOW / 2).is_none());
        assert_eq!(backoff.next(now + WINDOW), Some(Duration::from_secs(1)));
    }

    #[test]
    fn single_hotplug_events_do_not_wait() {
        let mut backoff = Backoff::for_hotplug();
        let start = Instant::now();
        for minute in 0..120 {
            let at = start + Duration::from_secs(60 * minute);
            assert_eq!(backoff.next(at), Some(Duration::ZERO));
            assert_eq!(
                backoff.next(at + Duration::from_secs(1)),
                Some(Duration::ZERO)
            );
        }
    }

    #[test]
    fn a_storm_of_hotplug_backs_off_and_ends() {
        let mut backoff = Backoff::for_hotplug();
        let mut now = Instant::now();
        let mut delays = Vec::new();
        while let Some(delay) = backoff.next(now) {
            delays.push(delay.as_secs());
            assert!(delays.len() <= 60);
            now += Duration::from_millis(100);
        }
        assert_eq!(delays[..8], [0, 0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(delays.len(), 60);
    }
}
