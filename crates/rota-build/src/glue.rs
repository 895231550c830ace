// SPDX-License-Identifier: GPL-2.0-only
//! Writes `$OUT_DIR/policy.rs`.
//!
//! Only names and the counters vary between policies, so only they are
//! generated; what is done with them is the macro `rota_core::policy_glue!`.

use std::fmt::Write;
use std::path::Path;

use crate::counters::Counter;

/// The text of `policy.rs` for the policy `name`.
pub fn policy_rs(name: &str, object: &Path, skeleton: &Path, counters: &[Counter]) -> String {
    let camel = camel_case(name);
    let mut fields = String::new();
    let mut rows = String::new();
    let mut reads = String::new();
    for (index, Counter { name, description }) in counters.iter().enumerate() {
        writeln!(
            fields,
            "    /// {description}.\n    #[stat(desc = {description:?})]\n    pub {name}: u64,"
        )
        .expect("a String takes any text");
        writeln!(
            rows,
            "    Counter {{ name: {name:?}, description: {description:?} }},"
        )
        .expect("a String takes any text");
        writeln!(reads, "            {name}: totals[{index}],").expect("a String takes any text");
    }
    format!(
        r#"// Written by rota-build from src/bpf/{name}.bpf.c and src/bpf/intf.h.

#[allow(missing_docs, unused, clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]
#[allow(clippy::unwrap_used, unsafe_op_in_unsafe_fn, unused_qualifications)]
mod skeleton {{
    include!({skeleton:?});
}}
pub use skeleton::{{Open{camel}Skel as Open, {camel}Skel as Loaded, types}};

use rota_core::skeleton::Counter;
use scx_stats_derive::Stats;

/// The counters of this policy, in the order of the object's own list.
pub const COUNTERS: &[Counter] = &[
{rows}];

/// The totals of the counters over all CPUs since the policy was attached.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize, Stats)]
#[stat(top, desc = "counters of scx_{name} since it was attached", _om_prefix = "scx_{name}_")]
pub struct Metrics {{
{fields}}}

impl From<Vec<u64>> for Metrics {{
    fn from(totals: Vec<u64>) -> Self {{
        Self {{
{reads}        }}
    }}
}}

rota_core::policy_glue!(
    policy: {name:?},
    object: {object:?},
    builder: skeleton::{camel}SkelBuilder,
    ops: {name}_ops,
    ops_mut: {name}_ops_mut,
);
"#,
        skeleton = skeleton.display().to_string(),
        object = object.display().to_string(),
    )
}

/// libbpf-cargo's name for the skeleton of `name`: words joined, each with a capital.
fn camel_case(name: &str) -> String {
    name.split('_')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_uppercase().chain(letters).collect::<String>()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn camel_case_joins_words() {
        assert_eq!(camel_case("vtime"), "Vtime");
        assert_eq!(camel_case("big_llc"), "BigLlc");
    }

    #[test]
    fn each_counter_appears_as_field_row_and_read() {
        let counters = [Counter {
            name: "nr_a".into(),
            description: "it's \"one\"".into(),
        }];
        let text = policy_rs("x", Path::new("/o"), Path::new("/s"), &counters);
        assert!(text.contains("pub nr_a: u64"));
        assert!(text.contains(r#"Counter { name: "nr_a", description: "it's \"one\"" }"#));
        assert!(text.contains("nr_a: totals[0]"));
    }
}
