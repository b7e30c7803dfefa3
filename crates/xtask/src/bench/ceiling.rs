//! First ceiling: a bare axum server on one thread that only answers 204.

use std::env;

use anyhow::Result;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::kith::{Kith, on_core, spawn};

/// Path that both ceilings serve.
pub const PING: &str = "/api/v1/ping";

/// Serves until the process is killed. Prints its address in the same form as Kith.
pub fn serve() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let router = Router::new().route(PING, get(|| async { StatusCode::NO_CONTENT }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("http://{}", listener.local_addr()?);
        Ok(axum::serve(listener, router).await?)
    })
}

/// Starts the ceiling as a separate process on `core`.
pub fn start(core: u32) -> Result<Kith> {
    let mut command = on_core(Some(core), &env::current_exe()?);
    command.arg("ceiling");
    spawn(command)
}
