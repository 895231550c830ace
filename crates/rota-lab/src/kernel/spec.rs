// SPDX-License-Identifier: GPL-2.0-only
//! How kernels are named, by users and by Debian.

use std::cmp::Ordering;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::error::Error;

/// The flavour that is fetched, before the architecture: small, without hardware drivers,
/// everything for guests built in.
const FLAVOUR: &str = "-cloud-";
/// The series that Debian ships without sched_ext and that is therefore built.
pub(super) const BUILT: (u32, u32) = (6, 12);

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Spec {
    /// `6.18`: the newest release of this series.
    Series(u32, u32),
    /// `7.2.12` or `7.2.12+deb14`: this release.
    Release(String),
    /// `6.12`: built from source with sched_ext switched on.
    Built,
    /// `none`: Debian's stable kernel, which has no sched_ext.
    WithoutSchedExt,
    /// A bzImage.
    File(PathBuf),
}

impl Spec {
    /// Whether Debian's kernel `release` is one of those asked for.
    pub(super) fn matches(&self, release: &Release) -> bool {
        match self {
            Self::Series(major, minor) => release.number[..2] == [*major, *minor],
            Self::Release(wanted) => release.is(wanted),
            Self::WithoutSchedExt => release.number[..2] == [BUILT.0, BUILT.1],
            Self::Built | Self::File(_) => false,
        }
    }
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        let bad = || Error::BadKernel {
            given: given.into(),
        };
        if given == "none" {
            return Ok(Self::WithoutSchedExt);
        }
        if given.contains('/') {
            return Ok(Self::File(given.into()));
        }
        let release: Release = given.parse().map_err(|_| bad())?;
        match (release.parts, release.number, release.rest.as_str()) {
            (2, [major, minor, _], "") if (major, minor) == BUILT => Ok(Self::Built),
            (2, [major, minor, _], "") => Ok(Self::Series(major, minor)),
            (3, ..) => Ok(Self::Release(given.into())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Series(major, minor) => write!(f, "{major}.{minor}"),
            Self::Release(release) => f.write_str(release),
            Self::Built => write!(f, "{}.{}", BUILT.0, BUILT.1),
            Self::WithoutSchedExt => f.write_str("none"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What `uname -r` says, in an order that puts the newer after the older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Release {
    number: [u32; 3],
    parts: usize,
    rest: String,
}

impl Release {
    /// `6.18`
    pub fn series(&self) -> String {
        format!("{}.{}", self.number[0], self.number[1])
    }

    /// `6.18.15`, without Debian's additions.
    pub(super) fn number(&self) -> String {
        self.number[..self.parts]
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(".")
    }

    /// Whether `wanted` names this release, with or without Debian's additions.
    pub(super) fn is(&self, wanted: &str) -> bool {
        let whole = self.to_string();
        let Some(rest) = whole.strip_prefix(wanted) else {
            return false;
        };
        let flavour = || rest.strip_prefix(FLAVOUR) == Some(self.arch().debian());
        rest.is_empty() || rest.starts_with(['+', '-']) && !wanted.contains('+') || flavour()
    }

    /// The architecture that it is for.
    pub(super) fn arch(&self) -> Arch {
        Arch::of_release(&self.rest)
    }

    /// Orders by which is taken when both match: the higher number; of one number the build for
    /// the oldest Debian, because that is the one users of backports meet.
    pub(super) fn preference(&self, other: &Self) -> Ordering {
        self.number
            .cmp(&other.number)
            .then_with(|| other.rest.cmp(&self.rest))
    }

    /// The release that the package `name` holds, if it holds a kernel image for `arch` at all, and
    /// whether this is the kind of package with nothing but the image.
    pub(super) fn of_package(name: &str, arch: Arch) -> Option<(Self, bool)> {
        let (release, only_image) = match name.strip_prefix("linux-binary-") {
            Some(release) => (release, true),
            None => (name.strip_prefix("linux-image-")?, false),
        };
        let release: Self = release.parse().ok()?;
        let flavour = release.rest.strip_suffix(arch.debian());
        let ours = release.parts == 3 && flavour.is_some_and(|rest| rest.ends_with(FLAVOUR));
        ours.then_some((release, only_image))
    }
}

impl FromStr for Release {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        let end = given
            .find(|c: char| c != '.' && !c.is_ascii_digit())
            .unwrap_or(given.len());
        let (version, rest) = given.split_at(end);
        let mut number = [0; 3];
        let mut parts = 0;
        for word in version.split('.') {
            let slot = number.get_mut(parts);
            match (slot, word.parse()) {
                (Some(slot), Ok(value)) => *slot = value,
                _ => {
                    return Err(Error::BadKernel {
                        given: given.into(),
                    });
                }
            }
            parts += 1;
        }
        if parts < 2 || !(rest.is_empty() || rest.starts_with(['+', '-', '~'])) {
            return Err(Error::BadKernel {
                given: given.into(),
            });
        }
        Ok(Self {
            number,
            parts,
            rest: rest.into(),
        })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number(), self.rest)
    }
}

impl TryFrom<String> for Release {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Release> for String {
    fn from(release: Release) -> Self {
        release.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_and_printed_back() {
        let table = [
            ("6.18", Spec::Series(6, 18)),
            ("6.12", Spec::Built),
            ("7.2.12", Spec::Release("7.2.12".into())),
            ("7.2.12+deb14", Spec::Release("7.2.12+deb14".into())),
            ("none", Spec::WithoutSchedExt),
            ("./bzImage", Spec::File("./bzImage".into())),
        ];
        for (text, spec) in table {
            assert_eq!(text.parse::<Spec>().unwrap(), spec);
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "", "6", "six", "6.", "6.18.", "6.18.1.2", "v6.18", "6.18-rc1", "6.18 ", "-1.2",
        ] {
            let message = text.parse::<Spec>().unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("kernel `{text}` is neither a series")),
                "{message}"
            );
        }
    }

    #[test]
    fn releases_match_with_and_without_debians_additions() {
        let release: Release = "7.2.12+deb13-cloud-amd64".parse().unwrap();
        for name in ["7.2.12", "7.2.12+deb13", "7.2.12+deb13-cloud-amd64"] {
            assert!(release.is(name), "{name}");
        }
        for name in [
            "7.2",
            "7.2.1",
            "7.2.12+deb14",
            "7.2.12+deb1",
            "7.2.12+deb13-cloud",
        ] {
            assert!(!release.is(name), "{name}");
        }
    }

    #[test]
    fn a_release_is_for_one_architecture() {
        let release = |text: &str| text.parse::<Release>().unwrap();
        let arm = release("7.3.4+deb13-cloud-arm64");
        assert_eq!(arm.arch(), Arch::Arm64);
        assert!(arm.is("7.3.4+deb13") && !arm.is("7.3.4+deb13-cloud-amd64"));
        assert_eq!(release("6.12.107-rota").arch(), Arch::X86_64);
    }

    #[test]
    fn newer_releases_are_preferred_and_of_equals_the_backport() {
        let names = [
            "7.2.9+deb13-c",
            "7.2.12+deb14-c",
            "7.2.12+deb13-c",
            "7.2.11+deb13-c",
        ];
        let releases = names.map(|name| name.parse::<Release>().unwrap());
        let best = releases.iter().max_by(|a, b| a.preference(b)).unwrap();
        assert_eq!(best.to_string(), "7.2.12+deb13-c");
    }

    #[test]
    fn kernel_packages_are_told_from_their_relatives() {
        let of =
            |name, arch| Release::of_package(name, arch).map(|(r, only)| (r.to_string(), only));
        let kernel = |name| of(name, Arch::X86_64);
        let arm = "linux-binary-7.3.4+deb13-cloud-arm64";
        let release = "7.3.4+deb13-cloud-arm64".to_owned();
        assert_eq!(of(arm, Arch::Arm64), Some((release, true)));
        assert_eq!(of("linux-image-6.18.15+deb13-arm64", Arch::Arm64), None);
        assert_eq!(
            kernel("linux-image-6.18.15+deb13-cloud-amd64"),
            Some(("6.18.15+deb13-cloud-amd64".into(), false))
        );
        assert_eq!(
            kernel("linux-binary-7.3.4+deb13-cloud-amd64"),
            Some(("7.3.4+deb13-cloud-amd64".into(), true))
        );
        for name in [
            arm,
            "linux-image-cloud-amd64",
            "linux-image-6.18.15+deb13-amd64",
            "linux-image-6.18.15+deb13-cloud-amd64-dbg",
            "linux-image-6.18.15+deb13-cloud-amd64-unsigned",
            "linux-headers-6.18.15+deb13-cloud-amd64",
        ] {
            assert_eq!(kernel(name), None, "{name}");
        }
    }
}
