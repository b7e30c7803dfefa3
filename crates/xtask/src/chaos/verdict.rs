//! Compares the outcomes that clients know with the server's state. Does no I/O, so that tests can show that
//! it detects each violation.

use std::collections::{HashMap, HashSet};

use super::journal::{CoupleScenario, Journal, JournalPosition, SentRequest, WriteOutcome};

/// State of the compared accounts, as the server shows it.
#[derive(Debug, Default)]
pub struct ServerView {
    /// Accounts whose token still works.
    pub known: HashSet<usize>,
    /// Requests sent by each compared sender.
    pub sent: HashMap<usize, Vec<ListedRequest>>,
    /// Id of the bond of each compared account.
    pub bonds: HashMap<usize, Option<String>>,
}

/// Partner request as listed by the server.
#[derive(Clone, Debug)]
pub struct ListedRequest {
    pub id: String,
    pub to: String,
    pub status: String,
}

/// Violations, described as text.
#[derive(Debug, Default)]
pub struct RoundsVerdict {
    /// Acknowledged writes that are missing or have another state than the acknowledged one.
    pub lost: Vec<String>,
    /// Writes that exist more than once.
    pub doubled: Vec<String>,
    /// Changes of which one part exists and another is missing.
    pub half_applied: Vec<String>,
    /// Writes that exist although they were rejected or never sent.
    pub unexpected: Vec<String>,
}

impl RoundsVerdict {
    pub fn faults(&self) -> usize {
        self.lost.len() + self.doubled.len() + self.half_applied.len() + self.unexpected.len()
    }
}

/// Compares everything recorded after `since` with the server's state.
pub fn judge(journal: &Journal, since: JournalPosition, view: &ServerView) -> RoundsVerdict {
    let mut verdict = RoundsVerdict::default();
    for account in since.accounts..journal.accounts.len() {
        if !view.known.contains(&account) {
            verdict.lost.push(format!("person {}", journal.accounts[account].id));
        }
    }
    for ask in &journal.sent_requests[since.sent_requests..] {
        if let Some(shown) = judge_ask(journal, ask, &ask.outcome, view, &mut verdict)
            && shown.status != "pending"
        {
            verdict.half_applied.push(format!("request {} is {}", shown.id, shown.status));
        }
    }
    for couple in &journal.couples[since.couples..] {
        judge_couple(journal, couple, view, &mut verdict);
    }
    verdict
}

/// Compares one request with its known outcome. Returns the request in the server's list, if there is one.
fn judge_ask<'v>(
    journal: &Journal,
    ask: &SentRequest,
    outcome: &WriteOutcome,
    view: &'v ServerView,
    verdict: &mut RoundsVerdict,
) -> Option<&'v ListedRequest> {
    let receiver = &journal.accounts[ask.to].id;
    let sent = view.sent.get(&ask.from).map(Vec::as_slice).unwrap_or_default();
    let mut shown = sent.iter().filter(|listed| listed.to == *receiver);
    let first = shown.next();
    let what = || format!("request of {} to {receiver}", journal.accounts[ask.from].id);
    if shown.next().is_some() {
        verdict.doubled.push(what());
    }
    match (outcome, first) {
        (WriteOutcome::Acknowledged(id), None) => verdict.lost.push(format!("{}: {id}", what())),
        (WriteOutcome::Acknowledged(id), Some(listed)) if listed.id != *id => {
            verdict.lost.push(format!("{}: {id}", what()))
        }
        (WriteOutcome::NotApplied, Some(listed)) => {
            verdict.unexpected.push(format!("{}: {}", what(), listed.id))
        }
        _ => {}
    }
    first
}

fn judge_couple(journal: &Journal, couple: &CoupleScenario, view: &ServerView, verdict: &mut RoundsVerdict) {
    let CoupleScenario { a, b, senders_request, request_outcome, accepted } = couple;
    let what = format!("couple {} and {}", journal.accounts[*a].id, journal.accounts[*b].id);
    let third = judge_ask(journal, senders_request, &senders_request.outcome, view, verdict)
        .map(|shown| shown.status.as_str());
    let own = SentRequest { from: *a, to: *b, outcome: request_outcome.clone() };
    let own = judge_ask(journal, &own, request_outcome, view, verdict).map(|shown| shown.status.as_str());
    let bond = |account| view.bonds.get(account).and_then(Option::as_deref);
    let (of_a, of_b) = (bond(a), bond(b));
    let is_whole = match own {
        Some("accepted") => of_a.is_some() && of_a == of_b && third != Some("pending"),
        Some("pending") | None => of_a.is_none() && of_b.is_none() && matches!(third, Some("pending") | None),
        _ => false,
    };
    if !is_whole {
        let state = format!("request {own:?}, bonds {of_a:?} and {of_b:?}, third request {third:?}");
        verdict.half_applied.push(format!("{what}: {state}"));
    }
    match accepted {
        WriteOutcome::Acknowledged(id) if of_a != Some(id) || of_b != Some(id) || own != Some("accepted") => {
            verdict.lost.push(format!("{what}: bond {id}"));
        }
        WriteOutcome::NotApplied if own == Some("accepted") => {
            verdict.unexpected.push(format!("{what}: {of_a:?}"))
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::load::accounts::LoadAccount;

    /// Returns a journal with accounts 0 to 3. Account 0 sent a request to 1. Accounts 2 and 3 are a couple,
    /// and 0 had sent a request to 2.
    fn journal(plain: WriteOutcome, request_outcome: WriteOutcome, accepted: WriteOutcome) -> Journal {
        let folder = tempfile::tempdir().unwrap();
        let mut journal =
            Journal::new(&folder.path().join("journal"), 1_000, &mut Rng::with_seed(1)).unwrap();
        journal.accounts =
            (0..4).map(|i| LoadAccount { id: format!("p{i}"), token: String::new() }).collect();
        journal.sent_requests.push(SentRequest { from: 0, to: 1, outcome: plain });
        let senders_request = SentRequest { from: 0, to: 2, outcome: done("third") };
        journal.couples.push(CoupleScenario { a: 2, b: 3, senders_request, request_outcome, accepted });
        journal
    }

    fn done(id: &str) -> WriteOutcome {
        WriteOutcome::Acknowledged(id.into())
    }

    fn listed(id: &str, to: usize, status: &str) -> ListedRequest {
        ListedRequest { id: id.into(), to: format!("p{to}"), status: status.into() }
    }

    /// Returns the state of a server that has applied all writes.
    fn complete_view() -> ServerView {
        ServerView {
            known: (0..4).collect(),
            sent: HashMap::from([
                (0, vec![listed("third", 2, "superseded"), listed("plain", 1, "pending")]),
                (2, vec![listed("own", 3, "accepted")]),
            ]),
            bonds: HashMap::from([(2, Some("bond".into())), (3, Some("bond".into()))]),
        }
    }

    /// Returns the numbers of lost, doubled, half-applied and unexpected writes after `change` to a complete
    /// view.
    fn found(journal: &Journal, change: impl FnOnce(&mut ServerView)) -> [usize; 4] {
        let mut view = complete_view();
        change(&mut view);
        let verdict = judge(journal, JournalPosition::default(), &view);
        [verdict.lost.len(), verdict.doubled.len(), verdict.half_applied.len(), verdict.unexpected.len()]
    }

    #[test]
    fn complete_view_has_no_violations() {
        let journal = journal(done("plain"), done("own"), done("bond"));
        assert_eq!(found(&journal, |_| {}), [0; 4]);
    }

    #[test]
    fn missing_acknowledged_write_is_reported_as_lost() {
        let journal = journal(done("plain"), done("own"), done("bond"));
        assert_eq!(found(&journal, |view| assert!(view.known.remove(&1))), [1, 0, 0, 0]);
        assert_eq!(found(&journal, |view| drop(view.sent.get_mut(&0).unwrap().pop())), [1, 0, 0, 0]);
        let undone = found(&journal, |view| {
            view.bonds.clear();
            view.sent.insert(2, vec![listed("own", 3, "pending")]);
            view.sent.get_mut(&0).unwrap()[0].status = "pending".into();
        });
        assert_eq!(undone, [1, 0, 0, 0]);
    }

    #[test]
    fn duplicate_write_is_reported_as_doubled() {
        let journal = journal(WriteOutcome::Unknown, done("own"), done("bond"));
        let again =
            found(&journal, |view| view.sent.get_mut(&0).unwrap().push(listed("again", 1, "pending")));
        assert_eq!(again, [0, 1, 0, 0]);
    }

    #[test]
    fn inconsistent_bond_is_reported_as_half_applied() {
        let journal = journal(done("plain"), done("own"), WriteOutcome::Unknown);
        assert_eq!(found(&journal, |view| drop(view.bonds.remove(&3))), [0, 0, 1, 0]);
        assert_eq!(found(&journal, |view| drop(view.bonds.insert(3, Some("other".into())))), [0, 0, 1, 0]);
        assert_eq!(found(&journal, |view| view.bonds.clear()), [0, 0, 1, 0]);
        let open = found(&journal, |view| view.sent.get_mut(&0).unwrap()[0].status = "pending".into());
        assert_eq!(open, [0, 0, 1, 0]);
    }

    #[test]
    fn unknown_write_may_exist_and_rejected_write_must_not() {
        let absent = |view: &mut ServerView| drop(view.sent.get_mut(&0).unwrap().pop());
        let unknown = journal(WriteOutcome::Unknown, done("own"), done("bond"));
        assert_eq!(found(&unknown, |_| {}), [0; 4]);
        assert_eq!(found(&unknown, absent), [0; 4]);
        let refused = journal(WriteOutcome::NotApplied, done("own"), WriteOutcome::NotApplied);
        assert_eq!(found(&refused, |_| {}), [0, 0, 0, 2]);
    }
}
