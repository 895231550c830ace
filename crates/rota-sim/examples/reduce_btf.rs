// SPDX-License-Identifier: GPL-2.0-only
//! Cuts a kernel's BTF down to what sched_ext policies ask for.
//!
//! `cargo run -p rota-sim --example reduce_btf -- IN OUT`, where IN is raw BTF,
//! as `/sys/kernel/btf/vmlinux` is.
#![expect(
    clippy::print_stderr,
    reason = "a tool says on stderr what it has done"
)]

use std::process::ExitCode;
use std::{env, fs};

use rota_sim::btf::{Btf, reduce};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [input, output] = &args[..] else {
        eprintln!("usage: reduce_btf IN OUT");
        return ExitCode::from(2);
    };
    match run(input, output) {
        Ok(line) => {
            eprintln!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(input: &str, output: &str) -> Result<String, String> {
    let bytes = fs::read(input).map_err(|error| format!("{input}: {error}"))?;
    let kernel = Btf::parse(&bytes).map_err(|error| format!("{input}: {error}"))?;
    let reduced = reduce(&kernel).map_err(|error| format!("{input}: {error}"))?;
    let written = reduced.to_bytes();
    fs::write(output, &written).map_err(|error| format!("{output}: {error}"))?;
    Ok(format!(
        "{output}: {} types, {} bytes, of {} types, {} bytes",
        reduced.len(),
        written.len(),
        kernel.len(),
        bytes.len()
    ))
}
