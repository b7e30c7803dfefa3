//! Gives what was committed its place: events a dense position and an offset in each recipient's log, audit entries
//! a link in the hash chain. Pure arithmetic; the engines fetch what has no place yet and write what comes out.

use kith_kernel::UserId;
use kith_kernel::uuid::Uuid;
use sha2::{Digest, Sha256};

use crate::audit::AuditEntry;
use crate::events::Event;

/// Where positions and seals stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heads {
    pub position: i64,
    pub seal: Seal,
}

/// A link in the audit chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    pub n: i64,
    pub hash: [u8; 32],
}

/// An event without a position.
#[derive(Clone, Debug)]
pub(crate) struct Unplaced {
    pub id: Uuid,
    pub recipients: Vec<UserId>,
}

/// What placing a batch came to: rows to write, and where the heads stand afterwards.
#[derive(Debug)]
pub(crate) struct Placed {
    pub positions: Vec<(i64, Uuid)>,
    /// In order of positions; each gets the next offset of its user.
    pub deliveries: Vec<(UserId, i64)>,
    pub seals: Vec<SealRow>,
    pub heads: Heads,
}

#[derive(Debug)]
pub(crate) struct SealRow {
    pub n: i64,
    pub entry: Uuid,
    pub prev: [u8; 32],
    pub hash: [u8; 32],
}

impl Heads {
    /// Places `events` and `entries`, each in commit order, behind these heads.
    pub fn place<'e>(
        &self,
        events: impl Iterator<Item = Unplaced>,
        entries: impl Iterator<Item = &'e AuditEntry>,
    ) -> Placed {
        let mut heads = self.clone();
        let (mut positions, mut deliveries) = (Vec::new(), Vec::new());
        for event in events {
            heads.position += 1;
            positions.push((heads.position, event.id));
            deliveries.extend(event.recipients.into_iter().map(|user| (user, heads.position)));
        }
        let seals = entries.map(|entry| heads.seal.extend(entry)).collect();
        Placed { positions, deliveries, seals, heads }
    }
}

impl Placed {
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.seals.is_empty()
    }
}

impl Seal {
    /// Moves to the link behind this one, which seals `entry`.
    pub fn extend(&mut self, entry: &AuditEntry) -> SealRow {
        let prev = self.hash;
        self.n += 1;
        self.hash = seal_hash(&prev, entry);
        SealRow { n: self.n, entry: entry.id, prev, hash: self.hash }
    }
}

/// SHA-256 of the previous hash and the entry's fields, each preceded by its length, so that no two entries read alike.
fn seal_hash(prev: &[u8; 32], entry: &AuditEntry) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(prev);
    hash.update(entry.id.as_bytes());
    hash.update(entry.at.as_millis().to_be_bytes());
    let texts = [&entry.actor, &entry.action, &entry.object, &entry.request_id].map(|text| text.as_bytes());
    // Absent where there were no details; nothing else ends a fifth earlier.
    for field in texts.into_iter().chain(entry.details_hash.as_ref().map(|hash| &hash[..])) {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

impl Event {
    pub(crate) fn unplaced(&self) -> Unplaced {
        Unplaced { id: self.id, recipients: self.recipients.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_kernel::Timestamp;

    fn entry(object: &str) -> AuditEntry {
        AuditEntry {
            id: Uuid::from_u128(7),
            at: Timestamp::EPOCH,
            actor: "system:test".into(),
            action: "thing.done".into(),
            object: object.into(),
            request_id: "r".into(),
            details_hash: None,
        }
    }

    #[test]
    fn positions_go_on_where_the_last_batch_stopped() {
        let event = |id, users: &[u128]| Unplaced {
            id: Uuid::from_u128(id),
            recipients: users.iter().map(|user| UserId(Uuid::from_u128(*user))).collect(),
        };
        let first = Heads::default().place([event(1, &[9]), event(2, &[9, 8])].into_iter(), [].iter());
        assert_eq!(first.positions, [(1, Uuid::from_u128(1)), (2, Uuid::from_u128(2))]);
        assert_eq!(first.deliveries.len(), 3);
        let second = first.heads.place([event(3, &[])].into_iter(), [].iter());
        assert_eq!(second.positions, [(3, Uuid::from_u128(3))]);
    }

    #[test]
    fn every_field_of_an_entry_and_all_before_it_enter_its_hash() {
        let chain = |objects: &[&str]| {
            let entries: Vec<_> = objects.iter().map(|object| entry(object)).collect();
            Heads::default().place([].into_iter(), entries.iter()).heads.seal.hash
        };
        assert_eq!(chain(&["a", "b"]), chain(&["a", "b"]));
        assert_ne!(chain(&["a", "b"]), chain(&["x", "b"]));
        assert_ne!(chain(&["a", "b"]), chain(&["b", "a"]));
        let moved = AuditEntry { actor: "system:tes".into(), action: "tthing.done".into(), ..entry("a") };
        assert_ne!(seal_hash(&[0; 32], &moved), seal_hash(&[0; 32], &entry("a")));
        let detailed = |byte| AuditEntry { details_hash: Some([byte; 32]), ..entry("a") };
        assert_ne!(seal_hash(&[0; 32], &detailed(0)), seal_hash(&[0; 32], &entry("a")));
        assert_ne!(seal_hash(&[0; 32], &detailed(0)), seal_hash(&[0; 32], &detailed(1)));
    }
}
