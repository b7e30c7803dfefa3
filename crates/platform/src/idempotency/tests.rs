//! Tests of cases that no current handler covers: stored headers, expiry, and handlers that ignore keys.

use http::{HeaderMap, StatusCode, header};
use kith_kernel::{Actor, RequestId};

use super::*;
use crate::testing::TestServer;

fn answer(etag: &'static str) -> SerializedResponse {
    WriteResponse::created("body").with_header(header::ETAG, HeaderValue::from_static(etag)).write()
}

#[tokio::test]
async fn stored_response_keeps_headers_and_expires() {
    let test = TestServer::start(|_| {}).await;
    let request_id = RequestId::accept("keeps-an-answer").unwrap();
    let ctx = Ctx::new(test.app.sources.clone(), Actor::System("test"), request_id);
    let store_response = |id: u8, ctx: Ctx| {
        let keyring = Arc::clone(&test.app.keyring);
        test.app.db.write(move |tx| {
            rows::store_response(tx, &ctx, &keyring, &[id; 32], &[0; 32], &answer("\"1: a\""))
        })
    };
    store_response(1, ctx.clone()).await.unwrap();
    test.clock.advance(RETENTION);
    let then = ctx.refreshed();
    store_response(2, then.clone()).await.unwrap();
    let find = |id: u8, now| {
        let keyring = Arc::clone(&test.app.keyring);
        test.app.db.read(move |q| rows::find(q, &keyring, &[id; 32], now - RETENTION))
    };
    let kept = find(1, then.now).await.unwrap().unwrap();
    assert_eq!(kept.answer, answer("\"1: a\""));

    let tidy = |ctx: Ctx| test.app.db.write(move |tx| remove_expired(tx, &ctx));
    assert_eq!(tidy(then).await.unwrap(), 0);
    test.clock.advance(kith_kernel::seconds(1));
    let later = ctx.refreshed();
    assert!(find(1, later.now).await.unwrap().is_none());
    assert_eq!(tidy(later.clone()).await.unwrap(), 1);
    assert!(find(2, later.now).await.unwrap().is_some());
}

#[test]
fn response_without_body_has_no_content_type() {
    let response = WriteResponse::no_content().into_response();
    assert_eq!((response.status(), response.headers()), (StatusCode::NO_CONTENT, &HeaderMap::new()));
    assert_eq!(
        WriteResponse::accepted(1).into_response().headers()[header::CONTENT_TYPE],
        "application/json"
    );
}

#[test]
#[should_panic(expected = "must use `App::change`")]
fn write_ignoring_its_key_panics_in_debug() {
    check_key_applied(&StatusCode::FORBIDDEN.into_response(), "/refused");
    check_key_applied(&StatusCode::NO_CONTENT.into_response(), "/forgetful");
}
