// SPDX-License-Identifier: GPL-2.0-only
//! Counts what passed and failed, and where the time went.

use std::time::{Duration, Instant};

use anyhow::Result;
use rota_lab::vm::interrupted;

use crate::ui::{self, Task};

/// How many tests, or steps, ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As they should.
    pub passed: usize,
    /// Not as they should.
    pub failed: usize,
    /// Not at all.
    pub skipped: usize,
}

impl Counts {
    /// A step that is done.
    pub const ONE_PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    /// A step that failed.
    pub const ONE_FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    /// A step that had nothing to say here.
    pub const ONE_SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    /// Adds up the closing lines of test programs: `test result: ok. 3 passed; 0 failed; ...`.
    pub fn of_libtest(lines: &[String]) -> Self {
        let mut sum = Self::default();
        for line in lines
            .iter()
            .filter(|line| line.starts_with("test result: "))
        {
            let words: Vec<&str> = line
                .split([' ', ';'])
                .filter(|word| !word.is_empty())
                .collect();
            let before = |name: &str| {
                let at = words.iter().position(|word| *word == name);
                at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok())
                    .unwrap_or(0)
            };
            sum.add(Self {
                passed: before("passed"),
                failed: before("failed"),
                skipped: before("ignored"),
            });
        }
        sum
    }

    /// For a program that failed without saying which test did: it did not compile, or crashed.
    pub fn at_least_one_failed(self) -> Self {
        Self {
            failed: self.failed.max(1),
            ..self
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// A line of the closing table.
struct Row {
    name: String,
    counts: Counts,
    time: Duration,
}

/// Everything counted so far.
pub struct Tally {
    rows: Vec<Row>,
    started: Instant,
}

impl Tally {
    /// Starts the clock.
    pub fn new() -> Self {
        Self {
            rows: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Runs a step behind a spinner. A failure is shown and counted, and the next step runs, unless
    /// the user has asked to end.
    pub fn step(&mut self, name: &str, run: impl FnOnce(&Task) -> Result<Counts>) {
        if interrupted() {
            return;
        }
        let task = ui::spinner(name);
        let started = Instant::now();
        let counts = run(&task).unwrap_or_else(|error| {
            task.print(format!("error: {error:#}"));
            Counts::ONE_FAILED
        });
        task.done(if counts.failed == 0 { "ok" } else { "FAILED" });
        self.rows.push(Row {
            name: name.to_owned(),
            counts,
            time: started.elapsed(),
        });
    }

    /// Prints the table and the closing line; whether nothing failed.
    pub fn close(&self) -> bool {
        let mut table = ui::table(&["step", "passed", "failed", "skipped", "time"]);
        let mut sum = Counts::default();
        for Row { name, counts, time } in &self.rows {
            sum.add(*counts);
            let Counts {
                passed,
                failed,
                skipped,
            } = counts;
            let numbers = [passed, failed, skipped].map(usize::to_string);
            let [passed, failed, skipped] = numbers;
            table.add_row([name.clone(), passed, failed, skipped, ui::seconds(*time)]);
        }
        ui::out("");
        ui::print_table(&table);
        let Counts {
            passed,
            failed,
            skipped,
        } = sum;
        let time = ui::seconds(self.started.elapsed());
        ui::out(format!(
            "\n{passed} passed, {failed} failed, {skipped} skipped"
        ));
        ui::note(format!("in {time}"));
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_all_test_programs_are_added_up() {
        let text = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\n\
            test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let expected = Counts {
            passed: 8,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Counts::of_libtest(&lines), expected);
        assert_eq!(Counts::of_libtest(&[]), Counts::default());
    }

    #[test]
    fn a_program_that_did_not_even_start_counts_as_a_failure() {
        assert_eq!(Counts::default().at_least_one_failed(), Counts::ONE_FAILED);
        let two = Counts {
            failed: 2,
            ..Counts::default()
        };
        assert_eq!(two.at_least_one_failed(), two);
    }

    #[test]
    fn a_failed_step_does_not_stop_the_next_but_the_whole() {
        let mut tally = Tally::new();
        tally.step("first", |_| anyhow::bail!("it broke"));
        tally.step("second", |_| Ok(Counts::ONE_PASSED));
        assert_eq!(tally.rows.len(), 2);
        assert!(!tally.close());
    }
}
