// SPDX-License-Identifier: GPL-2.0-only
//! Directories in the cache that are made of unpacked packages, each with a record of which.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::program;
use crate::error::{IoContext as _, Result};

/// Unpacks a package into a directory.
pub fn unpack(deb: &Path, into: &Path) -> Result<()> {
    program::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into))?;
    Ok(())
}

/// The record called `name` in `dir`; a directory without one is not whole.
pub fn record<R: DeserializeOwned>(dir: &Path, name: &str) -> Option<R> {
    serde_json::from_slice(&fs::read(dir.join(name)).ok()?).ok()
}

/// Makes `entry`, which is on the same file system, the directory `dir`, with a record called `name`;
/// what was there was not whole, or of another Rota.
pub fn put(entry: &Path, dir: &Path, name: &str, record: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(record).expect("a record is plain data");
    let file = entry.join(name);
    fs::write(&file, text).at("writing", &file)?;
    if dir.exists() {
        fs::remove_dir_all(dir).at("replacing", dir)?;
    }
    fs::rename(entry, dir).at("creating", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_takes_the_place_of_what_was_there() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join("place");
        for (file, packages) in [("old", ["a"]), ("new", ["b"])] {
            let entry = cache.path().join("entry");
            fs::create_dir(&entry).unwrap();
            fs::write(entry.join(file), "").unwrap();
            put(&entry, &dir, "record.json", &packages).unwrap();
        }
        assert!(dir.join("new").exists() && !dir.join("old").exists());
        assert_eq!(record(&dir, "record.json"), Some(["b".to_owned()]));
        assert_eq!(record::<Vec<String>>(cache.path(), "record.json"), None);
    }
}
