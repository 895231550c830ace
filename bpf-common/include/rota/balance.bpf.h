/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hands of the balancer. User space looks at the shards now and then and
 * gives those with too much competition a budget of weight for others; this
 * spends it, on tasks that use up their slices, and keeps the accounts of what
 * was moved.
 *
 * A task is moved while its weight is less than EXPORT_TAKE_PCT of the budget
 * that is left, so each move makes the shards more even and none is worth undoing.
 */
#ifndef __ROTA_BALANCE_BPF_H
#define __ROTA_BALANCE_BPF_H

#include <rota/idle_llc.bpf.h>
#include <rota/shard.bpf.h>
#include <rota/signal.bpf.h>

struct shard_export shard_exports[MAX_SHARDS][EXPORT_TARGETS];

/* Some budget is out. */
volatile u32 balance_active;

/* User space sleeps without a timer and wants to know when tasks begin to wait. */
volatile u32 balance_sleeps;

/* For enqueue(): a task has to wait, so it may be worth looking at the shards. */
static __always_inline void balance_wake(void)
{
	if (nr_shards > 1 && balance_sleeps && __sync_lock_test_and_set(&balance_sleeps, 0))
		signal_user();
}

/* A task of @weight is moved by what is left of a budget. */
static __always_inline bool export_takes(s64 budget, u32 weight)
{
	return budget > 0 && weight * 100ULL < budget * (u64)EXPORT_TAKE_PCT;
}

/*
 * For enqueue(): the shard in whose queue to put @p, which has used up its
 * slice in shard @from: another one if the balancer wants it there. Who may use no
 * more CPUs than a shard has is taken to be confined to it, and threads of the kernel
 * are where they serve.
 */
static __always_inline u32 balance_target(const struct task_struct *p, u32 from)
{
	struct shard_state *state = shard_state(from);
	u32 weight = p->scx.weight;
	u32 i;

	if (nr_shards == 1 || p->flags & PF_KTHREAD ||
	    p->nr_cpus_allowed <= shards[from & (MAX_SHARDS - 1)].nr_cpus)
		return from;
	if (!state->mover)
		state->mover = p->pid;
	if (weight < state->lightest || !state->lightest)
		state->lightest = weight;
	if (!balance_active)
		return from;
	bpf_for(i, 0, EXPORT_TARGETS) {
		struct shard_export *export;
		s64 budget;
		u32 to;

		export = &shard_exports[from & (MAX_SHARDS - 1)][i & (EXPORT_TARGETS - 1)];
		to = export->target;
		if (!export_takes(export->budget, weight) || to >= nr_shards ||
		    to >= MAX_SHARDS || llc_any_cpu(p, shards[to].llc) < 0)
			continue;
		budget = __sync_fetch_and_add(&export->budget, -(s64)weight);
		if (!export_takes(budget, weight)) {
			/* Another CPU was quicker. */
			__sync_fetch_and_add(&export->budget, weight);
			continue;
		}
		__sync_fetch_and_add(&export->moved, weight);
		return to;
	}
	return from;
}

#endif /* __ROTA_BALANCE_BPF_H */
