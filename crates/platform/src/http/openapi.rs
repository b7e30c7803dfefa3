//! Generates the OpenAPI 3.1 document from the handlers, and adds the parts that all operations have in
//! common.

use std::sync::{Mutex, PoisonError};
use std::{ptr, thread};

use bytes::Bytes;
use http::{Method, StatusCode};
use kith_kernel::{Cursor, ProblemCode, Timestamp, UserId, problems};
use serde_json::Value;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::{Components, Schema};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, LicenseBuilder, OpenApi, Ref, RefOr, ResponseBuilder, Server};
use utoipa::{PartialSchema, ToSchema};

use super::RateClass;
use super::deprecated_paths::SAME_AS;
use super::openapi_value;
pub use super::operations::operations;
use super::operations::operations_of;
use super::problem::{FieldErrorBody, PROBLEM_JSON, ProblemBody};
use super::route_policy::{RoutePolicy, is_secret, policy_words, remove_extensions};
use super::tags;
use crate::auth::USER_ONLY_PERMISSIONS;
use crate::idempotency;
use crate::module::Module;

/// Security scheme with access tokens. Operations name it: `security(("bearer" = []))`.
const BEARER: &str = "bearer";
/// Security scheme with API keys. It is added to operations that accept API keys.
const API_KEY: &str = "api_key";
const PROBLEM: &str = "ProblemBody";
const FIELD_ERROR: &str = "FieldErrorBody";

/// One operation of the OpenAPI document.
#[derive(Clone, Debug)]
pub struct OperationName {
    /// HTTP method.
    pub method: Method,
    /// Path template, with parameters in braces.
    pub template: String,
    /// New path, if this path is deprecated; `None` otherwise.
    pub same_as: Option<String>,
    /// Rate limit and secrecy of the operation.
    pub policy: RoutePolicy,
}

/// OpenAPI document that this process has built.
struct BuiltDocument {
    /// Addresses in memory of the modules that the document describes.
    modules: Vec<usize>,
    json: &'static str,
    operations: Vec<OperationName>,
}

/// Cache of [`document_with_operations`]. The result depends only on compiled code, so a test process that
/// starts a thousand servers builds it only once.
static BUILT_DOCUMENTS: Mutex<Vec<BuiltDocument>> = Mutex::new(Vec::new());

/// Returns the OpenAPI document of `modules` as JSON, and its operations. The document is built once per
/// process and set of modules.
pub fn document_with_operations(modules: &[&'static Module]) -> (&'static str, Vec<OperationName>) {
    let addresses: Vec<_> = modules.iter().map(|module| ptr::from_ref(*module).addr()).collect();
    let mut built = BUILT_DOCUMENTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = built.iter().find(|known| known.modules == addresses) {
        return (known.json, known.operations.clone());
    }
    let (json, operations) = build(modules);
    let json = Box::leak(json.into_boxed_str());
    built.push(BuiltDocument { modules: addresses, json, operations: operations.clone() });
    (json, operations)
}

/// Builds the document. This allocates about ten megabytes in small blocks. A separate thread allocates and
/// frees them, so that the allocator returns the memory to the system. The results are written to buffers
/// that were allocated before.
fn build(modules: &[&'static Module]) -> (String, Vec<OperationName>) {
    let (mut json, mut lines) = (Vec::with_capacity(2 << 20), String::with_capacity(64 << 10));
    let build = || {
        let mut document = with_policies(modules);
        for (template, method, operation) in operations(&document) {
            let same_as = operation.extensions.as_ref().and_then(|all| all.get(SAME_AS)?.as_str());
            // Neither paths nor methods contain spaces.
            let [rate, secret] = policy_words(operation);
            let same_as = same_as.unwrap_or_default();
            lines.extend([method.as_str(), " ", template, " ", same_as, " ", rate, " ", secret, "\n"]);
        }
        remove_policies(&mut document);
        serde_json::to_writer(&mut json, &to_value(&document)).expect("values can be written");
    };
    thread::scope(|scope| scope.spawn(build).join().expect("the document can be built"));
    json.shrink_to_fit();
    let classes = RateClass::all(modules);
    let name = |line: &str| {
        let mut parts = line.split(' ');
        let (method, template, same_as) = (parts.next()?, parts.next()?, parts.next()?);
        let same_as = Some(same_as.to_owned()).filter(|path| !path.is_empty());
        let policy = RoutePolicy::parse(parts.next()?, parts.next()?, &classes);
        Some(OperationName { method: method.parse().ok()?, template: template.to_owned(), same_as, policy })
    };
    let names = lines.lines().filter_map(name).collect();
    (String::from_utf8(json).expect("JSON is UTF-8"), names)
}

/// Returns the OpenAPI document of `modules`.
pub fn document(modules: &[&Module]) -> OpenApi {
    let mut document = with_policies(modules);
    remove_policies(&mut document);
    document
}

fn remove_policies(document: &mut OpenApi) {
    let items = document.paths.paths.values_mut();
    items.flat_map(operations_of).for_each(|(_, operation)| remove_extensions(operation));
}

/// Returns the OpenAPI document of `modules`, with route policies as extensions.
fn with_policies(modules: &[&Module]) -> OpenApi {
    let mut all = super::routes(&[]).into_openapi();
    for (index, module) in modules.iter().enumerate() {
        let mut own = (module.routes)().into_openapi();
        for (order, (path, item)) in own.paths.paths.iter_mut().enumerate() {
            item.get.as_mut().into_iter().for_each(add_not_modified);
            for (method, operation) in operations_of(item) {
                tags::tag(operation, module, path, index * 1_000 + order);
                operation.operation_id = operation.operation_id.take().map(|name| camel_case(&name));
                if !method.is_safe() {
                    idempotency::declare(operation);
                }
                add_api_keys(operation);
                complete_refusals(operation);
                add_common_problems(operation);
                describe(operation);
            }
        }
        all.merge(own);
    }
    all.info = InfoBuilder::new()
        .title("Kith")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The self-hosted backend for apps that connect people."))
        .license(Some(
            LicenseBuilder::new().name("Apache-2.0 OR MIT").identifier(Some("Apache-2.0 OR MIT")).build(),
        ))
        .build();
    all.servers = Some(vec![Server::new("/")]);
    tags::describe_tags(&mut all, modules);
    add_components(all.components.get_or_insert_default(), modules);
    all
}

/// Returns the document as the JSON text that is served.
pub fn to_json(document: &OpenApi) -> Bytes {
    to_value(document).to_string().into()
}

/// Returns the document as the JSON value that is served.
pub fn to_value(document: &OpenApi) -> Value {
    openapi_value::to_value(document)
}

/// Converts the name of a handler to an operation id: `accept_partner_request` to
/// `acceptPartnerRequest`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut characters = word.chars();
        camel.extend(characters.next().map(|first| first.to_ascii_uppercase()));
        camel += characters.as_str();
    }
    camel
}

/// Documents the 304 response of reads that have an ETag.
fn add_not_modified(operation: &mut Operation) {
    let is_secret = is_secret(operation);
    let Some(RefOr::T(answer)) = operation.responses.responses.get("200") else { return };
    if answer.content.contains_key("application/json") && !is_secret {
        let response =
            ResponseBuilder::new().description("Not modified: `If-None-Match` matches the ETag.").build();
        operation.responses.responses.insert("304".to_owned(), RefOr::T(response));
    }
}

/// Adds the problem body to each error response without a body. Handlers then declare only a status and a
/// description.
fn complete_refusals(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with(['4', '5'])
            && response.content.is_empty()
        {
            response.content.insert(PROBLEM_JSON.to_owned(), problem_content());
        }
    }
}

/// Documents the problems that every operation with this authentication, body and parameters can return.
/// Problems that the operation itself documents are not changed.
fn add_common_problems(operation: &mut Operation) {
    // Every request can have a body that is too large.
    let mut common = vec![&problems::TOO_LARGE, &problems::INTERNAL, &problems::UNAVAILABLE];
    if policy_words(operation)[0] != RateClass::EXEMPT.name {
        common.push(&problems::RATE_LIMITED);
    }
    if operation.request_body.is_some() {
        common.extend([
            &problems::MALFORMED,
            &problems::REQUEST_TIMEOUT,
            &problems::UNSUPPORTED_MEDIA_TYPE,
            &problems::VALIDATION_FAILED,
        ]);
    }
    if operation.security.is_some() {
        common.push(&problems::UNAUTHENTICATED);
        // The caller lacks the permission, or the operation does not accept API keys.
        common.push(&problems::FORBIDDEN);
    }
    if has_parameter(operation, &ParameterIn::Query) {
        common.push(&problems::MALFORMED);
    }
    if has_parameter(operation, &ParameterIn::Path) {
        common.push(&problems::NOT_FOUND);
    }
    common.into_iter().for_each(|problem| add_problem(operation, problem));
}

/// Adds descriptions to responses that have none, because OpenAPI 3.1 requires them.
fn describe(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            let status = status.parse::<StatusCode>().ok();
            let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("Other");
            reason.clone_into(&mut response.description);
        }
    }
}

/// Documents that an operation can return `problem`. If the operation itself describes this status, that
/// description is kept.
pub(crate) fn add_problem(operation: &mut Operation, problem: &ProblemCode) {
    let declared = operation.responses.responses.entry(problem.status.to_string());
    let declared = declared.or_insert_with(|| RefOr::T(ResponseBuilder::new().build()));
    if let RefOr::T(response) = declared {
        let is_ours = response.description.is_empty() || response.description.starts_with('`');
        if is_ours && !response.description.contains(&format!("`{}`", problem.code)) {
            let separator = if response.description.is_empty() { "" } else { ", " };
            response.description += &format!("{separator}`{}`", problem.code);
        }
        response.content.entry(PROBLEM_JSON.to_owned()).or_insert_with(problem_content);
    }
}

/// Documents that an operation with permissions accepts API keys, unless API keys cannot have one of the
/// permissions.
fn add_api_keys(operation: &mut Operation) {
    let permissions = permissions(operation);
    let for_people = permissions.iter().any(|permission| USER_ONLY_PERMISSIONS.contains(&&**permission));
    if !permissions.is_empty() && !for_people {
        operation.security.get_or_insert_default().push(SecurityRequirement::new(API_KEY, permissions));
    }
}

/// Returns the permissions that an operation requires: `security(("bearer" = ["users.read"]))`.
fn permissions(operation: &Operation) -> Vec<String> {
    let required = serde_json::to_value(&operation.security).expect("the text is plain");
    let schemes =
        required.as_array().into_iter().flatten().filter_map(|schemes| schemes.get(BEARER)?.as_array());
    schemes.flatten().filter_map(|permission| permission.as_str()).map(str::to_owned).collect()
}

fn has_parameter(operation: &Operation, place: &ParameterIn) -> bool {
    operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == *place,
        RefOr::Ref(_) => false,
    })
}

fn problem_content() -> RefOr<Content> {
    Content::new(Some(Ref::from_schema_name(PROBLEM))).into()
}

fn add_components(components: &mut Components, modules: &[&Module]) {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("Access token of a user whose role has the listed permissions."));
    let api_key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("kith_[0-9a-v]{26}_[0-9a-v]{58}")
        .description(Some("API key with the listed permissions as scopes: `Authorization: Bearer kith_…`."));
    for (name, scheme) in [(BEARER, bearer), (API_KEY, api_key)] {
        components.security_schemes.insert(name.to_owned(), RefOr::T(SecurityScheme::Http(scheme.build())));
    }
    // Parameters refer to these schemas, but utoipa does not add them to the document.
    for (name, schema) in [
        (Timestamp::name(), Timestamp::schema()),
        (UserId::name(), UserId::schema()),
        (Cursor::name(), Cursor::schema()),
    ] {
        components.schemas.insert(name.into_owned(), schema);
    }
    components.schemas.insert(FIELD_ERROR.to_owned(), FieldErrorBody::schema());
    let mut body = ProblemBody::schema();
    add_problem_codes(&mut body, modules);
    components.schemas.insert(PROBLEM.to_owned(), body);
}

/// Documents the problem codes of `modules` as the allowed values of `code`.
fn add_problem_codes(body: &mut RefOr<Schema>, modules: &[&Module]) {
    let RefOr::T(Schema::Object(body)) = body else { return };
    let Some(RefOr::T(Schema::Object(code))) = body.properties.get_mut("code") else { return };
    let mut codes: Vec<_> =
        modules.iter().flat_map(|module| module.problems).map(|problem| problem.code).collect();
    codes.sort_unstable();
    codes.dedup();
    code.enum_values = Some(codes.into_iter().map(Into::into).collect());
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::MODULE;

    #[test]
    fn operations_document_id_success_and_problems() {
        let document = document(&[&MODULE]);
        let mut names = HashSet::new();
        for (path, method, operation) in operations(&document) {
            let name = operation.operation_id.as_deref().unwrap_or_default();
            assert!(!name.is_empty() && names.insert(name), "{method} {path}: operationId {name:?}");
            let statuses: Vec<_> = operation.responses.responses.keys().map(String::as_str).collect();
            assert!(
                statuses.iter().any(|status| status.starts_with(['2', '3'])),
                "{method} {path}: {statuses:?}"
            );
            let described = |response: &RefOr<utoipa::openapi::Response>| match response {
                RefOr::T(response) => !response.description.is_empty(),
                RefOr::Ref(_) => true,
            };
            assert!(operation.responses.responses.values().all(described), "{method} {path}");
            for status in ["413", "500", "503"] {
                assert!(statuses.contains(&status), "{method} {path}: {statuses:?}");
            }
        }
        assert!(names.contains("ping"), "{names:?}");
    }

    #[test]
    fn documented_status_can_also_be_a_problem() {
        let json: Value = serde_json::from_slice(&to_json(&document(&[&MODULE]))).unwrap();
        let unavailable = &json["paths"]["/readyz"]["get"]["responses"]["503"];
        let kinds: Vec<_> = unavailable["content"].as_object().unwrap().keys().collect();
        assert_eq!(kinds, ["application/health+json", PROBLEM_JSON]);
        assert_eq!(unavailable["description"], "The server is not ready.");
    }

    #[test]
    fn document_lists_problem_codes() {
        let json: Value = serde_json::from_slice(&to_json(&document(&[&MODULE]))).unwrap();
        assert_eq!(json["openapi"], "3.1.0");
        let codes =
            json["components"]["schemas"]["ProblemBody"]["properties"]["code"]["enum"].as_array().unwrap();
        for problem in problems::ALL {
            assert!(codes.iter().any(|code| code == problem.code), "{}", problem.code);
        }
        assert_eq!(json["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    }
}
