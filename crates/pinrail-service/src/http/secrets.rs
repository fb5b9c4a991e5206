//! Secrets over HTTP: names and who set them go out, values only come in.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, put};
use pinrail_model::names::{ProjectName, SecretName};
use pinrail_model::seam::store::SecretRow;
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Body, Caller};
use super::routes::project;
use crate::app::App;
use crate::problem::Problem;
use crate::secrets::secret_not_found;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/projects/{project}/secrets", get(list))
        .route("/projects/{project}/secrets/{name}", put(set).delete(remove))
}

fn view(row: &SecretRow, opens: bool) -> Value {
    json!({"name": row.name, "set_at": row.set_at, "set_by": row.set_by, "usable": opens})
}

async fn list(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let rows = app.secrets(&caller, &project(&name)?).await?;
    let items: Vec<Value> = rows.iter().map(|(row, opens)| view(row, *opens)).collect();
    Ok(Json(json!({"items": items, "next": null})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretBody {
    value: String,
}

async fn set(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path((name, secret)): Path<(String, String)>,
    Body(body): Body<SecretBody>,
) -> Result<Json<Value>, Problem> {
    let secret: SecretName = secret.parse().map_err(|e| Problem::new("bad-secret", format!("{e}")))?;
    let row = app.set_secret(&caller, &project(&name)?, secret, body.value).await?;
    Ok(Json(view(&row, true)))
}

async fn remove(
    State(app): State<Arc<App>>,
    Caller(caller): Caller,
    Path((name, secret)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let project: ProjectName = project(&name)?;
    // A name that cannot be one is not set either; the role is checked all the same.
    let shown: String = secret.chars().take(80).collect();
    let Ok(secret) = secret.parse() else {
        caller.may(crate::tokens::Role::Developer, &project)?;
        return Err(secret_not_found(&shown, &project));
    };
    app.drop_secret(&caller, &project, secret).await?;
    Ok(StatusCode::NO_CONTENT)
}
