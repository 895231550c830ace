// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the workload format accepts what it documents and refuses everything else
//! with place, key and allowed range; what it writes it reads back unchanged.
//! Method: tables of good and bad texts, bad files on disk, and generated workloads.

#![expect(
    clippy::unwrap_used,
    reason = "a failed test may panic, in its helpers too"
)]

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use rota_load::spec::{
    Affinity, Count, Group, Jitter, Kind, Loop, Policy, SpecError, Target, Tasks, Workload,
    nice_weight,
};

/// A workload of one group with these lines.
fn with_group(lines: &str) -> String {
    format!("name = \"t\"\n[[group]]\nname = \"g\"\n{lines}")
}

fn parse_group(lines: &str) -> Group {
    Workload::parse("t.toml", &with_group(lines))
        .unwrap()
        .groups
        .remove(0)
}

/// Asserts that `text` is refused at `place` (line:column) with `parts` in the message.
#[track_caller]
fn refused(text: &str, place: &str, parts: &[&str]) {
    let message = Workload::parse("t.toml", text).expect_err(text).to_string();
    assert!(
        message.starts_with(&format!("t.toml:{place}: ")),
        "{text}\n{message}"
    );
    for part in parts {
        assert!(message.contains(part), "{text}\n{message}\nlacks: {part}");
    }
    assert!(!message.contains('\n'), "more than one line: {message}");
}

#[test]
fn defaults_apply() {
    let workload = Workload::parse("t.toml", &with_group("kind = \"pipe\"")).unwrap();
    assert_eq!(workload.duration, Duration::from_secs(10));
    assert_eq!((workload.warmup, workload.seed), (Duration::ZERO, 1));
    let group = &workload.groups[0];
    assert_eq!(group.count, Count::Fixed(1));
    assert_eq!(
        (group.nice, group.policy, group.tasks),
        (0, Policy::Other, Tasks::Threads)
    );
    assert_eq!(
        (&group.affinity, group.start, group.stop),
        (&Affinity::All, Duration::ZERO, None)
    );
    assert_eq!(group.task_count(4), 2);
}

#[test]
fn every_key_is_read() {
    let group = parse_group(
        "kind = \"loop\"\ncount = 3\ntasks = \"processes\"\nrun = \"2ms\"\nsleep = \"1ms\"\n\
         jitter = 20\nwake_next = true\ntokens = 2\nyield = true\nnice = -5\npolicy = \"batch\"\n\
         affinity = \"0-3,6\"\nstart = \"1s\"\nstop = \"2s\"",
    );
    let pattern = Loop {
        run: Duration::from_millis(2),
        sleep: Duration::from_millis(1),
        jitter_pct: 20,
        wake_next: true,
        tokens: 2,
        yields: true,
    };
    assert_eq!(
        group,
        Group {
            name: "g".into(),
            kind: Kind::Loop(pattern),
            count: Count::Fixed(3),
            tasks: Tasks::Processes,
            nice: -5,
            policy: Policy::Batch,
            affinity: Affinity::Cpus("0-3,6".parse().unwrap()),
            start: Duration::from_secs(1),
            stop: Some(Duration::from_secs(2)),
        }
    );
}

#[test]
fn every_kind_and_policy_is_read() {
    for (lines, kind) in [
        ("kind = \"loop\"\nrun = \"1ms\"", "loop"),
        ("kind = \"pipe\"", "pipe"),
        (
            "kind = \"messaging\"\nsenders = 2\nreceivers = 3\nbytes = 8",
            "messaging",
        ),
        (
            "kind = \"fork-storm\"\noutstanding = 256\nrun = \"0s\"",
            "fork-storm",
        ),
        ("kind = \"exec-storm\"", "exec-storm"),
        (
            "kind = \"affinity-storm\"\ntarget = \"group\"",
            "affinity-storm",
        ),
        (
            "kind = \"frame\"\nperiod = \"16.6ms\"\nwork = \"4ms\"",
            "frame",
        ),
        ("kind = \"probe\"\nperiod = \"100us\"", "probe"),
    ] {
        assert_eq!(parse_group(lines).kind.name(), kind);
    }
    for (lines, policy) in [
        ("policy = \"idle\"", Policy::Idle),
        ("policy = \"ext\"\nnice = 19", Policy::Ext),
        ("policy = \"fifo\"\npriority = 50", Policy::Fifo(50)),
        ("policy = \"rr\"", Policy::Rr(1)),
    ] {
        assert_eq!(
            parse_group(&format!("kind = \"pipe\"\n{lines}")).policy,
            policy
        );
    }
    assert_eq!(
        parse_group("kind = \"pipe\"\naffinity = \"llc:2\"").affinity,
        Affinity::Llc(2)
    );
    assert_eq!(
        parse_group("kind = \"pipe\"\ncount = \"3/cpu\"").task_count(4),
        24
    );
    let messaging = parse_group("kind = \"messaging\"\ncount = 2\nsenders = 2\nreceivers = 3");
    assert_eq!(messaging.task_count(1), 10);
}

#[test]
fn syntax_refused() {
    refused("name = ", "1:8", &[]);
    refused("name = \"t\"\nname = \"u\"\n", "2:1", &["duplicate"]);
    refused("", "1:1", &["`name` is missing"]);
    refused("name = \"t\"", "1:1", &["no group", "[[group]]"]);
    refused("name = \"t\"\ngroup = 3", "2:9", &["[[group]]"]);
    refused("name = \"t\"\ngroup = [1]", "2:10", &["[[group]]"]);
    refused("name = \"t\"\ngroup = []", "2:9", &["0 groups", "1..=64"]);
    // Columns count characters, not bytes.
    refused("name = \"t\"\ndescription = \"äöü\" x", "2:21", &[]);
}

#[test]
fn unknown_keys_refused() {
    refused(
        "nmae = \"t\"",
        "1:1",
        &["unknown key `nmae`", "known are name, description"],
    );
    let text = with_group("kind = \"pipe\"\nrun = \"1ms\"\ntasks = \"threads\"");
    refused(
        &text,
        "5:1",
        &["unknown key `run`", "kind \"pipe\"", "affinity"],
    );
    let text = with_group("kind = \"exec-storm\"\ntasks = \"threads\"");
    refused(&text, "5:1", &["unknown key `tasks`", "outstanding"]);
}

#[test]
fn wrong_types_refused() {
    let group = |line: &str| with_group(&format!("kind = \"loop\"\nrun = \"1ms\"\n{line}"));
    refused(
        &group("count = true"),
        "6:9",
        &["`count`", "integer in 1..=10000", "boolean"],
    );
    refused(
        &group("sleep = 5"),
        "6:9",
        &["`sleep`", "duration in quotes", "integer"],
    );
    refused(
        &group("wake_next = 1"),
        "6:13",
        &["`wake_next`", "true or false"],
    );
    refused(
        &group("affinity = [0]"),
        "6:12",
        &["`affinity`", "one-each", "array"],
    );
    refused("name = 1", "1:8", &["`name`", "1 to 40 characters"]);
    refused("name = \"t\"\nseed = 1.5", "2:8", &["`seed`", "integer"]);
}

#[test]
fn out_of_range_refused() {
    let group = |line: &str| with_group(&format!("kind = \"loop\"\nrun = \"1ms\"\n{line}"));
    for (line, part) in [
        ("count = 0", "1..=10000"),
        ("count = 10001", "1..=10000"),
        ("count = 99999999999999999999", "1..=10000"),
        ("count = \"65/cpu\"", "1..=64"),
        ("count = \"/cpu\"", "N/cpu"),
        ("nice = 20", "-20..=19"),
        ("nice = -21", "-20..=19"),
        ("jitter = 101", "0..=100"),
        ("sleep = \"61m\"", "0s..=1h"),
        ("sleep = \"5\"", "has no unit"),
        (
            "policy = \"deadline\"",
            "\"other\", \"batch\", \"idle\", \"fifo\", \"rr\", \"ext\"",
        ),
        ("policy = \"fifo\"\npriority = 100", "1..=99"),
        ("affinity = \"8192\"", "0..=8191"),
        ("affinity = \"3-1\"", "backwards"),
        ("affinity = \"some\"", "one-each"),
        ("affinity = \"llc:x\"", "0..=4095"),
        ("tasks = \"fibres\"", "\"threads\", \"processes\""),
    ] {
        let line_number = if line.contains('\n') { 7 } else { 6 };
        let last = line.lines().last().unwrap();
        let column = last.find('=').unwrap() + 3;
        let key = format!("`{}`", last.split_once(' ').unwrap().0);
        refused(
            &group(line),
            &format!("{line_number}:{column}"),
            &[part, &key],
        );
    }
    refused(
        &with_group("kind = \"loop\"\nrun = \"61s\""),
        "5:7",
        &["`run`", "1us..=1m"],
    );
    refused(
        &with_group("kind = \"probe\"\nperiod = \"1us\""),
        "5:10",
        &["100us..=1m"],
    );
    refused(
        &with_group("kind = \"messaging\"\nbytes = 7"),
        "5:9",
        &["8..=65536"],
    );
    refused(
        "name = \"t\"\nduration = \"1ms\"",
        "2:12",
        &["`duration`", "10ms..=24h"],
    );
    refused("name = \"t\"\nseed = -1", "2:8", &["`seed`"]);
    refused(
        "name = \"t\"\nseed = \"18446744073709551616\"",
        "2:8",
        &["`seed`"],
    );
    refused("name = \"Big Name\"", "1:8", &["`name`", "a-z"]);
    let long = "name = \"t\"\n[[group]]\nname = \"sixteen-letters-\"\nkind = \"pipe\"";
    refused(long, "3:8", &["1 to 15 characters"]);
}

#[test]
fn contradictions_refused() {
    let group = |line: &str| with_group(&format!("kind = \"loop\"\nrun = \"1ms\"\n{line}"));
    for (line, place, part) in [
        ("wake_next = true", "6:13", "at least 2"),
        ("tokens = 2", "6:10", "wake_next"),
        ("count = 2\nwake_next = true\ntokens = 3", "8:10", "1..=2"),
        ("priority = 5", "6:12", "\"fifo\" or \"rr\""),
        ("policy = \"rr\"\nnice = 5", "7:8", "`priority`"),
        (
            "start = \"10s\"",
            "6:9",
            "before the end of the workload (10s)",
        ),
        ("start = \"2s\"\nstop = \"2s\"", "7:8", "after `start` (2s)"),
    ] {
        refused(&group(line), place, &[part]);
    }
    let frame = with_group("kind = \"frame\"\nperiod = \"1ms\"\nwork = \"1ms\"");
    refused(&frame, "6:8", &["`work`", "1us..=999.999us"]);
    refused(
        &with_group("kind = \"frame\""),
        "2:1",
        &["`work` is missing"],
    );
    refused(&with_group("kind = \"loop\""), "2:1", &["`run` is missing"]);
    refused(
        &with_group("kind = \"spin\""),
        "4:8",
        &["\"loop\", \"pipe\""],
    );
    let twice = format!(
        "{}\n[[group]]\nname = \"g\"\nkind = \"pipe\"",
        with_group("kind = \"pipe\"")
    );
    refused(&twice, "6:8", &["a second group is called \"g\""]);
}

/// Asserts that the file is refused as unreadable and gives the reason.
fn unreadable(path: &Path) -> String {
    match Workload::load(path) {
        Err(SpecError::Unreadable { reason, .. }) => reason,
        other => panic!("{}: {other:?}", path.display()),
    }
}

#[test]
fn unreadable_files_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    assert!(unreadable(&path("missing")).contains("No such file"));
    assert!(unreadable(dir.path()).contains("regular file"));
    assert!(unreadable(Path::new("/dev/null")).contains("regular file"));
    // A sparse file: large, but no disk.
    let large = std::fs::File::create(path("large")).unwrap();
    large.set_len(100 << 20).unwrap();
    assert!(unreadable(&path("large")).contains("1048576 bytes"));
    std::fs::write(path("latin1"), b"name = \"t\"\n# caf\xe9\n").unwrap();
    let message = Workload::load(&path("latin1")).unwrap_err().to_string();
    assert!(
        message.ends_with(":2:6: not UTF-8 here; a workload is UTF-8 text"),
        "{message}"
    );
}

#[test]
fn weights_are_the_kernels() {
    assert_eq!(
        [-20, -5, 0, 5, 19].map(nice_weight),
        [88761, 3121, 1024, 335, 15]
    );
    assert_eq!(
        parse_group("kind = \"pipe\"\npolicy = \"fifo\"").weight(),
        None
    );
    assert_eq!(
        parse_group("kind = \"pipe\"\npolicy = \"idle\"\nnice = -20").weight(),
        Some(3)
    );
}

fn time(low_ns: u64, high_ns: u64) -> impl Strategy<Value = Duration> {
    (low_ns..=high_ns).prop_map(Duration::from_nanos)
}

const SECOND: u64 = 1_000_000_000;

fn any_loop() -> impl Strategy<Value = Kind> {
    let times = (time(1_000, 60 * SECOND), time(0, 3_600 * SECOND));
    (times, 0u32..=100, any::<bool>(), 1u32..=2, any::<bool>()).prop_map(
        |((run, sleep), jitter_pct, wake_next, tokens, yields)| {
            let tokens = if wake_next { tokens } else { 1 };
            Kind::Loop(Loop {
                run,
                sleep,
                jitter_pct,
                wake_next,
                tokens,
                yields,
            })
        },
    )
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        any_loop(),
        Just(Kind::Pipe),
        (1u32..=100, 1u32..=100, 8u32..=65_536).prop_map(|(senders, receivers, bytes)| {
            Kind::Messaging {
                senders,
                receivers,
                bytes,
            }
        }),
        (1u32..=256, time(0, 60 * SECOND))
            .prop_map(|(outstanding, run)| Kind::ForkStorm { outstanding, run }),
        (1u32..=256).prop_map(|outstanding| Kind::ExecStorm { outstanding }),
        (
            time(1_000, 60 * SECOND),
            prop_oneof![Just(Target::Own), Just(Target::Group)]
        )
            .prop_map(|(run, target)| Kind::AffinityStorm { run, target }),
        (time(100_000, 60 * SECOND), time(1_000, 99_999), 0u32..=100).prop_map(
            |(period, work, jitter_pct)| Kind::Frame {
                period,
                work,
                jitter_pct
            }
        ),
        time(100_000, 60 * SECOND).prop_map(|period| Kind::Probe { period }),
    ]
}

fn any_affinity() -> impl Strategy<Value = Affinity> {
    prop_oneof![
        Just(Affinity::All),
        Just(Affinity::OneEach),
        (0u32..=4095).prop_map(Affinity::Llc),
        proptest::collection::btree_set(0u32..8192, 1..20)
            .prop_map(|cpus| Affinity::Cpus(cpus.into_iter().collect())),
    ]
}

fn any_policy() -> impl Strategy<Value = (Policy, i8)> {
    prop_oneof![
        (
            prop_oneof![
                Just(Policy::Other),
                Just(Policy::Batch),
                Just(Policy::Idle),
                Just(Policy::Ext)
            ],
            -20i8..=19
        ),
        (
            prop_oneof![
                (1u8..=99).prop_map(Policy::Fifo),
                (1u8..=99).prop_map(Policy::Rr)
            ],
            Just(0)
        ),
    ]
}

fn any_group() -> impl Strategy<Value = Group> {
    let count = prop_oneof![
        (2u32..=10_000).prop_map(Count::Fixed),
        (1u32..=64).prop_map(Count::PerCpu)
    ];
    let times = (
        time(0, SECOND),
        proptest::option::of(time(SECOND + 1, 86_400 * SECOND)),
    );
    (
        any_kind(),
        count,
        any::<bool>(),
        any_policy(),
        any_affinity(),
        times,
    )
        .prop_map(
            |(kind, count, processes, (policy, nice), affinity, (start, stop))| {
                let storm = matches!(kind, Kind::ForkStorm { .. } | Kind::ExecStorm { .. });
                let tasks = if processes || storm {
                    Tasks::Processes
                } else {
                    Tasks::Threads
                };
                let name = String::new();
                Group {
                    name,
                    kind,
                    count,
                    tasks,
                    nice,
                    policy,
                    affinity,
                    start,
                    stop,
                }
            },
        )
}

prop_compose! {
    fn any_workload()(
        name in "[a-z0-9-]{1,40}",
        description in "(?s).{0,60}",
        duration in time(SECOND + 1, 86_400 * SECOND),
        warmup in time(0, 3_600 * SECOND),
        seed: u64,
        mut groups in proptest::collection::vec(any_group(), 1..8),
    ) -> Workload {
        for (index, group) in groups.iter_mut().enumerate() {
            group.name = format!("group-{index}");
        }
        Workload { name, description, duration, warmup, seed, groups }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(workload in any_workload()) {
        let text = workload.to_toml();
        let back = Workload::parse("round.toml", &text);
        prop_assert_eq!(back.map_err(|e| format!("{e}\n{text}")), Ok(workload));
    }

    #[test]
    fn any_text_is_handled(text in "(?s).{0,200}") {
        let _ = Workload::parse("any.toml", &text);
    }

    #[test]
    fn any_change_of_a_good_text_is_handled(
        workload in any_workload(),
        at in any::<prop::sample::Index>(),
        with in "\\PC{0,3}",
    ) {
        let text = workload.to_toml();
        let places: Vec<usize> = text.char_indices().map(|(place, _)| place).collect();
        let place = *at.get(&places);
        let mut changed = text.clone();
        changed.insert_str(place, &with);
        if let Err(e) = Workload::parse("changed.toml", &changed) {
            // The place of the error lies inside the text.
            let SpecError::Invalid { line, .. } = e else { panic!("{e}") };
            prop_assert!(line >= 1 && line <= changed.lines().count() + 1);
        }
    }

    #[test]
    fn same_seed_same_sequence(seed: u64, group in 0u32..64, task in 0u32..16_384) {
        let draw = || {
            let mut jitter = Jitter::new(seed, group, task);
            [jitter.next_u64(), jitter.next_u64(), jitter.next_u64()]
        };
        prop_assert_eq!(draw(), draw());
    }
}
