// SPDX-License-Identifier: GPL-2.0-only
//! Type information (BTF) of kernels and objects.
