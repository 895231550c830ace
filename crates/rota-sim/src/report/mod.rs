// SPDX-License-Identifier: GPL-2.0-only
//! What came of a run.
