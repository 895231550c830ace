// SPDX-License-Identifier: GPL-2.0-only
//! One process at a time: a lock on a file, which the kernel drops when its holder dies.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{IoContext as _, Result};

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in the file `path`; calls `waiting` once if somebody else holds it.
    pub fn take(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .at("opening", path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().at("locking", path)?;
            }
            Err(TryLockError::Error(error)) => Err(error).at("locking", path)?,
        }
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::take(&path, || panic!("nobody holds it")).unwrap();
        let (told, events) = mpsc::channel();
        let second = thread::spawn({
            let path = path.clone();
            move || {
                let _lock = Lock::take(&path, || told.send("waiting").unwrap()).unwrap();
                told.send("taken").unwrap();
            }
        });
        assert_eq!(events.recv().unwrap(), "waiting");
        assert!(events.recv_timeout(Duration::from_millis(100)).is_err());
        drop(first);
        assert_eq!(events.recv().unwrap(), "taken");
        second.join().unwrap();
    }
}
