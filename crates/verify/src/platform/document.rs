//! Checks of the OpenAPI document: it is valid, it matches the served routes, and a page shows it.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use http::Method;
use kith_readiness::observatory::Policy;
use kith_readiness::{Check, CheckResponse, Client, Operation, Run, Shortfall};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::schemas;

pub(super) const CHECKS: &[Check] = &[
    Check {
        row: "API-02",
        description: "validates the document by the rules of OpenAPI 3.1, reads the methods of each documented path \
               with OPTIONS, and requests undocumented paths",
        remediation: "document all routes with `routes!`; check whether a proxy between here and Kith adds or hides \
               paths",
        runs_last: false,
        run: |run| Box::pin(check_document_matches_server(run)),
    },
    Check {
        row: "API-03",
        description: "loads /docs, its parts, and the document that it shows",
        remediation: "check whether a proxy between here and Kith changes the page, its parts or its policy",
        runs_last: false,
        run: |run| Box::pin(check_docs_page(run)),
    },
    Check {
        row: "DOC-01",
        description: "compares the served document with the running routes and with the document of the verifying \
               build",
        remediation: "serve the document that the build generates from its handlers",
        runs_last: false,
        run: |run| Box::pin(check_release_document(run)),
    },
];

/// Paths that must not be served: common paths of other software, and former paths of Kith.
const UNDOCUMENTED_PATHS: &[&str] = &[
    "/admin",
    "/debug",
    "/debug/pprof/",
    "/actuator",
    "/actuator/env",
    "/metrics",
    "/server-status",
    "/.env",
    "/.git/config",
    "/graphql",
    "/api/v2",
    "/api/users",
    "/api/v1/users",
    "/swagger.json",
    "/api-docs/openapi.json",
    "/swagger-ui/",
    "/openapi.yaml",
    "/phpinfo.php",
    "/console",
    "/internal",
    "/status",
    "/health",
    "/test",
    "/dev",
    "/dev/clock",
    "/dev/outbox",
    "/demo",
    "/api/v1/admin/login",
    "/api/v1/debug",
];

async fn check_document_matches_server(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    well_formed(&document)
        .map_err(|fault| Shortfall::fails(format!("/openapi.json is not valid: {fault}")))?;
    let (routes, undocumented) = compare_paths(run, &document).await?;
    Ok(format!(
        "valid OpenAPI {}; {routes} operations, each path served with exactly the documented methods; \
         {undocumented} undocumented paths return 404",
        document["openapi"].as_str().unwrap_or_default()
    ))
}

/// Checks that every documented operation is served, and that undocumented paths return 404. Returns the
/// numbers of operations and of undocumented paths.
async fn compare_paths(run: &Run, document: &Value) -> Result<(usize, usize), Shortfall> {
    let operations = Operation::all(document);
    let paths: BTreeSet<_> = operations.iter().map(|operation| operation.path).collect();
    let anonymous = run.anonymous();
    for path in &paths {
        let of_path: Vec<_> = operations.iter().filter(|operation| operation.path == *path).collect();
        compare_methods(&anonymous, &of_path).await?;
    }
    let own = run.deployment().target().own_build.as_ref();
    let own = own.map(|own| Operation::all(&own.document)).unwrap_or_default();
    let others = undocumented(&operations, &own);
    for path in &others {
        let answer = anonymous.get(path).await?;
        if answer.status != 404 {
            return Err(Shortfall::fails(format!(
                "GET {path} is undocumented but returned {}",
                answer.status
            )));
        }
    }
    run.record("operations", operations.len());
    run.record("paths", paths.len());
    run.record("undocumented_addresses_asked", others.len());
    Ok((operations.len(), others.len()))
}

/// Checks that a path is served with exactly the documented methods. The methods are read from the `Allow`
/// header of a rejected OPTIONS request.
async fn compare_methods(client: &Client, of_path: &[&Operation<'_>]) -> Result<(), Shortfall> {
    let (path, address) = (of_path[0].path, of_path[0].sample_path());
    let answer = client.send(Method::OPTIONS, &address, Bytes::new()).await?;
    let fails = |what: &str| Err(Shortfall::fails(format!("{path} {what}")));
    if answer.status == 404 {
        return fails("is documented but not served");
    }
    let Some(allow) = answer.header("allow").filter(|_| answer.status == 405) else {
        return fails(&format!("returned {} to OPTIONS without the allowed methods", answer.status));
    };
    let served: BTreeSet<_> = allow.split(',').map(str::trim).filter(|method| *method != "HEAD").collect();
    let documented: BTreeSet<_> = of_path.iter().map(|operation| operation.method.as_str()).collect();
    if let Some(method) = served.difference(&documented).next() {
        return fails(&format!("serves the undocumented method {method}"));
    }
    match documented.difference(&served).next() {
        Some(method) => fails(&format!("does not serve the documented method {method}")),
        None => Ok(()),
    }
}

/// Returns undocumented paths to try: neighbours, parents and children of documented paths, and paths that
/// this build contains but the document does not.
fn undocumented(operations: &[Operation<'_>], own: &[Operation<'_>]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = UNDOCUMENTED_PATHS.iter().map(|path| (*path).to_owned()).collect();
    all.extend(own.iter().map(Operation::sample_path));
    for operation in operations {
        let address = operation.sample_path();
        all.insert(format!("{address}/kith-verify"));
        all.insert(format!("{address}/"));
        let ends = address.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
        all.extend(ends.map(|at| address[..at].to_owned()));
    }
    all.retain(|path| !operations.iter().any(|operation| operation.is_at(path)));
    all
}

/// Checks that the document follows the rules of OpenAPI 3.1.0. Covers the parts that Kith's document uses.
fn well_formed(document: &Value) -> Result<(), String> {
    if !document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")) {
        return Err(format!("openapi is {}", document["openapi"]));
    }
    for field in ["title", "version"] {
        document["info"][field].as_str().ok_or(format!("info has no {field}"))?;
    }
    references(document, document)?;
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        schemas::validator(document, schema).map_err(|reason| format!("the schema {name}: {reason}"))?;
    }
    let operations = Operation::all(document);
    if operations.is_empty() {
        return Err("the document has no operations".to_owned());
    }
    let mut ids = HashSet::new();
    for operation in &operations {
        let fault = |what: &str| Err(format!("{}: {what}", operation.name()));
        if !operation.path.starts_with('/') {
            return fault("the path does not begin with a slash");
        }
        let id = operation.json()["operationId"].as_str().unwrap_or_default();
        if id.is_empty() || !ids.insert(id) {
            return fault(&format!("its operationId {id:?} is missing or not unique"));
        }
        well_formed_operation(document, operation)?;
    }
    Ok(())
}

fn well_formed_operation(document: &Value, operation: &Operation<'_>) -> Result<(), String> {
    let fault = |what: String| Err(format!("{}: {what}", operation.name()));
    let in_path: BTreeSet<_> =
        operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
    let declared: BTreeSet<_> = operation.parameters("path").map(|parameter| parameter.name).collect();
    if in_path != declared {
        return fault(format!("its path has the parameters {in_path:?}, but {declared:?} are declared"));
    }
    for parameter in operation.json()["parameters"].as_array().into_iter().flatten() {
        let location = parameter["in"].as_str().unwrap_or_default();
        if !["path", "query", "header", "cookie"].contains(&location) || parameter["schema"].is_null() {
            return fault(format!("the parameter {} has no location or no schema", parameter["name"]));
        }
        if location == "path" && parameter["required"] != true {
            return fault(format!("the path parameter {} is not required", parameter["name"]));
        }
    }
    let responses = operation.json()["responses"].as_object();
    let Some(responses) = responses.filter(|responses| !responses.is_empty()) else {
        return fault("it declares no responses".to_owned());
    };
    for (status, response) in responses {
        let is_status = status.len() == 3 && status.starts_with(|first| ('1'..='5').contains(&first));
        if !(is_status || status == "default") || response["description"].as_str().is_none() {
            return fault(format!("the response {status} has an invalid status or no description"));
        }
    }
    let schemes = operation.json()["security"].as_array().into_iter().flatten();
    for name in schemes.filter_map(Value::as_object).flat_map(serde_json::Map::keys) {
        if document["components"]["securitySchemes"][name].is_null() {
            return fault(format!("there is no security scheme {name}"));
        }
    }
    Ok(())
}

/// Checks that every `$ref` in `part` refers to an existing part of the document.
fn references(document: &Value, part: &Value) -> Result<(), String> {
    match part {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                let leads = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                leads.ok_or(format!("the reference {reference} does not resolve"))?;
            }
            fields.values().try_for_each(|field| references(document, field))
        }
        Value::Array(items) => items.iter().try_for_each(|item| references(document, item)),
        _ => Ok(()),
    }
}

async fn check_docs_page(run: &Run) -> Result<String, Shortfall> {
    let anonymous = run.anonymous();
    let page = anonymous.get("/docs").await?.expect(200)?;
    let (html, policy) =
        (page.text(), Policy::parse(page.header("content-security-policy").unwrap_or_default()));
    if !page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        return Err(Shortfall::fails("/docs is not declared as text/html"));
    }
    let inline = ["<style", " style=", " onload=", " onclick=", "javascript:"]
        .iter()
        .find(|word| html.contains(**word));
    if let Some(word) =
        inline.or((html.matches("<script").count() != values(&html, "src").len()).then_some(&"<script>"))
    {
        return Err(Shortfall::fails(format!("/docs has {word} inline, which its policy does not allow")));
    }
    if let Some((directive, source)) = policy.unsafe_source() {
        return Err(Shortfall::fails(format!("the policy of /docs allows {source} in {directive}")));
    }
    let loads = values(&html, "src").into_iter().map(|part| ("script-src", part));
    let loads = loads.chain(
        html.split("<link ")
            .skip(1)
            .flat_map(|link| values(link, "href").into_iter().take(1))
            .map(|part| ("style-src", part)),
    );
    let mut parts = 0;
    for (directive, part) in loads.filter(|(_, part)| !part.starts_with("data:") && *part != "/openapi.json")
    {
        if !part.starts_with('/') || part.starts_with("//") {
            return Err(Shortfall::fails(format!("/docs loads {part} from another origin")));
        }
        if !policy.fetches(directive).is_some_and(|sources| sources.iter().any(|source| source == "'self'")) {
            return Err(Shortfall::fails(format!("the policy of /docs does not allow {part}")));
        }
        require_asset(directive, &anonymous.get(part).await?.expect(200)?)?;
        parts += 1;
    }
    if !policy.fetches("connect-src").is_some_and(|sources| sources.iter().any(|source| source == "'self'")) {
        return Err(Shortfall::fails("the policy of /docs does not allow it to load the document"));
    }
    let [shown] = values(&html, "data-document")[..] else {
        return Err(Shortfall::fails("/docs does not name the document that it shows"));
    };
    let [shown, served] =
        [anonymous.get(shown).await?.expect(200)?, anonymous.get("/openapi.json").await?.expect(200)?];
    let [of_shown, of_served] = [&shown, &served].map(|answer| digest(&answer.body));
    if of_shown != of_served {
        return Err(Shortfall::fails(format!(
            "/docs shows a document with the digest {of_shown}, but the served one has {of_served}"
        )));
    }
    run.record("digest", of_shown.clone());
    let short = &of_shown[..16];
    Ok(format!(
        "/docs and its {parts} parts are from the same origin and pass the policy; it shows the document \
         {short}"
    ))
}

/// Fails unless a script or stylesheet has the right media type and a body. Browsers ignore files of another
/// type because of `nosniff`.
fn require_asset(directive: &str, answer: &CheckResponse) -> Result<(), Shortfall> {
    let wanted = if directive == "script-src" { "text/javascript" } else { "text/css" };
    let kind = answer.header("content-type").unwrap_or_default();
    if !kind.starts_with(wanted) || answer.body.is_empty() {
        return Err(Shortfall::fails(format!("{} is {kind}, {} bytes", answer.request, answer.body.len())));
    }
    Ok(())
}

/// Returns all values of an attribute in an HTML text.
fn values<'h>(html: &'h str, attribute: &str) -> Vec<&'h str> {
    let start = format!(" {attribute}=\"");
    html.split(&start).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn check_release_document(run: &Run) -> Result<String, Shortfall> {
    let document = run.document().await?;
    let (routes, _) = compare_paths(run, &document).await?;
    let both = format!("{routes} operations are documented as served");
    let Some(own) = &run.deployment().target().own_build else {
        return Ok(format!("{both}; the documents to compare with are not available"));
    };
    let version = |document: &Value| document["info"]["version"].as_str().unwrap_or_default().to_owned();
    let release = run.anonymous().get("/api/health").await?.text_at("/releaseId")?;
    if release != own.release {
        let judge = &own.release;
        return Ok(format!(
            "{both}; the server is build {release}, but this is build {judge}, so their documents were not \
             compared"
        ));
    }
    for operation in Operation::all(&own.document) {
        let served = document.pointer(&pointer(&operation));
        match served {
            None if operation.is_for_development() => {}
            None => {
                return Err(Shortfall::fails(format!(
                    "{} of this build is missing from the document",
                    operation.name()
                )));
            }
            Some(served) if served != operation.json() => {
                return Err(Shortfall::fails(format!(
                    "{} differs from the document of this build",
                    operation.name()
                )));
            }
            Some(_) => {}
        }
    }
    let all = Operation::all(&own.document);
    let is_own = |served: &Operation<'_>| all.iter().any(|own| own.name() == served.name());
    match Operation::all(&document).iter().find(|served| !is_own(served)) {
        Some(foreign) => {
            Err(Shortfall::fails(format!("{} is documented but not in this build", foreign.name())))
        }
        None => Ok(format!(
            "{both}, and equal to the document of build {release} (version {})",
            version(&document)
        )),
    }
}

/// Returns the JSON pointer of an operation in the document (RFC 6901).
fn pointer(operation: &Operation<'_>) -> String {
    let path = operation.path.replace('~', "~0").replace('/', "~1");
    format!("/paths/{path}/{}", operation.method.as_str().to_lowercase())
}
