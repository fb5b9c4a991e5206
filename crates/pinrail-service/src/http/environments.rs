//! Python environments over HTTP: which a bundle asks for, and which a project has.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use pinrail_model::document::Sha;
use pinrail_model::names::ProjectName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters};
use super::page::PageQuery;
use crate::app::App;
use crate::environments::{KnownEnvironment, WantedEnvironment};
use crate::problem::Problem;
use crate::views::Page;

/// A digest for examples: that of no bytes.
const EXAMPLE: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(environments, want_environments))
}

/// Lists the Python environments that bundles of a project used, the last used first.
#[utoipa::path(
    get, path = "/projects/{project}/environments", tag = "projects", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of environments", body = Page<KnownEnvironment>)),
)]
async fn environments(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<KnownEnvironment>>, Problem> {
    let wanted = query.of("environments")?;
    let items = app.environments(&caller, &project).await?;
    Ok(Json(wanted.page_in_order(items, |environment| environment.digest.to_string())?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WantBody {
    bundle: Sha,
    /// Also one with these extras, whether a job names them or not.
    #[serde(default)]
    extras: Vec<String>,
    /// Builds these of them, if they are not there, and answers when they are.
    #[serde(default)]
    build: Vec<Sha>,
}

/// The environments that a bundle asks for.
#[derive(Serialize, ToSchema)]
struct Wanted {
    /// That of all files of the project first; none without a lock.
    environments: Vec<WantedEnvironment>,
}

/// Says which Python environments a bundle asks for, and builds them if that is wanted.
///
/// Environments with extras are known once the one without is there: the workflow files that name them are imported with it.
#[utoipa::path(
    post, path = "/projects/{project}/environments", tag = "projects", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)), request_body(content = WantBody, example = json!({"bundle": EXAMPLE, "build": [EXAMPLE]})),
    responses((status = 200, description = "The environments", body = Wanted)),
    extensions(("x-compiles" = json!(true))),
)]
async fn want_environments(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<WantBody>,
) -> Result<Json<Wanted>, Problem> {
    let environments = app.wanted_environments(&caller, &project, body.bundle, &body.extras, &body.build).await?;
    Ok(Json(Wanted { environments }))
}
