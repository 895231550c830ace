/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Waiting beside idle CPUs, for the sake of warm ones, and the end of it.
 *
 * A task waits for a warm CPU if its waker is about to leave one, or if the user
 * has limited the primary nest. Either may take longer than it was meant to. The
 * CPU that is waited for runs one of our tasks, or nobody would wait for it; so
 * it ticks, and its tick wakes a cold CPU for who has waited for too long.
 */
#ifndef __FREQ_WAIT_BPF_H
#define __FREQ_WAIT_BPF_H

#include "nest.bpf.h"

struct task_memo {
	u32 pid;
	u16 attached;		/* rank + 1 of the CPU where it belongs; 0: none */
	u16 nr_misses;		/* wake-ups in a row without the CPU it wanted */
	u64 queued_at;		/* when it began to wait beside idle CPUs */
};

#include <rota/task_memo.bpf.h>

/* Live options. */
volatile u64 grow_ns = 2000000;		/* wait beside an idle CPU that a tick ends */
volatile u32 primary_max;		/* wake-ups make the primary nest no larger; 0: any size */

/* For enqueue(): @p begins to wait beside idle CPUs. */
static __always_inline void wait_begin(struct task_struct *p)
{
	task_memo(p)->queued_at = bpf_ktime_get_ns();
}

/*
 * A CPU to wait for, if the primary nest is as large as it may be for @p, which
 * may run there: one that runs a task of ours, or -1 if there is none, because a
 * nest in the hands of real-time tasks is not worth to wait for.
 */
__noinline s32 wait_for_nest(struct task_struct *p __arg_trusted)
{
	u32 try, word = 0;
	u64 bits;

	if (!grow_ns || !primary_max || primary_size.nr < primary_max ||
	    (u32)p->nr_cpus_allowed < nr_ranks)
		return -1;
	bits = mask_word(&primary, 0);
	bpf_for(try, 0, MAX_CPUS + MASK_WORDS) {
		s32 cpu;

		if (!bits) {
			if (++word >= MASK_WORDS || word * 64 >= nr_ranks)
				break;
			bits = mask_word(&primary, word);
			continue;
		}
		cpu = rank_cpu(word * 64 + bit_lowest(bits));
		if (nest_cpu(cpu)->ours)
			return cpu;
		bits &= bits - 1;
	}
	return -1;
}

/* The waker, of ours and about to sleep, leaves a warm CPU to @p, and nobody waits for it yet. */
static __always_inline bool wait_for_waker(const struct task_struct *p, s32 waker)
{
	return grow_ns && nest_cpu(waker)->ours && bpf_cpumask_test_cpu(waker, p->cpus_ptr) &&
	       dsq_is_empty(DSQ_MACHINE) &&
	       !scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | waker);
}

/* For tick(): who has waited for too long gets a CPU, if one idles that it may run. */
__noinline int wait_tick(u64 now)
{
	struct task_struct *p;
	int scanned = 0;

	if (!nest_idles() || dsq_is_empty(DSQ_MACHINE))
		return 0;
	bpf_for_each(scx_dsq, p, DSQ_MACHINE, 0) {
		u32 rank;

		/* Who queued while no CPU idled has an old date, and need not wait either. */
		if (now - task_memo(p)->queued_at >= grow_ns) {
			rank = nest_find(p, RANK_NONE, RANK_NONE, NEST_GROW) & ~NEST_SHARED;
			if (rank != RANK_NONE) {
				nest_make_primary(rank, now);
				scx_bpf_kick_cpu(rank_cpu(rank), SCX_KICK_IDLE);
				count(nr_forced);
			}
		}
		if (++scanned == DSQ_HEAD_SCAN)
			break;
	}
	return 0;
}

#endif /* __FREQ_WAIT_BPF_H */
