// SPDX-License-Identifier: GPL-2.0-only
//! scx_freq: few warm cores at high frequency.
//!
//! Tasks share the CPUs that are in use, and leave the others to rest. How is
//! told in `bpf/freq.bpf.c`; here CPUs are ranked, and `nests.rs` shows them.

mod nests;
mod options;

use std::process::ExitCode;

use rota_core::topology::Topology;
use rota_core::{Companion, Package, Policy};

use options::Options;

mod bpf {
    include!(concat!(env!("OUT_DIR"), "/policy.rs"));
}

/// The policy.
struct Freq;

impl Policy for Freq {
    type Bpf = bpf::Bpf;
    type Options = Options;

    const PACKAGE: Package = rota_core::package!();
    /// That of scx_vtime, as which it behaves when the machine is full.
    const SLICE_US: u64 = 5_000;

    fn configure(
        options: &Options,
        topology: &Topology,
        open: &mut bpf::Open<'_>,
    ) -> anyhow::Result<()> {
        let (ranking, cores) = (options.ranking(topology), options.fills_cores());
        let maps = &mut open.maps;
        nests::rank(maps.rodata_data.as_deref_mut(), topology, &ranking, cores);
        let (data, bss) = (&mut maps.data_data, &mut maps.bss_data);
        nests::tune(options, topology, data.as_deref_mut(), bss.as_deref_mut());
        Ok(())
    }

    fn apply_live(
        options: &Options,
        topology: &Topology,
        loaded: &mut bpf::Loaded<'_>,
    ) -> anyhow::Result<()> {
        let (data, bss) = (&mut loaded.maps.data_data, &mut loaded.maps.bss_data);
        nests::tune(options, topology, data.as_deref_mut(), bss.as_deref_mut());
        Ok(())
    }

    fn companion(options: &Options, topology: &Topology) -> Option<Box<dyn Companion<bpf::Bpf>>> {
        let ranking = options.ranking(topology);
        Some(Box::new(nests::Nests::new(topology.clone(), ranking)))
    }
}

fn main() -> ExitCode {
    rota_core::main::<Freq>()
}
