// SPDX-License-Identifier: GPL-2.0-only
//! Goal: members are found by name, whatever else has moved, and accesses fit
//! what is found. Method: a struct as an object has it against the same as a
//! kernel has it; what real kernels answer is asked in `tests/objects.rs`.

use super::*;
use crate::btf::{Composite, Member};

const U32: TypeId = TypeId(1);
const I32: TypeId = TypeId(2);
const U64: TypeId = TypeId(3);
const ARRAY: TypeId = TypeId(4);
const INNER: TypeId = TypeId(5);
const ROOT: TypeId = TypeId(6);

fn int(name: &str, bytes: u32, signed: bool) -> Type {
    Type::Int {
        name: name.into(),
        bytes,
        encoding: u8::from(signed),
        bits: bytes as u8 * 8,
    }
}

fn member(name: &str, ty: TypeId, bit_offset: u32, bit_size: Option<u32>) -> Member {
    Member {
        name: name.into(),
        ty,
        bit_offset,
        bit_size,
    }
}

fn composite(name: &str, union: bool, bytes: u32, members: Vec<Member>) -> Type {
    Type::Composite(Composite {
        name: name.into(),
        union,
        bytes,
        members,
    })
}

/// Types with `inner`, an anonymous union, and `root`, `struct root`.
fn types(elements: u32, inner: Vec<Member>, root: Vec<Member>) -> Btf {
    let array = Type::Array {
        element: U32,
        index: U32,
        nr: elements,
    };
    Btf::new(
        vec![
            Type::Void,
            int("unsigned int", 4, false),
            int("int", 4, true),
            int("unsigned long", 8, false),
            array,
            composite("", true, 8, inner),
            composite("root", false, 64, root),
        ],
        Vec::new(),
    )
}

/// What the object has: its own order, flavour and widths.
fn object() -> Btf {
    let btf = types(
        4,
        Vec::new(),
        vec![
            member("flags", U32, 0, Some(3)),
            member("crossing", U32, 3, Some(4)),
            member("negative", I32, 32, Some(5)),
            member("number", U32, 64, None),
            member("signed", I32, 96, None),
            member("array", ARRAY, 128, None),
            member("hidden", U32, 256, None),
            member("pointer", TypeId(7), 320, None),
        ],
    );
    let types = btf.iter().map(|(_, ty)| ty.clone());
    Btf::new(types.chain([Type::Ptr(ROOT)]).collect(), Vec::new())
}

/// What the kernel has.
fn kernel() -> Btf {
    types(
        2,
        vec![
            member("other", U64, 0, None),
            member("hidden", U32, 0, None),
        ],
        vec![
            member("array", ARRAY, 0, None),
            member("flags", U32, 64 + 37, Some(3)),
            member("crossing", U32, 128 + 30, Some(4)),
            member("negative", I32, 192 + 2, Some(5)),
            member("number", U64, 256, None),
            member("signed", U64, 320, None),
            member("", INNER, 384, None),
            member("pointer", U64, 448, None),
        ],
    )
}

fn answer(spec: &[u32], query: Query) -> Option<Answer> {
    let relocation = Relocation {
        offset: 0,
        root: ROOT,
        spec: spec.to_vec(),
        query,
        text: "",
    };
    relocation.of_field(&object(), &kernel()).unwrap()
}

fn value(spec: &[u32], query: Query) -> Option<u64> {
    answer(spec, query).map(|answer| answer.value)
}

#[test]
fn bit_fields_are_loaded_and_shifted_as_the_kernel_has_them() {
    let all = |member: u32| {
        [
            Query::ByteOffset,
            Query::ByteSize,
            Query::LeftShift,
            Query::RightShift,
            Query::Signed,
        ]
        .map(|query| value(&[0, member], query).unwrap())
    };
    // Bits 101 to 103: in the word of bytes 12 to 15, whose first bit is 96.
    assert_eq!(all(0), [12, 4, 64 - (101 + 3 - 96), 61, 0]);
    // Bits 158 to 161 cross a word: a load of 8 bytes.
    assert_eq!(all(1), [16, 8, 64 - (158 + 4 - 128), 60, 0]);
    assert_eq!(all(2), [24, 4, 64 - (2 + 5), 59, 1]);
}

#[test]
fn members_are_found_by_name() {
    assert_eq!(value(&[0, 3], Query::ByteOffset), Some(32));
    assert_eq!(value(&[0, 3], Query::ByteSize), Some(8));
    // In an anonymous union.
    assert_eq!(value(&[0, 6], Query::ByteOffset), Some(48));
    // The root as an element of an array.
    assert_eq!(value(&[2, 3], Query::ByteOffset), Some(2 * 64 + 32));
    // Elements as far as the kernel has them.
    assert_eq!(value(&[0, 5, 1], Query::ByteOffset), Some(4));
    assert_eq!(value(&[0, 5, 2], Query::ByteOffset), None);
    assert_eq!(value(&[0, 5, 2], Query::Exists), None);
    // A pointer is no number.
    assert_eq!(value(&[0, 7], Query::ByteOffset), None);
}

#[test]
fn paths_that_do_not_fit_the_type_are_errors() {
    for spec in [vec![0, 99], vec![0, 3, 0], vec![]] {
        let relocation = Relocation {
            offset: 0,
            root: ROOT,
            spec: spec.clone(),
            query: Query::ByteOffset,
            text: "",
        };
        assert!(
            relocation.of_field(&object(), &kernel()).is_err(),
            "{spec:?}"
        );
    }
}

fn patched(answer: &Answer, code: u8) -> Option<Raw> {
    let mut raw = Raw {
        code,
        dst: 1,
        src: 2,
        off: 7,
        imm: 7,
    };
    answer.patch(&mut raw).then_some(raw)
}

#[test]
fn an_access_gets_the_width_of_what_is_there() {
    // A load of 4 bytes of a number that has 8 here.
    let wider = answer(&[0, 3], Query::ByteOffset).unwrap();
    let raw = patched(&wider, 0x61).unwrap();
    assert_eq!((raw.code, raw.off, raw.imm), (0x79, 32, 7));
    let raw = patched(&wider, 0x63).unwrap();
    assert_eq!((raw.code, raw.off), (0x7b, 32));
    // A constant has no width.
    let raw = patched(&wider, 0xb7).unwrap();
    assert_eq!((raw.off, raw.imm), (7, 32));
    // With a sign it cannot be extended.
    let signed = answer(&[0, 4], Query::ByteOffset).unwrap();
    assert_eq!(patched(&signed, 0x61), None);
}

#[test]
fn answers_that_do_not_fit_are_refused() {
    let at = |value| Answer::from(value);
    assert_eq!(patched(&at(0x8000), 0x61), None, "16 bits with sign");
    assert!(patched(&at(0x7fff), 0x61).is_some());
    let raw = patched(&at(0xffff_ffff), 0xb7).unwrap();
    assert_eq!(raw.imm, -1);
    assert_eq!(patched(&at(1 << 32), 0xb7), None);
    assert_eq!(patched(&at(u64::MAX), 0xb7).unwrap().imm, -1);
    assert!(patched(&at(1 << 40), 0x18).is_some());
    assert_eq!(patched(&at(1), 0x95), None, "exit");
    assert_eq!(patched(&at(1), 0xbf), None, "a register");
}
