//! Projects: bundles of their files, what these compile to, what is deployed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use pinrail_model::document::Sha;
use pinrail_model::names::{ProjectName, TargetName};
use pinrail_model::seam::store::{BundleFile, ProjectRow};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Bytes, Caller, Parameters};
use super::page::PageQuery;
use crate::app::{App, Deployed};
use crate::bundles::Manifest;
use crate::compile::Compiled;
use crate::problem::Problem;
use crate::views::{self, Page};

/// A digest for examples: that of no bytes.
const EXAMPLE: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(projects))
        .routes(routes!(announce_bundle))
        .routes(routes!(put_blob))
        .routes(routes!(compile))
        .routes(routes!(deploy))
        .routes(routes!(workflows))
}

/// Lists the projects that the token can see, by name.
#[utoipa::path(
    get, path = "/projects", tag = "projects", security(("token" = ["viewer"])), params(PageQuery),
    responses((status = 200, description = "A page of projects", body = Page<ProjectRow>)),
)]
async fn projects(
    State(app): Shared,
    Caller(caller): Caller,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<ProjectRow>>, Problem> {
    let wanted = query.of("projects")?;
    Ok(Json(wanted.page(app.projects(&caller).await?, |project| project.name.to_string())))
}

/// The files of a project as they are now.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BundleBody {
    /// By path, relative to the project's folder.
    #[schema(value_type = BTreeMap<String, BundleFile>)]
    files: Manifest,
    /// The project's folder, for a server that shares its disk.
    #[serde(default)]
    folder: Option<String>,
}

/// What became of a bundle.
#[derive(Serialize, ToSchema)]
struct Announced {
    /// The digest of the bundle.
    sha: Sha,
    /// Files that are still to be sent; while there are any, the bundle is not known.
    missing: Vec<Sha>,
}

/// Makes a bundle of files.
///
/// Answers which of them the server does not have. Send those with `PUT .../blobs/{sha}`, then ask again.
#[utoipa::path(
    post, path = "/projects/{project}/bundles", tag = "projects", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = BundleBody, example = json!({"files": {"jobs/a.py": {"sha": EXAMPLE, "size": 0}}})),
    responses((status = 200, description = "What became of it", body = Announced)),
    extensions(("x-codes" = json!(["bad-bundle", "project-refused"]))),
)]
async fn announce_bundle(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<BundleBody>,
) -> Result<Json<Announced>, Problem> {
    let (sha, missing) = app.announce_bundle(&caller, &project, body.files, body.folder).await?;
    Ok(Json(Announced { sha, missing }))
}

/// Sends the bytes of one file.
#[utoipa::path(
    put, path = "/projects/{project}/blobs/{sha}", tag = "projects", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path), ("sha" = Sha, Path, description = "The SHA-256 of the bytes")),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 204, description = "They are kept")),
    extensions(("x-codes" = json!(["bad-bundle"]))),
)]
async fn put_blob(
    State(app): Shared,
    Caller(caller): Caller,
    At((project, sha)): At<(ProjectName, Sha)>,
    Bytes(bytes): Bytes,
) -> Result<StatusCode, Problem> {
    app.put_blob(&caller, &project, sha, bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CodeBody {
    bundle: Sha,
    /// Whose tables and values the SQL is checked with; none: the usual target, if the project has any.
    #[serde(default)]
    target: Option<TargetName>,
}

/// Compiles the workflow files of a bundle, and checks the SQL of their jobs.
#[utoipa::path(
    post, path = "/projects/{project}/compilations", tag = "projects", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)), request_body(content = CodeBody, example = json!({"bundle": EXAMPLE})),
    responses((status = 200, description = "Good documents and what is wrong", body = Compiled)),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!(["bad-parameter", "target-not-found"]))),
)]
async fn compile(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<CodeBody>,
) -> Result<Json<Compiled>, Problem> {
    app.check(&caller, &project, (body.bundle, body.target.as_ref())).await.map(Json)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeployBody {
    bundle: Sha,
    /// Where they are to be active; none: at the usual target, if the project has any.
    #[serde(default)]
    target: Option<TargetName>,
    /// Only say what it would come to.
    #[serde(default)]
    dry_run: bool,
}

/// Makes the workflows of a bundle the active ones.
#[utoipa::path(
    post, path = "/projects/{project}/deploys", tag = "projects", security(("token" = ["developer"])),
    params(("project" = ProjectName, Path)), request_body(content = DeployBody, example = json!({"bundle": EXAMPLE, "dry_run": true})),
    responses((status = 200, description = "What it came to", body = Deployed)),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!(["bad-parameter", "target-not-found", "target-protected"]))),
)]
async fn deploy(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<DeployBody>,
) -> Result<Json<Deployed>, Problem> {
    app.deploy(&caller, &project, (body.bundle, body.target.as_ref()), body.dry_run).await.map(Json)
}

/// Lists the active workflows of a project, by name and target.
#[utoipa::path(
    get, path = "/projects/{project}/workflows", tag = "projects", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of workflows", body = Page<views::Workflow>)),
)]
async fn workflows(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<views::Workflow>>, Problem> {
    let wanted = query.of("workflows")?;
    let items = app.workflows(&caller, &project).await?.into_iter().map(views::workflow).collect();
    Ok(Json(wanted.page(items, |workflow| {
        format!("{}\0{}", workflow.name, workflow.target.as_ref().map_or("", TargetName::as_str))
    })))
}
