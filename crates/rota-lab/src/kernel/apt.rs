// SPDX-License-Identifier: GPL-2.0-only
//! Debian's archive, through apt with a configuration of its own: nothing of the machine's apt is
//! changed, its installed packages do not matter, and no privilege is needed. apt checks every
//! signature and hash.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::spec::{BUILT, Release};
use super::{Spec, mirror, program, require_space};
use crate::arch::Arch;
use crate::error::{Error, IoContext as _, Result};
use crate::{OnProgress, Progress};

/// Debian's keys; the lists of every suite must be signed with one of them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Suites with sched_ext kernels, and the stable one with the source and the kernel without it.
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "sid", "forky"];
/// That with the libraries.
const STABLE: &str = SUITES[1];
/// Lists are taken as they are for this long.
const FRESH: Duration = Duration::from_secs(6 * 60 * 60);
/// apt is given up when it has not moved for this long.
const STALL: Duration = Duration::from_secs(90);
/// What the lists and apt's index of them take.
const LISTS_BYTES: u64 = 250 << 20;
/// What any step may take on top.
const MORE_BYTES: u64 = 8 << 20;
/// The machine's settings that reach the network as it wants to be reached.
const INHERITED: [&str; 9] = [
    "Acquire::http",
    "Acquire::https",
    "Acquire::ftp",
    "Acquire::socks",
    "Acquire::tor",
    "Acquire::Force",
    "Acquire::Retries",
    "Acquire::Check-",
    "Acquire::Max-",
];

/// A package with a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub release: Release,
}

/// The source of a kernel, downloaded.
#[derive(Debug)]
pub struct Source {
    /// The .deb.
    pub deb: PathBuf,
    /// Debian's version of the package.
    pub version: String,
}

impl Source {
    /// The package with its version.
    pub fn origin(&self) -> String {
        format!("{} {}", source_package(), self.version)
    }
}

/// The package with the source of the series that is built.
pub fn source_package() -> String {
    format!("linux-source-{}.{}", BUILT.0, BUILT.1)
}

/// apt with the private configuration.
#[derive(Debug)]
pub struct Archive {
    arch: Arch,
    dir: PathBuf,
    config: PathBuf,
    updated: Cell<bool>,
}

impl Archive {
    /// Sets apt up under `cache`, for packages of `arch`, which apt knows no other of. Whoever calls
    /// this holds the lock on it.
    pub fn open(cache: &Path, arch: Arch) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::MissingPackages(vec!["debian-archive-keyring"]));
        }
        let dir = match arch {
            Arch::X86_64 => cache.join("apt"),
            Arch::Arm64 => cache.join("apt-arm64"),
        };
        for below in ["lists/partial", "archives/partial"] {
            let below = dir.join(below);
            fs::create_dir_all(&below).at("creating", &below)?;
        }
        let archive = Self {
            arch,
            config: dir.join("apt.conf"),
            dir,
            updated: Cell::new(false),
        };
        archive.configure(&mirror::find()?)?;
        Ok(archive)
    }

    fn configure(&self, mirror: &str) -> Result<()> {
        let settings = program::output(Command::new("apt-config").arg("dump"))?;
        let sources = sources(mirror, self.arch);
        let write = |path: &Path, text: &str| fs::write(path, text).at("writing", path);
        let list = self.dir.join("sources.list");
        if fs::read_to_string(&list).is_ok_and(|old| old != sources) {
            // Lists of another mirror are no longer what update would fetch.
            self.forget()?;
        }
        write(&list, &sources)?;
        write(&self.dir.join("status"), "")?;
        write(&self.config, &config(&self.dir, self.arch, &settings))
    }

    /// Finds the package with the kernel that `spec` names.
    pub fn resolve(&self, spec: &Spec, on_progress: OnProgress<'_>) -> Result<Package> {
        self.update_if_old(on_progress)?;
        if let Some(package) = choose(&self.kernels()?, spec) {
            return Ok(package);
        }
        // The lists may be older than the package.
        self.update(on_progress)?;
        let kernels = self.kernels()?;
        choose(&kernels, spec).ok_or_else(|| Error::NoSuchKernel {
            wanted: spec.to_string(),
            available: newest_of_each_series(&kernels),
        })
    }

    /// Downloads `package` into `scratch` and takes the kernel out of it.
    pub fn download(
        &self,
        package: &Package,
        scratch: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        let deb = self.download_deb(&package.name, scratch, on_progress)?;
        on_progress(Progress::Step(&format!("unpacking {}", package.name)));
        let image = scratch.join("image");
        let mut unpack = Command::new("dpkg-deb");
        unpack
            .arg("--fsys-tarfile")
            .arg(&deb)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut unpack = program::prepare(&mut unpack)
            .spawn()
            .map_err(|e| program::not_started(&unpack, &e))?;
        let file = fs::File::create(&image).at("creating", &image)?;
        let mut pick = Command::new("tar");
        pick.args([
            "-xOf",
            "-",
            "--wildcards",
            "./boot/vmlinuz-*",
            "./usr/lib/modules/*/vmlinuz",
        ]);
        pick.env("LC_ALL", "C.UTF-8").current_dir(scratch);
        pick.stdin(unpack.stdout.take().expect("stdout is piped"))
            .stdout(file);
        let picked = pick.output().map_err(|e| program::not_started(&pick, &e))?;
        let mut messages = String::new();
        let _ = unpack
            .stderr
            .take()
            .expect("stderr is piped")
            .read_to_string(&mut messages);
        let unpacked = unpack.wait().at("waiting for dpkg-deb on", &deb)?;
        // One of the two patterns never matches, for which tar fails; an empty file tells.
        let bytes = fs::metadata(&image).at("reading", &image)?.len();
        if !unpacked.success() {
            return Err(program::classify(
                "dpkg-deb".into(),
                &unpacked.to_string(),
                &messages,
                scratch,
            ));
        }
        if bytes == 0 || String::from_utf8_lossy(&picked.stderr).contains("No space left") {
            return Err(program::failure(&pick, &picked));
        }
        Ok(image)
    }

    /// Downloads the source of the series that is built into `scratch`.
    pub fn download_source(&self, scratch: &Path, on_progress: OnProgress<'_>) -> Result<Source> {
        self.update_if_old(on_progress)?;
        let package = source_package();
        let deb = self.download_deb(&package, scratch, on_progress)?;
        let mut field = Command::new("dpkg-deb");
        let version = program::output(field.arg("--field").arg(&deb).arg("Version"))?;
        Ok(Source {
            deb,
            version: version.trim().to_owned(),
        })
    }

    /// Downloads `package` out of the stable suite into `scratch`: what programs are linked with
    /// shall not be newer than what links them.
    pub fn download_stable(
        &self,
        package: &str,
        scratch: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        self.update_if_old(on_progress)?;
        self.download_deb(&format!("{package}/{STABLE}"), scratch, on_progress)
    }

    /// `package` of the stable suite and all that it depends on, with their versions
    /// (`name=version`), as if nothing were installed.
    pub fn closure_stable(
        &self,
        package: &str,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<String>> {
        self.update_if_old(on_progress)?;
        let mut command = self.apt("apt-get");
        command.args([
            "-s",
            "--no-install-recommends",
            "-t",
            STABLE,
            "install",
            package,
        ]);
        let plan = program::output(&mut command)?;
        Ok(plan.lines().filter_map(installed).collect())
    }

    /// Downloads `packages` (`name=version`), which `what` needs, into `dir`.
    pub fn download_all(
        &self,
        what: &str,
        packages: &[String],
        dir: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        on_progress(Progress::Step(&format!("downloading {what}")));
        let mut command = self.apt("apt-get");
        command.arg("download").args(packages).current_dir(dir);
        follow(&mut command, dir, on_progress)
    }

    fn download_deb(
        &self,
        package: &str,
        scratch: &Path,
        on_progress: OnProgress<'_>,
    ) -> Result<PathBuf> {
        on_progress(Progress::Step(&format!("downloading {package}")));
        let mut command = self.apt("apt-get");
        command.args(["download", package]).current_dir(scratch);
        follow(&mut command, scratch, on_progress)?;
        let files = fs::read_dir(scratch).at("reading", scratch)?;
        let mut paths = files.flatten().map(|entry| entry.path());
        paths
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| Error::Program {
                program: "apt-get".into(),
                status: "exit status: 0".into(),
                detail: format!("it downloaded no {package}"),
            })
    }

    fn update_if_old(&self, on_progress: OnProgress<'_>) -> Result<()> {
        let stamp = fs::metadata(self.dir.join("updated")).and_then(|stamp| stamp.modified());
        let age = stamp
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age < FRESH) {
            Ok(())
        } else {
            self.update(on_progress)
        }
    }

    /// Fetches the lists. One suite that fails (its signature has expired, say) does not matter as
    /// long as another has what is wanted.
    fn update(&self, on_progress: OnProgress<'_>) -> Result<()> {
        if self.updated.replace(true) {
            return Ok(());
        }
        on_progress(Progress::Step("reading Debian's package lists"));
        if self.kernels()?.is_empty() {
            require_space(&self.dir, LISTS_BYTES)?;
        }
        let mut command = self.apt("apt-get");
        command.args(["update", "--error-on=any"]);
        let updated = follow(&mut command, &self.dir, on_progress);
        if let Err(error) = updated {
            if self.kernels()?.is_empty() {
                return Err(error);
            }
            log::warn!("{error}; going on with the lists that are there");
            return Ok(());
        }
        let stamp = self.dir.join("updated");
        fs::write(&stamp, "").at("writing", &stamp)
    }

    fn forget(&self) -> Result<()> {
        let lists = self.dir.join("lists");
        fs::remove_dir_all(&lists).at("removing", &lists)?;
        fs::create_dir_all(lists.join("partial")).at("creating", &lists)?;
        let stamp = self.dir.join("updated");
        if stamp.exists() {
            fs::remove_file(&stamp).at("removing", &stamp)
        } else {
            Ok(())
        }
    }

    /// All kernels that the lists name.
    fn kernels(&self) -> Result<Vec<Package>> {
        let mut command = self.apt("apt-cache");
        let names = program::output(command.args(["pkgnames", "linux-"]))?;
        Ok(kernels(&names, self.arch))
    }

    fn apt(&self, tool: &str) -> Command {
        let mut command = Command::new(tool);
        command.env("APT_CONFIG", &self.config);
        command
    }
}

/// Of a line like `Inst libc6 (2.41-12 Debian:13.8/stable [amd64])`, the package with its version.
fn installed(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let (version, _) = rest.split_once(' ')?;
    Some(format!("{name}={version}"))
}

/// Runs apt, and reads its progress from its stdout.
fn follow(command: &mut Command, dir: &Path, on_progress: OnProgress<'_>) -> Result<()> {
    command
        .args(["-qq", "-o", "APT::Status-Fd=1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let spawned = program::prepare(command).spawn();
    let mut child = spawned.map_err(|error| program::not_started(command, &error))?;
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let messages = thread::spawn(move || {
        let mut text = String::new();
        // What could be read before an error is all there is to show.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let lines = send_lines(child.stdout.take().expect("stdout is piped"));
    let moved = watch(&lines, STALL, on_progress);
    if !moved {
        // apt itself waits for ever when a disk fills up under one of its helpers.
        child.kill().at("ending apt-get in", dir)?;
    }
    let status = child.wait().at("waiting for apt-get in", dir)?;
    if status.success() {
        return Ok(());
    }
    require_space(dir, MORE_BYTES)?;
    if !moved {
        let detail = format!("no progress for {} s", STALL.as_secs());
        return Err(Error::Network {
            from: "the Debian mirror".into(),
            detail,
        });
    }
    let messages = messages.join().unwrap_or_default();
    Err(program::classify(
        "apt-get".into(),
        &status.to_string(),
        &messages,
        dir,
    ))
}

/// The lines of a pipe, from a thread, so that waiting for them can have a limit.
fn send_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Passes apt's progress on until there is no more; false once it has not moved for `stall`.
fn watch(lines: &Receiver<String>, stall: Duration, on_progress: OnProgress<'_>) -> bool {
    let mut last = (String::new(), Instant::now());
    loop {
        match lines.recv_timeout(stall.saturating_sub(last.1.elapsed())) {
            // apt repeats itself while it waits.
            Ok(line) if line == last.0 => {}
            Ok(line) => {
                if let Some(part) = fetched(&line) {
                    on_progress(Progress::Done(part));
                }
                last = (line, Instant::now());
            }
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => return true,
        }
    }
}

/// How much is done, from a line like `dlstatus:1:20.9:Retrieving file 1 of 2`.
fn fetched(line: &str) -> Option<f64> {
    let percent: f64 = line
        .strip_prefix("dlstatus:")?
        .split(':')
        .nth(1)?
        .parse()
        .ok()?;
    Some((percent / 100.0).clamp(0.0, 1.0))
}

fn sources(mirror: &str, arch: Arch) -> String {
    let arch = arch.debian();
    let line = |suite| {
        format!("deb [arch={arch} target=Packages signed-by={KEYRING}] {mirror} {suite} main\n")
    };
    SUITES.map(line).concat()
}

/// A configuration that takes nothing from the machine but how to reach the network.
fn config(dir: &Path, arch: Arch, machine: &str) -> String {
    let at = |below: &str| dir.join(below).display().to_string();
    let own = [
        // No hooks of the machine: they expect root, and this is not its business.
        ("Dir::Etc::Main", "/dev/null".into()),
        ("Dir::Etc::Parts", "/dev/null".into()),
        ("Dir::Etc::SourceList", at("sources.list")),
        ("Dir::Etc::SourceParts", "/dev/null".into()),
        ("Dir::Etc::Preferences", "/dev/null".into()),
        ("Dir::Etc::PreferencesParts", "/dev/null".into()),
        ("Dir::State", at("")),
        ("Dir::State::Lists", at("lists")),
        ("Dir::State::Status", at("status")),
        ("Dir::Cache", at("")),
        ("Dir::Cache::Archives", at("archives")),
        ("APT::Architecture", arch.debian().into()),
        ("APT::Architectures", arch.debian().into()),
        ("APT::Sandbox::User", "root".into()),
        ("Acquire::Languages", "none".into()),
        // Lists stay compressed.
        ("Acquire::GzipIndexes", "true".into()),
        ("Dir::Cache::srcpkgcache", String::new()),
    ];
    let inherited = machine
        .lines()
        .filter(|line| INHERITED.iter().any(|key| line.starts_with(key)));
    let own = own.iter().map(|(key, value)| format!("{key} \"{value}\";"));
    inherited
        .map(str::to_owned)
        .chain(own)
        .map(|line| line + "\n")
        .collect()
}

/// The kernels among package names; of two packages of one release the one that holds the image.
fn kernels(names: &str, arch: Arch) -> Vec<Package> {
    let mut found = BTreeMap::new();
    for name in names.lines() {
        if let Some((release, only_image)) = Release::of_package(name, arch)
            && (only_image || !found.contains_key(&release))
        {
            found.insert(release, name.to_owned());
        }
    }
    found
        .into_iter()
        .map(|(release, name)| Package { name, release })
        .collect()
}

fn choose(kernels: &[Package], spec: &Spec) -> Option<Package> {
    let matching = kernels
        .iter()
        .filter(|package| spec.matches(&package.release));
    matching
        .max_by(|a, b| a.release.preference(&b.release))
        .cloned()
}

/// `6.16.12`, `6.18.15`, …
fn newest_of_each_series(kernels: &[Package]) -> Vec<String> {
    // They come in order.
    let same = |a: &&Package, b: &&Package| a.release.series() == b.release.series();
    let series = kernels.iter().collect::<Vec<_>>();
    let newest = series.chunk_by(same).filter_map(|chunk| chunk.last());
    newest.map(|package| package.release.number()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "\
linux-image-cloud-amd64
linux-image-6.16.3+deb13-cloud-amd64
linux-image-6.16.12+deb13-cloud-amd64
linux-image-6.16.12+deb13-amd64
linux-image-6.12.107+deb13-cloud-amd64
linux-image-6.12.94+deb13-cloud-amd64-unsigned
linux-binary-7.2.12+deb13-cloud-amd64
linux-image-7.2.12+deb13-cloud-amd64
linux-image-7.2.12+deb13-cloud-amd64-dbg
linux-binary-7.2.12+deb14-cloud-amd64
linux-binary-7.2.9+deb13-cloud-amd64
linux-image-7.2.13+deb14-cloud-amd64
linux-binary-7.2.13+deb14-cloud-amd64
";

    fn chosen(spec: &str) -> Option<String> {
        choose(&kernels(NAMES, Arch::X86_64), &spec.parse().unwrap()).map(|package| package.name)
    }

    #[test]
    fn what_would_be_installed_has_a_name_and_a_version() {
        let line = "Inst libc6 (2.41-12 Debian:13.8/stable [amd64]) [libcrypt1:amd64 ]";
        assert_eq!(installed(line).as_deref(), Some("libc6=2.41-12"));
        assert_eq!(
            installed("Conf libc6 (2.41-12 Debian:13.8/stable [amd64])"),
            None
        );
    }

    #[test]
    fn a_name_leads_to_the_package_with_the_image() {
        let table = [
            ("6.16", "linux-image-6.16.12+deb13-cloud-amd64"),
            ("6.16.3", "linux-image-6.16.3+deb13-cloud-amd64"),
            ("7.2", "linux-binary-7.2.13+deb14-cloud-amd64"),
            ("7.2.12", "linux-binary-7.2.12+deb13-cloud-amd64"),
            ("7.2.12+deb14", "linux-binary-7.2.12+deb14-cloud-amd64"),
            ("none", "linux-image-6.12.107+deb13-cloud-amd64"),
        ];
        for (spec, name) in table {
            assert_eq!(chosen(spec).as_deref(), Some(name), "{spec}");
        }
        for spec in ["6.17", "6.1", "7.2.1", "6.12"] {
            assert_eq!(chosen(spec), None, "{spec}");
        }
    }

    #[test]
    fn each_architecture_has_its_own_kernels() {
        let names = NAMES.replace("amd64", "arm64");
        assert_eq!(kernels(&names, Arch::X86_64), []);
        let spec = "7.2.12".parse().unwrap();
        let package = choose(&kernels(&names, Arch::Arm64), &spec).unwrap();
        assert_eq!(package.name, "linux-binary-7.2.12+deb13-cloud-arm64");
    }

    #[test]
    fn apt_is_told_of_one_architecture_only() {
        let config = config(Path::new("/c/apt-arm64"), Arch::Arm64, "");
        assert!(config.contains("APT::Architecture \"arm64\";\n"));
        assert!(config.contains("APT::Architectures \"arm64\";\n"));
        let sources = sources("http://mirror.example/debian", Arch::Arm64);
        assert!(
            sources
                .lines()
                .all(|line| line.starts_with("deb [arch=arm64 "))
        );
    }

    #[test]
    fn what_there_is_is_listed_by_series() {
        let available = newest_of_each_series(&kernels(NAMES, Arch::X86_64));
        assert_eq!(available, ["6.12.107", "6.16.12", "7.2.13"]);
    }

    #[test]
    fn progress_is_read_from_apts_status_lines() {
        assert_eq!(
            fetched("dlstatus:1:25.0000:Retrieving file 1 of 4"),
            Some(0.25)
        );
        assert_eq!(fetched("dlstatus:1:100.5:x"), Some(1.0));
        assert_eq!(fetched("pmstatus:dpkg:1:x"), None);
        assert_eq!(fetched("Reading package lists..."), None);
    }

    #[test]
    fn apt_that_does_not_move_is_given_up() {
        let (sender, lines) = mpsc::channel();
        let line = |percent: u8| format!("dlstatus:1:{percent}.0:Retrieving file 1 of 4");
        for percent in [10, 20, 20] {
            sender.send(line(percent)).unwrap();
        }
        let mut seen = Vec::new();
        let short = Duration::from_millis(50);
        let moved = watch(&lines, short, &mut |progress| match progress {
            Progress::Done(part) => seen.push(part),
            Progress::Step(step) => panic!("{step}"),
        });
        assert!(!moved);
        assert_eq!(seen, [0.1, 0.2]);
        drop(sender);
        assert!(watch(&lines, short, &mut |_| {}));
    }

    #[test]
    fn only_the_way_to_the_network_is_inherited() {
        let machine = "Acquire::http::Proxy \"http://proxy.example:3128\";\n\
            Acquire::IndexTargets::deb::Packages \"\";\nAPT::Update::Post-Invoke \"\";\n\
            Acquire::Check-Valid-Until \"false\";\n";
        let config = config(Path::new("/c/apt"), Arch::X86_64, machine);
        assert!(config.contains("Acquire::http::Proxy \"http://proxy.example:3128\";\n"));
        assert!(config.contains("Acquire::Check-Valid-Until"));
        assert!(!config.contains("IndexTargets") && !config.contains("Post-Invoke"));
        assert!(config.contains("Dir::Etc::SourceList \"/c/apt/sources.list\";\n"));
    }

    #[test]
    fn every_suite_is_signed_by_debian() {
        let sources = sources("http://mirror.example/debian", Arch::X86_64);
        assert_eq!(sources.lines().count(), SUITES.len());
        for line in sources.lines() {
            assert!(line.contains(&format!(
                "signed-by={KEYRING}] http://mirror.example/debian "
            )));
        }
    }
}
