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
#include <rota/task.bpf.h>
#include <rota/tunables.bpf.h>

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
	s32 cpu = scx_bpf_select_cpu_dfl(p, prev_cpu, wake_flags, &idle);

	*placed = idle && !fault_stalls(p);
	if (*placed) {
		dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, 0);
		return cpu;
	}
	/* The search answers @prev_cpu, which a change of affinity may have excluded. */
	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		cpu = bpf_cpumask_any_distribute(p->cpus_ptr);
	return cpu;
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
 * core if there is one. Needed whenever select_cpu() did not look for one: a
 * slice end, a change of affinity, a wake-up whose CPU the kernel chose. True
 * if a CPU was woken.
 */
static __always_inline bool idle_kick(const struct task_struct *p, u64 enq_flags)
{
	s32 cpu;

	/* The only CPU there is runs this, and so does not idle. */
	if (nr_cpu_ids == 1 || compat_cpu_selected(enq_flags))
		return false;
	cpu = scx_bpf_pick_idle_cpu(p->cpus_ptr, 0);
	if (cpu < 0)
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
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
	if (dsq_is_empty(dsq))
		return false;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
}

#endif /* __ROTA_IDLE_BPF_H */
