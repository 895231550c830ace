/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shards: the parts of an LLC that share one queue, so that no queue's lock
 * serves too many CPUs. On most machines an LLC is one shard. They are numbered
 * densely from 0, those of an LLC in a row. User space fills the tables.
 */
#ifndef __ROTA_SHARD_H
#define __ROTA_SHARD_H

#include <rota/bits.h>
#include <rota/types.h>

/* User space refuses a larger machine by name before it loads anything. */
#define MAX_SHARDS	256
#define SHARD_WORDS	(MAX_SHARDS / 64)

/* How near another shard is; the third level is the machine. */
#define SHARD_SAME_LLC	0
#define SHARD_SAME_NODE	1
#define SHARD_LEVELS	2

struct shard {
	u16 llc;
	u16 nr_cpus;		/* online ones */
	u32 unused;
	u64 peers[SHARD_LEVELS][SHARD_WORDS];	/* bit masks of shards, without itself */
};

/* The shards of an LLC. */
struct shard_range {
	u16 first;
	u16 nr;
};

/* Where one shard may send tasks, and how much: see balance.bpf.h. */
#define EXPORT_TARGETS	4

/* A task is moved while its weight is below this part of the budget that is left. */
#define EXPORT_TAKE_PCT	160

struct shard_export {
	s64 budget;		/* weight still to be moved; 0 and less: none */
	u64 moved;		/* weight moved since the policy was attached */
	u64 target;		/* shard */
};

#endif /* __ROTA_SHARD_H */
