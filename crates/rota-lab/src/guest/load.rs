// SPDX-License-Identifier: GPL-2.0-only
//! Runs rota-load in the guest.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use rota_load::report::Report;

use super::program::{Program, Progress};

const PROGRAM: &str = "rota-load";

/// A workload gets this much longer than it is meant to run: emulation is slow, and a scheduler
/// under test may be worse. Ten thousand tasks take a minute to come and go.
const GRACE: Duration = Duration::from_secs(180);

/// What it says once its tasks begin.
const RUNS: &str = " runs for ";

/// A workload that was started. It is killed when this is dropped.
#[derive(Debug)]
pub struct Load {
    program: Program,
    limit: Duration,
}

impl Load {
    /// Starts `workload`, a name or the path of a file, for `length`, and with another seed than
    /// its own if there is one.
    pub fn start(workload: &str, length: Duration, seed: Option<u64>) -> io::Result<Self> {
        let time = format!("{}ms", length.as_millis());
        let seed = seed.map(|seed| format!("--seed={seed}"));
        let mut args = vec!["run", workload, "--for", &time, "--json"];
        args.extend(seed.as_deref());
        let program = Program::start(PROGRAM, &args)?;
        Ok(Self {
            program,
            limit: length + GRACE,
        })
    }

    /// The process.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Waits until all its tasks have their places and begin.
    pub fn await_tasks(&self) -> Result<(), String> {
        let begins = |progress: &Progress| {
            let mut lines = progress.stderr.iter();
            lines.any(|line| line.contains(RUNS)).then_some(())
        };
        let begun = self.program.wait_for(self.limit, begins);
        begun.ok_or_else(|| match report(&self.program.progress()) {
            Err(words) => words,
            Ok(_) => format!("{PROGRAM} does not tell that it runs"),
        })
    }

    /// Ends it before its time; its report.
    pub fn stop(self) -> Result<Report, String> {
        self.program.signal(Signal::SIGINT);
        self.finish()
    }

    /// Waits for its end; its report.
    pub fn finish(self) -> Result<Report, String> {
        match self.program.wait(self.limit) {
            Some(end) => report(&end),
            None => Err(format!(
                "{PROGRAM} is not done after {} s",
                self.limit.as_secs()
            )),
        }
    }
}

fn report(end: &Progress) -> Result<Report, String> {
    let failed = |what: String| {
        let words = end
            .stderr
            .last()
            .map_or("it said nothing", |line| line.as_str());
        Err(format!("{PROGRAM}: {what}: {words}"))
    };
    let report = serde_json::from_str(&end.stdout.join("\n"));
    match (report, end.code) {
        // With code 1 there is a report whose errors tell more than the code.
        (Ok(report), Some(0 | 1)) => Ok(report),
        (_, Some(code)) if code != 0 => failed(format!("exit code {code}")),
        (Ok(report), _) => Ok(report),
        (Err(error), _) => failed(format!("no report ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"workload":"hogs","seed":1,"seconds":2.0,"cpus":4,"llcs":1,
        "interrupted":false,"groups":[],"errors":["a task died"],"notes":[]}"#;

    fn end(code: i32, stdout: &str, stderr: &[&str]) -> Progress {
        Progress {
            stdout: stdout.lines().map(str::to_owned).collect(),
            stderr: stderr.iter().map(|line| (*line).to_owned()).collect(),
            code: Some(code),
            ..Progress::default()
        }
    }

    #[test]
    fn a_report_is_read() {
        assert_eq!(report(&end(0, REPORT, &[])).unwrap().workload, "hogs");
        assert_eq!(
            report(&end(1, REPORT, &[])).unwrap().errors,
            ["a task died"]
        );
    }

    #[test]
    fn a_failure_comes_with_its_words() {
        let error = report(&end(2, "", &["x.toml:3:1: unknown key"])).unwrap_err();
        assert_eq!(error, "rota-load: exit code 2: x.toml:3:1: unknown key");
        let error = report(&end(0, "", &[])).unwrap_err();
        assert!(error.starts_with("rota-load: no report ("), "{error}");
        let error = report(&end(137, REPORT, &[])).unwrap_err();
        assert!(error.starts_with("rota-load: exit code 137"), "{error}");
    }
}
