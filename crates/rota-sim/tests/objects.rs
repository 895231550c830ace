// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the objects that ship load on every kernel of the matrix, and what
//! cannot load says why. Method: the policies' sources are compiled as their
//! builds do, and loaded against the BTF of three kernels.

mod support;

use rota_sim::btf;
use rota_sim::object::Object;
use support::{POLICIES, policy};

#[test]
fn every_policy_starts_on_every_kernel() {
    for (release, bytes) in btf::KERNELS {
        let kernel = btf::Btf::parse(bytes).unwrap();
        for name in POLICIES {
            let object = Object::load(name, policy(name), &kernel)
                .unwrap_or_else(|error| panic!("{release}: {error}"));
            assert!(object.unsupported_kfuncs().is_empty(), "{release} {name}");
            assert_eq!(object.license(), "GPL");
            for op in ["select_cpu", "enqueue", "dispatch", "init", "exit"] {
                assert!(object.ops().function(op).is_some(), "{name}: {op}");
            }
            let instance = object.start(8).unwrap();
            assert_eq!(instance.number("exit_record.kind"), Some(0));
        }
    }
}
