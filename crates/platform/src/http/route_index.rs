//! Finds the route of a request before the router runs. Rate limits and metrics need the route.

use std::collections::BTreeMap;

use http::Method;

use crate::telemetry::RouteMetrics;

/// Indexes of routes by path and method. Paths are matched in the same way as by the router.
pub(super) struct RouteIndex(matchit::Router<Vec<(Method, usize)>>);

impl RouteIndex {
    /// Builds the index of `routes`. Index 0 stands for requests that no route matches.
    pub fn of(routes: &[RouteMetrics]) -> Self {
        let mut by_path = BTreeMap::<&str, Vec<_>>::new();
        for (place, route) in routes.iter().enumerate() {
            if let Some(method) = route.method() {
                by_path.entry(route.path_template()).or_default().push((method.clone(), place));
            }
        }
        let mut index = matchit::Router::new();
        for (path, places) in by_path {
            index.insert(path, places).expect("the router has accepted this path");
        }
        Self(index)
    }

    /// Returns the index of the matching route, or 0 if there is none. HEAD requests match GET routes.
    pub fn find(&self, method: &Method, path: &str) -> usize {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        let methods = self.0.at(path).map(|found| found.value).ok();
        let found = methods.and_then(|methods| methods.iter().find(|(known, _)| known == method));
        found.map_or(0, |(_, place)| *place)
    }
}
