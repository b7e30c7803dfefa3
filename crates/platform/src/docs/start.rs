//! Start page at `/`, the address that Kith prints: links to the guides, the API reference and the demo.

use axum::extract::State;
use axum::response::Response;
use http::header;
use http::request::Parts;
use utoipa_axum::routes;

use super::{HTML, POLICY, SITE};
use crate::App;
use crate::http::Asset;
use crate::module::Routes;

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(start))
}

/// Show where to go from here: documentation, demo, health.
#[utoipa::path(
    get, path = "/",
    responses(
        (status = 200, description = "A page", body = String, content_type = HTML),
        (status = 304, description = "As it was: `If-None-Match` names its ETag"),
    )
)]
async fn start(State(app): State<App>, parts: Parts) -> Response {
    let mode = match (app.config.is_production(), app.config.server.demo) {
        (true, _) => "Production mode.",
        (false, true) => "Development mode, with demo data.",
        (false, false) => "Development mode. Registration works at once; nothing else has to be set up.",
    };
    let demo =
        "<li><a href=\"/demo\">Demo</a>: two people side by side, and a button that lets time pass</li>\n";
    let page = include_str!("start.html")
        .replace("{style}", &SITE.start_style())
        .replace("{mode}", mode)
        .replace("{demo}", if app.config.server.demo { demo } else { "" })
        .replace("{origin}", &origin(&parts));
    let mut response = Asset::new(HTML, page).answer();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, POLICY);
    response
}

/// The address by which the page was opened. Host was checked, and holds no character that HTML gives a meaning.
fn origin(parts: &Parts) -> String {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if host.chars().all(is_plain) { format!("http://{host}") } else { "http://localhost:8080".to_owned() }
}
