// SPDX-License-Identifier: GPL-2.0-only
//! Goal: short real runs on whatever host this is end in time, leave nothing behind,
//! and report figures that cannot contradict each other.
//! Method: run the binary as a user does and judge invariants. Bounds on time are
//! wide: the host may be slow and busy.

#![expect(
    clippy::unwrap_used,
    reason = "a failed test may panic, in its helpers too"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rota_load::report::{GroupReport, MigrationsSource, Report};
use rota_load::spec::Workload;
use rota_load::workloads;

fn rota_load(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rota-load"));
    command.args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs to the end and gives the report.
#[track_caller]
fn report(arguments: &[&str]) -> Report {
    let output = rota_load(&["run", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    check(&report);
    report
}

/// A workload file in a directory that lives as long as the value.
struct File(tempfile::TempDir);

impl File {
    fn new(groups: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let head = "name = \"test\"\nduration = \"500ms\"\n";
        std::fs::write(dir.path().join("test.toml"), format!("{head}{groups}")).unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("test.toml")
    }

    #[track_caller]
    fn report(&self) -> Report {
        report(&[self.path().to_str().unwrap()])
    }
}

/// What holds in every report.
#[track_caller]
fn check(report: &Report) {
    let total: f64 = report.groups.iter().map(|group| group.cpu_s).sum();
    // Beyond the deadline a task uses one spin of 100 us at most, but a child of a
    // storm or a result on its way out may take a little longer.
    let available = (report.seconds + 0.2) * f64::from(report.cpus);
    assert!(total <= available, "{total} s of CPU time in {available}");
    assert!(report.llcs >= 1 && report.llcs <= report.cpus);
    assert_eq!(report.errors, [""; 0]);
    for group in &report.groups {
        check_group(group);
    }
}

#[track_caller]
fn check_group(group: &GroupReport) {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(1.0);
    assert_eq!(
        group.per_task_share.len(),
        group.tasks as usize,
        "{group:?}"
    );
    assert!(
        near(group.per_task_share.iter().sum(), group.share),
        "{group:?}"
    );
    assert!(near(group.share * group.seconds, group.cpu_s), "{group:?}");
    assert!(
        near(group.ops_per_s * group.seconds, group.ops as f64),
        "{group:?}"
    );
    assert!(group.involuntary_switches <= group.switches, "{group:?}");
    assert_eq!(group.outside_mask, 0, "{group:?}");
    if let Some(latency) = &group.wakeup_us {
        assert!(latency.count > 0, "{group:?}");
        let steps = [
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        ];
        assert!(steps.is_sorted() && steps[0] >= 0.0, "{group:?}");
        assert!(
            group.longest_gap_us.is_some_and(|gap| gap >= latency.max),
            "{group:?}"
        );
    }
}

/// Waits for the child's end, which must come within `limit`.
#[track_caller]
fn end_within(mut child: Child, limit: Duration) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > limit {
            child.kill().unwrap();
            panic!("did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

/// Processes whose parent is `parent`, or whose group is led by it.
fn offspring(parent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // Fields after the name, which may hold anything: state, parent, group.
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let (parent_of, group) = (fields.nth(1)?.parse::<u32>(), fields.next()?.parse::<u32>());
        (parent_of == Ok(parent) || group == Ok(parent)).then_some(pid)
    })
    .collect()
}

fn send(signal: &str, pid: u32) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn every_named_workload_runs() {
    for named in workloads::ALL {
        let workload = Workload::parse(named.name, named.toml).unwrap();
        if workload.groups.iter().any(|group| group.nice < 0) && !may_raise_priority() {
            continue; // covered where tests run as root, as in the lab
        }
        let report = report(&[named.name, "--for", "200ms", "--warmup", "50ms"]);
        assert_eq!(report.workload, named.name);
        assert!((report.seconds - 0.2).abs() < 1e-9 && !report.interrupted);
        let names: Vec<_> = workload.groups.iter().map(|group| &group.name).collect();
        assert_eq!(
            report
                .groups
                .iter()
                .map(|group| &group.name)
                .collect::<Vec<_>>(),
            names
        );
        for (group, spec) in report.groups.iter().zip(&workload.groups) {
            assert_eq!(
                u64::from(group.tasks),
                spec.task_count(report.cpus),
                "{group:?}"
            );
            assert_eq!(group.kind, spec.kind.name());
        }
    }
}

fn may_raise_priority() -> bool {
    Command::new("nice")
        .args(["-n", "-5", "true"])
        .output()
        .is_ok_and(|o| o.stderr.is_empty())
}

#[test]
fn nice_decides_on_one_cpu() {
    let file = File::new(
        "[[group]]\nname = \"spread\"\nkind = \"probe\"\ncount = \"1/cpu\"\naffinity = \"one-each\"\n\
         [[group]]\nname = \"light\"\nkind = \"loop\"\nrun = \"1ms\"\nnice = 19\naffinity = \"CPU\"\n\
         [[group]]\nname = \"heavy\"\nkind = \"loop\"\nrun = \"1ms\"\naffinity = \"CPU\"",
    );
    let cpu = first_allowed_cpu();
    let toml = std::fs::read_to_string(file.path())
        .unwrap()
        .replace("CPU\"", &format!("{cpu}\""));
    std::fs::write(file.path(), toml).unwrap();
    let report = report(&[file.path().to_str().unwrap(), "--for", "2s"]);
    let share = |name| report.group(name).unwrap().share;
    // 1024 to 15 by weight; any scheduler that heeds nice at all is far above 2.
    assert!(share("heavy") > 2.0 * share("light"), "{report:?}");
    assert_eq!(report.group("light").unwrap().weight, Some(15));
    assert_eq!(report.group("spread").unwrap().migrations, 0);
}

fn first_allowed_cpu() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let cpus: rota_load::spec::CpuList = list.trim().parse().unwrap();
    cpus.iter().next().unwrap()
}

#[test]
fn a_ring_of_one_token_runs_one_at_a_time() {
    let file = File::new(
        "[[group]]\nname = \"ring\"\nkind = \"loop\"\ncount = 4\nrun = \"200us\"\nwake_next = true",
    );
    let ring = &file.report().groups[0];
    assert!(ring.ops > 0 && ring.wakeup_us.is_some(), "{ring:?}");
    // A little overlap is the cost of passing the token on; four at a time are not.
    assert!(ring.share < 1.5, "more than one at a time: {ring:?}");
    // Each turn took its CPU time.
    assert!(ring.cpu_s >= 0.9 * ring.ops as f64 * 200e-6, "{ring:?}");
}

#[test]
fn a_run_phase_is_cpu_time() {
    let file = File::new(
        "[[group]]\nname = \"a\"\nkind = \"loop\"\nrun = \"2ms\"\nsleep = \"1ms\"\n\
         [[group]]\nname = \"b\"\nkind = \"loop\"\ncount = \"2/cpu\"\nrun = \"1ms\"",
    );
    for group in &file.report().groups {
        let run_s = if group.name == "a" { 2e-3 } else { 1e-3 };
        // Every turn used its CPU time however often it was preempted. One turn of
        // each task may have begun in the part before.
        let turns = group.ops.saturating_sub(u64::from(group.tasks)) as f64;
        assert!(group.ops > 0 && group.cpu_s >= turns * run_s, "{group:?}");
    }
}

#[test]
fn processes_and_pipes_and_messages() {
    for tasks in ["threads", "processes"] {
        let file = File::new(&format!(
            "[[group]]\nname = \"pipe\"\nkind = \"pipe\"\ncount = 2\ntasks = \"{tasks}\"\n\
             [[group]]\nname = \"msg\"\nkind = \"messaging\"\nsenders = 2\nreceivers = 3\n\
             bytes = 5000\ntasks = \"{tasks}\"\n\
             [[group]]\nname = \"ring\"\nkind = \"loop\"\ncount = 3\nrun = \"100us\"\n\
             wake_next = true\ntasks = \"{tasks}\""
        ));
        let report = file.report();
        for group in &report.groups {
            assert!(group.ops > 0 && group.cpu_s > 0.0, "{tasks}: {group:?}");
            assert!(group.wakeup_us.is_some(), "{tasks}: {group:?}");
        }
        assert_eq!(report.group("pipe").unwrap().tasks, 4);
        assert_eq!(report.group("msg").unwrap().tasks, 5);
    }
}

#[test]
fn storms_count_their_children() {
    let file = File::new(
        "[[group]]\nname = \"fork\"\nkind = \"fork-storm\"\nrun = \"200us\"\noutstanding = 3\n\
         [[group]]\nname = \"exec\"\nkind = \"exec-storm\"\noutstanding = 2\n\
         [[group]]\nname = \"aff\"\nkind = \"affinity-storm\"\nrun = \"100us\"\ncount = 2\n\
         [[group]]\nname = \"shove\"\nkind = \"affinity-storm\"\nrun = \"100us\"\ncount = 2\n\
         target = \"group\"",
    );
    let report = report(&[file.path().to_str().unwrap(), "--for", "1s"]);
    for group in &report.groups {
        assert!(group.ops > 0, "{group:?}");
    }
    let fork = report.group("fork").unwrap();
    // Children's CPU time counts: each used 200 us; the kernel may not yet have
    // charged those of the last moments.
    assert!(fork.cpu_s >= (fork.ops as f64 - 10.0) * 200e-6, "{fork:?}");
    assert!(fork.wakeup_us.is_some(), "{fork:?}");
}

#[test]
fn frames_that_cannot_be_met_are_missed() {
    let file = File::new(&format!(
        "[[group]]\nname = \"frame\"\nkind = \"frame\"\nperiod = \"10ms\"\nwork = \"9ms\"\n\
         count = 4\naffinity = \"{}\"",
        first_allowed_cpu()
    ));
    let frames = &file.report().groups[0];
    assert!(frames.misses > 0, "{frames:?}");
    // 500 ms hold 50 frames of each of 4 tasks, and each is finished, missed or both.
    assert!(frames.ops + frames.misses >= 4 * 49, "{frames:?}");
    assert!(
        frames.ops <= 4 * 51 && frames.misses <= 4 * 51,
        "{frames:?}"
    );
}

#[test]
fn a_starved_task_shows_its_gap() {
    let file = File::new(&format!(
        "[[group]]\nname = \"crowd\"\nkind = \"loop\"\nrun = \"1ms\"\ncount = 300\n\
         affinity = \"{}\"",
        first_allowed_cpu()
    ));
    let report = report(&[file.path().to_str().unwrap(), "--for", "300ms"]);
    let crowd = &report.groups[0];
    // 300 tasks on one CPU: at the end, somebody has waited for most of the run.
    assert!(
        crowd.longest_gap_us.is_some_and(|gap| gap > 100_000.0),
        "{crowd:?}"
    );
    assert!(crowd.share < 1.5, "{crowd:?}");
}

#[test]
fn start_and_stop_bound_a_group() {
    let file = File::new(
        "[[group]]\nname = \"late\"\nkind = \"probe\"\nstart = \"200ms\"\n\
         [[group]]\nname = \"early\"\nkind = \"probe\"\nstop = \"100ms\"\n\
         [[group]]\nname = \"never\"\nkind = \"probe\"\nstart = \"250ms\"",
    );
    let report = report(&[file.path().to_str().unwrap(), "--for", "240ms"]);
    let group = |name| report.group(name).unwrap();
    assert!((group("late").seconds - 0.04).abs() < 1e-9);
    assert!((group("early").seconds - 0.1).abs() < 1e-9);
    // One wake-up each millisecond.
    assert!(
        group("late").ops <= 41 && group("early").ops <= 101,
        "{report:?}"
    );
    assert_eq!((group("never").ops, group("never").seconds), (0, 0.0));
    assert!(
        report.notes.iter().any(|note| note.contains("\"never\"")),
        "{report:?}"
    );
}

#[test]
fn migrations_have_a_source() {
    let report = report(&["hogs", "--for", "100ms", "--warmup", "0s"]);
    let shown = std::fs::read_to_string("/proc/self/sched")
        .is_ok_and(|sched| sched.contains("se.nr_migrations"));
    let expected = if shown {
        MigrationsSource::Kernel
    } else {
        MigrationsSource::Sampled
    };
    assert_eq!(report.groups[0].migrations_source, expected);
}

#[test]
fn a_signal_ends_the_run_with_a_report() {
    for signal in ["-TERM", "-INT"] {
        let child = rota_load(&["run", "mixed", "--for", "60s", "--warmup", "0s", "--json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        send(signal, child.id());
        let output = end_within(child, Duration::from_secs(20));
        assert!(output.status.success());
        let report: Report = serde_json::from_slice(&output.stdout).unwrap();
        check(&report);
        assert!(report.interrupted && report.seconds < 40.0, "{report:?}");
    }
}

#[test]
fn nothing_survives_kill_9() {
    let file = File::new(
        "[[group]]\nname = \"fork\"\nkind = \"fork-storm\"\nrun = \"1ms\"\n\
         [[group]]\nname = \"pipe\"\nkind = \"pipe\"\ntasks = \"processes\"",
    );
    let mut child = rota_load(&["run", file.path().to_str().unwrap(), "--for", "60s"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // Until the storm has a child of its own, too.
    let begin = Instant::now();
    let tasks = loop {
        let tasks = offspring(child.id());
        if tasks.len() == 3 && tasks.iter().any(|&task| offspring(task).len() > 1) {
            break tasks;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "tasks: {tasks:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    // Every task leads a group of its own, which its children are in.
    while tasks
        .iter()
        .any(|&task| !alive(&offspring(task)).is_empty())
    {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "survivors of {tasks:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Those that are no zombies; whoever adopts orphans may be slow to reap them.
fn alive(pids: &[u32]) -> Vec<u32> {
    let zombie = |pid: &u32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z')),
        Err(_) => true,
    };
    pids.iter().copied().filter(|pid| !zombie(pid)).collect()
}

#[test]
fn a_killed_task_is_reported() {
    let file = File::new("[[group]]\nname = \"pipe\"\nkind = \"pipe\"\ntasks = \"processes\"");
    let child = rota_load(&[
        "run",
        file.path().to_str().unwrap(),
        "--for",
        "3s",
        "--json",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    std::thread::sleep(Duration::from_millis(800));
    send(
        "-KILL",
        *offspring(child.id())
            .iter()
            .find(|&&pid| pid != child.id())
            .unwrap(),
    );
    let output = end_within(child, Duration::from_secs(30));
    assert_eq!(output.status.code(), Some(1));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        report
            .errors
            .iter()
            .any(|error| error.contains("killed by SIGKILL")),
        "{report:?}"
    );
}

#[test]
fn a_task_that_does_not_stop_is_given_up() {
    let errors = stopped("kind = \"pipe\"", 1);
    assert!(
        errors.iter().any(|error| error.contains("did not stop")),
        "{errors:?}"
    );
}

#[test]
fn of_many_that_do_not_stop_ten_are_named() {
    let errors = stopped("kind = \"loop\"\ncount = 12\nrun = \"1ms\"", 12);
    assert_eq!(errors.len(), 11, "{errors:?}");
    assert_eq!(errors[10], "2 more did not stop");
}

/// The errors of a run with a group of these lines, of whose processes `count` are stopped.
fn stopped(lines: &str, count: usize) -> Vec<String> {
    let file = File::new(&format!(
        "[[group]]\nname = \"group\"\ntasks = \"processes\"\n{lines}"
    ));
    let child = rota_load(&[
        "run",
        file.path().to_str().unwrap(),
        "--for",
        "60s",
        "--json",
    ])
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    std::thread::sleep(Duration::from_millis(800));
    let tasks: Vec<u32> = offspring(child.id())
        .into_iter()
        .filter(|&p| p != child.id())
        .collect();
    for task in &tasks[..count] {
        send("-STOP", *task);
    }
    // The first signal ends the run, the second the patience.
    send("-TERM", child.id());
    std::thread::sleep(Duration::from_millis(500));
    send("-TERM", child.id());
    let output = end_within(child, Duration::from_secs(20));
    assert_eq!(output.status.code(), Some(1));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(alive(&tasks), [0; 0], "tasks outlived the program");
    report.errors
}

/// Asserts that the command fails with `status` and one line that holds `parts`.
#[track_caller]
fn refused(arguments: &[&str], status: i32, parts: &[&str]) {
    let output = rota_load(arguments).output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {message}"
    );
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for part in parts {
        assert!(
            message.contains(part),
            "{arguments:?}: {message}\nlacks: {part}"
        );
    }
}

#[test]
fn bad_usage_refused() {
    refused(
        &["run", "nothing"],
        2,
        &["\"nothing\"", "messaging", "hogs"],
    );
    refused(
        &["run", "./nothing.toml"],
        2,
        &["nothing.toml", "No such file"],
    );
    refused(&["show", "nothing"], 2, &["known are"]);
    refused(&["run", "hogs", "--for", "10"], 2, &["has no unit"]);
    refused(&["run", "hogs", "--for", "1us"], 2, &["10ms..=24h"]);
    refused(&["run", "hogs", "--seed", "-1"], 2, &["--seed"]);
    refused(&["run", "hogs", "--fast"], 2, &["--fast"]);
    refused(&["run"], 2, &["NAME|FILE"]);
    refused(&["run", "/"], 2, &["regular file"]);
}

#[test]
fn bad_workloads_refused() {
    let file = File::new("[[group]]\nname = \"g\"\nkind = \"loop\"\nrun = \"1ms\"\ncount = 0");
    let path = file.path();
    let path = path.to_str().unwrap();
    for command in ["check", "run"] {
        refused(
            &[command, path],
            2,
            &["test.toml:7:9: `count` is 0", "1..=10000"],
        );
    }
    for (affinity, part) in [
        ("8191", "CPU 8191 is not online"),
        ("llc:4095", "LLCs 0..="),
    ] {
        let line = format!("[[group]]\nname = \"g\"\nkind = \"probe\"\naffinity = \"{affinity}\"");
        let file = File::new(&line);
        refused(
            &["run", file.path().to_str().unwrap()],
            2,
            &["group \"g\"", part],
        );
    }
    let group = |n| format!("[[group]]\nname = \"g{n}\"\nkind = \"probe\"\ncount = 10000\n");
    let many = File::new(&(group(1) + &group(2)));
    refused(
        &["run", many.path().to_str().unwrap()],
        2,
        &["20000 tasks", "16384"],
    );
}

#[test]
fn what_needs_privilege_is_refused() {
    let file =
        File::new("[[group]]\nname = \"rt\"\nkind = \"probe\"\npolicy = \"fifo\"\npriority = 50");
    // As nobody, if the tests run as root; `setpriv` belongs to util-linux.
    let output = Command::new("setpriv")
        .args([
            "--bounding-set=-all",
            "--inh-caps=-all",
            "--ambient-caps=-all",
        ])
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(readable_copy(file.0.path()))
        .args(["run", readable(&file).to_str().unwrap()])
        .output();
    let Ok(output) = output else { return };
    let message = text(&output.stderr);
    if message.starts_with("setpriv:") {
        return; // not root, and not allowed to drop to nobody either
    }
    assert_eq!(output.status.code(), Some(3), "{message}");
    for part in ["rt/0", "policy \"fifo\"", "CAP_SYS_NICE"] {
        assert!(message.contains(part), "{message}");
    }
}

/// The binary where nobody may execute it: a build directory may be private.
fn readable_copy(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join("rota-load");
    std::fs::copy(env!("CARGO_BIN_EXE_rota-load"), &copy).unwrap();
    copy
}

fn readable(file: &File) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    file.path()
}

#[test]
fn list_show_and_check_agree() {
    let list = text(&rota_load(&["list"]).output().unwrap().stdout);
    for named in workloads::ALL {
        assert!(
            list.lines().any(|line| line.starts_with(named.name)),
            "{}",
            named.name
        );
        let shown = rota_load(&["show", named.name]).output().unwrap();
        assert_eq!(text(&shown.stdout), named.toml);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shown.toml");
        std::fs::write(&path, &shown.stdout).unwrap();
        let checked = rota_load(&["check", path.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(checked.status.success(), "{}", text(&checked.stderr));
    }
}

#[test]
fn the_table_shows_every_group() {
    let output = rota_load(&["run", "pinned", "--for", "100ms", "--warmup", "0s"])
        .output()
        .unwrap();
    let table = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for part in [
        "workload pinned",
        "pinned-burst",
        "free-burst",
        "wake p50",
        "gap",
    ] {
        assert!(table.contains(part), "{table}");
    }
}
