/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The topology tables, as rodata: constants to the verifier. CPUs that come or
 * go end the policy with a restart code, and user space loads it anew with new
 * tables, so nothing here changes while a policy runs.
 */
#ifndef __ROTA_TOPOLOGY_BPF_H
#define __ROTA_TOPOLOGY_BPF_H

#include <rota/vmlinux.h>
#include <rota/topology.h>

const volatile u32 nr_cpu_ids = 1;	/* highest possible CPU number + 1 */
const volatile u32 nr_llcs = 1;
const volatile u32 nr_nodes = 1;
const volatile u32 nr_threads = 1;	/* of the core that has most: 1 without SMT */
const volatile struct topology_cpu topology_cpus[MAX_CPUS];
const volatile struct topology_llc topology_llcs[MAX_LLCS];

/* LLC of @cpu; 0 for a number that no CPU can have. */
static __always_inline u32 cpu_llc(s32 cpu)
{
	return (u32)cpu < MAX_CPUS ? topology_cpus[cpu].llc : 0;
}

/* Tasks can run on @cpu: an offline one has no capacity. */
static __always_inline bool cpu_is_online(s32 cpu)
{
	/* Not by a comparison: the compiler would leave out later ones that the verifier needs. */
	return topology_cpus[(u32)cpu & (MAX_CPUS - 1)].capacity;
}

/* Node of @llc; 0 for a number that no LLC has. */
static __always_inline u32 llc_node(u32 llc)
{
	return llc < MAX_LLCS ? topology_llcs[llc].node : 0;
}

#endif /* __ROTA_TOPOLOGY_BPF_H */
