// SPDX-License-Identifier: GPL-2.0-only
//! Two tasks that send a word to and fro through two pipes.
//!
//! The word is the time at which it was sent. An end that reaches the deadline
//! sends a last word, so that its partner wakes up and sees the deadline too.

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};

use crate::run::sys;
use crate::run::task::Task;

/// One end of a pair.
pub struct End {
    from: PipeReader,
    to: PipeWriter,
    /// Whether it sends the first word and counts the round trips.
    leads: bool,
}

/// The two ends of a new pair, the leading one first.
pub fn pair() -> io::Result<(End, End)> {
    let (there_from, there_to) = io::pipe()?;
    let (back_from, back_to) = io::pipe()?;
    let lead = End {
        from: back_from,
        to: there_to,
        leads: true,
    };
    Ok((
        lead,
        End {
            from: there_from,
            to: back_to,
            leads: false,
        },
    ))
}

impl End {
    pub(super) fn run(mut self, task: &mut Task<'_>) {
        let mut before = sys::monotonic_ns();
        if self.leads && !self.send(before) {
            return;
        }
        while let Some(sent) = self.receive(task) {
            let now = sys::monotonic_ns();
            // A word sent before this end asked for it did not wake anybody.
            if sent > before {
                task.woken(sent, now);
            }
            if !task.go_on(now) {
                break;
            }
            if self.leads {
                task.op();
            }
            before = sys::monotonic_ns();
            // Nothing but reading the clock lies between, so any more was a gap.
            task.gap(now, before);
            if !self.send(before) {
                return;
            }
        }
        self.send(sys::monotonic_ns());
    }

    /// Whether the partner still listens. A pipe has room for the few words that two
    /// ends can have under way, so this never blocks.
    fn send(&mut self, now_ns: u64) -> bool {
        self.to.write_all(&now_ns.to_ne_bytes()).is_ok()
    }

    /// The next word, unless the end came first or the partner is gone.
    fn receive(&mut self, task: &mut Task<'_>) -> Option<u64> {
        let mut word = [0; 8];
        task.waits();
        loop {
            // Pipes keep words of this size whole.
            match self.from.read(&mut word) {
                Ok(size) if size == word.len() => return Some(u64::from_ne_bytes(word)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    if sys::monotonic_ns() >= task.end_ns() {
                        return None;
                    }
                }
                _ => return None,
            }
        }
    }
}
