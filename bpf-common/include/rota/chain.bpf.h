/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Chains: tasks that wake each other on one CPU, each put into its local queue by
 * select_cpu() before the other sleeps. The core takes them from there without
 * dispatch(), and each has a slice of its own, which never ends: whoever else
 * waits for the CPU would wait for as long as they go on. So they share a slice.
 *
 * A tick tells a chain from a task that uses its slice: it meets one that has run
 * for less than the time since the last tick. So it does where tasks come and go
 * through dispatch(); that one of those queues once more is all that costs.
 */
#ifndef __ROTA_CHAIN_BPF_H
#define __ROTA_CHAIN_BPF_H

#include <rota/task.bpf.h>

struct chain {
	u64 tick_ns;		/* when its CPU ticked last */
	u64 since_ns;		/* no task has used its slice from one tick to the next since */
} __attribute__((aligned(64)));

struct chain chains[MAX_CPUS];

/* For tick(): @p runs, whose slices are @slice_ns long. */
static __always_inline void chain_tick(struct task_struct *p, u64 slice_ns)
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
}

#endif /* __ROTA_CHAIN_BPF_H */
