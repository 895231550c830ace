// SPDX-License-Identifier: GPL-2.0-only
//! The interpreter.

pub mod memory;

pub use memory::{BadAccess, Kind, Memory};

/// Bytes of a stack frame, as in the kernel (`MAX_BPF_STACK`).
pub const FRAME_BYTES: usize = 512;
/// Frames of one execution, callbacks included. The kernel's verifier allows 8
/// (`MAX_CALL_FRAMES`); a callback has its own beside its caller's.
pub const MAX_FRAMES: usize = 16;
