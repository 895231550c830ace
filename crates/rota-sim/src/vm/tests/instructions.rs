// SPDX-License-Identifier: GPL-2.0-only
//! Instructions by class, and where executions are cut.

use super::*;

const MIN: u64 = i64::MIN as u64;
const MIN32: u64 = 0x8000_0000;
const M1: u64 = u64::MAX;

/// Operation, whether of 64 bits, offset, operands, result: with a register, and
/// with a constant where the second operand is one.
#[rustfmt::skip]
const ALU: &[(u8, bool, i16, u64, u64, u64)] = &[
    (0x00, true, 0, M1, 2, 1),
    (0x00, false, 0, 0xffff_ffff, 2, 1),
    (0x10, true, 0, 1, 2, M1),
    (0x10, false, 0, 1, 2, 0xffff_ffff),
    (0x20, true, 0, 1 << 63, 3, 1 << 63),
    (0x20, false, 0, 0x1_8000_0001, 2, 2),
    (0x30, true, 0, M1, 2, M1 / 2),
    (0x30, true, 0, 5, 0, 0),
    (0x30, false, 0, 0x1_0000_0007, 2, 3),
    (0x30, false, 0, 5, 0, 0),
    (0x30, true, 1, M1 - 6, 2, M1 - 2),
    (0x30, true, 1, MIN, M1, MIN),
    (0x30, true, 1, 5, 0, 0),
    (0x30, false, 1, 0xffff_fff9, 2, 0xffff_fffd),
    (0x30, false, 1, MIN32, M1, MIN32),
    (0x30, false, 1, 5, 0, 0),
    (0x90, true, 0, 7, 4, 3),
    (0x90, true, 0, 7, 0, 7),
    (0x90, false, 0, 0x1_0000_0007, 0, 7),
    (0x90, true, 1, M1 - 6, 2, M1),
    (0x90, true, 1, MIN, M1, 0),
    (0x90, true, 1, M1, 0, M1),
    (0x90, false, 1, 0xffff_fff9, 2, 0xffff_ffff),
    (0x90, false, 1, MIN32, M1, 0),
    (0x40, true, 0, 0xf0, M1, M1),
    (0x40, false, 0, 0xf0, M1, 0xffff_ffff),
    (0x50, true, 0, 0x12_3456_789a, M1, 0x12_3456_789a),
    (0x50, false, 0, 0x12_3456_789a, M1, 0x3456_789a),
    (0xa0, true, 0, M1, M1, 0),
    (0xa0, false, 0, M1, 1, 0xffff_fffe),
    (0x60, true, 0, 1, 63, MIN),
    (0x60, true, 0, 1, 64, 1),
    (0x60, false, 0, 1, 31, MIN32),
    (0x60, false, 0, 3, 33, 6),
    (0x70, true, 0, MIN, 63, 1),
    (0x70, true, 0, MIN, 65, 1 << 62),
    (0x70, false, 0, M1, 31, 1),
    (0x70, false, 0, M1, 32, 0xffff_ffff),
    (0xc0, true, 0, MIN, 63, M1),
    (0xc0, true, 0, MIN, 64, MIN),
    (0xc0, false, 0, MIN32, 31, 0xffff_ffff),
    (0xc0, false, 0, 0x1_7fff_ffff, 32, 0x7fff_ffff),
    (0xb0, true, 0, 9, M1, M1),
    (0xb0, false, 0, 9, M1, 0xffff_ffff),
];

#[test]
fn arithmetic_wraps_and_divides_as_specified() {
    for (operation, wide, off, a, b, expected) in ALU {
        let class = if *wide { 7 } else { 4 };
        let register = insn(operation | 8 | class, 1, 2, *off, 0);
        assert_eq!(
            one(register, *a, *b),
            *expected,
            "{register:?} {a:#x} {b:#x}"
        );
        // Constants are of 32 bits, with sign.
        if let Ok(imm) = i32::try_from(*b as i64) {
            let constant = insn(operation | class, 1, 0, *off, imm);
            assert_eq!(one(constant, *a, 0), *expected, "{constant:?} {a:#x}");
        }
    }
    assert_eq!(one(insn(0x87, 1, 0, 0, 0), 1, 0), M1);
    assert_eq!(one(insn(0x84, 1, 0, 0, 0), 1, 0), 0xffff_ffff);
}

#[test]
fn moves_extend_the_sign_and_swaps_reverse_bytes() {
    let value = 0x1122_3344_8586_8788;
    let cases = [
        (insn(0xbf, 1, 2, 8, 0), 0xffff_ffff_ffff_ff88),
        (insn(0xbf, 1, 2, 16, 0), 0xffff_ffff_ffff_8788),
        (insn(0xbf, 1, 2, 32, 0), 0xffff_ffff_8586_8788),
        (insn(0xbc, 1, 2, 8, 0), 0xffff_ff88),
        (insn(0xbc, 1, 2, 16, 0), 0xffff_8788),
        (insn(0xbc, 1, 2, 0, 0), 0x8586_8788),
        (insn(0xd7, 1, 0, 0, 16), 0x8887),
        (insn(0xd7, 1, 0, 0, 32), 0x8887_8685),
        (insn(0xd7, 1, 0, 0, 64), 0x8887_8685_4433_2211),
        (insn(0xdc, 1, 0, 0, 16), 0x8887),
        (insn(0xdc, 1, 0, 0, 64), 0x8887_8685_4433_2211),
        (insn(0xd4, 1, 0, 0, 16), 0x8788),
        (insn(0xd4, 1, 0, 0, 32), 0x8586_8788),
        (insn(0xd4, 1, 0, 0, 64), value),
    ];
    for (raw, expected) in cases {
        assert_eq!(one(raw, value, value), expected, "{raw:?}");
    }
}

/// What a jump is taken for, of 64 bits and of the lower 32.
type Comparison = (u8, fn(u64, u64) -> bool, fn(u32, u32) -> bool);

#[rustfmt::skip]
const JUMPS: &[Comparison] = &[
    (0x10, |a, b| a == b, |a, b| a == b),
    (0x50, |a, b| a != b, |a, b| a != b),
    (0x20, |a, b| a > b, |a, b| a > b),
    (0x30, |a, b| a >= b, |a, b| a >= b),
    (0xa0, |a, b| a < b, |a, b| a < b),
    (0xb0, |a, b| a <= b, |a, b| a <= b),
    (0x40, |a, b| a & b != 0, |a, b| a & b != 0),
    (0x60, |a, b| a as i64 > b as i64, |a, b| a as i32 > b as i32),
    (0x70, |a, b| a as i64 >= b as i64, |a, b| a as i32 >= b as i32),
    (0xc0, |a, b| (a as i64) < b as i64, |a, b| (a as i32) < b as i32),
    (0xd0, |a, b| a as i64 <= b as i64, |a, b| a as i32 <= b as i32),
];

/// Numbers at which signs and halves differ.
const EDGES: [u64; 9] = [0, 1, 2, 0x7fff_ffff, MIN32, 1 << 32, MIN, M1 - 1, M1];

#[test]
fn jumps_compare_with_and_without_sign() {
    let taken = |jump: Raw, a: u64, b: u64| {
        let set = insn(0xb7, 0, 0, 0, 1);
        let clear = insn(0xb7, 0, 0, 0, 0);
        let code = [set, jump, clear, EXIT];
        run(&[&load64(1, a), &load64(2, b), &code]).unwrap() == 1
    };
    for (operation, wide, narrow) in JUMPS {
        for (a, b) in EDGES.into_iter().flat_map(|a| EDGES.map(|b| (a, b))) {
            for (class, expected) in [(5, wide(a, b)), (6, narrow(a as u32, b as u32))] {
                let register = insn(operation | 8 | class, 1, 2, 1, 0);
                assert_eq!(
                    taken(register, a, b),
                    expected,
                    "{register:?} {a:#x} {b:#x}"
                );
                if let Ok(imm) = i32::try_from(b as i64) {
                    let constant = insn(operation | class, 1, 0, 1, imm);
                    assert_eq!(taken(constant, a, b), expected, "{constant:?} {a:#x}");
                }
            }
        }
    }
    // ja and gotol.
    for jump in [insn(0x05, 0, 0, 1, 0), insn(0x06, 0, 0, 0, 1)] {
        let code = [insn(0xb7, 0, 0, 0, 5), jump, insn(0xb7, 0, 0, 0, 6), EXIT];
        assert_eq!(run(&[&code]).unwrap(), 5);
    }
}

#[test]
fn loads_and_stores_have_their_width_and_sign() {
    let value = 0x8182_8384_8586_8788;
    let store = insn(0x7b, 10, 2, -8, 0);
    let loads = [
        (0x71, 0x88),
        (0x69, 0x8788),
        (0x61, 0x8586_8788),
        (0x79, value),
        (0x91, 0xffff_ffff_ffff_ff88),
        (0x89, 0xffff_ffff_ffff_8788),
        (0x81, 0xffff_ffff_8586_8788),
    ];
    for (code, expected) in loads {
        let load = insn(code, 0, 10, -8, 0);
        assert_eq!(
            run(&[&load64(2, value), &[store, load, EXIT]]).unwrap(),
            expected
        );
    }
    let load = insn(0x79, 0, 10, -8, 0);
    let stores = [
        (insn(0x73, 10, 3, -8, 0), 0x8182_8384_8586_8701),
        (insn(0x6b, 10, 3, -8, 0), 0x8182_8384_8586_0001),
        (insn(0x63, 10, 3, -8, 0), 0x8182_8384_0000_0001),
        (insn(0x72, 10, 0, -8, -2), 0x8182_8384_8586_87fe),
        (insn(0x6a, 10, 0, -8, -2), 0x8182_8384_8586_fffe),
        (insn(0x62, 10, 0, -8, -2), 0x8182_8384_ffff_fffe),
        (insn(0x7a, 10, 0, -8, -2), M1 - 1),
    ];
    for (raw, expected) in stores {
        let code = [store, insn(0xb7, 3, 0, 0, 1), raw, load, EXIT];
        assert_eq!(
            run(&[&load64(2, value), &code]).unwrap(),
            expected,
            "{raw:?}"
        );
    }
}

#[test]
fn atomics_change_memory_and_fetch_what_was_there() {
    // Operation, old, operand, register 0, new, what is fetched.
    let cases: [(i32, u64, u64, u64, u64, Option<u64>); 11] = [
        (0x00, 5, 3, 0, 8, None),
        (0x01, 5, 3, 0, 8, Some(5)),
        (0x40, 5, 3, 0, 7, None),
        (0x41, 5, 3, 0, 7, Some(5)),
        (0x50, 5, 3, 0, 1, None),
        (0x51, 5, 3, 0, 1, Some(5)),
        (0xa0, 5, 3, 0, 6, None),
        (0xa1, 5, 3, 0, 6, Some(5)),
        (0xe1, 5, 3, 0, 3, Some(5)),
        (0xf1, 5, 3, 5, 3, None),
        (0xf1, 5, 3, 4, 5, None),
    ];
    for (operation, old, operand, r0, new, fetched) in cases {
        for (code, load, high) in [(0xdb, 0x79, 0), (0xc3, 0x61, 0xaaaa_aaaa_0000_0000)] {
            let prepare = [
                load64(1, old | high),
                load64(2, operand | high),
                load64(0, r0 | high),
            ];
            let code = [
                insn(0x7b, 10, 1, -8, 0),
                insn(code, 10, 2, -8, operation),
                insn(load, 3, 10, -8, 0),
                // new * 2^20 + register 2 * 2^10 + register 0, their low bits.
                insn(0x57, 2, 0, 0, 0x3ff),
                insn(0x57, 0, 0, 0, 0x3ff),
                insn(0x67, 3, 0, 0, 20),
                insn(0x67, 2, 0, 0, 10),
                insn(0x4f, 0, 2, 0, 0),
                insn(0x4f, 0, 3, 0, 0),
                EXIT,
            ];
            let r0 = if operation == 0xf1 { old } else { r0 };
            let expected = new << 20 | fetched.unwrap_or(operand) << 10 | r0;
            let result = run(&[&prepare.concat(), &code]).unwrap();
            assert_eq!(result, expected, "{operation:#x} {result:#x} {expected:#x}");
        }
    }
    // load_acquire and store_release.
    let code = [
        insn(0xb7, 1, 0, 0, 300),
        insn(0xdb, 10, 1, -8, 0x110),
        insn(0xd3, 0, 10, -8, 0x100),
        EXIT,
    ];
    assert_eq!(run(&[&code]).unwrap(), 300 & 0xff);
}

#[test]
fn an_atomic_on_nothing_writes_nothing() {
    let fault = run(&[&[insn(0xb7, 1, 0, 0, 0), insn(0xdb, 1, 2, 8, 1), EXIT]]).unwrap_err();
    let text = fault.to_string();
    assert_eq!(text, "test+1: write of 8 bytes at 0x8: NULL pointer");
}

#[test]
fn a_fault_says_where_and_what() {
    let fault = run(&[&[insn(0x79, 0, 1, 12, 0), EXIT]]).unwrap_err();
    assert_eq!(fault.function, "test");
    assert_eq!(fault.insn, 0);
    let text = fault.to_string();
    assert!(text.ends_with("context offset 12 of 16 bytes"), "{text}");
    // A frame is 512 bytes.
    let below = run(&[&[insn(0x7a, 10, 0, -520, 0), EXIT]]).unwrap_err();
    assert!(matches!(below.cause, Cause::Access(_)), "{below}");
    // Arguments cannot be written.
    let write = run(&[&[insn(0x7a, 1, 0, 0, 0), EXIT]]).unwrap_err();
    assert!(write.to_string().contains("may not be written"), "{write}");
}

#[test]
fn the_end_of_the_program_is_a_fault() {
    let fault = run(&[&[insn(0xb7, 0, 0, 0, 0)]]).unwrap_err();
    assert_eq!(fault.cause, Cause::NoInstruction);
    // So is the second half of a load of 64 bits.
    let code = [insn(0x05, 0, 0, 1, 0)];
    let fault = run(&[&code, &load64(1, 5), &[EXIT]]).unwrap_err();
    assert_eq!(fault.cause, Cause::NoInstruction);
}

#[test]
fn what_is_no_instruction_is_refused() {
    let cases = [
        (insn(0xbf, 11, 0, 0, 0), "registers"),
        (insn(0x05, 0, 0, 5, 0), "jumps"),
        (insn(0x05, 0, 0, -2, 0), "jumps"),
        (insn(0x20, 0, 0, 0, 0), "classic"),
        (insn(0x18, 0, 0, 0, 0), "second half"),
        (insn(0xdb, 1, 2, 0, 0x77), "no store"),
        (insn(0xbf, 1, 2, 1, 0), "arenas"),
        (insn(0xe7, 1, 2, 0, 0), "no ALU"),
        (insn(0xd4, 1, 0, 0, 8), "byte order"),
        (insn(0xf5, 1, 0, 0, 8), "no jump"),
    ];
    for (raw, what) in cases {
        let error = try_machine(&[&[raw]], State::new(1)).unwrap_err();
        assert!(error.to_string().contains(what), "{raw:?}: {error}");
    }
}

/// Functions: registers 6 to 9 are kept for the caller, and each has a frame.
#[test]
fn a_function_has_registers_and_a_frame_of_its_own() {
    let code = [
        insn(0xb7, 6, 0, 0, 40),  // r6 = 40
        insn(0x7a, 10, 0, -8, 1), // *(u64 *)(r10 - 8) = 1
        insn(0xb7, 1, 0, 0, 1),
        insn(0x85, 0, 1, 0, 3),   // call the function below
        insn(0x79, 1, 10, -8, 0), // what is left of the frame
        insn(0x0f, 0, 6, 0, 0),
        EXIT,
        insn(0x79, 0, 10, -8, 0), // its frame begins with zeros
        insn(0x0f, 0, 1, 0, 0),
        insn(0xb7, 6, 0, 0, 99),
        insn(0x7a, 10, 0, -8, 7),
        EXIT,
    ];
    assert_eq!(run(&[&code]).unwrap(), 41);
}

#[test]
fn the_frame_of_a_function_is_gone_with_it() {
    let code = [
        insn(0x85, 0, 1, 0, 2), // r0 = an address in the frame of the function below
        insn(0x79, 0, 0, 0, 0),
        EXIT,
        insn(0xbf, 0, 10, 0, 0),
        insn(0x07, 0, 0, 0, -8),
        EXIT,
    ];
    let fault = run(&[&code]).unwrap_err();
    assert!(
        fault.to_string().contains("stack frame 2 offset 504 of 0"),
        "{fault}"
    );
}

#[test]
fn endless_recursion_is_a_fault() {
    let fault = run(&[&[insn(0x85, 0, 1, 0, -1), EXIT]]).unwrap_err();
    assert_eq!(fault.cause, Cause::CallDepth);
}

#[test]
fn may_goto_ends_a_loop_some_time() {
    // Loops until may_goto leaves.
    let code = [
        insn(0xb7, 0, 0, 0, 3),
        insn(0xe5, 0, 0, 1, 0),
        insn(0x05, 0, 0, -2, 0),
        EXIT,
    ];
    assert_eq!(run(&[&code]).unwrap(), 3);
}

#[test]
fn an_execution_can_be_cut_after_any_instruction_and_cloned() {
    // Sums 10 numbers on the stack, with a function for each.
    let code = [
        insn(0xb7, 6, 0, 0, 10),
        insn(0x7a, 10, 0, -8, 0),
        insn(0xbf, 1, 6, 0, 0),
        insn(0x85, 0, 1, 0, 6),
        insn(0x79, 1, 10, -8, 0),
        insn(0x0f, 1, 0, 0, 0),
        insn(0x7b, 10, 1, -8, 0),
        insn(0x07, 6, 0, 0, -1),
        insn(0x55, 6, 0, -7, 0),
        insn(0x05, 0, 0, 3, 0),
        insn(0x7b, 10, 1, -16, 0), // the function: r1 * r1, by way of its frame
        insn(0x79, 0, 10, -16, 0),
        insn(0x2f, 0, 1, 0, 0),
        EXIT,
    ];
    let mut code = code.to_vec();
    // The end of the program proper.
    code[9] = insn(0x05, 0, 0, 4, 0);
    code.extend([insn(0x79, 0, 10, -8, 0), EXIT]);
    let mut vm = machine(&[&code], State::new(1));
    let mut world = World::default();
    let whole = vm.call(&mut world, 0, &[]).unwrap();
    let insns = vm.insns();
    assert_eq!(whole, 385);
    assert_eq!(vm.count(0), Count { runs: 1, insns });

    // Two executions in turn, one instruction each, and a copy of one at each step.
    let mut one = vm.execution(0, &[]);
    let mut two = vm.execution(0, &[]);
    let mut copies = Vec::new();
    loop {
        copies.push(two.clone());
        let outcome = one.run(&mut vm, &mut world, 1).unwrap();
        assert_eq!(two.run(&mut vm, &mut world, 1).unwrap(), outcome);
        if let Outcome::Done(value) = outcome {
            assert_eq!(value, whole);
            break;
        }
        assert_eq!(outcome, Outcome::Paused);
    }
    assert_eq!(one.insns(), insns);
    assert_eq!(copies.len() as u64, insns);
    for mut copy in copies {
        let outcome = copy.run(&mut vm, &mut world, u64::MAX).unwrap();
        assert_eq!(outcome, Outcome::Done(whole));
        assert_eq!(copy.insns(), insns, "nothing is counted twice");
        // It stays done.
        assert_eq!(copy.run(&mut vm, &mut world, 5).unwrap(), outcome);
    }
}
