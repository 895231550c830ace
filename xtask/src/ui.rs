// SPDX-License-Identifier: GPL-2.0-only
//! What the user sees: progress on stderr, results on stdout.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);

/// Prints a line of the result on stdout.
pub fn out(line: impl AsRef<str>) {
    // A closed pipe (`| head`) is the reader's choice, not an error.
    let _ = writeln!(io::stdout(), "{}", line.as_ref());
}

/// Prints a line about the progress on stderr.
pub fn note(line: impl AsRef<str>) {
    let _ = writeln!(io::stderr(), "{}", line.as_ref());
}

/// Something that takes over a second: a spinner or a bar on a terminal, two plain lines elsewhere.
pub struct Task {
    bar: ProgressBar,
    label: String,
    started: Instant,
    live: bool,
}

/// A task whose length is unknown.
pub fn spinner(label: impl Into<String>) -> Task {
    let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}");
    Task::start(
        label.into(),
        ProgressBar::new_spinner(),
        style.expect("a valid template"),
    )
}

/// A task of `length` steps.
pub fn bar(label: impl Into<String>, length: u64) -> Task {
    let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {bar:24} {wide_msg}");
    Task::start(
        label.into(),
        ProgressBar::new(length),
        style.expect("a valid template"),
    )
}

impl Task {
    fn start(label: String, bar: ProgressBar, style: ProgressStyle) -> Self {
        let live = io::stderr().is_terminal();
        if live {
            bar.set_style(style);
            bar.set_prefix(label.clone());
            bar.enable_steady_tick(TICK);
        } else {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
            note(format!("{label} ..."));
        }
        Self {
            bar,
            label,
            started: Instant::now(),
            live,
        }
    }

    /// What the task is called.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Shows what is being done right now (only on a terminal).
    pub fn say(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// Shows what is worth a line of its own where there is no terminal.
    pub fn tell(&self, text: impl Into<String>) {
        if self.live {
            self.say(text);
        } else {
            note(format!("  {}", text.into()));
        }
    }

    /// Moves the bar to `position`.
    pub fn reach(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Prints a line that stays, above the spinner.
    pub fn print(&self, line: impl AsRef<str>) {
        if self.live {
            self.bar.suspend(|| note(line));
        } else {
            note(line);
        }
    }

    /// Ends the task with a line that stays.
    pub fn done(self, text: impl AsRef<str>) {
        self.bar.finish_and_clear();
        let text = text.as_ref();
        let separator = if text.is_empty() { "" } else { ": " };
        note(format!(
            "{}{separator}{text} ({})",
            self.label,
            seconds(self.started.elapsed())
        ));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `3.1 s`, `75 s`.
pub fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{seconds:.0} s")
    }
}

/// `812 KiB`, `2.1 MiB`.
pub fn size(bytes: u64) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib < 1024.0 {
        format!("{kib:.0} KiB")
    } else {
        format!("{:.1} MiB", kib / 1024.0)
    }
}

/// A borderless table with `header`, its columns from the second on aligned to the right.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Aligns the column at `index` to the left after all, for words.
pub fn align_left(table: &mut Table, index: usize) {
    if let Some(column) = table.column_mut(index) {
        column.set_cell_alignment(CellAlignment::Left);
    }
}

/// Prints `table` without the blanks that pad its lines.
pub fn print_table(table: &Table) {
    for line in table.lines() {
        out(line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_carry_their_unit() {
        assert_eq!(seconds(Duration::from_millis(3140)), "3.1 s");
        assert_eq!(seconds(Duration::from_millis(74_900)), "75 s");
        assert_eq!(size(831_488), "812 KiB");
        assert_eq!(size(2_202_010), "2.1 MiB");
    }
}
