// SPDX-License-Identifier: GPL-2.0-only
//! The compiler, and what a static link needs beyond the crates' own requests.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Oldest clang whose BPF back end makes objects that load on every kernel of the matrix.
const CLANG_MIN: u32 = 16;
/// Newest `clang-N` looked for on `PATH`.
const CLANG_MAX: u32 = 30;

/// The clang to compile BPF with: `BPF_CLANG`, else the newest on `PATH`.
pub fn clang() -> Result<PathBuf> {
    if let Some(path) = env::var_os("BPF_CLANG") {
        return Ok(path.into());
    }
    let names = (CLANG_MIN..=CLANG_MAX).rev().map(|n| format!("clang-{n}"));
    for name in names.chain(["clang".to_owned()]) {
        let found = Command::new(&name)
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if found.is_ok_and(|status| status.success()) {
            return Ok(name.into());
        }
    }
    bail!("no clang on PATH: install clang {CLANG_MIN} or newer, or name one in BPF_CLANG")
}

/// A static libelf may itself need libzstd, which no crate asks for.
///
/// pkg-config knows; where it does not answer, the linker will. The search is
/// confined to archives: a shared library among the inputs would make the
/// executable ask for a dynamic loader that is not there. Of another
/// architecture's libelf this machine's pkg-config knows nothing; whoever
/// builds for one says what it needs.
pub fn link_static_libraries() {
    /// What libbpf-sys links already.
    const LINKED: [&str; 2] = ["-lelf", "-lz"];

    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !features.split(',').any(|feature| feature == "crt-static") {
        return;
    }
    if env::var_os("HOST") != env::var_os("TARGET") {
        return;
    }
    let Ok(output) = Command::new("pkg-config")
        .args(["--static", "--libs", "libelf"])
        .output()
    else {
        return;
    };
    let libraries = String::from_utf8_lossy(&output.stdout).into_owned();
    for library in libraries.split_whitespace() {
        if library.starts_with("-l") && !LINKED.contains(&library) {
            println!("cargo::rustc-link-arg-bins=-Wl,-Bstatic,{library}");
        }
    }
}
