// SPDX-License-Identifier: GPL-2.0-only
//! Rules for text of every kind: licence, length, leftovers.

use super::{Problem, Source};

const LICENCE: &str = "SPDX-License-Identifier: GPL-2.0-only";
const MAX_LINES: usize = 800;

/// Words of unfinished work. Split, because this file is checked as well.
const LEFTOVERS: [&str; 4] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("TB", "D"),
];

/// Checks one file.
pub fn check(source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !is_written(source) {
        return problems;
    }
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        let message = format!("{lines} lines; a file has at most {MAX_LINES}");
        problems.push(source.problem(MAX_LINES + 1, message));
    }
    if source.extension() != "md" && !has_licence(source) {
        problems.push(source.problem(1, format!("the first line lacks `{LICENCE}`")));
    }
    for (line, text) in (1..).zip(source.text.lines()) {
        if let Some(word) = words(text).find(|word| LEFTOVERS.contains(word)) {
            problems.push(source.problem(line, format!("`{word}`: finish it or drop it")));
        }
        if text.ends_with([' ', '\t']) {
            problems.push(source.problem(line, "blanks at the end of the line"));
        }
    }
    problems
}

/// Whether people write this file: not a lock file, not a fixture, not the licence's text.
fn is_written(source: &Source) -> bool {
    const KINDS: [&str; 11] = [
        "c", "h", "md", "py", "rs", "service", "sh", "toml", "yaml", "yml", "S",
    ];
    KINDS.contains(&source.extension()) || source.text.starts_with("#!")
}

fn has_licence(source: &Source) -> bool {
    // A script's first line names its interpreter.
    let skipped = usize::from(source.text.starts_with("#!/"));
    source
        .text
        .lines()
        .nth(skipped)
        .is_some_and(|line| line.contains(LICENCE))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&source(path, text))
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    #[test]
    fn a_missing_licence_is_reported_and_a_script_may_have_it_second() {
        let complaint = |path| format!("{path}:1: the first line lacks `{LICENCE}`");
        assert_eq!(messages("a.rs", "fn f() {}\n"), [complaint("a.rs")]);
        assert_eq!(
            messages("a.rs", &format!("\n// {LICENCE}\n")),
            [complaint("a.rs")]
        );
        assert_eq!(
            messages(".ci/run", "#!/bin/sh\nset -e\n"),
            [complaint(".ci/run")]
        );
        assert!(messages("a.rs", &format!("// {LICENCE}\n")).is_empty());
        assert!(messages(".ci/run", &format!("#!/bin/sh\n# {LICENCE}\n")).is_empty());
        assert!(messages("README.md", "# Rota\n").is_empty());
        assert!(messages("tests/fixtures/cpu0/online", "1\n").is_empty());
    }

    #[test]
    fn the_801st_line_is_one_too_many() {
        let head = format!("// {LICENCE}\n");
        assert!(messages("a.h", &(head.clone() + &"\n".repeat(799))).is_empty());
        let long = messages("a.h", &(head + &"\n".repeat(800)));
        assert_eq!(long, ["a.h:801: 801 lines; a file has at most 800"]);
    }

    #[test]
    fn leftovers_are_found_as_words() {
        let word = LEFTOVERS[0];
        let found = messages("a.md", &format!("fine\n// {word}: later\n"));
        assert_eq!(found, [format!("a.md:2: `{word}`: finish it or drop it")]);
        assert!(messages("a.md", &format!("{word}S and a{word}\n")).is_empty());
    }

    #[test]
    fn blanks_at_the_end_are_found() {
        assert_eq!(
            messages("a.md", "x \ny\n"),
            ["a.md:1: blanks at the end of the line"]
        );
    }
}
