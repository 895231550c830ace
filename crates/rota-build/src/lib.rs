// SPDX-License-Identifier: GPL-2.0-only
//! What a policy's build script does, in one call.
//! `rota_build::policy("vtime")` is all of `scheds/scx_vtime/build.rs`.
//!
//! [`policy`] compiles `src/bpf/<policy>.bpf.c` against the headers of
//! `bpf-common`, generates the libbpf-rs skeleton of the object, and writes
//! `$OUT_DIR/policy.rs`: the skeleton, the counters that `src/bpf/intf.h`
//! declares as Rust types, and the implementation of `rota_core::skeleton::Bpf`
//! through which the shared core drives the policy. The policy's `main.rs`
//! includes that file as its module `bpf`.

#![expect(
    clippy::print_stdout,
    reason = "cargo listens to a build script's stdout"
)]

mod counters;
mod glue;
mod tools;

use std::path::{Path, PathBuf};
use std::{env, fs, process};

use anyhow::{Context, Result};
use libbpf_cargo::SkeletonBuilder;

/// The workspace, as seen from this crate.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Where `bpf-common`'s headers stand.
const INCLUDE_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bpf-common/include");

/// Build the BPF side of the policy called `name` and the Rust glue around it.
///
/// To be called from the build script of the policy's package, whose
/// `src/bpf/<name>.bpf.c` and `src/bpf/intf.h` it reads. Ends the build script
/// with status 1 and one message if something is missing or does not compile.
///
/// Environment: `BPF_CLANG` names the clang to use (16 or newer); without it
/// the newest `clang-N` on `PATH` is taken.
pub fn policy(name: &str) {
    if let Err(error) = build(name) {
        println!("cargo::error={error:#}");
        process::exit(1);
    }
}

fn build(name: &str) -> Result<()> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is set by cargo")?);
    let arch =
        env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is set by cargo")?;
    for path in ["src/bpf", INCLUDE_DIR] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=BPF_CLANG");
    generate(name, Path::new("src/bpf"), &out_dir, &arch)?;
    tools::link_static_libraries();
    Ok(())
}

/// Compile the policy in `source_dir` and write `policy.rs` and what it includes to `out_dir`.
fn generate(name: &str, source_dir: &Path, out_dir: &Path, arch: &str) -> Result<()> {
    let source = source_dir.join(format!("{name}.bpf.c"));
    let object = out_dir.join(format!("{name}.bpf.o"));
    let skeleton = out_dir.join(format!("{name}.skel.rs"));
    builder(&source, &object, arch)?
        .build_and_generate(&skeleton)
        .with_context(|| format!("cannot build {}", source.display()))?;

    let counters = counters::read(&tools::clang()?, &source_dir.join("intf.h"))?;
    let glue = glue::policy_rs(name, &object, &skeleton, &counters);
    let path = out_dir.join("policy.rs");
    fs::write(&path, glue).with_context(|| format!("cannot write {}", path.display()))
}

/// Compile the BPF program `source` to `object`, as [`policy`] does for this machine's architecture,
/// and nothing else: for what runs objects without a kernel.
///
/// # Errors
/// There is no clang, or the program does not compile.
pub fn compile(source: &Path, object: &Path) -> Result<()> {
    builder(source, object, env::consts::ARCH)?
        .build()
        .with_context(|| format!("cannot build {}", source.display()))
}

fn builder(source: &Path, object: &Path, arch: &str) -> Result<SkeletonBuilder> {
    let mut builder = SkeletonBuilder::new();
    builder
        .source(source)
        .obj(object)
        .clang(tools::clang()?)
        .clang_args(clang_args(arch));
    Ok(builder)
}

/// The compiler's arguments for the architecture that Rust calls `arch`. As in
/// the kernel's own build, a warning is an error.
fn clang_args(arch: &str) -> Vec<String> {
    let arch = match arch {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        "riscv64" => "riscv",
        "s390x" => "s390",
        "powerpc64" => "powerpc",
        other => other,
    };
    let root = fs::canonicalize(ROOT).unwrap_or_else(|_| ROOT.into());
    vec![
        "-O2".into(),
        "-mcpu=v3".into(),
        "-Wall".into(),
        "-Werror".into(),
        format!("-D__TARGET_ARCH_{arch}"),
        format!("-I{INCLUDE_DIR}"),
        // The kernel is told the name of each source file: the same one wherever it is built.
        format!("-fdebug-prefix-map={ROOT}=rota"),
        format!("-fdebug-prefix-map={}=rota", root.display()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: who follows the README gets a policy that builds. Method: its two
    /// C listings, header first, are built like any policy.
    #[test]
    fn the_policy_in_the_readme_builds() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let text = fs::read_to_string(readme).unwrap();
        let listings: Vec<&str> = text
            .split("```c\n")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap())
            .collect();
        let [header, program] = listings[..] else {
            panic!("the README has {} C listings instead of 2", listings.len());
        };
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("intf.h"), header).unwrap();
        fs::write(dir.path().join("lifo.bpf.c"), program).unwrap();

        generate("lifo", dir.path(), dir.path(), env::consts::ARCH).unwrap();
        let glue = fs::read_to_string(dir.path().join("policy.rs")).unwrap();
        assert!(glue.contains("pub nr_queued: u64"));
        assert!(dir.path().join("lifo.skel.rs").exists());
    }
}
