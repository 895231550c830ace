// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask`: everything that is done with Rota's sources, one command per file.

mod build_all;
mod compare;
mod context;
mod cost;
mod elf;
mod figures;
mod fuzz;
mod install;
mod kernel;
mod kernels;
mod load;
mod picture;
mod pool;
mod replay;
mod run;
mod scale;
mod setup;
mod sim;
mod step;
mod stop;
mod test;
mod tidy;
mod ui;
mod validate;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use context::Context;

/// Build, run, test and install Rota
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 this machine lacks something, 130 interrupted. `run` and `vm` end
/// with the code of the scheduler or command that they ran.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    BuildAll(build_all::Args),
    Kernel(kernel::Args),
    Run(run::Args),
    Test(test::Args),
    Install(install::Args),
    Tidy(tidy::Args),
    Vm(vm::Args),
    Cost(cost::Args),
    Compare(compare::Args),
    Fuzz(fuzz::Args),
    Replay(replay::Args),
    Sim(sim::Args),
    Scale(scale::Args),
    Validate(validate::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            ui::note(format!("error: {error:#}"));
            ExitCode::from(stop::code_of(&error))
        }
    }
}

fn dispatch(command: Command) -> Result<u8> {
    let cx = Context::load()?;
    match command {
        Command::Setup(args) => setup::run(args, &cx),
        Command::BuildAll(args) => build_all::run(args, &cx),
        Command::Kernel(args) => kernel::run(args, &cx),
        Command::Run(args) => run::run(args, &cx),
        Command::Test(args) => test::run(args, &cx),
        Command::Install(args) => install::run(args, &cx),
        Command::Tidy(args) => tidy::run(args, &cx),
        Command::Vm(args) => vm::run(args, &cx),
        Command::Cost(args) => cost::run(args, &cx),
        Command::Compare(args) => compare::run(args, &cx),
        Command::Fuzz(args) => fuzz::run(args, &cx),
        Command::Replay(args) => replay::run(args, &cx),
        Command::Sim(args) => sim::run(args, &cx),
        Command::Scale(args) => scale::run(&args, &cx),
        Command::Validate(args) => validate::run(&args, &cx),
    }
}
