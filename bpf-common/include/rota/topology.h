/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The machine as a policy sees it, filled in by user space before the load.
 *
 * LLCs (last-level caches), nodes (NUMA) and cores are numbered densely from
 * 0, whatever the firmware calls them; CPUs keep the kernel's numbers, which
 * may have holes.
 */
#ifndef __ROTA_TOPOLOGY_H
#define __ROTA_TOPOLOGY_H

#include <rota/types.h>

/* User space refuses a larger machine by name before it loads anything. */
#define MAX_CPUS	1024
#define MAX_LLCS	256
#define MAX_NODES	64

struct topology_cpu {
	u16 llc;
	u16 node;
	u16 core;
	u16 capacity;		/* 1..1024, 1024 being the strongest CPU's; 0: offline */
};

struct topology_llc {
	u16 node;
	u16 nr_cpus;		/* online ones */
};

#endif /* __ROTA_TOPOLOGY_H */
