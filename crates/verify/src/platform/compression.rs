//! Checks of response compression. It must be used where the client accepts it, but never for responses that
//! contain secrets (BREACH).

use std::io::Read as _;

use flate2::read::GzDecoder;
use kith_readiness::{Check, CheckResponse, Client, Run, Shortfall};
use serde_json::json;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-10",
    description: "requests the document in every content coding, decompresses it, and checks that responses with \
           secrets are not compressed",
    remediation: "check what a proxy in front of Kith compresses or decompresses; it must not compress \
           /api/v1/auth/",
    runs_last: false,
    run: |run| Box::pin(check_compression(run)),
}];

/// `Accept-Encoding` values, each with the content coding that the response must have.
const MATRIX: &[(&str, Option<&str>)] = &[
    ("identity", None),
    ("gzip", Some("gzip")),
    ("br", Some("br")),
    ("gzip, br", Some("br")),
    ("gzip;q=1, br;q=0.5", Some("gzip")),
    ("gzip;q=0, br", Some("br")),
    ("gzip;q=0, br;q=0", None),
    ("deflate, zstd", None),
    ("*", Some("br")),
    ("br;q=0, *", Some("gzip")),
];

async fn check_compression(run: &Run) -> Result<String, Shortfall> {
    const DOCUMENT: &str = "/openapi.json";
    let anonymous = run.anonymous();
    let plain = anonymous.get(DOCUMENT).await?.expect(200)?;
    let mut sizes = serde_json::Map::from_iter([("identity".to_owned(), plain.body.len().into())]);
    for (accepted, coding) in MATRIX {
        let response = anonymous.with("accept-encoding", accepted).get(DOCUMENT).await?.expect(200)?;
        let fails = |what: String| Err(Shortfall::fails(format!("{DOCUMENT} for {accepted:?} {what}")));
        if response.header("content-encoding") != *coding {
            return fails(format!(
                "has the content coding {:?} instead of {coding:?}",
                response.header("content-encoding")
            ));
        }
        let varies = response.headers.get_all("vary").iter().filter_map(|value| value.to_str().ok());
        if !varies.into_iter().any(|value| value.to_lowercase().contains("accept-encoding")) {
            return fails("lacks Vary: Accept-Encoding".to_owned());
        }
        if decompressed(&response).as_deref() != Some(&plain.body[..]) {
            return fails("decompresses to different content".to_owned());
        }
        if let Some(coding) = coding {
            if response.body.len() * 2 > plain.body.len() {
                return fails(format!(
                    "is only compressed to {} of {} bytes",
                    response.body.len(),
                    plain.body.len()
                ));
            }
            sizes.insert((*coding).to_owned(), response.body.len().into());
        }
    }
    let secrets = check_secrets_uncompressed(run, &anonymous).await?;
    let size = |coding: &str| sizes[coding].as_u64().unwrap_or_default();
    let (identity, gzip, br) = (size("identity"), size("gzip"), size("br"));
    run.record("bytes", sizes.clone());
    Ok(format!(
        "{identity} bytes are {gzip} as gzip and {br} as brotli, with the same content for {} values of \
         Accept-Encoding; {secrets} kinds of responses with secrets are not compressed",
        MATRIX.len()
    ))
}

/// Fails if a response that contains secrets is compressed. Returns the number of responses that were
/// checked.
async fn check_secrets_uncompressed(run: &Run, anonymous: &Client) -> Result<usize, Shortfall> {
    let account = run.account("reads-lists").await?;
    let (all, anonymous) = ("gzip, br", anonymous.with("accept-encoding", "gzip, br"));
    let credentials = json!({ "email": account.email, "password": account.password });
    let invalid = json!({ "refresh_token": "kith-verify".repeat(200) });
    let responses = [
        anonymous.post("/api/v1/auth/login", credentials).await?.expect(200)?,
        anonymous.post("/api/v1/auth/refresh", invalid).await?.expect(401)?,
        account.client.with("accept-encoding", all).get("/api/v1/auth/sessions").await?.expect(200)?,
    ];
    match responses.iter().find(|response| response.headers.contains_key("content-encoding")) {
        Some(packed) => Err(Shortfall::fails(format!(
            "the response to {} is compressed and contains secrets",
            packed.request
        ))),
        None => Ok(responses.len()),
    }
}

fn decompressed(response: &CheckResponse) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match response.header("content-encoding") {
        None => bytes.extend_from_slice(&response.body),
        Some("gzip") => drop(GzDecoder::new(&response.body[..]).read_to_end(&mut bytes).ok()?),
        Some("br") => drop(brotli::Decompressor::new(&response.body[..], 4096).read_to_end(&mut bytes).ok()?),
        Some(_) => return None,
    }
    Some(bytes)
}
