//! Tests of the rules of requests.

use kith_kernel::uuid::Uuid;

use super::super::model::{PartnerRequestId, RequestRecipient};
use super::*;

const EXPIRY: Timestamp = Timestamp::from_millis(1_000);
const BEFORE: Timestamp = Timestamp::from_millis(999);
const ADA: UserId = UserId(Uuid::from_u128(1));
const BEN: UserId = UserId(Uuid::from_u128(2));

fn person(id: UserId) -> UserSummary {
    UserSummary { id, display_name: "somebody".into() }
}

/// Returns a request from Ada to Ben with the stored status `stored`, as read at `now`.
fn request(stored: RequestStatus, now: Timestamp) -> PartnerRequest {
    PartnerRequest {
        id: PartnerRequestId(Uuid::from_u128(4)),
        from: person(ADA),
        to: RequestRecipient::User(person(BEN)),
        status: status_at(stored, EXPIRY, now),
        message: Some("hello".into()),
        created_at: Timestamp::EPOCH,
        expires_at: EXPIRY,
        restorable_until: None,
        bond: None,
    }
}

/// Requirement PRT-02. Tests every status, before and at expiry, for the sender and the recipient.
#[test]
fn decisions_depend_on_role_and_status() {
    use RequestStatus::*;
    for stored in [Pending, Accepted, Rejected, Cancelled, Expired, Superseded] {
        for now in [BEFORE, EXPIRY] {
            let request = request(stored, now);
            let outcome = |decided: Result<Decision, BondError>| match decided {
                Ok(Decision::Now) => "now".to_owned(),
                Ok(Decision::Repeated) => "before".to_owned(),
                Err(error) => error.to_string(),
            };
            let expected = |wanted: RequestStatus| match status_at(stored, EXPIRY, now) {
                Pending => "now".to_owned(),
                status if status == wanted => "before".to_owned(),
                status => format!("the request is {}", status.as_str()),
            };
            for wanted in [Accepted, Rejected] {
                assert_eq!(
                    outcome(decide_answer(&request, BEN, wanted)),
                    expected(wanted),
                    "{stored:?} at {now}"
                );
                assert_eq!(
                    outcome(decide_answer(&request, ADA, wanted)),
                    "only the recipient may do this",
                    "{stored:?} at {now}"
                );
            }
            assert_eq!(outcome(decide_cancel(&request, ADA)), expected(Cancelled), "{stored:?} at {now}");
            assert_eq!(
                outcome(decide_cancel(&request, BEN)),
                "only the sender may do this",
                "{stored:?} at {now}"
            );
        }
    }
    assert_eq!(status_at(Pending, EXPIRY, EXPIRY), Expired);
    assert_eq!(status_at(Accepted, EXPIRY, EXPIRY), Accepted);
}

/// Requirement SEC-03. The 6th request in a minute, the 21st in an hour and the 101st in a day must be
/// rejected.
#[test]
fn rate_limits_apply_per_sliding_window() {
    let at = |second: u64| Timestamp::EPOCH + Duration::from_secs(second);
    let wait = |recent: &[Timestamp], now| match check_rate_tiers(RATE_TIERS, recent, now) {
        Ok(()) => 0,
        Err(BondError::TooManyRequests { wait }) => wait.as_millis(),
        Err(other) => panic!("{other}"),
    };
    let newest_first = |times: &[u64]| times.iter().rev().map(|second| at(*second)).collect::<Vec<_>>();
    let five = newest_first(&[0, 10, 20, 30, 40]);
    assert_eq!(wait(&five[1..], at(40)), 0);
    assert_eq!(wait(&five, at(40)), 20_000);
    assert_eq!(wait(&five, at(60) - Duration::from_millis(1)), 1);
    assert_eq!(wait(&five, at(60)), 0, "the first request has left the window");
    let twenty = newest_first(&(0..20).map(|n| n * 60).collect::<Vec<_>>());
    assert_eq!(wait(&twenty, at(1_200)), (3_600 - 1_200) * 1_000);
    assert_eq!(wait(&twenty, at(3_600)), 0);
    let hundred = newest_first(&(0..100).map(|n| n * 600).collect::<Vec<_>>());
    assert_eq!(wait(&hundred, at(60_000)), (86_400 - 60_000) * 1_000);
    assert_eq!(wait(&hundred[1..], at(60_000)), 0);
    assert!(check_rate_tiers(&[], &hundred, at(0)).is_ok());
}

#[test]
fn each_rejection_lengthens_cooldown() {
    let moment = Duration::from_millis(1);
    let wait = |refusals: RefusalHistory, now| match refusals.check_cooldown(now) {
        Ok(()) => Some(Duration::ZERO),
        Err(BondError::CooldownActive { wait }) => Some(wait),
        Err(BondError::OnlyRecipientCanRequest) => None,
        Err(other) => panic!("{other}"),
    };
    let mut now = Timestamp::EPOCH + days(100);
    let mut refusals = RefusalHistory::default();
    assert_eq!(wait(refusals, now), Some(Duration::ZERO));
    for longest in [hours(24), days(7), days(30)] {
        refusals = refusals.with_rejection(now);
        assert_eq!(wait(refusals, now), Some(longest));
        assert_eq!(wait(refusals, now + longest - moment), Some(moment));
        now = now + longest;
        assert_eq!(wait(refusals, now), Some(Duration::ZERO));
    }
    assert_eq!(wait(refusals.with_rejection(now), now + days(365) - moment), None);
    assert_eq!(
        wait(refusals.with_cancellation(now), now),
        Some(Duration::ZERO),
        "a cancellation never blocks later requests for good"
    );
    assert_eq!(wait(refusals.with_rejection(now).with_cancellation(now), now), None);

    let cancelled = RefusalHistory::default().with_cancellation(now);
    assert_eq!(wait(cancelled, now), Some(Duration::ZERO), "a cancellation starts no cooldown");
    assert_eq!(
        wait(cancelled.with_rejection(now), now),
        Some(days(7)),
        "a rejection after a cancellation has a longer cooldown"
    );
    let waited = cancelled.with_rejection(now).with_cancellation(now + days(7));
    assert_eq!(
        wait(waited, now + days(7)),
        Some(Duration::ZERO),
        "a cancellation does not extend an elapsed cooldown"
    );
    assert!(
        cancelled.suppresses_notification(now + hours(24) - moment)
            && !cancelled.suppresses_notification(now + hours(24))
    );
}

#[test]
fn expired_requests_count_like_cancelled_ones() {
    let now = Timestamp::EPOCH + days(1_000);
    let mut refusals = RefusalHistory::default();
    for steps in [1, 2, 3, 3] {
        refusals = refusals.with_expiry(now);
        assert_eq!(refusals.steps, steps);
        refusals.check_cooldown(now).unwrap();
    }
    assert!(!refusals.suppresses_notification(now));
    let earlier = refusals.with_expiry(now - days(1));
    assert_eq!(
        earlier.last_step_at,
        Some(now),
        "an expiry that is recorded late does not move the time of the last refusal"
    );
    assert!(matches!(
        refusals.with_rejection(now).check_cooldown(now),
        Err(BondError::OnlyRecipientCanRequest)
    ));
}

#[test]
fn refusals_are_forgotten_after_a_year() {
    let now = Timestamp::EPOCH + days(1_000);
    let refused = (0..4).fold(RefusalHistory::default(), |refusals, _| refusals.with_rejection(now));
    let year = now + days(365);
    assert!(matches!(
        refused.check_cooldown(year - Duration::from_millis(1)),
        Err(BondError::OnlyRecipientCanRequest)
    ));
    refused.check_cooldown(year).unwrap();
    let again = refused.with_rejection(year);
    assert_eq!((again.steps, again.wait_until), (1, Some(year + hours(24))));
    assert_eq!(refused.with_expiry(year).steps, 1);
    let within = refused.with_cancellation(year - Duration::from_millis(1));
    assert!(within.check_cooldown(year).is_err(), "each refusal restarts the year");
}

fn context(sender: UserId, pending: Option<PartnerRequest>) -> SendContext {
    SendContext {
        sender: person(sender),
        recipient: Some(person(if sender == ADA { BEN } else { ADA })),
        is_sender_bonded: false,
        accepts_requests_from: RequestPolicy::Anyone,
        discoverable_by_email: true,
        pending,
        has_withheld_request: false,
        refusals: RefusalHistory::default(),
        email_refusals: RefusalHistory::default(),
        former_ended_at: None,
    }
}

fn decision(context: &SendContext, mode: AddressingMode, message: &str) -> String {
    match decide_send(context, mode, Some(message), BEFORE) {
        Ok(SendDecision::New { before: None }) => "new".to_owned(),
        Ok(SendDecision::New { before: Some(_) }) => "new, earlier request removed".to_owned(),
        Ok(SendDecision::Repeated(_)) => "repeated".to_owned(),
        Ok(SendDecision::Crossed(_)) => "crossed".to_owned(),
        Ok(SendDecision::Withheld) => "withheld".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn send_decision_depends_on_pending_request() {
    let live = || Some(request(RequestStatus::Pending, BEFORE));
    let expired = || Some(request(RequestStatus::Pending, EXPIRY));
    let by_id = |sender, pending, message| decision(&context(sender, pending), AddressingMode::Id, message);
    assert_eq!(by_id(ADA, None, "hello"), "new");
    assert_eq!(by_id(ADA, live(), "hello"), "repeated");
    assert_eq!(by_id(ADA, live(), "other words"), "a request to this user is pending");
    assert_eq!(by_id(BEN, live(), "me too"), "crossed");
    assert_eq!(by_id(ADA, expired(), "hello"), "new, earlier request removed");
    assert_eq!(by_id(BEN, expired(), "hello"), "new, earlier request removed");
    let by_address = || {
        let to = RequestRecipient::Address { email: "ben@example.org".into() };
        Some(PartnerRequest { to, ..request(RequestStatus::Pending, BEFORE) })
    };
    for message in ["hello", "other words"] {
        assert_eq!(
            by_id(ADA, by_address(), message),
            "new, earlier request removed",
            "the response does not reveal the owner of the address"
        );
    }
    let by_invite = ["recipient not found", "new"];
    for (recipient, by_invite) in [None, Some(person(BEN))].into_iter().zip(by_invite) {
        let withheld = SendContext { has_withheld_request: true, recipient, ..context(ADA, None) };
        assert_eq!(
            decision(&withheld, AddressingMode::Id, "hello"),
            "withheld",
            "the request stays withheld after a block and after an unblock"
        );
        assert_eq!(decision(&withheld, AddressingMode::Invite, "hello"), by_invite);
    }
    for pending in [None, live(), expired()] {
        for sender in [ADA, BEN] {
            let bonded = SendContext { is_sender_bonded: true, ..context(sender, pending.clone()) };
            assert_eq!(decision(&bonded, AddressingMode::Id, "hello"), "the slot is occupied");
        }
    }
}

#[test]
fn request_policy_and_rejections_limit_requests() {
    use RequestPolicy::*;
    let refused = RefusalHistory::default().with_rejection(BEFORE);
    let unreachable = SendContext { recipient: None, ..context(ADA, None) };
    for mode in [AddressingMode::Id, AddressingMode::Invite] {
        assert_eq!(decision(&unreachable, mode, "hello"), "recipient not found");
    }
    #[rustfmt::skip]
    let table = [
        (Anyone,  AddressingMode::Id,     "new",                                 "the request cooldown is active"),
        (Anyone,  AddressingMode::Invite, "new",                                 "new"),
        (Invited, AddressingMode::Id,     "the recipient does not accept requests", "the recipient does not accept requests"),
        (Invited, AddressingMode::Invite, "new",                                 "new"),
        (Nobody,  AddressingMode::Id,     "the recipient does not accept requests", "the recipient does not accept requests"),
        (Nobody,  AddressingMode::Invite, "invite not found",             "invite not found"),
    ];
    for (accepts_requests_from, mode, fresh, after_a_rejection) in table {
        let open = SendContext { accepts_requests_from, ..context(ADA, None) };
        assert_eq!(decision(&open, mode, "hello"), fresh, "{accepts_requests_from:?} {mode:?}");
        let again = SendContext { refusals: refused, ..open };
        assert_eq!(decision(&again, mode, "hello"), after_a_rejection, "{accepts_requests_from:?} {mode:?}");
        let asked =
            SendContext { pending: Some(request(RequestStatus::Pending, BEFORE)), ..context(BEN, None) };
        let asked = SendContext { accepts_requests_from, ..asked };
        assert_eq!(
            decision(&asked, mode, "hello"),
            "crossed",
            "a request in return forms the bond under any request policy"
        );
    }
}

/// The owner of an e-mail address receives a request only if no rule rejects it. The sender never learns the
/// reason.
#[test]
fn only_discoverable_users_receive_requests_by_email() {
    let reaches = |context: &SendContext| match decide_send_by_email(context, Some("hello"), BEFORE) {
        None => "nobody",
        Some(SendDecision::New { .. }) => "them",
        Some(SendDecision::Crossed(_)) => "crossed",
        Some(SendDecision::Repeated(_) | SendDecision::Withheld) => panic!("unexpected decision"),
    };
    let live = || Some(request(RequestStatus::Pending, BEFORE));
    assert_eq!(reaches(&context(ADA, None)), "them");
    assert_eq!(reaches(&context(BEN, live())), "crossed");
    for context_without_reach in [
        SendContext { discoverable_by_email: false, ..context(ADA, None) },
        SendContext { discoverable_by_email: false, ..context(BEN, live()) },
        SendContext { recipient: None, ..context(ADA, None) },
        SendContext { accepts_requests_from: RequestPolicy::Invited, ..context(ADA, None) },
        SendContext {
            refusals: RefusalHistory { steps: 4, ..RefusalHistory::default() },
            ..context(ADA, None)
        },
        context(ADA, live()),
    ] {
        assert_eq!(reaches(&context_without_reach), "nobody", "{context_without_reach:?}");
    }
}
