//! Policies of routes: the rate limit that applies, and whether they carry secrets. Declared next to the
//! routes.
//!
//! Operations carry their policy as OpenAPI extensions, which are removed before the document is served.

use std::fmt;

use http::Method;
use serde_json::Value;
use utoipa::openapi::path::Operation;

use super::operations::operations_of;
use crate::Module;
use crate::config::Config;
use crate::module::Routes;

const RATE: &str = "x-rate-class";
const SECRET: &str = "x-secret";

/// Class of rate limit: requests per minute of one client network to one route. A module lists its own
/// classes in [`Module::rate_classes`].
#[derive(Clone, Copy)]
pub struct RateClass {
    /// Name in the `RateLimit` headers and in metrics, unique in the server and without spaces.
    pub name: &'static str,
    /// Returns the configured limit; 0 means no limit.
    pub per_minute: fn(&Config) -> u32,
}

impl RateClass {
    /// Class of routes that declare no other: `limits.requests_per_minute`.
    pub const REQUESTS: Self =
        Self { name: "requests", per_minute: |config| config.limits.requests_per_minute };
    /// Class of requests that carry a password or a token: `limits.auth_per_minute`.
    pub const AUTH: Self = Self { name: "auth", per_minute: |config| config.limits.auth_per_minute };
    /// Class of routes for monitoring, which have no limit.
    pub const EXEMPT: Self = Self { name: "exempt", per_minute: |_| 0 };

    /// Returns the classes of the platform and of `modules`.
    pub(super) fn all(modules: &[&Module]) -> Vec<Self> {
        let own = [Self::REQUESTS, Self::AUTH, Self::EXEMPT];
        own.into_iter().chain(modules.iter().flat_map(|module| module.rate_classes.iter().copied())).collect()
    }
}

impl Default for RateClass {
    fn default() -> Self {
        Self::REQUESTS
    }
}

impl PartialEq for RateClass {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for RateClass {}

impl fmt::Debug for RateClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Policy of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutePolicy {
    /// Rate limit of its requests.
    pub rate: RateClass,
    /// True if its requests or responses carry secrets. Request bodies are then limited to 16 KiB and
    /// idempotency keys rejected; responses are not stored or compressed, and have no `Server-Timing` header.
    pub is_secret: bool,
}

impl RoutePolicy {
    /// Parses the words returned by [`policy_words`].
    ///
    /// # Panics
    /// If no class has the name `rate`: a module uses a class that it does not list.
    pub(super) fn parse(rate: &str, secret: &str, classes: &[RateClass]) -> Self {
        let class = classes.iter().find(|class| class.name == rate);
        let rate = *class.unwrap_or_else(|| panic!("no module lists the rate class {rate}"));
        Self { rate, is_secret: secret == SECRET }
    }
}

/// Returns the policy of an operation as two words without spaces.
pub(super) fn policy_words(operation: &Operation) -> [&str; 2] {
    let rate = extension(operation, RATE).and_then(Value::as_str).unwrap_or(RateClass::REQUESTS.name);
    [rate, if is_secret(operation) { SECRET } else { "" }]
}

/// Returns true if requests or responses of an operation carry secrets: see [`RoutePolicy::is_secret`].
pub(crate) fn is_secret(operation: &Operation) -> bool {
    extension(operation, SECRET).is_some()
}

fn extension<'o>(operation: &'o Operation, name: &str) -> Option<&'o Value> {
    operation.extensions.as_ref().and_then(|all| all.get(name))
}

/// Applies the limit `class` to those requests of `routes` that have one of `methods`, or to all if `methods`
/// is empty.
#[must_use]
pub fn rate_limited(class: RateClass, methods: &[Method], routes: Routes) -> Routes {
    extended(routes, RATE, class.name, |method| methods.is_empty() || methods.contains(method))
}

/// Declares that requests or responses of `routes` carry secrets: see [`RoutePolicy::is_secret`].
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

    const OWN: RateClass = RateClass { name: "own", per_minute: |_| 5 };

    #[test]
    fn policy_reads_back_from_words_and_operations() {
        let classes = [RateClass::REQUESTS, RateClass::AUTH, RateClass::EXEMPT, OWN];
        for rate in classes {
            for is_secret in [false, true] {
                let mut operation = Operation::default();
                let extensions = operation.extensions.get_or_insert_default();
                extensions.insert(RATE.to_owned(), rate.name.into());
                if is_secret {
                    extensions.insert(SECRET.to_owned(), "".into());
                }
                let [name, secret] = policy_words(&operation);
                assert_eq!(RoutePolicy::parse(name, secret, &classes), RoutePolicy { rate, is_secret });
                remove_extensions(&mut operation);
                assert!(operation == Operation::default());
            }
        }
        let [name, secret] = policy_words(&Operation::default()).map(str::to_owned);
        assert_eq!(RoutePolicy::parse(&name, &secret, &classes), RoutePolicy::default());
    }

    #[test]
    #[should_panic(expected = "no module lists the rate class own")]
    fn unlisted_rate_class_is_rejected() {
        RoutePolicy::parse("own", "", &[RateClass::REQUESTS]);
    }
}
