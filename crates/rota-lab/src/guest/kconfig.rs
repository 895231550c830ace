// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's configuration for schedulers from elsewhere.
//!
//! libbpf fills a program's `extern ... __kconfig` from `/boot/config-<release>` or
//! `/proc/config.gz`. Debian's kernels have no such file inside, and their images come without the
//! other; so what the running kernel itself gives away is written down here.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};

use nix::sys::utsname::uname;

const SYMBOLS: &str = "/proc/kallsyms";

/// Options, and the function that is in the kernel exactly if it was built with the option.
const OPTIONS: [(&str, &str); 1] = [("CONFIG_PREEMPT_RCU", "__rcu_read_lock")];

/// Writes the file.
pub fn write() -> io::Result<()> {
    let release = uname()?.release().to_string_lossy().into_owned();
    let symbols = BufReader::new(File::open(SYMBOLS)?).lines();
    let symbols = symbols.map_while(Result::ok);
    fs::create_dir_all("/boot")?;
    fs::write(format!("/boot/config-{release}"), config(symbols))
}

fn config(symbols: impl Iterator<Item = String>) -> String {
    let mut found = [false; OPTIONS.len()];
    for line in symbols {
        let name = line.split_whitespace().nth(2);
        for (found, (_, function)) in found.iter_mut().zip(OPTIONS) {
            *found |= name == Some(function);
        }
    }
    let lines = OPTIONS.iter().zip(found).map(|((option, _), found)| {
        if found {
            format!("{option}=y\n")
        } else {
            format!("# {option} is not set\n")
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_set_if_its_function_is_there() {
        let symbols = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            config(lines.into_iter())
        };
        let with = symbols(&["ff00 T _text", "ff01 T __rcu_read_lock", "ff02 t x [bpf]"]);
        assert_eq!(with, "CONFIG_PREEMPT_RCU=y\n");
        let without = symbols(&["ff01 T __rcu_read_lock_nesting"]);
        assert_eq!(without, "# CONFIG_PREEMPT_RCU is not set\n");
    }
}
