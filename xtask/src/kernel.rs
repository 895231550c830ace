// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask kernel`: the kernels that guests boot.

use std::fs;

use anyhow::Result;
use rota_lab::kernel::{Spec, Store};

use crate::context::Context;
use crate::setup::{self, Install};
use crate::{kernels, stop, ui};

/// List, fetch and build the kernels that guests boot
///
/// Kernels are kept in $ROTA_CACHE, else $XDG_CACHE_HOME/rota, else ~/.cache/rota. They come from
/// the Debian mirror that the machine's apt sources name, or from $ROTA_DEBIAN_MIRROR.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the kernels that are there
    List,
    /// Fetch the newest kernel of each series
    Fetch {
        /// A series (6.18), a release (7.2.12), or `none` (Debian's 6.12, without sched_ext)
        #[arg(required = true, value_name = "SERIES")]
        series: Vec<Spec>,
        #[command(flatten)]
        install: Install,
    },
    /// Build the series that Debian has only without sched_ext
    Build {
        /// The series: 6.12
        #[arg(default_value = "6.12", value_parser = ["6.12"])]
        series: String,
        #[command(flatten)]
        install: Install,
    },
}

/// Runs `cargo xtask kernel`.
pub fn run(args: Args, cx: &Context) -> Result<u8> {
    let store = Store::open()?;
    match args.action {
        Action::List => list(&store)?,
        Action::Fetch { series, install } => {
            setup::ensure(cx, &kernels::groups(&store, &series)?, install)?;
            for spec in &series {
                ui::out(kernels::fetch(&store, spec)?.image.display().to_string());
            }
        }
        Action::Build { install, .. } => {
            setup::ensure(cx, &kernels::groups(&store, &[Spec::Built])?, install)?;
            ui::out(
                kernels::get(&store, &Spec::Built)?
                    .image
                    .display()
                    .to_string(),
            );
        }
    }
    Ok(stop::OK)
}

fn list(store: &Store) -> Result<()> {
    let kernels = store.list()?;
    if kernels.is_empty() {
        ui::note(format!("no kernels in {}", store.dir().display()));
        return Ok(());
    }
    let mut table = ui::table(&["series", "release", "size", "from", "path"]);
    for column in [1, 3, 4] {
        ui::align_left(&mut table, column);
    }
    for kernel in kernels {
        let bytes = fs::metadata(&kernel.image)?.len();
        let path = kernel.image.display().to_string();
        table.add_row([
            kernel.series,
            kernel.release,
            ui::size(bytes),
            kernel.origin,
            path,
        ]);
    }
    ui::print_table(&table);
    Ok(())
}
