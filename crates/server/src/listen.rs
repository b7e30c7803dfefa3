//! Binds the listening address. If the default address is in use in development mode, tries the following
//! ports.

use std::io;
use std::net::SocketAddr;

use kith_platform::config::Config;
use tokio::net::{TcpListener, TcpSocket};

use crate::StartError;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Number of ports after the default one that are tried.
const PORT_ATTEMPTS: u16 = 100;

/// Binds the configured address, or a following port in development mode.
pub(crate) fn bind(config: &Config) -> Result<TcpListener, StartError> {
    let wanted = config.server.listen;
    let may_move = config.is_default("server.listen") && !config.is_production();
    let last = if may_move { wanted.port().saturating_add(PORT_ATTEMPTS) } else { wanted.port() };
    let mut refusal = None;
    for port in wanted.port()..=last {
        match bind_to(SocketAddr::new(wanted.ip(), port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                let taken = error.kind() == io::ErrorKind::AddrInUse;
                // If all ports are in use, the error of the configured port is reported.
                refusal.get_or_insert(error);
                if !taken {
                    break;
                }
            }
        }
    }
    let source = refusal.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
    Err(StartError::Listen { addr: wanted, source })
}

fn bind_to(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows a restart while connections of the previous process are in the state TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use kith_platform::config::{Flag, Inputs};

    use super::*;

    fn config_for_port(addr: SocketAddr, mode: &str, by_flag: bool) -> Config {
        let mut flags = vec![Flag { name: "--mode", key: "server.mode", value: mode.into() }];
        if by_flag {
            flags.push(Flag { name: "--listen", key: "server.listen", value: addr.to_string().into() });
        }
        let secrets = [("JWT_SECRET", "one"), ("JWT_REFRESH_SECRET", "another")];
        let env = secrets.map(|(name, which)| {
            (name.into(), format!("{which} secret of at least 32 bytes in length").into())
        });
        let inputs = Inputs { file: Some("".into()), env: env.to_vec(), flags };
        let mut config = Config::load(&inputs, &[]).unwrap();
        config.server.listen = addr;
        config
    }

    #[tokio::test]
    async fn next_port_is_tried_only_for_default_port_in_development() {
        let taken = bind_to(([127, 0, 0, 1], 0).into()).unwrap();
        let addr = taken.local_addr().unwrap();
        let moved = bind(&config_for_port(addr, "development", false)).unwrap();
        assert!(moved.local_addr().unwrap().port() > addr.port());
        for config in [config_for_port(addr, "development", true), config_for_port(addr, "production", false)]
        {
            let error = bind(&config).unwrap_err().to_string();
            assert!(error.contains(&addr.to_string()), "{error}");
        }
    }
}
