//! Ceiling of the benchmark: a bare axum server on one thread that answers every request with 204.

use std::env;

use anyhow::Result;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::kith::{Kith, on_core, spawn};

/// Path of the request that measures a ceiling. Both the bare server and Kith serve it.
pub const PING: &str = "/api/v1/ping";

/// Runs the server until the process is killed. Prints its address in the same form as Kith does.
pub fn serve() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let router = Router::new().route(PING, get(|| async { StatusCode::NO_CONTENT }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("http://{}", listener.local_addr()?);
        Ok(axum::serve(listener, router).await?)
    })
}

/// Starts this program as a ceiling server in a separate process, pinned to `core`.
pub fn start(core: u32) -> Result<Kith> {
    let mut command = on_core(Some(core), &env::current_exe()?);
    command.arg("ceiling");
    spawn(command)
}
