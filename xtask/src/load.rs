// SPDX-License-Identifier: GPL-2.0-only
//! Which workload guests run and for how long, as the commands that run one understand it.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rota_load::{spec::Workload, workloads};

use crate::stop;

/// The shortest and longest run that make sense under emulation.
const SECONDS: RangeInclusive<f64> = 1.0..=600.0;
/// Where a workload of the user's lies in the guest.
const GUEST_WORKLOAD: &str = "/rota/workload.toml";

/// Reads `10`, `10s` or `1.5s`.
pub fn seconds(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    let value = number.parse().ok().filter(|value| SECONDS.contains(value));
    value.ok_or_else(|| format!("from {}s to {}s", SECONDS.start(), SECONDS.end()))
}

/// The workload as the guest shall know it, and the file to bring along.
pub fn workload(given: &str) -> Result<(String, Vec<(String, PathBuf)>)> {
    if workloads::find(given).is_some() {
        return Ok((given.to_owned(), Vec::new()));
    }
    let path = Path::new(given);
    if !path.exists() {
        let names: Vec<&str> = workloads::ALL.iter().map(|named| named.name).collect();
        let names = names.join(", ");
        return Err(stop::usage(format!(
            "no workload or file `{given}`; there are: {names}"
        )));
    }
    Workload::load(path).map_err(|error| stop::usage(error.to_string()))?;
    Ok((
        GUEST_WORKLOAD.to_owned(),
        vec![(GUEST_WORKLOAD.to_owned(), path.to_owned())],
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn times_have_seconds_and_limits() {
        assert_eq!(seconds("10s"), Ok(10.0));
        assert_eq!(seconds("1.5"), Ok(1.5));
        for bad in ["0s", "601s", "NaN", "1m", "-1", ""] {
            assert_eq!(seconds(bad), Err("from 1s to 600s".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_named_workload_needs_no_file_and_an_unknown_one_is_refused() {
        assert_eq!(workload("mixed").unwrap(), ("mixed".to_owned(), Vec::new()));
        let error = workload("nonesuch").unwrap_err();
        assert!(error.to_string().contains("there are: mixed, "), "{error}");
        assert_eq!(stop::code_of(&error), 2);
    }

    #[test]
    fn a_bad_workload_file_is_refused_before_the_guest_boots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        fs::write(&path, "name = 3\n").unwrap();
        let error = workload(path.to_str().unwrap()).unwrap_err();
        assert_eq!(stop::code_of(&error), 2);
        fs::write(&path, workloads::ALL[0].toml).unwrap();
        let (name, files) = workload(path.to_str().unwrap()).unwrap();
        assert_eq!(files, [(name, path)]);
    }
}
