//! Fuzz target `bonds`: checks properties of the parsers for invite codes, messages and enum names.

use kith_kernel::UserId;
use kith_kernel::uuid::Uuid;
use kith_platform::auth::Role;

use super::model::{InviteCode, Recipient, RequestDraft, RequestPolicy, RequestStatus};

/// Fuzz target: parses the input as an invite code, a message and enum names.
pub fn bonds(data: &[u8]) {
    if let Some(random) = data.first_chunk() {
        let code = InviteCode::from_random(*random);
        assert_eq!(InviteCode::parse(code.as_str()), Some(code));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(code) = InviteCode::parse(text) {
        let canonical = code.as_str();
        assert!(canonical.len() == 10 && !canonical.contains(['I', 'L', 'O', 'U']));
        assert!(canonical.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()));
        let hyphened = format!("{}-{}", &canonical[..5], canonical[5..].to_lowercase());
        for typed in [canonical, &hyphened] {
            assert_eq!(InviteCode::parse(typed).as_ref(), Some(&code));
        }
    }
    let to = || Recipient::User(UserId(Uuid::from_u128(2)));
    if let Ok(draft) = RequestDraft::new(to(), Some(text)) {
        let again = RequestDraft::new(to(), draft.message.as_deref()).expect("the accepted value");
        assert_eq!(again.message, draft.message);
        assert!(draft.message.is_none_or(|message| (1..=500).contains(&message.chars().count())));
    }
    assert!(RequestStatus::parse(text).is_none_or(|status| status.as_str() == text));
    assert!(RequestPolicy::parse(text).is_none_or(|who| who.as_str() == text));
    assert!(Role::parse(text).is_none_or(|role| role.as_str() == text));
}
