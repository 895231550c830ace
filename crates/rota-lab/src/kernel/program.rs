// SPDX-License-Identifier: GPL-2.0-only
//! Runs the programs that fetching and building need, and tells their failures apart.

use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::error::{AT_LEAST_BYTES, Error, Result};

/// Runs `command` in a locale whose messages can be understood; its stdout as text.
pub fn output(command: &mut Command) -> Result<String> {
    let output = captured(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failure(command, &output))
}

/// Runs `command`, whatever comes of it.
pub fn captured(command: &mut Command) -> Result<Output> {
    prepare(command)
        .output()
        .map_err(|error| not_started(command, &error))
}

/// The settings that every program is run with.
pub fn prepare(command: &mut Command) -> &mut Command {
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null())
}

/// Why `command` did not start.
pub fn not_started(command: &Command, error: &io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    let package = match (error.kind(), program.as_str()) {
        (io::ErrorKind::NotFound, "apt-get" | "apt-cache" | "apt-config") => "apt",
        (io::ErrorKind::NotFound, "dpkg-deb") => "dpkg",
        (io::ErrorKind::NotFound, "tar") => "tar",
        _ => {
            return Error::Program {
                program,
                status: "not started".into(),
                detail: error.to_string(),
            };
        }
    };
    Error::MissingPackages(vec![package])
}

/// Why `command` failed.
pub fn failure(command: &Command, output: &Output) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    let text = String::from_utf8_lossy(&output.stderr);
    let dir = command.get_current_dir().unwrap_or(Path::new("."));
    classify(program, &output.status.to_string(), &text, dir)
}

/// Reads a program's messages for the failures that a user can do something about.
pub fn classify(program: String, status: &str, messages: &str, dir: &Path) -> Error {
    if messages.contains("No space left on device") {
        return Error::DiskFull {
            path: dir.to_owned(),
            needed: AT_LEAST_BYTES,
        };
    }
    let is_error = |line: &&str| line.starts_with("E:") || line.contains("rror:");
    let first = messages
        .lines()
        .find(is_error)
        .or_else(|| messages.lines().last());
    let detail = first
        .unwrap_or("no message")
        .trim_start_matches("E: ")
        .trim()
        .to_owned();
    const UNREACHABLE: [&str; 6] = [
        "Could not resolve",
        "Temporary failure resolving",
        "Could not connect",
        "Unable to connect",
        "Connection failed",
        "Network is unreachable",
    ];
    if let Some(line) = messages
        .lines()
        .find(|line| UNREACHABLE.iter().any(|u| line.contains(u)))
    {
        let from = line.split_whitespace().find(|word| word.contains("://"));
        let from = from.unwrap_or("Debian's archive").to_owned();
        return Error::Network {
            from,
            detail: line.trim_start_matches("E: ").trim().to_owned(),
        };
    }
    Error::Program {
        program,
        status: status.to_owned(),
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(messages: &str) -> Error {
        classify(
            "apt-get".into(),
            "exit status: 100",
            messages,
            Path::new("/cache"),
        )
    }

    #[test]
    fn a_full_disk_is_told() {
        let messages = "E: Write error - write (28: No space left on device)\n";
        assert!(
            matches!(error(messages), Error::DiskFull { path, .. } if path == Path::new("/cache"))
        );
    }

    #[test]
    fn a_missing_network_is_told_with_the_mirror() {
        let messages = "Reading package lists...\nE: Failed to fetch http://m.example/debian/x.deb  \
            Temporary failure resolving 'm.example'\nE: Unable to fetch some archives\n";
        let Error::Network { from, detail } = error(messages) else {
            panic!("not the network")
        };
        assert_eq!(from, "http://m.example/debian/x.deb");
        assert!(detail.ends_with("resolving 'm.example'"), "{detail}");
    }

    #[test]
    fn other_failures_are_shown_in_their_own_words() {
        let text = error("W: something\nE: The repository is not signed.\n").to_string();
        assert_eq!(
            text,
            "apt-get failed (exit status: 100): The repository is not signed."
        );
    }

    #[test]
    fn a_missing_program_is_a_missing_package() {
        let error = output(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(matches!(error, Error::Program { .. }));
        let not_found = io::Error::from(io::ErrorKind::NotFound);
        let error = not_started(&Command::new("dpkg-deb"), &not_found);
        assert!(matches!(error, Error::MissingPackages(names) if names == ["dpkg"]));
    }
}
