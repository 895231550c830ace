// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask tidy`: the house rules that neither rustfmt nor clippy knows.
//!
//! Each rule is a function from a file, or from the list of all files, to the problems in it, so
//! that the rules are tested without a tree on disk. A problem prints as `file:line: message`.

mod c;
mod rust;
mod schedulers;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::{stop, ui};

/// Check the house rules: sizes, licences, names, and what each scheduler comes with
#[derive(clap::Args, Debug)]
pub struct Args {}

/// A text file of the tree.
#[derive(Debug)]
struct Source {
    /// Path from the root of the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// What follows the last dot of the name, or nothing.
    fn extension(&self) -> &str {
        self.name()
            .rsplit_once('.')
            .map_or("", |(_, extension)| extension)
    }

    fn is_c(&self) -> bool {
        matches!(self.extension(), "c" | "h")
    }

    fn problem(&self, line: usize, message: impl Into<String>) -> Problem {
        Problem {
            path: self.path.clone(),
            line,
            message: message.into(),
        }
    }
}

/// A place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Runs `cargo xtask tidy`.
pub fn run(_args: Args, cx: &Context) -> Result<u8> {
    let problems = check(cx)?;
    for problem in &problems {
        ui::out(problem.to_string());
    }
    if problems.is_empty() {
        ui::out("tidy: no problems");
        return Ok(stop::OK);
    }
    ui::out(format!("tidy: {} problems", problems.len()));
    Ok(stop::FAILED)
}

/// Every problem in the tree, sorted by place.
pub fn check(cx: &Context) -> Result<Vec<Problem>> {
    let mut sources = Vec::new();
    collect(cx, &cx.root, &mut sources)?;
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let mut problems = problems(&sources);
    problems.extend(schedulers::check(&sources, &cx.schedulers));
    problems.sort();
    Ok(problems)
}

fn problems(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources {
        problems.extend(text::check(source));
        if source.is_c() {
            problems.extend(c::check(source));
        }
        if source.extension() == "rs" {
            problems.extend(rust::check(source));
        }
    }
    problems
}

/// Reads the text files below `dir`, except git's and cargo's own.
fn collect(cx: &Context, dir: &Path, sources: &mut Vec<Source>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if path != cx.target_dir && path != cx.root.join("target") && !path.ends_with(".git") {
                collect(cx, &path, sources)?;
            }
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            if let Ok(text) = String::from_utf8(bytes) {
                let path = path
                    .strip_prefix(&cx.root)
                    .expect("the walk starts at the root");
                sources.push(Source {
                    path: path.display().to_string(),
                    text,
                });
            }
        }
    }
    Ok(())
}

/// A source for the rules' tests.
#[cfg(test)]
fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}
