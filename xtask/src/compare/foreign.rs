// SPDX-License-Identifier: GPL-2.0-only
//! A scheduler from elsewhere: what of the host it takes along into a guest, which has no library.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use object::elf::EM_X86_64;
use rota_lab::job::{self, Contender};

use crate::elf::Elf;
use crate::stop;

/// A program of the host, with all that it needs to run elsewhere.
#[derive(Debug)]
pub struct Foreign {
    /// The program.
    pub path: PathBuf,
    /// Its file name, which is what the comparison calls it.
    pub name: String,
    /// Its dynamic loader and its libraries, theirs included: the paths that they have on the host,
    /// and shall have in the guest. Empty for a static program. What it opens by name while it runs
    /// (`dlopen`) is not among them.
    pub libraries: BTreeSet<PathBuf>,
}

impl Foreign {
    /// Finds out what the program at `path` needs.
    pub fn find(path: &Path) -> Result<Self> {
        let refuse = |what: String| stop::usage(format!("--foreign {}: {what}", path.display()));
        if !path.is_file() {
            return Err(refuse("no such file; give the path of a program".into()));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The loader looks a bare name up elsewhere.
        let whole = path
            .canonicalize()
            .with_context(|| format!("looking for {}", path.display()))?;
        let elf = Elf::read(&whole).map_err(|_| {
            refuse("not a 64-bit ELF program; give the program itself, not a script".into())
        })?;
        if elf.machine != EM_X86_64 {
            return Err(refuse(
                "for another machine; the guests are x86-64, build it for that".into(),
            ));
        }
        let libraries = match &elf.interpreter {
            None => BTreeSet::new(),
            Some(loader) => closure(loader, &whole).map_err(refuse)?,
        };
        Ok(Self {
            name: name.into_owned(),
            path: path.to_owned(),
            libraries,
        })
    }

    /// The files to put into the guest besides the program: where to, and which.
    pub fn files(&self) -> impl Iterator<Item = (String, PathBuf)> {
        let place = |path: &PathBuf| (path.display().to_string(), path.clone());
        self.libraries.iter().map(place)
    }

    /// What the guest has to know about it.
    pub fn contender(&self) -> Contender {
        let dirs: BTreeSet<String> = self
            .libraries
            .iter()
            .filter_map(|path| Some(path.parent()?.display().to_string()))
            .collect();
        Contender {
            name: self.name.clone(),
            args: Vec::new(),
            foreign: Some(job::Foreign {
                library_dirs: dirs.into_iter().collect(),
            }),
        }
    }
}

/// The loader and everything that it would map for `program`. It is asked itself, because where it
/// looks depends on its configuration and on paths in the program.
fn closure(loader: &str, program: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let output = Command::new(loader).arg("--list").arg(program).output();
    let output = output.map_err(|error| format!("its loader {loader}: {error}; install it"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = listed(&text).map_err(|missing| {
        format!("it needs {missing}, which is not here; install that library")
    })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.lines().next().unwrap_or("it said nothing").trim();
        return Err(format!("{loader} --list fails: {words}"));
    }
    found.insert(loader.into());
    Ok(found)
}

/// The files in a loader's list, whose lines are `name => path (address)`, `path (address)`, or
/// `name (address)` for what the kernel itself provides. The error is a library that was not found.
fn listed(text: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let line = line.trim();
        let (name, path) = line.split_once(" => ").unwrap_or((line, line));
        if path == "not found" {
            return Err(name.to_owned());
        }
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
        if path.starts_with('/') {
            found.insert(path.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refusal(path: &Path) -> String {
        let error = Foreign::find(path).unwrap_err();
        assert_eq!(stop::code_of(&error), 2, "{error}");
        let text = error.to_string();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    }

    #[test]
    fn a_list_names_files_and_what_is_missing() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x00007f01)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libelf.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(listed(text), Ok(expected.map(PathBuf::from).into()));
        let text = format!("{text}\tlibbpf.so.1 => not found\n");
        assert_eq!(listed(&text), Err("libbpf.so.1".into()));
        assert_eq!(listed("\tstatically linked\n"), Ok(BTreeSet::new()));
    }

    #[test]
    fn a_program_of_the_host_comes_with_its_loader_and_its_libraries() {
        let foreign = Foreign::find(Path::new("/bin/sh")).unwrap();
        assert_eq!(foreign.name, "sh");
        let elf = Elf::read(Path::new("/bin/sh")).unwrap();
        let contender = foreign.contender();
        assert_eq!((contender.name.as_str(), contender.args.len()), ("sh", 0));
        let Some(loader) = elf.interpreter else {
            assert!(foreign.libraries.is_empty());
            return;
        };
        assert!(foreign.libraries.contains(Path::new(&loader)));
        assert!(foreign.libraries.len() > 1 && foreign.libraries.iter().all(|p| p.is_file()));
        assert!(foreign.files().all(|(to, from)| Path::new(&to) == from));
        let dirs = contender.foreign.unwrap().library_dirs;
        assert!(dirs.iter().all(|dir| Path::new(dir).is_dir()), "{dirs:?}");
    }

    #[test]
    fn what_is_no_program_for_the_guest_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scx_other");
        assert!(refusal(&path).ends_with("no such file; give the path of a program"));
        assert!(refusal(dir.path()).contains("no such file"));
        fs::write(&path, "#!/bin/sh\nexec scx\n").unwrap();
        assert!(refusal(&path).ends_with("give the program itself, not a script"));
        let mut elf = fs::read(std::env::current_exe().unwrap()).unwrap();
        // The machine's number becomes that of arm64.
        elf[0x12..0x14].copy_from_slice(&[183, 0]);
        fs::write(&path, elf).unwrap();
        assert!(refusal(&path).contains("for another machine"));
    }
}
