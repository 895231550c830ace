// SPDX-License-Identifier: GPL-2.0-only
//! What the options of a scheduler may be: those that all have, and those of its `fuzz.toml`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use rota_lab::fuzz::draw::Choice;
use toml::Value;

use crate::context::Context;

/// Options of every scheduler.
const COMMON: &str = "slice-us = [1000, 5000, 20000]";

/// The choices for `sched`.
pub fn load(cx: &Context, sched: &str) -> Result<Vec<Choice>> {
    let file = cx.root.join("scheds").join(sched).join("fuzz.toml");
    let own = match fs::read_to_string(&file) {
        Ok(text) => text,
        // One that has no options of its own needs no file.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
    };
    let mut choices = parse(COMMON).expect("it is TOML");
    choices.extend(parse(&own).with_context(|| file.display().to_string())?);
    Ok(choices)
}

/// Reads lines such as `steal = [true, false]`.
fn parse(text: &str) -> Result<Vec<Choice>> {
    let table: BTreeMap<String, Vec<Value>> = toml::from_str(text)?;
    let word = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let choice = |(option, values): (String, Vec<Value>)| Choice {
        option,
        values: values.into_iter().map(word).collect(),
    };
    Ok(table.into_iter().map(choice).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_option_with_its_values() {
        let choices = parse("steal = [true, false]\nfill = [\"cores\"]\nspill-pct = [0, 50]\n");
        let choices = choices.unwrap();
        let find = |name: &str| {
            let mut all = choices.iter();
            all.find(|choice| choice.option == name)
                .unwrap()
                .values
                .join(" ")
        };
        assert_eq!(find("steal"), "true false");
        assert_eq!(find("fill"), "cores");
        assert_eq!(find("spill-pct"), "0 50");
        assert!(parse("steal = true").is_err());
    }
}
