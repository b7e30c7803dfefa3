//! Check of response compression: used where it helps, and never on responses that contain secrets (BREACH).

use std::io::Read as _;

use flate2::read::GzDecoder;
use kith_readiness::{Answer, Check, Client, Run, Shortfall};
use serde_json::json;

pub(super) const CHECKS: &[Check] = &[Check {
    row: "API-10",
    does: "requests the document in every content coding, decompresses it, and checks that responses with \
           secrets are not compressed",
    mend: "check what a proxy in front of Kith compresses or decompresses; it must not compress \
           /api/v1/auth/",
    last: false,
    run: |run| Box::pin(packs(run)),
}];

/// `Accept-Encoding` values with the expected coding.
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

async fn packs(run: &Run) -> Result<String, Shortfall> {
    const DOCUMENT: &str = "/openapi.json";
    let nobody = run.anonymous();
    let plain = nobody.get(DOCUMENT).await?.expect(200)?;
    let mut sizes = serde_json::Map::from_iter([("identity".to_owned(), plain.body.len().into())]);
    for (accepted, coding) in MATRIX {
        let answer = nobody.with("accept-encoding", accepted).get(DOCUMENT).await?.expect(200)?;
        let fails = |what: String| Err(Shortfall::fails(format!("{DOCUMENT} for {accepted:?} {what}")));
        if answer.header("content-encoding") != *coding {
            return fails(format!(
                "has the content coding {:?} instead of {coding:?}",
                answer.header("content-encoding")
            ));
        }
        let varies = answer.headers.get_all("vary").iter().filter_map(|value| value.to_str().ok());
        if !varies.into_iter().any(|value| value.to_lowercase().contains("accept-encoding")) {
            return fails("lacks Vary: Accept-Encoding".to_owned());
        }
        if unpacked(&answer).as_deref() != Some(&plain.body[..]) {
            return fails("decompresses to different content".to_owned());
        }
        if let Some(coding) = coding {
            if answer.body.len() * 2 > plain.body.len() {
                return fails(format!(
                    "is only compressed to {} of {} bytes",
                    answer.body.len(),
                    plain.body.len()
                ));
            }
            sizes.insert((*coding).to_owned(), answer.body.len().into());
        }
    }
    let secrets = keep_secrets(run, &nobody).await?;
    let size = |coding: &str| sizes[coding].as_u64().unwrap_or_default();
    let (identity, gzip, br) = (size("identity"), size("gzip"), size("br"));
    run.figure("bytes", sizes.clone());
    Ok(format!(
        "{identity} bytes are {gzip} as gzip and {br} as brotli, with the same content for {} values of \
         Accept-Encoding; {secrets} kinds of responses with secrets are not compressed",
        MATRIX.len()
    ))
}

/// Fails if a response with secrets is compressed. Returns the number of responses.
async fn keep_secrets(run: &Run, nobody: &Client) -> Result<usize, Shortfall> {
    let person = run.person("reads-lists").await?;
    let (all, nobody) = ("gzip, br", nobody.with("accept-encoding", "gzip, br"));
    let credentials = json!({ "email": person.email, "password": person.password });
    let wrong = json!({ "refresh_token": "kith-verify".repeat(200) });
    let answers = [
        nobody.post("/api/v1/auth/login", credentials).await?.expect(200)?,
        nobody.post("/api/v1/auth/refresh", wrong).await?.expect(401)?,
        person.client.with("accept-encoding", all).get("/api/v1/auth/sessions").await?.expect(200)?,
    ];
    match answers.iter().find(|answer| answer.headers.contains_key("content-encoding")) {
        Some(packed) => Err(Shortfall::fails(format!(
            "the response to {} is compressed and contains secrets",
            packed.asked
        ))),
        None => Ok(answers.len()),
    }
}

fn unpacked(answer: &Answer) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match answer.header("content-encoding") {
        None => bytes.extend_from_slice(&answer.body),
        Some("gzip") => drop(GzDecoder::new(&answer.body[..]).read_to_end(&mut bytes).ok()?),
        Some("br") => drop(brotli::Decompressor::new(&answer.body[..], 4096).read_to_end(&mut bytes).ok()?),
        Some(_) => return None,
    }
    Some(bytes)
}
