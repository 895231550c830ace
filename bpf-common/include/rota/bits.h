/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bits of masks: pure arithmetic, the same for BPF and host. Without a branch:
 * the verifier would follow each of them.
 */
#ifndef __ROTA_BITS_H
#define __ROTA_BITS_H

#include <rota/types.h>

/* How many bits of @bits are set. */
static inline u32 bit_count(u64 bits)
{
	/* In parallel: pairs, then fours, then bytes, which the product adds up in its highest. */
	bits -= bits >> 1 & 0x5555555555555555ULL;
	bits = (bits & 0x3333333333333333ULL) + (bits >> 2 & 0x3333333333333333ULL);
	bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return bits * 0x0101010101010101ULL >> 56;
}

/* The index of the lowest bit of @bits, which is not 0. */
static inline u32 bit_lowest(u64 bits)
{
	/* As many ones as there are zeros below the bit. */
	return bit_count((bits & -bits) - 1);
}

/* The index of the highest bit of @bits, which is not 0. */
static inline u32 bit_highest(u64 bits)
{
	bits |= bits >> 1;
	bits |= bits >> 2;
	bits |= bits >> 4;
	bits |= bits >> 8;
	bits |= bits >> 16;
	bits |= bits >> 32;
	return bit_count(bits) - 1;
}

#endif /* __ROTA_BITS_H */
