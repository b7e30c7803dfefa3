//! The first ceiling: bare axum on one thread that answers 204 and does nothing else.

use std::env;

use anyhow::Result;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::kith::{Kith, on_core, spawn};

/// The path that both ceilings answer on.
pub const PING: &str = "/api/v1/ping";

/// Serves until it is killed; prints its address as Kith does.
pub fn serve() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let router = Router::new().route(PING, get(|| async { StatusCode::NO_CONTENT }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        println!("http://{}", listener.local_addr()?);
        Ok(axum::serve(listener, router).await?)
    })
}

/// Starts it as a process of its own.
pub fn start(core: u32) -> Result<Kith> {
    let mut command = on_core(Some(core), &env::current_exe()?);
    command.arg("ceiling");
    spawn(command)
}
