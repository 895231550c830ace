/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every policy is told: the slice, which user space may change while the
 * policy runs, and the rest, rodata, for which it needs a restart.
 */
#ifndef __ROTA_TUNABLES_BPF_H
#define __ROTA_TUNABLES_BPF_H

#include <rota/types.h>

/*
 * The longest a task runs before others get their turn. One aligned word: a
 * reader sees the old value or the new one.
 */
volatile u64 slice_ns = 20000000;

/* The watchdog's: how long a task may wait before the kernel ejects the policy. */
const volatile u32 timeout_ms = 30000;

#endif /* __ROTA_TUNABLES_BPF_H */
