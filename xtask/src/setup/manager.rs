// SPDX-License-Identifier: GPL-2.0-only
//! Package managers: which one this machine has, and the line that installs with each.

use std::fs;

use super::needs::Need;
use super::{apt, unique};

/// A package manager that [`Need`] knows names for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Debian, Ubuntu and their like.
    Apt,
    /// Fedora and its like.
    Dnf,
    /// Arch and its like.
    Pacman,
}

impl Manager {
    /// The package manager of this distribution, as /etc/os-release tells. Programs in the PATH
    /// tell less: Fedora has an apt package, and Debian a dnf one.
    pub fn native() -> Option<Self> {
        of_distribution(&fs::read_to_string("/etc/os-release").ok()?)
    }

    /// The line that installs what `needs` name.
    pub fn line(self, needs: &[&Need]) -> String {
        match self {
            Self::Apt => format!(
                "Debian, Ubuntu:  apt-get update && apt-get install --no-install-recommends {}",
                apt_packages(needs)
            ),
            Self::Dnf => {
                format!(
                    "Fedora:          dnf install {}",
                    unique(needs.iter().flat_map(|n| n.dnf))
                )
            }
            Self::Pacman => {
                let packages = unique(needs.iter().flat_map(|need| need.pacman));
                format!("Arch:            pacman -S --needed {packages}")
            }
        }
    }
}

fn of_distribution(os_release: &str) -> Option<Manager> {
    let ids = os_release.lines().filter_map(|line| {
        line.strip_prefix("ID=")
            .or_else(|| line.strip_prefix("ID_LIKE="))
    });
    ids.flat_map(|ids| ids.trim_matches('"').split(' '))
        .find_map(|id| match id {
            "debian" | "ubuntu" => Some(Manager::Apt),
            "fedora" | "rhel" => Some(Manager::Dnf),
            "arch" => Some(Manager::Pacman),
            _ => None,
        })
}

/// Names for the apt line: from the archive where its lists are here, else the likely ones.
fn apt_packages(needs: &[&Need]) -> String {
    let (chosen, absent) = apt::choose(needs);
    unique(chosen.iter().map(String::as_str).chain(absent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_tells_its_package_manager() {
        let mint = "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        assert_eq!(of_distribution(mint), Some(Manager::Apt));
        assert_eq!(
            of_distribution("ID=debian\nVERSION_CODENAME=bookworm\n"),
            Some(Manager::Apt)
        );
        assert_eq!(
            of_distribution("ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n"),
            Some(Manager::Dnf)
        );
        assert_eq!(of_distribution("ID=arch\n"), Some(Manager::Pacman));
        assert_eq!(of_distribution("ID=nixos\n"), None);
    }
}
