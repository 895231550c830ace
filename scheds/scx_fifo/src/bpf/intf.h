/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What scx_fifo shares with user space: its counters.
 */
#ifndef __FIFO_INTF_H
#define __FIFO_INTF_H

#define COUNTERS(X)								\
	X(nr_idle,	"wake-ups placed straight on an idle CPU")		\
	X(nr_sync,	"wake-ups placed on the CPU of a waker about to sleep")	\
	X(nr_kthread,	"wake-ups of per-CPU kernel threads, run at once")	\
	X(nr_pinned,	"tasks queued for the only CPU they may use")		\
	X(nr_queued,	"tasks queued for their LLC")				\
	X(nr_kicked,	"idle CPUs woken for a queued task")			\
	X(nr_stolen,	"tasks taken from another LLC by a CPU that would idle")

#endif /* __FIFO_INTF_H */
