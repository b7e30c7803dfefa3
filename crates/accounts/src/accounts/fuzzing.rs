//! Fuzz target `accounts`: checks properties of the parsers for e-mail addresses, passwords, profiles and
//! tokens.

use std::sync::LazyLock;

use kith_kernel::uuid::Uuid;
use kith_kernel::{Timestamp, UserId};
use kith_platform::auth::{Keyring, Role};
use kith_platform::config::{Config, Secret};
use kith_platform::http::read_value;
use serde_json::{Value, json};

use super::model::{Email, Password, User, parse_display_name, validate_registration};
use super::profile::ProfilePatch;
use super::secrets::{DeviceToken, RefreshToken};

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let mut config = Config::default();
    config.auth.jwt_refresh_secret = Secret::new("the refresh secret of the fuzz targets");
    Keyring::new(&config.auth)
});
/// The only refresh token that [`tokens`] accepts as valid.
const GENUINE: RefreshToken = RefreshToken { session: super::SessionId(Uuid::from_u128(7)), generation: 3 };

/// Fuzz target: parses each line as an e-mail address, a password, a display name, a profile and a token.
pub fn accounts(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    for line in text.lines() {
        address(line);
        password(line);
        if let Ok(name) = parse_display_name(line, "/x") {
            assert_eq!(parse_display_name(&name, "/x").as_ref(), Ok(&name));
        }
        if let Ok(patch) = serde_json::from_str(line) {
            profile(&patch);
        }
        tokens(line);
    }
    let mut lines = text.lines();
    if let (Some(email), Some(password), Some(name)) = (lines.next(), lines.next(), lines.next())
        && let Err(problem) = validate_registration(email, password, name)
    {
        assert!(!problem.errors.is_empty());
        assert!(
            problem
                .errors
                .iter()
                .all(|fault| ["/email", "/password", "/display_name"].contains(&&*fault.pointer))
        );
    }
}

/// Checks that parsing a normalized address again returns the same address and key.
fn address(text: &str) {
    let key = Email::comparison_key(text);
    assert_eq!(Email::comparison_key(&key), key, "{text:?}");
    let Ok(email) = Email::parse(text, "/email") else { return };
    assert_eq!(Email::parse(&email.address, "/email").as_ref(), Ok(&email));
    assert_eq!(email.key, key);
    let (local, domain) = email.address.rsplit_once('@').expect("an address");
    assert!(!local.is_empty() && domain.contains('.'), "{email:?}");
    assert!(!email.address.contains(char::is_control) && email.address.chars().count() <= 254);
}

fn password(text: &str) {
    let Ok(chosen) = Password::parse_new(text, "/password") else { return };
    assert_eq!(format!("{chosen:?}"), "***");
    let chosen = chosen.into_string();
    assert!((8..=256).contains(&chosen.chars().count()));
    assert_eq!(Password::normalize(&chosen).into_string(), Password::normalize(text).into_string());
}

/// Checks that a normalized profile is valid and that normalizing it again does not change it.
fn profile(patch: &Value) {
    let Some(change) = read_value::<ProfilePatch>(patch, "").ok().and_then(|patch| patch.check().ok()) else {
        return;
    };
    let id = UserId(Uuid::from_u128(1));
    let before = User::new(id, "ada@example.org".into(), "Ada".into(), Role::User, Timestamp::EPOCH);
    let User { id, email, role, created_at, .. } = before.clone();
    let user = change.apply(&before);
    assert_eq!((&user.id, &user.email, &user.role, &user.created_at), (&id, &email, &role, &created_at));
    let again = json!({
        "display_name": user.display_name, "nickname": user.nickname, "theme": user.theme, "locale": user.locale,
        "time_zone": user.time_zone, "pronouns": user.pronouns,
    });
    let again =
        read_value::<ProfilePatch>(&again, "").expect("a profile").check().expect("the accepted value");
    assert_eq!(again.apply(&user), user);
}

/// Checks that only the text of [`GENUINE`] is accepted as a token. If the input begins with `*`, the rest
/// of it is combined with the genuine token, to test altered tokens.
fn tokens(text: &str) {
    let genuine = GENUINE.reveal(&KEYRING);
    let text = match text.strip_prefix('*') {
        Some(change) => {
            let changed = genuine.bytes().zip(change.bytes().chain([b'0'].into_iter().cycle()));
            String::from_utf8_lossy(&changed.map(|(byte, by)| byte ^ (by & 0x0f)).collect::<Vec<_>>())
                .into_owned()
        }
        None => text.to_owned(),
    };
    if let Some(token) = RefreshToken::parse(&KEYRING, &text) {
        assert_eq!((token, text.as_str()), (GENUINE, genuine.as_str()));
    }
    assert_eq!(DeviceToken::parse(&KEYRING, &text, "ada@example.org"), None);
}
