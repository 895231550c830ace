// SPDX-License-Identifier: GPL-2.0-only
//! From TOML text to a checked workload. Every error names its place, its key,
//! and what is allowed there.

use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    Affinity, Count, GROUP_NAME_MAX, GROUPS_MAX, Group, Kind, Loop, Policy, SpecError, Target,
    Tasks, Workload, format_duration, parse_duration,
};

/// Values of keys that are left out.
pub(super) mod defaults {
    use std::time::Duration;

    pub const DURATION: Duration = Duration::from_secs(10);
    pub const SEED: u64 = 1;
    pub const SENDERS: u32 = 10;
    pub const RECEIVERS: u32 = 10;
    pub const MESSAGE_BYTES: u32 = 100;
    pub const OUTSTANDING: u32 = 8;
    pub const AFFINITY_RUN: Duration = Duration::from_millis(1);
    /// 60 frames a second, as games and desktops draw them.
    pub const FRAME_PERIOD: Duration = Duration::from_micros(16_600);
    pub const PROBE_PERIOD: Duration = Duration::from_millis(1);
}

const fn ns(n: u64) -> Duration {
    Duration::from_nanos(n)
}

const fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const NAME_MAX: usize = 40;
const DESCRIPTION_MAX: usize = 1000;
/// Allowed lengths of a workload.
pub const DURATION: RangeInclusive<Duration> = us(10_000)..=secs(86_400);
/// Allowed lengths of a warm-up.
pub const WARMUP: RangeInclusive<Duration> = secs(0)..=secs(3_600);
const MOMENT: RangeInclusive<Duration> = secs(0)..=secs(86_400);
const RUN: RangeInclusive<Duration> = us(1)..=secs(60);
const RUN_OR_NONE: RangeInclusive<Duration> = secs(0)..=secs(60);
const SLEEP: RangeInclusive<Duration> = secs(0)..=secs(3_600);
const PERIOD: RangeInclusive<Duration> = us(100)..=secs(60);
const COUNT: RangeInclusive<i64> = 1..=10_000;
const COUNT_PER_CPU: RangeInclusive<i64> = 1..=64;
const OUTSTANDING: RangeInclusive<i64> = 1..=256;
const PARTNERS: RangeInclusive<i64> = 1..=100;
const MESSAGE_BYTES: RangeInclusive<i64> = 8..=65_536;
const NICE: RangeInclusive<i64> = -20..=19;
const PRIORITY: RangeInclusive<i64> = 1..=99;
const PERCENT: RangeInclusive<i64> = 0..=100;
const LLC_MAX: u32 = 4095;

const TOP_KEYS: &[&str] = &["name", "description", "duration", "warmup", "seed", "group"];
const GROUP_KEYS: &[&str] = &[
    "name", "kind", "count", "nice", "policy", "priority", "affinity", "start", "stop",
];

/// The kinds of group and the keys that each adds to [`GROUP_KEYS`].
const KINDS: &[(&str, &[&str])] = &[
    (
        "loop",
        &[
            "tasks",
            "run",
            "sleep",
            "jitter",
            "wake_next",
            "tokens",
            "yield",
        ],
    ),
    ("pipe", &["tasks"]),
    ("messaging", &["tasks", "senders", "receivers", "bytes"]),
    ("fork-storm", &["outstanding", "run"]),
    ("exec-storm", &["outstanding"]),
    ("affinity-storm", &["tasks", "run", "target"]),
    ("frame", &["tasks", "period", "work", "jitter"]),
    ("probe", &["tasks", "period"]),
];

/// An error at byte `at` of `text`.
pub(super) fn invalid(file: &str, text: &str, at: usize, message: String) -> SpecError {
    let head = text.get(..at).unwrap_or(text);
    let line_start = head.rfind('\n').map_or(0, |newline| newline + 1);
    SpecError::Invalid {
        file: file.to_owned(),
        line: head.bytes().filter(|&b| b == b'\n').count() + 1,
        column: head[line_start..].chars().count() + 1,
        message,
    }
}

pub(super) fn workload(file: &str, text: &str) -> Result<Workload, SpecError> {
    let document = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(text.len(), |span| span.start);
        invalid(
            file,
            text,
            at,
            e.message().lines().collect::<Vec<_>>().join(", "),
        )
    })?;
    let source = Source { file, text };
    let top = Section {
        source,
        table: document.get_ref(),
        at: 0..0,
    };
    top.allow_only("the workload", &[TOP_KEYS])?;
    let name = top.name("name", NAME_MAX)?;
    let duration = top
        .time("duration", DURATION)?
        .unwrap_or(defaults::DURATION);
    let workload = Workload {
        name,
        description: top.description()?,
        duration,
        warmup: top.time("warmup", WARMUP)?.unwrap_or_default(),
        seed: top.seed()?.unwrap_or(defaults::SEED),
        groups: groups(&top, duration)?,
    };
    Ok(workload)
}

fn groups(top: &Section<'_>, duration: Duration) -> Result<Vec<Group>, SpecError> {
    let Some(value) = top.table.get("group") else {
        return Err(top.error(&top.at, "no group: add at least one [[group]]"));
    };
    let DeValue::Array(entries) = value.get_ref() else {
        return Err(top.error(&value.span(), "`group` must be written as [[group]]"));
    };
    if entries.is_empty() || entries.len() > GROUPS_MAX {
        let message = format!("{} groups; allowed are 1..={GROUPS_MAX}", entries.len());
        return Err(top.error(&value.span(), &message));
    }
    let mut names = BTreeSet::new();
    let mut groups = Vec::new();
    for entry in entries.iter() {
        let DeValue::Table(table) = entry.get_ref() else {
            return Err(top.error(&entry.span(), "a group must be a table: [[group]]"));
        };
        let section = Section {
            source: top.source,
            table,
            at: entry.span(),
        };
        let group = group(&section, duration)?;
        if !names.insert(group.name.clone()) {
            let message = format!("`name`: a second group is called \"{}\"", group.name);
            return Err(section.error(&section.span_of("name"), &message));
        }
        groups.push(group);
    }
    Ok(groups)
}

fn group(section: &Section<'_>, duration: Duration) -> Result<Group, SpecError> {
    let kinds: Vec<_> = KINDS
        .iter()
        .map(|&(name, keys)| (name, (name, keys)))
        .collect();
    let (kind_name, kind_keys) = section.required("kind", section.choice("kind", &kinds)?)?;
    section.allow_only(
        &format!("a group of kind \"{kind_name}\""),
        &[GROUP_KEYS, kind_keys],
    )?;
    let count = section.count()?;
    let policy = section.policy()?;
    let nice = section.integer("nice", NICE)?;
    if nice.is_some() && matches!(policy, Policy::Fifo(_) | Policy::Rr(_)) {
        let message = format!("`nice` has no effect under policy \"{policy}\"; use `priority`");
        return Err(section.error(&section.span_of("nice"), &message));
    }
    let start = section.time("start", MOMENT)?.unwrap_or_default();
    let stop = section.time("stop", MOMENT)?;
    if start >= duration {
        let message = format!(
            "`start` must be before the end of the workload ({})",
            format_duration(duration)
        );
        return Err(section.error(&section.span_of("start"), &message));
    }
    if stop.is_some_and(|stop| stop <= start) {
        let message = format!("`stop` must be after `start` ({})", format_duration(start));
        return Err(section.error(&section.span_of("stop"), &message));
    }
    let tasks = match kind_name {
        "fork-storm" | "exec-storm" => Tasks::Processes,
        _ => {
            let choices = [("threads", Tasks::Threads), ("processes", Tasks::Processes)];
            section.choice("tasks", &choices)?.unwrap_or(Tasks::Threads)
        }
    };
    Ok(Group {
        name: section.name("name", GROUP_NAME_MAX)?,
        kind: kind(section, kind_name, count)?,
        count,
        tasks,
        nice: nice.map_or(0, |n| i8::try_from(n).expect("checked against NICE")),
        policy,
        affinity: section.affinity()?,
        start,
        stop,
    })
}

fn kind(section: &Section<'_>, name: &str, count: Count) -> Result<Kind, SpecError> {
    let outstanding = |section: &Section<'_>| section.number("outstanding", OUTSTANDING);
    Ok(match name {
        "loop" => Kind::Loop(pattern(section, count)?),
        "pipe" => Kind::Pipe,
        "messaging" => Kind::Messaging {
            senders: section
                .number("senders", PARTNERS)?
                .unwrap_or(defaults::SENDERS),
            receivers: section
                .number("receivers", PARTNERS)?
                .unwrap_or(defaults::RECEIVERS),
            bytes: section
                .number("bytes", MESSAGE_BYTES)?
                .unwrap_or(defaults::MESSAGE_BYTES),
        },
        "fork-storm" => Kind::ForkStorm {
            outstanding: outstanding(section)?.unwrap_or(defaults::OUTSTANDING),
            run: section.time("run", RUN_OR_NONE)?.unwrap_or_default(),
        },
        "exec-storm" => Kind::ExecStorm {
            outstanding: outstanding(section)?.unwrap_or(defaults::OUTSTANDING),
        },
        "affinity-storm" => Kind::AffinityStorm {
            run: section.time("run", RUN)?.unwrap_or(defaults::AFFINITY_RUN),
            target: section
                .choice("target", &[("self", Target::Own), ("group", Target::Group)])?
                .unwrap_or(Target::Own),
        },
        "frame" => {
            let period = section
                .time("period", PERIOD)?
                .unwrap_or(defaults::FRAME_PERIOD);
            let below_period = us(1)..=period - ns(1);
            Kind::Frame {
                period,
                work: section.required("work", section.time("work", below_period)?)?,
                jitter_pct: section.number("jitter", PERCENT)?.unwrap_or(0),
            }
        }
        "probe" => Kind::Probe {
            period: section
                .time("period", PERIOD)?
                .unwrap_or(defaults::PROBE_PERIOD),
        },
        _ => unreachable!("`kind` is one of KINDS"),
    })
}

fn pattern(section: &Section<'_>, count: Count) -> Result<Loop, SpecError> {
    let wake_next = section.flag("wake_next")?.unwrap_or(false);
    let tokens = section.number("tokens", COUNT)?;
    if tokens.is_some() && !wake_next {
        let message = "`tokens` needs `wake_next = true`: tokens go round in a ring";
        return Err(section.error(&section.span_of("tokens"), message));
    }
    if let Count::Fixed(count) = count {
        if wake_next && count < 2 {
            let message = "`wake_next` needs a `count` of at least 2: a ring of one wakes nobody";
            return Err(section.error(&section.span_of("wake_next"), message));
        }
        if tokens.is_some_and(|tokens| tokens > count) {
            let message = format!("`tokens` is out of range 1..={count}, the `count`");
            return Err(section.error(&section.span_of("tokens"), &message));
        }
    }
    Ok(Loop {
        run: section.required("run", section.time("run", RUN)?)?,
        sleep: section.time("sleep", SLEEP)?.unwrap_or_default(),
        jitter_pct: section.number("jitter", PERCENT)?.unwrap_or(0),
        wake_next,
        tokens: tokens.unwrap_or(1),
        yields: section.flag("yield")?.unwrap_or(false),
    })
}

#[derive(Clone, Copy)]
struct Source<'t> {
    file: &'t str,
    text: &'t str,
}

/// One table of the file, with typed access to its keys.
struct Section<'t> {
    source: Source<'t>,
    table: &'t DeTable<'t>,
    at: Range<usize>,
}

impl<'t> Section<'t> {
    fn error(&self, at: &Range<usize>, message: &str) -> SpecError {
        invalid(
            self.source.file,
            self.source.text,
            at.start,
            message.to_owned(),
        )
    }

    /// The place of the key's value, or of the table where the key is missing.
    fn span_of(&self, key: &str) -> Range<usize> {
        self.table.get(key).map_or(self.at.clone(), Spanned::span)
    }

    fn allow_only(&self, what: &str, allowed: &[&[&str]]) -> Result<(), SpecError> {
        let allowed = allowed.concat();
        // Keys are stored by name; the first in the file is the one to report.
        let unknown = self
            .table
            .keys()
            .filter(|key| !allowed.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let message = format!(
            "unknown key `{}` in {what}; known are {}",
            key.get_ref(),
            allowed.join(", ")
        );
        Err(self.error(&key.span(), &message))
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, SpecError> {
        value.ok_or_else(|| self.error(&self.at, &format!("`{key}` is missing")))
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> SpecError {
        let found = value.get_ref().type_str();
        self.error(
            &value.span(),
            &format!("`{key}` must be {wanted}, not a TOML {found}"),
        )
    }

    /// The string at `key` as `parse` reads it; its error text goes behind the key.
    fn parsed<T>(
        &self,
        key: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SpecError> {
        let Some(value) = self.table.get(key) else {
            return Ok(None);
        };
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.wrong_type(key, value, wanted));
        };
        let parsed = parse(text).map_err(|e| self.error(&value.span(), &format!("`{key}`: {e}")));
        parsed.map(Some)
    }

    fn integer(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, SpecError> {
        let Some(value) = self.table.get(key) else {
            return Ok(None);
        };
        let wanted = format!("an integer in {}..={}", range.start(), range.end());
        let DeValue::Integer(integer) = value.get_ref() else {
            return Err(self.wrong_type(key, value, &wanted));
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let message = format!("`{key}` is {integer}; it must be {wanted}");
                Err(self.error(&value.span(), &message))
            }
        }
    }

    /// As [`Section::integer`], for ranges that are not negative.
    fn number(&self, key: &str, range: RangeInclusive<i64>) -> Result<Option<u32>, SpecError> {
        let number = self.integer(key, range)?;
        Ok(number.map(|n| u32::try_from(n).expect("the range of the key fits u32")))
    }

    fn time(
        &self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Result<Option<Duration>, SpecError> {
        self.parsed(key, "a duration in quotes such as \"2ms\"", |text| {
            let time = parse_duration(text)?;
            if range.contains(&time) {
                return Ok(time);
            }
            let (low, high) = (
                format_duration(*range.start()),
                format_duration(*range.end()),
            );
            Err(format!("{text} is out of range {low}..={high}"))
        })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, SpecError> {
        match self.table.get(key).map(|value| (value, value.get_ref())) {
            None => Ok(None),
            Some((_, DeValue::Boolean(flag))) => Ok(Some(*flag)),
            Some((value, _)) => Err(self.wrong_type(key, value, "true or false")),
        }
    }

    fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, SpecError> {
        let names: Vec<_> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let wanted = format!("one of {}", names.join(", "));
        self.parsed(key, &wanted, |text| {
            let found = choices.iter().find(|(name, _)| *name == text);
            found
                .map(|&(_, choice)| choice)
                .ok_or(format!("\"{text}\" is not {wanted}"))
        })
    }

    fn name(&self, key: &str, longest: usize) -> Result<String, SpecError> {
        let wanted = format!("1 to {longest} characters out of a-z, 0-9 and -");
        let name = self.parsed(key, &wanted, |text| {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if (1..=longest).contains(&text.len()) && text.bytes().all(good) {
                return Ok(text.to_owned());
            }
            Err(format!("\"{}\" must be {wanted}", text.escape_debug()))
        })?;
        self.required(key, name)
    }

    fn description(&self) -> Result<String, SpecError> {
        let text = self.parsed("description", "text", |text| {
            if text.chars().count() <= DESCRIPTION_MAX {
                return Ok(text.to_owned());
            }
            Err(format!("longer than {DESCRIPTION_MAX} characters"))
        })?;
        Ok(text.unwrap_or_default())
    }

    /// A number, or text for seeds beyond TOML's signed integers.
    fn seed(&self) -> Result<Option<u64>, SpecError> {
        let wanted = format!("an integer in 0..={}", u64::MAX);
        match self.table.get("seed").map(Spanned::get_ref) {
            Some(DeValue::String(_)) => self.parsed("seed", &wanted, |text| {
                text.parse()
                    .map_err(|_| format!("\"{text}\" is not {wanted}"))
            }),
            _ => {
                let seed = self.integer("seed", 0..=i64::MAX)?;
                Ok(seed.map(|n| u64::try_from(n).expect("the range starts at 0")))
            }
        }
    }

    fn count(&self) -> Result<Count, SpecError> {
        let Some(DeValue::String(_)) = self.table.get("count").map(Spanned::get_ref) else {
            return Ok(Count::Fixed(self.number("count", COUNT)?.unwrap_or(1)));
        };
        let count = self.parsed("count", "a count", |text| {
            let number = text
                .strip_suffix("/cpu")
                .and_then(|n| n.parse::<u32>().ok());
            number
                .filter(|&n| COUNT_PER_CPU.contains(&i64::from(n)))
                .ok_or(format!(
                    "\"{text}\" must be an integer, or \"N/cpu\" with N in {}..={}",
                    COUNT_PER_CPU.start(),
                    COUNT_PER_CPU.end()
                ))
        })?;
        Ok(Count::PerCpu(count.expect("the key is present")))
    }

    fn policy(&self) -> Result<Policy, SpecError> {
        let choices = [
            ("other", Policy::Other),
            ("batch", Policy::Batch),
            ("idle", Policy::Idle),
            ("fifo", Policy::Fifo(1)),
            ("rr", Policy::Rr(1)),
            ("ext", Policy::Ext),
        ];
        let policy = self.choice("policy", &choices)?.unwrap_or(Policy::Other);
        let priority = self.number("priority", PRIORITY)?;
        let level = u8::try_from(priority.unwrap_or(1)).expect("checked against PRIORITY");
        match policy {
            Policy::Fifo(_) => Ok(Policy::Fifo(level)),
            Policy::Rr(_) => Ok(Policy::Rr(level)),
            other if priority.is_none() => Ok(other),
            other => {
                let message = format!(
                    "`priority` has no effect under policy \"{other}\"; it needs \"fifo\" or \"rr\""
                );
                Err(self.error(&self.span_of("priority"), &message))
            }
        }
    }

    fn affinity(&self) -> Result<Affinity, SpecError> {
        let wanted = "\"all\", \"one-each\", \"llc:N\" or a CPU list such as \"0-3,6\"";
        let affinity = self.parsed("affinity", wanted, |text| match text {
            "all" => Ok(Affinity::All),
            "one-each" => Ok(Affinity::OneEach),
            _ => match text.strip_prefix("llc:") {
                Some(index) => match index.parse::<u32>() {
                    Ok(index) if index <= LLC_MAX => Ok(Affinity::Llc(index)),
                    _ => Err(format!(
                        "\"{text}\": the LLC must be an integer in 0..={LLC_MAX}"
                    )),
                },
                None => text
                    .parse()
                    .map(Affinity::Cpus)
                    .map_err(|e| format!("{e}; or {wanted}")),
            },
        })?;
        Ok(affinity.unwrap_or(Affinity::All))
    }
}
