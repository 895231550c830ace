/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a task wakes or begins, or gets help, for policies with queues per shard.
 */
#ifndef __ROTA_PLACE_BPF_H
#define __ROTA_PLACE_BPF_H

#include <rota/idle_llc.bpf.h>
#include <rota/local.bpf.h>
#include <rota/shard.bpf.h>

/*
 * On a wake-up by a task that is about to sleep: @prev_cpu if it idles and is near, or the
 * waker's CPU if @p would not get ahead of others; -1 if neither helps. Where no CPU idles
 * (@none) the waker's is not worth another LLC.
 */
static __always_inline s32 place_sync(struct task_struct *p, s32 prev_cpu, bool none)
{
	s32 waker = bpf_get_smp_processor_id();
	u32 shard = cpu_shard(waker);
	bool near = cpu_llc(prev_cpu) == cpu_llc(waker);

	if (near && !none && bpf_cpumask_test_cpu(prev_cpu, p->cpus_ptr) &&
	    scx_bpf_test_and_clear_cpu_idle(prev_cpu))
		return prev_cpu;
	if (!near && none)
		return -1;
	/* What is noted is that somebody may wait. */
	if (shard_state(shard)->waiting && !dsq_is_empty(DSQ_SHARD | shard))
		return -1;
	return local_hand_over(p) ? waker : -1;
}

/*
 * The LLC with the least tasks per CPU, of those that @p, which is new and of @own, may use.
 * Each LLC that is looked at is told from @own and a number anew: one that is counted on the
 * verifier follows through all its values, so that its work grows with the machine. Of these it
 * has seen all after two turns, as measured on 6.12 to 7.3.
 */
static __always_inline u32 place_new(const struct task_struct *p, u32 own)
{
	u32 best_load = ~0U, best = own, i;

	bpf_for(i, 0, IDLE_LLC_TRIES) {
		u32 llc = own + i, cpus, load;

		if (i >= nr_llcs)
			break;
		if (llc >= nr_llcs)
			llc -= nr_llcs;
		llc &= MAX_LLCS - 1;
		cpus = topology_llcs[llc].nr_cpus;
		load = (cpus - llc_nr_idle(llc) + llc_nr_queued(llc)) * 1024 / (cpus ?: 1);
		if (load < best_load && llc_any_cpu(p, llc) >= 0) {
			best_load = load;
			best = llc;
		}
	}
	return best;
}

/*
 * At @now, wake an idle CPU for each of the first tasks in the queue of @shard that is
 * overdue; how many were woken. Others are asked only if no CPU of the LLC can help. A
 * function of its own, so that the verifier looks at it once.
 */
__noinline u32 shard_call_help(u32 shard, u64 now)
{
	u32 llc = shards[shard & (MAX_SHARDS - 1)].llc;
	struct task_struct *p;
	u32 scanned = 0, called = 0;
	s32 cpu;

	bpf_for_each(scx_dsq, p, DSQ_SHARD | shard, 0) {
		if (shard_overdue(p, now)) {
			cpu = idle_claim_llc(p, task_cpu(p), llc);
			if (cpu < 0)
				cpu = idle_claim(p, 0);
			if (shard_call(shard, cpu))
				called++;
			else
				shard_mark(shard);
		}
		if (++scanned == DSQ_HEAD_SCAN)
			break;
	}
	return called;
}

/* For tick(), on a CPU of @shard, one of several: help for who is overdue. As above. */
static __always_inline u32 shard_tick(u32 shard)
{
	struct shard_state *state = shard_state(shard);
	u64 now;

	if (!state->waiting)
		return 0;
	now = bpf_ktime_get_ns();
	/* A look takes the queue's lock: one for all of the CPUs whose ticks come together. */
	if (now - state->looked_at < SHARD_WAIT_NS / 2)
		return 0;
	state->looked_at = now;
	return shard_call_help(shard, now);
}

/* Before @p runs or waits on @cpu, having run on @prev_cpu last: its virtual time there. */
static __always_inline void place_carry(struct task_struct *p, s32 prev_cpu, s32 cpu)
{
	u32 from = cpu_shard(prev_cpu), to = cpu_shard(cpu);

	if (from != to)
		task_set_vtime(p, shard_carry(p->scx.dsq_vtime, from, to));
}

#endif /* __ROTA_PLACE_BPF_H */
