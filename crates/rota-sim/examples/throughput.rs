// SPDX-License-Identifier: GPL-2.0-only
//! Events per second of the model with a policy in Rust: what the interpreter's
//! time comes on top of. `cargo run --release -p rota-sim --example throughput`
#![allow(clippy::print_stdout, reason = "it is for the terminal")]

use std::time::{Duration, Instant};

use rota_load::spec::Workload;
use rota_sim::machine::Machine;
use rota_sim::model::native::Native;
use rota_sim::model::toys::GlobalVtime;
use rota_sim::model::{Config, Sim};
use rota_sim::workload::populate;

const WORKLOAD: &str = r#"
name = "throughput"
[[group]]
name = "bursts"
kind = "loop"
count = "2/cpu"
run = "300us"
sleep = "700us"
jitter = 80
[[group]]
name = "hogs"
kind = "loop"
count = "1/cpu"
run = "10ms"
nice = 5
"#;

fn measure(name: &str, seconds: f64) -> Result<(), Box<dyn std::error::Error>> {
    let machine: Machine = name.parse()?;
    let mut workload = Workload::parse("throughput", WORKLOAD)?;
    workload.duration = Duration::from_secs_f64(seconds);
    let policy = Native::new(GlobalVtime::new(3_000_000));
    let mut sim = Sim::new(&Config::new(machine), Box::new(policy));
    let roster = populate(&mut sim, &workload)?;
    let begin = Instant::now();
    let exit = sim.run_until(roster.end_ns);
    let took = begin.elapsed().as_secs_f64();
    let totals = sim.totals();
    println!(
        "{name:>16}: {} events in {took:.2} s: {:.2} M/s, {} switches, {} records ({exit:?})",
        totals.events,
        totals.events as f64 / took / 1e6,
        totals.switches,
        sim.with_trace(|trace| trace.count()),
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (name, seconds) in [
        ("1x8x1", 10.0),
        ("2x16x2", 2.0),
        ("numa:2x4x16x2", 1.0),
        ("numa:4x8x16x2", 0.3),
    ] {
        measure(name, seconds)?;
    }
    Ok(())
}
