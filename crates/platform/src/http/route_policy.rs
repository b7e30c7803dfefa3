//! Policies of routes: which rate limit applies, and whether requests or responses contain secrets. Modules
//! declare the policies next to their routes.
//!
//! Operations store their policy as OpenAPI extensions, which are removed before the document is served.

use http::Method;
use serde_json::Value;
use utoipa::openapi::path::Operation;

use super::operations::operations_of;
use crate::module::{RateClass, Routes};

const RATE: &str = "x-rate-class";
const SECRET: &str = "x-secret";

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

/// Applies the rate limit `class` to the requests of `routes` whose method is in `methods`. If `methods` is
/// empty, applies it to all requests.
#[must_use]
pub fn rate_limited(class: RateClass, methods: &[Method], routes: Routes) -> Routes {
    extended(routes, RATE, class.name, |method| methods.is_empty() || methods.contains(method))
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

    const OWN: RateClass = RateClass { name: "own", per_minute: |_| 5 };

    #[test]
    fn policy_is_parsed_from_words_and_operations() {
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
