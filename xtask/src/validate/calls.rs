// SPDX-License-Identifier: GPL-2.0-only
//! The callbacks that a kernel makes, from a trace of the functions that make them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Run in a guest with the name of a scheduler, it prints a line for each call of such a function:
/// its name, the pid of the task, its place on the run queue and the flags of sched_ext in
/// hexadecimal, all as they are when the function begins. Probes come and go one after the other: what
/// counts is from when all are there to when the first one goes.
pub const SCRIPT: &str = r#"
set -e
cd /sys/kernel/tracing
for function in enqueue dequeue set_next put_prev; do
    name=${function}_task_scx
    echo "f:rota/$name $name pid=p->pid on_rq=p->on_rq flags=p->scx.flags:x32" >> dynamic_events
done
name=select_task_rq_scx
echo "f:rota/$name $name pid=p->pid on_rq=wake_flags flags=p->scx.flags:x32" >> dynamic_events
name=task_tick_scx
echo "f:rota/$name $name pid=curr->pid on_rq=curr->on_rq flags=curr->scx.flags:x32" >> dynamic_events
echo 32768 > buffer_size_kb
$1 > /dev/null 2>&1 &
sched=$!
until [ "$(cat /sys/kernel/sched_ext/state)" = enabled ]; do sleep 0.1; done
echo 1 > events/rota/enable
echo all > trace_marker
rota-load run mixed --for 1s > /dev/null
echo enough > trace_marker
echo 0 > events/rota/enable
kill $sched
wait $sched
sed -n '/: all$/,/: enough$/s/.*: \([a-z_]*_scx\): ([^)]*) pid=\([0-9]*\) on_rq=\([0-9]*\) flags=0x\([0-9a-f]*\)/\1 \2 \3 \4/p' trace
"#;

/// `TASK_ON_RQ_MIGRATING`: a move between run queues, of which a policy is not told.
const MIGRATING: u32 = 2;
/// `SCX_TASK_QUEUED`.
const QUEUED: u32 = 1;
/// `WF_EXEC`: an exec, at which the policy is not asked for a CPU.
const EXEC: u32 = 2;

/// Of what [`SCRIPT`] printed, the callbacks in the form that the simulator takes: a line for each,
/// its name and the pid. Those that the core may leave out are left out: `enqueue` and `dequeue`.
pub fn callbacks(trace: &str) -> String {
    let mut calls = String::new();
    let mut running = BTreeSet::new();
    for line in trace.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [function, pid, second, flags] = words[..] else {
            continue;
        };
        let number = |word, radix| u32::from_str_radix(word, radix).unwrap_or(0);
        let (second, queued) = (number(second, 10), number(flags, 16) & QUEUED != 0);
        let moves = second == MIGRATING;
        let names: &[&str] = match function {
            "select_task_rq_scx" if second & EXEC == 0 => &["select_cpu"],
            "enqueue_task_scx" if !queued && !moves => &["runnable"],
            "set_next_task_scx" if queued => {
                running.insert(pid);
                &["running"]
            }
            "put_prev_task_scx" if queued => {
                running.remove(pid);
                &["stopping"]
            }
            "dequeue_task_scx" if queued => match (running.remove(pid), moves) {
                (true, false) => &["stopping", "quiescent"],
                (true, true) => &["stopping"],
                (false, false) => &["quiescent"],
                (false, true) => &[],
            },
            "task_tick_scx" => {
                // It may have begun before the trace did.
                running.insert(pid);
                &["tick"]
            }
            _ => &[],
        };
        for name in names {
            writeln!(calls, "{name} {pid}").expect("a string takes everything");
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_are_those_that_the_functions_make() {
        let trace = "select_task_rq_scx 7 8 40c\n\
                     select_task_rq_scx 7 2 40c\n\
                     enqueue_task_scx 7 0 40c\n\
                     enqueue_task_scx 7 1 40d\n\
                     a line of something else\n\
                     set_next_task_scx 7 1 40d\n\
                     task_tick_scx 7 1 40d\n\
                     put_prev_task_scx 7 1 40d\n\
                     dequeue_task_scx 7 2 40d\n\
                     enqueue_task_scx 7 2 40c\n\
                     set_next_task_scx 7 1 40d\n\
                     dequeue_task_scx 7 1 40d\n";
        let expected = [
            "select_cpu",
            "runnable",
            "running",
            "tick",
            "stopping",
            "running",
            "stopping",
            "quiescent",
        ];
        let calls = callbacks(trace);
        let names: Vec<&str> = calls
            .lines()
            .filter_map(|line| line.strip_suffix(" 7"))
            .collect();
        assert_eq!(names, expected);
    }
}
