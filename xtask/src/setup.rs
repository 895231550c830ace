// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask setup`, and the same at the start of every command that needs the machine's
//! tools: finds what is missing, and installs it with apt-get or says what to install.

mod apt;
mod cross;
mod manager;
mod needs;
mod probe;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rota_lab::arch::Arch;
use rota_lab::kernel::{Store, Sysroot};

use cross::Cross;
use manager::Manager;
pub use needs::Group;
use needs::Need;
use probe::Libelf;

use crate::context::Context;
use crate::{stop, ui};

/// A package that was installed may reveal that another is missing (a libelf that wants zstd).
const ROUNDS: usize = 3;

/// Whether missing packages are installed.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Install {
    /// Install nothing: print the packages that are missing, and the line that installs them
    #[arg(long)]
    no_install: bool,
}

/// Install everything that the other commands need
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    install: Install,
    /// Also what building a kernel from source needs
    #[arg(long)]
    kernel_build: bool,
}

/// The tools that build scripts are told about.
pub struct Toolchain {
    clang: PathBuf,
    libelf: Libelf,
    /// For guests that are not what this machine is.
    cross: Option<Cross>,
}

/// Runs `cargo xtask setup`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    let mut groups = vec![Group::Build, Group::Lint, Group::Vm];
    if args.kernel_build {
        groups.push(Group::KernelBuild);
    }
    ensure(cx, &groups, args.install)?;
    let tools = Toolchain::find()?;
    ui::out(format!(
        "everything is installed; BPF is compiled by {}",
        tools.clang.display()
    ));
    Ok(stop::OK)
}

/// Makes sure that the machine has what `groups` need.
pub fn ensure(cx: &Context, groups: &[Group], install: Install) -> Result<()> {
    for _ in 0..ROUNDS {
        let missing = needs::missing(groups);
        if missing.is_empty() {
            return Ok(());
        }
        if install.no_install {
            return Err(stop::environment(advice(&missing, None)));
        }
        install_all(cx, &missing)?;
    }
    let missing = needs::missing(groups);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(stop::environment(advice(&missing, None)))
    }
}

/// Installs what `missing` names, with rustup or apt-get.
fn install_all(cx: &Context, missing: &[&'static Need]) -> Result<()> {
    let (components, packaged) = split(missing);
    if !components.is_empty() {
        add_components(cx, &components)?;
    }
    if packaged.is_empty() {
        return Ok(());
    }
    let native = Manager::native();
    let failed = |reason: &str| stop::environment(format!("{reason}{}", advice(&packaged, native)));
    if native.is_some_and(|manager| manager != Manager::Apt) || probe::in_path("apt-get").is_none()
    {
        return Err(failed(""));
    }
    apt_install(&packaged).map_err(|error| failed(&format!("{error}\n")))
}

fn apt_install(needs: &[&Need]) -> Result<()> {
    apt::obtain_right()?;
    let (packages, absent) = apt::choose(needs);
    if absent.is_empty() {
        match apt::install(&packages) {
            Err(error) if error.to_string().contains("fetch") => {}
            result => return result,
        }
    }
    // No lists yet (containers come without), or old ones that name packages long gone.
    apt::update()?;
    let (packages, absent) = apt::choose(needs);
    if !absent.is_empty() {
        bail!("this distribution has no package {}", absent.join(", "));
    }
    apt::install(&packages)
}

fn add_components(cx: &Context, needs: &[&Need]) -> Result<()> {
    let components: Vec<&str> = needs.iter().filter_map(|need| need.rustup).collect();
    let task = ui::spinner(format!("adding {} with rustup", components.join(" ")));
    let output = Command::new("rustup")
        .args(["component", "add"])
        .args(&components)
        .current_dir(&cx.root)
        .output()
        .context("running rustup")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let line = text
            .lines()
            .find(|line| line.starts_with("error"))
            .unwrap_or("it failed");
        return Err(stop::environment(format!(
            "rustup component add: {line}\n{}",
            advice(needs, None)
        )));
    }
    task.done("");
    Ok(())
}

/// What is missing, and the lines that install it: of every distribution, or of this one alone.
fn advice(missing: &[&Need], only: Option<Manager>) -> String {
    let names: Vec<&str> = missing.iter().map(|need| need.name).collect();
    let (components, packaged) = split(missing);
    let mut text = format!("missing: {}", names.join("; "));
    if !components.is_empty() {
        let components = unique(components.iter().filter_map(|need| need.rustup));
        text += &format!("\n  rustup component add {components}");
    }
    if packaged.is_empty() {
        return text;
    }
    for manager in [Manager::Apt, Manager::Dnf, Manager::Pacman] {
        if only.is_none_or(|only| only == manager) {
            text += &format!("\n  {}", manager.line(&packaged));
        }
    }
    text
}

/// Splits `needs` into those that rustup installs here and those in packages.
fn split<'a>(needs: &[&'a Need]) -> (Vec<&'a Need>, Vec<&'a Need>) {
    let rustup = probe::in_path("rustup").is_some();
    needs
        .iter()
        .partition(|need| rustup && need.rustup.is_some())
}

/// The words in `names`, each once, in order.
fn unique<S: AsRef<str>>(names: impl Iterator<Item = S>) -> String {
    let mut words: Vec<String> = Vec::new();
    for name in names {
        if !words.iter().any(|word| word == name.as_ref()) {
            words.push(name.as_ref().to_owned());
        }
    }
    words.join(" ")
}

impl Toolchain {
    /// Finds the tools of [`Group::Build`], which [`ensure`] has seen to.
    pub fn find() -> Result<Self> {
        let lost = || stop::environment("the compiler vanished after it was found");
        let clang = probe::clang().ok_or_else(lost)?;
        let libelf = probe::static_libelf().ok_or_else(lost)?;
        Ok(Self {
            clang,
            libelf,
            cross: None,
        })
    }

    /// The same for guests of `store`'s architecture: for arm64 with the tools of
    /// [`Group::Arm64`], and libraries that are fetched.
    pub fn on(self, store: &Store) -> Result<Self> {
        let cross = match store.arch() {
            Arch::X86_64 => None,
            Arch::Arm64 => Some(Cross::find(store)?),
        };
        Ok(Self { cross, ..self })
    }

    /// What programs are linked with that are not for this machine.
    pub fn sysroot(&self) -> Option<&Sysroot> {
        self.cross.as_ref().map(|cross| &cross.sysroot)
    }

    /// The target triple of the programs, on a machine with that of `cx`.
    pub fn triple<'a>(&self, cx: &'a Context) -> &'a str {
        match &self.cross {
            Some(cross) => cross.triple(),
            None => &cx.triple,
        }
    }

    /// The compiler of the BPF side.
    pub fn clang(&self) -> &Path {
        &self.clang
    }

    /// Tells `command` (cargo) which clang compiles BPF, and what compiles C for another machine.
    pub fn apply(&self, command: &mut Command) {
        command.env("BPF_CLANG", &self.clang);
        if let Some(cross) = &self.cross {
            cross.apply(command);
        }
    }

    /// Flags for rustc that make static programs here; an object that they need goes to `dir`.
    pub fn static_flags(&self, dir: &Path) -> Result<Vec<String>> {
        match &self.cross {
            Some(cross) => cross.static_flags(&dir.join(cross.triple())),
            None => static_flags(self.libelf, "cc", &[], dir),
        }
    }
}

/// Flags for rustc that make static programs with such a libelf. Where it is incomplete, `cc` is
/// asked, with these flags, for what it lacks; that goes to `dir`.
fn static_flags(libelf: Libelf, cc: &str, cc_flags: &[String], dir: &Path) -> Result<Vec<String>> {
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    if libelf == Libelf::Incomplete {
        fs::create_dir_all(dir)?;
        let (source, object) = (dir.join("libelf_0_192.c"), dir.join("libelf_0_192.o"));
        fs::write(&source, probe::MISSING_FUNCTIONS)?;
        let status = Command::new(cc)
            .args(cc_flags)
            .args(["-O2", "-c", "-o"])
            .args([&object, &source])
            .status();
        if !status.with_context(|| format!("running {cc}"))?.success() {
            bail!("compiling {} failed", source.display());
        }
        flags.push(format!("-Clink-arg={}", object.display()));
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONESUCH: Need = Need {
        name: "a nonesuch",
        found: || false,
        apt: &[&["rota-nonesuch"]],
        dnf: &["nonesuch-devel"],
        pacman: &["nonesuch"],
        rustup: None,
    };

    #[test]
    fn advice_names_the_packages_of_each_distribution() {
        let text = advice(&[&NONESUCH], None);
        assert!(text.starts_with("missing: a nonesuch\n"), "{text}");
        for line in [
            "install --no-install-recommends rota-nonesuch",
            "dnf install nonesuch-devel",
        ] {
            assert!(text.contains(line), "{text}");
        }
        assert!(text.ends_with("pacman -S --needed nonesuch"), "{text}");
    }

    #[test]
    fn advice_for_one_distribution_leaves_out_the_others() {
        let text = advice(&[&NONESUCH], Some(Manager::Dnf));
        assert_eq!(
            text,
            "missing: a nonesuch\n  Fedora:          dnf install nonesuch-devel"
        );
    }

    #[test]
    fn words_appear_once() {
        assert_eq!(unique(["gcc", "make", "gcc"].iter()), "gcc make");
    }

    #[test]
    fn an_incomplete_libelf_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let flags = |libelf| {
            let tools = Toolchain {
                clang: "clang".into(),
                libelf,
                cross: None,
            };
            tools.static_flags(dir.path()).unwrap()
        };
        assert_eq!(flags(Libelf::Complete), ["-Ctarget-feature=+crt-static"]);
        let flags = flags(Libelf::Incomplete);
        let object = flags[1].strip_prefix("-Clink-arg=").unwrap();
        assert!(Path::new(object).is_file(), "{object}");
    }
}
