// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the scheduler keeps its promises whatever machine and work it meets, and the search that
//! says so finds what is wrong. Method: random cases in the simulator, of the object that ships and
//! of copies with a mistake in them.

use std::fs;
use std::path::Path;

use rota_sim::bpf::Pieces;
use rota_sim::properties::{Promises, Scenario, Violation, check, check_case, search};

const SCHEDULER: &str = env!("CARGO_BIN_EXE_scx_vtime");
const PROMISES: Promises = Promises {
    exact_shares: true,
    idle_ns: 8_000_000,
};

/// What the search finds in the policy once each first text in it is the second.
fn planted(changes: &[(&str, &str)]) -> Option<Violation> {
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bpf"));
    let dir = tempfile::tempdir().expect("there is room for a directory");
    let read = |name: &str| fs::read_to_string(source.join(name)).expect("it is there");
    let mut text = read("vtime.bpf.c");
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text = text.replace(from, to);
    }
    let (policy, object) = (
        dir.path().join("vtime.bpf.c"),
        dir.path().join("vtime.bpf.o"),
    );
    fs::write(dir.path().join("intf.h"), read("intf.h")).expect("there is room for a file");
    fs::write(&policy, text).expect("there is room for a file");
    rota_build::compile(&policy, &object).unwrap_or_else(|error| panic!("{error:#}"));
    let object = fs::read(object).expect("it was just made");
    search(SCHEDULER, Some(&object), PROMISES, 400)
}

#[test]
fn promises_are_kept() {
    check(SCHEDULER, PROMISES);
}

/// A CPU's clock goes back when it joins the queue's again; who woke by the clock before that
/// waited for all that it had to make up.
#[test]
fn sleepers_do_not_wait_for_a_clock_that_went_back() {
    let found = Scenario {
        machine: "1x4x1".to_owned(),
        kernel: "6.12",
        workload: include_str!("found/sleepers_beside_a_yielding_hog.toml").to_owned(),
        cut: Pieces::Whole,
        unplug: None,
        seed: 0,
    };
    check_case(SCHEDULER, PROMISES, &found);
}

/// The clock followed a task that had a CPU to itself, faster than those who had less could: they were
/// all further behind than is kept, and the one that is worth a CPU had half.
#[test]
fn weights_count_beside_a_task_with_a_cpu_to_itself() {
    let found = Scenario {
        machine: "1x4x1".to_owned(),
        kernel: "7.3",
        workload: include_str!("found/confined_beside_a_cpu_to_oneself.toml").to_owned(),
        cut: Pieces::Kfuncs,
        unplug: None,
        seed: 0,
    };
    check_case(SCHEDULER, PROMISES, &found);
}

/// The mistake that is made most: the core gives a task that goes on because nobody waits a slice of
/// its own length, so what is left of it says nothing of what was used, and may be more than all of it.
#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn a_charge_by_what_is_left_of_the_slice_is_found() {
    let found = planted(&[
        (
            "\tfair_stopping(p, runnable, false);",
            "\ttask_set_vtime(p, p->scx.dsq_vtime +\n\
             \t\t\t  vtime_scale(slice_ns - p->scx.slice, p->scx.weight));",
        ),
        (
            "\tdeadline = fair_place(p, &clock, enq_flags);",
            "\tdeadline = p->scx.dsq_vtime;",
        ),
        (
            "\tchoice = fair_dispatch(cpu, prev, DSQ_MACHINE, &clock, slice_ns, &waiting);",
            "\twaiting = dsq_move_to_local(DSQ_CPU | cpu) || dsq_move_to_local(DSQ_MACHINE);\n\
             \tchoice = waiting ? FAIR_NEXT : FAIR_NONE;",
        ),
    ]);
    let found = found.expect("it is found");
    assert!(found.what.contains(" waits "), "{found}");
}

/// A count of those who wait, so that a CPU need not look at the queue, that two CPUs add to at once:
/// one of the two is lost, and with it a task.
#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes without optimisation")]
fn a_race_for_a_count_of_waiters_is_found() {
    let found = planted(&[
        (
            "static struct vclock clock;",
            "static struct vclock clock;\ns64 nr_waiting SEC(\".bss.nr_waiting\");",
        ),
        (
            "\tdeadline = fair_place(p, &clock, enq_flags);",
            "\tnr_waiting++;\n\tdeadline = fair_place(p, &clock, enq_flags);",
        ),
        (
            "\tchoice = fair_dispatch(cpu, prev, DSQ_MACHINE, &clock, slice_ns, &waiting);",
            "\tif (nr_waiting <= 0 && !task_is_runnable(prev))\n\t\treturn;\n\
             \tchoice = fair_dispatch(cpu, prev, DSQ_MACHINE, &clock, slice_ns, &waiting);\n\
             \tif (choice == FAIR_NEXT)\n\t\tnr_waiting--;",
        ),
    ]);
    let found = found.expect("it is found");
    assert!(found.what.contains(" waits "), "{found}");
}
