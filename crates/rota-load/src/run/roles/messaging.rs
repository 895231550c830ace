// SPDX-License-Identifier: GPL-2.0-only
//! Senders and receivers on stream sockets, every sender writing to every receiver
//! in turn, as hackbench has them.
//!
//! A message begins with the time at which it was sent. A task that reaches the
//! deadline shuts its sockets down, which ends every partner's wait.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::run::sys;
use crate::run::task::Task;

const STAMP_BYTES: usize = 8;

/// A task that sends.
pub struct Sender {
    /// A socket to each receiver, shared with the other senders of the set.
    pub to: Vec<Arc<UnixStream>>,
    /// Size of a message.
    pub bytes: usize,
}

/// A task that receives.
pub struct Receiver {
    /// Its socket.
    pub from: UnixStream,
    /// Size of a message.
    pub bytes: usize,
}

impl Sender {
    pub(super) fn run(self, task: &mut Task<'_>) {
        let mut message = vec![0; self.bytes];
        'work: loop {
            for socket in &self.to {
                let now = sys::monotonic_ns();
                if !task.go_on(now) {
                    break 'work;
                }
                message[..STAMP_BYTES].copy_from_slice(&now.to_ne_bytes());
                task.waits();
                if !send(socket, &message, task) {
                    break 'work;
                }
            }
        }
        for socket in &self.to {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Sends a whole message; false at the end or when the receiver is gone.
fn send(socket: &UnixStream, mut message: &[u8], task: &Task<'_>) -> bool {
    let mut socket: &UnixStream = socket;
    while !message.is_empty() {
        match socket.write(message) {
            Ok(sent) if sent > 0 => message = &message[sent..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {
                if sys::monotonic_ns() >= task.end_ns() {
                    return false;
                }
            }
            _ => return false,
        }
    }
    true
}

impl Receiver {
    pub(super) fn run(mut self, task: &mut Task<'_>) {
        let mut message = vec![0; self.bytes];
        let mut before = sys::monotonic_ns();
        while self.receive(&mut message, task) {
            let now = sys::monotonic_ns();
            let stamp = message
                .first_chunk::<STAMP_BYTES>()
                .expect("messages hold a stamp");
            let sent = u64::from_ne_bytes(*stamp);
            // A message sent before this task asked for one did not wake it.
            if sent > before {
                task.woken(sent, now);
            }
            if !task.go_on(now) {
                break;
            }
            task.op();
            before = sys::monotonic_ns();
            task.gap(now, before);
        }
        let _ = self.from.shutdown(Shutdown::Both);
    }

    /// Receives a whole message; false at the end or when all senders are gone.
    fn receive(&mut self, message: &mut [u8], task: &mut Task<'_>) -> bool {
        let mut filled = 0;
        task.waits();
        while filled < message.len() {
            match self.from.read(&mut message[filled..]) {
                Ok(size) if size > 0 => filled += size,
                Err(e) if e.kind() == ErrorKind::Interrupted => {
                    if sys::monotonic_ns() >= task.end_ns() {
                        return false;
                    }
                }
                _ => return false,
            }
        }
        true
    }
}
