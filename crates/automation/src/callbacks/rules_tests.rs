//! The ladder as the specification has it, and the breaker against a model of what it is to do.

use proptest::prelude::*;

use super::*;

const PROBE: Duration = seconds(30);

fn at(s: u64) -> Timestamp {
    Timestamp::EPOCH + seconds(s)
}

#[test]
fn the_ladder_is_that_of_the_specification() {
    let mut since_start = Duration::ZERO;
    let mut starts = vec![since_start];
    for attempts in 1..=9 {
        let Next::Again(wait) = next(Ended::Answered(500), attempts, None, 0.0) else { panic!("{attempts}") };
        since_start += wait;
        starts.push(since_start);
    }
    let told =
        ["0:0:0", "0:0:5", "0:5:5", "0:35:5", "2:35:5", "7:35:5", "17:35:5", "31:35:5", "51:35:5", "75:35:5"];
    let shown =
        starts.iter().map(Duration::as_secs).map(|s| format!("{}:{}:{}", s / 3_600, s / 60 % 60, s % 60));
    assert_eq!(shown.collect::<Vec<_>>(), told);
    assert_eq!(next(Ended::Answered(500), 10, None, 0.0), Next::GivenUp);
    assert_eq!(next(Ended::Unanswered, 10, Some(hours(1)), 0.0), Next::GivenUp);
}

#[test]
fn each_status_means_what_the_specification_says() {
    for status in 100..600 {
        let expected = match status {
            200..=299 => Next::Delivered,
            410 => Next::Gone,
            _ => Next::Again(seconds(5)),
        };
        assert_eq!(next(Ended::Answered(status), 1, None, 0.0), expected, "{status}");
    }
    assert_eq!(next(Ended::Unanswered, 1, None, 0.0), Next::Again(seconds(5)));
}

#[test]
fn a_receiver_may_ask_for_a_longer_wait_within_bounds_and_never_for_a_shorter_one() {
    let wait = |asked| match next(Ended::Answered(503), 2, Some(asked), 0.0) {
        Next::Again(wait) => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(seconds(1)), minutes(5));
    assert_eq!(wait(minutes(7)), minutes(7));
    assert_eq!(wait(days(300)), hours(24));
    for (text, expected) in [
        ("120", Some(seconds(120))),
        ("0", Some(Duration::ZERO)),
        ("99999999999999999999999", Some(hours(24))),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", Some(minutes(28))),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", Some(minutes(28))),
        ("Wed Oct 21 07:28:00 2026", Some(minutes(28))),
        ("Wed, 21 Oct 2026 06:00:00 GMT", Some(Duration::ZERO)),
        ("Wed, 21 Oct 2026", None),
    ] {
        let date = Some("Wed, 21 Oct 2026 07:00:00 GMT");
        assert_eq!(retry_after(text, date, Timestamp::EPOCH), expected, "{text}");
    }
    let now = Timestamp::from_millis(1_792_566_000_000);
    for date in [None, Some("today")] {
        assert_eq!(retry_after("Wed, 21 Oct 2026 07:28:00 GMT", date, now), Some(minutes(28)));
    }
}

#[test]
fn an_endpoint_is_hopeless_after_five_days_and_not_before() {
    assert!(!is_hopeless(None, at(0) + days(9)));
    assert!(!is_hopeless(Some(at(0)), at(0) + days(5) - Duration::from_millis(1)));
    assert!(is_hopeless(Some(at(0)), at(0) + days(5)));
}

#[test]
fn an_open_breaker_lets_one_request_find_out() {
    let mut breaker = Breaker::default();
    for _ in 0..FAILURES_TO_OPEN {
        assert_eq!(breaker.admit(at(0), PROBE), Admission::Send);
        breaker.failed(at(0), false);
    }
    assert_eq!(breaker.state(at(29)), (BreakerState::Open, Some(at(30))));
    assert_eq!(breaker.admit(at(29), PROBE), Admission::Wait(at(30)));
    assert_eq!(breaker.state(at(30)).0, BreakerState::HalfOpen);
    assert_eq!(breaker.admit(at(30), PROBE), Admission::Probe);
    assert_eq!(breaker.admit(at(30), PROBE), Admission::Wait(at(60)), "alone");
    breaker.failed(at(31), true);
    assert_eq!(breaker.state(at(90)), (BreakerState::Open, Some(at(91))), "twice as long");
    assert_eq!(breaker.admit(at(91), PROBE), Admission::Probe);
    // Whoever sent the probe died over it.
    assert_eq!(breaker.admit(at(121), PROBE), Admission::Probe);
    breaker.succeeded();
    assert_eq!(breaker, Breaker::default());
    assert_eq!(breaker.admit(at(121), PROBE), Admission::Send);
}

#[test]
fn pauses_grow_to_ten_minutes_and_no_further() {
    let mut breaker = Breaker { failures: 4, ..Breaker::default() };
    let mut now = at(0);
    breaker.failed(now, false);
    for expected in [30, 60, 120, 240, 480, 600, 600, 600] {
        let until = now + seconds(expected);
        assert_eq!(breaker.state(now).1, Some(until));
        now = until;
        assert_eq!(breaker.admit(now, PROBE), Admission::Probe);
        breaker.failed(now, true);
    }
    breaker.openings = i64::MAX;
    breaker.failed(now, true);
    assert_eq!(breaker.state(now), (BreakerState::Open, Some(now + minutes(10))));
}

/// What happens to an endpoint, seen from outside.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody wants to send.
    Ask,
    /// The n-th of those that are under way ends well, or badly.
    End(usize, bool),
    /// One that is under way is never heard of again.
    Die(usize),
    /// Seconds pass.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Ask),
        4 => (0..8_usize, prop::bool::weighted(0.2)).prop_map(|(n, well)| Step::End(n, well)),
        1 => (0..8_usize).prop_map(Step::Die),
        2 => (0..400_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// However requests overlap, fail, succeed or vanish, and whatever time passes: a breaker that has seen enough failures
    /// in a row admits nothing until its pause is over, then one at a time; it never stays shut for good; and a success
    /// closes it.
    #[test]
    fn a_breaker_admits_as_its_model_does(steps in prop::collection::vec(step(), 1..200)) {
        let mut breaker = Breaker::default();
        let mut now = at(1_000_000);
        // Of each that is under way: whether it is a probe, and when it was admitted.
        let mut under_way: Vec<(bool, Timestamp)> = Vec::new();
        let mut failures_in_a_row = 0;
        for step in steps {
            match step {
                Step::Pass(s) => now = now + seconds(s),
                Step::Die(n) => if n < under_way.len() { under_way.remove(n); },
                Step::Ask => {
                    let before = breaker;
                    match breaker.admit(now, PROBE) {
                        Admission::Send => {
                            prop_assert!(failures_in_a_row < FAILURES_TO_OPEN);
                            prop_assert_eq!(before, breaker);
                            under_way.push((false, now));
                        }
                        Admission::Probe => {
                            prop_assert!(failures_in_a_row >= FAILURES_TO_OPEN);
                            let others = under_way.iter().filter(|(probe, since)| *probe && now < *since + PROBE);
                            prop_assert_eq!(others.count(), 0, "another probe has time left");
                            under_way.push((true, now));
                        }
                        Admission::Wait(until) => {
                            prop_assert!(failures_in_a_row >= FAILURES_TO_OPEN);
                            prop_assert!(now < until && until <= now + LONGEST_PAUSE);
                            prop_assert_eq!(before, breaker);
                            let later = breaker.admit(until, PROBE);
                            breaker = before;
                            // What is waited for is a probe's turn, or the end of a probe that began after that.
                            prop_assert_eq!(later, Admission::Probe);
                        }
                    }
                }
                Step::End(n, well) if n < under_way.len() => {
                    let (was_probe, _) = under_way.remove(n);
                    if well {
                        breaker.succeeded();
                        failures_in_a_row = 0;
                        prop_assert_eq!(breaker.state(now), (BreakerState::Closed, None));
                        // Those that were probes of a breaker that is closed by now are requests like others.
                        under_way.iter_mut().for_each(|(probe, _)| *probe = false);
                    } else {
                        breaker.failed(now, was_probe);
                        failures_in_a_row += 1;
                    }
                }
                Step::End(..) => {}
            }
            let is_closed = breaker.state(now).0 == BreakerState::Closed;
            prop_assert_eq!(is_closed, failures_in_a_row < FAILURES_TO_OPEN);
        }
    }
}
