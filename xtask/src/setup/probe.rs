// SPDX-License-Identifier: GPL-2.0-only
//! Looks at the machine: is a tool there, and is it good enough?

use std::env;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::elf;

/// The oldest clang that makes objects which load. Up to 18 it checks an index in one register and
/// uses it from another, so that the verifier misses the bound; 14 also gets kfunc types wrong.
pub const CLANG_MIN: u32 = 19;
/// The newest clang that is looked for by a versioned name.
const CLANG_MAX: u32 = 30;

/// First executable called `name` in the PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A clang that compiles BPF: `$BPF_CLANG`, the newest `clang-N`, or `clang`.
pub fn clang() -> Option<PathBuf> {
    if let Some(chosen) = env::var_os("BPF_CLANG") {
        let chosen = PathBuf::from(chosen);
        return compiles_bpf(&chosen).then_some(chosen);
    }
    let versioned = (CLANG_MIN..=CLANG_MAX)
        .rev()
        .map(|version| format!("clang-{version}"));
    versioned
        .chain(["clang".to_owned()])
        .filter_map(|name| in_path(&name))
        .find(|clang| version_of(clang).is_some_and(|v| v >= CLANG_MIN) && compiles_bpf(clang))
}

/// Major version that `clang --version` prints.
pub fn version_of(clang: &Path) -> Option<u32> {
    let output = Command::new(clang).arg("--version").output().ok()?;
    clang_version(&String::from_utf8_lossy(&output.stdout))
}

fn clang_version(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("clang version ")?;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn compiles_bpf(clang: &Path) -> bool {
    let args = ["--target=bpf", "-mcpu=v3", "-O2", "-g"];
    compiles(clang, &args, "int answer(void) { return 42; }\n", &["-c"])
}

/// Whether `compiler` turns `source` into an object or a program.
fn compiles(compiler: &Path, args: &[&str], source: &str, last: &[&str]) -> bool {
    let child = Command::new(compiler)
        .args(args)
        .args(["-x", "c", "-", "-o", "/dev/null"])
        .args(last)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let written = child
        .stdin
        .take()
        .is_some_and(|mut pipe| pipe.write_all(source.as_bytes()).is_ok());
    child.wait().is_ok_and(|status| status.success()) && written
}

/// Whether the Rust compiler has its library for programs of `triple`.
pub fn rust_library(triple: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", triple])
        .stderr(Stdio::null())
        .output();
    let Ok(dir) = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else {
        return false;
    };
    let files = fs::read_dir(dir.trim()).into_iter().flatten().flatten();
    files
        .map(|file| file.file_name())
        .any(|name| name.to_string_lossy().starts_with("libstd-"))
}

/// What this machine's static libelf is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libelf {
    /// As it should be.
    Complete,
    /// It lacks the functions in [`MISSING_FUNCTIONS`].
    Incomplete,
}

/// The functions that elfutils 0.192 forgot, in C.
pub const MISSING_FUNCTIONS: &str = include_str!("libelf_0_192.c");

/// What this machine's own compiler links for this machine.
pub fn static_libelf() -> Option<Libelf> {
    links_libelf(&in_path("cc")?, &[])
}

/// Links a small static program, because headers, archives and a static libc all have to be there.
/// Whether libelf wants zstd as well, the schedulers' build finds out for itself.
pub fn links_libelf(cc: &Path, flags: &[&str]) -> Option<Libelf> {
    const PROGRAM: &str = "#include <libelf.h>\n#include <zlib.h>\n\
        int main(void) {\n\
            Elf *elf = elf_begin(0, ELF_C_READ, 0);\n\
            return elf_compress(0, 1, 0) + elf_end(elf) + (int)zlibCompileFlags();\n\
        }\n";
    let args = [flags, &["-static"]].concat();
    let links = |source: &str| {
        let libraries: [&[&str]; 2] = [&["-lelf", "-lz"], &["-lelf", "-lz", "-lzstd"]];
        libraries
            .iter()
            .any(|libraries| compiles(cc, &args, source, libraries))
    };
    if links(PROGRAM) {
        return Some(Libelf::Complete);
    }
    links(&format!("{PROGRAM}{MISSING_FUNCTIONS}")).then_some(Libelf::Incomplete)
}

/// A header that a host program may include.
pub fn header(name: &str) -> bool {
    let Some(cc) = in_path("cc") else {
        return false;
    };
    compiles(
        &cc,
        &[],
        &format!("#include <{name}>\n"),
        &["-fsyntax-only"],
    )
}

/// The archive of a library that the C compiler would link.
pub fn archive(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc")
        .arg(format!("-print-file-name={name}"))
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    // Without a match the compiler answers with the bare name.
    (path.is_absolute() && path.is_file()).then_some(path)
}

/// Whether this machine's libelf.a calls libzstd.
pub fn libelf_wants_zstd() -> bool {
    let Some(Ok(bytes)) = archive("libelf.a").map(fs::read) else {
        return false;
    };
    bytes.windows(5).any(|window| window == b"ZSTD_")
}

/// A busybox that needs no library, as the guests do not have any.
pub fn static_busybox() -> bool {
    in_path("busybox").is_some_and(|file| matches!(elf::is_static(&file), Ok(true)))
}

/// Whether this is Debian itself, not one of those made from it.
pub fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|l| l == "ID=debian"))
}

/// Whether `cargo <component> --version` works, so `rustfmt` and `clippy` are there.
pub fn cargo_component(name: &str) -> bool {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([name, "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clang_version_is_read_from_vendor_texts() {
        assert_eq!(
            clang_version("Debian clang version 19.1.7 (3~deb12u1)\nTarget: x"),
            Some(19)
        );
        assert_eq!(
            clang_version("Ubuntu clang version 18.1.3 (1ubuntu1)"),
            Some(18)
        );
        assert_eq!(clang_version("clang version 21.0.0git"), Some(21));
        assert_eq!(clang_version("gcc (Debian 12.2.0-14) 12.2.0"), None);
    }

    #[test]
    fn a_compiler_that_fails_or_is_missing_is_refused() {
        assert!(!compiles_bpf(Path::new("/bin/false")));
        assert!(!compiles_bpf(Path::new("/nonexistent/clang")));
    }
}
