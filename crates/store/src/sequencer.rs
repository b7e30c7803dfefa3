//! Gives what was committed its place: events a dense position and an offset in each recipient's log, audit entries
//! a link in the hash chain. Pure arithmetic; the engines fetch what has no place yet and write what comes out.

use kith_kernel::UserId;
use kith_kernel::uuid::Uuid;

use crate::Error;
use crate::audit::AuditEntry;
use crate::audit_keys::{AuditKeys, LinkKey};
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
    /// Places `events` and `entries`, each in commit order, behind these heads. Links are computed with `keys`.
    pub fn place<'e>(
        &self,
        events: impl Iterator<Item = Unplaced>,
        entries: impl Iterator<Item = &'e AuditEntry>,
        keys: &AuditKeys,
    ) -> Result<Placed, Error> {
        let mut heads = self.clone();
        let (mut positions, mut deliveries) = (Vec::new(), Vec::new());
        for event in events {
            heads.position += 1;
            positions.push((heads.position, event.id));
            deliveries.extend(event.recipients.into_iter().map(|user| (user, heads.position)));
        }
        let seals = entries.map(|entry| heads.seal.extend(entry, keys)).collect::<Result<_, _>>()?;
        Ok(Placed { positions, deliveries, seals, heads })
    }
}

impl Placed {
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.seals.is_empty()
    }
}

impl Seal {
    /// Moves to the link behind this one, which seals `entry`.
    ///
    /// # Errors
    /// [`Error::Fault`] if the key of that link cannot be opened.
    pub fn extend(&mut self, entry: &AuditEntry, keys: &AuditKeys) -> Result<SealRow, Error> {
        let (prev, n) = (self.hash, self.n + 1);
        let hash = seal_hash(&keys.of_link(n)?, &prev, entry);
        *self = Self { n, hash };
        Ok(SealRow { n, entry: entry.id, prev, hash })
    }
}

/// Hash of the previous hash and the entry's fields, each preceded by its length, so that no two entries read alike.
fn seal_hash(key: &LinkKey, prev: &[u8; 32], entry: &AuditEntry) -> [u8; 32] {
    let at = entry.at.as_millis().to_be_bytes();
    let texts = [&entry.actor, &entry.action, &entry.object, &entry.request_id].map(|text| text.as_bytes());
    // Absent where there were no details; nothing else ends a fifth earlier.
    let fields: Vec<_> = texts.into_iter().chain(entry.details_hash.as_ref().map(|hash| &hash[..])).collect();
    let lengths: Vec<_> = fields.iter().map(|field| (field.len() as u64).to_be_bytes()).collect();
    let fields = lengths.iter().zip(&fields).flat_map(|(length, field)| [&length[..], *field]);
    key.hash([&prev[..], entry.id.as_bytes(), &at].into_iter().chain(fields))
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
        let place = |heads: &Heads, events: Vec<Unplaced>| {
            heads.place(events.into_iter(), [].iter(), &AuditKeys::default()).unwrap()
        };
        let first = place(&Heads::default(), vec![event(1, &[9]), event(2, &[9, 8])]);
        assert_eq!(first.positions, [(1, Uuid::from_u128(1)), (2, Uuid::from_u128(2))]);
        assert_eq!(first.deliveries.len(), 3);
        let second = place(&first.heads, vec![event(3, &[])]);
        assert_eq!(second.positions, [(3, Uuid::from_u128(3))]);
    }

    #[test]
    fn every_field_of_an_entry_and_all_before_it_enter_its_hash() {
        let chain = |objects: &[&str]| {
            let entries: Vec<_> = objects.iter().map(|object| entry(object)).collect();
            let placed = Heads::default().place([].into_iter(), entries.iter(), &AuditKeys::default());
            placed.unwrap().heads.seal.hash
        };
        assert_eq!(chain(&["a", "b"]), chain(&["a", "b"]));
        assert_ne!(chain(&["a", "b"]), chain(&["x", "b"]));
        assert_ne!(chain(&["a", "b"]), chain(&["b", "a"]));
        let moved = AuditEntry { actor: "system:tes".into(), action: "tthing.done".into(), ..entry("a") };
        assert_ne!(
            seal_hash(&LinkKey::Unkeyed, &[0; 32], &moved),
            seal_hash(&LinkKey::Unkeyed, &[0; 32], &entry("a"))
        );
        let detailed = |byte| AuditEntry { details_hash: Some([byte; 32]), ..entry("a") };
        assert_ne!(
            seal_hash(&LinkKey::Unkeyed, &[0; 32], &detailed(0)),
            seal_hash(&LinkKey::Unkeyed, &[0; 32], &entry("a"))
        );
        assert_ne!(
            seal_hash(&LinkKey::Unkeyed, &[0; 32], &detailed(0)),
            seal_hash(&LinkKey::Unkeyed, &[0; 32], &detailed(1))
        );
    }

    #[test]
    fn links_depend_on_the_key() {
        let hash = |key: &LinkKey| seal_hash(key, &[0; 32], &entry("a"));
        let [one, other] = [1, 2].map(|byte| LinkKey::new(&[byte; 32]));
        assert_eq!(hash(&one), hash(&LinkKey::new(&[1; 32])));
        assert_ne!(hash(&one), hash(&other));
        assert_ne!(hash(&one), hash(&LinkKey::Unkeyed));
        assert_ne!(seal_hash(&one, &[1; 32], &entry("a")), hash(&one), "the link before enters it");
    }
}
