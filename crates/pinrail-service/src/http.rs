//! The HTTP API: extract, authorize, one application function, a typed answer.
//!
//! Each operation is declared once, by the attribute on its handler: path, parameters, bodies, the role it needs
//! (`security`) and the codes of its own problems (`x-codes`). From that come the route and its part of the document;
//! what all operations have in common is added to the document in one place.

mod attempts;
mod backfills;
mod backup;
mod document;
mod environments;
mod extract;
mod idempotency;
mod metrics;
mod notices;
mod once;
mod operations;
mod page;
mod projects;
mod runs;
mod secrets;
mod simulations;
mod sql;
mod stream;
mod tokens;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use pinrail_model::seam::store::{Query, Who};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use document::{document, document_text};

use crate::app::App;
use crate::owner::{Figures, Input};
use crate::problem::{CODES, Problem};
use extract::At;
use idempotency::Keyed;
use metrics::Requests;

type Shared = State<Arc<App>>;

/// All operations, each with its route and its part of the document.
fn operations() -> OpenApiRouter<Arc<App>> {
    let resources = [
        projects::routes(),
        environments::routes(),
        runs::routes(),
        attempts::routes(),
        sql::routes(),
        secrets::routes(),
        notices::routes(),
        tokens::routes(),
        backup::routes(),
        backfills::routes(),
        simulations::routes(),
        operations::routes(),
        workers::routes(),
    ];
    let api = resources.into_iter().fold(OpenApiRouter::default(), OpenApiRouter::merge);
    let api = api.routes(routes!(document::openapi)).layer(from_fn(extract::known_parameters));
    let server = OpenApiRouter::default()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics::metrics))
        .routes(routes!(error_page));
    server.nest("/api/v1", api)
}

/// The whole API.
pub fn router(app: Arc<App>) -> Router {
    let (router, _) = operations().split_for_parts();
    let keyed = from_fn_with_state(Keyed::new(Arc::clone(&app)), idempotency::replay);
    let router = router.route_layer(keyed).fallback(not_found).method_not_allowed_fallback(method_not_allowed);
    let counted = router.layer(from_fn(metrics::count)).layer(Extension(Arc::<Requests>::default()));
    counted.with_state(app)
}

/// Serves the API until the process ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: tokio::net::TcpListener, app: Arc<App>) -> std::io::Result<()> {
    use axum::serve::ListenerExt;
    // Answers are small and wanted at once.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router(app)).await
}

async fn not_found(request: Request) -> Problem {
    let path: String = request.uri().path().chars().take(200).collect();
    Problem::new("route-not-found", format!("there is nothing at \"{path}\"")).hint("The API is below /api/v1.")
}

async fn method_not_allowed(request: Request) -> Problem {
    let problem = Problem::new("method-not-allowed", format!("{} is not allowed here", request.method()));
    let allowed = request.extensions().get::<MatchedPath>().map(|path| document::methods(path.as_str()).join(", "));
    match allowed {
        Some(allowed) => problem.hint(format!("Allowed here: {allowed}.")),
        None => problem,
    }
}

/// Whether the process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "It does", body = String)),
)]
async fn healthz() -> &'static str {
    "ok\n"
}

/// How long the owner of the runs may take to answer. It commits between two inputs, which takes milliseconds.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);

/// Whether requests can be served: the database and the owner of the runs answer.
#[utoipa::path(
    get, path = "/readyz", tag = "server", security(()),
    responses((status = 200, description = "They can", body = String)),
    extensions(("x-codes" = json!(["state-failed", "owner-gone"]))),
)]
async fn readyz(State(app): Shared) -> Result<&'static str, Problem> {
    app.store.read(&Who::default(), Query::Projects).await?;
    figures(&app).await?;
    Ok("ready\n")
}

/// What the owner of the runs has to say.
async fn figures(app: &App) -> Result<Figures, Problem> {
    match tokio::time::timeout(OWNER_PATIENCE, app.owner.ask(Input::Figures)).await {
        Ok(Some(figures)) => Ok(figures),
        Ok(None) => {
            let problem = Problem::new("owner-gone", "the server is stopping");
            Err(problem.hint("Start it again with `pinrail up`; server.log says why it stops."))
        }
        Err(_) => {
            let detail = format!("the owner of the runs has not answered for {} s", OWNER_PATIENCE.as_secs());
            Err(Problem::new("owner-gone", detail).hint("Look at the disk and at the server's log."))
        }
    }
}

/// Explains the code of a problem: where its `type` leads.
#[utoipa::path(
    get, path = "/docs/errors/{code}", tag = "server", security(()),
    params(("code" = String, Path, description = "The code")),
    responses((status = 200, description = "What it means", body = String)),
    extensions(("x-codes" = json!(["route-not-found"]))),
)]
async fn error_page(At(code): At<String>) -> Result<String, Problem> {
    let found = CODES.iter().find(|(known, ..)| *known == code);
    let (code, status, meaning) =
        found.ok_or_else(|| Problem::new("route-not-found", format!("there is no error \"{code}\"")))?;
    Ok(format!("{code} (HTTP status {status})\n\n{meaning}\n"))
}
