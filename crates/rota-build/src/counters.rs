// SPDX-License-Identifier: GPL-2.0-only
//! Reads a policy's counters from the X-macro list in its `intf.h`.
//!
//! The C preprocessor expands the list, so that whatever is legal in the
//! header (comments, conditionals, lists made of lists) means the same here as
//! in the object.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Marks the rows of the expanded list among whatever else the header defines.
const ROW: &str = "ROTA_COUNTER";

/// One counter of a policy.
#[derive(Debug, PartialEq, Eq)]
pub struct Counter {
    /// Its name in C, in Rust and in JSON: `nr_...`.
    pub name: String,
    /// One line for people.
    pub description: String,
}

/// The counters that `interface` declares, in order.
pub fn read(clang: &Path, interface: &Path) -> Result<Vec<Counter>> {
    let header = interface
        .canonicalize()
        .with_context(|| format!("no {}", interface.display()))?;
    let mut child = Command::new(clang)
        .args(["-E", "-P", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", clang.display()))?;
    let program = format!(
        "#include \"{}\"\n#define X(name, description) {ROW}(name, description)\nCOUNTERS(X)\n",
        header.display()
    );
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    stdin
        .write_all(program.as_bytes())
        .context("clang did not take its input")?;
    drop(stdin);
    let output = child.wait_with_output().context("clang did not end")?;
    ensure!(
        output.status.success(),
        "{}: the preprocessor failed",
        interface.display()
    );

    let text = String::from_utf8(output.stdout).context("the expanded list is not UTF-8")?;
    parse(&text).with_context(|| format!("COUNTERS(X) in {}", interface.display()))
}

/// The rows in preprocessed text.
fn parse(text: &str) -> Result<Vec<Counter>> {
    let mut counters: Vec<Counter> = Vec::new();
    for row in text.split(ROW).skip(1) {
        let counter = parse_row(row.trim_start())?;
        ensure!(
            counters.iter().all(|other| other.name != counter.name),
            "{} is declared twice",
            counter.name
        );
        counters.push(counter);
    }
    ensure!(
        !counters.is_empty(),
        "the list is not defined or has no rows"
    );
    Ok(counters)
}

/// One row, `(name, "description" "more")`.
fn parse_row(row: &str) -> Result<Counter> {
    let Some((name, rest)) = row.strip_prefix('(').and_then(|row| row.split_once(',')) else {
        bail!("a row is not X(name, \"description\")");
    };
    let name = name.trim().to_owned();
    ensure!(
        name.starts_with("nr_"),
        "{name}: the name of a counter starts with nr_"
    );

    let mut description = String::new();
    let mut rest = rest.trim_start();
    while let Some(literal) = rest.strip_prefix('"') {
        let Some((part, after)) = literal.split_once('"') else {
            bail!("{name}: the description does not end");
        };
        ensure!(!part.contains('\\'), "{name}: a description has no escapes");
        description.push_str(part);
        rest = after.trim_start();
    }
    ensure!(!description.is_empty(), "{name} has no description");
    ensure!(rest.starts_with(')'), "{name}: a row has two fields");
    Ok(Counter { name, description })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_counters_in_order() {
        let text = "int x; ROTA_COUNTER(nr_a, \"first\") ROTA_COUNTER ( nr_b , \"sec\" \"ond\" )";
        let counters = parse(text).unwrap();
        let names: Vec<_> = counters
            .iter()
            .map(|c| (&*c.name, &*c.description))
            .collect();
        assert_eq!(names, [("nr_a", "first"), ("nr_b", "second")]);
    }

    #[test]
    fn bad_lists_refused() {
        for (text, cause) in [
            ("", "no rows"),
            ("ROTA_COUNTER(a, \"x\")", "starts with nr_"),
            ("ROTA_COUNTER(nr_a, )", "no description"),
            ("ROTA_COUNTER(nr_a, \"x\", 3)", "two fields"),
            (
                "ROTA_COUNTER(nr_a, \"x\") ROTA_COUNTER(nr_a, \"y\")",
                "twice",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(cause), "{text:?} gave {error:?}");
        }
    }
}
