// SPDX-License-Identifier: GPL-2.0-only
//! The guest's side: what runs inside the VM.
//!
//! PID 1 (`init`) makes the system usable, starts itself a second time as the worker, reaps
//! orphans, and takes the machine down when the worker has ended, however that may be. The worker
//! does the job. It runs in a real-time class that its children do not inherit, so it stays
//! responsive whatever the scheduler under test does, and takes no part in the measurements.

mod callbacks;
mod case;
mod cgroup;
mod compare;
mod cost;
mod exec;
mod footprint;
mod fuzz;
mod init;
mod kconfig;
mod kmsg;
mod leftovers;
mod load;
mod logger;
mod machine;
mod port;
mod program;
mod run_cases;
mod sched;
pub mod scx;
mod tasks;
mod trace;
mod worker;

use std::process::ExitCode;

pub use callbacks::Callbacks;
pub use case::{CaseResult, Failure, Guest, STOP_LIMIT, describe, number};
pub use cgroup::Cgroup;
pub use footprint::Footprint;
pub use fuzz::act_out;
pub use kmsg::{Kmsg, trouble};
pub use leftovers::Leftovers;
pub use load::Load;
pub use machine::{list, llc_cpus, machine};
pub use port::Port;
pub use program::{OnLine, Program, Progress};
pub use sched::{Sched, counters, counters_of, event, events, last, running_since};
pub use tasks::{Task, all_tasks, confine, is_on_sched_ext, last_cpu, renice, tasks_of};
pub use trace::{History, Idleness, Trace, Usage};

/// Tells the second start from the first.
const WORKER: &str = "--worker";

/// What `rota-guest` does.
pub fn main() -> ExitCode {
    logger::start();
    if std::env::args().nth(1).as_deref() == Some(WORKER) {
        return worker::main();
    }
    if std::process::id() != 1 {
        log::error!("rota-guest is the first process of a lab guest and does nothing elsewhere");
        return ExitCode::from(2);
    }
    init::main()
}
