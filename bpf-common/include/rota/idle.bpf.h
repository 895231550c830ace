/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Idle CPUs: find one, claim it, wake it; and never leave one asleep beside
 * work. The kernel's own idle masks are used: policies that include this keep
 * them on (SCX_OPS_KEEP_BUILTIN_IDLE) if they define update_idle().
 */
#ifndef __ROTA_IDLE_BPF_H
#define __ROTA_IDLE_BPF_H

#include <rota/dsq.bpf.h>
#include <rota/fault.bpf.h>
#include <rota/mask.bpf.h>
#include <rota/task.bpf.h>
#include <rota/tunables.bpf.h>

/*
 * The CPUs that idle, and some that are about to, or have just been claimed. The
 * kernel's own mask is exact, but to ask it for any costs 86 instructions, and a
 * search in it that finds nothing ten times as much.
 *
 * A CPU enters where it finds no task, before it looks for the last time
 * (idle_recheck()); whoever queues a task looks here after that. So one of the
 * two sees the other. A CPU that went idle while the kernel did without the
 * policy (at the start, in a suspend) is sent through dispatch() by the kernel
 * when that is over.
 */
struct mask idle_cpus;

/* A policy need not tell: its searches then cost more, and find the same. */
bool idle_told;

/* For dispatch() on @cpu, which has found nothing to run. */
static __always_inline void idle_enter(s32 cpu)
{
	if (!idle_told)
		idle_told = true;
	mask_add(&idle_cpus, cpu);
}

/* For update_idle() on @cpu, which goes idle if @idle, or else has found something. */
static __always_inline bool idle_update(s32 cpu, bool idle)
{
	if (!idle)
		mask_remove(&idle_cpus, cpu);
	return idle;
}

/* No CPU idles, as far as idle_enter() tells. */
static __always_inline bool idle_none(void)
{
	return idle_told && mask_is_empty(&idle_cpus, nr_cpu_ids);
}

/*
 * Claim an idle CPU that @p may use, a whole idle core if there is one, or if
 * @flags say so (SCX_PICK_IDLE_CORE) nothing less; -1 if there is none.
 */
static __always_inline s32 idle_claim(const struct task_struct *p, u64 flags)
{
	s32 cpu;

	if (idle_none())
		return -1;
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, flags);
	return cpu >= 0 ? cpu : -1;
}

/*
 * For select_cpu(): the CPU on which @p wakes. If it is idle it is claimed and
 * @p put straight into its local queue, *@placed is true and enqueue() will not
 * be called. The kernel's search prefers @prev_cpu, whole idle cores,
 * @prev_cpu's LLC, then its node (6.12: without the LLC and node steps).
 */
static __always_inline s32 idle_place(struct task_struct *p, s32 prev_cpu, u64 wake_flags,
				      bool *placed)
{
	bool idle = false;
	s32 cpu = prev_cpu;

	if (!idle_none())
		cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);
	*placed = idle && !fault_stalls(p) && !fault_sleeps(cpu);
	if (*placed) {
		dsq_insert_at_once(p, cpu, slice_ns);
		return cpu;
	}
	if (fault_kind == FAULT_STRAY)
		return bpf_cpumask_test_cpu(0, p->cpus_ptr) ? nr_cpu_ids - 1 : 0;
	return task_allowed_cpu(p, cpu);
}

/* All threads of the core of @cpu idle. */
static __always_inline bool idle_whole_core(s32 cpu)
{
	const struct cpumask *idle;
	bool whole;

	if (nr_threads == 1)
		return true;
	idle = scx_bpf_get_idle_smtmask();
	whole = bpf_cpumask_test_cpu(cpu, idle);
	scx_bpf_put_idle_cpumask(idle);
	return whole;
}

/*
 * @p has just been put in a shared queue: wake an idle CPU for it, a whole idle
 * core if there is one. True if a CPU was woken.
 *
 * Needed where select_cpu() was not called: at a slice end, a change of
 * affinity, a wake-up whose CPU the kernel chose. And where it was: a CPU may
 * have gone idle since it looked, and seen an empty queue.
 */
static __always_inline bool idle_kick(const struct task_struct *p)
{
	/* The only CPU there is runs this, and so does not idle. */
	s32 cpu = nr_cpu_ids > 1 ? idle_claim(p, 0) : -1;

	if (cpu < 0)
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
}

/*
 * For update_idle(): wake @cpu, which runs this and is about to sleep, so that it looks
 * once more. True unless it is going offline. What it raises then is never run, and as
 * the kernel's list of such work is never empty after that, neither is what the CPU
 * raises when it is back: the end of the policy, for one, which would never come.
 */
static __always_inline bool idle_wake(s32 cpu)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	bool stays = bpf_cpumask_test_cpu(cpu, online);

	scx_bpf_put_cpumask(online);
	if (stays)
		scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return stays;
}

/*
 * For update_idle(): @cpu found nothing to run and is about to sleep. A task
 * queued between its last look and the moment the kernel's mask shows it as
 * idle had nobody to wake for it; look once more. The kernel calls
 * update_idle() only on the way from a task to idle, so this cannot loop over
 * a task that is not allowed on @cpu. True if @cpu is to look again.
 */
static __always_inline bool idle_recheck(s32 cpu, u64 dsq)
{
	return !dsq_is_empty(dsq) && idle_wake(cpu);
}

#endif /* __ROTA_IDLE_BPF_H */
