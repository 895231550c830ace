// SPDX-License-Identifier: GPL-2.0-only
//! The rate of the time stamp counter, which the emulator passes on from the host.
//!
//! A guest that finds it out for itself measures, on a busy host, how often it was interrupted: its
//! clock then runs up to three times too fast, and every limit in it is as much too short.

/// The host's rate in kHz; nothing where there is no such counter.
#[cfg(target_arch = "x86_64")]
pub fn khz() -> Option<u64> {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    const WINDOW: Duration = Duration::from_millis(20);
    const WINDOWS: usize = 5;
    static KHZ: OnceLock<u64> = OnceLock::new();

    // SAFETY: every x86-64 processor has the instruction, and Linux lets user space execute it.
    let now = || (Instant::now(), unsafe { std::arch::x86_64::_rdtsc() });
    let measure = || {
        let (begin, from) = now();
        std::thread::sleep(WINDOW);
        let (end, to) = now();
        let micros = end.duration_since(begin).as_micros().max(1);
        u64::try_from(u128::from(to.wrapping_sub(from)) * 1000 / micros).unwrap_or_default()
    };
    let khz = KHZ.get_or_init(|| {
        let mut rates: Vec<u64> = (0..WINDOWS).map(|_| measure()).collect();
        // An interruption between the two clocks spoils one window, not the median.
        rates.sort_unstable();
        rates[WINDOWS / 2]
    });
    Some(*khz)
}

/// The host's rate in kHz; nothing where there is no such counter.
#[cfg(not(target_arch = "x86_64"))]
pub fn khz() -> Option<u64> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    #[test]
    fn the_rate_is_that_of_a_processor() {
        let khz = super::khz().unwrap();
        assert!((100_000..20_000_000).contains(&khz), "{khz}");
    }
}
