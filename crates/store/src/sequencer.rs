//! Assigns positions to committed events, log offsets to their recipients, and chain links to audit entries.
//! This module only computes. The engines read the rows that have no position yet, and write the result.

use kith_kernel::UserId;
use kith_kernel::uuid::Uuid;

use crate::Error;
use crate::audit::AuditEntry;
use crate::audit_keys::{AuditKeys, LinkKey};
use crate::events::Event;

/// Last event position and last link of the audit chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heads {
    pub position: i64,
    pub seal: Seal,
}

/// Number and hash of a link of the audit chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seal {
    pub n: i64,
    pub hash: [u8; 32],
}

/// Event that has no position yet.
#[derive(Clone, Debug)]
pub(crate) struct UnsequencedEvent {
    pub id: Uuid,
    pub recipients: Vec<UserId>,
}

/// Result of sequencing a batch: the rows to be written, and the new last position and link.
#[derive(Debug)]
pub(crate) struct SequencedBatch {
    pub positions: Vec<(i64, Uuid)>,
    /// Recipients and positions, in order of position. Each pair gets the next offset of the user's log.
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
    /// Assigns positions to `events` and links to `entries`, after these heads. Both must be in commit order.
    /// The hashes of the links are computed with `keys`.
    pub fn assign<'e>(
        &self,
        events: impl Iterator<Item = UnsequencedEvent>,
        entries: impl Iterator<Item = &'e AuditEntry>,
        keys: &AuditKeys,
    ) -> Result<SequencedBatch, Error> {
        let mut heads = self.clone();
        let (mut positions, mut deliveries) = (Vec::new(), Vec::new());
        for event in events {
            heads.position += 1;
            positions.push((heads.position, event.id));
            deliveries.extend(event.recipients.into_iter().map(|user| (user, heads.position)));
        }
        let seals = entries.map(|entry| heads.seal.extend(entry, keys)).collect::<Result<_, _>>()?;
        Ok(SequencedBatch { positions, deliveries, seals, heads })
    }
}

impl SequencedBatch {
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.seals.is_empty()
    }
}

impl Seal {
    /// Advances to the next link of the chain, which contains `entry`, and returns its row.
    ///
    /// # Errors
    /// Returns [`Error::Fault`] if the key of the link cannot be decrypted.
    pub fn extend(&mut self, entry: &AuditEntry, keys: &AuditKeys) -> Result<SealRow, Error> {
        let (prev, n) = (self.hash, self.n + 1);
        let hash = seal_hash(&keys.of_link(n)?, &prev, entry);
        *self = Self { n, hash };
        Ok(SealRow { n, entry: entry.id, prev, hash })
    }
}

/// Returns the hash of the previous hash and the fields of the entry. Each field is preceded by its length,
/// so that the input is unambiguous.
fn seal_hash(key: &LinkKey, prev: &[u8; 32], entry: &AuditEntry) -> [u8; 32] {
    let at = entry.at.as_millis().to_be_bytes();
    let texts = [&entry.actor, &entry.action, &entry.object, &entry.request_id].map(|text| text.as_bytes());
    // An entry without personal details has four fields, and an entry with details has five.
    let fields: Vec<_> = texts.into_iter().chain(entry.details_hash.as_ref().map(|hash| &hash[..])).collect();
    let lengths: Vec<_> = fields.iter().map(|field| (field.len() as u64).to_be_bytes()).collect();
    let fields = lengths.iter().zip(&fields).flat_map(|(length, field)| [&length[..], *field]);
    key.hash([&prev[..], entry.id.as_bytes(), &at].into_iter().chain(fields))
}

impl Event {
    pub(crate) fn unsequenced(&self) -> UnsequencedEvent {
        UnsequencedEvent { id: self.id, recipients: self.recipients.clone() }
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
    fn positions_continue_after_previous_batch() {
        let event = |id, users: &[u128]| UnsequencedEvent {
            id: Uuid::from_u128(id),
            recipients: users.iter().map(|user| UserId(Uuid::from_u128(*user))).collect(),
        };
        let place = |heads: &Heads, events: Vec<UnsequencedEvent>| {
            heads.assign(events.into_iter(), [].iter(), &AuditKeys::default()).unwrap()
        };
        let first = place(&Heads::default(), vec![event(1, &[9]), event(2, &[9, 8])]);
        assert_eq!(first.positions, [(1, Uuid::from_u128(1)), (2, Uuid::from_u128(2))]);
        assert_eq!(first.deliveries.len(), 3);
        let second = place(&first.heads, vec![event(3, &[])]);
        assert_eq!(second.positions, [(3, Uuid::from_u128(3))]);
    }

    #[test]
    fn hash_covers_every_field_and_previous_links() {
        let chain = |objects: &[&str]| {
            let entries: Vec<_> = objects.iter().map(|object| entry(object)).collect();
            let placed = Heads::default().assign([].into_iter(), entries.iter(), &AuditKeys::default());
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
        assert_ne!(
            seal_hash(&one, &[1; 32], &entry("a")),
            hash(&one),
            "the hash depends on the previous link"
        );
    }
}
