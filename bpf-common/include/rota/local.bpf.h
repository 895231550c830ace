/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A CPU's local queue: select_cpu() puts there who is to run at once. The core takes
 * tasks from it without dispatch(), and no other CPU does. Three things may go wrong,
 * and are put right at a tick.
 *
 * Chains: tasks that wake each other on one CPU, each put there before the other
 * sleeps. Each has a slice of its own, which never ends: whoever else waits for the
 * CPU would wait for as long as they go on. So they share a slice. A tick tells a
 * chain from a task that uses its slice: it meets one that has run for less than the
 * time since the last tick. So it does where tasks come and go through dispatch();
 * that one of those queues once more is all that costs.
 *
 * Late ones: a task claims a CPU as idle while that takes another one from a queue,
 * and would wait for that one's slice, beside CPUs that idle. From 7.1 on the kernel
 * queues it again (SCX_ENQ_IMMED).
 *
 * Wakers that do not sleep (an interrupt wakes in the name of whoever it found there):
 * who was handed their CPU would wait for the rest of their slice.
 */
#ifndef __ROTA_LOCAL_BPF_H
#define __ROTA_LOCAL_BPF_H

#include <rota/idle.bpf.h>
#include <rota/pinned.bpf.h>

struct chain {
	u64 tick_ns;		/* when its CPU ticked last */
	u64 since_ns;		/* no task has used its slice from one tick to the next since */
	bool handed;		/* since its last tick a task was handed the CPU */
} __attribute__((aligned(64)));

struct chain chains[MAX_CPUS];

/*
 * For select_cpu() of @p, woken by a task that is about to sleep (SCX_WAKE_SYNC), and nobody
 * waits in the queue that this CPU serves: is it free for @p, who then gets ahead of nobody
 * and is spared the way through that queue? If so, dsq_insert_at_once() is to follow.
 */
static __always_inline bool local_hand_over(struct task_struct *p)
{
	const struct task_struct *waker = bpf_get_current_task_btf();
	u32 cpu = bpf_get_smp_processor_id();

	/* One that ends has much to do still. */
	if (!task_is_runnable(waker) || waker->flags & PF_EXITING || fault_stalls(p) ||
	    !bpf_cpumask_test_cpu(cpu, p->cpus_ptr) || pinned_noted(cpu) ||
	    !dsq_is_empty(SCX_DSQ_LOCAL))
		return false;
	chains[cpu & (MAX_CPUS - 1)].handed = true;
	return true;
}

/*
 * The same for policies that have one queue for a CPU, @dsq: true if @p, which no idle CPU
 * can take, has been put into this CPU's local queue, for which select_cpu() is to return it.
 */
static __always_inline bool local_take_over(struct task_struct *p, u64 wake_flags, u64 dsq)
{
	if (!(wake_flags & SCX_WAKE_SYNC) || !idle_none() || !dsq_is_empty(dsq) ||
	    !local_hand_over(p))
		return false;
	dsq_insert_at_once(p, bpf_get_smp_processor_id(), slice_ns);
	return true;
}

/* For tick(): @p runs, and makes way if somebody waits for this CPU alone. */
static __always_inline void local_ease(struct task_struct *p)
{
	if (!dsq_is_empty(SCX_DSQ_LOCAL))
		task_set_slice(p, 0);
}

/* For tick(): @p runs, whose slices are @slice_ns long. */
static __always_inline void local_tick(struct task_struct *p, u64 slice_ns)
{
	struct chain *chain = &chains[task_cpu(p) & (MAX_CPUS - 1)];
	u64 now = bpf_ktime_get_ns();

	if (slice_ns - p->scx.slice >= now - chain->tick_ns) {
		chain->since_ns = now;
	} else if (now - chain->since_ns >= slice_ns) {
		task_set_slice(p, 0);
		chain->since_ns = now;
	}
	chain->tick_ns = now;
	if (chain->handed || (nr_cpu_ids > 1 && !idle_none()))
		local_ease(p);
	chain->handed = false;
}

/*
 * For stopping(): @p leaves its CPU, and would go on if it is @runnable. A tick that ends a
 * chain may meet one that has just woken the next and is about to sleep: that one would run
 * without dispatch(), and so on if each tick meets them there. So it has no slice either.
 */
static __always_inline void local_stopping(struct task_struct *p, bool runnable)
{
	task_requeue_if_preempted(p, runnable);
	if (!runnable && !p->scx.slice && !dsq_is_empty(SCX_DSQ_LOCAL))
		scx_bpf_kick_cpu(task_cpu(p), SCX_KICK_PREEMPT);
}

#endif /* __ROTA_LOCAL_BPF_H */
