// SPDX-License-Identifier: GPL-2.0-only
//! A smaller scenario that fails in the same way.

use rota_load::spec::{Affinity, Count, Policy, Tasks, Workload};

use super::{Scenario, What};

/// Scenarios that are a step smaller than `scenario`, the largest steps first: without a group of
/// tasks, without an act, without an option, with fewer or plainer tasks.
pub fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let workload = Workload::parse("workload", &scenario.workload);
    let with = |change: &dyn Fn(&mut Workload)| {
        let mut workload = workload.as_ref().ok()?.clone();
        change(&mut workload);
        let workload = workload.to_toml();
        // Half a ring may be none.
        let sound = workload != scenario.workload && Workload::parse("smaller", &workload).is_ok();
        sound.then(|| Scenario {
            workload,
            ..scenario.clone()
        })
    };
    let groups = workload.as_ref().map_or(0, |w| w.groups.len());
    if groups > 1 {
        all.extend((0..groups).filter_map(|index| {
            with(&|workload| {
                workload.groups.remove(index);
            })
        }));
    }
    all.extend((0..scenario.acts.len()).map(|index| without_act(scenario, index)));
    all.extend((0..scenario.options.len()).map(|index| {
        let mut one = scenario.clone();
        one.options.remove(index);
        one
    }));
    for index in 0..groups {
        all.extend(with(&|workload| {
            let group = &mut workload.groups[index];
            if let Count::Fixed(count) = group.count {
                group.count = Count::Fixed((count / 2).max(1));
            }
        }));
        all.extend(with(&|workload| {
            let group = &mut workload.groups[index];
            group.affinity = Affinity::All;
            group.policy = Policy::Other;
            group.tasks = Tasks::Threads;
            group.nice = 0;
        }));
    }
    all
}

/// Without an act; one that takes a CPU away goes together with the one that brings it back.
fn without_act(scenario: &Scenario, index: usize) -> Scenario {
    let mut one = scenario.clone();
    let gone = one.acts.remove(index);
    if let What::Offline { cpu } | What::Online { cpu } = gone.what {
        let same = |what: &What| {
            matches!(what, What::Offline { cpu: other } | What::Online { cpu: other }
                     if *other == cpu)
        };
        one.acts.retain(|act| !same(&act.what));
    }
    one
}

#[cfg(test)]
mod tests {
    use super::super::draw::{Subject, TOPOLOGIES, draw};
    use super::*;

    /// Follows the first smaller scenario that still `fails`, to the end.
    fn shrink(mut scenario: Scenario, fails: impl Fn(&Scenario) -> bool) -> Scenario {
        while let Some(next) = smaller(&scenario).into_iter().find(&fails) {
            scenario = next;
        }
        scenario
    }

    fn scenarios() -> impl Iterator<Item = Scenario> {
        let machines: Vec<String> = TOPOLOGIES.map(str::to_owned).into();
        (0..100).map(move |seed| {
            let subject = Subject {
                sched: "scx_x",
                kernel: "7.3",
                topologies: &machines,
                choices: &[],
            };
            draw(&subject, seed)
        })
    }

    #[test]
    fn what_does_not_matter_goes() {
        let kill = |one: &Scenario| one.acts.iter().any(|act| act.what == What::Kill);
        let mut seen = 0;
        for scenario in scenarios().filter(kill) {
            let small = shrink(scenario, kill);
            assert_eq!(small.acts.len(), 1);
            let workload = Workload::parse("w", &small.workload).unwrap();
            assert_eq!(workload.groups.len(), 1);
            seen += 1;
        }
        assert!(seen > 5);
    }

    #[test]
    fn it_comes_to_an_end() {
        for scenario in scenarios() {
            let small = shrink(scenario, |_| true);
            assert!(small.acts.is_empty() && small.options.is_empty());
            assert!(smaller(&small).is_empty());
        }
    }
}
