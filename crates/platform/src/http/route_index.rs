//! Which route a request is for, known before the router is asked: limits and counts go by it.

use std::collections::BTreeMap;

use http::Method;

use crate::telemetry::RouteMetrics;

/// The places of routes, found as the router itself finds them.
pub(super) struct RouteIndex(matchit::Router<Vec<(Method, usize)>>);

impl RouteIndex {
    /// Of these routes. The first of them is for requests that no other takes.
    pub fn of(routes: &[RouteMetrics]) -> Self {
        let mut by_path = BTreeMap::<&str, Vec<_>>::new();
        for (place, route) in routes.iter().enumerate() {
            if let Some(method) = route.method() {
                by_path.entry(route.template()).or_default().push((method.clone(), place));
            }
        }
        let mut index = matchit::Router::new();
        for (path, places) in by_path {
            index.insert(path, places).expect("the router has taken this path too");
        }
        Self(index)
    }

    /// The place of the route that takes such a request; 0 if none does.
    pub fn find(&self, method: &Method, path: &str) -> usize {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let methods = self.0.at(path).map(|found| found.value).ok();
        let found = methods.and_then(|methods| methods.iter().find(|(known, _)| known == method));
        found.map_or(0, |(_, place)| *place)
    }
}
