// SPDX-License-Identifier: GPL-2.0-only
//! What a program does that has no meaning. The kernel's verifier refuses most
//! of it before it runs; here it stops the execution.

use thiserror::Error;

use super::BadAccess;

/// Why an execution cannot go on, and where.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{function}+{insn}: {cause}")]
pub struct Fault {
    /// The function.
    pub function: String,
    /// The index of the instruction in the function.
    pub insn: usize,
    /// What happened.
    pub cause: Cause,
}

/// What a program did.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// It accessed what there is not.
    #[error("{0}")]
    Access(#[from] BadAccess),
    /// It called a helper that is not simulated.
    #[error("unsupported helper {name} ({number})")]
    UnsupportedHelper {
        /// Its name, without `bpf_`.
        name: &'static str,
        /// Its number.
        number: i64,
    },
    /// It called a kfunc that is not simulated.
    #[error("unsupported kfunc {0}")]
    UnsupportedKfunc(String),
    /// It reached an instruction that stands for something that the kernel does
    /// not have.
    #[error("reached an instruction that needs {0}, which this kernel lacks")]
    Poisoned(String),
    /// It passed something to a helper or kfunc that this does not take.
    #[error("{call}: {what}")]
    Argument {
        /// The name of the function that was called.
        call: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Too many functions within functions.
    #[error("more than {} frames", super::MAX_FRAMES)]
    CallDepth,
    /// It left the program.
    #[error("jumped to where there is no instruction")]
    NoInstruction,
    /// It called through a pointer to something that is no function.
    #[error("{0:#x} is no function")]
    NotAFunction(u64),
    /// It ended with something that it should have given back.
    #[error("ended without giving back {0}")]
    Leak(String),
    /// It waits for a lock that it holds itself.
    #[error("takes a spin lock while it holds one")]
    Deadlock,
}

impl Cause {
    pub(crate) fn argument(call: &'static str, what: impl Into<String>) -> Self {
        Cause::Argument {
            call,
            what: what.into(),
        }
    }
}
