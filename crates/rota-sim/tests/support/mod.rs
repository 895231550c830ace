// SPDX-License-Identifier: GPL-2.0-only
//! The objects that ship, for tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Every policy.
#[allow(dead_code, reason = "not every test needs them all")]
pub const POLICIES: [&str; 4] = ["fifo", "vtime", "llc", "freq"];

static OBJECTS: LazyLock<Mutex<HashMap<PathBuf, &'static [u8]>>> = LazyLock::new(Mutex::default);

/// The object of a policy: compiled as its build does or, if the environment
/// variable `ROTA_SIM_OBJECTS` names a folder, `<policy>.bpf.o` in that.
pub fn policy(name: &str) -> &'static [u8] {
    let source = format!("{ROOT}/scheds/scx_{name}/src/bpf/{name}.bpf.c");
    once(Path::new(&source), || {
        let Some(folder) = env::var_os("ROTA_SIM_OBJECTS") else {
            return compile(Path::new(&source));
        };
        let path = PathBuf::from(folder).join(format!("{name}.bpf.o"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    })
}

/// The object of a program that stands beside the tests, `tests/bpf/<name>.bpf.c`.
#[allow(dead_code, reason = "not every test has a program of its own")]
pub fn program(name: &str) -> &'static [u8] {
    let source = format!("{ROOT}/crates/rota-sim/tests/bpf/{name}.bpf.c");
    once(Path::new(&source), || compile(Path::new(&source)))
}

/// An object, made once in a process.
fn once(source: &Path, make: impl FnOnce() -> Vec<u8>) -> &'static [u8] {
    let mut objects = OBJECTS.lock().expect("no test panics while it compiles");
    objects
        .entry(source.to_owned())
        .or_insert_with(|| make().leak())
}

/// Compile as `rota_build::policy()` does.
fn compile(source: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("there is room for a folder");
    let object = dir.path().join("object.bpf.o");
    SkeletonBuilder::new()
        .source(source)
        .obj(&object)
        .clang(clang())
        .clang_args([
            "-O2".to_owned(),
            "-mcpu=v3".to_owned(),
            "-Wall".to_owned(),
            "-Werror".to_owned(),
            "-D__TARGET_ARCH_x86".to_owned(),
            format!("-I{ROOT}/bpf-common/include"),
        ])
        .build()
        .unwrap_or_else(|error| panic!("{}: {error:#}", source.display()));
    fs::read(object).expect("it was just made")
}

/// The clang of `BPF_CLANG`, else the newest on `PATH`.
fn clang() -> PathBuf {
    if let Some(path) = env::var_os("BPF_CLANG") {
        return path.into();
    }
    let works = |name: &String| {
        let mut command = Command::new(name);
        let status = command.arg("--version").stdout(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let names = (16..=30).rev().map(|version| format!("clang-{version}"));
    let found = names.chain(["clang".to_owned()]).find(works);
    found
        .expect("clang 16 or newer is on PATH, or BPF_CLANG names one")
        .into()
}
