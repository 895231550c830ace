// SPDX-License-Identifier: GPL-2.0-only
//! The configuration file: TOML whose keys are the long names of options.
//!
//! A value goes through the very parser that reads it from the command line, so
//! ranges and messages are the same and an option is declared once.

use std::any::TypeId;
use std::error::Error as _;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::Arg;
use clap::error::{ContextKind, ContextValue, ErrorKind as UsageKind};
use clap::{ArgAction, Command};
use nix::fcntl::OFlag;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::options;

/// A file this long is not a configuration.
const MAX_BYTES: u64 = 1 << 20;
/// What the parser says of a second value for a key, without the key.
const DUPLICATE_KEY: &str = "duplicate key";
/// How alike two names have to be for one to be offered for the other.
const SIMILAR: f64 = 0.7;

/// What is wrong with a configuration file, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// Line and column, both from 1, unless the whole file is meant.
    pub position: Option<(usize, usize)>,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for ConfigError {}

/// One key of a file, as the command line would have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The option's id.
    pub id: String,
    /// The arguments that set it.
    pub arguments: Vec<String>,
}

/// Reads the file at `path`; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let whole_file = |message: String| ConfigError {
        path: path.into(),
        position: None,
        message,
    };
    // Without O_NONBLOCK the open of a FIFO waits for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(whole_file(format!("cannot open: {error}"))),
    };
    let metadata = file
        .metadata()
        .map_err(|error| whole_file(format!("cannot read: {error}")))?;
    if !metadata.is_file() {
        return Err(whole_file(format!(
            "is {}, not a regular file",
            noun(metadata.file_type())
        )));
    }
    let mut bytes = Vec::new();
    (file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| whole_file(format!("cannot read: {error}")))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(whole_file(format!("is longer than {MAX_BYTES} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        ConfigError {
            path: path.into(),
            position: Some(position(&text, text.len())),
            message: "is not UTF-8".into(),
        }
    })
}

fn noun(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Line and column, both from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset.min(text.len()))];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// Checks the text of a file against the options of `command`.
pub fn parse(text: &str, path: &Path, command: &Command) -> Result<Vec<Setting>, ConfigError> {
    let error = |span: Option<Range<usize>>, message: String| ConfigError {
        path: path.into(),
        position: span.map(|span| position(text, span.start)),
        message,
    };
    let table = DeTable::parse(text).map_err(|e| {
        let mut message = e.message().to_owned();
        if let (DUPLICATE_KEY, Some(key)) = (e.message(), e.span().and_then(|s| text.get(s))) {
            message += &format!(" '{}'", key.trim());
        }
        error(e.span(), message)
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // The first mistake of the file is the one to report.
    entries.sort_by_key(|(key, _)| key.span().start);

    let mut settings = Vec::new();
    for (key, value) in entries {
        let name = key.get_ref().as_ref();
        let option = find(command, name).map_err(|message| error(Some(key.span()), message))?;
        let arguments = arguments(command, option, value)
            .map_err(|(span, message)| error(Some(span), format!("key '{name}': {message}")))?;
        settings.push(Setting {
            id: option.get_id().to_string(),
            arguments,
        });
    }
    Ok(settings)
}

/// The option that a key names.
fn find<'c>(command: &'c Command, name: &str) -> Result<&'c Arg, String> {
    let named = |option: &&Arg| option.get_long() == Some(name);
    if let Some(option) = options::in_files(command).find(named) {
        return Ok(option);
    }
    if command
        .get_arguments()
        .filter(|option| !option.is_hide_set())
        .any(|o| named(&o))
    {
        return Err(format!("key '{name}' is for the command line only"));
    }
    let mut near: Vec<(f64, &str)> = options::in_files(command)
        .filter_map(Arg::get_long)
        .map(|long| (strsim::jaro_winkler(name, long), long))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<String> = near
        .iter()
        .take(3)
        .map(|(_, long)| format!("'{long}'"))
        .collect();
    Err(if near.is_empty() {
        format!("unknown key '{name}'; --help lists the valid ones")
    } else {
        format!(
            "unknown key '{name}'; the nearest valid ones: {}",
            near.join(", ")
        )
    })
}

type Located = (Range<usize>, String);

/// The arguments that give `option` this value.
fn arguments(
    command: &Command,
    option: &Arg,
    value: &Spanned<DeValue<'_>>,
) -> Result<Vec<String>, Located> {
    let one = |value: &Spanned<DeValue<'_>>| argument(command, option, value);
    match value.get_ref() {
        DeValue::Array(values) if matches!(option.get_action(), ArgAction::Append) => {
            values.iter().map(one).collect()
        }
        _ => one(value).map(|argument| vec![argument]),
    }
}

fn argument(
    command: &Command,
    option: &Arg,
    value: &Spanned<DeValue<'_>>,
) -> Result<String, Located> {
    let located = |message: String| (value.span(), message);
    let expected = expected_type(option);
    let (found, text) = match value.get_ref() {
        DeValue::String(text) => ("a string", text.to_string()),
        DeValue::Boolean(value) => ("a boolean", value.to_string()),
        DeValue::Float(value) => ("a float", value.as_str().to_owned()),
        DeValue::Integer(value) => {
            // Beyond 128 bits no option has its range: the parser may refuse the digits.
            let decimal = i128::from_str_radix(value.as_str(), value.radix());
            (
                "an integer",
                decimal.map_or_else(|_| value.to_string(), |value| value.to_string()),
            )
        }
        DeValue::Datetime(value) => ("a date", value.to_string()),
        DeValue::Array(_) => ("an array", String::new()),
        DeValue::Table(_) => ("a table", String::new()),
    };
    let fits =
        found == expected || (expected == "a number" && matches!(found, "an integer" | "a float"));
    if !fits {
        return Err(located(format!("expected {expected}, found {found}")));
    }
    let argument = format!(
        "--{}={text}",
        option.get_long().expect("options in files have names")
    );
    match command
        .clone()
        .try_get_matches_from([command.get_name(), &argument])
    {
        Ok(_) => Ok(argument),
        Err(error) => match refusal(&error, &text) {
            Some(message) => Err(located(message)),
            // What it takes besides this value is seen when all options are together.
            None => Ok(argument),
        },
    }
}

/// What the option's own parser says about a value it refuses.
fn refusal(error: &clap::Error, value: &str) -> Option<String> {
    match error.kind() {
        UsageKind::ValueValidation => Some(match error.source() {
            Some(source) => source.to_string(),
            None => format!("invalid value '{value}'"),
        }),
        UsageKind::InvalidValue => Some(match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) => {
                format!("'{value}' is not one of {}", valid.join(", "))
            }
            _ => format!("invalid value '{value}'"),
        }),
        _ => None,
    }
}

/// The TOML type of an option's values, with its article.
fn expected_type(option: &Arg) -> &'static str {
    let parsed = option.get_value_parser().type_id();
    let is = |types: &[TypeId]| types.iter().any(|id| parsed == *id);
    if is(&[TypeId::of::<bool>()]) {
        "a boolean"
    } else if is(&[TypeId::of::<f64>(), TypeId::of::<Duration>()]) {
        "a number"
    } else if is(&[
        TypeId::of::<u8>(),
        TypeId::of::<u16>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<i32>(),
        TypeId::of::<i64>(),
    ]) {
        "an integer"
    } else {
        "a string"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::tests::test_command;
    use nix::sys::stat::Mode;

    fn refused(text: &str) -> String {
        parse(text, Path::new("c.toml"), &test_command())
            .unwrap_err()
            .to_string()
    }

    fn accepted(text: &str) -> Vec<String> {
        let settings = parse(text, Path::new("c.toml"), &test_command()).unwrap();
        settings
            .into_iter()
            .flat_map(|setting| setting.arguments)
            .collect()
    }

    #[test]
    fn keys_become_arguments() {
        let text = "# comment\npartial = true\nslice-us = 5_000\nstats = 0.5\ndump-file = '/x'\n";
        let arguments = [
            "--partial=true",
            "--slice-us=5000",
            "--stats=0.5",
            "--dump-file=/x",
        ];
        assert_eq!(accepted(text), arguments);
        assert_eq!(accepted("slice-us = 0x1388"), ["--slice-us=5000"]);
        assert_eq!(accepted("cpus = ['0-3', '7']"), ["--cpus=0-3", "--cpus=7"]);
        assert_eq!(accepted(""), [""; 0]);
    }

    #[test]
    fn out_of_range_is_refused_with_the_range() {
        let range = "is not in 100..=1000000";
        assert_eq!(
            refused("\nslice-us = 5"),
            format!("c.toml:2:12: key 'slice-us': 5 {range}")
        );
        let huge = "slice-us = 99999999999999999999999999999999999999999999";
        assert!(refused(huge).starts_with("c.toml:1:12: key 'slice-us': "));
        assert!(refused("slice-us = -1").contains(range));
    }

    #[test]
    fn a_wrong_type_is_refused() {
        let error = "c.toml:1:12: key 'slice-us': expected an integer, found a string";
        assert_eq!(refused("slice-us = '5000'"), error);
        assert!(refused("slice-us = 1.5").ends_with("expected an integer, found a float"));
        assert!(refused("partial = 1").ends_with("expected a boolean, found an integer"));
        assert!(refused("stats = true").ends_with("expected a number, found a boolean"));
        assert!(refused("[slice-us]\nx = 1").ends_with("expected an integer, found a table"));
        assert!(refused("dump-file = 2026-01-01").ends_with("expected a string, found a date"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        let error = refused("\n\n  slice_us = 5000");
        assert!(
            error.starts_with("c.toml:3:3: unknown key 'slice_us'; the nearest"),
            "{error}"
        );
        assert!(error.contains("'slice-us'"), "{error}");
        assert!(refused("zzz = 1").contains("--help"));
    }

    #[test]
    fn actions_are_refused() {
        assert_eq!(
            refused("check = true"),
            "c.toml:1:1: key 'check' is for the command line only"
        );
        // A hidden option is not for anybody's file and not for its messages.
        assert!(refused("fault = 'stall'").contains("unknown key"));
    }

    #[test]
    fn mistakes_in_the_syntax_are_refused_with_their_place() {
        assert!(refused("slice-us = ").starts_with("c.toml:1:"));
        let duplicate = refused("slice-us = 5000\nslice-us = 6000\n");
        assert!(
            duplicate.starts_with("c.toml:2:1: duplicate key 'slice-us'"),
            "{duplicate}"
        );
    }

    #[test]
    fn the_first_mistake_of_the_file_is_reported() {
        assert!(refused("slice-us = 1\naaa = 2").starts_with("c.toml:1:"));
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(position("ä = 1\nö = ß", "ä = 1\nö = ß".len()), (2, 6));
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| read(path).unwrap_err().to_string();
        assert!(message(dir.path()).ends_with("is a directory, not a regular file"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(message(&fifo).ends_with("is a FIFO, not a regular file"));
        assert!(message(Path::new("/dev/null")).ends_with("is a device, not a regular file"));
        assert_eq!(read(&dir.path().join("none")), Ok(None));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, b"slice-us = 5000\n# \xff").unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .ends_with("c.toml:2:3: is not UTF-8")
        );
        std::fs::write(&path, vec![b'#'; 1 << 20]).unwrap();
        assert!(read(&path).unwrap().is_some());
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .ends_with("is longer than 1048576 bytes")
        );
    }
}
