//! The OpenAPI document: what the handlers declare, and what all operations have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::info::InfoBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ArrayItems, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::{CODES, Problem};

/// The name of the bearer token among the document's security schemes.
const TOKEN: &str = "token";
/// Where a handler lists the codes of its own problems; the finished document has them as responses.
const OWN_CODES: &str = "x-codes";
/// Where a handler says that it compiles workflow files, which has codes of its own.
const COMPILES: &str = "x-compiles";

const DESCRIPTION: &str = "\
Every operation below /api/v1 needs a bearer token; the role that it needs is named beside it (viewer, operator, \
developer, admin: each may do what the earlier ones may). What lies outside of the token's project is not found, in the \
same words as what does not exist. Everything that goes wrong is told as a problem document (RFC 9457) with a stable \
`code`; docs/generated/errors.md lists all of them. Bodies are JSON whatever their content type says.";

/// The document, complete.
pub fn document() -> &'static OpenApi {
    static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| complete(super::operations().into_openapi()));
    &DOCUMENT
}

/// The document as it is committed and served: with sorted keys, so that it is the same in every build.
#[must_use]
pub fn document_text() -> String {
    let value = sorted(serde_json::to_value(document()).unwrap_or_default());
    serde_json::to_string_pretty(&value).unwrap_or_default() + "\n"
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let by_name: BTreeMap<String, Value> = map.into_iter().map(|(name, value)| (name, sorted(value))).collect();
            Value::Object(by_name.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "server", security(()),
    responses((status = 200, description = "The OpenAPI document", body = Object)),
)]
pub(super) async fn openapi() -> impl IntoResponse {
    static TEXT: LazyLock<String> = LazyLock::new(document_text);
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}

/// The methods that a path template has.
pub(super) fn methods(template: &str) -> Vec<&'static str> {
    let Some(item) = document().paths.paths.get(template) else { return Vec::new() };
    operations(item).into_iter().map(|(method, _)| method).collect()
}

/// The query parameters of an operation.
pub(super) fn parameters(method: &str, template: &str) -> Vec<&'static str> {
    let item = document().paths.paths.get(template);
    let operation = item.and_then(|item| operations(item).into_iter().find(|(found, _)| *found == method));
    let declared = operation.and_then(|(_, operation)| operation.parameters.as_deref()).unwrap_or_default();
    let declared = declared.iter().filter_map(|parameter| match parameter {
        RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => Some(parameter.name.as_str()),
        _ => None,
    });
    declared.collect()
}

fn operations(item: &PathItem) -> Vec<(&'static str, &Operation)> {
    let all = [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?))).collect()
}

/// Adds what all operations have in common.
fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Pinrail")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .license(Some(utoipa::openapi::info::License::new("Apache-2.0")))
        .build();
    let components = document.components.get_or_insert_default();
    name_items(&mut components.schemas);
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("Made by `pinrail token create`."));
    components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme.build()));
    for (path, item) in &mut document.paths.paths {
        if let Some(operation) = item.post.as_mut().filter(|operation| role(operation).is_some()) {
            operation.parameters.get_or_insert_default().push(RefOr::T(key_parameter()));
        }
        let all = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
        for operation in all.into_iter().flatten() {
            complete_operation(path, operation);
        }
    }
    document
}

/// What every POST takes.
fn key_parameter() -> Parameter {
    let name = super::idempotency::KEY.as_str();
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .description(Some(
            "A text of your own. The same request with the same key is carried out once, however often it is sent; \
             later ones get the first reply again, with the header `Idempotency-Replayed`.",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).max_length(Some(super::idempotency::LONGEST_KEY))))
        .build()
}

/// Pages repeat what an item looks like; a reference says the same and gives readers a name for it.
fn name_items(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let known = schemas.clone();
    for (name, schema) in schemas {
        let Some(item) = name.strip_prefix("Page_") else { continue };
        if let RefOr::T(Schema::Object(page)) = schema
            && let Some(RefOr::T(Schema::Array(list))) = page.properties.get_mut("items")
            && let ArrayItems::RefOrSchema(found) = &mut list.items
            && known.get(item) == Some(&**found)
        {
            **found = RefOr::Ref(Ref::from_schema_name(item));
        }
    }
}

fn complete_operation(path: &str, operation: &mut Operation) {
    let role = role(operation);
    if let Some(role) = &role {
        let said = operation.description.take().map_or_else(String::new, |said| format!("{said}\n\n"));
        operation.description = Some(format!("{said}Needs the role `{role}`."));
    }
    for (status, codes) in by_status(&codes(path, operation, role.as_deref())) {
        let listed: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes));
        let schema = AllOfBuilder::new()
            .item(Ref::from_schema_name(Problem::name()))
            .item(ObjectBuilder::new().property("code", code));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(listed.join(", ")).content(Problem::MEDIA_TYPE, content);
        operation.responses.responses.insert(status.to_string(), RefOr::T(response.build()));
    }
}

/// The role that an operation needs; none: it needs no token.
fn role(operation: &Operation) -> Option<String> {
    let declared = serde_json::to_value(&operation.security).unwrap_or_default();
    declared[0][TOKEN][0].as_str().map(str::to_owned)
}

/// The codes of all problems that an operation may answer with.
fn codes(path: &str, operation: &mut Operation, role: Option<&str>) -> BTreeSet<String> {
    let mut said = |name| operation.extensions.as_mut().and_then(|extensions| extensions.remove(name));
    let (own, compiles) = (said(OWN_CODES).unwrap_or(json!([])), said(COMPILES).is_some());
    let mut codes: BTreeSet<String> = serde_json::from_value(own).unwrap_or_default();
    let mut add = |more: &[&str]| codes.extend(more.iter().map(|code| (*code).to_owned()));
    if compiles {
        add(crate::compile::CODES);
    }
    let Some(role) = role else { return codes };
    add(&["token-missing", "token-invalid", "unknown-parameter", "state-failed", "internal"]);
    if role != "viewer" {
        add(&["role-too-low"]);
    }
    if path.contains("{project}") {
        add(&["project-not-found"]);
    }
    if path.contains("/runs/{id}") {
        add(&["run-not-found"]);
    }
    if path.contains("/attempts/{id}") {
        add(&["attempt-not-found"]);
    }
    if path.contains("/backfills/{id}") {
        add(&["backfill-not-found"]);
    }
    if path.contains("/queries/{id}") {
        add(&["query-not-found"]);
    }
    if operation.parameters.iter().flatten().any(|p| matches!(p, RefOr::T(p) if *p.name == super::idempotency::KEY)) {
        add(&["idempotency-mismatch", "reply-not-kept", "bad-parameter", "too-large"]);
    }
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    if parameters.iter().any(|p| matches!(p, RefOr::T(p) if p.parameter_in == ParameterIn::Query)) {
        add(&["bad-parameter"]);
    }
    if parameters.iter().any(|p| matches!(p, RefOr::T(p) if p.name == "cursor")) {
        add(&["bad-cursor"]);
    }
    if let Some(RefOr::T(body)) = &operation.request_body {
        add(&["too-large"]);
        if body.content.contains_key("application/json") {
            add(&["bad-json", "bad-request", "unknown-field"]);
        }
    }
    codes
}

fn by_status(codes: &BTreeSet<String>) -> BTreeMap<u16, Vec<&'static str>> {
    let mut statuses: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for (code, status, _) in CODES.iter().filter(|(code, ..)| codes.contains(*code)) {
        statuses.entry(*status).or_default().push(*code);
    }
    statuses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_a_handler_lists_is_known() {
        let mut open = super::super::operations().into_openapi();
        let mut listed = 0;
        for (path, item) in &mut open.paths.paths {
            let all = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
            for operation in all.into_iter().flatten() {
                for code in codes(path, operation, Some("operator")) {
                    assert!(CODES.iter().any(|(known, ..)| *known == code), "{path} lists \"{code}\"");
                    listed += 1;
                }
            }
        }
        assert!(listed > 100, "{listed} codes");
    }
}
