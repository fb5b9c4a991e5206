//! Tables and SQL.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body as HttpBody;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use pinrail_model::document::Sha;
use pinrail_model::names::ProjectName;
use pinrail_model::seam::lake::{Checked, Column, LakeError, ResultFormat, ResultSink, TableInfo};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters};
use super::page::PageQuery;
use crate::app::App;
use crate::problem::Problem;
use crate::render::RenderRequest;
use crate::views::Page;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(tables)).routes(routes!(query)).routes(routes!(render))
}

/// Lists the tables of a project, by name.
#[utoipa::path(
    get, path = "/projects/{project}/tables", tag = "sql", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of tables", body = Page<TableInfo>)),
    extensions(("x-codes" = json!(["bad-sql", "engine-missing"]))),
)]
async fn tables(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<TableInfo>>, Problem> {
    let wanted = query.of("tables")?;
    Ok(Json(wanted.page(app.tables(&caller, &project).await?, |table| table.table.to_string())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QueryBody {
    sql: String,
    /// The bundle whose files the statements may read; none: the deployed one.
    #[serde(default)]
    bundle: Option<Sha>,
    /// None: `json`.
    #[serde(default)]
    format: Option<ResultFormat>,
}

/// The rows of the last statement.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the engine writes this shape itself; it stands here for the document")]
struct Rows {
    columns: Vec<Column>,
    /// One list of values for each row, in the order of the columns.
    rows: Vec<Vec<Value>>,
}

struct Whole(Vec<u8>);

#[async_trait]
impl ResultSink for Whole {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        self.0.extend(bytes);
        Ok(())
    }
}

/// Runs SQL statements, each committing by itself, and answers with the rows of the last one.
#[utoipa::path(
    post, path = "/projects/{project}/queries", tag = "sql", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = QueryBody, example = json!({"sql": "select 1 as one"})),
    responses((
        status = 200, description = "Rows, in the format that was asked for",
        content((Rows = "application/json"), (String = "text/csv"), (String = "application/vnd.apache.arrow.stream")),
    )),
    extensions(("x-codes" = json!(["bad-bundle", "bad-sql", "definition-errors", "engine-missing"]))),
)]
async fn query(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<QueryBody>,
) -> Result<Response, Problem> {
    let format = body.format.unwrap_or(ResultFormat::Json);
    let mut whole = Whole(Vec::new());
    let done = app.sql(&caller, &project, body.sql, body.bundle, format, &mut whole).await?;
    let kind = match format {
        ResultFormat::Json => "application/json",
        ResultFormat::Csv => "text/csv",
        ResultFormat::Arrow => "application/vnd.apache.arrow.stream",
    };
    let bytes = if whole.0.is_empty() && format == ResultFormat::Json {
        serde_json::to_vec(&json!({"columns": done.columns, "rows": []})).unwrap_or_default()
    } else {
        whole.0
    };
    Ok(([(header::CONTENT_TYPE, kind)], HttpBody::from(bytes)).into_response())
}

/// Fills in the templates of a job's or a file's SQL and checks it, without running it.
#[utoipa::path(
    post, path = "/projects/{project}/render", tag = "sql", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = RenderRequest, example = json!({
        "bundle": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "job": "daily_delays", "at": "2013-01-01",
    })),
    responses((status = 200, description = "The text as it would run, and what it would do", body = Checked)),
    extensions(("x-codes" = json!([
        "bad-bundle", "bad-parameter", "bad-sql", "compile-failed", "definition-errors", "engine-missing",
        "file-not-found", "interpreter-failed", "job-not-found", "workflow-not-found",
    ]))),
)]
async fn render(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<RenderRequest>,
) -> Result<Json<Checked>, Problem> {
    Ok(Json(app.render(&caller, &project, body).await?))
}
