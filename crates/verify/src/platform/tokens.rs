//! Checks that access tokens verify against the published keys, and that forged ones are rejected.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kith_readiness::{Check, Client, Run, Shortfall};
use serde_json::{Value, json};

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "ACC-04",
        description: "fetches the key set, verifies the signature of an access token with the key that it names, \
               and sends tokens with unknown key ids",
        remediation: "run `kith keys list`; if tokens are signed with an unpublished key, rotate the keys",
        runs_last: false,
        run: |run| Box::pin(check_tokens_verify(run)),
    },
    Check {
        row: "SEC-01",
        description: "sends a valid token and tokens forged from it without the signing key: other algorithms, \
               other keys, changed claims, other types of tokens; listens for requests of the server that \
               fetch a key",
        remediation: "block administration and sign-in until the fault is fixed: the server accepts forged tokens",
        runs_last: false,
        run: |run| Box::pin(check_forged_tokens(run)),
    },
];

const ME: &str = "/api/v1/me";
const KEYS: &str = "/.well-known/jwks.json";

/// Everything needed to forge tokens: a valid token, the published key, and an own key pair.
struct Forger {
    token: String,
    header: Value,
    claims: Value,
    published: Vec<u8>,
    own: Ed25519KeyPair,
}

impl Forger {
    async fn new(run: &Run) -> Result<Self, Shortfall> {
        let token = run.account("signs-in").await?.access_token;
        let (header, claims) = (read(&token, 0)?, read(&token, 1)?);
        let keys = run.anonymous().get(KEYS).await?.expect(200)?.json();
        let mut keys = keys["keys"].as_array().into_iter().flatten();
        let named = keys.find(|key| key["kid"].is_string() && key["kid"] == header["kid"]);
        let published = named.and_then(|key| URL_SAFE_NO_PAD.decode(key["x"].as_str()?).ok());
        let published = published.ok_or_else(|| Shortfall::fails("the token names an unpublished key"))?;
        let own = Ed25519KeyPair::generate()
            .map_err(|_| Shortfall::unmeasured("cannot generate a key", "try again"))?;
        Ok(Self { token, header, claims, published, own })
    }

    fn signature(&self) -> &str {
        self.token.rsplit('.').next().unwrap_or_default()
    }

    /// Returns a token that is signed with the key pair of the forger.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        let text = text(header, claims);
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.own.sign(text.as_bytes())))
    }

    /// Returns a token with other contents, but with the signature of the valid token.
    fn with_old_signature(&self, header: &Value, claims: &Value) -> String {
        format!("{}.{}", text(header, claims), self.signature())
    }

    /// Returns a token that is authenticated by HS256 with `secret`. A vulnerable server would use its public
    /// key as the secret.
    fn hs256(&self, secret: &[u8]) -> String {
        let text = text(&with(&self.header, "alg", "HS256"), &self.claims);
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac))
    }
}

fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn text(header: &Value, claims: &Value) -> String {
    format!("{}.{}", part(header), part(claims))
}

fn read(token: &str, part: usize) -> Result<Value, Shortfall> {
    let text = token.split('.').nth(part).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let json = text.and_then(|text| serde_json::from_slice(&text).ok());
    json.ok_or_else(|| Shortfall::fails("the access token is not a JWT"))
}

fn with(json: &Value, key: &str, value: impl Into<Value>) -> Value {
    let mut json = json.clone();
    json[key] = value.into();
    json
}

async fn check_tokens_verify(run: &Run) -> Result<String, Shortfall> {
    let forger = Forger::new(run).await?;
    let response = run.anonymous().get(KEYS).await?.expect(200)?.json();
    let keys = response["keys"].as_array().cloned().unwrap_or_default();
    run.record("published_keys", keys.len());
    if let Some(secret) = keys.iter().find(|key| !key["d"].is_null() || !key["k"].is_null()) {
        return Err(Shortfall::fails(format!(
            "the published key {} contains its private key",
            secret["kid"]
        )));
    }
    let (signed, _) = forger.token.rsplit_once('.').unwrap_or_default();
    let signature = URL_SAFE_NO_PAD.decode(forger.signature()).unwrap_or_default();
    let is_good =
        UnparsedPublicKey::new(&ED25519, &forger.published).verify(signed.as_bytes(), &signature).is_ok();
    if !is_good || forger.header["alg"] != "EdDSA" {
        return Err(Shortfall::fails(
            "the published key that a token names does not verify its EdDSA signature",
        ));
    }
    let anonymous = run.anonymous();
    anonymous.with_token(&forger.token).get(ME).await?.expect(200)?;
    let unknown = with(&forger.header, "kid", run.marker("key"));
    for token in [
        forger.sign(&unknown, &forger.claims),
        forger.with_old_signature(&unknown, &forger.claims),
        forger.sign(&forger.header, &forger.claims),
    ] {
        anonymous.with_token(&token).get(ME).await?.expect_problem(401, "unauthenticated")?;
    }
    anonymous.with_token(&forger.token).get(ME).await?.expect(200)?;
    Ok(format!(
        "{} keys are published; the named one verifies the token, and unknown key ids are rejected",
        keys.len()
    ))
}

async fn check_forged_tokens(run: &Run) -> Result<String, Shortfall> {
    let forger = Forger::new(run).await?;
    let trap = ForbiddenListener::listen_beside(run);
    let address = trap.as_ref().map_or_else(|| "127.0.0.1:9".to_owned(), |trap| trap.address.clone());
    let session = run.account("signs-in").await?;
    let mut corpus = forged_algorithms(&forger);
    corpus.extend(forged_keys(&forger, &address));
    corpus.extend(forged_claims(&forger, &run.account("partner-1").await?.id));
    corpus.extend(malformed_tokens(&forger, &session.refresh_token));
    let anonymous = run.anonymous();
    anonymous.with_token(&forger.token).get(ME).await?.expect(200)?;
    for (what, token) in &corpus {
        refused(&anonymous, what, token).await?;
    }
    let doubled = anonymous.with_token(&forger.token).with("authorization", "Bearer x.y.z");
    doubled.get(ME).await?.expect(401)?;
    anonymous.get(&format!("{ME}?access_token={}", forger.token)).await?.expect(401)?;
    anonymous.with_token(&forger.token).get(ME).await?.expect(200)?;
    run.record("forged_tokens", corpus.len() + 2);
    let listened = match trap {
        Some(trap) => trap.result(run)?,
        None => "outgoing requests for keys could not be observed from here, the tests cover them",
    };
    Ok(format!("{} forged tokens, each rejected with 401; {listened}", corpus.len() + 2))
}

async fn refused(anonymous: &Client, what: &str, token: &str) -> Result<(), Shortfall> {
    let response = anonymous.with_token(token).get(ME).await?;
    match (response.status, response.code()) {
        (401, Some(code)) if code == "unauthenticated" => Ok(()),
        (status, _) => Err(Shortfall::fails(format!("a token with {what} returned {status} instead of 401"))),
    }
}

type Corpus = Vec<(String, String)>;

/// Returns forged tokens that declare other signature algorithms.
fn forged_algorithms(forger: &Forger) -> Corpus {
    let Forger { header, claims, published, .. } = forger;
    let mut all = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let none = with(header, "alg", alg);
        all.push((format!("the algorithm {alg:?}"), format!("{}.", text(&none, claims))));
        all.push((
            format!("the algorithm {alg:?} and the original signature"),
            forger.with_old_signature(&none, claims),
        ));
    }
    let x = URL_SAFE_NO_PAD.encode(published);
    // Encodes the published key as SubjectPublicKeyInfo of an Ed25519 key (RFC 8410).
    let der = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0][..], published].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der));
    let secrets: [(&str, &[u8]); 7] = [
        ("the published key", published),
        ("the published key in base64url", x.as_bytes()),
        ("the published key as DER", &der),
        ("the published key as PEM", pem.as_bytes()),
        ("the published key as PEM without a trailing newline", pem.trim_end().as_bytes()),
        ("nothing", b""),
        ("the word secret", b"secret"),
    ];
    all.extend(
        secrets.map(|(what, secret)| (format!("HS256 with {what} as the secret"), forger.hs256(secret))),
    );
    for alg in ["HS256", "RS256", "ES256", "PS256", "ES512", "eddsa", "Ed25519"] {
        let header = with(header, "alg", alg);
        all.push((format!("another key and the algorithm {alg}"), forger.sign(&header, claims)));
        all.push((
            format!("the algorithm {alg} and the original signature"),
            forger.with_old_signature(&header, claims),
        ));
    }
    all
}

/// Returns forged tokens whose header names, embeds or links to a key.
fn forged_keys(forger: &Forger, address: &str) -> Corpus {
    let Forger { header, claims, own, .. } = forger;
    let mut all = vec![("the signature of another key".to_owned(), forger.sign(header, claims))];
    let id = header["kid"].as_str().unwrap_or_default();
    let texts = [
        "../../../../dev/null".to_owned(),
        "/proc/self/environ".to_owned(),
        "x' UNION SELECT 'AAAA' --".to_owned(),
        "'; DROP TABLE signing_keys; --".to_owned(),
        "k".repeat(600),
        "\u{0}\r\nX-Injected: yes".to_owned(),
        String::new(),
        id.to_uppercase(),
        format!("{id} "),
    ];
    let others = [json!(null), json!(5), json!([id]), json!({ "kid": id })];
    for kid in texts.into_iter().map(Value::from).chain(others) {
        all.push(("another key id".to_owned(), forger.sign(&with(header, "kid", kid), claims)));
    }
    let x = URL_SAFE_NO_PAD.encode(own.public_key().as_ref());
    for kid in [id, "elsewhere"] {
        let header = with(header, "kid", kid);
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x, "kid": kid });
        for name in ["jku", "x5u"] {
            let header = with(&header, name, format!("http://{address}/keys"));
            all.push((format!("a key URL in {name}"), forger.sign(&header, claims)));
        }
        all.push(("an embedded key in jwk".to_owned(), forger.sign(&with(&header, "jwk", jwk), claims)));
        all.push((
            "an embedded key in x5c".to_owned(),
            forger.sign(&with(&header, "x5c", json!([x])), claims),
        ));
    }
    all
}

/// Returns forged tokens with changed claims.
fn forged_claims(forger: &Forger, other_person: &str) -> Corpus {
    let Forger { header, claims, .. } = forger;
    let now_s = claims["nbf"].as_i64().unwrap_or_default();
    let changes = [
        ("iss", json!("evil")),
        ("aud", json!("evil")),
        ("aud", json!(["kith", "evil"])),
        ("sub", json!(other_person)),
        ("sub", json!("admin")),
        ("sid", json!(other_person)),
        ("nbf", json!(now_s + 86_400)),
        ("exp", json!(now_s - 1)),
        ("exp", json!(now_s + 86_400 * 365)),
        ("exp", json!(1e300)),
        ("role", json!("admin")),
        ("nonce", json!("of an ID token")),
    ];
    let mut all = Vec::new();
    for (name, value) in changes {
        let claims = with(claims, name, value);
        all.push((
            format!("another {name} and the original signature"),
            forger.with_old_signature(header, &claims),
        ));
        all.push((format!("another {name} and another key"), forger.sign(header, &claims)));
    }
    for kind in ["JWT", "id_token", "", "application/at+jwt "] {
        let header = with(header, "typ", kind);
        all.push((
            format!("the type {kind:?} and the original signature"),
            forger.with_old_signature(&header, claims),
        ));
    }
    let critical = with(header, "crit", json!(["exp"]));
    all.push(("a critical extension".to_owned(), forger.with_old_signature(&critical, claims)));
    all
}

/// Returns malformed tokens.
fn malformed_tokens(forger: &Forger, refresh_token: &str) -> Corpus {
    let token = &forger.token;
    let (signed, signature) = token.rsplit_once('.').unwrap_or_default();
    let all = [
        ("no signature", format!("{signed}.")),
        ("no signature and no dot", signed.to_owned()),
        ("a signature of zeros", format!("{signed}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
        ("two signatures", format!("{token}.{signature}")),
        ("padding", format!("{token}==")),
        ("a second token appended", format!("{token}, Bearer {token}")),
        ("only dots", "..".to_owned()),
        ("a refresh token instead", refresh_token.to_owned()),
    ];
    all.map(|(what, token)| (what.to_owned(), token)).into()
}

/// Local address that some forged tokens link to. The server must not connect to it.
struct ForbiddenListener {
    listener: TcpListener,
    address: String,
}

impl ForbiddenListener {
    /// Starts a listener. Returns `None` if the deployment does not run on this machine.
    fn listen_beside(run: &Run) -> Option<Self> {
        let url: http::Uri = run.node().parse().ok()?;
        let host = url.host()?.trim_matches(['[', ']']);
        if host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            return None;
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).ok()?;
        listener.set_nonblocking(true).ok()?;
        let address = listener.local_addr().ok()?.to_string();
        Some(Self { listener, address })
    }

    fn result(self, run: &Run) -> Result<&'static str, Shortfall> {
        match self.listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                run.record("outbound_fetches", 0);
                Ok("the server fetched nothing from the URLs in them")
            }
            _ => Err(Shortfall::fails("the server tried to fetch a key from the URL in a forged token")),
        }
    }
}
