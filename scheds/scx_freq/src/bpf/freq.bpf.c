/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * scx_freq: few warm cores at high frequency.
 *
 * A core that works all the time is fast: its clock is up, its caches are
 * filled, its neighbours are off and leave it their share of the power. Tasks
 * that are fewer than the cores and sleep now and then should therefore share
 * the cores that are warm, and leave the others cold. This is the idea of Nest
 * (Lawall et al., EuroSys 2022); nest.bpf.h keeps the primary nest of CPUs in
 * use, the reserve nest of CPUs used lately, and leaves the rest alone.
 *
 *	wake-up --- idle CPU? attached, previous, primary, ----> its local queue
 *	   |        [sync: none of those], reserve, the rest
 *	   |
 *	   +--- per-CPU kernel thread ---------------------> head of its local queue
 *	   |
 *	   +--- pinned -> queue of the CPU, by deadline --+
 *	   |                                              +--> the smaller head
 *	   +--- else ---> queue of all CPUs, by deadline -+
 *	                   |
 *	                   +--- waits for too long beside idle CPUs --> one is woken
 *
 * A task is attached to the CPU on which it ran twice in a row. One that has
 * missed the CPU it wanted several times over is impatient: the CPU that it gets
 * instead becomes primary at once. Which CPU comes next when a nest grows is a
 * ranking made in user space: the best LLC first, until it is full; there the
 * strongest cores first, second threads last.
 *
 * Queues are those of scx_vtime, and so are the shares when the machine is full.
 *
 * Invariants:
 *  - A runnable task that does not run is in exactly one queue.
 *  - The nests decide where a task wakes, never whether it runs: any CPU takes
 *    from the queue before it idles, and a task that waits beside an idle CPU
 *    that it may run has one woken for it at the first tick after grow_ns.
 *  - No timer runs, ever: nests shrink where a CPU ticks or goes idle.
 *
 * Unlike the Nest of the paper it ranks CPUs, so that nests are compact; knows
 * whole cores and LLCs; lets the reserve decay; and has a bound on waiting, so
 * that a task whose waker is about to sleep may wait for that CPU.
 *
 * Known weakness: one queue with one lock, as in scx_vtime. A nest in one LLC of
 * one node serves tasks whose memory is elsewhere.
 */
#include "intf.h"
#include "nest.bpf.h"
#include "wait.bpf.h"
#include <rota/fair.bpf.h>
#include <rota/local.bpf.h>
#include <rota/ops.bpf.h>
#include <rota/perf.bpf.h>

/* What is asked of the hardware. */
enum perf_mode {
	PERF_OFF,
	PERF_AUTO,		/* as much as is used, and a quarter more */
	PERF_MAX,		/* all there is, on CPUs of the primary nest */
};

volatile u32 perf_mode;		/* live option */

/* Where the queue of all CPUs stands. */
static struct vclock clock;

/* Count why a wake-up went to @rank. */
static __always_inline void count_placed(u32 rank, u32 attached, u32 prev, bool impatient)
{
	enum nest_set set = nest_set(rank);

	if (rank == attached && set != NEST_REST)
		count(nr_attached);
	else if (rank == prev && set != NEST_REST)
		count(nr_prev);
	else if (set == NEST_PRIMARY)
		count(nr_primary);
	else if (set == NEST_RESERVE)
		count(nr_reserve);
	else if (impatient)
		count(nr_impatient);
	else
		count(nr_grown);
}

OP(s32, freq, select_cpu, struct task_struct *p, s32 prev_cpu, u64 wake_flags)
{
	struct task_memo *memo = task_memo(p);
	u32 prev = cpu_rank(prev_cpu), attached = memo->attached ? memo->attached - 1 : RANK_NONE;
	bool impatient = memo->nr_misses >= impatience, shared = false;
	s32 waker = bpf_get_smp_processor_id(), busy = -1;
	u32 rank = RANK_NONE;

	if (!nest_idles())
		return task_allowed_cpu(p, prev_cpu);
	if (wake_flags & SCX_WAKE_SYNC && wait_for_waker(p, waker)) {
		/* One that ends leaves for sure; else rather a warm CPU that idles. */
		if (!(bpf_get_current_task_btf()->flags & PF_EXITING))
			rank = nest_claim_own(p, attached, prev, NEST_PRIMARY, false);
		if (rank == RANK_NONE) {
			count(nr_sync);
			return waker;
		}
	}
	if (rank == RANK_NONE) {
		busy = wait_for_nest(p);
		rank = nest_find(p, attached, prev, (busy < 0 ? NEST_GROW : 0) |
				 (impatient ? NEST_IMPATIENT : 0));
		shared = rank & NEST_SHARED;
		rank &= ~NEST_SHARED;
	}
	/* An idle CPU would look into the queue for being chosen. */
	if (rank == RANK_NONE)
		return busy >= 0 ? busy : task_allowed_cpu(p, prev_cpu);
	count_placed(rank, attached, prev, impatient);
	nest_use(rank, impatient, bpf_ktime_get_ns());
	/* Twice in a row: it belongs there. */
	if (rank == prev)
		memo->attached = prev + 1;
	memo->nr_misses = impatient || (!shared && (rank == prev || rank == attached)) ?
		0 : memo->nr_misses + 1;
	fair_wake(p, &clock);
	if (!fault_stalls(p))
		dsq_insert_at_once(p, rank_cpu(rank), slice_ns);
	return rank_cpu(rank);
}

OP(void, freq, enqueue, struct task_struct *p, u64 enq_flags)
{
	u64 deadline;
	u32 rank;

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
	if (nr_cpu_ids == 1 || !nest_idles())
		return;
	/* select_cpu() looked for an idle CPU and has left it to wait; or nobody looked. */
	rank = compat_cpu_selected(enq_flags) ? RANK_NONE : ~NEST_SHARED &
	       nest_find(p, RANK_NONE, cpu_rank(task_cpu(p)), wait_for_nest(p) < 0 ? NEST_GROW : 0);
	if (rank == RANK_NONE) {
		wait_begin(p);
		return;
	}
	nest_use(rank, false, bpf_ktime_get_ns());
	scx_bpf_kick_cpu(rank_cpu(rank), SCX_KICK_IDLE);
	count(nr_kicked);
}

OP(void, freq, dispatch, s32 cpu, struct task_struct *prev)
{
	enum fair_choice choice;
	bool waiting;

	choice = fair_dispatch(cpu, prev, DSQ_MACHINE, &clock, slice_ns, &waiting);
	if (choice == FAIR_KEPT)
		count(nr_kept);
	else if (choice == FAIR_NONE)
		nest_enter_idle(cpu);
}

/* Ask for what @cpu, which ticks or goes idle, is used for; what is not warm is let go. */
static __always_inline void ask_performance(s32 cpu, bool idles, u64 now)
{
	bool warm = mask_in(&primary, cpu_rank(cpu));
	u32 level;

	if (perf_mode == PERF_OFF)
		return;
	level = perf_used(cpu, fair_cpu(cpu)->busy_ns, now) * 5 / 4;
	if (warm && perf_mode == PERF_MAX)
		level = PERF_ONE;
	else if (warm && idles)
		return;
	else if (idles)
		level = 0;
	if (perf_ask(cpu, level))
		count(nr_perf);
}

OP(void, freq, tick, struct task_struct *p)
{
	s32 cpu = task_cpu(p);
	u64 now = bpf_ktime_get_ns();

	nest_tick(cpu, now);
	wait_tick(now);
	if (nest_idles())
		local_ease(p);
	ask_performance(cpu, false, now);
}

OP(void, freq, running, struct task_struct *p)
{
	fair_running(p, &clock);
	nest_cpu(task_cpu(p))->ours = true;
}

OP(void, freq, stopping, struct task_struct *p, bool runnable)
{
	fair_stopping(p, runnable, false);
	nest_cpu(task_cpu(p))->ours = false;
}

OP(void, freq, update_idle, s32 cpu, bool idles)
{
	u64 now = bpf_ktime_get_ns();

	nest_update_idle(cpu, idles, now);
	if (!idles)
		return;
	ask_performance(cpu, true, now);
	fair_idle(cpu, &clock, idle_recheck(cpu, DSQ_MACHINE));
}

OP(void, freq, enable, struct task_struct *p)
{
	fair_enable(p, &clock);
}

OP_SLEEPABLE(s32, freq, init)
{
	s32 err = dsq_create(DSQ_MACHINE, 1);

	nest_init();
	return err ?: dsq_create(DSQ_CPU, nr_cpu_ids);
}

POLICY(freq,
       .select_cpu = (void *)freq_select_cpu,
       .enqueue = (void *)freq_enqueue,
       .dispatch = (void *)freq_dispatch,
       .tick = (void *)freq_tick,
       .running = (void *)freq_running,
       .stopping = (void *)freq_stopping,
       .update_idle = (void *)freq_update_idle,
       .enable = (void *)freq_enable,
       .init = (void *)freq_init,
       .flags = SCX_OPS_KEEP_BUILTIN_IDLE);
