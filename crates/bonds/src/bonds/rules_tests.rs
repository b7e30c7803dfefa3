//! Tests of the rules of requests.

use kith_kernel::uuid::Uuid;

use super::super::model::{Asked, PartnerRequestId};
use super::*;

const EXPIRY: Timestamp = Timestamp::from_millis(1_000);
const BEFORE: Timestamp = Timestamp::from_millis(999);
const ADA: UserId = UserId(Uuid::from_u128(1));
const BEN: UserId = UserId(Uuid::from_u128(2));

fn person(id: UserId) -> Person {
    Person { id, display_name: "somebody".into() }
}

/// Returns a request from Ada to Ben as read at `now`.
fn request(stored: RequestStatus, now: Timestamp) -> PartnerRequest {
    PartnerRequest {
        id: PartnerRequestId(Uuid::from_u128(4)),
        from: person(ADA),
        to: Asked::Person(person(BEN)),
        status: status_at(stored, EXPIRY, now),
        message: Some("hello".into()),
        created_at: Timestamp::EPOCH,
        expires_at: EXPIRY,
        restorable_until: None,
        bond: None,
    }
}

/// Requirement PRT-02: every status, before and at expiry, for sender and recipient.
#[test]
fn decisions_depend_on_role_and_status() {
    use RequestStatus::*;
    for stored in [Pending, Accepted, Rejected, Cancelled, Expired, Superseded] {
        for now in [BEFORE, EXPIRY] {
            let request = request(stored, now);
            let outcome = |decided: Result<Deciding, BondError>| match decided {
                Ok(Deciding::Now) => "now".to_owned(),
                Ok(Deciding::Repeated) => "before".to_owned(),
                Err(error) => error.to_string(),
            };
            let expected = |wanted: RequestStatus| match status_at(stored, EXPIRY, now) {
                Pending => "now".to_owned(),
                status if status == wanted => "before".to_owned(),
                status => format!("the request is {}", status.as_str()),
            };
            for wanted in [Accepted, Rejected] {
                assert_eq!(
                    outcome(may_answer(&request, BEN, wanted)),
                    expected(wanted),
                    "{stored:?} at {now}"
                );
                assert_eq!(
                    outcome(may_answer(&request, ADA, wanted)),
                    "only the recipient may do this",
                    "{stored:?} at {now}"
                );
            }
            assert_eq!(outcome(may_cancel(&request, ADA)), expected(Cancelled), "{stored:?} at {now}");
            assert_eq!(
                outcome(may_cancel(&request, BEN)),
                "only the sender may do this",
                "{stored:?} at {now}"
            );
        }
    }
    assert_eq!(status_at(Pending, EXPIRY, EXPIRY), Expired);
    assert_eq!(status_at(Accepted, EXPIRY, EXPIRY), Accepted);
}

/// Requirement SEC-03: the 6th request in a minute, the 21st in an hour, the 101st in a day.
#[test]
fn rate_tiers_slide_and_widest_full_tier_decides() {
    let at = |second: u64| Timestamp::EPOCH + Duration::from_secs(second);
    let wait = |recent: &[Timestamp], now| match may_create(RATE_TIERS, recent, now) {
        Ok(()) => 0,
        Err(BondError::TooMany { wait }) => wait.as_millis(),
        Err(other) => panic!("{other}"),
    };
    let newest_first = |times: &[u64]| times.iter().rev().map(|second| at(*second)).collect::<Vec<_>>();
    let five = newest_first(&[0, 10, 20, 30, 40]);
    assert_eq!(wait(&five[1..], at(40)), 0);
    assert_eq!(wait(&five, at(40)), 20_000);
    assert_eq!(wait(&five, at(60) - Duration::from_millis(1)), 1);
    assert_eq!(wait(&five, at(60)), 0, "the first has left the window");
    let twenty = newest_first(&(0..20).map(|n| n * 60).collect::<Vec<_>>());
    assert_eq!(wait(&twenty, at(1_200)), (3_600 - 1_200) * 1_000);
    assert_eq!(wait(&twenty, at(3_600)), 0);
    let hundred = newest_first(&(0..100).map(|n| n * 600).collect::<Vec<_>>());
    assert_eq!(wait(&hundred, at(60_000)), (86_400 - 60_000) * 1_000);
    assert_eq!(wait(&hundred[1..], at(60_000)), 0);
    assert!(may_create(&[], &hundred, at(0)).is_ok());
}

#[test]
fn each_rejection_lengthens_cooldown() {
    let moment = Duration::from_millis(1);
    let wait = |refusals: Refusals, now| match refusals.may_ask(now) {
        Ok(()) => Some(Duration::ZERO),
        Err(BondError::TooSoon { wait }) => Some(wait),
        Err(BondError::OnlyTheyMayAsk) => None,
        Err(other) => panic!("{other}"),
    };
    let mut now = Timestamp::EPOCH + days(100);
    let mut refusals = Refusals::default();
    assert_eq!(wait(refusals, now), Some(Duration::ZERO));
    for longest in [hours(24), days(7), days(30)] {
        refusals = refusals.and_rejected(now);
        assert_eq!(wait(refusals, now), Some(longest));
        assert_eq!(wait(refusals, now + longest - moment), Some(moment));
        now = now + longest;
        assert_eq!(wait(refusals, now), Some(Duration::ZERO));
    }
    assert_eq!(wait(refusals.and_rejected(now), now + days(365) - moment), None);
    assert_eq!(
        wait(refusals.and_cancelled(now), now),
        Some(Duration::ZERO),
        "taking back never reaches the last step"
    );
    assert_eq!(wait(refusals.and_rejected(now).and_cancelled(now), now), None);

    let taken_back = Refusals::default().and_cancelled(now);
    assert_eq!(wait(taken_back, now), Some(Duration::ZERO), "taking back makes nobody wait");
    assert_eq!(wait(taken_back.and_rejected(now), now), Some(days(7)), "but the next refusal counts more");
    let waited = taken_back.and_rejected(now).and_cancelled(now + days(7));
    assert_eq!(wait(waited, now + days(7)), Some(Duration::ZERO), "nor does it lengthen a wait that is over");
    assert!(taken_back.silences(now + hours(24) - moment) && !taken_back.silences(now + hours(24)));
}

#[test]
fn expired_requests_count_like_cancelled_ones() {
    let now = Timestamp::EPOCH + days(1_000);
    let mut refusals = Refusals::default();
    for steps in [1, 2, 3, 3] {
        refusals = refusals.and_expired(now);
        assert_eq!(refusals.steps, steps);
        refusals.may_ask(now).unwrap();
    }
    assert!(!refusals.silences(now));
    let earlier = refusals.and_expired(now - days(1));
    assert_eq!(earlier.stepped_at, Some(now), "an expiry that is recorded late is no newer step");
    assert!(matches!(refusals.and_rejected(now).may_ask(now), Err(BondError::OnlyTheyMayAsk)));
}

#[test]
fn refusals_reset_after_a_year() {
    let now = Timestamp::EPOCH + days(1_000);
    let refused = (0..4).fold(Refusals::default(), |refusals, _| refusals.and_rejected(now));
    let year = now + days(365);
    assert!(matches!(refused.may_ask(year - Duration::from_millis(1)), Err(BondError::OnlyTheyMayAsk)));
    refused.may_ask(year).unwrap();
    let again = refused.and_rejected(year);
    assert_eq!((again.steps, again.wait_until), (1, Some(year + hours(24))));
    assert_eq!(refused.and_expired(year).steps, 1);
    let within = refused.and_cancelled(year - Duration::from_millis(1));
    assert!(within.may_ask(year).is_err(), "the year begins anew with each step");
}

fn standing(sender: UserId, pending: Option<PartnerRequest>) -> Standing {
    Standing {
        sender: person(sender),
        receiver: Some(person(if sender == ADA { BEN } else { ADA })),
        sender_bonded: false,
        who_may_ask: WhoMayAsk::Anyone,
        found_by_email: true,
        pending,
        withheld: false,
        refusals: Refusals::default(),
        refusals_by_email: Refusals::default(),
        former_ended_at: None,
    }
}

fn sending(standing: &Standing, way: Way, message: &str) -> String {
    match may_send(standing, way, Some(message), BEFORE) {
        Ok(Sending::New { before: None }) => "new".to_owned(),
        Ok(Sending::New { before: Some(_) }) => "new, another makes way".to_owned(),
        Ok(Sending::Repeated(_)) => "repeated".to_owned(),
        Ok(Sending::Crossed(_)) => "crossed".to_owned(),
        Ok(Sending::Withheld) => "withheld".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn send_decision_depends_on_pending_request() {
    let live = || Some(request(RequestStatus::Pending, BEFORE));
    let lapsed = || Some(request(RequestStatus::Pending, EXPIRY));
    let by_id = |sender, pending, message| sending(&standing(sender, pending), Way::Id, message);
    assert_eq!(by_id(ADA, None, "hello"), "new");
    assert_eq!(by_id(ADA, live(), "hello"), "repeated");
    assert_eq!(by_id(ADA, live(), "other words"), "a request to this user is pending");
    assert_eq!(by_id(BEN, live(), "me too"), "crossed");
    assert_eq!(by_id(ADA, lapsed(), "hello"), "new, another makes way");
    assert_eq!(by_id(BEN, lapsed(), "hello"), "new, another makes way");
    let by_address = || {
        let to = Asked::Address { email: "ben@example.org".into() };
        Some(PartnerRequest { to, ..request(RequestStatus::Pending, BEFORE) })
    };
    for message in ["hello", "other words"] {
        assert_eq!(by_id(ADA, by_address(), message), "new, another makes way", "whose it is is not told");
    }
    let by_invite = ["recipient not found", "new"];
    for (receiver, by_invite) in [None, Some(person(BEN))].into_iter().zip(by_invite) {
        let waiting = Standing { withheld: true, receiver, ..standing(ADA, None) };
        assert_eq!(sending(&waiting, Way::Id, "hello"), "withheld", "blocked or let in again");
        assert_eq!(sending(&waiting, Way::Invite, "hello"), by_invite);
    }
    for pending in [None, live(), lapsed()] {
        for sender in [ADA, BEN] {
            let bonded = Standing { sender_bonded: true, ..standing(sender, pending.clone()) };
            assert_eq!(sending(&bonded, Way::Id, "hello"), "the slot is occupied");
        }
    }
}

#[test]
fn request_policy_and_rejections_limit_requests() {
    use WhoMayAsk::*;
    let refused = Refusals::default().and_rejected(BEFORE);
    let gone = Standing { receiver: None, ..standing(ADA, None) };
    for way in [Way::Id, Way::Invite] {
        assert_eq!(sending(&gone, way, "hello"), "recipient not found");
    }
    #[rustfmt::skip]
    let table = [
        (Anyone,  Way::Id,     "new",                                 "the request cooldown is active"),
        (Anyone,  Way::Invite, "new",                                 "new"),
        (Invited, Way::Id,     "the recipient does not accept requests", "the recipient does not accept requests"),
        (Invited, Way::Invite, "new",                                 "new"),
        (Nobody,  Way::Id,     "the recipient does not accept requests", "the recipient does not accept requests"),
        (Nobody,  Way::Invite, "invite not found",             "invite not found"),
    ];
    for (who_may_ask, way, fresh, after_a_rejection) in table {
        let open = Standing { who_may_ask, ..standing(ADA, None) };
        assert_eq!(sending(&open, way, "hello"), fresh, "{who_may_ask:?} {way:?}");
        let again = Standing { refusals: refused, ..open };
        assert_eq!(sending(&again, way, "hello"), after_a_rejection, "{who_may_ask:?} {way:?}");
        let asked =
            Standing { pending: Some(request(RequestStatus::Pending, BEFORE)), ..standing(BEN, None) };
        let asked = Standing { who_may_ask, ..asked };
        assert_eq!(sending(&asked, way, "hello"), "crossed", "who asks may be answered");
    }
}

/// A request by e-mail address reaches its owner only if no rule rejects it, and the sender never learns the
/// reason.
#[test]
fn request_by_email_reaches_discoverable_users_only() {
    let reaches = |standing: &Standing| match reach(standing, Some("hello"), BEFORE) {
        None => "nobody",
        Some(Sending::New { .. }) => "them",
        Some(Sending::Crossed(_)) => "crossed",
        Some(Sending::Repeated(_) | Sending::Withheld) => panic!("unexpected request"),
    };
    let live = || Some(request(RequestStatus::Pending, BEFORE));
    assert_eq!(reaches(&standing(ADA, None)), "them");
    assert_eq!(reaches(&standing(BEN, live())), "crossed");
    for nobody in [
        Standing { found_by_email: false, ..standing(ADA, None) },
        Standing { found_by_email: false, ..standing(BEN, live()) },
        Standing { receiver: None, ..standing(ADA, None) },
        Standing { who_may_ask: WhoMayAsk::Invited, ..standing(ADA, None) },
        Standing { refusals: Refusals { steps: 4, ..Refusals::default() }, ..standing(ADA, None) },
        standing(ADA, live()),
    ] {
        assert_eq!(reaches(&nobody), "nobody", "{nobody:?}");
    }
}
