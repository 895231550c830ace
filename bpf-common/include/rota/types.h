/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fixed-size integers for headers that compile both as BPF and as host C.
 */
#ifndef __ROTA_TYPES_H
#define __ROTA_TYPES_H

#ifdef __bpf__
typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;

typedef _Bool bool;
#define true 1
#define false 0
#else
#include <linux/types.h>
#include <stdbool.h>
#endif

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;

#endif /* __ROTA_TYPES_H */
