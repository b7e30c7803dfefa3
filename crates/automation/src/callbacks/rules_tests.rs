//! Tests the retry schedule against the specification, and the circuit breaker against a model.

use proptest::prelude::*;

use super::*;

const PROBE: Duration = seconds(30);

fn at(s: u64) -> Timestamp {
    Timestamp::EPOCH + seconds(s)
}

#[test]
fn retry_delays_match_specification() {
    let mut since_start = Duration::ZERO;
    let mut starts = vec![since_start];
    for attempts in 1..=9 {
        let RetryDecision::RetryAfter(wait) =
            decide_retry(AttemptOutcome::Responded(500), attempts, None, 0.0)
        else {
            panic!("{attempts}")
        };
        since_start += wait;
        starts.push(since_start);
    }
    let expected =
        ["0:0:0", "0:0:5", "0:5:5", "0:35:5", "2:35:5", "7:35:5", "17:35:5", "31:35:5", "51:35:5", "75:35:5"];
    let actual =
        starts.iter().map(Duration::as_secs).map(|s| format!("{}:{}:{}", s / 3_600, s / 60 % 60, s % 60));
    assert_eq!(actual.collect::<Vec<_>>(), expected);
    assert_eq!(decide_retry(AttemptOutcome::Responded(500), 10, None, 0.0), RetryDecision::AttemptsExhausted);
    assert_eq!(
        decide_retry(AttemptOutcome::NoResponse, 10, Some(hours(1)), 0.0),
        RetryDecision::AttemptsExhausted
    );
}

#[test]
fn response_status_decides_retry() {
    for status in 100..600 {
        let expected = match status {
            200..=299 => RetryDecision::Delivered,
            410 => RetryDecision::Gone,
            _ => RetryDecision::RetryAfter(seconds(5)),
        };
        assert_eq!(decide_retry(AttemptOutcome::Responded(status), 1, None, 0.0), expected, "{status}");
    }
    assert_eq!(decide_retry(AttemptOutcome::NoResponse, 1, None, 0.0), RetryDecision::RetryAfter(seconds(5)));
}

#[test]
fn retry_after_header_lengthens_delay_within_bounds() {
    let wait = |retry_after| match decide_retry(AttemptOutcome::Responded(503), 2, Some(retry_after), 0.0) {
        RetryDecision::RetryAfter(wait) => wait,
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
fn endpoint_is_disabled_after_five_days_of_failures() {
    assert!(!must_disable(None, at(0) + days(9)));
    assert!(!must_disable(Some(at(0)), at(0) + days(5) - Duration::from_millis(1)));
    assert!(must_disable(Some(at(0)), at(0) + days(5)));
}

#[test]
fn open_circuit_breaker_admits_single_probe() {
    let mut breaker = CircuitBreaker::default();
    for _ in 0..FAILURES_TO_OPEN {
        assert_eq!(breaker.admit(at(0), PROBE), Admission::Send);
        breaker.failed(at(0), false);
    }
    assert_eq!(breaker.state(at(29)), (BreakerState::Open, Some(at(30))));
    assert_eq!(breaker.admit(at(29), PROBE), Admission::Wait(at(30)));
    assert_eq!(breaker.state(at(30)).0, BreakerState::HalfOpen);
    assert_eq!(breaker.admit(at(30), PROBE), Admission::Probe);
    assert_eq!(breaker.admit(at(30), PROBE), Admission::Wait(at(60)), "only one probe runs at a time");
    breaker.failed(at(31), true);
    assert_eq!(
        breaker.state(at(90)),
        (BreakerState::Open, Some(at(91))),
        "the breaker stays open twice as long after a second failure"
    );
    assert_eq!(breaker.admit(at(91), PROBE), Admission::Probe);
    // The result of the probe was never recorded, because its node crashed.
    assert_eq!(breaker.admit(at(121), PROBE), Admission::Probe);
    breaker.succeeded();
    assert_eq!(breaker, CircuitBreaker::default());
    assert_eq!(breaker.admit(at(121), PROBE), Admission::Send);
}

#[test]
fn breaker_open_period_doubles_up_to_ten_minutes() {
    let mut breaker = CircuitBreaker { failures: 4, ..CircuitBreaker::default() };
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

/// Step of a random sequence.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request asks the circuit breaker whether it may be sent.
    Ask,
    /// The n-th running request ends: `true` means success.
    End(usize, bool),
    /// The n-th running request ends without recording a result.
    Die(usize),
    /// This number of seconds passes.
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

    /// Runs overlapping, failing, succeeding and lost requests in random order. After enough consecutive
    /// failures, the circuit breaker must reject all requests until its open period ends, and then allow one
    /// probe at a time. A success must close it.
    #[test]
    fn circuit_breaker_matches_model(steps in prop::collection::vec(step(), 1..200)) {
        let mut breaker = CircuitBreaker::default();
        let mut now = at(1_000_000);
        // Running requests: `true` if the request is a probe, and the time at which it was allowed.
        let mut running: Vec<(bool, Timestamp)> = Vec::new();
        let mut failures_in_a_row = 0;
        for step in steps {
            match step {
                Step::Pass(s) => now = now + seconds(s),
                Step::Die(n) => if n < running.len() { running.remove(n); },
                Step::Ask => {
                    let before = breaker;
                    match breaker.admit(now, PROBE) {
                        Admission::Send => {
                            prop_assert!(failures_in_a_row < FAILURES_TO_OPEN);
                            prop_assert_eq!(before, breaker);
                            running.push((false, now));
                        }
                        Admission::Probe => {
                            prop_assert!(failures_in_a_row >= FAILURES_TO_OPEN);
                            let others = running.iter().filter(|(probe, since)| *probe && now < *since + PROBE);
                            prop_assert_eq!(others.count(), 0, "only one probe runs at a time");
                            running.push((true, now));
                        }
                        Admission::Wait(until) => {
                            prop_assert!(failures_in_a_row >= FAILURES_TO_OPEN);
                            prop_assert!(now < until && until <= now + MAX_OPEN_PERIOD);
                            prop_assert_eq!(before, breaker);
                            let later = breaker.admit(until, PROBE);
                            breaker = before;
                            // At `until`, a probe must be allowed: the open period has ended, or the time of
                            // the running probe.
                            prop_assert_eq!(later, Admission::Probe);
                        }
                    }
                }
                Step::End(n, well) if n < running.len() => {
                    let (was_probe, _) = running.remove(n);
                    if well {
                        breaker.succeeded();
                        failures_in_a_row = 0;
                        prop_assert_eq!(breaker.state(now), (BreakerState::Closed, None));
                        // Probes that were sent before the circuit breaker closed now count as ordinary
                        // requests.
                        running.iter_mut().for_each(|(probe, _)| *probe = false);
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
