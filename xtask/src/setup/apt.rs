// SPDX-License-Identifier: GPL-2.0-only
//! Installs packages with apt-get, with a bar, as root or through sudo.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use super::needs::Need;
use super::probe;
use crate::step;
use crate::ui::{self, Task};

/// How often a lock that another apt holds is tried again, once per `LOCK_PAUSE`.
const LOCK_TRIES: u32 = 60;
const LOCK_PAUSE: Duration = Duration::from_secs(5);

/// Packages for `needs`: of each list of alternatives the first that the archive offers. Where it
/// offers none, because there is none or no list of packages yet, the last one is in the second
/// list.
pub fn choose(needs: &[&Need]) -> (Vec<String>, Vec<&'static str>) {
    let wanted: Vec<&[&str]> = needs
        .iter()
        .flat_map(|need| need.apt.iter().copied())
        .collect();
    let offered = offered(wanted.iter().copied().flatten().copied());
    let mut chosen = Vec::new();
    let mut absent = Vec::new();
    for alternatives in wanted {
        match alternatives.iter().find(|name| offered.contains(**name)) {
            Some(name) if chosen.iter().any(|other| other == name) => {}
            Some(name) => chosen.push((*name).to_owned()),
            None => absent.extend(alternatives.last()),
        }
    }
    (chosen, absent)
}

/// Those of `names` that the package lists on this machine can install.
fn offered<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let output = Command::new("apt-cache")
        .env("LC_ALL", "C")
        .arg("policy")
        .args(names)
        .output();
    output.map_or_else(
        |_| BTreeSet::new(),
        |o| with_candidate(&String::from_utf8_lossy(&o.stdout)),
    )
}

fn with_candidate(policy: &str) -> BTreeSet<String> {
    let mut name = "";
    let mut offered = BTreeSet::new();
    for line in policy.lines() {
        if let Some(package) = line.strip_suffix(':').filter(|p| !p.starts_with(' ')) {
            name = package;
        } else if line
            .trim_start()
            .strip_prefix("Candidate: ")
            .is_some_and(|v| v != "(none)")
        {
            offered.insert(name.to_owned());
        }
    }
    offered
}

/// Whether apt-get can run here with the right to install.
pub fn obtain_right() -> Result<()> {
    if Uid::effective().is_root() {
        return Ok(());
    }
    if probe::in_path("sudo").is_none() {
        bail!("not root, and there is no sudo");
    }
    let mut sudo = Command::new("sudo");
    if io::stdin().is_terminal() {
        ui::note("installing packages needs root:");
        sudo.arg("-v");
    } else {
        sudo.args(["-n", "true"]).stderr(Stdio::null());
    }
    match sudo.status() {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("not root, and sudo does not let us"),
    }
}

/// Refreshes the package lists.
pub fn update() -> Result<()> {
    let task = ui::bar("updating the package lists", 100);
    patiently(&["update"], &task)?;
    task.done("");
    Ok(())
}

/// Installs `packages`.
pub fn install(packages: &[String]) -> Result<()> {
    let task = ui::bar(format!("installing {}", packages.join(" ")), 100);
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages.iter().map(String::as_str));
    patiently(&args, &task)?;
    task.done("");
    Ok(())
}

/// Runs apt-get, and waits while another one holds the lock.
fn patiently(args: &[&str], task: &Task) -> Result<()> {
    for _ in 1..LOCK_TRIES {
        match apt_get(args, task) {
            Err(error) if error.to_string().contains("Could not get lock") => {
                task.say("waiting for another apt to finish");
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
    apt_get(args, task)
}

fn apt_get(args: &[&str], task: &Task) -> Result<()> {
    let mut child = command()
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running apt-get")?;
    let stderr = child.stderr.take().expect("stderr is piped");
    let errors = thread::spawn(move || step::lines(stderr, |_| {}));
    let stdout = child.stdout.take().expect("stdout is piped");
    let told = step::lines(stdout, |line| {
        if let Some((percent, text)) = progress(line) {
            task.reach(percent);
            task.say(text);
        }
    });
    let status = child.wait().context("waiting for apt-get")?;
    if status.success() {
        return Ok(());
    }
    let errors = errors.join().unwrap_or_default();
    bail!("apt-get {}: {}", args[0], reason(&told, &errors))
}

fn command() -> Command {
    const QUIET: [&str; 2] = ["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"];
    // apt closes the descriptor of its status before it runs dpkg, so stdout itself will not do:
    // package scripts that print something would fail.
    const SCRIPT: &str = "exec apt-get -qq -o Dpkg::Use-Pty=0 -o APT::Status-Fd=3 \"$@\" 3>&1 1>&2";
    let mut command = Command::new(if Uid::effective().is_root() {
        "env"
    } else {
        "sudo"
    });
    command.args(QUIET).args(["sh", "-c", SCRIPT, "apt-get"]);
    command
}

/// What a user needs to know of apt's complaints: its first `E:` line, and what dpkg said when it
/// was dpkg that failed.
fn reason(stdout: &[String], stderr: &[String]) -> String {
    let of_dpkg = |line: &&String| line.starts_with("pmerror:") || line.starts_with("dpkg: error");
    let dpkg = stdout.iter().chain(stderr).find(of_dpkg);
    let apt = stderr
        .iter()
        .find(|line| line.starts_with("E: "))
        .or(stderr.last());
    let lines = [apt, dpkg].into_iter().flatten().map(String::as_str);
    lines.collect::<Vec<_>>().join("; ")
}

/// Reads a line of APT::Status-Fd: `dlstatus:1:42.5:Retrieving file 1 of 3`.
fn progress(line: &str) -> Option<(u64, &str)> {
    let rest = line
        .strip_prefix("dlstatus:")
        .or_else(|| line.strip_prefix("pmstatus:"))?;
    let mut fields = rest.splitn(3, ':');
    let percent: f64 = fields.nth(1)?.parse().ok()?;
    Some((percent as u64, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_lists_only_packages_with_a_candidate() {
        let policy = "clang-19:\n  Installed: (none)\n  Candidate: 1:19.1.7\n  Version table:\n\
            libzstd-dev:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(
            with_candidate(policy),
            BTreeSet::from(["clang-19".to_owned()])
        );
    }

    #[test]
    fn status_lines_give_percent_and_text() {
        let line = "dlstatus:1:42.5:Retrieving file 1 of 3 (2s remaining)";
        assert_eq!(
            progress(line),
            Some((42, "Retrieving file 1 of 3 (2s remaining)"))
        );
        assert_eq!(
            progress("pmstatus:make:50.0:Unpacking make (amd64)"),
            Some((50, "Unpacking make (amd64)"))
        );
        assert_eq!(
            progress("Selecting previously unselected package make."),
            None
        );
    }

    #[test]
    fn the_first_apt_error_is_reported_with_that_of_dpkg() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let stderr = lines("W: old list\nE: Unable to locate package nonesuch\nE: second");
        assert_eq!(reason(&[], &stderr), "E: Unable to locate package nonesuch");
        let stdout = lines("dlstatus:1:9:x\npmerror:make:50:post-installation script failed");
        let stderr = lines("E: Sub-process /usr/bin/dpkg returned an error code (1)");
        let expected = "E: Sub-process /usr/bin/dpkg returned an error code (1); \
            pmerror:make:50:post-installation script failed";
        assert_eq!(reason(&stdout, &stderr), expected);
        assert_eq!(reason(&[], &lines("dpkg: warning: x")), "dpkg: warning: x");
    }
}
