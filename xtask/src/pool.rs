// SPDX-License-Identifier: GPL-2.0-only
//! Guests side by side.

use std::sync::Mutex;
use std::thread;

use anyhow::Result;

/// One for each CPU: a guest in virtual time keeps one busy.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Does `work` with each of `items`, so many at a time, until it is `late`; what came of them. The
/// first error ends it.
pub fn each<T: Send, R: Send>(
    jobs: usize,
    items: Vec<T>,
    late: impl Fn() -> bool + Sync,
    work: impl Fn(T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let waiting = Mutex::new(items.into_iter());
    let worker = || -> Result<Vec<R>> {
        let mut done = Vec::new();
        while !late() {
            let next = waiting.lock().expect("no holder panics").next();
            let Some(item) = next else {
                break;
            };
            let result = work(item);
            if result.is_err() {
                // Nobody begins anything more.
                waiting
                    .lock()
                    .expect("no holder panics")
                    .by_ref()
                    .for_each(drop);
            }
            done.push(result?);
        }
        Ok(done)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_done_and_an_error_ends_it() {
        let mut done = each(3, (0..50).collect(), || false, |n: i32| Ok(n * 2)).unwrap();
        done.sort_unstable();
        assert_eq!(done, (0..50).map(|n| n * 2).collect::<Vec<_>>());
        let failed = each(
            2,
            (0..50).collect(),
            || false,
            |n: i32| match n {
                7 => anyhow::bail!("seven"),
                n => Ok(n),
            },
        );
        assert_eq!(failed.unwrap_err().to_string(), "seven");
        let none = each(2, vec![1, 2], || true, Ok).unwrap();
        assert!(none.is_empty());
    }
}
