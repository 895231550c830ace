/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * scx_vtime: exact weighted fairness on one queue.
 *
 * Each task has a virtual time that advances by its run time x 100 / weight,
 * and the task that would be through with a slice at the smallest virtual time,
 * its deadline, runs next. All CPUs take from one queue, so shares are exact
 * over the whole machine, not per CPU.
 *
 *	wake-up --- idle CPU? ----------------------------> its local queue
 *	   |
 *	   +--- nobody waits, waker is to sleep? ---------> local queue of its CPU
 *	   |
 *	   +--- per-CPU kernel thread ---------------------> head of its local queue
 *	   |
 *	   +--- pinned -> queue of the CPU, by deadline --+
 *	   |                                              +--> the smaller head
 *	   +--- else ---> queue of all CPUs, by deadline -+
 *
 * A new task starts at the queue's clock, a sleeper comes back at most half a
 * slice behind it, and nobody drifts far from it: fair.bpf.h has the rules,
 * which this policy applies to one queue.
 *
 * Invariants:
 *  - A runnable task that does not run is in exactly one queue.
 *  - Virtual time is charged for CPU time used, as the kernel accounts it, and
 *    for nothing else: never by what is left of a slice.
 *  - Of the two queues a CPU serves, neither waits for more than
 *    FAIR_STREAK_MAX tasks of the other.
 *  - Nobody waits for longer than half of the watchdog's timeout, and the turns
 *    of those before it.
 *
 * Known weakness: the one queue has one lock. Up to about 32 CPUs it is not
 * felt; beyond that, or where caches matter more than exact shares, a policy
 * with a queue per LLC is the better choice. Where tasks compete in two parts of
 * a machine, to which affinity confines them, the clock is that of the part with
 * less work; in the other one the lighter get more than their weight.
 * Where a weight is worth less than a turn in a quarter of the watchdog's
 * timeout the task gets a turn anyway.
 */
#include "intf.h"
#include <rota/fair.bpf.h>
#include <rota/idle.bpf.h>
#include <rota/local.bpf.h>
#include <rota/ops.bpf.h>
#include <rota/stats.bpf.h>

/* Where the queue of all CPUs stands. */
static struct vclock clock;

OP(s32, vtime, select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu = bpf_get_smp_processor_id();
	bool placed = local_take_over(p, wake_flags, DSQ_MACHINE);

	if (placed) {
		count(nr_sync);
	} else {
		cpu = idle_place(p, prev_cpu, wake_flags, &placed);
		if (placed)
			count(nr_idle);
	}
	if (placed)
		fair_wake(p, &clock);
	return cpu;
}

OP(void, vtime, enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 deadline;

	if (fault_stalls(p))
		return;
	if (pinned_run_kthread(p, enq_flags)) {
		count(nr_kthread);
		return;
	}
	deadline = fair_place(p, &clock, enq_flags);
	if (deadline != p->scx.dsq_vtime)
		count(nr_clamped);
	if (task_is_pinned(p)) {
		fair_queue_pinned(p, deadline, enq_flags);
		count(nr_pinned);
		return;
	}
	dsq_insert_vtime(p, DSQ_MACHINE, slice_ns, deadline, enq_flags);
	count(nr_queued);
	if (idle_kick(p))
		count(nr_kicked);
}

OP(void, vtime, dispatch, s32 cpu, struct task_struct *prev)
{
	enum fair_choice choice;
	bool waiting;

	choice = fair_dispatch(cpu, prev, DSQ_MACHINE, &clock, slice_ns, &waiting);
	if (choice == FAIR_KEPT)
		count(nr_kept);
	else if (choice == FAIR_NONE)
		idle_enter(cpu);
}

OP(void, vtime, tick, struct task_struct *p)
{
	local_tick(p, slice_ns);
}

OP(void, vtime, running, struct task_struct *p)
{
	fair_running(p, &clock);
}

OP(void, vtime, stopping, struct task_struct *p, bool runnable)
{
	fair_stopping(p, runnable, false);
}

OP(void, vtime, update_idle, s32 cpu, bool idle)
{
	if (idle_update(cpu, idle))
		fair_idle(cpu, &clock, idle_recheck(cpu, DSQ_MACHINE));
}

OP(void, vtime, enable, struct task_struct *p)
{
	fair_enable(p, &clock);
}

OP_SLEEPABLE(s32, vtime, init)
{
	s32 err = dsq_create(DSQ_MACHINE, 1);

	return err ?: dsq_create(DSQ_CPU, nr_cpu_ids);
}

POLICY(vtime,
       .select_cpu = (void *)vtime_select_cpu,
       .enqueue = (void *)vtime_enqueue,
       .dispatch = (void *)vtime_dispatch,
       .tick = (void *)vtime_tick,
       .running = (void *)vtime_running,
       .stopping = (void *)vtime_stopping,
       .update_idle = (void *)vtime_update_idle,
       .enable = (void *)vtime_enable,
       .init = (void *)vtime_init,
       .flags = SCX_OPS_KEEP_BUILTIN_IDLE);
