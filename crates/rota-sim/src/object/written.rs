// SPDX-License-Identifier: GPL-2.0-only
//! What a scheduler's user space writes into its object before it is loaded, in the form in which
//! `--write-object` of every scheduler tells it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use super::{LoadError, Object, Reason};

/// What is written into an object, and what the reader of a report wants to know besides.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The scheduler that wrote it.
    pub scheduler: String,
    /// Its version.
    pub version: String,
    /// The slice that it was told to give, in nanoseconds.
    pub slice_ns: u64,
    /// The watchdog's timeout, in milliseconds.
    pub timeout_ms: u32,
    /// What differs from the object as it was built.
    pub sections: Vec<Section>,
}

/// A section of variables.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Its name, as `.rodata`.
    pub name: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// What is written into it.
    pub patches: Vec<Patch>,
}

/// Some bytes in a section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// Where, in bytes from its start.
    pub offset: usize,
    /// The bytes, two hexadecimal digits each.
    pub hex: String,
}

/// The object file of `policy`, which is one or a directory with one in it, and the file beside
/// it of what its scheduler writes into it, in a directory that `--write-object` filled.
///
/// # Errors
/// The directory cannot be read, or has no object in it, or several.
pub fn files(policy: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let about = |what: &str| io::Error::other(format!("{} {what}", policy.display()));
    if !policy.is_dir() {
        return Ok((policy.to_owned(), None));
    }
    let entries =
        fs::read_dir(policy).map_err(|error| about(&format!("cannot be read: {error}")))?;
    let mut objects = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(".bpf.o"));
    match (objects.next(), objects.next()) {
        (Some(object), None) => {
            let written = object.with_extension("").with_extension("json");
            Ok((object, written.exists().then_some(written)))
        }
        (None, _) => Err(about("has no object (.bpf.o) in it")),
        _ => Err(about("has several objects in it: name one")),
    }
}

impl Object {
    /// Write into the object what its scheduler would, before it starts.
    ///
    /// # Errors
    /// It is not meant for this object.
    pub fn write(&mut self, written: &Written) -> Result<(), LoadError> {
        for section in &written.sections {
            self.write_section(section).map_err(|what| LoadError {
                object: self.name.clone(),
                reason: Reason::Variable {
                    path: section.name.clone(),
                    what,
                },
            })?;
        }
        self.ops.set_number("timeout_ms", written.timeout_ms.into());
        Ok(())
    }

    fn write_section(&mut self, section: &Section) -> Result<(), String> {
        let data = self.data.iter_mut().find(|data| data.name == section.name);
        let data = data.ok_or("is no section of it")?;
        if section.bytes > crate::vm::MAX_OBJECT_BYTES {
            return Err(format!("has {} bytes, too many", section.bytes));
        }
        data.bytes.resize(section.bytes, 0);
        for patch in &section.patches {
            let new = bytes(&patch.hex).ok_or("has a patch that is not in hexadecimal digits")?;
            let end = patch.offset.checked_add(new.len());
            let place = end.and_then(|end| data.bytes.get_mut(patch.offset..end));
            let place = place.ok_or_else(|| format!("has no byte {}", patch.offset))?;
            place.copy_from_slice(&new);
        }
        Ok(())
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    let pairs = hex.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_bytes() {
        assert_eq!(bytes("00ff0A"), Some(vec![0, 255, 10]));
        assert_eq!(bytes(""), Some(vec![]));
        for bad in ["0", "0g", "012", "é"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
