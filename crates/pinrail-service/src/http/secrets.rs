//! Secrets over HTTP: names and who set them go out, values only come in.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use pinrail_model::names::{ProjectName, SecretName};
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters};
use super::page::PageQuery;
use crate::app::App;
use crate::problem::Problem;
use crate::secrets::secret_not_found;
use crate::tokens::Role;
use crate::views::{self, Page, Secret};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(secrets)).routes(routes!(set_secret, drop_secret))
}

/// Lists the secrets of a project, by name, without their values.
#[utoipa::path(
    get, path = "/projects/{project}/secrets", tag = "secrets", security(("token" = ["developer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of secrets", body = Page<Secret>)),
)]
async fn secrets(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<Secret>>, Problem> {
    let wanted = query.of("secrets")?;
    let rows = app.secrets(&caller, &project).await?;
    let items = rows.iter().map(|(row, opens)| views::secret(row, *opens)).collect();
    Ok(Json(wanted.page(items, |secret: &Secret| secret.name.to_string())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecretBody {
    /// Never shown again.
    #[serde(deserialize_with = "text")]
    value: String,
}

/// A text, or an error that does not quote what came instead.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(serde::de::Error::custom("the value of a secret is a text")),
    }
}

/// Sets a secret, or replaces its value.
#[utoipa::path(
    put, path = "/projects/{project}/secrets/{name}", tag = "secrets", security(("token" = ["developer"])),
    params(("project" = ProjectName, Path), ("name" = SecretName, Path)),
    request_body(content = SecretBody, example = json!({"value": "correct horse battery"})),
    responses((status = 200, description = "The secret, without its value", body = Secret)),
    extensions(("x-codes" = json!(["bad-secret", "name-taken", "project-refused"]))),
)]
async fn set_secret(
    State(app): Shared,
    Caller(caller): Caller,
    At((project, name)): At<(ProjectName, String)>,
    Body(body): Body<SecretBody>,
) -> Result<Json<Secret>, Problem> {
    caller.may(Role::Developer, &project)?;
    let name: SecretName = name.parse().map_err(|e| Problem::new("bad-secret", format!("{e}")))?;
    let row = app.set_secret(&caller, &project, name, body.value).await?;
    Ok(Json(views::secret(&row, true)))
}

/// Removes a secret.
#[utoipa::path(
    delete, path = "/projects/{project}/secrets/{name}", tag = "secrets", security(("token" = ["developer"])),
    params(("project" = ProjectName, Path), ("name" = SecretName, Path)),
    responses((status = 204, description = "It is gone")),
    extensions(("x-codes" = json!(["secret-not-found"]))),
)]
async fn drop_secret(
    State(app): Shared,
    Caller(caller): Caller,
    At((project, name)): At<(ProjectName, String)>,
) -> Result<StatusCode, Problem> {
    caller.may(Role::Developer, &project)?;
    // A name that cannot be one is not set either.
    let shown: String = name.chars().take(80).collect();
    let name: SecretName = name.parse().map_err(|_| secret_not_found(&shown, &project))?;
    app.drop_secret(&caller, &project, name).await?;
    Ok(StatusCode::NO_CONTENT)
}
