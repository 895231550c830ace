// SPDX-License-Identifier: GPL-2.0-only
//! Goal: what is read is what the kernels have, survives writing, and damage is
//! an error. Method: the three kernels' BTF that comes with the crate.

use proptest::prelude::*;

use super::*;

fn kernels() -> impl Iterator<Item = (&'static str, Btf)> {
    KERNELS
        .iter()
        .map(|(name, bytes)| (*name, Btf::parse(bytes).unwrap()))
}

/// Bits from the start of `task_struct`.
fn task_member(btf: &Btf, path: &[&str]) -> Option<u32> {
    let task = btf.find("task_struct", Kind::Struct)?;
    btf.field(task, path).map(|field| field.bit_offset)
}

#[test]
fn every_kernel_has_what_policies_look_at() {
    for (name, btf) in kernels() {
        for path in [
            &["scx", "slice"] as &[&str],
            &["scx", "dsq_vtime"],
            &["scx", "weight"],
            &["scx", "flags"],
            &["se", "sum_exec_runtime"],
            &["thread_info", "cpu"],
            &["cpus_ptr"],
            &["cpus_mask"],
            &["migration_disabled"],
            &["comm"],
        ] {
            assert!(task_member(&btf, path).is_some(), "{name}: {path:?}");
        }
        let slice = task_member(&btf, &["scx", "slice"]).unwrap();
        let scx = task_member(&btf, &["scx"]).unwrap();
        assert!(slice > scx, "{name}: a path adds up");
    }
}

#[test]
fn kfuncs_come_with_the_kernels_that_have_them() {
    let has: Vec<(bool, bool, bool)> = kernels()
        .map(|(_, btf)| {
            let has = |name| btf.find_func(name).is_some();
            (
                has("scx_bpf_dispatch"),
                has("scx_bpf_dsq_insert"),
                has("scx_bpf_task_set_slice"),
            )
        })
        .collect();
    assert_eq!(
        has,
        [
            (true, false, false),
            (false, true, false),
            (false, true, true)
        ]
    );
}

#[test]
fn enumerators_have_the_values_of_their_kernel() {
    let head: Vec<Option<u64>> = kernels()
        .map(|(_, btf)| btf.enumerator("SCX_ENQ_HEAD"))
        .collect();
    // 6.19 moved it.
    assert_eq!(head, [Some(0x10), Some(0x10), Some(0x10000)]);
    for (name, btf) in kernels() {
        let local = btf.enumerator("SCX_DSQ_LOCAL");
        assert_eq!(local, Some(0x8000_0000_0000_0002), "{name}");
        assert_eq!(btf.enumerator("SCX_NO_SUCH_THING"), None, "{name}");
    }
}

#[test]
fn writing_loses_nothing() {
    for (name, btf) in kernels() {
        let again = Btf::parse(&btf.to_bytes()).unwrap();
        assert_eq!(again.types, btf.types, "{name}");
    }
}

/// Reducing what is reduced changes nothing: all that is kept asks for no more.
#[test]
fn reducing_twice_is_reducing_once() {
    for (name, btf) in kernels() {
        let again = reduce(&btf).unwrap();
        assert_eq!(again.len(), btf.len(), "{name}");
        for path in [&["scx", "slice"], &["se", "sum_exec_runtime"]] {
            assert_eq!(task_member(&again, path), task_member(&btf, path), "{name}");
        }
    }
}

#[test]
fn a_kernel_without_sched_ext_is_refused() {
    let btf = Btf::new(vec![Type::Void], Vec::new());
    let error = reduce(&btf).unwrap_err();
    assert_eq!(error, BtfError::Missing("struct task_struct".into()));
}

#[test]
fn a_circle_of_typedefs_is_no_type() {
    let circle = |to| Type::Typedef {
        name: "t".into(),
        ty: TypeId(to),
    };
    let array = Type::Array {
        element: TypeId(3),
        index: TypeId(3),
        nr: 2,
    };
    let btf = Btf::new(vec![Type::Void, circle(2), circle(1), array], Vec::new());
    assert_eq!(btf.resolve(TypeId(1)), None);
    assert_eq!(btf.size_of(TypeId(3)), None);
    assert_eq!(btf.resolve(TypeId(99)), None);
}

#[test]
fn flavours_are_cut_at_the_last_three_underscores() {
    assert_eq!(
        without_flavour("scx_bpf_dispatch___old"),
        "scx_bpf_dispatch"
    );
    assert_eq!(without_flavour("f___v2___compat"), "f___v2");
    assert_eq!(without_flavour("__scx_bpf_x"), "__scx_bpf_x");
    assert_eq!(without_flavour("___x"), "___x");
}

#[test]
fn other_bytes_are_refused() {
    assert_eq!(
        Btf::parse(b"\x7fELF....").unwrap_err(),
        BtfError::Magic(0x457f)
    );
    let (_, bytes) = KERNELS[0];
    let cut = Btf::parse(&bytes[..bytes.len() - 1]).unwrap_err();
    assert!(
        matches!(
            cut,
            BtfError::Truncated {
                what: "strings",
                ..
            }
        ),
        "{cut}"
    );
}

proptest! {
    /// Damage is an error or other types, but never a panic; nor is what is asked of them.
    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        for (_, bytes) in KERNELS {
            let mut damaged = bytes.to_vec();
            damaged[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(Btf::parse(&bytes[..at.index(bytes.len())]).is_err());
            let Ok(btf) = Btf::parse(&damaged) else { continue };
            for (id, _) in btf.iter() {
                let _ = btf.size_of(id);
            }
            let _ = task_member(&btf, &["scx", "slice"]);
            let _ = reduce(&btf);
        }
    }
}
