//! Setting: a web origin, as an entry of a list.

use serde::{Deserialize, Serialize};

/// Scheme, host and port, exactly as browsers send them: `https://app.example.org`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebOrigin(String);

impl WebOrigin {
    /// Returns the origin as browsers send it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true if pages of the origin are loaded over plain HTTP.
    pub(super) fn is_plain_http(&self) -> bool {
        self.0.starts_with("http:")
    }
}

impl From<WebOrigin> for String {
    fn from(WebOrigin(text): WebOrigin) -> Self {
        text
    }
}

impl TryFrom<String> for WebOrigin {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let of_scheme =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+.-".contains(&byte);
        let of_host =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-:[]_".contains(&byte);
        let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
            let usual_port = match scheme {
                "https" => ":443",
                "http" => ":80",
                _ => ":",
            };
            scheme.starts_with(|first: char| first.is_ascii_lowercase())
                && scheme.bytes().all(of_scheme)
                && host.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[')
                && host.bytes().all(of_host)
                && !host.ends_with(usual_port)
                && !host.ends_with(':')
        });
        let why = "expected origins as browsers send them, such as \"https://app.example.org\": \
                   lower case, no path, no usual port, no `*`";
        if is_origin { Ok(Self(text)) } else { Err(why) }
    }
}
