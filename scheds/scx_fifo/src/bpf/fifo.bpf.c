/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * scx_fifo: first come, first served, with the least work per decision.
 *
 * A task that wakes while a CPU it may use is idle goes straight to that CPU, and
 * if nobody waits it takes over the CPU of a waker that is about to sleep.
 * Otherwise it waits at the end of its LLC's queue. A CPU serves its LLC's
 * queue, and before it would idle it takes from the other LLCs, those of its
 * own node first. Tasks that only one CPU may run wait in that CPU's queue.
 *
 *	wake-up --- idle CPU? ------------------------> local queue of that CPU
 *	   |
 *	   +--- nobody waits, waker is to sleep? -----> local queue of its CPU
 *	   |
 *	   +--- per-CPU kernel thread ----------------> head of its local queue
 *	   |
 *	   +--- pinned -> queue of the CPU --+
 *	   |                                 +--turns--> local queue
 *	   +--- else ---> queue of the LLC --+
 *	                          \
 *	                           +---- CPUs of other LLCs, before they idle
 *
 * Invariants:
 *  - A runnable task that does not run is in exactly one queue.
 *  - A CPU whose two queues both hold tasks serves them in turns, so neither
 *    kind of task can starve the other.
 *  - A CPU idles only if no queue held a task that it may run.
 *
 * For batch work of equal tasks, and as the floor of cost that every other
 * policy is measured against: no run time is accounted.
 *
 * Known weakness: there is no notion of weight or of an interactive task. With
 * n runnable hogs on m CPUs a task that wakes waits up to n/m slices. Queues
 * of two LLCs may differ in length while both have work, and are not levelled.
 */
#include "intf.h"
#include <rota/idle.bpf.h>
#include <rota/local.bpf.h>
#include <rota/ops.bpf.h>
#include <rota/pinned.bpf.h>
#include <rota/stats.bpf.h>

/* On a CPU whose two queues both hold tasks: did the LLC's have the last turn? */
struct cpu_ctx {
	bool llc_served;
} __attribute__((aligned(64)));

static struct cpu_ctx cpu_ctxs[MAX_CPUS];

OP(s32, fifo, select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	s32 cpu, own = bpf_get_smp_processor_id();
	bool placed;

	if (local_take_over(p, wake_flags, DSQ_LLC | cpu_llc(own))) {
		count(nr_sync);
		return own;
	}
	cpu = idle_place(p, prev_cpu, wake_flags, &placed);
	if (placed)
		count(nr_idle);
	return cpu;
}

OP(void, fifo, enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 cpu = task_cpu(p);

	if (fault_stalls(p))
		return;
	if (pinned_run_kthread(p, enq_flags)) {
		count(nr_kthread);
		return;
	}
	if (task_is_pinned(p)) {
		dsq_insert(p, DSQ_CPU | cpu, slice_ns, enq_flags);
		pinned_queued(p);
		count(nr_pinned);
		return;
	}
	dsq_insert(p, DSQ_LLC | cpu_llc(cpu), slice_ns, enq_flags);
	count(nr_queued);
	if (idle_kick(p))
		count(nr_kicked);
}

/* Serve the two queues of @cpu, in turns while both hold tasks. */
static __always_inline bool serve(s32 cpu, u32 llc)
{
	if (pinned_waiting(cpu) && (u32)cpu < MAX_CPUS) {
		struct cpu_ctx *ctx = &cpu_ctxs[cpu];

		ctx->llc_served = !ctx->llc_served;
		if (ctx->llc_served && dsq_move_to_local(DSQ_LLC | llc))
			return true;
		if (dsq_move_to_local(DSQ_CPU | cpu))
			return true;
	}
	return dsq_move_to_local(DSQ_LLC | llc);
}

OP(void, fifo, dispatch, s32 cpu, struct task_struct *prev)
{
	u32 llc = cpu_llc(cpu);

	if (serve(cpu, llc))
		return;
	if (prev && task_is_runnable(prev)) {
		/* Nobody waits here. Left alone, the kernel would give it its own 20 ms. */
		task_set_slice(prev, slice_ns);
		return;
	}
	if (dsq_steal_llc(llc))
		count(nr_stolen);
	else
		idle_enter(cpu);
}

OP(void, fifo, tick, struct task_struct *p)
{
	local_tick(p, slice_ns);
}

OP(void, fifo, stopping, struct task_struct *p, bool runnable)
{
	local_stopping(p, runnable);
}

OP(void, fifo, update_idle, s32 cpu, bool idle)
{
	u32 llc;

	if (!idle_update(cpu, idle))
		return;
	bpf_for(llc, 0, nr_llcs) {
		if (idle_recheck(cpu, DSQ_LLC | llc))
			break;
	}
}

OP_SLEEPABLE(s32, fifo, init)
{
	s32 err = dsq_create(DSQ_LLC, nr_llcs);

	return err ?: dsq_create(DSQ_CPU, nr_cpu_ids);
}

POLICY(fifo,
       .select_cpu = (void *)fifo_select_cpu,
       .enqueue = (void *)fifo_enqueue,
       .dispatch = (void *)fifo_dispatch,
       .tick = (void *)fifo_tick,
       .stopping = (void *)fifo_stopping,
       .update_idle = (void *)fifo_update_idle,
       .init = (void *)fifo_init,
       .flags = SCX_OPS_KEEP_BUILTIN_IDLE);
