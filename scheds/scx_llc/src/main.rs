// SPDX-License-Identifier: GPL-2.0-only
//! scx_llc: tasks stay near their cache.
//!
//! A queue by weighted virtual time for each last-level cache, and two movers
//! between them: CPUs that would idle, and a balancer. How tasks are queued and
//! moved is told in `bpf/llc.bpf.c`, what the balancer wants moved in
//! `leveller.rs`.

mod leveller;
mod tables;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::ArgAction;
use rota_core::options::{LIVE, RESTART, within};
use rota_core::skeleton::Bpf;
use rota_core::topology::{Domains, Topology};
use rota_core::{Companion, Error, Package, Policy};

mod bpf {
    include!(concat!(env!("OUT_DIR"), "/policy.rs"));
}

/// The policy.
struct Llc;

/// The options of scx_llc.
#[derive(clap::Args, Clone, Debug)]
struct Options {
    /// Shortest slice, when many tasks wait, in microseconds; --slice-us is the longest
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 1_000)]
    #[arg(value_parser = within::<u64>(100..=1_000_000))]
    slice_min_us: u64,

    /// Time between two looks of the balancer at the LLCs, in milliseconds; 0 for no balancer
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 250)]
    #[arg(value_parser = within::<u64>(0..=10_000))]
    balance_ms: u64,

    /// Time after which what the balancer saw counts half, in milliseconds
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 1_000)]
    #[arg(value_parser = within::<u64>(1..=60_000))]
    half_life_ms: u64,

    /// Tasks that wait per 100 CPUs of an LLC (for four at least) before others help at once
    #[arg(long, value_name = "N", help_heading = LIVE, default_value_t = 100)]
    #[arg(value_parser = within::<u32>(0..=10_000))]
    spill_pct: u32,

    /// Whether a CPU that would idle takes tasks from other LLCs
    #[arg(long, value_name = "BOOL", help_heading = LIVE, action = ArgAction::Set)]
    #[arg(default_value_t = true, hide_possible_values = true)]
    steal: bool,

    /// What shares a queue: l2, l3, node, or CPU lists like 0-3/4-7
    #[arg(long, value_name = "DOMAIN", help_heading = RESTART, default_value = "l3")]
    domain: Domains,

    /// Most CPUs that one queue serves [default: up to 32, so that an LLC's queues are even]
    #[arg(long, value_name = "N", help_heading = RESTART)]
    #[arg(value_parser = within::<usize>(1..=1_024))]
    shard_cpus: Option<usize>,
}

impl Policy for Llc {
    type Bpf = bpf::Bpf;
    type Options = Options;

    const PACKAGE: Package = rota_core::package!();

    fn machine(options: &Options, topology: Topology, sysfs: &Path) -> Result<Topology, Error> {
        topology.regroup(&options.domain, sysfs)
    }

    fn configure(
        options: &Options,
        topology: &Topology,
        open: &mut bpf::Open<'_>,
    ) -> anyhow::Result<()> {
        let shards = tables::shards(topology, options.shard_cpus)?;
        let rodata = open.maps.rodata_data.as_deref_mut();
        tables::fill(rodata.expect("shard.bpf.h is in it"), topology, &shards);
        let data = open.maps.data_data.as_deref_mut();
        tunables(options, data.expect("llc.bpf.c is in it"));
        Ok(())
    }

    fn apply_live(
        options: &Options,
        _: &Topology,
        loaded: &mut <Self::Bpf as Bpf>::Loaded<'_>,
    ) -> anyhow::Result<()> {
        let data = loaded.maps.data_data.as_deref_mut();
        tunables(options, data.expect("llc.bpf.c is in it"));
        Ok(())
    }

    fn companion(options: &Options, topology: &Topology) -> Option<Box<dyn Companion<bpf::Bpf>>> {
        let shards = tables::shards(topology, options.shard_cpus).ok()?;
        let interval = Duration::from_millis(options.balance_ms);
        let half_life = Duration::from_millis(options.half_life_ms);
        Some(Box::new(leveller::Leveller::new(
            topology, shards, interval, half_life,
        )))
    }
}

/// Writes the live options.
fn tunables(options: &Options, data: &mut bpf::types::data) {
    data.slice_min_ns = options.slice_min_us * 1000;
    data.spill_pct = options.spill_pct;
    data.steal = options.steal.into();
}

fn main() -> ExitCode {
    rota_core::main::<Llc>()
}
