// SPDX-License-Identifier: GPL-2.0-only
//! The objects that ship, for tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::{env, fs};

/// The workspace.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Every policy.
#[allow(dead_code, reason = "not every test needs them all")]
pub const POLICIES: [&str; 4] = ["fifo", "vtime", "llc", "freq"];

static OBJECTS: LazyLock<Mutex<HashMap<PathBuf, &'static [u8]>>> = LazyLock::new(Mutex::default);

/// The object of a policy: compiled as its build does or, if the environment
/// variable `ROTA_SIM_OBJECTS` names a folder, `<policy>.bpf.o` in that.
#[allow(dead_code, reason = "not every test needs one")]
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

/// Compile as a policy's own build does.
fn compile(source: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("there is room for a folder");
    let object = dir.path().join("object.bpf.o");
    rota_build::compile(source, &object).unwrap_or_else(|error| panic!("{error:#}"));
    fs::read(object).expect("it was just made")
}
