// SPDX-License-Identifier: GPL-2.0-only
//! How many instructions the interpreter executes per second: a loop of the mix
//! that policies have, a third of it loads and stores.
//!
//! `cargo run --release -p rota-sim --example speed`
#![expect(clippy::print_stdout, reason = "the figure is what it is for")]

use std::time::Instant;

use rota_sim::vm::{Call, Cause, Function, Host, Kind, Memory, Raw, State, Target, Vm};

/// Rounds of the loop.
const ROUNDS: i32 = 20_000_000;

/// A world in which there is nothing.
struct Nothing;

impl Host for Nothing {
    fn kfunc(&mut self, _: Call<'_>, _: u16) -> Result<u64, Cause> {
        Ok(0)
    }
    fn ktime_ns(&self) -> u64 {
        0
    }
    fn jiffies(&self) -> u64 {
        0
    }
    fn cpu(&self) -> u32 {
        0
    }
    fn current(&mut self, _: &mut Memory) -> u64 {
        0
    }
    fn random(&mut self) -> u32 {
        0
    }
    fn timer_start(&mut self, _: u64, _: u64) {}
    fn timer_cancel(&mut self, _: u64) -> bool {
        false
    }
}

fn main() {
    let raw = |code, dst, src, off, imm| Raw {
        code,
        dst,
        src,
        off,
        imm,
    };
    let code = [
        raw(0xb7, 6, 0, 0, ROUNDS), // r6 = ROUNDS
        raw(0x18, 7, 0, 0, 0),      // r7 = &data
        raw(0, 0, 0, 0, 0),
        raw(0x79, 1, 7, 8, 0),    // r1 = *(u64 *)(r7 + 8)
        raw(0x0f, 1, 6, 0, 0),    // r1 += r6
        raw(0x7b, 10, 1, -8, 0),  // *(u64 *)(r10 - 8) = r1
        raw(0x79, 2, 10, -8, 0),  // r2 = *(u64 *)(r10 - 8)
        raw(0x57, 2, 0, 0, 0xff), // r2 &= 255
        raw(0x25, 2, 0, 1, 0x80), // if r2 > 128 goto +1
        raw(0x07, 1, 0, 0, 3),    // r1 += 3
        raw(0x7b, 7, 1, 8, 0),    // *(u64 *)(r7 + 8) = r1
        raw(0xbc, 3, 1, 0, 0),    // w3 = w1
        raw(0x04, 3, 0, 0, 1),    // w3 += 1
        raw(0x07, 6, 0, 0, -1),   // r6 -= 1
        raw(0x55, 6, 0, -12, 0),  // if r6 != 0 goto the first load
        raw(0x95, 0, 0, 0, 0),    // exit
    ];
    let mut state = State::new(1);
    let data = state.memory.add("data", Kind::Global, vec![0; 64]);
    let function = Function {
        name: "speed".into(),
        start: 0,
        len: code.len(),
    };
    let target = |index| (index == 1).then_some(Target::Constant(data));
    let vm = Vm::new(&code, target, vec![function], Vec::new(), Vec::new(), state);
    let mut vm = vm.expect("the program is one");
    let start = Instant::now();
    vm.call(&mut Nothing, 0, &[]).expect("the program runs");
    let seconds = start.elapsed().as_secs_f64();
    let insns = vm.insns();
    let speed = insns as f64 / seconds / 1e6;
    println!("{insns} instructions in {seconds:.2} s: {speed:.0} M instructions/s");
}
