// SPDX-License-Identifier: GPL-2.0-only
//! Errors that end xtask with a code of their own. Every other error ends it with 1.

use std::fmt;

/// Everything the command promised was done.
pub const OK: u8 = 0;
/// The command ran, and what it checks or does failed.
pub const FAILED: u8 = 1;
/// The command line names something that does not exist.
const USAGE: u8 = 2;
/// This machine lacks something that xtask may not or cannot install.
const ENVIRONMENT: u8 = 3;

/// The user has asked to end: 128 + SIGINT, as a shell would say it.
pub const INTERRUPTED: u8 = 130;

/// An error with the exit code it asks for.
#[derive(Debug)]
pub struct Stop {
    /// The process exit code.
    pub code: u8,
    message: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// The command line is wrong: `message` names the wrong word and the allowed ones.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Stop {
        code: USAGE,
        message: message.into(),
    }
    .into()
}

/// The machine is not ready: `message` says what is missing and what to run.
pub fn environment(message: impl Into<String>) -> anyhow::Error {
    Stop {
        code: ENVIRONMENT,
        message: message.into(),
    }
    .into()
}

/// The exit code that `error` asks for.
pub fn code_of(error: &anyhow::Error) -> u8 {
    match (
        error.downcast_ref::<Stop>(),
        error.downcast_ref::<rota_lab::Error>(),
    ) {
        (Some(stop), _) => stop.code,
        (None, Some(error)) => code_of_lab(error),
        (None, None) => FAILED,
    }
}

fn code_of_lab(error: &rota_lab::Error) -> u8 {
    use rota_lab::Error as Lab;
    match error {
        Lab::BadTopology { .. }
        | Lab::BadKernel { .. }
        | Lab::NoSuchKernel { .. }
        | Lab::NotBuilt(_) => USAGE,
        Lab::MissingPackages(_)
        | Lab::NoEmulator(_)
        | Lab::NoMirror
        | Lab::Network { .. }
        | Lab::DiskFull { .. }
        | Lab::Qemu { .. } => ENVIRONMENT,
        Lab::Interrupted => INTERRUPTED,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_stop_keeps_its_code_under_added_context() {
        let error = Err::<(), _>(environment("no qemu"))
            .context("booting")
            .unwrap_err();
        assert_eq!(code_of(&error), ENVIRONMENT);
        assert_eq!(code_of(&usage("no such kernel")), USAGE);
        assert_eq!(code_of(&anyhow::anyhow!("it broke")), FAILED);
        assert_eq!(code_of(&rota_lab::Error::NoMirror.into()), ENVIRONMENT);
        let kernel = "4.19x".parse::<rota_lab::kernel::Spec>().unwrap_err();
        assert_eq!(code_of(&kernel.into()), USAGE);
    }
}
