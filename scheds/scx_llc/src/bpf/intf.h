/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What scx_llc shares with user space: its counters.
 */
#ifndef __LLC_INTF_H
#define __LLC_INTF_H

#define COUNTERS(X)								\
	X(nr_idle,	"wake-ups placed straight on an idle CPU of the own LLC")	\
	X(nr_sync,	"wake-ups placed on the CPU of a waker about to sleep")	\
	X(nr_spilled,	"wake-ups placed on an idle core of another LLC")	\
	X(nr_spread,	"new tasks given to another LLC than their parent's")	\
	X(nr_kthread,	"wake-ups of per-CPU kernel threads, run at once")	\
	X(nr_pinned,	"tasks queued for the only CPU they may use")		\
	X(nr_queued,	"tasks queued in the own LLC")				\
	X(nr_kicked,	"idle CPUs woken for a queued task")			\
	X(nr_kept,	"slice ends at which the task went on, its turn again")	\
	X(nr_clamped,	"tasks queued whose virtual time was limited")		\
	X(nr_stolen,	"tasks taken by a CPU that would have idled")		\
	X(nr_returned,	"stolen tasks that went home since others came to wait")	\
	X(nr_moved,	"tasks moved because the balancer asked for it")

#endif /* __LLC_INTF_H */
