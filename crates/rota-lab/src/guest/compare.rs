// SPDX-License-Identifier: GPL-2.0-only
//! The comparison of `cargo xtask run` and `cargo xtask compare`: one workload, under the kernel's
//! own scheduler and under each contender, in one guest and round after round, so that whatever
//! makes the host slow for a while makes it slow for all of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rota_load::report::Report;

use super::kmsg::{self, Kmsg};
use super::load::Load;
use super::program::{OnLine, Progress};
use super::sched::{self, Sched};
use super::{Port, STOP_LIMIT, kconfig, scx};
use crate::job::{Compare, Contender, Event, Phase, Ran, SchedState, Stream};

/// How a scheduler is asked to stop, each way for [`STOP_LIMIT`]: as ^C does, as a service manager
/// does, and in the end it is killed, upon which the kernel drops it.
const STOPS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL];

/// How much of a program's last words is told, in characters.
const WORDS_MAX: usize = 200;

/// Runs the comparison; the result is the exit code of the last scheduler that failed, or 0.
///
/// A scheduler that fails is left out of the rounds that follow. An error is a guest in which
/// nothing more can be compared.
pub fn run(port: &Port, job: &Compare) -> Result<i32, String> {
    let log = Kmsg::from_now().map_err(|error| format!("the kernel's log: {error}"))?;
    if job.contenders.iter().any(|one| one.foreign.is_some())
        && let Err(error) = kconfig::write()
    {
        log::warn!("the kernel's configuration: {error}");
    }
    let mut lap = Lap {
        port,
        job,
        round: 0,
        log,
    };
    let mut failed = BTreeSet::new();
    let mut code = 0;
    for round in 0..job.rounds {
        lap.round = round;
        for index in order(job.contenders.len() + 1, round) {
            // The kernel's own comes before the contenders.
            let Some(contender) = index.checked_sub(1).map(|index| &job.contenders[index]) else {
                lap.kernel()?;
                continue;
            };
            if failed.contains(&index) {
                continue;
            }
            let ran = lap.sched(contender)?;
            if ran.failed.is_some() {
                failed.insert(index);
                // One of ours says why with its code; a foreign one's may be anything.
                code = if ran.exit_code > 0 { ran.exit_code } else { 1 };
            }
            let state = ran.state_after.state.clone();
            port.emit(&Event::Ran(Box::new(ran)));
            if state != "disabled" {
                let name = &contender.name;
                return Err(format!("sched_ext is {state} after {name} has ended"));
            }
        }
    }
    Ok(code)
}

/// In which order `count` runs take their turns in `round`. The first round takes them as they are.
///
/// A run heats caches, leaves memory to be freed and CPUs awake, so nobody may always come after the
/// same one. The rounds are the rows of a Williams square: over `count` rounds (twice as many if it
/// is odd) each comes directly after each other one equally often, and is at each place equally
/// often.
fn order(count: usize, round: u32) -> Vec<usize> {
    // 0, 1, n-1, 2, n-2, ...: the steps between neighbours differ from one another.
    let zigzag = |place: usize| match place.div_ceil(2) {
        half if place % 2 == 1 => half,
        half => (count - half) % count,
    };
    let place_of = |value: usize| {
        (0..count)
            .find(|place| zigzag(*place) == value)
            .expect("a zigzag meets all")
    };
    let round = round as usize;
    let mut turns: Vec<usize> = (0..count)
        .map(|place| place_of((zigzag(place) + round) % count))
        .collect();
    // With an odd count the rows balance only together with their mirror images.
    if count % 2 == 1 && round % 2 == 1 {
        turns.reverse();
    }
    turns
}

/// One turn after the other.
struct Lap<'a> {
    port: &'a Port,
    job: &'a Compare,
    round: u32,
    log: Kmsg,
}

impl Lap<'_> {
    fn phase(&self, phase: Phase, sched: &str, seconds: f64) {
        self.port.emit(&Event::Phase {
            phase,
            round: self.round,
            sched: sched.to_owned(),
            seconds,
        });
    }

    /// A run under the kernel's own scheduler. Without it there is nothing to compare with.
    fn kernel(&mut self) -> Result<(), String> {
        let mut ran = Ran {
            round: self.round,
            state_before: scx::snapshot(),
            ..Ran::default()
        };
        self.phase(Phase::Kernel, "", self.job.seconds);
        ran.report = Some(self.workload()?);
        ran.kernel_trouble = kmsg::trouble(&self.log.lines());
        self.port.emit(&Event::Ran(Box::new(ran)));
        Ok(())
    }

    /// A run under `contender`; the error is one that does not even die.
    fn sched(&mut self, contender: &Contender) -> Result<Ran, String> {
        let name = &contender.name;
        let mut ran = Ran {
            sched: name.clone(),
            round: self.round,
            state_before: scx::snapshot(),
            ..Ran::default()
        };
        self.phase(Phase::Attach, name, 0.0);
        let before = Instant::now();
        let end = match self.spawn(contender) {
            Ok(sched) => match attach(&sched, contender, &mut ran) {
                Ok(()) => {
                    ran.attach_ms = milliseconds(before);
                    self.measure(&sched, &mut ran);
                    self.phase(Phase::Detach, name, 0.0);
                    stop(&sched, &mut ran)?
                }
                Err(end) => {
                    // One that is just silent may attach yet.
                    let killed = sched.stop(Signal::SIGKILL, STOP_LIMIT);
                    ran.failed = Some(did_not_start(&end));
                    Progress {
                        code: end.code,
                        ..killed.unwrap_or(end)
                    }
                }
            },
            Err(error) => {
                ran.failed = Some(format!("did not start: {error}"));
                Progress::default()
            }
        };
        // A timeout shows in the state itself.
        let _ = scx::wait_for("disabled", STOP_LIMIT);
        ran.state_after = scx::snapshot();
        ran.counters = sched::counters(&end);
        ran.exit = sched::last(&end, "exit").unwrap_or_default();
        ran.exit_code = end.code.unwrap_or(1);
        ran.stderr = end.stderr;
        ran.kernel_trouble = kmsg::trouble(&self.log.lines());
        Ok(ran)
    }

    fn spawn(&self, contender: &Contender) -> std::io::Result<Sched> {
        let Contender {
            name,
            args,
            foreign,
        } = contender;
        match foreign {
            Some(foreign) => Sched::spawn_foreign(name, args, &foreign.library_dirs),
            None => Sched::spawn(name, args, Some(forward(self.port.clone()))),
        }
    }

    /// Runs the workload, and looks whether the scheduler was there from its start to its end.
    fn measure(&self, sched: &Sched, ran: &mut Ran) {
        self.phase(Phase::Sched, &ran.sched, self.job.seconds);
        match self.workload() {
            Ok(report) => ran.report = Some(report),
            Err(error) => ran.failed = Some(error),
        }
        ran.events = scx::events();
        if !same_scheduler(&ran.state_during, &scx::snapshot()) {
            let limit = Duration::from_secs(1);
            let end = sched.program().wait(limit);
            let end = end.unwrap_or_else(|| sched.program().progress());
            ran.failed = Some(format!(
                "ended in the middle of the workload{}",
                last_words(&end)
            ));
        }
    }

    /// Runs the workload once.
    fn workload(&self) -> Result<Report, String> {
        let length = Duration::from_secs_f64(self.job.seconds);
        let load =
            Load::start(&self.job.workload, length, None).map_err(|error| error.to_string())?;
        load.finish()
    }
}

/// Waits until the kernel runs it, and one of ours says so too.
fn attach(sched: &Sched, contender: &Contender, ran: &mut Ran) -> Result<(), Progress> {
    ran.state_during = sched.wait_attached(&ran.state_before)?;
    if contender.foreign.is_none() {
        ran.started = sched.wait_start(1)?;
    }
    ran.attached = true;
    Ok(())
}

/// Stops it, more and more firmly.
fn stop(sched: &Sched, ran: &mut Ran) -> Result<Progress, String> {
    let before = Instant::now();
    let end = STOPS
        .into_iter()
        .find_map(|signal| Some((signal, sched.stop(signal, STOP_LIMIT)?)));
    ran.detach_ms = milliseconds(before);
    let (signal, end) = end.ok_or_else(|| format!("{} cannot be stopped", ran.sched))?;
    if signal == Signal::SIGKILL {
        let message = "had to be killed, neither SIGINT nor SIGTERM ended it".to_owned();
        ran.failed.get_or_insert(message);
    }
    Ok(end)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Whether `now` is the very scheduler that `then` was: one that was ejected and has attached anew
/// has another number.
fn same_scheduler(then: &SchedState, now: &SchedState) -> bool {
    now.state == "enabled" && now.ops == then.ops && now.enable_seq == then.enable_seq
}

/// Why it did not start, with its own words.
fn did_not_start(end: &Progress) -> String {
    match end.code {
        Some(code) => format!("did not start, exit code {code}{}", last_words(end)),
        None => format!("neither started nor ended{}", last_words(end)),
    }
}

/// What one of ours says about its end, else the last error or line of a program that may use either
/// stream; in one line.
fn last_words(end: &Progress) -> String {
    let exit = sched::last(end, "exit").unwrap_or_default();
    let told: Vec<&str> = ["kind_name", "reason", "message"]
        .iter()
        .filter_map(|key| exit[key].as_str())
        .filter(|text| !text.is_empty())
        .collect();
    if !told.is_empty() {
        return format!(": {}", told.join(", "));
    }
    let lines = end.stdout.iter().chain(&end.stderr);
    let lines: Vec<&str> = lines.map(|line| line.trim()).collect();
    // An error may go on over further lines, down to its cause.
    let error = |line: &&str| {
        ["error", "exit:"]
            .iter()
            .any(|word| starts_with(line, word))
    };
    let from = lines.iter().rposition(error);
    let from = from.or_else(|| lines.iter().rposition(|line| !line.is_empty()));
    let words = lines[from.unwrap_or(lines.len())..].join(" ");
    let words: Vec<&str> = words.split_whitespace().collect();
    if words.is_empty() {
        return String::new();
    }
    let mut words = words.join(" ");
    if let Some((end, _)) = words.char_indices().nth(WORDS_MAX) {
        words.truncate(end);
        words.push_str("...");
    }
    format!(": {words}")
}

/// Whether `line` starts with `word`, in capitals or not.
fn starts_with(line: &str, word: &str) -> bool {
    let start = line.get(..word.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(word))
}

/// Passes a scheduler's stats on as they come.
fn forward(port: Port) -> OnLine {
    Box::new(move |stream, line| {
        let Some(stats) = sched::event(line, "stats").filter(|_| stream == Stream::Stdout) else {
            return;
        };
        let uptime_s = stats["uptime_s"].as_f64().unwrap_or_default();
        port.emit(&Event::Stats {
            uptime_s,
            counters: sched::counters_of(&stats),
        });
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_first_round_is_in_the_order_given() {
        for count in 1..8 {
            let straight: Vec<usize> = (0..count).collect();
            assert_eq!(order(count, 0), straight);
        }
        assert_eq!(order(2, 1), [1, 0]);
    }

    #[test]
    fn each_follows_each_other_equally_often_and_is_at_each_place_equally_often() {
        for count in 2..9_usize {
            let (mut pairs, mut places) = (BTreeMap::new(), BTreeMap::new());
            for round in 0..2 * count {
                let turns = order(count, u32::try_from(round).unwrap());
                for pair in turns.windows(2) {
                    *pairs.entry((pair[0], pair[1])).or_insert(0) += 1;
                }
                for place in turns.into_iter().enumerate() {
                    *places.entry(place).or_insert(0) += 1;
                }
            }
            assert_eq!(pairs.len(), count * (count - 1), "{count}: {pairs:?}");
            assert!(
                pairs.values().all(|times| *times == 2),
                "{count}: {pairs:?}"
            );
            assert_eq!(places.len(), count * count, "{count}: {places:?}");
            assert!(
                places.values().all(|times| *times == 2),
                "{count}: {places:?}"
            );
        }
    }

    #[test]
    fn a_scheduler_that_attached_anew_is_another_one() {
        let then = SchedState {
            state: "enabled".into(),
            ops: "fifo_0.1.0".into(),
            enable_seq: 3,
            ..SchedState::default()
        };
        assert!(same_scheduler(&then, &then.clone()));
        let mut now = then.clone();
        now.enable_seq = 4;
        assert!(!same_scheduler(&then, &now));
        now = then.clone();
        now.state = "disabled".into();
        assert!(!same_scheduler(&then, &now));
    }

    #[test]
    fn the_last_words_are_the_exit_record_or_a_line() {
        let mut end = Progress {
            stderr: vec!["libbpf: no".into(), "Error: no BTF".into(), " ".into()],
            code: Some(1),
            ..Progress::default()
        };
        let expected = "did not start, exit code 1: Error: no BTF";
        assert_eq!(did_not_start(&end), expected);
        end.stderr
            .extend(["Caused by:".into(), "   Invalid argument".into()]);
        assert!(last_words(&end).ends_with("no BTF Caused by: Invalid argument"));
        let exit = r#"{"event":"exit","kind":1026,"kind_name":"ERROR_STALL","message":"hog[1]"}"#;
        end.stdout.push(exit.into());
        assert_eq!(last_words(&end), ": ERROR_STALL, hog[1]");
        assert_eq!(
            did_not_start(&Progress::default()),
            "neither started nor ended"
        );
    }
}
