// SPDX-License-Identifier: GPL-2.0-only
//! Builds the BPF side of scx_freq.
fn main() {
    rota_build::policy("freq");
}
