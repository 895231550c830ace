// SPDX-License-Identifier: GPL-2.0-only
//! Goal: prove the schedulers on real kernels.
//! Method: boot every cell of the matrix (kernel x topology x scheduler) in a VM, run the cases of
//! `rota_lab::cases` in it, and report each case of each cell as a test of its own, named
//! `kernel/topology/scheduler/case`.
//!
//! `cargo xtask test` builds what the guests need, fetches the kernels, and passes the settings.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use comfy_table::{CellAlignment, Table, presets};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use rota_lab::arch::Arch;
use rota_lab::job::CaseOutcome;
use rota_lab::kernel::{Kernel, Store};
use rota_lab::matrix::{self, Cell, CellRecord, Settings};

fn main() -> ExitCode {
    // Whoever kills cargo wants the guests to go, too.
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGTERM) {
        say(&format!("the lab may outlive cargo: {error}"));
    }
    let args = Arguments::from_args();
    let settings = match Settings::from_env() {
        None => {
            say("the lab needs kernels and static programs: run `cargo xtask test`");
            return ExitCode::SUCCESS;
        }
        Some(settings) => settings.map_err(|error| error.to_string()),
    };
    match settings.and_then(|settings| lab(args, settings)) {
        Ok(code) => code,
        Err(message) => {
            say(&format!("error: {message}"));
            ExitCode::from(3)
        }
    }
}

fn say(line: &str) {
    // Nobody is left to be told when stdout is closed.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A cell with the cases that were chosen, and what came of them.
struct Work {
    cell: Cell,
    kernel: Kernel,
    names: Vec<&'static str>,
    done: OnceLock<Result<CellRecord, String>>,
}

fn lab(mut args: Arguments, settings: Settings) -> Result<ExitCode, String> {
    let store = Store::open().map_err(|error| error.to_string())?;
    let mut trials = Vec::new();
    let mut cells = Vec::new();
    for cell in settings.cells().map_err(|error| error.to_string())? {
        let (work, its_trials) = plan(&args, &settings, &store, cell)?;
        cells.extend(work);
        trials.extend(its_trials);
    }
    if args.list {
        libtest_mimic::run(&args, trials).exit_if_failed();
        return Ok(ExitCode::SUCCESS);
    }
    fs::create_dir_all(&settings.results)
        .map_err(|error| format!("creating {}: {error}", settings.results.display()))?;

    let jobs = settings.parallel();
    let queue: Arc<Mutex<VecDeque<Arc<Work>>>> =
        Arc::new(Mutex::new(cells.iter().cloned().collect()));
    let settings = Arc::new(settings);
    for _ in 0..jobs {
        let (queue, settings) = (Arc::clone(&queue), Arc::clone(&settings));
        thread::spawn(move || boot_cells(&queue, &settings));
    }
    // A trial only waits for its cell.
    args.test_threads.get_or_insert(jobs);
    let conclusion = libtest_mimic::run(&args, trials);

    let records: Vec<&CellRecord> = cells
        .iter()
        .filter_map(|work| work.done.wait().as_ref().ok())
        .collect();
    let file = settings.results.join("lab.json");
    let text = serde_json::to_string_pretty(&records).expect("records are plain data");
    fs::write(&file, text).map_err(|error| format!("writing {}: {error}", file.display()))?;
    print_table(&records);
    say(&format!(
        "{} passed, {} failed, {} skipped",
        conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
    ));
    if rota_lab::vm::interrupted() {
        return Ok(ExitCode::from(130));
    }
    Ok(if conclusion.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The tests of `cell`, and the work behind them unless all are left out.
fn plan(
    args: &Arguments,
    settings: &Settings,
    store: &Store,
    cell: Cell,
) -> Result<(Option<Arc<Work>>, Vec<Trial>), String> {
    let mut chosen = Vec::new();
    let mut trials = Vec::new();
    for case in settings.cases(&cell) {
        let name = format!("{cell}/{}", case.name);
        match case.misfit(&cell.topology) {
            Some(reason) => trials.push(Trial::ignorable_test(name, move || {
                Ok(Completion::ignored_with(reason))
            })),
            None if args.is_filtered_out(&Trial::test(name, || Ok(()))) => {}
            None => chosen.push(case.name),
        }
    }
    let title = |name: &str| format!("{cell}/{name}");
    if args.list {
        trials.extend(
            chosen
                .iter()
                .map(|name| Trial::test(title(name), || Ok(()))),
        );
    }
    if args.list || chosen.is_empty() {
        return Ok((None, trials));
    }
    let kernel = find(store, &cell)?;
    let work = Arc::new(Work {
        cell,
        kernel,
        names: chosen,
        done: OnceLock::new(),
    });
    trials.extend(work.names.iter().copied().map(|name| {
        let (title, work) = (format!("{}/{name}", work.cell), Arc::clone(&work));
        Trial::ignorable_test(title, move || verdict(&work, name))
    }));
    Ok((Some(work), trials))
}

fn find(store: &Store, cell: &Cell) -> Result<Kernel, String> {
    let store = store.on(cell.topology.arch());
    let found = store
        .find(&cell.kernel)
        .map_err(|error| error.to_string())?;
    found.ok_or_else(|| {
        let (kernel, topology) = (&cell.kernel, &cell.topology);
        match topology.arch() {
            Arch::X86_64 => {
                format!("kernel {kernel} is not there: cargo xtask kernel fetch {kernel}")
            }
            arch => format!(
                "kernel {kernel} for {arch} is not there: \
                 cargo xtask vm --kernel {kernel} --topology {topology} -- true"
            ),
        }
    })
}

/// Waits for the cell, and tells how one of its cases went.
fn verdict(work: &Work, name: &str) -> Result<Completion, Failed> {
    let record = work.done.wait().as_ref()?;
    let case = record.case(name).ok_or("the guest did not tell of it")?;
    match case.outcome {
        CaseOutcome::Passed => Ok(Completion::Completed),
        CaseOutcome::Skipped => Ok(Completion::ignored_with(&case.message)),
        CaseOutcome::Failed => Err(Failed::from(&case.message)),
    }
}

/// Boots one cell after another until there is none left.
fn boot_cells(queue: &Mutex<VecDeque<Arc<Work>>>, settings: &Settings) {
    let queue = || queue.lock().expect("nobody panics with the queue in hand");
    loop {
        let Some(work) = queue().pop_front() else {
            return;
        };
        let result = matrix::run(settings, &work.cell, &work.kernel, &work.names);
        let fatal = result.as_ref().is_err_and(matrix::is_fatal);
        let result = result.map_err(|error| error.to_string());
        let work_left = if fatal {
            queue().drain(..).collect()
        } else {
            Vec::new()
        };
        for other in work_left {
            // It would be the same for the others.
            other.done.get_or_init(|| result.clone());
        }
        work.done.get_or_init(|| result);
    }
}

fn print_table(records: &[&CellRecord]) {
    if records.is_empty() {
        return;
    }
    let header = [
        "kernel",
        "topology",
        "scheduler",
        "passed",
        "failed",
        "skipped",
        "boot s",
        "total s",
        "retries",
    ];
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for record in records {
        let boots = &record.boots;
        let boot = boots.first().map_or(0.0, |boot| boot.boot_s);
        let total: f64 = boots.iter().map(|boot| boot.seconds).sum();
        let retries: usize = boots.iter().map(|boot| boot.retries.len()).sum();
        let count = |outcome| record.count(outcome).to_string();
        table.add_row([
            record.release.clone(),
            record.topology.clone(),
            record.sched.clone(),
            count(CaseOutcome::Passed),
            count(CaseOutcome::Failed),
            count(CaseOutcome::Skipped),
            format!("{boot:.1}"),
            format!("{total:.1}"),
            retries.to_string(),
        ]);
    }
    say("");
    for line in table.lines() {
        say(line.trim_end());
    }
    for record in records {
        for reason in record.boots.iter().flat_map(|boot| &boot.retries) {
            let (kernel, machine, sched) = (&record.kernel, &record.topology, &record.sched);
            say(&format!(
                "{kernel}/{machine}/{sched}: started again after {reason}"
            ));
        }
    }
    let mut accels = BTreeMap::<&str, usize>::new();
    for record in records {
        for case in &record.cases {
            *accels.entry(&record.boots[case.boot].accel).or_default() += 1;
        }
    }
    let told = accels
        .iter()
        .map(|(accel, cases)| format!("{accel} ({cases} cases)"));
    let told: Vec<String> = told.collect();
    say(&format!("\nguests ran on {}", told.join(" and ")));
}
