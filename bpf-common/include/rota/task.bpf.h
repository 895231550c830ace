/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Questions a policy asks about a task.
 */
#ifndef __ROTA_TASK_BPF_H
#define __ROTA_TASK_BPF_H

#include <rota/compat.bpf.h>
#include <rota/topology.bpf.h>

/* The CPU whose run queue @p is on, or was last. */
static __always_inline u32 task_cpu(const struct task_struct *p)
{
	return p->thread_info.cpu;
}

/*
 * True if @p may not leave its CPU for now.
 *
 * The kernel disables migration of the *current* task around every BPF
 * program, so one level of it on the current task is ours and means nothing.
 */
static __always_inline bool task_migration_disabled(const struct task_struct *p)
{
	if (!p->migration_disabled)
		return false;
	return p->migration_disabled > 1 || bpf_get_current_task_btf() != p;
}

/*
 * True if one CPU only may run @p, on a machine that has others. Such a task
 * must not wait in a queue that other CPUs consume: each of them would walk
 * past it under the queue's lock.
 */
static __always_inline bool task_is_pinned(const struct task_struct *p)
{
	if (nr_cpu_ids == 1)
		return false;
	return p->nr_cpus_allowed == 1 || task_migration_disabled(p);
}

/* @p may run on @cpu, which has not gone offline while it slept. */
static __always_inline bool task_may_use(const struct task_struct *p, s32 cpu)
{
	return bpf_cpumask_test_cpu(cpu, p->cpus_ptr) && cpu_is_online(cpu);
}

/* Any online CPU that @p may use, each in turn. */
static __always_inline s32 task_any_cpu(const struct task_struct *p)
{
	const struct cpumask *online = scx_bpf_get_online_cpumask();
	u32 cpu = bpf_cpumask_any_and_distribute(p->cpus_ptr, online);

	scx_bpf_put_cpumask(online);
	return cpu;
}

/* For select_cpu(): @cpu, or if @p may not use it any that it may. */
static __always_inline s32 task_allowed_cpu(const struct task_struct *p, s32 cpu)
{
	return task_may_use(p, cpu) ? cpu : task_any_cpu(p);
}

/*
 * True for a kernel thread bound to one CPU: it works for that CPU (softirqs,
 * kworkers, the migration of tasks), and others wait for it.
 */
static __always_inline bool task_is_percpu_kthread(const struct task_struct *p)
{
	return p->flags & PF_KTHREAD && p->nr_cpus_allowed == 1;
}

/* For dispatch(): true if @prev, which may be NULL, wants to go on running. */
static __always_inline bool task_is_runnable(const struct task_struct *prev)
{
	return prev && prev->scx.flags & SCX_TASK_QUEUED;
}

/* Give @p another @slice_ns. In dispatch() this keeps a runnable prev on the CPU. */
static __always_inline void task_set_slice(struct task_struct *p, u64 slice_ns)
{
	compat_task_set_slice(p, slice_ns);
}

/*
 * For stopping(): a task that leaves its CPU within its slice has lost it to a
 * higher class (real-time, deadline), which may keep it for seconds. The kernel
 * would have it wait for that CPU; without a slice it is queued again, for any.
 */
static __always_inline void task_requeue_if_preempted(struct task_struct *p, bool runnable)
{
	if (runnable && p->scx.slice)
		task_set_slice(p, 0);
}

static __always_inline void task_set_vtime(struct task_struct *p, u64 vtime)
{
	compat_task_set_dsq_vtime(p, vtime);
}

#endif /* __ROTA_TASK_BPF_H */
