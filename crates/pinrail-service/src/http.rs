//! The HTTP API: extract, authorize, one application function, a typed answer.

mod backup;
mod extract;
mod routes;
mod secrets;
mod stream;

pub use routes::router;

/// Serves the API until the process ends.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: tokio::net::TcpListener, app: std::sync::Arc<crate::app::App>) -> std::io::Result<()> {
    use axum::serve::ListenerExt;
    // Answers are small and wanted at once.
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router(app)).await
}
