// SPDX-License-Identifier: GPL-2.0-only
//! Kernels to boot: fetched from Debian's archive or built from its source, kept in a cache
//! outside the tree, checked whenever they are used.

mod apt;
mod build;
mod emulator;
mod image;
mod lock;
mod mirror;
mod packages;
mod program;
mod spec;
mod sysroot;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

pub use emulator::Emulator;
pub use spec::{Release, Spec};
pub use sysroot::Sysroot;

use crate::arch::Arch;
use crate::error::{Error, IoContext as _, Result};
use crate::{OnProgress, Progress};
use apt::Archive;
use lock::Lock;

const IMAGE: &str = "vmlinuz";
const RECORD: &str = "kernel.json";
const FETCH_PREFIX: &str = "fetch-";
const BUILD_PREFIX: &str = "build-";

/// A package with all modules, and the image out of it.
const FETCH_BYTES: u64 = 80 << 20;
/// The source, packed and unpacked, and the objects with their debug information.
const BUILD_BYTES: u64 = 3 << 30;

/// A kernel that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What to ask for to get it or a newer one: `6.18`, or `none`.
    pub series: String,
    /// What `uname -r` will say.
    pub release: String,
    /// The bzImage, or the Image of an arm64 kernel.
    pub image: PathBuf,
    /// Where it came from: the package with its version, `built`, or `file`.
    pub origin: String,
}

/// What the cache knows about an image beside it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    release: Release,
    origin: String,
    bytes: u64,
    sha256: String,
    /// For a kernel that was built: the hash of the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<String>,
}

/// The cache of kernels.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    arch: Arch,
}

impl Store {
    /// The user's cache: `$ROTA_CACHE`, else `$XDG_CACHE_HOME/rota`, else `~/.cache/rota`.
    pub fn open() -> Result<Self> {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
        let below = |dir: std::ffi::OsString, rest| PathBuf::from(dir).join(rest);
        let dir = variable("ROTA_CACHE")
            .map(PathBuf::from)
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| below(dir, "rota")))
            .or_else(|| variable("HOME").map(|dir| below(dir, ".cache/rota")))
            .unwrap_or_else(|| env::temp_dir().join("rota-cache"));
        Self::open_at(&std::path::absolute(&dir).at("resolving", &dir)?)
    }

    /// A cache in `dir`, an absolute path; it is created when missing.
    pub fn open_at(dir: &Path) -> Result<Self> {
        let kernels = dir.join("kernels");
        fs::create_dir_all(&kernels).at("creating", &kernels)?;
        Ok(Self {
            dir: dir.to_owned(),
            arch: Arch::default(),
        })
    }

    /// The same cache, as far as it is for guests of `arch`.
    pub fn on(&self, arch: Arch) -> Self {
        Self {
            dir: self.dir.clone(),
            arch,
        }
    }

    /// The architecture of the guests.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Where the cache is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All kernels in the cache, of every architecture, oldest release first.
    pub fn list(&self) -> Result<Vec<Kernel>> {
        let mut found = self.records()?;
        found.sort_by(|a, b| a.1.release.cmp(&b.1.release));
        Ok(found
            .into_iter()
            .map(|(dir, record)| record.kernel(&dir))
            .collect())
    }

    /// The newest kernel in the cache that `spec` names. One that is no longer what was put there
    /// does not count.
    pub fn find(&self, spec: &Spec) -> Result<Option<Kernel>> {
        if let Spec::File(path) = spec {
            return image::open(path, self.arch).map(Some);
        }
        let mut found = self.records()?;
        found.retain(|(_, record)| record.release.arch() == self.arch && record.is(spec));
        found.sort_by(|a, b| b.1.release.preference(&a.1.release));
        let sound = found.into_iter().find(|(dir, record)| {
            let checked = record.check(&dir.join(IMAGE));
            checked
                .inspect_err(|reason| log::warn!("{reason}; it does not count"))
                .is_ok()
        });
        Ok(sound.map(|(dir, record)| record.kernel(&dir)))
    }

    /// The kernel that `spec` names: from the cache, else from the archive, else built.
    pub fn get(&self, spec: &Spec, on_progress: OnProgress<'_>) -> Result<Kernel> {
        match self.find(spec)? {
            Some(kernel) => Ok(kernel),
            None => self.fetch(spec, on_progress),
        }
    }

    /// Like [`Store::get`], but asks the archive whether there is a newer one.
    pub fn fetch(&self, spec: &Spec, on_progress: OnProgress<'_>) -> Result<Kernel> {
        match spec {
            Spec::File(path) => image::open(path, self.arch),
            Spec::Built if self.arch != Arch::X86_64 => Err(Error::NotBuilt(self.arch)),
            Spec::Built => self.build(on_progress),
            Spec::Series(..) | Spec::Release(_) | Spec::WithoutSchedExt => {
                self.download(spec, on_progress)
            }
        }
    }

    /// Builds Linux 6.12 with sched_ext, which Debian has switched off there, unless the cache has
    /// it with the present configuration.
    ///
    /// Fails with [`Error::MissingPackages`] when a program is missing that can be installed.
    pub fn build(&self, on_progress: OnProgress<'_>) -> Result<Kernel> {
        let _lock = self.lock("build.lock", on_progress)?;
        // Somebody else may have built it while this one waited.
        if let Some(kernel) = self.find(&Spec::Built)? {
            return Ok(kernel);
        }
        build::require_programs()?;
        require_space(&self.dir, BUILD_BYTES)?;
        let scratch = self.scratch(BUILD_PREFIX)?;
        let (archive, source) = {
            let _lock = self.lock("apt.lock", on_progress)?;
            let archive = Archive::open(&self.dir, Arch::X86_64)?;
            let source = archive.download_source(scratch.path(), on_progress)?;
            (archive, source)
        };
        drop(archive);
        let built = build::build(scratch.path(), &source, on_progress)?;
        let origin = format!("built from {}", source.origin());
        self.add(&built, scratch.path(), origin, Some(build::config_hash()))
    }

    fn download(&self, spec: &Spec, on_progress: OnProgress<'_>) -> Result<Kernel> {
        let _lock = self.lock("apt.lock", on_progress)?;
        let archive = Archive::open(&self.dir, self.arch)?;
        let package = archive.resolve(spec, on_progress)?;
        let exact = Spec::Release(package.release.to_string());
        if let Some(kernel) = self.find(&exact)? {
            return Ok(kernel);
        }
        require_space(&self.dir, FETCH_BYTES)?;
        let scratch = self.scratch(FETCH_PREFIX)?;
        let image = archive.download(&package, scratch.path(), on_progress)?;
        self.add(&image, scratch.path(), package.name, None)
    }

    /// Takes the image at `path` over into the cache, all or nothing.
    fn add(
        &self,
        path: &Path,
        scratch: &Path,
        origin: String,
        config: Option<String>,
    ) -> Result<Kernel> {
        let release = image::release(path, self.arch)?;
        let (bytes, sha256) = image::digest(path)?;
        let record = Record {
            release: release.parse()?,
            origin,
            bytes,
            sha256,
            config,
        };
        let entry = scratch.join("entry");
        fs::create_dir(&entry).at("creating", &entry)?;
        fs::rename(path, entry.join(IMAGE)).at("moving", path)?;
        let text = serde_json::to_string_pretty(&record).expect("a record is plain data");
        let file = entry.join(RECORD);
        fs::write(&file, text).at("writing", &file)?;

        let dir = self.dir.join("kernels").join(&release);
        if dir.exists() {
            // A damaged one, or one that was built with another configuration.
            fs::remove_dir_all(&dir).at("replacing", &dir)?;
        }
        fs::rename(&entry, &dir).at("creating", &dir)?;
        Ok(record.kernel(&dir))
    }

    fn records(&self) -> Result<Vec<(PathBuf, Record)>> {
        let kernels = self.dir.join("kernels");
        let mut records = Vec::new();
        for entry in fs::read_dir(&kernels).at("reading", &kernels)? {
            let dir = entry.at("reading", &kernels)?.path();
            let file = dir.join(RECORD);
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            match serde_json::from_str(&text) {
                Ok(record) => records.push((dir, record)),
                Err(error) => log::warn!("{}: {error}; it does not count", file.display()),
            }
        }
        Ok(records)
    }

    /// A directory on the file system of the cache that goes away by itself, and with it what an
    /// earlier process left that was killed. Whoever calls this holds the lock for the prefix.
    fn scratch(&self, prefix: &str) -> Result<TempDir> {
        for entry in fs::read_dir(&self.dir).at("reading", &self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) && entry.path().is_dir() {
                fs::remove_dir_all(entry.path()).at("removing", entry.path())?;
            }
        }
        tempfile::Builder::new()
            .prefix(prefix)
            .tempdir_in(&self.dir)
            .at("creating", &self.dir)
    }

    fn lock(&self, name: &str, on_progress: OnProgress<'_>) -> Result<Lock> {
        let path = self.dir.join(name);
        Lock::take(&path, || {
            on_progress(Progress::Step("waiting for another process"))
        })
    }
}

impl Record {
    fn is(&self, spec: &Spec) -> bool {
        match &self.config {
            Some(config) => match spec {
                Spec::Built => *config == build::config_hash(),
                Spec::Release(wanted) => self.release.is(wanted),
                _ => false,
            },
            None => spec.matches(&self.release),
        }
    }

    fn kernel(&self, dir: &Path) -> Kernel {
        let stock = self.config.is_none() && Spec::WithoutSchedExt.matches(&self.release);
        Kernel {
            series: if stock {
                Spec::WithoutSchedExt.to_string()
            } else {
                self.release.series()
            },
            release: self.release.to_string(),
            image: dir.join(IMAGE),
            origin: self.origin.clone(),
        }
    }

    /// Whether the image is still what was put there; if not, the error says how it shows.
    fn check(&self, image: &Path) -> std::result::Result<(), String> {
        let (bytes, sha256) = image::digest(image).map_err(|error| error.to_string())?;
        if bytes == self.bytes && sha256 == self.sha256 {
            return Ok(());
        }
        Err(format!(
            "{} was changed since it was fetched",
            image.display()
        ))
    }
}

/// Fails unless `bytes` fit into the file system of `dir`.
fn require_space(dir: &Path, bytes: u64) -> Result<()> {
    let system = statvfs(dir).at("asking for free space under", dir)?;
    let free = system
        .blocks_available()
        .saturating_mul(system.fragment_size());
    if free >= bytes {
        Ok(())
    } else {
        Err(Error::DiskFull {
            path: dir.to_owned(),
            needed: bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(_: Progress<'_>) {}

    fn store() -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_at(dir.path()).unwrap();
        (dir, store)
    }

    fn add(store: &Store, release: &str, config: Option<String>) -> Kernel {
        let file = store.dir().join("image");
        fs::write(&file, image::tests::bzimage(release)).unwrap();
        let scratch = store.scratch(FETCH_PREFIX).unwrap();
        store
            .add(&file, scratch.path(), "test".into(), config)
            .unwrap()
    }

    fn spec(text: &str) -> Spec {
        text.parse().unwrap()
    }

    #[test]
    fn the_newest_of_a_series_is_found() {
        let (_dir, store) = store();
        for release in [
            "6.18.9+deb13-cloud-amd64",
            "6.18.15+deb13-cloud-amd64",
            "7.3.4-x",
        ] {
            add(&store, release, None);
        }
        let found = |text: &str| {
            store
                .find(&spec(text))
                .unwrap()
                .map(|kernel| kernel.release)
        };
        assert_eq!(found("6.18").as_deref(), Some("6.18.15+deb13-cloud-amd64"));
        assert_eq!(found("6.18.9").as_deref(), Some("6.18.9+deb13-cloud-amd64"));
        assert_eq!(found("6.1"), None);
        assert_eq!(found("none"), None);
        let all: Vec<_> = store
            .list()
            .unwrap()
            .into_iter()
            .map(|kernel| kernel.series)
            .collect();
        assert_eq!(all, ["6.18", "6.18", "7.3"]);
    }

    #[test]
    fn kernels_of_another_architecture_do_not_count() {
        let (_dir, store) = store();
        add(&store, "7.3.4+deb13-cloud-amd64", None);
        let arm = store.on(Arch::Arm64);
        assert_eq!(arm.find(&spec("7.3")).unwrap(), None);
        let from = store.dir().join("kernels/7.3.4+deb13-cloud-amd64");
        let to = store.dir().join("kernels/7.3.5+deb13-cloud-arm64");
        fs::create_dir(&to).unwrap();
        fs::copy(from.join(IMAGE), to.join(IMAGE)).unwrap();
        let record = fs::read_to_string(from.join(RECORD)).unwrap();
        let record = record.replace("7.3.4", "7.3.5").replace("amd64", "arm64");
        fs::write(to.join(RECORD), record).unwrap();
        let release = |store: &Store| store.find(&spec("7.3")).unwrap().unwrap().release;
        assert_eq!(release(&arm), "7.3.5+deb13-cloud-arm64");
        assert_eq!(release(&store), "7.3.4+deb13-cloud-amd64");
        assert!(matches!(
            arm.get(&Spec::Built, &mut quiet),
            Err(Error::NotBuilt(_))
        ));
    }

    #[test]
    fn debians_and_the_built_6_12_are_told_apart() {
        let (_dir, store) = store();
        add(&store, "6.12.107+deb13-cloud-amd64", None);
        assert!(store.find(&spec("6.12")).unwrap().is_none());
        assert!(store.find(&spec("none")).unwrap().is_some());
        add(&store, "6.12.107-rota", Some(build::config_hash()));
        assert_eq!(
            store.find(&spec("6.12")).unwrap().unwrap().release,
            "6.12.107-rota"
        );
        let stock = store.find(&spec("none")).unwrap().unwrap();
        assert_eq!(stock.release, "6.12.107+deb13-cloud-amd64");
        let series: Vec<_> = store
            .list()
            .unwrap()
            .into_iter()
            .map(|kernel| kernel.series)
            .collect();
        assert_eq!(series, ["none", "6.12"]);
    }

    #[test]
    fn a_build_of_an_old_configuration_does_not_count() {
        let (_dir, store) = store();
        add(&store, "6.12.107-rota", Some("another".into()));
        assert!(store.find(&spec("6.12")).unwrap().is_none());
        add(&store, "6.12.107-rota", Some(build::config_hash()));
        assert!(store.find(&spec("6.12")).unwrap().is_some());
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_image_is_not_used() {
        let (_dir, store) = store();
        let older = add(&store, "6.18.9+deb13-cloud-amd64", None);
        let newer = add(&store, "6.18.15+deb13-cloud-amd64", None);
        let find = || store.find(&spec("6.18")).unwrap();
        assert_eq!(find().as_ref(), Some(&newer));
        let mut bytes = fs::read(&newer.image).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&newer.image, &bytes).unwrap();
        assert_eq!(find().as_ref(), Some(&older));
        fs::remove_file(&older.image).unwrap();
        assert_eq!(find(), None);
        fs::write(newer.image.with_file_name(RECORD), "{").unwrap();
        assert_eq!(find(), None);
        assert_eq!(add(&store, "6.18.15+deb13-cloud-amd64", None), newer);
        assert_eq!(find().as_ref(), Some(&newer));
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let (dir, store) = store();
        let left = dir.path().join("fetch-abc");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("image"), "half").unwrap();
        drop(store.scratch(BUILD_PREFIX).unwrap());
        assert!(left.exists(), "it belongs to another lock");
        drop(store.scratch(FETCH_PREFIX).unwrap());
        assert!(!left.exists());
    }

    #[test]
    fn nothing_half_done_is_left() {
        let (dir, store) = store();
        add(&store, "6.18.15+deb13-cloud-amd64", None);
        let file = store.dir().join("image");
        fs::write(&file, "no kernel at all").unwrap();
        let scratch = store.scratch(FETCH_PREFIX).unwrap();
        store
            .add(&file, scratch.path(), "test".into(), None)
            .unwrap_err();
        drop(scratch);
        fs::remove_file(file).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["kernels"]);
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_beforehand() {
        let dir = tempfile::tempdir().unwrap();
        require_space(dir.path(), 1).unwrap();
        let error = require_space(dir.path(), u64::MAX).unwrap_err();
        assert!(
            matches!(&error, Error::DiskFull { path, .. } if path == dir.path()),
            "{error}"
        );
    }

    #[test]
    fn a_file_is_booted_as_it_is() {
        let (dir, store) = store();
        let file = dir.path().join("bzImage");
        fs::write(&file, image::tests::bzimage("6.19.0-rc1-mine")).unwrap();
        let kernel = store
            .get(&spec(file.to_str().unwrap()), &mut quiet)
            .unwrap();
        assert_eq!(
            (kernel.release.as_str(), kernel.image),
            ("6.19.0-rc1-mine", file)
        );
        assert_eq!(kernel.series, "6.19");
    }
}
