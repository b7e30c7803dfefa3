//! `/docs`: the API reference. It consists of Swagger UI for the OpenAPI document, is served from the binary,
//! and has a strict content security policy.

mod start;

use std::io::Read;
use std::sync::{Arc, LazyLock};

use axum::extract::Path;
use axum::response::{Redirect, Response};
use flate2::read::GzDecoder;
use http::header::{self, HeaderValue};
use kith_kernel::{Problem, problems};
use sha2::{Digest, Sha256};
use utoipa_axum::routes;
use utoipa_swagger_ui::Config;

use crate::ApiResult;
use crate::http::Asset;
use crate::module::Routes;

/// Content security policy of the HTML pages. The style sheet contains `data:` images. Everything else is
/// loaded from this server, and inline scripts and styles are not allowed.
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// `Cache-Control` of files whose name contains a digest of their content.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

static SITE: LazyLock<ApiReference> = LazyLock::new(ApiReference::load);

#[expect(deprecated, reason = "old paths redirect to this one")]
pub(crate) fn routes() -> Routes {
    start::routes()
        .routes(routes!(docs))
        .routes(routes!(docs_file))
        .routes(routes!(old_api_docs))
        .routes(routes!(old_swagger))
}

/// Open the API reference
///
/// Returns a page that displays this document and can send requests.
#[utoipa::path(
    get, path = "/docs",
    responses(
        (status = 200, description = "HTML page.", body = String, content_type = HTML),
        (status = 304, description = "Not modified: `If-None-Match` matches the ETag."),
    )
)]
async fn docs() -> Response {
    let mut response = SITE.page.answer();
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, CSP);
    response
}

/// Get a file of the API reference
///
/// Returns a style sheet or script of the page at `/docs`. The name contains a digest of the content, so the
/// response can be cached for a year.
#[utoipa::path(
    get, path = "/docs/{file}",
    params((
        "file" = String, Path,
        description = "Name of the file, as referenced by the page. It changes with the content."
    )),
    responses(
        (status = 200, description = "Content of the file.", content((String = STYLE), (String = SCRIPT))),
        (status = 304, description = "Not modified: `If-None-Match` matches the ETag."),
    )
)]
async fn docs_file(Path(name): Path<String>) -> ApiResult<Response> {
    let part = SITE.parts.iter().find(|part| part.name == name);
    let part = part
        .ok_or_else(|| Problem::new(&problems::NOT_FOUND, "No file of the API reference has this name."))?;
    let mut response = part.asset.answer();
    response.headers_mut().insert(header::CACHE_CONTROL, IMMUTABLE);
    Ok(response)
}

/// Deprecated: use `/docs`
///
/// Redirects permanently to `/docs`.
#[utoipa::path(get, path = "/api-docs", responses((status = 308, description = "Redirect to `/docs`.")))]
#[deprecated]
async fn old_api_docs() -> Redirect {
    Redirect::permanent("/docs")
}

/// Deprecated: use `/docs`
///
/// Redirects permanently to `/docs`.
#[utoipa::path(get, path = "/swagger", responses((status = 308, description = "Redirect to `/docs`.")))]
#[deprecated]
async fn old_swagger() -> Redirect {
    Redirect::permanent("/docs")
}

/// Returns the path of the style sheet that all HTML pages share. It is available with every preset. The path
/// changes if the
/// content changes.
#[must_use]
pub fn style_sheet_path() -> String {
    let [.., style] = &SITE.parts;
    format!("/docs/{}", style.name)
}

/// API reference page and its files.
struct ApiReference {
    page: Arc<Asset>,
    parts: [SiteFile; 5],
}

struct SiteFile {
    name: String,
    asset: Arc<Asset>,
}

impl ApiReference {
    fn load() -> Self {
        let parts = [
            SiteFile::new("swagger-ui.css", STYLE, swagger_ui_file("swagger-ui.css")),
            SiteFile::new("swagger-ui-bundle.js", SCRIPT, swagger_ui_file("swagger-ui-bundle.js")),
            SiteFile::new("page.js", SCRIPT, include_bytes!("page.js").to_vec()),
            SiteFile::new("page.css", STYLE, include_bytes!("page.css").to_vec()),
            SiteFile::new("style.css", STYLE, include_bytes!("style.css").to_vec()),
        ];
        let [swagger_style, bundle, script, page_style, style] =
            parts.each_ref().map(|part| format!("/docs/{}", part.name));
        let page = include_str!("page.html");
        let page = page.replace("{style}", &style).replace("{page_style}", &page_style);
        let page = page.replace("{swagger_style}", &swagger_style);
        let page = page.replace("{bundle}", &bundle).replace("{script}", &script);
        Self { page: Asset::new(HTML, page), parts }
    }
}

impl SiteFile {
    fn new(file: &str, kind: &'static str, bytes: Vec<u8>) -> Self {
        let digest: String =
            Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let (stem, extension) = file.rsplit_once('.').expect("a name with an extension");
        Self { name: format!("{stem}.{digest}.{extension}"), asset: Asset::new(kind, bytes) }
    }
}

/// Returns a file of the Swagger UI distribution, decompressed.
fn swagger_ui_file(file: &str) -> Vec<u8> {
    let found = utoipa_swagger_ui::serve(file, Arc::new(Config::default())).ok().flatten();
    let found = found.expect("the file is in the binary");
    if !found.gzpipped {
        return found.bytes.into_owned();
    }
    let mut bytes = Vec::new();
    GzDecoder::new(&*found.bytes).read_to_end(&mut bytes).expect("the build compressed the file");
    bytes
}
