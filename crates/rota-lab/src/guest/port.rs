// SPDX-License-Identifier: GPL-2.0-only
//! The guest's end of the protocol: the second serial port.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::termios::{self, ControlFlags, SetArg};

use crate::job::{Event, Input};

#[cfg(not(target_arch = "aarch64"))]
const DEVICE: &str = "/dev/ttyS1";
/// The first of this kind: the kernel's log is on a port of another.
#[cfg(target_arch = "aarch64")]
const DEVICE: &str = "/dev/ttyS0";

/// Writes events, a line each, from any thread.
#[derive(Debug, Clone)]
pub struct Port {
    file: Arc<Mutex<File>>,
}

impl Port {
    /// Opens the port and makes it pass bytes as they are.
    pub fn open() -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(DEVICE)?;
        let mut settings = termios::tcgetattr(&file)?;
        termios::cfmakeraw(&mut settings);
        // There is no modem whose carrier could be waited for.
        settings.control_flags |= ControlFlags::CLOCAL | ControlFlags::CREAD;
        termios::tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        Ok(Self {
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// Sends one event.
    pub fn emit(&self, event: &Event) {
        let mut line = serde_json::to_string(event).expect("an event is plain data");
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            log::error!("writing to {DEVICE}: {error}");
        }
    }

    /// Waits until everything is sent.
    pub fn drain(&self) {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = termios::tcdrain(&*file) {
            log::error!("draining {DEVICE}: {error}");
        }
    }

    /// Calls `on_input` for each line from the host, until the port is closed.
    pub fn receive(&self, mut on_input: impl FnMut(Input)) -> io::Result<()> {
        let file = self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_clone()?;
        for line in BufReader::new(file).lines() {
            match serde_json::from_str(&line?) {
                Ok(input) => on_input(input),
                Err(error) => log::error!("not an input: {error}"),
            }
        }
        Ok(())
    }
}
