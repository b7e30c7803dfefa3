//! Start page at `/`, the address that the server prints. It links to the guides, the API reference and the
//! demo.

use axum::extract::State;
use axum::response::Response;
use http::header;
use http::request::Parts;
use utoipa_axum::routes;

use super::{CSP, HTML, style_sheet_path};
use crate::App;
use crate::http::Asset;
use crate::module::Routes;

pub(super) fn routes() -> Routes {
    Routes::new().routes(routes!(start))
}

/// Open the start page
///
/// Returns a page with links to the documentation, the demo and the health report.
#[utoipa::path(
    get, path = "/",
    responses(
        (status = 200, description = "HTML page.", body = String, content_type = HTML),
        (status = 304, description = "Not modified: `If-None-Match` matches the ETag."),
    )
)]
async fn start(State(app): State<App>, parts: Parts) -> Response {
    let mode = match (app.config.is_production(), app.config.server.demo) {
        (true, _) => "Production mode.",
        (false, true) => "Development mode, with demo data.",
        (false, false) => "Development mode. You can register a user now; no further setup is needed.",
    };
    let demo =
        "<li><a href=\"/demo\">Demo</a>: two users side by side, and a clock that you can advance</li>\n";
    let page = include_str!("start.html")
        .replace("{style}", &style_sheet_path())
        .replace("{mode}", mode)
        .replace("{demo}", if app.config.server.demo { demo } else { "" })
        .replace("{origin}", &origin(&parts));
    let mut response = Asset::new(HTML, page).answer();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, CSP);
    response
}

/// Returns the origin from which the page was requested, according to the `Host` header. If the header has
/// unexpected characters, returns `http://localhost:8080`, because the value is inserted into HTML.
fn origin(parts: &Parts) -> String {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if host.chars().all(is_plain) { format!("http://{host}") } else { "http://localhost:8080".to_owned() }
}
