//! Notices over HTTP: what was told to whom, and a test of each channel.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use pinrail_model::names::{ChannelName, ProjectName};
use pinrail_model::notify::NoticeState;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters};
use super::page::PageQuery;
use crate::app::App;
use crate::notify::{NoticeLine, TestRequest, Tested};
use crate::problem::Problem;
use crate::views::Page;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(notices)).routes(routes!(test_channel))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct NoticesQuery {
    state: Option<NoticeState>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
    /// Notices at most; 50 unless said otherwise.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
}

/// Lists the notices of a project, newest first, with what became of each.
#[utoipa::path(
    get, path = "/projects/{project}/notices", tag = "notices", security(("token" = ["viewer"])),
    params(("project" = ProjectName, Path), NoticesQuery),
    responses((status = 200, description = "A page of notices", body = Page<NoticeLine>)),
)]
async fn notices(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Parameters(query): Parameters<NoticesQuery>,
) -> Result<Json<Page<NoticeLine>>, Problem> {
    let wanted = PageQuery { cursor: query.cursor, limit: query.limit }.of("notices")?;
    let one_more = u32::try_from(wanted.limit + 1).unwrap_or(u32::MAX);
    let found = app.notices(&caller, &project, query.state, wanted.after()?, one_more).await?;
    Ok(Json(wanted.cut(found, |notice: &NoticeLine| notice.id.to_string())))
}

/// Sends a test notice to a channel, now, and answers what its endpoint said.
#[utoipa::path(
    post, path = "/projects/{project}/channels/{channel}/test", tag = "notices", security(("token" = ["developer"])),
    params(("project" = ProjectName, Path), ("channel" = ChannelName, Path)),
    request_body(
        content = TestRequest,
        example = json!({"event": "failure", "channel": {"kind": "chat", "url": "http://127.0.0.1:9/"}}),
    ),
    responses((status = 200, description = "What came of it", body = Tested)),
    extensions(("x-codes" = json!(["bad-channel", "channel-not-found"]))),
)]
async fn test_channel(
    State(app): Shared,
    Caller(caller): Caller,
    At((project, name)): At<(ProjectName, String)>,
    Body(body): Body<TestRequest>,
) -> Result<Json<Tested>, Problem> {
    Ok(Json(app.test_channel(&caller, &project, &name, body).await?))
}
