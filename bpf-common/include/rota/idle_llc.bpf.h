/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Idle CPUs of one LLC, and the LLC for a new task. For policies that keep
 * tasks near their caches: the kernel's own search leaves an LLC before it uses
 * the second thread of a core. The policy defines the maps with IDLE_LLC_DEFINE().
 */
#ifndef __ROTA_IDLE_LLC_BPF_H
#define __ROTA_IDLE_LLC_BPF_H

#include <rota/idle.bpf.h>

/* LLCs that are compared for a new task: all of them on most machines. */
#define IDLE_LLC_TRIES	8

struct cpus {
	struct bpf_cpumask __kptr *mask;
};

/* The online CPUs of each LLC. */
struct llc_cpus {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_LLCS);
	__type(key, u32);
	__type(value, struct cpus);
};

/* Room for an intersection, one for each CPU. */
struct scratch_cpus {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_CPUS);
	__type(key, u32);
	__type(value, struct cpus);
};

extern struct llc_cpus llc_cpus;
extern struct scratch_cpus scratch_cpus;

/* For the policy, once. */
#define IDLE_LLC_DEFINE()							\
struct llc_cpus llc_cpus SEC(".maps");						\
struct scratch_cpus scratch_cpus SEC(".maps")

static __always_inline s32 cpus_create(void *map, u32 key)
{
	struct cpus *cpus = bpf_map_lookup_elem(map, &key);
	struct bpf_cpumask *mask;

	if (!cpus)
		return -ENOENT;
	mask = bpf_cpumask_create();
	if (!mask)
		return -ENOMEM;
	mask = bpf_kptr_xchg(&cpus->mask, mask);
	if (mask)
		bpf_cpumask_release(mask);
	return 0;
}

/* For init(): make the masks. Returns 0 or -errno. */
static __always_inline s32 idle_llc_init(void)
{
	struct bpf_cpumask *mask;
	struct cpus *cpus;
	u32 i, llc;
	s32 err;

	bpf_for(i, 0, nr_llcs) {
		err = cpus_create(&llc_cpus, i);
		if (err)
			return err;
	}
	bpf_for(i, 0, nr_cpu_ids) {
		err = cpus_create(&scratch_cpus, i);
		if (err)
			return err;
		/* A number in no LLC: no such CPU, or it is offline. */
		if (!cpu_is_online(i))
			continue;
		llc = cpu_llc(i);
		cpus = bpf_map_lookup_elem(&llc_cpus, &llc);
		if (!cpus)
			continue;
		bpf_rcu_read_lock();
		mask = cpus->mask;
		if (mask)
			bpf_cpumask_set_cpu(i, mask);
		bpf_rcu_read_unlock();
	}
	return 0;
}

static __always_inline const struct cpumask *llc_cpumask(u32 llc)
{
	struct cpus *cpus = bpf_map_lookup_elem(&llc_cpus, &llc);
	struct bpf_cpumask *mask = cpus ? cpus->mask : NULL;

	return mask ? &mask->cpumask : NULL;
}

static __always_inline struct bpf_cpumask *scratch_cpumask(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	struct cpus *cpus = bpf_map_lookup_elem(&scratch_cpus, &cpu);

	return cpus ? cpus->mask : NULL;
}

/* The CPUs of @llc that @p may use, perhaps in the scratch mask; NULL is never seen. */
static __always_inline const struct cpumask *llc_allowed(const struct task_struct *p, u32 llc)
{
	const struct cpumask *cpus = llc_cpumask(llc);
	struct bpf_cpumask *scratch;

	if (!cpus || (u32)p->nr_cpus_allowed >= nr_cpu_ids)
		return cpus;
	scratch = scratch_cpumask();
	if (!scratch)
		return NULL;
	bpf_cpumask_and(scratch, cpus, p->cpus_ptr);
	return &scratch->cpumask;
}

/*
 * Claim an idle CPU of @llc that @p may use: @prev_cpu if its core is idle, a
 * whole idle core, @prev_cpu, any; -1 if there is none.
 */
static __always_inline s32 idle_claim_llc(const struct task_struct *p, s32 prev_cpu, u32 llc)
{
	const struct cpumask *cpus;
	bool prev;
	s32 cpu;

	if (idle_none())
		return -1;
	prev = cpu_llc(prev_cpu) == llc && bpf_cpumask_test_cpu(prev_cpu, p->cpus_ptr);
	if (prev && idle_whole_core(prev_cpu) && scx_bpf_test_and_clear_cpu_idle(prev_cpu))
		return prev_cpu;
	cpus = llc_allowed(p, llc);
	if (!cpus)
		return -1;
	if (nr_threads > 1) {
		cpu = scx_bpf_pick_idle_cpu(cpus, SCX_PICK_IDLE_CORE);
		if (cpu >= 0)
			return cpu;
		if (prev && scx_bpf_test_and_clear_cpu_idle(prev_cpu))
			return prev_cpu;
	}
	cpu = scx_bpf_pick_idle_cpu(cpus, 0);
	return cpu >= 0 ? cpu : -1;
}

/* A CPU of @llc that @p may use, busy or not; -1 if there is none. */
static __always_inline s32 llc_any_cpu(const struct task_struct *p, u32 llc)
{
	const struct cpumask *cpus = llc_cpumask(llc);
	u32 cpu;

	if (!cpus)
		return -1;
	cpu = bpf_cpumask_any_and_distribute(cpus, p->cpus_ptr);
	return cpu < nr_cpu_ids ? (s32)cpu : -1;
}

/* Idle CPUs of @llc. */
static __always_inline u32 llc_nr_idle(u32 llc)
{
	const struct cpumask *cpus = llc_cpumask(llc);
	struct bpf_cpumask *scratch = scratch_cpumask();
	const struct cpumask *idle;

	if (!cpus || !scratch)
		return 0;
	idle = scx_bpf_get_idle_cpumask();
	bpf_cpumask_and(scratch, cpus, idle);
	scx_bpf_put_idle_cpumask(idle);
	return bpf_cpumask_weight(&scratch->cpumask);
}

#endif /* __ROTA_IDLE_LLC_BPF_H */
