// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the program reports what it was asked, and says in one line what it cannot do. Method: it is
//! run as a user does.
#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::program;

/// Runs it in `dir`, where `timed.bpf.o` is a policy.
fn sim(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rota-sim"));
    command.current_dir(dir).args(arguments).output().unwrap()
}

fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("timed.bpf.o"), program("timed")).unwrap();
    dir
}

const ON_ONE: [&str; 6] = [
    "run",
    "timed.bpf.o",
    "--topology",
    "1x1x1",
    "--elements",
    "beats_by_rest=3",
];

#[test]
fn a_run_is_reported_as_a_table_json_and_a_timeline() {
    let dir = dir();
    let more = ["--for", "50ms", "--json", "-", "--trace", "trace.json"];
    let output = sim(dir.path(), &[&ON_ONE[..], &more].concat());
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["policy"], &report["cpus"]),
        (&"timed".into(), &1.into())
    );
    let trace = fs::read(dir.path().join("trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().len() > 50);

    let more = ["--for", "50ms", "--json", "report.json"];
    let output = sim(dir.path(), &[&ON_ONE[..], &more].concat());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.starts_with("timed on 1x1x1 (1 CPUs), workload mixed"),
        "{table}"
    );
    assert!(
        table.contains("figures of the model, not of a machine"),
        "{table}"
    );
    let saved = fs::read(dir.path().join("report.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&saved).unwrap(),
        report
    );
}

#[test]
fn a_policy_that_is_ejected_is_exit_status_1() {
    let dir = dir();
    // The array is too short for what it writes.
    let output = sim(dir.path(), &["run", "timed.bpf.o", "--topology", "1x1x1"]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("beats_by_rest"), "{table}");
}

#[test]
fn bad_input_is_one_line_and_exit_status_2() {
    let dir = dir();
    fs::write(dir.path().join("text.bpf.o"), "no object").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let written = dir.path().join("written");
    fs::create_dir(&written).unwrap();
    fs::write(written.join("timed.bpf.o"), program("timed")).unwrap();
    let text =
        r#"{"scheduler":"scx_timed","version":"1","slice_ns":1,"timeout_ms":1,"sections":[]}"#;
    fs::write(written.join("timed.json"), text).unwrap();
    for (arguments, line) in [
        (
            &["run", "nowhere.bpf.o"][..],
            "reading nowhere.bpf.o: No such file",
        ),
        (&["run", "empty"], "empty has no object (.bpf.o) in it"),
        (
            &["run", "written", "--topology", "2x2x2"],
            "timed was written for a machine of 1 CPUs, and 2x2x2 has 8",
        ),
        (&["run", "."], ". has several objects in it: name one"),
        (&["run", "text.bpf.o"], "text: not a BPF object"),
        (
            &["run", "timed.bpf.o", "--set", "nr_cats=1"],
            "timed: variable nr_cats: there is none",
        ),
        (
            &["run", "timed.bpf.o", "--elements", "nr_beats=2"],
            "variable nr_beats[0]: it is no array",
        ),
        (
            &["run", "timed.bpf.o", "--btf", "text.bpf.o"],
            "text.bpf.o: not little-endian BTF",
        ),
        (
            &["run", "timed.bpf.o", "--unplug", "1ms:99"],
            "CPU 99 is not online",
        ),
    ] {
        let output = sim(dir.path(), arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.starts_with("rota-sim: ") && said.contains(line),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for (arguments, word) in [
        (["--topology", "2x0x1"], "a count is 0"),
        (["--workload", "none"], "named ones are mixed"),
        (["--kernel", "5.15"], "from 6.12 to 7.3"),
        (["--cut", "0"], "from 1 on"),
        (["--for", "1ms"], "10ms..=24h"),
        (["--set", "slice_ns"], "no `=`"),
    ] {
        let output = sim(
            dir.path(),
            &[&["run", "timed.bpf.o"][..], &arguments].concat(),
        );
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn callbacks_are_held_against_the_grammar() {
    let dir = tempfile::tempdir().unwrap();
    let told = |calls: &str| {
        fs::write(dir.path().join("calls"), calls).unwrap();
        let output = sim(dir.path(), &["grammar", "calls"]);
        let words = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(words).unwrap())
    };
    // The second task was there before: it may be anywhere at first.
    let (code, words) = told("runnable 7\nrunning 7\nstopping 8\nstopping 7\nquiescent 7\n");
    assert_eq!(
        (code, &*words),
        (Some(0), "5 callbacks of 2 tasks are in order\n")
    );
    let (code, words) = told("quiescent 7\nrunning 7\n");
    assert_eq!(code, Some(1));
    assert_eq!(
        words,
        "rota-sim: calls:2: running may not come while 7 is asleep\n"
    );
    let (code, words) = told("jump 7\n");
    assert_eq!(code, Some(2));
    assert!(
        words.contains("calls:1: `jump 7` is no callback"),
        "{words}"
    );
}
