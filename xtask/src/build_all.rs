// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask build-all`: every scheduler and the guests' programs, as static binaries.
//!
//! Static, because the same file must run in a guest that has no library at all, and on any
//! distribution. cargo builds them for an explicit target, which puts them under
//! `target/<triple>/`; they are linked to `target/release/` where people look for them. Those for
//! guests of another architecture stay there.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::ui::Task;
use crate::{elf, step, stop, ui};

/// A scheduler grows beyond this only by accident (debug info, a second copy of libbpf).
const SCHEDULER_MAX_BYTES: u64 = 5_000_000;
/// The first process of a guest.
pub const GUEST_INIT: &str = "rota-guest";
/// What guests run besides schedulers: (package, binary).
const GUEST_TOOLS: [(&str, &str); 2] = [("rota-lab", GUEST_INIT), ("rota-load", "rota-load")];

/// Build every scheduler and the lab's programs as static binaries
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Build with optimizations, stripped, into target/release
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    install: setup::Install,
}

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `target/debug`
    Debug,
    /// `target/release`
    Release,
}

impl Profile {
    fn dir(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// A program that was built.
#[derive(Debug)]
pub struct Program {
    /// Its name, which is that of the file too.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Runs `cargo xtask build-all`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    setup::ensure(cx, &[Group::Build], args.install)?;
    let tools = Toolchain::find()?;
    let profile = if args.release {
        Profile::Release
    } else {
        Profile::Debug
    };
    let task = ui::spinner("building the schedulers");
    let programs = build(&task, cx, &tools, profile, &cx.schedulers)?;
    task.done("");
    let mut table = ui::table(&["program", "size", "path"]);
    for program in &programs {
        let bytes = fs::metadata(&program.path)?.len();
        table.add_row([
            program.name.clone(),
            ui::size(bytes),
            relative(&program.path),
        ]);
    }
    ui::print_table(&table);
    for program in &programs {
        check(cx, program, profile)?;
    }
    Ok(stop::OK)
}

/// Builds what a guest needs, all schedulers included: release and static.
pub fn guest_programs(cx: &Context, tools: &Toolchain) -> Result<Vec<Program>> {
    let task = ui::spinner("building the schedulers");
    let programs = guest_programs_in(&task, cx, tools, &cx.schedulers)?;
    task.done("");
    Ok(programs)
}

/// Builds what a guest needs that runs `schedulers`, as a part of `task`.
pub fn guest_programs_in(
    task: &Task,
    cx: &Context,
    tools: &Toolchain,
    schedulers: &[String],
) -> Result<Vec<Program>> {
    let programs = build(task, cx, tools, Profile::Release, schedulers)?;
    for program in &programs {
        check(cx, program, Profile::Release)?;
    }
    Ok(programs)
}

/// Builds `schedulers` and the guest's tools in one run of cargo.
fn build(
    task: &Task,
    cx: &Context,
    tools: &Toolchain,
    profile: Profile,
    schedulers: &[String],
) -> Result<Vec<Program>> {
    let mut command = cx.cargo();
    tools.apply(&mut command);
    // The user's own flags are for the user's own machine.
    let cross = tools.sysroot();
    let own = match cross {
        Some(_) => String::new(),
        None => env::var("RUSTFLAGS").unwrap_or_default(),
    };
    let mut flags = tools.static_flags(&cx.target_dir.join("rota"))?;
    flags.extend(cx.path_flags());
    command.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(&own, &flags));
    command.args([
        "build",
        "--bins",
        "--message-format=json-render-diagnostics",
    ]);
    command.args(["--target", tools.triple(cx)]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let packages = schedulers
        .iter()
        .map(String::as_str)
        .chain(GUEST_TOOLS.map(|(p, _)| p));
    command.args(packages.flat_map(|package| ["-p", package]));
    let built = executables(command, task)?;

    let dir = cx.target_dir.join(profile.dir());
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let names = schedulers
        .iter()
        .map(String::as_str)
        .chain(GUEST_TOOLS.map(|(_, bin)| bin));
    let programs = names.map(|name| {
        let source = built
            .get(name)
            .with_context(|| format!("no binary called {name}"))?;
        let path = match cross {
            Some(_) => source.clone(),
            None => dir.join(name),
        };
        if cross.is_none() {
            place(source, &path)?;
        }
        Ok(Program {
            name: name.to_owned(),
            path,
        })
    });
    let busybox = cross.map(|sysroot| Program {
        name: "busybox".to_owned(),
        path: sysroot.busybox.clone(),
    });
    programs.chain(busybox.map(Ok)).collect()
}

/// The user's compiler flags and ours, in the form that has the last word over every other place
/// of configuration.
fn encoded_flags(own: &str, ours: &[String]) -> String {
    let flags: Vec<&str> = own
        .split_whitespace()
        .chain(ours.iter().map(String::as_str))
        .collect();
    flags.join("\u{1f}")
}

/// Runs cargo, and collects the binaries that it reports by name.
fn executables(command: Command, task: &Task) -> Result<BTreeMap<String, PathBuf>> {
    let output = step::require(command, task)?;
    let mut built = BTreeMap::new();
    for message in Message::parse_stream(output.stdout.join("\n").as_bytes()) {
        let Message::CompilerArtifact(artifact) = message.context("reading cargo's messages")?
        else {
            continue;
        };
        if let Some(path) = artifact.executable {
            built.insert(artifact.target.name, path.into());
        }
    }
    Ok(built)
}

/// Puts `source` at `path`, in place of what an ordinary `cargo build` left there.
fn place(source: &Path, path: &Path) -> Result<()> {
    // Written through, an old hard link would change the file that cargo keeps.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("replacing {}", path.display()));
        }
        _ => {}
    }
    fs::hard_link(source, path)
        .or_else(|_| fs::copy(source, path).map(drop))
        .with_context(|| format!("copying {} to {}", source.display(), path.display()))
}

/// Refuses a program that is not static, that names a path of this machine or, as a released
/// scheduler, is too large.
fn check(cx: &Context, program: &Program, profile: Profile) -> Result<()> {
    if !elf::is_static(&program.path)? {
        bail!("{} is not a static program", program.path.display());
    }
    let bytes = fs::metadata(&program.path)?.len();
    if profile == Profile::Release {
        let data = fs::read(&program.path)?;
        for dir in [&cx.root, &cx.target_dir] {
            // A short path may begin like another that belongs there.
            let below = [dir.as_os_str().as_bytes(), b"/"].concat();
            if memchr::memmem::find(&data, &below).is_some() {
                bail!("{} has the path {} in it", program.name, dir.display());
            }
        }
    }
    let scheduler = cx.schedulers.contains(&program.name);
    if scheduler && profile == Profile::Release && bytes >= SCHEDULER_MAX_BYTES {
        let most = ui::size(SCHEDULER_MAX_BYTES);
        bail!(
            "{} has {}; a scheduler stays under {most}",
            program.name,
            ui::size(bytes)
        );
    }
    Ok(())
}

/// `path` as seen from the working directory, where it is below it.
fn relative(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_users_flags_are_kept() {
        let ours = ["-Ctarget-feature=+crt-static".to_owned()];
        assert_eq!(encoded_flags("", &ours), ours[0]);
        let both = encoded_flags("-C target-cpu=native", &ours);
        assert_eq!(
            both,
            "-C\u{1f}target-cpu=native\u{1f}-Ctarget-feature=+crt-static"
        );
    }

    #[test]
    fn placing_a_program_leaves_the_old_file_of_that_name_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("new"), "new").unwrap();
        fs::write(at("kept-by-cargo"), "old").unwrap();
        fs::hard_link(at("kept-by-cargo"), at("program")).unwrap();

        place(&at("new"), &at("program")).unwrap();

        assert_eq!(fs::read_to_string(at("program")).unwrap(), "new");
        assert_eq!(fs::read_to_string(at("kept-by-cargo")).unwrap(), "old");
        let inode = |name: &str| fs::metadata(at(name)).unwrap().ino();
        assert_eq!(inode("program"), inode("new"));
    }
}
