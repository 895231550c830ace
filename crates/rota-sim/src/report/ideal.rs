// SPDX-License-Identifier: GPL-2.0-only
//! The shares that tasks have a right to.
//!
//! CPU time is divided by weight, but nobody uses more than one CPU, nor one that
//! it may not run on; what someone cannot use is divided among the others. These
//! are the weighted max-min fair shares: all shares per weight rise together like
//! water, and whoever can rise no further stays while the others go on.

use std::collections::BTreeMap;

use crate::kernel_api::CpuMask;
use crate::model::TaskFigures;

/// A task that always wants the CPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// Its weight, more than 0.
    pub weight: f64,
    /// Where it may run.
    pub allowed: CpuMask,
}

impl Claim {
    /// That of a task of a run.
    pub fn of(task: &TaskFigures) -> Self {
        Self {
            weight: task.weight.into(),
            allowed: task.allowed,
        }
    }
}

/// Steps of the search for a level: the error is far below any that is measured.
const BISECTIONS: usize = 60;
/// What counts as nothing, in CPUs.
const EPSILON: f64 = 1e-9;

/// The share of each task, in CPUs, on the CPUs `online`.
pub fn feasible_shares(claims: &[Claim], online: &CpuMask) -> Vec<f64> {
    let mut water = Water::new(claims, online);
    while water.classes.iter().any(|class| class.frozen.is_none()) {
        water.rise();
    }
    let share = |&class: &usize| water.classes[class].frozen.unwrap_or(0.0);
    water.class_of.iter().map(share).collect()
}

/// Tasks with the same claim.
struct Class {
    weight: f64,
    count: f64,
    /// The parts of the machine that it may use.
    parts: Vec<usize>,
    /// The share of each of its tasks, once it is settled.
    frozen: Option<f64>,
}

struct Water {
    classes: Vec<Class>,
    /// For each task its class.
    class_of: Vec<usize>,
    /// CPUs in each part: a part is a set of CPUs that no mask tells apart.
    capacity: Vec<f64>,
    level: f64,
}

/// How much each class takes of each part, and what is left of the parts.
struct Flow {
    taken: Vec<Vec<f64>>,
    left: Vec<f64>,
    met: bool,
}

impl Water {
    fn new(claims: &[Claim], online: &CpuMask) -> Self {
        let usable: Vec<CpuMask> = claims
            .iter()
            .map(|claim| claim.allowed.and(online))
            .collect();
        let mut masks = usable.clone();
        masks.sort_unstable_by_key(|mask| mask.to_bytes());
        masks.dedup();
        // CPUs that are in the same masks make a part.
        let mut parts: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
        for cpu in online.iter() {
            let within = |(index, mask): (usize, &CpuMask)| mask.contains(cpu).then_some(index);
            let key: Vec<usize> = masks.iter().enumerate().filter_map(within).collect();
            *parts.entry(key).or_default() += 1.0;
        }
        let mut classes: Vec<Class> = Vec::new();
        let mut known: BTreeMap<(usize, u64), usize> = BTreeMap::new();
        let class_of = claims.iter().zip(&usable).map(|(claim, mask)| {
            let mask = masks
                .binary_search_by_key(&mask.to_bytes(), CpuMask::to_bytes)
                .expect("all masks are listed");
            let class = *known
                .entry((mask, claim.weight.to_bits()))
                .or_insert_with(|| {
                    let within = parts.keys().enumerate();
                    classes.push(Class {
                        weight: claim.weight,
                        count: 0.0,
                        parts: within
                            .filter(|(_, key)| key.contains(&mask))
                            .map(|(part, _)| part)
                            .collect(),
                        frozen: None,
                    });
                    classes.len() - 1
                });
            classes[class].count += 1.0;
            class
        });
        let class_of = class_of.collect();
        Self {
            classes,
            class_of,
            capacity: parts.into_values().collect(),
            level: 0.0,
        }
    }

    fn share(&self, class: &Class, level: f64) -> f64 {
        class.frozen.unwrap_or((class.weight * level).min(1.0))
    }

    /// Raises the level as far as it goes and settles whom that leaves behind.
    fn rise(&mut self) {
        let unsettled = self.classes.iter().filter(|class| class.frozen.is_none());
        let lightest = unsettled.map(|class| class.weight).fold(f64::MAX, f64::min);
        let (mut low, mut high) = (self.level, 1.0 / lightest);
        if self.flow(high).met {
            low = high;
        }
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(low, high);
            if self.flow(middle).met {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.level = low;
        let flow = self.flow(low);
        let open = self.reaches_room(&flow);
        let mut settled = false;
        for (index, open) in open.into_iter().enumerate() {
            let class = &self.classes[index];
            let share = self.share(class, low);
            if class.frozen.is_none() && (share >= 1.0 - EPSILON || !open) {
                self.classes[index].frozen = Some(share);
                settled = true;
            }
        }
        if !settled {
            // Rounding hides who is at the limit; nobody gains more than that.
            for index in 0..self.classes.len() {
                let share = self.share(&self.classes[index], low);
                self.classes[index].frozen.get_or_insert(share);
            }
        }
    }

    /// Whether the machine can give everyone its share at `level`: the largest flow
    /// from classes to parts, by augmenting paths.
    fn flow(&self, level: f64) -> Flow {
        let parts = self.capacity.len();
        let mut flow = Flow {
            taken: vec![vec![0.0; parts]; self.classes.len()],
            left: self.capacity.clone(),
            met: true,
        };
        for (index, class) in self.classes.iter().enumerate() {
            let mut wants = self.share(class, level) * class.count;
            while wants > EPSILON {
                let Some(path) = self.path(&flow, index) else {
                    flow.met = false;
                    break;
                };
                wants -= augment(&mut flow, &path, wants);
            }
        }
        flow
    }

    /// A way from a class to a part with room: class, part, class, part ...
    fn path(&self, flow: &Flow, from: usize) -> Option<Vec<(usize, usize)>> {
        let mut reached_by: Vec<Option<usize>> = vec![None; self.capacity.len()];
        let mut from_part: Vec<Option<usize>> = vec![None; self.classes.len()];
        let mut seen = vec![false; self.classes.len()];
        let mut queue = std::collections::VecDeque::from([from]);
        seen[from] = true;
        while let Some(class) = queue.pop_front() {
            for &part in &self.classes[class].parts {
                if reached_by[part].is_some() {
                    continue;
                }
                reached_by[part] = Some(class);
                if flow.left[part] > EPSILON {
                    let mut path = vec![(class, part)];
                    let mut at = class;
                    while let Some(part) = from_part[at] {
                        let class = reached_by[part].expect("a part on the way was reached");
                        path.push((class, part));
                        at = class;
                    }
                    path.reverse();
                    return Some(path);
                }
                for (other, taken) in flow.taken.iter().enumerate() {
                    if taken[part] > EPSILON && !std::mem::replace(&mut seen[other], true) {
                        from_part[other] = Some(part);
                        queue.push_back(other);
                    }
                }
            }
        }
        None
    }

    /// Which classes could still get more.
    fn reaches_room(&self, flow: &Flow) -> Vec<bool> {
        (0..self.classes.len())
            .map(|class| self.path(flow, class).is_some())
            .collect()
    }
}

/// Sends as much as fits along a path, at most `wants`.
fn augment(flow: &mut Flow, path: &[(usize, usize)], wants: f64) -> f64 {
    let last = path[path.len() - 1];
    let mut amount = wants.min(flow.left[last.1]);
    // On the way, a class gives up part of what it takes for what comes after it.
    for pair in path.windows(2) {
        amount = amount.min(flow.taken[pair[1].0][pair[0].1]);
    }
    for pair in path.windows(2) {
        flow.taken[pair[1].0][pair[0].1] -= amount;
    }
    for &(class, part) in path {
        flow.taken[class][part] += amount;
    }
    flow.left[last.1] -= amount;
    amount
}

#[cfg(test)]
mod tests {
    //! Goal: known divisions, and the marks of max-min fairness on random ones.
    use super::*;
    use proptest::prelude::*;

    fn claim(weight: f64, cpus: &[u32]) -> Claim {
        Claim {
            weight,
            allowed: cpus.iter().copied().collect(),
        }
    }

    fn shares(claims: &[Claim], cpus: u32) -> Vec<f64> {
        feasible_shares(claims, &CpuMask::first(cpus))
    }

    #[track_caller]
    fn assert_near(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }

    #[test]
    fn weights_divide_what_is_there() {
        let all = [0, 1];
        assert_near(&shares(&[claim(1.0, &all)], 2), &[1.0]);
        let three = [claim(1.0, &all), claim(1.0, &all), claim(2.0, &all)];
        assert_near(&shares(&three, 2), &[0.5, 0.5, 1.0]);
        // Weight 8 is worth more than a CPU; the rest is for the others.
        let four = [claim(8.0, &all), claim(1.0, &all), claim(3.0, &all)];
        assert_near(&shares(&four, 2), &[1.0, 0.25, 0.75]);
    }

    #[test]
    fn affinity_bounds_shares() {
        let pinned = [claim(1.0, &[0]), claim(1.0, &[0]), claim(1.0, &[0, 1])];
        assert_near(&shares(&pinned, 2), &[0.5, 0.5, 1.0]);
        let heavy = [claim(1.0, &[0]), claim(3.0, &[0]), claim(1.0, &[1])];
        assert_near(&shares(&heavy, 2), &[0.25, 0.75, 1.0]);
        // Three that may go anywhere leave the pinned one its half.
        let mixed = [
            claim(1.0, &[0]),
            claim(1.0, &[0, 1]),
            claim(1.0, &[0, 1]),
            claim(1.0, &[0, 1]),
        ];
        assert_near(&shares(&mixed, 2), &[0.5; 4]);
        // Who may run nowhere gets nothing.
        assert_near(
            &shares(&[claim(1.0, &[5]), claim(1.0, &[0])], 1),
            &[0.0, 1.0],
        );
    }

    proptest! {
        #[test]
        fn nobody_can_gain_but_at_the_cost_of_someone_poorer(
            cpus in 1u32..5,
            tasks in proptest::collection::vec((1u32..20, 1u8..32), 1..10),
        ) {
            let claims: Vec<Claim> = tasks
                .iter()
                .map(|&(weight, bits)| Claim {
                    weight: weight.into(),
                    allowed: (0..5).filter(|cpu| bits >> cpu & 1 != 0).collect(),
                })
                .collect();
            let online = CpuMask::first(cpus);
            let got = feasible_shares(&claims, &online);
            let total: f64 = got.iter().sum();
            prop_assert!(total <= f64::from(cpus) + 1e-6);
            for (claim, share) in claims.iter().zip(&got) {
                prop_assert!((0.0..=1.0 + 1e-6).contains(share));
                let usable = claim.allowed.and(&online);
                if usable.is_empty() || *share > 1.0 - 1e-6 {
                    continue;
                }
                // Below a whole CPU: nobody who shares a CPU with it is better off by weight,
                // unless that one's share could not be moved to it.
                let alike = claims.iter().zip(&got).filter(|(other, _)| {
                    other.allowed.and(&online) == usable
                });
                for (other, other_share) in alike {
                    let (mine, theirs) = (share / claim.weight, other_share / other.weight);
                    prop_assert!(theirs <= mine + 1e-6);
                }
            }
        }
    }
}
