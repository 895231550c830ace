/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a task wakes or begins, or gets help, for policies with queues per shard.
 */
#ifndef __ROTA_PLACE_BPF_H
#define __ROTA_PLACE_BPF_H

#include <rota/idle_llc.bpf.h>
#include <rota/shard.bpf.h>

/*
 * On a wake-up by a task that is about to sleep: @prev_cpu if it idles and is
 * near, the waker's CPU if @p would not get ahead of others; -1 if neither helps.
 */
static __always_inline s32 place_sync(struct task_struct *p, s32 prev_cpu)
{
	s32 waker = bpf_get_smp_processor_id();

	if (bpf_get_current_task_btf()->flags & PF_EXITING)
		return -1;
	if (cpu_llc(prev_cpu) == cpu_llc(waker) && bpf_cpumask_test_cpu(prev_cpu, p->cpus_ptr) &&
	    scx_bpf_test_and_clear_cpu_idle(prev_cpu))
		return prev_cpu;
	if (!bpf_cpumask_test_cpu(waker, p->cpus_ptr) || shard_state(cpu_shard(waker))->waiting ||
	    scx_bpf_dsq_nr_queued(SCX_DSQ_LOCAL_ON | waker))
		return -1;
	return waker;
}

/* The LLC with the least tasks per CPU, of those that @p, which is new and of @own, may use. */
static __always_inline u32 place_new(const struct task_struct *p, u32 own)
{
	u32 best_load = ~0U, best = own, llc = own, i;

	bpf_for(i, 0, IDLE_LLC_TRIES) {
		u32 cpus, load;

		if (i >= nr_llcs || llc >= MAX_LLCS)
			break;
		cpus = topology_llcs[llc].nr_cpus;
		load = (cpus - llc_nr_idle(llc) + llc_nr_queued(llc)) * 1024 / (cpus ?: 1);
		if (load < best_load && llc_any_cpu(p, llc) >= 0) {
			best_load = load;
			best = llc;
		}
		if (++llc >= nr_llcs)
			llc = 0;
	}
	return best;
}

/*
 * An idle CPU that may run one of the first tasks in the queue of @shard, claimed:
 * one of its LLC if it is to be @near, or else any; -1 if there is none. A
 * function of its own, so that the verifier looks at it once.
 */
__noinline s32 shard_helper(u32 shard, bool near)
{
	u32 llc = shards[shard & (MAX_SHARDS - 1)].llc;
	struct task_struct *p;
	int scanned = 0;
	s32 cpu = -1;

	bpf_for_each(scx_dsq, p, DSQ_SHARD | shard, 0) {
		cpu = near ? idle_claim_llc(p, task_cpu(p), llc) : idle_claim(p, 0);
		if (cpu >= 0 || ++scanned == DSQ_HEAD_SCAN)
			break;
	}
	return cpu;
}

/*
 * For tick(), when tasks of @shard have waited for long: an idle CPU that may run one
 * of the first, claimed; -1 if there is none. Others are asked only if no CPU of the
 * LLC can help.
 */
static __always_inline s32 shard_any_helper(u32 shard)
{
	s32 cpu = shard_helper(shard, true);

	if (cpu >= 0)
		return cpu;
	shard_mark(shard);
	return shard_helper(shard, false);
}

/* Before @p runs or waits on @cpu, having run on @prev_cpu last: its virtual time there. */
static __always_inline void place_carry(struct task_struct *p, s32 prev_cpu, s32 cpu)
{
	u32 from = cpu_shard(prev_cpu), to = cpu_shard(cpu);

	if (from != to)
		task_set_vtime(p, shard_carry(p->scx.dsq_vtime, from, to));
}

#endif /* __ROTA_PLACE_BPF_H */
