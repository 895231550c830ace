// SPDX-License-Identifier: GPL-2.0-only
//! What keeps a scheduler from running, and the exit code each cause has.

use std::path::PathBuf;

use crate::config::ConfigError;

/// Exit code: stopped on request.
pub const EXIT_OK: u8 = 0;
/// Exit code: ejected by the kernel or by the policy, or failed while running.
pub const EXIT_EJECTED: u8 = 1;
/// Exit code: bad usage or a bad configuration file.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: this machine or kernel cannot run the scheduler.
pub const EXIT_UNABLE: u8 = 3;
/// Exit code: another scheduler is running.
pub const EXIT_BUSY: u8 = 4;
/// Exit code: gave up after repeated ejections.
pub const EXIT_GAVE_UP: u8 = 5;

/// A cause for which the scheduler does not start, or does not start again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line is wrong, or asks for help.
    #[error("{}", usage_line(.0))]
    Usage(#[from] clap::Error),

    /// The configuration file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The policy refuses its options on this machine.
    #[error("{0:#}")]
    Options(anyhow::Error),

    /// The kernel has no sched_ext.
    #[error(
        "Linux {release} has no sched_ext: Linux 6.12 or newer built with \
         CONFIG_SCHED_CLASS_EXT=y is needed"
    )]
    NoSchedExt {
        /// The running kernel.
        release: String,
    },

    /// The process lacks a privilege that loading or attaching needs.
    #[error("not permitted to load a scheduler: {missing}")]
    NotPermitted {
        /// What is missing, and what gives it.
        missing: String,
    },

    /// The kernel does not describe its types.
    #[error(
        "Linux {release} has no usable BTF in {path} ({problem}): a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y is needed"
    )]
    NoBtf {
        /// The running kernel.
        release: String,
        /// Where the kernel's types were looked for.
        path: PathBuf,
        /// Why they cannot be used.
        problem: String,
    },

    /// The kernel's BTF misses the prototypes of kfuncs that the kernel has.
    #[error(
        "damaged BTF: Linux {release} lost the prototypes of {lost} sched_ext kfuncs, {} of which \
         {policy} calls ({}), so it cannot load: boot a kernel built with pahole 1.26 or newer",
        kfuncs.len(),
        abbreviated(kfuncs)
    )]
    DamagedBtf {
        /// The running kernel.
        release: String,
        /// The policy that calls some of them.
        policy: String,
        /// How many kfuncs of sched_ext are damaged.
        lost: usize,
        /// Those of them that the policy calls.
        kfuncs: Vec<String>,
    },

    /// The kernel lacks a function that the policy calls.
    #[error("Linux {release} has no kfunc {kfunc}, which {policy} needs: Linux {since} is needed")]
    MissingKfunc {
        /// The running kernel.
        release: String,
        /// The policy that needs it.
        policy: String,
        /// The function, or the alternatives of which one is needed.
        kfunc: String,
        /// The kernels that have it.
        since: String,
    },

    /// The kernel lacks an option of sched_ext that was asked for.
    #[error("Linux {release} has no {flag}, which {option} needs")]
    MissingFlag {
        /// The running kernel.
        release: String,
        /// The flag of `struct sched_ext_ops`.
        flag: String,
        /// The option of the command line that needs it.
        option: String,
    },

    /// CPUs are taken from the scheduler at boot.
    #[error(
        "the kernel was booted with isolcpus= (CPUs {cpus} are isolated), which sched_ext refuses: \
         remove it from the kernel command line, or isolate with a cpuset partition"
    )]
    IsolatedCpus {
        /// The isolated CPUs as a list.
        cpus: String,
    },

    /// The kernel is a real-time one that refuses sched_ext.
    #[error("Linux {release} is a PREEMPT_RT kernel, which refuses sched_ext: boot another one")]
    RealTimeKernel {
        /// The running kernel.
        release: String,
    },

    /// The machine is larger than the tables that policies share.
    #[error("this machine has {what}, the limit is {limit}")]
    TooLarge {
        /// What there is too much of, with its number.
        what: String,
        /// How much fits.
        limit: usize,
    },

    /// The CPUs of the machine cannot be found out.
    #[error("cannot tell the CPUs of this machine: {0}")]
    Topology(String),

    /// The verifier of the kernel rejects the policy.
    #[error("Linux {release} rejects {program}; the verifier's last lines:\n{}", lines.join("\n"))]
    Verifier {
        /// The running kernel.
        release: String,
        /// The program it rejects.
        program: String,
        /// The last lines of its log.
        lines: Vec<String>,
    },

    /// Another scheduler is attached.
    #[error(
        "another sched_ext scheduler is running: {name}; stop it first, only one can be attached"
    )]
    AlreadyRunning {
        /// Its name, from `/sys/kernel/sched_ext/root/ops`.
        name: String,
    },

    /// A phase between opening and attaching failed.
    #[error("cannot {phase}: {cause}")]
    Load {
        /// The phase, as a verb with its object.
        phase: &'static str,
        /// The cause in words.
        cause: String,
    },

    /// The scheduler was ejected too often.
    #[error(
        "gave up after {restarts} restarts in {minutes} minutes: the kernel's own scheduler runs"
    )]
    GaveUp {
        /// The number of restarts.
        restarts: usize,
        /// The time they are counted over.
        minutes: u64,
    },

    /// The operating system refuses something that should always work.
    #[error("cannot {action}: {source}")]
    System {
        /// What was to be done.
        action: String,
        /// Why it cannot.
        source: std::io::Error,
    },

    /// No scheduler that `--monitor` could ask.
    #[error("cannot monitor: {0}")]
    Monitor(String),
}

impl Error {
    /// The exit code of a scheduler that ends for this cause.
    pub fn exit_code(&self) -> u8 {
        match self {
            // Help and version are asked for in the same way as a mistake is told.
            Error::Usage(error) => u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE),
            Error::Config(_) | Error::Options(_) => EXIT_USAGE,
            Error::NoSchedExt { .. }
            | Error::NotPermitted { .. }
            | Error::NoBtf { .. }
            | Error::DamagedBtf { .. }
            | Error::MissingKfunc { .. }
            | Error::MissingFlag { .. }
            | Error::IsolatedCpus { .. }
            | Error::RealTimeKernel { .. }
            | Error::TooLarge { .. }
            | Error::Topology(_)
            | Error::Verifier { .. } => EXIT_UNABLE,
            Error::AlreadyRunning { .. } => EXIT_BUSY,
            Error::GaveUp { .. } => EXIT_GAVE_UP,
            Error::Load { .. } | Error::System { .. } | Error::Monitor(_) => EXIT_EJECTED,
        }
    }
}

/// A list for one line: the first four names and the number of the rest.
fn abbreviated(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut list = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        list += &format!(" and {} more", names.len() - SHOWN);
    }
    list
}

/// What clap says of a mistake in several lines, in one.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.split("\nUsage:").next().unwrap_or_default();
    let text = text
        .split("\nFor more information")
        .next()
        .unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join("; ");
    format!("{} (see --help)", line.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_counted() {
        let names: Vec<String> = (0..6).map(|i| format!("f{i}")).collect();
        assert_eq!(abbreviated(&names), "f0, f1, f2, f3 and 2 more");
        assert_eq!(abbreviated(&names[..2]), "f0, f1");
    }

    #[test]
    fn every_class_of_cause_has_its_exit_code() {
        let busy = Error::AlreadyRunning {
            name: "other_1.0".into(),
        };
        assert_eq!(busy.exit_code(), EXIT_BUSY);
        assert!(busy.to_string().contains("other_1.0"));
        assert_eq!(
            Error::NoSchedExt {
                release: "6.1".into()
            }
            .exit_code(),
            EXIT_UNABLE
        );
        assert_eq!(
            Error::GaveUp {
                restarts: 3,
                minutes: 5
            }
            .exit_code(),
            EXIT_GAVE_UP
        );
        assert_eq!(Error::Options(anyhow::anyhow!("x")).exit_code(), EXIT_USAGE);
    }
}
