// SPDX-License-Identifier: GPL-2.0-only
//! Which CPU is served by which queue, for BPF (`rota/shard.h`).

use anyhow::{Result, bail};
use rota_core::topology::{MAX_SHARDS, Shard, Topology};

use crate::bpf::types;

/// The shards of `topology`, of at most `cpus` CPUs each.
pub fn shards(topology: &Topology, cpus: Option<usize>) -> Result<Vec<Shard>> {
    let cpus = cpus.unwrap_or_else(|| topology.default_shard_cpus());
    let shards = topology.shards(cpus);
    if shards.len() > MAX_SHARDS {
        bail!(
            "--shard-cpus {cpus} makes {} queues, and there is room for {MAX_SHARDS}; \
             choose a larger number",
            shards.len()
        );
    }
    Ok(shards)
}

/// Writes `shards` into the tables of BPF.
pub fn fill(rodata: &mut types::rodata, topology: &Topology, shards: &[Shard]) {
    rodata.nr_shards = shards.len() as u32;
    let node = |shard: &Shard| topology.llcs[shard.llc].node;
    for (index, shard) in shards.iter().enumerate() {
        for &cpu in &shard.cpus {
            rodata.cpu_shards[cpu] = index as u16;
        }
        let row = &mut rodata.shards[index];
        row.llc = shard.llc as u16;
        row.nr_cpus = shard.cpus.len() as u16;
        for (peer, other) in shards.iter().enumerate().filter(|(peer, _)| *peer != index) {
            let near = [other.llc == shard.llc, node(other) == node(shard)];
            for (level, _) in near.iter().enumerate().filter(|(_, near)| **near) {
                row.peers[level][peer / 64] |= 1 << (peer % 64);
            }
        }
        let range = &mut rodata.llc_shards[shard.llc];
        if range.nr == 0 {
            range.first = index as u16;
        }
        range.nr += 1;
    }
}
