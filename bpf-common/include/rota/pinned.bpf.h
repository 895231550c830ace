/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One queue per CPU for the tasks that only this CPU may run, DSQ_CPU | cpu.
 *
 * Most CPUs never have such a task waiting, and a look at a queue costs a hash
 * lookup, so each CPU keeps a note whether its queue may hold anything. The
 * note is written and read under the run queue lock of its CPU: enqueue() and
 * dispatch() both hold it.
 */
#ifndef __ROTA_PINNED_BPF_H
#define __ROTA_PINNED_BPF_H

#include <rota/dsq.bpf.h>
#include <rota/task.bpf.h>
#include <rota/tunables.bpf.h>

struct pinned_note {
	bool waiting;
} __attribute__((aligned(64)));

struct pinned_note pinned_notes[MAX_CPUS];

/* After an insertion of @p into its CPU's queue: note it, and wake the CPU if it idles. */
static __always_inline void pinned_queued(const struct task_struct *p)
{
	u32 cpu = task_cpu(p);

	if (cpu < MAX_CPUS)
		pinned_notes[cpu].waiting = true;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
}

/*
 * For enqueue(): a per-CPU kernel thread that wakes runs at once; true if @p is
 * one and has been taken care of. Only as it wakes: one that uses up its slice
 * queues like any pinned task, or it would never let go of its CPU.
 */
static __always_inline bool pinned_run_kthread(struct task_struct *p, u64 enq_flags)
{
	if (!(enq_flags & SCX_ENQ_WAKEUP) || !task_is_percpu_kthread(p))
		return false;
	dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, enq_flags | SCX_ENQ_PREEMPT);
	return true;
}

/* For enqueue() of a task of @cpu: was there one in its own queue when it looked last? */
static __always_inline bool pinned_noted(u32 cpu)
{
	return cpu < MAX_CPUS && pinned_notes[cpu].waiting;
}

/* For dispatch() on @cpu: may its own queue hold a task? */
static __always_inline bool pinned_waiting(s32 cpu)
{
	if (!pinned_noted(cpu))
		return false;
	if (dsq_is_empty(DSQ_CPU | cpu)) {
		pinned_notes[cpu].waiting = false;
		return false;
	}
	return true;
}

#endif /* __ROTA_PINNED_BPF_H */
