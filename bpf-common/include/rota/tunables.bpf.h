/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What user space may change while the policy runs. Everything else that it
 * sets is rodata and needs a restart.
 */
#ifndef __ROTA_TUNABLES_BPF_H
#define __ROTA_TUNABLES_BPF_H

#include <rota/types.h>

/*
 * The longest a task runs before others get their turn. One aligned word: a
 * reader sees the old value or the new one.
 */
volatile u64 slice_ns = 20000000;

#endif /* __ROTA_TUNABLES_BPF_H */
