//! Simulations: what the schedules of a project would come to.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Json;
use pinrail_model::names::ProjectName;
use pinrail_model::simulation::Forecast;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller};
use crate::app::App;
use crate::problem::Problem;
use crate::simulate::SimulationRequest;

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(simulate))
}

/// Plays the schedules of a project on a virtual clock. Nothing is run and nothing is kept.
///
/// Each attempt takes as long as it usually does: the median of the latest successful runs.
#[utoipa::path(
    post, path = "/projects/{project}/simulations", tag = "schedules", security(("token" = ["operator"])),
    params(("project" = ProjectName, Path)),
    request_body(content = SimulationRequest, example = json!({"days": 7, "slots": 8})),
    responses((status = 200, description = "What it comes to", body = Forecast)),
    extensions(("x-compiles" = json!(true)), ("x-codes" = json!([
        "bad-parameter", "job-not-found", "owner-gone", "pool-not-found", "target-not-found",
    ]))),
)]
async fn simulate(
    State(app): Shared,
    Caller(caller): Caller,
    At(project): At<ProjectName>,
    Body(body): Body<SimulationRequest>,
) -> Result<Json<Forecast>, Problem> {
    app.simulate(&caller, &project, body).await.map(Json)
}
