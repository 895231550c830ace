// SPDX-License-Identifier: GPL-2.0-only
//! What tasks do, one module for each family of kinds.

mod affinity;
mod messaging;
mod pattern;
mod pipe;
mod storm;
mod timed;

use super::task::Task;

pub use affinity::AffinityStorm;
pub use messaging::{Receiver, Sender};
pub use pattern::{Pattern, Ring};
pub use pipe::{End, pair};
pub use storm::Storm;
pub use timed::{Frames, Probe};

/// The work of one task with the resources that it needs.
pub enum Role {
    /// A turn of run and sleep, again and again.
    Pattern(Pattern),
    /// One end of a pipe pair.
    Pipe(End),
    /// A sender of messages.
    Sender(Sender),
    /// A receiver of messages.
    Receiver(Receiver),
    /// Forks, perhaps executes.
    Storm(Storm),
    /// Changes affinities.
    AffinityStorm(AffinityStorm),
    /// Frames.
    Frames(Frames),
    /// A probe.
    Probe(Probe),
    /// The role has been handed over to the task that runs it.
    Taken,
}

impl Role {
    /// Does the work until the task's end.
    pub fn run(self, task: &mut Task<'_>) {
        match self {
            Role::Pattern(pattern) => pattern.run(task),
            Role::Pipe(end) => end.run(task),
            Role::Sender(sender) => sender.run(task),
            Role::Receiver(receiver) => receiver.run(task),
            Role::Storm(storm) => storm.run(task),
            Role::AffinityStorm(storm) => storm.run(task),
            Role::Frames(frames) => frames.run(task),
            Role::Probe(probe) => probe.run(task),
            Role::Taken => {}
        }
    }
}
