//! Policies of routes: which rate limit applies, and whether requests or responses contain secrets. Modules
//! declare the policies next to their routes.
//!
//! Operations store their policy as OpenAPI extensions, which are removed before the document is served.

use http::Method;
use serde_json::Value;
use utoipa::openapi::path::Operation;

use super::operations::operations_of;
use crate::module::Routes;

const RATE: &str = "x-rate-class";
const SECRET: &str = "x-secret";

/// Class of a rate limit. The limit is a number of requests per minute for each client network and route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateClass {
    /// `limits.requests_per_minute`.
    #[default]
    Requests,
    /// `limits.auth_per_minute`, for requests that contain a password or a token.
    Auth,
    /// `limits.partner_lists_per_minute`.
    PartnerLists,
    /// `limits.jobs_per_minute`, for workers, which send many requests per second.
    Jobs,
    /// No limit. Used for monitoring.
    Exempt,
}

impl RateClass {
    const ALL: [Self; 5] = [Self::Requests, Self::Auth, Self::PartnerLists, Self::Jobs, Self::Exempt];

    /// Returns the name of the class in the `RateLimit` headers and in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Auth => "auth",
            Self::PartnerLists => "partner-lists",
            Self::Jobs => "jobs",
            Self::Exempt => "exempt",
        }
    }
}

/// Policy of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Rate limit of the route.
    pub rate: RateClass,
    /// True if requests or responses contain secrets. Request bodies are then limited to 16 KiB, and
    /// idempotency keys are rejected. Responses are not stored or compressed, and have no `Server-Timing`
    /// header.
    pub is_secret: bool,
}

impl RoutePolicy {
    /// Parses the words returned by [`RoutePolicy::words`].
    pub(super) fn parse(rate: &str, secret: &str) -> Self {
        let class = RateClass::ALL.into_iter().find(|class| class.name() == rate);
        Self { rate: class.unwrap_or_default(), is_secret: secret == SECRET }
    }

    /// Returns the policy as two words, which [`RoutePolicy::parse`] parses.
    pub(super) const fn words(self) -> [&'static str; 2] {
        [self.rate.name(), if self.is_secret { SECRET } else { "" }]
    }

    /// Reads the policy from the extensions of an operation.
    pub(crate) fn of(operation: &Operation) -> Self {
        let extension = |name| operation.extensions.as_ref().and_then(|all| all.get(name));
        let rate = extension(RATE).and_then(Value::as_str).unwrap_or_default();
        Self { is_secret: extension(SECRET).is_some(), ..Self::parse(rate, "") }
    }
}

/// Applies the rate limit `class` to the requests of `routes` whose method is in `methods`. If `methods` is
/// empty, applies it to all requests.
#[must_use]
pub fn rate_limited(class: RateClass, methods: &[Method], routes: Routes) -> Routes {
    extended(routes, RATE, class.name(), |method| methods.is_empty() || methods.contains(method))
}

/// Declares that requests or responses of `routes` contain secrets. See [`RoutePolicy::is_secret`].
#[must_use]
pub fn secret(routes: Routes) -> Routes {
    extended(routes, SECRET, "", |_| true)
}

fn extended(mut routes: Routes, name: &str, value: &str, is_meant: impl Fn(&Method) -> bool) -> Routes {
    for item in routes.get_openapi_mut().paths.paths.values_mut() {
        for (_, operation) in operations_of(item).filter(|(method, _)| is_meant(method)) {
            operation.extensions.get_or_insert_default().insert(name.to_owned(), value.into());
        }
    }
    routes
}

/// Removes the policy extensions, which are not part of the public document.
pub(super) fn remove_extensions(operation: &mut Operation) {
    if let Some(extensions) = &mut operation.extensions {
        for name in [RATE, SECRET] {
            extensions.remove(name);
        }
        if extensions.is_empty() {
            operation.extensions = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_is_parsed_from_words_and_operations() {
        for rate in RateClass::ALL {
            for is_secret in [false, true] {
                let policy = RoutePolicy { rate, is_secret };
                let [rate, secret] = policy.words();
                assert_eq!(RoutePolicy::parse(rate, secret), policy);
            }
        }
        let mut operation = Operation::default();
        assert_eq!(RoutePolicy::of(&operation), RoutePolicy::default());
        let extensions = operation.extensions.get_or_insert_default();
        extensions.insert(RATE.to_owned(), RateClass::Jobs.name().into());
        extensions.insert(SECRET.to_owned(), "".into());
        assert_eq!(RoutePolicy::of(&operation), RoutePolicy { rate: RateClass::Jobs, is_secret: true });
        remove_extensions(&mut operation);
        assert!(operation == Operation::default());
    }
}
