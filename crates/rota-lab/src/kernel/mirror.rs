// SPDX-License-Identifier: GPL-2.0-only
//! Which mirror of Debian's archive this machine uses.
//!
//! No mirror is named here. `$ROTA_DEBIAN_MIRROR` has the first word, then the machine's apt sources
//! as apt itself reads them, then what a distribution that is not Debian knows about Debian.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use super::program;
use crate::error::{Error, IoContext as _, Result};

/// The variable that names a mirror.
const VARIABLE: &str = "ROTA_DEBIAN_MIRROR";

/// Files with which distributions tell their tools where Debian's archive is.
const HINTS: [&str; 3] = [
    "/usr/share/python-apt/templates/Debian.info",
    "/usr/sbin/debootstrap",
    "/usr/share/debootstrap/scripts/sid",
];

/// The URL of the mirror, without a slash at its end.
pub fn find() -> Result<String> {
    if let Some(named) = std::env::var(VARIABLE)
        .ok()
        .filter(|named| !named.is_empty())
    {
        return Ok(named.trim_end_matches('/').to_owned());
    }
    let hint = || {
        HINTS
            .iter()
            .find_map(|file| hint_in(&fs::read_to_string(file).ok()?))
    };
    in_sources(&sources()?).or_else(hint).ok_or(Error::NoMirror)
}

/// The files that `apt-get update` would fetch, had it fetched nothing yet.
fn sources() -> Result<String> {
    let lists = tempfile::tempdir().at("creating", std::env::temp_dir())?;
    let mut command = Command::new("apt-get");
    command.args(["update", "--print-uris", "-o"]);
    command.arg(format!("Dir::State::Lists={}", lists.path().display()));
    program::output(&mut command)
}

/// Debian's archive among the sources in the words of `apt-get update --print-uris`.
fn in_sources(uris: &str) -> Option<String> {
    let mut suites: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in uris.lines() {
        let Some(uri) = line
            .strip_prefix('\'')
            .and_then(|rest| rest.split('\'').next())
        else {
            continue;
        };
        let Some((base, rest)) = uri.split_once("/dists/") else {
            continue;
        };
        // Others keep repositories for Debian under such names too, but not with this component.
        if let Some((suite, _)) = rest.split_once("/main/binary-") {
            suites
                .entry(base.trim_end_matches('/'))
                .or_default()
                .insert(suite);
        }
    }
    let updated = |suites: &BTreeSet<&str>| {
        suites
            .iter()
            .any(|suite| suites.contains(format!("{suite}-updates").as_str()))
    };
    let named = |base: &str| base.ends_with("/debian") || base.ends_with("/debian.list");
    let score = |base: &str, suites| (named(base), updated(suites));
    let best = suites
        .iter()
        .max_by_key(|(base, suites)| score(base, suites))?;
    // Ubuntu's archive has updates as well, so the name decides.
    named(best.0).then(|| (*best.0).to_owned())
}

/// The first URL in `text` that looks like Debian's archive.
fn hint_in(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || "\"'=".contains(c));
    let url = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
    let mut urls = words.filter(url).map(|word| word.trim_end_matches('/'));
    urls.find(|url| url.ends_with("/debian")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "\
'http://mirror.example/debian/dists/bookworm/InRelease' a 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' a 0
'http://mirror.example/debian/dists/bookworm-updates/main/binary-amd64/Packages.xz' b 0
'http://mirror.example/debian-security/dists/bookworm-security/main/binary-amd64/Packages.xz' c 0
'https://other.example/linux/debian/dists/bookworm/stable/binary-amd64/Packages.xz' d 0
'https://third.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' e 0
";

    #[test]
    fn the_archive_is_found_among_other_repositories() {
        assert_eq!(
            in_sources(DEBIAN).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn a_mirror_list_of_a_cloud_image_is_understood() {
        let uris = "'mirror+file:/etc/apt/mirrors/debian.list/dists/trixie/main/binary-amd64/Packages.xz' x 0
'mirror+file:/etc/apt/mirrors/debian-security.list/dists/trixie-security/main/binary-amd64/Packages.xz' y 0";
        assert_eq!(
            in_sources(uris).as_deref(),
            Some("mirror+file:/etc/apt/mirrors/debian.list")
        );
    }

    #[test]
    fn another_distribution_is_not_taken_for_debian() {
        let uris = "'http://archive.example/ubuntu/dists/noble/main/binary-amd64/Packages.xz' x 0
'http://archive.example/ubuntu/dists/noble-updates/main/binary-amd64/Packages.xz' x 0";
        assert_eq!(in_sources(uris), None);
        assert_eq!(in_sources(""), None);
    }

    #[test]
    fn hints_of_other_distributions_are_read() {
        let template = "Suite: sid\nBaseURI: http://archive.example/ubuntu\n\
            BaseURI: https://mirror.example/debian/\n";
        assert_eq!(
            hint_in(template).as_deref(),
            Some("https://mirror.example/debian")
        );
        let script = "DEF_MIRROR=\"http://mirror.example/debian\"\nX=http://x.example/debian-ports";
        assert_eq!(
            hint_in(script).as_deref(),
            Some("http://mirror.example/debian")
        );
        assert_eq!(hint_in("https://mirror.example/debian-security"), None);
    }
}
