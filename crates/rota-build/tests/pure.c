/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * bpf-common's pure headers as functions that a host program can link: the
 * same text that policies compile for BPF.
 */
#include <rota/bits.h>
#include <rota/vtime.h>

bool pure_vtime_before(u64 a, u64 b)
{
	return vtime_before(a, b);
}

u64 pure_vtime_scale(u64 run_ns, u32 weight)
{
	return vtime_scale(run_ns, weight);
}

u64 pure_vtime_clamp(u64 vtime, u64 clock, u64 behind, u64 ahead)
{
	return vtime_clamp(vtime, clock, behind, ahead);
}

u64 pure_vtime_carry(u64 vtime, u64 from, u64 to)
{
	return vtime_carry(vtime, from, to);
}

u32 pure_bit_lowest(u64 bits)
{
	return bit_lowest(bits);
}

u32 pure_bit_highest(u64 bits)
{
	return bit_highest(bits);
}

u32 pure_bit_count(u64 bits)
{
	return bit_count(bits);
}
