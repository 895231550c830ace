// SPDX-License-Identifier: GPL-2.0-only
//! The named workloads that ship with the program, as TOML files.

/// A workload that ships with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name on the command line; also the `name` in the file.
    pub name: &'static str,
    /// The file's text.
    pub toml: &'static str,
}

/// Declares the workloads: file `workloads/<name>.toml` each.
macro_rules! named {
    ($($name:literal),* $(,)?) => {
        /// All of them, in the order in which a list shows them.
        pub const ALL: &[Named] = &[
            $(Named { name: $name, toml: include_str!(concat!("../workloads/", $name, ".toml")) }),*
        ];
    };
}

named![
    "mixed",
    "hogs",
    "weights",
    "pinned",
    "sleepers",
    "ring",
    "pipe",
    "messaging",
    "fork-storm",
    "exec-storm",
    "affinity-storm",
    "frames",
    "probe",
];

/// The workload called `name`.
pub fn find(name: &str) -> Option<&'static Named> {
    ALL.iter().find(|named| named.name == name)
}

impl Named {
    /// The name used in errors about its text.
    pub fn file(&self) -> String {
        format!("{}.toml", self.name)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: every shipped workload is valid, named as its file, and described.
    use super::*;
    use crate::spec::Workload;

    #[test]
    fn all_are_valid() {
        for named in ALL {
            let workload = Workload::parse(&named.file(), named.toml).unwrap();
            assert_eq!(workload.name, named.name);
            assert!(
                !workload.description.is_empty(),
                "{} lacks a description",
                named.name
            );
            assert_eq!(find(named.name), Some(named));
            // On a machine of any usual size, too.
            assert!(
                workload.tasks(1024) <= u64::from(crate::spec::TASKS_MAX),
                "{}",
                named.name
            );
        }
    }
}
