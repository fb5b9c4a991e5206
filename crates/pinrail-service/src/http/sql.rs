//! Tables, and SQL beside workflows.

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use futures::{StreamExt, stream};
use pinrail_model::document::Sha;
use pinrail_model::fault::Fault;
use pinrail_model::ids::QueryId;
use pinrail_model::names::{ProjectName, TargetName};
use pinrail_model::seam::lake::{Checked, Column, LakeError, ResultFormat, ResultSink, TableInfo};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters};
use super::page::PageQuery;
use super::runs::checked_wait;
use crate::app::App;
use crate::problem::Problem;
use crate::queries::AdHoc;
use crate::render::RenderRequest;
use crate::views::Page;

/// Chunks of a result that wait for a slow reader.
const CHUNKS: usize = 4;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default()
        .routes(routes!(tables))
        .routes(routes!(begin_query))
        .routes(routes!(queries))
        .routes(routes!(query))
        .routes(routes!(cancel_query))
        .routes(routes!(query_result))
        .routes(routes!(render))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct TablesQuery {
    /// The bundle that declares the targets; none: those that are deployed to.
    bundle: Option<Sha>,
    /// Whose tables; none: the usual target of the bundle, or the only one that is deployed to.
    target: Option<TargetName>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Tables at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Lists the tables of a project, by name; with targets those that one of them sees.
#[utoipa::path(
    get, path = "/projects/{project}/tables", tag = "sql", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), TablesQuery),
    responses((status = 200, description = "A page of tables", body = Page<TableInfo>)),
    extensions(("x-codes" = json!([
        "bad-bundle", "bad-parameter", "bad-sql", "definition-errors", "engine-missing", "target-not-found",
    ]))),
)]
async fn tables(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<TablesQuery>,
) -> Result<Json<Page<TableInfo>>, Problem> {
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit }.of("tables")?;
    let target = (query.bundle, query.target.as_ref());
    Ok(Json(wanted.page(app.tables(&caller, &project, target).await?, |table| table.table.to_string())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QueryBody {
    /// One or more statements, each of which commits by itself. The rows of the last one are the result.
    sql: String,
    /// The bundle whose files the statements may read; none: the deployed one.
    #[serde(default)]
    bundle: Option<Sha>,
    /// Whose tables it sees; none: the usual target of the bundle, or the only one that is deployed to.
    #[serde(default)]
    target: Option<TargetName>,
    /// Seconds to wait for the end before the answer.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 60)]
    wait: u64,
}

/// Runs SQL statements beside workflows.
#[utoipa::path(
    post, path = "/projects/{project}/queries", tag = "sql", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = QueryBody, example = json!({"sql": "select 1 as one", "wait": 60})),
    responses((status = 201, description = "The query", body = AdHoc, headers(("Location", description = "Its path")))),
    extensions(("x-codes" = json!(["bad-bundle", "bad-parameter", "definition-errors", "engine-missing", "target-not-found"]))),
)]
async fn begin_query(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<QueryBody>,
) -> Result<Response, Problem> {
    let wait = checked_wait(body.wait)?;
    let begun = app.begin_query(&caller, &project, body.sql, (body.bundle, body.target.as_ref())).await?;
    let query = if wait.is_zero() { begun } else { app.wait_query(&caller, begun.id, wait).await? };
    let location = format!("/api/v1/queries/{}", query.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(query)).into_response())
}

/// Lists the queries of a project, newest first.
#[utoipa::path(
    get, path = "/projects/{project}/queries", tag = "sql", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), PageQuery),
    responses((status = 200, description = "A page of queries", body = Page<AdHoc>)),
)]
async fn queries(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<AdHoc>>, Problem> {
    let wanted = query.of("queries")?;
    let one_more = u32::try_from(wanted.limit + 1).unwrap_or(u32::MAX);
    let found = app.list_queries(&caller, &project, wanted.after()?, one_more).await?;
    Ok(Json(wanted.cut(found, |query| query.id.to_string())))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// Seconds to wait for the query's end. Then it is answered as it is.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u64>,
}

/// Reads a query.
#[utoipa::path(
    get, path = "/queries/{id}", tag = "sql", security(("token" = ["viewer"])),
    params(("id" = QueryId, Path), WaitQuery),
    responses((status = 200, description = "The query", body = AdHoc)),
)]
async fn query(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<QueryId>,
    Parameters(parameters): Parameters<WaitQuery>,
) -> Result<Json<AdHoc>, Problem> {
    let wait = checked_wait(parameters.wait.unwrap_or(0))?;
    app.wait_query(&caller, id, wait).await.map(Json)
}

/// Ends a query. Statements that it has finished stay; the one under way leaves nothing.
#[utoipa::path(
    post, path = "/queries/{id}/cancel", tag = "sql", security(("token" = ["operator"])),
    params(("id" = QueryId, Path)),
    responses((status = 200, description = "The query", body = AdHoc)),
    extensions(("x-codes" = json!(["wrong-state"]))),
)]
async fn cancel_query(State(app): Shared, Caller(caller): Caller, At(id): At<QueryId>) -> Result<Json<AdHoc>, Problem> {
    app.cancel_query(&caller, id).await.map(Json)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ResultQuery {
    /// None: `json`.
    #[param(inline)]
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

/// Sends chunks to the response as they are made.
struct Passed(mpsc::Sender<Result<Bytes, std::io::Error>>);

#[async_trait]
impl ResultSink for Passed {
    async fn chunk(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        let gone = |_| LakeError::new("reader-gone", Fault::User, "nobody takes the result");
        self.0.send(Ok(bytes.into())).await.map_err(gone)
    }
}

/// Sends the result of a query that has succeeded, as often as it is asked for while it is kept.
#[utoipa::path(
    get, path = "/queries/{id}/result", tag = "sql", security(("token" = ["viewer"])),
    params(("id" = QueryId, Path), ResultQuery),
    responses((
        status = 200, description = "Rows, in the format that was asked for",
        content((Rows = "application/json"), (String = "text/csv"), (String = "application/vnd.apache.arrow.stream")),
    )),
    extensions(("x-codes" = json!(["bad-sql", "engine-missing", "result-gone", "wrong-state"]))),
)]
async fn query_result(
    State(app): Shared,
    Caller(caller): Caller,
    At(id): At<QueryId>,
    Parameters(query): Parameters<ResultQuery>,
) -> Result<Response, Problem> {
    let format = query.format.unwrap_or(ResultFormat::Json);
    let kind = match format {
        ResultFormat::Json => "application/json",
        ResultFormat::Csv => "text/csv",
        ResultFormat::Arrow => "application/vnd.apache.arrow.stream",
    };
    let (chunks, mut made) = mpsc::channel(CHUNKS);
    let work = tokio::spawn(async move {
        let broken = chunks.clone();
        let sent = app.query_result(&caller, id, format, &mut Passed(chunks)).await;
        // After the first byte, only a connection that breaks can say that something is missing.
        if let Err(problem) = &sent {
            let _ = broken.send(Err(std::io::Error::other(problem.detail.clone()))).await;
        }
        sent
    });
    match made.recv().await {
        Some(Ok(first)) => {
            let next = |mut made: mpsc::Receiver<_>| async move { made.recv().await.map(|chunk| (chunk, made)) };
            let begun = stream::once(async { Ok(first) });
            let body = HttpBody::from_stream(begun.chain(stream::unfold(made, next)));
            Ok(([(header::CONTENT_TYPE, kind)], body).into_response())
        }
        _ => Err(match work.await {
            Ok(Err(problem)) => problem,
            _ => Problem::new("internal", "the result could not be sent"),
        }),
    }
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
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!([
        "bad-parameter", "bad-sql", "engine-missing", "file-not-found", "job-not-found", "target-not-found",
        "workflow-not-found",
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
