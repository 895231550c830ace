/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A policy's counters. It declares them once, in its intf.h:
 *
 *	#define COUNTERS(X)						\
 *		X(nr_steals,	"tasks taken from another LLC")		\
 *		...
 *
 * and counts with count(nr_steals). Names, descriptions and user space's types
 * come from the same list, at build time.
 *
 * One row of counters per CPU, on cache lines of its own. A row has one writer
 * at a time but for interrupts between load and store, which may lose a count:
 * counters are for people, no decision reads them.
 */
#ifndef __ROTA_STATS_BPF_H
#define __ROTA_STATS_BPF_H

#include <rota/topology.bpf.h>
#include <bpf/bpf_helpers.h>

#ifndef COUNTERS
#error "include the policy's intf.h, which defines COUNTERS(X), before rota/stats.bpf.h"
#endif

#define __COUNTER_ID(name, description) COUNTER_##name,
enum counter {
	COUNTERS(__COUNTER_ID)
	NR_COUNTERS,
};

struct counters {
	u64 nr[NR_COUNTERS];
} __attribute__((aligned(64)));

struct counters counters[MAX_CPUS];

#define count_add(name, n)							\
do {										\
	u64 ___n = (n);								\
	u32 ___cpu = bpf_get_smp_processor_id();				\
										\
	if (___cpu < MAX_CPUS)							\
		counters[___cpu].nr[COUNTER_##name] += ___n;			\
} while (0)

#define count(name) count_add(name, 1)

#endif /* __ROTA_STATS_BPF_H */
