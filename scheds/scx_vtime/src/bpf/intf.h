/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What scx_vtime shares with user space: its counters.
 */
#ifndef __VTIME_INTF_H
#define __VTIME_INTF_H

#define COUNTERS(X)								\
	X(nr_idle,	"wake-ups placed straight on an idle CPU")		\
	X(nr_sync,	"wake-ups placed on the CPU of a waker about to sleep")	\
	X(nr_kthread,	"wake-ups of per-CPU kernel threads, run at once")	\
	X(nr_pinned,	"tasks queued for the only CPU they may use")		\
	X(nr_queued,	"tasks queued for any CPU")				\
	X(nr_kicked,	"idle CPUs woken for a queued task")			\
	X(nr_kept,	"slice ends at which the task went on, its turn again")	\
	X(nr_clamped,	"tasks queued whose virtual time was limited")

#endif /* __VTIME_INTF_H */
