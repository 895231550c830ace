// SPDX-License-Identifier: GPL-2.0-only
//! Builds the BPF side of scx_llc.
fn main() {
    rota_build::policy("llc");
}
