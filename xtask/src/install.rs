// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask install`: puts a release build where a distribution would.
//!
//! ```text
//! PREFIX/bin/                     schedulers and rota-load, static and stripped
//! PREFIX/lib/systemd/system/      rota@.service, a template for all of them
//! PREFIX/share/doc/rota/          licence, README, and per scheduler a .md and an example .toml
//! ```

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build_all::{self, Program};
use crate::context::Context;
use crate::setup::{self, Group, Toolchain};
use crate::{stop, ui};

const UNIT: &str = include_str!("install/rota@.service");
const PROGRAM: u32 = 0o755;
const DATA: u32 = 0o644;

/// Install the schedulers and rota-load (built with --release), a systemd unit and documentation
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Put everything below this directory instead of /
    #[arg(long, value_name = "DIR", default_value = "/")]
    destdir: PathBuf,
    /// Where the files will be found at run time
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    #[command(flatten)]
    install: setup::Install,
}

/// Runs `cargo xtask install`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    if !args.prefix.is_absolute() {
        let prefix = args.prefix.display();
        return Err(stop::usage(format!(
            "--prefix {prefix}: give an absolute path"
        )));
    }
    setup::ensure(cx, &[Group::Build], args.install)?;
    let programs = build_all::guest_programs(cx, &Toolchain::find()?)?;
    let tree = Tree::new(&args.destdir, &args.prefix);
    // The first process of the lab's guests has no use outside them.
    for program in programs
        .iter()
        .filter(|program| program.name != build_all::GUEST_INIT)
    {
        let bytes = read(&program.path)?;
        tree.put(&format!("bin/{}", program.name), &bytes, PROGRAM)?;
        if cx.schedulers.contains(&program.name) {
            document(cx, &tree, program)?;
        }
    }
    tree.put(
        "lib/systemd/system/rota@.service",
        tree.unit().as_bytes(),
        DATA,
    )?;
    for name in ["LICENSE", "README.md"] {
        tree.put(
            &format!("share/doc/rota/{name}"),
            &read(&cx.root.join(name))?,
            DATA,
        )?;
    }
    Ok(stop::OK)
}

/// Installs a scheduler's own README, and a configuration file to start from.
fn document(cx: &Context, tree: &Tree, program: &Program) -> Result<()> {
    let name = &program.name;
    let readme = read(&cx.root.join("scheds").join(name).join("README.md"))?;
    tree.put(&format!("share/doc/rota/{name}.md"), &readme, DATA)?;
    // The program is static, and for this machine's architecture.
    let output = Command::new(&program.path).arg("--help").output()?;
    if !output.status.success() {
        bail!("{name} --help ended with {}", output.status);
    }
    let example = example_config(name, &String::from_utf8_lossy(&output.stdout));
    tree.put(
        &format!("share/doc/rota/{name}.toml"),
        example.as_bytes(),
        DATA,
    )
}

/// A configuration file of comments only: it changes nothing until somebody adds a line.
fn example_config(name: &str, help: &str) -> String {
    let mut text = format!(
        "# Configuration of {name}: copy it to /etc/rota/{name}.toml and add lines such as\n\
         #\n#     slice-us = 5000\n#\n# These are the options, without their dashes:\n#\n"
    );
    for line in help.lines() {
        text += format!("# {line}").trim_end();
        text.push('\n');
    }
    text
}

/// Where files go.
struct Tree {
    /// The prefix below the destination directory.
    root: PathBuf,
    prefix: PathBuf,
}

impl Tree {
    fn new(destdir: &Path, prefix: &Path) -> Self {
        let below = prefix.strip_prefix("/").unwrap_or(prefix);
        Self {
            root: destdir.join(below),
            prefix: prefix.to_owned(),
        }
    }

    fn unit(&self) -> String {
        UNIT.replace("@PREFIX@", &self.prefix.display().to_string())
    }

    /// Installs one file, and says so.
    fn put(&self, path: &str, contents: &[u8], mode: u32) -> Result<()> {
        let path = self.root.join(path);
        let dir = path.parent().expect("every path has a directory");
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        // In one step, and not into a program that is running.
        let mut file = tempfile::NamedTempFile::new_in(dir)
            .with_context(|| format!("writing to {}", dir.display()))?;
        std::io::Write::write_all(&mut file, contents)?;
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))?;
        file.persist(&path)
            .with_context(|| format!("installing {}", path.display()))?;
        ui::out(path.display().to_string());
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_below_destdir_and_know_their_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::new(dir.path(), Path::new("/opt/rota"));
        let path = dir.path().join("opt/rota/bin/program");
        for contents in ["old", "new"] {
            tree.put("bin/program", contents.as_bytes(), PROGRAM)
                .unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            PROGRAM
        );
        assert!(tree.unit().contains("ExecStart=/opt/rota/bin/%i\n"));
        assert!(!tree.unit().contains("@PREFIX@"));
    }

    #[test]
    fn the_example_configuration_sets_nothing() {
        let example = example_config(
            "scx_fifo",
            "Usage: scx_fifo\n\nOptions:\n  --slice-us <N>\n",
        );
        assert!(
            example.lines().all(|line| line.starts_with('#')),
            "{example}"
        );
        assert!(example.contains("/etc/rota/scx_fifo.toml"));
        assert!(example.ends_with("#   --slice-us <N>\n"));
    }
}
