//! Tokens: made, listed, ended. Their secrets are shown once.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use pinrail_model::ids::TokenId;
use pinrail_model::names::ProjectName;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::extract::{At, Body, Caller, Parameters, short_text};
use super::idempotency::NotKept;
use super::page::PageQuery;
use crate::app::App;
use crate::problem::Problem;
use crate::tokens::Role;
use crate::views::{self, NewToken, Page, Token};

pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::default().routes(routes!(tokens, create_token)).routes(routes!(revoke_token))
}

/// Lists the tokens that the caller may end, oldest first.
#[utoipa::path(
    get, path = "/tokens", tag = "tokens", security(("token" = ["admin"])), params(PageQuery),
    responses((status = 200, description = "A page of tokens, without their secrets", body = Page<Token>)),
)]
async fn tokens(
    State(app): Shared,
    Caller(caller): Caller,
    Parameters(query): Parameters<PageQuery>,
) -> Result<Json<Page<Token>>, Problem> {
    let wanted = query.of("tokens")?;
    let items = app.tokens(&caller).await?.into_iter().map(views::token).collect::<Result<_, _>>()?;
    Ok(Json(wanted.page(items, |token| token.id.to_string())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    /// For people: whom it is for.
    name: String,
    /// The one project that it is for; none: every project.
    #[serde(default)]
    project: Option<ProjectName>,
    role: Role,
    /// None: until it is revoked.
    #[serde(default)]
    expires_in_seconds: Option<u64>,
}

/// Makes a token, with no more rights than the caller's.
#[utoipa::path(
    post, path = "/tokens", tag = "tokens", security(("token" = ["admin"])),
    request_body(content = TokenBody, example = json!({"name": "ci", "project": "flights", "role": "operator"})),
    responses((status = 201, description = "The token with its secret, which is shown this once", body = NewToken)),
    extensions(("x-codes" = json!(["project-not-found"]))),
)]
async fn create_token(
    State(app): Shared,
    Caller(caller): Caller,
    Body(body): Body<TokenBody>,
) -> Result<(StatusCode, Extension<NotKept>, Json<NewToken>), Problem> {
    let lives = body.expires_in_seconds.map(Duration::from_secs);
    let name = short_text("/name", body.name)?;
    let (row, token) = app.create_token(&caller, &name, body.project, body.role, lives).await?;
    let made = views::token(row)?;
    let view = NewToken {
        id: made.id,
        name: made.name,
        project: made.project,
        role: made.role,
        expires_at: made.expires_at,
        token,
    };
    Ok((StatusCode::CREATED, Extension(NotKept("holds a secret")), Json(view)))
}

/// Ends a token.
#[utoipa::path(
    post, path = "/tokens/{id}/revoke", tag = "tokens", security(("token" = ["admin"])),
    params(("id" = TokenId, Path)),
    responses((status = 204, description = "It has ended")),
    extensions(("x-codes" = json!(["token-not-found"]))),
)]
async fn revoke_token(State(app): Shared, Caller(caller): Caller, At(id): At<TokenId>) -> Result<StatusCode, Problem> {
    app.revoke_token(&caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
