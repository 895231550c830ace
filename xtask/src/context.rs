// SPDX-License-Identifier: GPL-2.0-only
//! What every command knows about the workspace, read from `cargo metadata`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use cargo_metadata::{Metadata, MetadataCommand};
use tempfile::TempDir;

use crate::stop;

/// The workspace and the Rust toolchain that builds it.
pub struct Context {
    /// Root directory of the workspace.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target_dir: PathBuf,
    /// Schedulers: the packages under `scheds/`, by name, sorted.
    pub schedulers: Vec<String>,
    /// Target triple of this machine.
    pub triple: String,
    cargo: PathBuf,
}

impl Context {
    /// Asks cargo about the workspace that this xtask belongs to.
    pub fn load() -> Result<Self> {
        let cargo = env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
        let mut command = MetadataCommand::new();
        command.cargo_path(&cargo).no_deps();
        // cargo sets this to xtask's own directory, so a subdirectory will do as the working one.
        if let Some(dir) = env::var_os("CARGO_MANIFEST_DIR") {
            command.current_dir(PathBuf::from(dir));
        }
        let metadata = command
            .exec()
            .context("reading the workspace with `cargo metadata`")?;
        Ok(Self {
            root: metadata.workspace_root.clone().into(),
            target_dir: metadata.target_directory.clone().into(),
            schedulers: schedulers(&metadata),
            triple: host_triple(&cargo)?,
            cargo,
        })
    }

    /// A cargo command at the root of the workspace.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root);
        // These describe xtask, not what the new cargo is about to build.
        for (key, _) in env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&key);
            }
        }
        command
    }

    /// A directory for what a guest is booted with and what it leaves, gone when it is dropped;
    /// `command` is in its name.
    pub fn guest_dir(&self, command: &str) -> Result<TempDir> {
        let lab = self.target_dir.join("lab");
        fs::create_dir_all(&lab).with_context(|| format!("creating {}", lab.display()))?;
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix(&format!("{command}-")).tempdir_in(&lab);
        dir.with_context(|| format!("creating a directory in {}", lab.display()))
    }

    /// The compiler that [`Self::cargo`] uses.
    pub fn rustc(&self) -> PathBuf {
        let beside_cargo =
            || Some(self.cargo.with_file_name("rustc")).filter(|file| file.is_file());
        let chosen = env::var_os("RUSTC").map(PathBuf::from);
        chosen
            .or_else(beside_cargo)
            .unwrap_or_else(|| "rustc".into())
    }

    /// Flags for rustc that write every path of this machine as one that is the same everywhere, so
    /// that programs are the same wherever they are built.
    pub fn path_flags(&self) -> Vec<String> {
        let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home.or_else(|| Some(env::home_dir()?.join(".cargo")));
        let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        // Of several that fit, rustc takes the last: the target directory is in the workspace.
        let mut flags: Vec<String> = cargo_home
            .map(|home| map(&home, "cargo"))
            .into_iter()
            .collect();
        flags.push(map(&self.root, "rota"));
        flags.push(map(&self.target_dir, "target"));
        flags
    }

    /// Those of the schedulers that are `named`, or all where none is.
    pub fn chosen(&self, named: &[String]) -> Result<Vec<String>> {
        if named.is_empty() {
            return Ok(self.schedulers.clone());
        }
        for name in named {
            self.require_scheduler(name)?;
        }
        Ok(named.to_vec())
    }

    /// Checks that `name` is one of the schedulers.
    pub fn require_scheduler(&self, name: &str) -> Result<()> {
        if self.schedulers.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(stop::usage(format!(
            "no scheduler `{name}`; there are: {}",
            self.schedulers.join(", ")
        )))
    }
}

fn schedulers(metadata: &Metadata) -> Vec<String> {
    let scheds = metadata.workspace_root.join("scheds");
    let mut names: Vec<String> = metadata
        .workspace_packages()
        .into_iter()
        .filter(|package| package.manifest_path.starts_with(&scheds))
        .map(|package| package.name.to_string())
        .collect();
    names.sort();
    names
}

fn host_triple(cargo: &PathBuf) -> Result<String> {
    let output = Command::new(cargo)
        .arg("-vV")
        .output()
        .context("running `cargo -vV`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    triple
        .map(str::to_owned)
        .context("`cargo -vV` does not name the host triple")
}
