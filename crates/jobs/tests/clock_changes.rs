//! Tests of every clock change of every IANA time zone from 2000 to 2040. The results are compared with the
//! rules in `kith_jobs::schedules`, implemented in the simplest way: by examining the local time of each
//! minute.
//!
//! `KITH_TEST_PATTERNS` sets the number of patterns of each kind that are tested per clock change; the
//! default is 1.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneTransition};
use jiff::{SignedDuration, Timestamp as Moment};
use kith_jobs::schedules::Spec;
use kith_kernel::{Random, SeededRandom, Timestamp};

const SEED: u64 = 2_207;
const FIRST: &str = "2000-01-01T00:00:00Z";
const LAST: &str = "2041-01-01T00:00:00Z";
/// Period examined before and after a clock change, in addition to the length of the shift.
const AROUND: SignedDuration = SignedDuration::from_mins(75);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Cron pattern, with the values of its fields as sets.
#[derive(Debug)]
struct TestPattern {
    second: i8,
    minutes: BTreeSet<i8>,
    hours: BTreeSet<i8>,
}

impl TestPattern {
    fn text(&self) -> String {
        let list = |values: &BTreeSet<i8>| values.iter().map(i8::to_string).collect::<Vec<_>>().join(",");
        let hours = if self.hours.len() == 24 { "*".to_owned() } else { list(&self.hours) };
        format!("{} {} {hours} * * *", self.second, list(&self.minutes))
    }

    fn names(&self, local: DateTime) -> bool {
        local.second() == self.second
            && self.minutes.contains(&local.minute())
            && self.hours.contains(&local.hour())
    }
}

/// Local times around a clock change, one per minute.
struct LocalTimes {
    from: Moment,
    to: Moment,
    /// Each point in time with its local time.
    clock: Vec<(Moment, DateTime)>,
    /// Each local time that occurs, with the first point in time at which clocks show it.
    first: BTreeMap<DateTime, Moment>,
    /// Each local time that is skipped, with the first point in time after the gap.
    skipped: Vec<(DateTime, Moment)>,
}

impl LocalTimes {
    fn around(zone: &TimeZone, change: Moment, shift_s: i64, second: i8) -> Self {
        let reach = AROUND + SignedDuration::from_secs(shift_s.abs());
        let (from, to) = (change - reach, change + reach);
        let (mut clock, mut first, mut skipped) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut at = from + SignedDuration::from_secs(second.into());
        let mut expected = zone.to_datetime(at);
        while at < to {
            let local = zone.to_datetime(at);
            while expected < local {
                skipped.push((expected, landing(zone, at - MINUTE)));
                expected += MINUTE;
            }
            clock.push((at, local));
            first.entry(local).or_insert(at);
            expected = local + MINUTE;
            at += MINUTE;
        }
        skipped.retain(|(local, at)| !first.contains_key(local) && *at < to);
        Self { from, to, clock, first, skipped }
    }

    /// Applies rule 1: a local time is the first point in time at which clocks show it. A skipped local time
    /// is the first point in time after the gap.
    fn times_of_day(&self, pattern: &TestPattern) -> Vec<Moment> {
        let named = self.first.iter().filter(|(local, _)| pattern.names(**local)).map(|(_, at)| *at);
        let skipped = self.skipped.iter().filter(|(local, _)| pattern.names(*local)).map(|(_, at)| *at);
        named.chain(skipped).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Applies rule 2: the pattern runs at each point in time whose local time matches.
    fn interval(&self, pattern: &TestPattern) -> Vec<Moment> {
        self.clock.iter().filter(|(_, local)| pattern.names(*local)).map(|(at, _)| *at).collect()
    }
}

/// Returns the first second after `at` at which the offset of the time zone has changed.
fn landing(zone: &TimeZone, at: Moment) -> Moment {
    let offset = zone.to_offset(at);
    let mut seconds = (1..=60).map(|n| at + SignedDuration::from_secs(n));
    seconds.find(|at| zone.to_offset(*at) != offset).expect("the clocks change within a minute")
}

fn ours(spec: &Spec, from: Moment, to: Moment) -> Vec<Moment> {
    let (runs, more) = spec.between(kith(from), kith(to), 5_000);
    assert!(!more);
    runs.into_iter().map(moment).collect()
}

fn kith(moment: Moment) -> Timestamp {
    Timestamp::from_millis(moment.as_millisecond())
}

fn moment(at: Timestamp) -> Moment {
    Moment::from_millisecond(at.as_millis()).unwrap()
}

fn below(random: &SeededRandom, n: u64) -> i8 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    i8::try_from(u64::from_le_bytes(bytes) % n).unwrap()
}

fn some(random: &SeededRandom, n: u64, limit: u64) -> BTreeSet<i8> {
    (0..=below(random, limit)).map(|_| below(random, n)).collect()
}

/// Returns one pattern of each kind: one time of day near the clock change, a few times of day, and an
/// interval.
fn patterns(random: &SeededRandom, change: &TimeZoneTransition, second: i8) -> [TestPattern; 3] {
    let local = change.offset().to_datetime(change.timestamp());
    let minute = |n: i64| (local + SignedDuration::from_mins(n)).minute();
    let near = |n: i64| (local + SignedDuration::from_mins(n)).hour();
    let aimed = i64::from(below(random, 120)) - 60;
    let hours: BTreeSet<_> = [near(-60), near(0), near(60), below(random, 24)].into();
    [
        TestPattern { second, minutes: [minute(aimed)].into(), hours: [near(aimed)].into() },
        TestPattern { second, minutes: some(random, 60, 6), hours },
        TestPattern { second, minutes: some(random, 60, 4), hours: (0..24).collect() },
    ]
}

#[derive(Default)]
struct Checks {
    zones: usize,
    changes: usize,
    cases: usize,
    runs: usize,
}

impl Checks {
    fn zone(&mut self, name: &str, random: &SeededRandom, rounds: usize) {
        let zone = TimeZone::get(name).unwrap();
        let (first, last): (Moment, Moment) = (FIRST.parse().unwrap(), LAST.parse().unwrap());
        let mut offset = zone.to_offset(first);
        self.zones += 1;
        for change in zone.following(first).take_while(|change| change.timestamp() < last) {
            let shift_s = i64::from(change.offset().seconds() - offset.seconds());
            offset = change.offset();
            if shift_s != 0 {
                self.changes += 1;
                (0..rounds).for_each(|_| self.change(&zone, &change, shift_s, random));
            }
        }
    }

    fn change(&mut self, zone: &TimeZone, change: &TimeZoneTransition, shift_s: i64, random: &SeededRandom) {
        let second = if below(random, 2) == 0 { 0 } else { below(random, 60) };
        let shown = LocalTimes::around(zone, change.timestamp(), shift_s, second);
        let name = zone.iana_name().unwrap();
        for pattern in patterns(random, change, second) {
            let expected = match pattern.hours.len() {
                24 => shown.interval(&pattern),
                _ => shown.times_of_day(&pattern),
            };
            let text = pattern.text();
            let spec = Spec::parse(&text, name, Timestamp::EPOCH).unwrap();
            let found = ours(&spec, shown.from, shown.to);
            assert_eq!(found, expected, "`{text}` in {name} around {}", change.timestamp());
            let asked_at = change.timestamp() + SignedDuration::from_mins(i64::from(below(random, 120)) - 30);
            let next = expected.iter().find(|at| **at > asked_at);
            let found_next = spec.next_after(kith(asked_at)).map(moment).filter(|at| *at < shown.to);
            assert_eq!(found_next.as_ref(), next, "`{text}` in {name} after {asked_at}");
            self.cases += 1;
            self.runs += found.len();
        }
    }
}

#[test]
fn patterns_run_exactly_once_at_every_clock_change() {
    let rounds = std::env::var("KITH_TEST_PATTERNS").map_or(1, |rounds| rounds.parse().unwrap());
    let names: Vec<_> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let try_some = |part: usize| {
        let mut tried = Checks::default();
        for (n, name) in names.iter().enumerate().filter(|(n, _)| n % threads == part) {
            tried.zone(name, &SeededRandom::new(SEED + n as u64), rounds);
        }
        tried
    };
    let mut all = Checks::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || try_some(part))).collect();
        for part in parts {
            let part = part.join().unwrap();
            all.zones += part.zones;
            all.changes += part.changes;
            all.cases += part.cases;
            all.runs += part.runs;
        }
    });
    let Checks { zones, changes, cases, runs } = all;
    println!("seed {SEED}: {zones} zones, {changes} clock changes, {cases} cases, {runs} runs");
    assert_eq!(zones, names.len());
    assert!(zones > 500 && changes > 10_000);
}
