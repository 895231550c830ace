// SPDX-License-Identifier: GPL-2.0-only
//! Verdicts, from protocol lines and console logs without a guest behind them.

use super::*;

/// A guest that is only its two serial ports.
struct Ports {
    dir: tempfile::TempDir,
    lines: Sender<String>,
}

impl Ports {
    fn new(limits: Limits) -> (Self, Watch) {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        fs::write(&console, "").unwrap();
        let (lines, received) = mpsc::channel();
        let started = Instant::now();
        let watch = Watch {
            permit: mpsc::channel().0,
            lines: received,
            console: Console::open(&console).unwrap(),
            limits,
            started,
            last_line: started,
            boot: None,
        };
        (Self { dir, lines }, watch)
    }

    fn say(&self, event: &Event) {
        self.lines
            .send(serde_json::to_string(event).unwrap())
            .unwrap();
    }

    fn log(&self, text: &str) {
        let path = self.dir.path().join("console.log");
        let mut file = fs::File::options().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

const PATIENT: Limits = Limits {
    total: Duration::from_secs(60),
    silent: Duration::from_secs(60),
};

fn booted() -> Event {
    Event::Booted(crate::job::Machine::default())
}

fn end(watch: &mut Watch) -> Verdict {
    watch.until_the_end(&mut |_| {}).unwrap()
}

#[test]
fn the_jobs_exit_code_is_the_verdict() {
    let (ports, mut watch) = Ports::new(PATIENT);
    ports.say(&booted());
    ports.say(&Event::Exited { code: 7 });
    let mut events = Vec::new();
    let verdict = watch
        .until_the_end(&mut |event| events.push(event.clone()))
        .unwrap();
    assert_eq!(verdict, Verdict::Exited(7));
    assert_eq!(events, [booted(), Event::Exited { code: 7 }]);
    assert!(watch.boot.is_some());
}

#[test]
fn a_line_that_is_no_event_is_passed_over() {
    let (ports, mut watch) = Ports::new(PATIENT);
    ports.lines.send("garbage {".into()).unwrap();
    ports.say(&Event::Exited { code: 0 });
    assert_eq!(end(&mut watch), Verdict::Exited(0));
}

#[test]
fn a_panic_ends_the_wait() {
    let (ports, mut watch) = Ports::new(PATIENT);
    ports.say(&booted());
    ports.log("[    9.1] Kernel panic - not syncing: Attempted to kill init!\n");
    let line = "Kernel panic - not syncing: Attempted to kill init!";
    assert_eq!(end(&mut watch), Verdict::Panic(line.into()));
    assert_eq!(
        watch.innocent(&Verdict::Panic(line.into())),
        None,
        "it had booted"
    );
}

#[test]
fn a_panic_while_booting_is_no_schedulers_doing() {
    let (ports, mut watch) = Ports::new(PATIENT);
    ports.log("[    1.1] Kernel panic - not syncing: Fatal exception in interrupt\n");
    let verdict = end(&mut watch);
    assert!(
        watch
            .innocent(&verdict)
            .is_some_and(|reason| reason.starts_with("a panic while booting"))
    );
}

#[test]
fn the_emulators_fault_is_no_schedulers_doing() {
    let (ports, mut watch) = Ports::new(PATIENT);
    ports.say(&booted());
    ports.log("[    9.1] Oops: int3: 0000 [#1] SMP\n[    9.2] Kernel panic - not syncing: x\n");
    let verdict = end(&mut watch);
    assert!(
        watch
            .innocent(&verdict)
            .is_some_and(|reason| reason.contains("int3"))
    );
}

#[test]
fn a_guest_that_says_nothing_is_given_up() {
    let silent = Duration::from_millis(100);
    let (_ports, mut watch) = Ports::new(Limits { silent, ..PATIENT });
    assert_eq!(end(&mut watch), Verdict::Silent(silent));
}

#[test]
fn a_job_that_takes_too_long_is_given_up_although_the_guest_lives() {
    let total = Duration::from_millis(200);
    let (ports, mut watch) = Ports::new(Limits { total, ..PATIENT });
    let mut told = 0;
    ports.say(&Event::Alive { uptime_s: 1.0 });
    let verdict = watch.until_the_end(&mut |event| {
        told += 1;
        ports.say(event);
        thread::sleep(Duration::from_millis(20));
    });
    assert_eq!(verdict.unwrap(), Verdict::TimedOut(total));
    assert!(told > 1);
}

#[test]
fn a_guest_that_ends_without_a_word_has_vanished() {
    let (ports, mut watch) = Ports::new(PATIENT);
    ports.say(&booted());
    ports.log("[    9.0] systemd-shutdown\n[    9.1] reboot: machine restart\n");
    drop(ports.lines);
    assert_eq!(
        end(&mut watch),
        Verdict::Vanished("reboot: machine restart".into())
    );
}

#[test]
fn verdicts_read_as_sentences() {
    let texts = [
        (
            Verdict::TimedOut(Duration::from_secs(90)),
            "not done after 90 s",
        ),
        (Verdict::Silent(Duration::from_secs(60)), "silent for 60 s"),
        (Verdict::Exited(3), "exit code 3"),
    ];
    for (verdict, text) in texts {
        assert_eq!(verdict.to_string(), text);
    }
}

#[test]
fn input_is_cut_into_pieces_that_fit() {
    let bytes = vec![b'x'; 2 * INPUT_MAX + 1];
    let pieces = split(Input::Stdin {
        text: bytes.as_slice().into(),
    });
    let lengths: Vec<_> = pieces
        .iter()
        .map(|piece| match piece {
            Input::Stdin { text } => text.as_bytes().len(),
            Input::StdinEnd => panic!("the end came from nowhere"),
        })
        .collect();
    assert_eq!(lengths, [INPUT_MAX, INPUT_MAX, 1]);
    assert_eq!(split(Input::StdinEnd), [Input::StdinEnd]);
}
