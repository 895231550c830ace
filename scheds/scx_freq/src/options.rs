// SPDX-License-Identifier: GPL-2.0-only
//! The options of scx_freq, and the order of CPUs that follows from them.

use clap::{ArgAction, ValueEnum};
use rota_core::options::{LIVE, RESTART, within};
use rota_core::topology::{Fill, Merit, Topology};

/// The options of scx_freq.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Idle time after which a CPU of the primary nest goes to the reserve, in microseconds
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 2_000)]
    #[arg(value_parser = within::<u64>(100..=1_000_000))]
    pub remove_us: u64,

    /// Idle time after which a CPU leaves the reserve, in microseconds
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 20_000)]
    #[arg(value_parser = within::<u64>(100..=10_000_000))]
    pub expire_us: u64,

    /// Most CPUs of the reserve nest
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 5)]
    #[arg(value_parser = within::<u32>(0..=1_024))]
    pub reserve_max: u32,

    /// Most CPUs that wake-ups make primary; 0 for no limit
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 0)]
    #[arg(value_parser = within::<u32>(0..=1_024))]
    pub primary_max: u32,

    /// Wake-ups in a row that miss the CPU they want before a task makes another primary at once
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 2)]
    #[arg(value_parser = within::<u32>(0..=1_000))]
    pub impatience: u32,

    /// Wait for a warm CPU beside idle ones that a tick ends, in microseconds; 0 for no wait
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 2_000)]
    #[arg(value_parser = within::<u64>(0..=1_000_000))]
    pub grow_us: u64,

    /// What to ask of the hardware: auto (by use, if the governor is schedutil), off, or max
    #[arg(long, value_name = "MODE", help_heading = LIVE, value_enum)]
    #[arg(default_value_t = Performance::Auto, hide_possible_values = true)]
    pub cpuperf: Performance,

    /// What the nest fills first: cores (one thread of each), or threads (all of a core)
    #[arg(long, value_name = "WHAT", help_heading = RESTART, value_enum)]
    #[arg(default_value_t = Order::Cores, hide_possible_values = true)]
    fill: Order,

    /// Prefer the most efficient cores to the fastest
    #[arg(long, value_name = "BOOL", help_heading = RESTART, action = ArgAction::Set)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value_t = false, hide_possible_values = true)]
    energy: bool,
}

/// `--cpuperf`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Performance {
    /// As much as is used, where the hardware listens.
    Auto,
    /// Nothing.
    Off,
    /// All there is, of warm CPUs.
    Max,
}

/// `--fill`.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One thread of each core, then the second ones.
    Cores,
    /// All threads of a core, then those of the next.
    Threads,
}

impl Options {
    /// The online CPUs, those that the nest takes first in front.
    pub fn ranking(&self, topology: &Topology) -> Vec<usize> {
        let merit = match self.energy {
            true => Merit::Efficiency,
            false => Merit::Performance,
        };
        let fill = match self.fill {
            Order::Cores => Fill::Cores,
            Order::Threads => Fill::Threads,
        };
        topology.ranking(merit, fill)
    }

    /// Whether a task should have a core of its own rather than a warm one.
    pub fn fills_cores(&self) -> bool {
        self.fill == Order::Cores
    }
}
