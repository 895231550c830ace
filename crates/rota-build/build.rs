// SPDX-License-Identifier: GPL-2.0-only
//! Compiles bpf-common's pure headers for the host, so that unit tests can call them.

fn main() {
    let include = "../../bpf-common/include";
    println!("cargo::rerun-if-changed=tests/pure.c");
    println!("cargo::rerun-if-changed={include}");
    cc::Build::new()
        .file("tests/pure.c")
        .include(include)
        .extra_warnings(true)
        .compile("rota_pure");
}
