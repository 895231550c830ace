// SPDX-License-Identifier: GPL-2.0-only
//! How often the callbacks of a scheduler are called, and how long they take.

use std::collections::BTreeMap;
use std::fs;

use nix::unistd::Pid;

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const SYMBOLS: &str = "/proc/kallsyms";

/// How often a callback was called, and how long it ran in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How often.
    pub calls: u64,
    /// In a guest whose time counts instructions, and with one CPU online, these are its instructions.
    pub ns: u64,
}

impl Runs {
    /// The mean of a call.
    pub fn each(self) -> f64 {
        self.ns as f64 / self.calls as f64
    }
}

/// Looks at the callbacks of schedulers, and keeps their names: the kernel takes as long to list its
/// symbols as to start a scheduler.
#[derive(Debug, Default)]
pub struct Callbacks {
    /// Names by tag.
    names: BTreeMap<String, String>,
}

impl Callbacks {
    /// Does `work`, and tells what it gave and which callbacks of the scheduler in process `pid` were
    /// called meanwhile, by name.
    pub fn during<T, E: From<String>>(
        &mut self,
        pid: Pid,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<(T, BTreeMap<String, Runs>), E> {
        let switch = |on| fs::write(BPF_STATS, on).map_err(|error| format!("{BPF_STATS}: {error}"));
        switch("1")?;
        let before = programs(pid)?;
        let done = work()?;
        let after = programs(pid)?;
        switch("0")?;
        let mut found = BTreeMap::new();
        for (tag, after) in after {
            let before = before.get(&tag).copied().unwrap_or_default();
            let runs = Runs {
                calls: after.calls - before.calls,
                ns: after.ns - before.ns,
            };
            if runs.calls > 0 {
                found.insert(self.name(&tag)?, runs);
            }
        }
        Ok((done, found))
    }

    fn name(&mut self, tag: &str) -> Result<String, String> {
        if !self.names.contains_key(tag) {
            let symbols = fs::read_to_string(SYMBOLS);
            let symbols = symbols.map_err(|error| format!("{SYMBOLS}: {error}"))?;
            self.names.extend(names(&symbols));
        }
        let name = self.names.get(tag).cloned();
        name.ok_or_else(|| format!("BPF program {tag} is lost"))
    }
}

/// The BPF programs that the process `pid` holds, by tag.
fn programs(pid: Pid) -> Result<BTreeMap<String, Runs>, String> {
    let dir = format!("/proc/{pid}/fdinfo");
    let files = fs::read_dir(&dir).map_err(|error| format!("{dir}: {error}"))?;
    let texts = files
        .flatten()
        .filter_map(|file| fs::read_to_string(file.path()).ok());
    Ok(texts.filter_map(|text| program(&text)).collect())
}

fn program(fdinfo: &str) -> Option<(String, Runs)> {
    let field = |name: &str| {
        let mut lines = fdinfo.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let runs = Runs {
        calls: field("run_cnt")?.parse().ok()?,
        ns: field("run_time_ns")?.parse().ok()?,
    };
    Some((field("prog_tag")?.to_owned(), runs))
}

/// The names of programs by their tags, without the policy's: `enqueue` for `vtime_enqueue`. The kernel
/// lists the code of that one as `bpf_prog_<tag>_vtime_enqueue`.
fn names(symbols: &str) -> impl Iterator<Item = (String, String)> {
    symbols.split(" bpf_prog_").skip(1).filter_map(|text| {
        let (tag, name) = text.split_whitespace().next()?.split_once('_')?;
        let op = name.split_once('_').map_or(name, |(_, op)| op);
        Some((tag.to_owned(), op.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_from_other_files() {
        let text = "pos:\t0\nprog_type:\t27\nprog_tag:\tbd23\nrun_time_ns:\t900\nrun_cnt:\t3\n";
        let runs = Runs { calls: 3, ns: 900 };
        assert_eq!(program(text), Some(("bd23".to_owned(), runs)));
        assert_eq!(program("pos:\t0\nmap_type:\t2\n"), None);
    }

    #[test]
    fn a_tag_leads_to_the_name_of_the_callback() {
        let symbols = "ffffffff81 T bpf_prog_put\n\
                       ffffffff82 t do_check\n\
                       ffffffffc0 t bpf_prog_bd23_vtime_update_idle\t[bpf]\n\
                       ffffffffc1 t bpf_prog_0c1d_vtime_enqueue\t[bpf]\n\
                       ffffffffc2 t bpf_prog_77aa_init\t[bpf]\n";
        let found: BTreeMap<_, _> = names(symbols).collect();
        let of = |tag: &str| found.get(tag).map(String::as_str);
        assert_eq!(of("bd23"), Some("update_idle"));
        assert_eq!(of("0c1d"), Some("enqueue"));
        assert_eq!(of("77aa"), Some("init"));
        assert_eq!(of("ffff"), None);
    }
}
