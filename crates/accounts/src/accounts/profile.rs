//! Optional fields of a profile, and their validation.

use kith_kernel::{FieldError, Text, TextRules};
use kith_platform::http::deserialize_some;
use serde::Deserialize;
use unic_langid::LanguageIdentifier;
use utoipa::ToSchema;

use super::model::{User, parse_display_name};

const NICKNAME: TextRules = TextRules { min: 1, max: 40, newlines: false };
const PRONOUNS: TextRules = TextRules { min: 1, max: 40, newlines: false };
const THEME: TextRules = TextRules { min: 1, max: 40, newlines: false };

/// Changes to a profile. Absent fields keep their value; `null` clears a field.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfilePatch {
    /// Display name, 1 to 80 characters. Cannot be cleared.
    #[serde(default, deserialize_with = "deserialize_some")]
    #[schema(nullable = false)]
    display_name: Option<String>,
    /// Nickname that the user chooses for themselves, 1 to 40 characters.
    #[serde(default, deserialize_with = "deserialize_some")]
    nickname: Option<Option<String>>,
    /// Theme of the app, 1 to 40 characters. The app defines the values.
    #[serde(default, deserialize_with = "deserialize_some")]
    theme: Option<Option<String>>,
    /// Language and region as a BCP 47 tag such as `de-AT`.
    #[serde(default, deserialize_with = "deserialize_some")]
    locale: Option<Option<String>>,
    /// Time zone as a name of the IANA time zone database, such as `Europe/Vienna`.
    #[serde(default, deserialize_with = "deserialize_some")]
    time_zone: Option<Option<String>>,
    /// Pronouns, 1 to 40 characters, such as `they/them`.
    #[serde(default, deserialize_with = "deserialize_some")]
    pronouns: Option<Option<String>>,
}

/// Checked and normalized [`ProfilePatch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileChange {
    display_name: Option<String>,
    nickname: Option<Option<String>>,
    theme: Option<Option<String>>,
    locale: Option<Option<String>>,
    time_zone: Option<Option<String>>,
    pronouns: Option<Option<String>>,
}

impl ProfilePatch {
    /// Checks and normalizes all fields.
    ///
    /// # Errors
    /// Returns one [`FieldError`] per invalid field.
    pub fn check(&self) -> Result<ProfileChange, Vec<FieldError>> {
        let mut faults = Vec::new();
        let name = self.display_name.as_deref().map(|name| parse_display_name(name, "/display_name"));
        let text =
            |rules, pointer| move |text: &str| Text::parse(text, rules, pointer).map(Text::into_string);
        let change = ProfileChange {
            display_name: collect_error(name.transpose(), &mut faults).flatten(),
            nickname: check_optional(&self.nickname, text(NICKNAME, "/nickname"), &mut faults),
            theme: check_optional(&self.theme, text(THEME, "/theme"), &mut faults),
            locale: check_optional(&self.locale, locale, &mut faults),
            time_zone: check_optional(&self.time_zone, time_zone, &mut faults),
            pronouns: check_optional(&self.pronouns, text(PRONOUNS, "/pronouns"), &mut faults),
        };
        if faults.is_empty() { Ok(change) } else { Err(faults) }
    }
}

fn collect_error<T>(checked: Result<T, FieldError>, faults: &mut Vec<FieldError>) -> Option<T> {
    checked.map_err(|fault| faults.push(fault)).ok()
}

fn check_optional(
    field: &Option<Option<String>>,
    check: impl Fn(&str) -> Result<String, FieldError>,
    faults: &mut Vec<FieldError>,
) -> Option<Option<String>> {
    match field {
        Some(Some(text)) => collect_error(check(text), faults).map(Some),
        Some(None) => Some(None),
        None => None,
    }
}

fn locale(text: &str) -> Result<String, FieldError> {
    let tag = text.parse::<LanguageIdentifier>().map(|tag| tag.to_string());
    tag.map_err(|_| {
        FieldError::new("/locale", "not_a_locale", "Expected a BCP 47 language tag such as de-AT.")
    })
}

fn time_zone(text: &str) -> Result<String, FieldError> {
    let zone = jiff::tz::TimeZone::get(text).ok();
    let name = zone.and_then(|zone| zone.iana_name().map(str::to_owned));
    name.ok_or_else(|| {
        let detail = "Expected an IANA time zone such as Europe/Vienna.";
        FieldError::new("/time_zone", "not_a_time_zone", detail)
    })
}

impl ProfileChange {
    /// Returns `user` with the changes applied.
    pub fn apply(&self, user: &User) -> User {
        let or = |new: &Option<Option<String>>, old: &Option<String>| new.as_ref().unwrap_or(old).clone();
        User {
            display_name: self.display_name.clone().unwrap_or_else(|| user.display_name.clone()),
            nickname: or(&self.nickname, &user.nickname),
            theme: or(&self.theme, &user.theme),
            locale: or(&self.locale, &user.locale),
            time_zone: or(&self.time_zone, &user.time_zone),
            pronouns: or(&self.pronouns, &user.pronouns),
            ..user.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(patch: Value) -> Result<ProfileChange, Vec<(String, &'static str)>> {
        let patch: ProfilePatch = serde_json::from_value(patch).unwrap();
        let place = |fault: &FieldError| (fault.pointer.to_string(), fault.code);
        patch.check().map_err(|faults| faults.iter().map(place).collect())
    }

    #[test]
    fn locale_and_time_zone_are_canonicalized() {
        let change =
            check(json!({ "locale": "DE_at", "time_zone": "europe/vienna", "nickname": null })).unwrap();
        assert_eq!(change.locale, Some(Some("de-AT".into())));
        assert_eq!(change.time_zone, Some(Some("Europe/Vienna".into())));
        assert_eq!((change.nickname, change.theme), (Some(None), None));
    }

    #[test]
    fn every_invalid_profile_field_is_reported() {
        let long = "x".repeat(41);
        let faults = check(json!({
            "display_name": "", "nickname": long, "theme": "\u{202e}", "locale": "klingon!", "time_zone": "Mars/Base",
        }));
        let expected = [
            ("/display_name", "too_short"),
            ("/nickname", "too_long"),
            ("/theme", "forbidden_character"),
            ("/locale", "not_a_locale"),
            ("/time_zone", "not_a_time_zone"),
        ];
        assert_eq!(faults.unwrap_err(), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        assert!(serde_json::from_value::<ProfilePatch>(json!({ "display_name": null })).is_err());
        assert!(serde_json::from_value::<ProfilePatch>(json!({ "role": "admin" })).is_err());
    }
}
