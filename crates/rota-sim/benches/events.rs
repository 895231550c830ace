// SPDX-License-Identifier: GPL-2.0-only
//! How many events the simulator goes through in a second: switches, wake-ups, callbacks, insertions
//! and removals under scx_vtime, with two tasks per CPU that come and go and a hog.
//!
//! `cargo bench -p rota-sim`
#![expect(
    clippy::unwrap_used,
    reason = "where a benchmark cannot go on it fails"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use rota_load::spec::Workload;
use rota_sim::btf;
use rota_sim::machine::Machine;
use rota_sim::object::Object;
use rota_sim::simulation::{Setup, Simulation};

/// Machines, and for how long each is simulated, in milliseconds.
const MACHINES: [(&str, u64); 2] = [("1x8x1", 400), ("numa:4x16x8x2", 8)];

const WORKLOAD: &str = r#"
name = "events"
warmup = "0s"
[[group]]
name = "waking"
kind = "loop"
count = "2/cpu"
run = "400us"
sleep = "600us"
jitter = 20
[[group]]
name = "hog"
kind = "loop"
count = "1/cpu"
run = "10ms"
"#;

fn object(machine: &Machine) -> Object {
    let types = btf::kernel("7.3").unwrap();
    let mut object = Object::load("vtime", support::policy("vtime"), &types).unwrap();
    let cpus = machine.nr_cpu_ids();
    object.set_number("nr_cpu_ids", cpus.into()).unwrap();
    for cpu in 0..cpus {
        let capacity = format!("topology_cpus[{cpu}].capacity");
        object.set_number(&capacity, 1024).unwrap();
    }
    object
}

fn events(c: &mut Criterion) {
    let mut group = c.benchmark_group("events");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    let types = btf::kernel("7.3").unwrap();
    for (name, length_ms) in MACHINES {
        let setup = Setup::new(name.parse().unwrap());
        let object = object(&setup.machine);
        let mut workload = Workload::parse("events", WORKLOAD).unwrap();
        workload.duration = Duration::from_millis(length_ms);
        let run = || {
            let done = Simulation::run(&object, &types, &workload, &setup).unwrap();
            assert!(done.sim.exit().is_none(), "{name}");
            done.sim.with_trace(|trace| trace.count())
        };
        group.throughput(Throughput::Elements(run()));
        let cpus = BenchmarkId::from_parameter(setup.machine.nr_cpu_ids());
        group.bench_function(cpus, |b| b.iter(run));
    }
    group.finish();
}

criterion_group!(benches, events);
criterion_main!(benches);
