// SPDX-License-Identifier: GPL-2.0-only
//! Rules for what belongs to each scheduler: names, sizes, documentation, tests.

use super::{Problem, Source};

const MAX_MAIN_LINES: usize = 120;
const MAX_POLICY_LINES: usize = 250;
const MAX_BUILD_LINES: usize = 5;

/// Schedulers that distributions already ship: two programs of one name confuse everybody.
const TAKEN: &[&str] = &[
    "scx_beerland",
    "scx_bpfland",
    "scx_cake",
    "scx_central",
    "scx_chaos",
    "scx_cosmos",
    "scx_flash",
    "scx_flatcg",
    "scx_flow",
    "scx_lavd",
    "scx_layered",
    "scx_loader",
    "scx_mitosis",
    "scx_nest",
    "scx_p2dq",
    "scx_pair",
    "scx_pandemonium",
    "scx_prev",
    "scx_qmap",
    "scx_rlfifo",
    "scx_rustland",
    "scx_rusty",
    "scx_sdt",
    "scx_show_state",
    "scx_simple",
    "scx_tickless",
    "scx_userland",
    "scx_wd40",
];

/// Checks the tree as a whole: `packages` are the scheduler packages that cargo knows.
pub fn check(sources: &[Source], packages: &[String]) -> Vec<Problem> {
    let tree = Tree { sources };
    let mut problems: Vec<Problem> = packages
        .iter()
        .flat_map(|package| tree.check_scheduler(package))
        .collect();
    let alias = tree
        .find(".cargo/config.toml")
        .is_some_and(|file| file.text.contains("xtask = "));
    if !alias {
        problems.push(at(".cargo/config.toml", "defines no alias `xtask`"));
    }
    for source in sources
        .iter()
        .filter(|source| source.name() == "Cargo.toml")
    {
        let package = source.text.contains("[package]");
        if package && !source.text.contains("[lints]\nworkspace = true") {
            problems.push(source.problem(1, "lacks `[lints] workspace = true`"));
        }
    }
    problems
}

struct Tree<'a> {
    sources: &'a [Source],
}

impl Tree<'_> {
    fn find(&self, path: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.path == path)
    }

    fn check_scheduler(&self, name: &str) -> Vec<Problem> {
        let dir = format!("scheds/{name}");
        let manifest = format!("{dir}/Cargo.toml");
        let mut problems = Vec::new();
        let Some(policy) = name.strip_prefix("scx_") else {
            return vec![at(
                &manifest,
                format!("`{name}` is not called scx_<policy>"),
            )];
        };
        if TAKEN.contains(&name) {
            problems.push(at(
                &manifest,
                format!("`{name}` is shipped by distributions already"),
            ));
        }
        if self.find(&manifest).is_none() {
            problems.push(at(
                &manifest,
                format!("package `{name}` does not live in {dir}"),
            ));
            return problems;
        }
        let limits = [
            (format!("{dir}/src/main.rs"), MAX_MAIN_LINES),
            (format!("{dir}/src/bpf/{policy}.bpf.c"), MAX_POLICY_LINES),
            (format!("{dir}/build.rs"), MAX_BUILD_LINES),
        ];
        for (path, most) in limits {
            problems.extend(self.check_length(&path, most));
        }
        if self.find(&format!("{dir}/README.md")).is_none() {
            problems.push(at(
                &format!("{dir}/README.md"),
                format!("{name} has no README.md"),
            ));
        }
        if !self.has_row(name) {
            problems.push(at(
                "README.md",
                format!("no table row tells when to use {name}"),
            ));
        }
        if !self.has_lab_case(name) {
            problems.push(at(&manifest, format!("no case of the lab runs {name}")));
        }
        problems
    }

    fn check_length(&self, path: &str, most: usize) -> Option<Problem> {
        let Some(source) = self.find(path) else {
            return Some(at(path, "this file is missing"));
        };
        let build_script = source.name() == "build.rs";
        // A build script may say why; what it does fits in a few lines.
        let lines = source
            .text
            .lines()
            .filter(|line| !build_script || !(line.is_empty() || line.starts_with("//")))
            .count();
        (lines > most).then(|| {
            source.problem(
                most + 1,
                format!("{lines} lines; {} has at most {most}", source.name()),
            )
        })
    }

    fn has_row(&self, name: &str) -> bool {
        let readme = self.find("README.md").map_or("", |file| &file.text);
        readme
            .lines()
            .any(|line| line.starts_with('|') && mentions(line, name))
    }

    fn has_lab_case(&self, name: &str) -> bool {
        let cases = ["crates/rota-lab/src/cases", "crates/rota-lab/tests/"];
        self.sources
            .iter()
            .filter(|source| cases.iter().any(|prefix| source.path.starts_with(prefix)))
            .any(|source| mentions(&source.text, name))
    }
}

/// Whether `name` is one of the words in `text`.
fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == name)
}

/// A problem with a file as a whole, which may not even exist.
fn at(path: &str, message: impl Into<String>) -> Problem {
    Problem {
        path: path.to_owned(),
        line: 1,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::source;
    use super::*;

    /// A tree with one scheduler, in which everything is right.
    fn tree() -> Vec<Source> {
        let package = "[package]\n[lints]\nworkspace = true\n";
        vec![
            source(".cargo/config.toml", "[alias]\nxtask = \"run\"\n"),
            source("README.md", "| [`scx_a`](scheds/scx_a) | hogs |\n"),
            source(
                "crates/rota-lab/src/cases/mod.rs",
                "const A: &str = \"scx_a\";\n",
            ),
            source("scheds/scx_a/Cargo.toml", package),
            source("scheds/scx_a/README.md", "# scx_a\n"),
            source(
                "scheds/scx_a/build.rs",
                "// why\n\nfn main() {\n    f();\n}\n",
            ),
            source("scheds/scx_a/src/bpf/a.bpf.c", "int x;\n"),
            source("scheds/scx_a/src/main.rs", "fn main() {}\n"),
        ]
    }

    /// The problems after `path` got another text, or vanished.
    fn with(path: &str, text: Option<&str>) -> Vec<String> {
        let mut sources = tree();
        sources.retain(|source| source.path != path);
        sources.extend(text.map(|text| source(path, text)));
        check(&sources, &["scx_a".to_owned()])
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    #[test]
    fn a_complete_scheduler_passes() {
        assert!(check(&tree(), &["scx_a".to_owned()]).is_empty());
    }

    #[test]
    fn every_missing_part_is_named() {
        let cases = [
            (".cargo/config.toml", "defines no alias `xtask`"),
            ("README.md", "no table row tells when to use scx_a"),
            ("scheds/scx_a/README.md", "scx_a has no README.md"),
            ("scheds/scx_a/build.rs", "this file is missing"),
            ("scheds/scx_a/src/bpf/a.bpf.c", "this file is missing"),
            ("scheds/scx_a/src/main.rs", "this file is missing"),
        ];
        for (path, message) in cases {
            assert_eq!(with(path, None), [format!("{path}:1: {message}")]);
        }
        let untested = with("crates/rota-lab/src/cases/mod.rs", Some("\"scx_ab\"\n"));
        assert_eq!(
            untested,
            ["scheds/scx_a/Cargo.toml:1: no case of the lab runs scx_a"]
        );
        let unlinted = with("scheds/scx_a/Cargo.toml", Some("[package]\n"));
        assert_eq!(
            unlinted,
            ["scheds/scx_a/Cargo.toml:1: lacks `[lints] workspace = true`"]
        );
    }

    #[test]
    fn a_mention_outside_a_table_is_no_row() {
        let found = with("README.md", Some("scx_a is fine\n| scx_ab | other |\n"));
        assert_eq!(found, ["README.md:1: no table row tells when to use scx_a"]);
    }

    #[test]
    fn sizes_are_limited() {
        for (path, most) in [
            ("src/main.rs", 120),
            ("src/bpf/a.bpf.c", 250),
            ("build.rs", 5),
        ] {
            let path = format!("scheds/scx_a/{path}");
            assert!(with(&path, Some(&"x\n".repeat(most))).is_empty());
            let found = with(&path, Some(&"x\n".repeat(most + 1)));
            assert_eq!(found.len(), 1);
            assert!(found[0].starts_with(&format!("{path}:{}: {} lines", most + 1, most + 1)));
        }
    }

    #[test]
    fn taken_names_are_refused() {
        let found = check(&tree(), &["scx_simple".to_owned()]);
        assert!(
            found[0].message.contains("shipped by distributions"),
            "{found:?}"
        );
        let found = check(&tree(), &["fair".to_owned()]);
        assert!(
            found[0].message.contains("not called scx_<policy>"),
            "{found:?}"
        );
    }
}
