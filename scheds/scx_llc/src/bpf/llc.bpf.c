/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * scx_llc: tasks stay near their cache; fairness by weight within each
 * last-level cache (LLC), and levelled between them.
 *
 * Each LLC has a queue ordered by virtual deadline (a large one several,
 * its shards), which its CPUs serve as scx_vtime serves its only one. A task
 * stays in its LLC unless one of two movers takes it:
 *
 *	wake-up --- idle CPU of the LLC? ----------------> its local queue
 *	   |
 *	   +--- nobody waits, waker is to sleep? --------> local queue of its CPU
 *	   |
 *	   +--- LLC overloaded, idle core elsewhere? ----> its local queue
 *	   |
 *	   +--- per-CPU kernel thread -------------------> head of its local queue
 *	   |
 *	   +--- pinned -> queue of the CPU, by deadline --+
 *	   |                                              +--> the smaller head
 *	   +--- else ---> queue of the shard, by deadline +
 *	                   |               |
 *	                   |               +--- (1) CPUs of others, before they idle
 *	   slice end ------+
 *	   |
 *	   +--- (2) budget? --> queue of another shard
 *
 * (1) Work conservation: a CPU that would idle takes from the more crowded of
 *     two shards where many wait, or some for long, the nearest first. The task
 *     goes home if as many come to wait there within a tenth of a second.
 * (2) Fairness, slowly: a shard's clock advances by what a task of weight 100
 *     gets there. User space compares the clocks and gives shards whose clock
 *     lags a budget of weight to move; it is spent here, on tasks that use up
 *     their slices (rota/balance.bpf.h, rota-core's balance.rs).
 *
 * A task that moves keeps its distance from the clock: nothing is won or lost.
 * No task's load is tracked, which keeps the hot path that of scx_vtime; where
 * weights are worth more than a CPU the clock follows the others, so that such
 * weights count for what they can use and no more.
 *
 * Invariants:
 *  - A runnable task that does not run is in exactly one queue.
 *  - A virtual time is by the clock of the shard in which the task waits or ran.
 *  - No CPU idles for longer than 2 ms and a tick beside a task that it may run.
 *
 * Known weakness: (1) and wake-ups alone level shards whose tasks sleep a lot.
 */
#include "intf.h"
#include <rota/balance.bpf.h>
#include <rota/fair.bpf.h>
#include <rota/idle.bpf.h>
#include <rota/local.bpf.h>
#include <rota/ops.bpf.h>
#include <rota/place.bpf.h>
#include <rota/stats.bpf.h>

IDLE_LLC_DEFINE();

/* Live options. */
volatile u64 slice_min_ns = 1000000;
volatile u32 spill_pct = 100;	/* tasks that wait per 100 CPUs of an LLC before others help */
volatile u32 steal = 1;

OP(s32, llc, select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	u32 own = cpu_llc(prev_cpu), llc = own;
	bool none = idle_none(), idle = true;
	struct shard_state *state;
	s32 cpu = -1;

	if (wake_flags & SCX_WAKE_FORK && nr_llcs > 1) {
		llc = place_new(p, own);
		if (llc != own)
			count(nr_spread);
	} else if (wake_flags & SCX_WAKE_SYNC) {
		cpu = place_sync(p, prev_cpu, none);
		if (cpu >= 0)
			count(nr_sync);
	}
	if (cpu < 0 && !none) {
		cpu = idle_claim_llc(p, prev_cpu, llc);
		if (cpu >= 0)
			count(nr_idle);
	}
	if (cpu < 0 && !none && nr_llcs > 1 && shard_crowded(cpu_shard(prev_cpu), spill_pct)) {
		cpu = idle_claim(p, SCX_PICK_IDLE_CORE);
		if (cpu >= 0)
			count(nr_spilled);
	}
	if (cpu < 0) {
		idle = false;
		cpu = llc == own && task_may_use(p, prev_cpu) ? prev_cpu : llc_any_cpu(p, llc);
	}
	/* None in the LLC at all: the affinity has changed. */
	if (cpu < 0)
		cpu = task_any_cpu(p);
	place_carry(p, prev_cpu, cpu);
	if (idle && !fault_stalls(p)) {
		state = shard_state(cpu_shard(cpu));
		dsq_insert_at_once(p, cpu, state->slice_ns);
		fair_wake(p, &state->clock);
	}
	return cpu;
}

OP(void, llc, enqueue, struct task_struct *p, u64 enq_flags)
{
	u32 own = cpu_shard(task_cpu(p)), shard = own;
	s32 helper = -1;
	u64 deadline;

	if (fault_stalls(p))
		return;
	if (pinned_run_kthread(p, enq_flags)) {
		count(nr_kthread);
		return;
	}
	deadline = fair_place(p, &shard_state(own)->clock, enq_flags);
	if (deadline != p->scx.dsq_vtime)
		count(nr_clamped);
	if (task_is_pinned(p)) {
		fair_queue_pinned(p, deadline, enq_flags);
		count(nr_pinned);
		return;
	}
	if (!(enq_flags & SCX_ENQ_WAKEUP)) {
		shard = shard_home(p, own);
		if (shard != own)
			count(nr_returned);
		else if ((shard = balance_target(p, own)) != own)
			count(nr_moved);
	}
	if (shard != own) {
		deadline = shard_carry(deadline, own, shard);
		fair_watch(&shard_state(shard)->clock, deadline);
	} else {
		count(nr_queued);
	}
	shard_wait(p);
	dsq_insert_vtime(p, DSQ_SHARD | shard, shard_state(shard)->slice_ns, deadline, enq_flags);
	shard_set_waiting(shard, true);
	balance_wake();
	if (nr_shards > 1 && shard_crowded(shard, spill_pct)) {
		shard_mark(shard);
		helper = idle_claim(p, 0);
	} else if (nr_cpu_ids > 1) {
		/* Nobody has looked for an idle CPU near it, or one has gone idle since. */
		helper = idle_claim_llc(p, task_cpu(p), shards[shard & (MAX_SHARDS - 1)].llc);
	}
	if (shard_call(shard, helper))
		count(nr_kicked);
}

OP(void, llc, dispatch, s32 cpu, struct task_struct *prev)
{
	u32 shard = cpu_shard(cpu);
	struct shard_state *state = shard_state(shard);
	enum fair_choice choice;
	bool waiting;

	if (task_is_runnable(prev))
		shard_adapt_slice(shard, slice_min_ns);
	choice = fair_dispatch(cpu, prev, DSQ_SHARD | shard, &state->clock, state->slice_ns,
			       &waiting);
	if (choice == FAIR_KEPT)
		count(nr_kept);
	if (waiting || choice == FAIR_NEXT)
		return;
	/* Who waits may not be allowed on this CPU. */
	if (state->waiting && dsq_is_empty(DSQ_SHARD | shard))
		shard_set_waiting(shard, false);
	if (choice == FAIR_NONE && steal && shard_steal(shard, cpu, spill_pct))
		count(nr_stolen);
	else if (choice == FAIR_NONE)
		idle_enter(cpu);
}

OP(void, llc, tick, struct task_struct *p)
{
	u32 shard = cpu_shard(task_cpu(p));

	local_tick(p, shard_state(shard)->slice_ns);
	if (nr_shards > 1)
		count_add(nr_kicked, shard_tick(shard));
}

OP(void, llc, running, struct task_struct *p)
{
	fair_running(p, &shard_state(cpu_shard(task_cpu(p)))->clock);
}

OP(void, llc, stopping, struct task_struct *p, bool runnable)
{
	struct shard_state *state = shard_state(cpu_shard(task_cpu(p)));

	fair_stopping(p, runnable, state->waiting && fair_competes(p, &state->clock));
}

OP(void, llc, update_idle, s32 cpu, bool idle)
{
	u32 shard = cpu_shard(cpu);
	bool waiting;

	if (!idle_update(cpu, idle))
		return;
	waiting = idle_recheck(cpu, DSQ_SHARD | shard);
	fair_idle(cpu, &shard_state(shard)->clock, waiting);
	if (!waiting && steal && shard_may_steal(shard))
		idle_wake(cpu);
}

OP(void, llc, enable, struct task_struct *p)
{
	fair_enable(p, &shard_state(cpu_shard(task_cpu(p)))->clock);
}

OP_SLEEPABLE(s32, llc, init)
{
	u32 shard;
	s32 err;

	bpf_for(shard, 0, nr_shards)
		shard_state(shard)->slice_ns = slice_ns;
	err = idle_llc_init() ?: dsq_create(DSQ_SHARD, nr_shards);
	return err ?: dsq_create(DSQ_CPU, nr_cpu_ids);
}

POLICY(llc,
       .select_cpu = (void *)llc_select_cpu,
       .enqueue = (void *)llc_enqueue,
       .dispatch = (void *)llc_dispatch,
       .tick = (void *)llc_tick,
       .running = (void *)llc_running,
       .stopping = (void *)llc_stopping,
       .update_idle = (void *)llc_update_idle,
       .enable = (void *)llc_enable,
       .init = (void *)llc_init,
       .flags = SCX_OPS_KEEP_BUILTIN_IDLE);
