//! Comparison with the crate `croner`, in UTC: patterns that both accept must run at the same times.

use croner::Cron;
use kith_jobs::schedules::Spec;
use kith_kernel::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;

/// Returns a strategy for a field of a pattern: a comma-separated list of items.
fn field(min: u32, max: u32, more: &'static [&'static str]) -> BoxedStrategy<String> {
    let value = || min..=max;
    let range = (value(), value()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let mut items = vec![
        value().prop_map(|n| n.to_string()).boxed(),
        range.clone().prop_map(|(from, to)| format!("{from}-{to}")).boxed(),
        (range, 1..=12.min(max - min)).prop_map(|((from, to), step)| format!("{from}-{to}/{step}")).boxed(),
        (1..=12.min(max - min)).prop_map(|step| format!("*/{step}")).boxed(),
    ];
    if !more.is_empty() {
        items.push(select(more).prop_map(str::to_owned).boxed());
    }
    let list = proptest::collection::vec(proptest::strategy::Union::new(items), 1..4);
    prop_oneof![2 => Just("*".to_owned()), 3 => list.prop_map(|items| items.join(","))].boxed()
}

fn pattern() -> impl Strategy<Value = String> {
    let fields = (
        field(0, 59, &[]),
        field(0, 59, &[]),
        field(0, 23, &[]),
        field(1, 31, &["L", "1W", "15W", "31W"]),
        field(1, 12, &["JAN", "feb", "Mar-May", "DEC"]),
        (any::<bool>(), field(0, 7, &["SUN", "MON-FRI", "FRI-SUN", "TUE#1", "wed#5", "FRIL", "0L"])),
        prop_oneof![3 => Just(String::new()), 1 => Just(" 2027-2031/2,2040".to_owned())],
    );
    fields.prop_map(|(second, minute, hour, day, month, (both, weekday), year)| {
        let both = if both && weekday != "*" { "+" } else { "" };
        format!("{second} {minute} {hour} {day} {month} {both}{weekday}{year}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn patterns_agree_with_croner(pattern in pattern(), from in 1_767_225_600_i64..2_100_000_000) {
        let theirs: Cron = pattern.parse().map_err(|e| TestCaseError::fail(format!("{pattern}: {e}")))?;
        let ours = match Spec::parse(&pattern, "UTC", Timestamp::EPOCH) {
            Ok(ours) => Some(ours),
            Err(kith_jobs::schedules::SpecError::Never) => None,
            Err(e) => return Err(TestCaseError::fail(format!("{pattern}: {e}"))),
        };
        let (mut here, mut there) = (Timestamp::from_millis(from * 1_000), zoned(from));
        for _ in 0..8 {
            let next = ours.as_ref().and_then(|ours| ours.next_after(here));
            // `croner` also searches after the year 2199. Its results there are not compared.
            let other = theirs.find_next_occurrence(&there, false).ok().filter(|at| at.year() < 2_200);
            prop_assert_eq!(next.map(Timestamp::as_millis), other.as_ref().map(|at| at.timestamp().as_millisecond()), "{}", &pattern);
            let (Some(next), Some(other)) = (next, other) else { break };
            (here, there) = (next, other);
        }
    }
}

fn zoned(second: i64) -> jiff::Zoned {
    jiff::Timestamp::from_second(second).unwrap().to_zoned(jiff::tz::TimeZone::UTC)
}
