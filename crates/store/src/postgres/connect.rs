//! Connection to the server that accepts writes, and authentication.

use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls};

use super::failure::describe;
use super::settings::{CONNECT_TIMEOUT, Server, Settings};
use crate::Error;

/// Query that returns the start time of the server in microseconds. It identifies a server, and changes when
/// the server is restarted.
pub(super) const SERVER: &str =
    "SELECT CAST(extract(epoch FROM pg_postmaster_start_time()) * 1000000 AS BIGINT)";

/// Tries the servers in order and connects to the first one that accepts writes. If none does, the error
/// describes the failure of each server.
pub(super) async fn to_first(
    settings: &Settings,
    known: Option<i64>,
    on_notice: impl FnMut(AsyncMessage) + Clone + Send + 'static,
) -> Result<(Client, i64), Error> {
    let mut refusals = Vec::new();
    for server in &settings.servers {
        let sign_in = async {
            match sign_in(server, &settings.session_setup, on_notice.clone()).await {
                Err(error) if known.is_some() && is_read_only(&error) => {
                    let signed_in =
                        sign_in(&server.accepting_read_only(), &settings.session_setup, on_notice.clone())
                            .await?;
                    if Some(signed_in.1) == known { Ok(signed_in) } else { Err(error) }
                }
                tried => tried,
            }
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, sign_in).await {
            Ok(Ok(signed_in)) => return Ok(signed_in),
            Ok(Err(error)) => refusals.push(describe(&error)),
            Err(_) => refusals.push("the server accepts connections but does not respond".to_owned()),
        }
    }
    Err(Error::unavailable(refusals.join("; ")))
}

/// Returns true if the driver rejected a server because it is read-only.
fn is_read_only(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|source| source.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Connects to a server and authenticates. Returns the client and the start time of the server (see
/// [`SERVER`]).
async fn sign_in(
    server: &Server,
    greeting: &str,
    on_notice: impl FnMut(AsyncMessage) + Send + 'static,
) -> Result<(Client, i64), tokio_postgres::Error> {
    let client = match &server.tls {
        None => {
            let (client, connection) = server.config.connect(NoTls).await?;
            tokio::spawn(drive(connection, on_notice));
            client
        }
        Some(tls) => {
            let (client, connection) = server.config.connect(tls.clone()).await?;
            tokio::spawn(drive(connection, on_notice));
            client
        }
    };
    client.batch_execute(greeting).await?;
    let started = client.query_one(SERVER, &[]).await?.try_get(0)?;
    Ok((client, started))
}

/// Processes the messages of a connection until it is closed.
async fn drive<S, T>(mut connection: Connection<S, T>, mut on_notice: impl FnMut(AsyncMessage))
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
    pin_mut!(messages);
    while let Ok(Some(message)) = messages.try_next().await {
        on_notice(message);
    }
}
