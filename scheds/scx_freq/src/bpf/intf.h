/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What scx_freq shares with user space: its counters.
 */
#ifndef __FREQ_INTF_H
#define __FREQ_INTF_H

#define COUNTERS(X)								\
	X(nr_attached,	"wake-ups on the CPU to which the task is attached")	\
	X(nr_prev,	"wake-ups on the previous CPU, of either nest")		\
	X(nr_primary,	"wake-ups on another idle CPU of the primary nest")	\
	X(nr_sync,	"wake-ups left to the CPU of a waker about to sleep")	\
	X(nr_reserve,	"wake-ups on another idle CPU of the reserve nest")	\
	X(nr_grown,	"wake-ups on an idle CPU of neither nest")		\
	X(nr_impatient,	"such wake-ups that made it a primary one at once")	\
	X(nr_kthread,	"wake-ups of per-CPU kernel threads, run at once")	\
	X(nr_pinned,	"tasks queued for the only CPU they may use")		\
	X(nr_queued,	"tasks queued for any CPU")				\
	X(nr_kicked,	"idle CPUs woken for a queued task")			\
	X(nr_forced,	"idle CPUs woken because a task waited for too long")	\
	X(nr_kept,	"slice ends at which the task went on, its turn again")	\
	X(nr_clamped,	"tasks queued whose virtual time was limited")		\
	X(nr_warmed,	"CPUs that became primary because they stayed busy")	\
	X(nr_promoted,	"CPUs that went from the reserve to the primary nest")	\
	X(nr_demoted,	"CPUs that went out of the primary nest, idle")		\
	X(nr_expired,	"CPUs that went out of the reserve nest, idle")		\
	X(nr_perf,	"requests for a level of performance")

#endif /* __FREQ_INTF_H */
