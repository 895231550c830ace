// SPDX-License-Identifier: GPL-2.0-only
//! Helpers and maps.

use super::*;

/// `call helper`.
fn call(number: i32) -> Raw {
    insn(0x85, 0, 0, 0, number)
}

/// `call kfunc`.
fn kfunc(number: i32) -> Raw {
    insn(0x85, 0, 2, 0, number)
}

/// `r<dst> = r10 + off`.
fn stack(dst: u8, off: i32) -> [Raw; 2] {
    [insn(0xbf, dst, 10, 0, 0), insn(0x07, dst, 0, 0, off)]
}

fn def(kind: MapKind, key_bytes: u32, value_bytes: u32, max_entries: u32) -> MapDef {
    MapDef {
        name: "m".into(),
        kind,
        key_bytes,
        value_bytes,
        max_entries,
    }
}

/// State of a machine with two CPUs and one map.
fn with_map(def: MapDef) -> (State, u64) {
    let mut state = State::new(2);
    state.add_map(def);
    let handle = state.maps[0].handle();
    (state, handle)
}

#[test]
fn kfuncs_get_five_arguments_and_unknown_ones_fault() {
    let set: Vec<Raw> = (1..=5).map(|n| insn(0xb7, n, 0, 0, i32::from(n))).collect();
    assert_eq!(run(&[&set, &[kfunc(0), EXIT]]).unwrap(), 12345);
    let fault = run(&[&[kfunc(2), EXIT]]).unwrap_err();
    assert_eq!(fault.cause, Cause::UnsupportedKfunc("some_kfunc".into()));
    let fault = run(&[&[call(9), EXIT]]).unwrap_err();
    assert!(fault.to_string().contains("skb_store_bytes (9)"), "{fault}");
}

#[test]
fn an_execution_stops_before_each_kfunc_once() {
    let nop = insn(0xb7, 1, 0, 0, 0);
    let mut vm = machine(&[&[nop, kfunc(0), kfunc(0), nop, EXIT]], State::new(1));
    let mut world = World::default();
    let mut execution = vm.execution(0, &[]);
    let mut insns = Vec::new();
    while execution.run_to_kfunc(&mut vm, &mut world, 100).unwrap() == Outcome::Paused {
        insns.push(execution.insns());
    }
    assert_eq!(insns, [1, 2]);
    assert_eq!(execution.insns(), 5);
    // It does not when it is run to its end.
    let mut execution = vm.execution(0, &[]);
    execution.run_to_kfunc(&mut vm, &mut world, 100).unwrap();
    let outcome = execution.run(&mut vm, &mut world, 100).unwrap();
    assert!(matches!(outcome, Outcome::Done(_)));
}

#[test]
fn what_is_not_given_back_is_a_leak() {
    let fault = run(&[&[kfunc(1), EXIT]]).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "test+1: ended without giving back a loan, from kfunc"
    );
}

#[test]
fn a_hash_keeps_values_by_key_until_it_is_full() {
    let (mut state, _) = with_map(def(MapKind::Hash, 4, 8, 2));
    let memory = &mut state.memory;
    let key = memory.add("key", Kind::Kernel, vec![0; 4]);
    let value = memory.add("value", Kind::Kernel, vec![9; 8]);
    let map = &mut state.maps[0];
    let mut update = |map: &mut Map, number: u32, flags| {
        memory.write(key, &number.to_le_bytes()).unwrap();
        map.update(memory, key, value, flags, 0).unwrap()
    };
    assert_eq!(update(map, 1, 3), -22, "no such flag");
    assert_eq!(update(map, 1, 2), -2, "BPF_EXIST");
    assert_eq!(update(map, 1, 1), 0);
    assert_eq!(update(map, 1, 1), -17, "BPF_NOEXIST");
    assert_eq!(update(map, 2, 0), 0);
    assert_eq!(update(map, 3, 0), -7);
    assert_eq!(map.delete(memory, key).unwrap(), -2);
    memory.write(key, &1_u32.to_le_bytes()).unwrap();
    let at = map.lookup(memory, key, 0).unwrap();
    assert_eq!(memory.load(at), Some([9_u8; 8]));
    assert_eq!(map.delete(memory, key).unwrap(), 0);
    assert_eq!(map.lookup(memory, key, 0).unwrap(), 0);
    assert_eq!(map.get(memory, &2_u32.to_le_bytes(), 0), Some(&[9; 8][..]));
    // A new key in the row of the old one begins with zeros.
    assert!(map.set(memory, &7_u32.to_le_bytes(), &[1], 0));
    let value = map.get(memory, &7_u32.to_le_bytes(), 0).unwrap();
    assert_eq!(value, [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_lru_map_forgets_what_was_not_used_for_longest() {
    let (mut state, _) = with_map(def(MapKind::LruHash, 4, 8, 2));
    let State { memory, maps, .. } = &mut state;
    let map = &mut maps[0];
    let key = memory.add("key", Kind::Kernel, vec![0; 4]);
    for (number, use_first) in [(1_u32, false), (2, true), (3, true)] {
        if use_first {
            memory.write(key, &1_u32.to_le_bytes()).unwrap();
            assert_ne!(map.lookup(memory, key, 0).unwrap(), 0, "{number}");
        }
        memory.write(key, &number.to_le_bytes()).unwrap();
        let value = memory.add("value", Kind::Kernel, vec![number as u8; 8]);
        assert_eq!(map.update(memory, key, value, 0, 0).unwrap(), 0);
    }
    let has = |number: u32| map.get(memory, &number.to_le_bytes(), 0).is_some();
    assert_eq!([has(1), has(2), has(3)], [true, false, true]);
}

#[test]
fn a_map_per_cpu_has_values_for_each() {
    let (state, handle) = with_map(def(MapKind::PercpuArray, 4, 8, 1));
    let code: [&[Raw]; 5] = [
        &[insn(0x62, 10, 0, -4, 0)],
        &load64(1, handle),
        &stack(2, -4),
        &[call(1), insn(0x55, 0, 0, 1, 0), EXIT],
        // ++*value
        &[
            insn(0x79, 1, 0, 0, 0),
            insn(0x07, 1, 0, 0, 1),
            insn(0x7b, 0, 1, 0, 0),
            insn(0xbf, 0, 1, 0, 0),
            EXIT,
        ],
    ];
    let mut vm = machine(&code, state);
    let mut world = World::default();
    assert_eq!(vm.call(&mut world, 0, &[]).unwrap(), 1);
    assert_eq!(vm.call(&mut world, 0, &[]).unwrap(), 2);
    world.cpu = 1;
    assert_eq!(vm.call(&mut world, 0, &[]).unwrap(), 1);
    let value = |cpu| vm.state.maps[0].get(&vm.state.memory, &[0; 4], cpu);
    assert_eq!(value(0), Some(&2_u64.to_le_bytes()[..]));
    assert_eq!(value(1), Some(&1_u64.to_le_bytes()[..]));
    assert_eq!(value(2), None);
}

#[test]
fn a_loop_calls_its_function_until_that_says_stop() {
    // The callback: ++*context, and stop at index 5.
    let program = |nr: i32, address: u64| -> Vec<Raw> {
        [
            &[insn(0x7a, 10, 0, -8, 0), insn(0xb7, 1, 0, 0, nr)][..],
            &load64(2, address),
            &stack(3, -8),
            &[
                insn(0xb7, 4, 0, 0, 0),
                call(181),
                insn(0x67, 0, 0, 0, 8),
                insn(0x79, 1, 10, -8, 0),
                insn(0x4f, 0, 1, 0, 0),
                EXIT,
            ],
            &[
                insn(0x79, 3, 2, 0, 0),
                insn(0x07, 3, 0, 0, 1),
                insn(0x7b, 2, 3, 0, 0),
                insn(0xb7, 0, 0, 0, 0),
                insn(0x55, 1, 0, 1, 5),
                insn(0xb7, 0, 0, 0, 1),
                EXIT,
            ],
        ]
        .concat()
    };
    for (nr, expected) in [(0, 0), (3, 3), (100, 6)] {
        let state = State::new(1);
        let address = state.function_address(12);
        let mut vm = machine(&[&program(nr, address)], state);
        let result = vm.call(&mut World::default(), 0, &[]).unwrap();
        assert_eq!(result, expected << 8 | expected, "{nr}");
    }
    let fault = run(&[&program(3, 0x1234)]).unwrap_err();
    assert_eq!(fault.cause, Cause::NotAFunction(0x1234));
}

#[test]
fn each_element_of_a_map_is_visited() {
    for kind in [MapKind::Array, MapKind::Hash] {
        let (mut state, handle) = with_map(def(kind, 4, 8, 4));
        let State { memory, maps, .. } = &mut state;
        for key in 0_u32..4 {
            let value = u64::from(key) + 100;
            assert!(maps[0].set(memory, &key.to_le_bytes(), &value.to_le_bytes(), 0));
        }
        let address = state.function_address(14);
        let code: [&[Raw]; 6] = [
            &[insn(0x7a, 10, 0, -8, 0)],
            &load64(1, handle),
            &load64(2, address),
            &stack(3, -8),
            &[
                insn(0xb7, 4, 0, 0, 0),
                call(164),
                insn(0x67, 0, 0, 0, 16),
                insn(0x79, 1, 10, -8, 0),
                insn(0x4f, 0, 1, 0, 0),
                EXIT,
                EXIT,
            ],
            // *context += *key + *value
            &[
                insn(0x61, 2, 2, 0, 0),
                insn(0x79, 3, 3, 0, 0),
                insn(0x79, 5, 4, 0, 0),
                insn(0x0f, 5, 2, 0, 0),
                insn(0x0f, 5, 3, 0, 0),
                insn(0x7b, 4, 5, 0, 0),
                insn(0xb7, 0, 0, 0, 0),
                EXIT,
            ],
        ];
        let mut vm = machine(&code, state);
        let result = vm.call(&mut World::default(), 0, &[]).unwrap();
        assert_eq!(result, 4 << 16 | (6 + 406), "{kind:?}");
    }
}

#[test]
fn a_full_ring_refuses_until_it_is_emptied() {
    let (mut state, _) = with_map(def(MapKind::Ringbuf, 0, 0, 64));
    let map = &mut state.maps[0];
    // A record takes 8 bytes more than it has.
    for _ in 0..4 {
        assert_eq!(map.ring_output(vec![1]), 0);
    }
    assert_eq!(map.ring_output(vec![1]), -11);
    assert_eq!(map.take_records(), vec![vec![1]; 4]);
    assert_eq!(map.ring_output(vec![2; 56]), 0);
    assert!(!map.ring_reserve(0));
}

#[test]
fn a_reserved_record_is_submitted_or_discarded() {
    for (helper, expected) in [(132, 1), (133, 0)] {
        let (state, handle) = with_map(def(MapKind::Ringbuf, 0, 0, 64));
        let reserve = [insn(0xb7, 2, 0, 0, 8), insn(0xb7, 3, 0, 0, 0), call(131)];
        let fill = [insn(0x7a, 0, 0, 0, 77), insn(0xbf, 1, 0, 0, 0)];
        let end = [insn(0xb7, 2, 0, 0, 0), call(helper), EXIT];
        let mut vm = machine(&[&load64(1, handle), &reserve, &fill, &end], state.clone());
        vm.call(&mut World::default(), 0, &[]).unwrap();
        assert_eq!(vm.state.maps[0].take_records().len(), expected);
        assert_eq!(vm.state.maps[0].ring_used(), 0);
        // Not given back: a leak.
        let mut vm = machine(&[&load64(1, handle), &reserve, &[EXIT]], state);
        let fault = vm.call(&mut World::default(), 0, &[]).unwrap_err();
        assert!(matches!(fault.cause, Cause::Leak(_)), "{fault}");
    }
}

#[test]
fn a_held_lock_blocks_others_until_it_is_released() {
    let mut state = State::new(1);
    let lock = state.memory.add("lock", Kind::Global, vec![0; 4]);
    let code: [&[Raw]; 4] = [
        &load64(6, lock),
        &[insn(0xbf, 1, 6, 0, 0), call(93)],
        &[insn(0xbf, 1, 6, 0, 0), call(94)],
        &[insn(0xb7, 0, 0, 0, 0), EXIT],
    ];
    let mut vm = machine(&code, state);
    let mut world = World::default();
    let mut one = vm.execution(0, &[]);
    let mut two = vm.execution(0, &[]);
    assert_eq!(one.run(&mut vm, &mut world, 3).unwrap(), Outcome::Paused);
    let blocked = two.run(&mut vm, &mut world, 100).unwrap();
    assert_eq!(blocked, Outcome::Blocked(lock));
    assert_eq!(two.insns(), 2, "the call is not executed yet");
    assert_eq!(one.run(&mut vm, &mut world, 100).unwrap(), Outcome::Done(0));
    assert_eq!(two.run(&mut vm, &mut world, 100).unwrap(), Outcome::Done(0));
    assert_eq!(one.insns(), two.insns());
    assert_eq!(vm.state.memory.read_u32(lock), Ok(0));
}

#[test]
fn a_timer_runs_its_callback_with_its_element() {
    let (state, handle) = with_map(def(MapKind::Array, 4, 24, 3));
    let callback = state.function_address(30);
    let values = {
        let mut state = state.clone();
        let key = state.memory.add("key", Kind::Kernel, vec![2, 0, 0, 0]);
        state.maps[0].lookup(&state.memory, key, 0).unwrap()
    };
    let timer = values + 8;
    let code: [&[Raw]; 8] = [
        &load64(1, timer),
        &load64(2, handle),
        &[insn(0xb7, 3, 0, 0, 7), call(169)],
        &load64(1, timer),
        &load64(2, callback),
        &[call(170)],
        &load64(1, timer),
        &[
            insn(0xb7, 2, 0, 0, 500),
            insn(0xb7, 3, 0, 0, 0),
            call(171),
            EXIT,
        ],
    ];
    let mut code = code.concat();
    code.resize(30, EXIT);
    // The callback: *value = *key.
    code.extend([
        insn(0x61, 1, 2, 0, 0),
        insn(0x7b, 3, 1, 0, 0),
        insn(0xb7, 0, 0, 0, 0),
        EXIT,
    ]);
    let functions = [("test", 0), ("callback", 30)].map(|(name, start)| Function {
        name: name.into(),
        start,
        len: 4,
    });
    let vm = Vm::new(
        &code,
        |_| None,
        functions.to_vec(),
        Vec::new(),
        Vec::new(),
        state,
    );
    let mut vm = vm.unwrap();
    let mut world = World::default();
    assert_eq!(vm.call(&mut world, 0, &[]).unwrap(), 0);
    assert_eq!(world.timers, [(timer, 1500)]);
    let mut run = vm.timer_execution(timer).unwrap();
    assert_eq!(run.run(&mut vm, &mut world, 100).unwrap(), Outcome::Done(0));
    assert_eq!(vm.state.memory.read_u64(values), Ok(2));
    assert_eq!(vm.count(1).runs, 1);
    assert!(vm.timer_execution(values).is_none(), "there is no timer");
}

#[test]
fn strings_are_copied_with_their_end_or_not_at_all() {
    let mut state = State::new(1);
    let from = state
        .memory
        .add("from", Kind::Kernel, b"hello\0xx".to_vec());
    for (source, len, expected) in [(from, 8, 6), (from, 4, 4), (0, 8, -14_i64 as u64)] {
        let set = [insn(0xb7, 2, 0, 0, len)];
        let code: [&[Raw]; 4] = [&stack(1, -8), &set, &load64(3, source), &[call(115), EXIT]];
        let mut vm = machine(&code, state.clone());
        assert_eq!(vm.call(&mut World::default(), 0, &[]).unwrap(), expected);
    }
    let read = [insn(0xb7, 2, 0, 0, 4)];
    let load = [call(113), insn(0x61, 0, 10, -8, 0), EXIT];
    let mut vm = machine(&[&stack(1, -8), &read, &load64(3, from), &load], state);
    let bytes = vm.call(&mut World::default(), 0, &[]).unwrap();
    assert_eq!(bytes as u32, u32::from_le_bytes(*b"hell"));
}

#[test]
fn a_pointer_in_a_map_belongs_to_the_map() {
    let mut state = State::new(1);
    let place = state.memory.add("map", Kind::Global, vec![0; 8]);
    // Give a loan to the map; take it back and keep it: a leak.
    let give: [&[Raw]; 3] = [
        &[kfunc(1), insn(0xbf, 2, 0, 0, 0)],
        &load64(1, place),
        &[call(194), EXIT],
    ];
    let take: [&[Raw]; 2] = [
        &load64(1, place),
        &[insn(0xb7, 2, 0, 0, 0), call(194), EXIT],
    ];
    let mut vm = machine(&give, state.clone());
    assert_eq!(vm.call(&mut World::default(), 0, &[]).unwrap(), 0);
    let kept = vm.state.memory.read_u64(place).unwrap();
    assert_ne!(kept, 0);
    let mut vm = machine(&take, vm.state);
    let fault = vm.call(&mut World::default(), 0, &[]).unwrap_err();
    assert!(matches!(fault.cause, Cause::Leak(_)), "{fault}");
    // What is not held cannot be given.
    let code: [&[Raw]; 3] = [&load64(1, place), &load64(2, kept), &[call(194), EXIT]];
    let fault = machine(&code, state)
        .call(&mut World::default(), 0, &[])
        .unwrap_err();
    assert!(fault.to_string().contains("not held"), "{fault}");
}
