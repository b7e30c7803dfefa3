//! Resolves host names. The addresses are checked elsewhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

/// Future that resolves a host name.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Resolver of host names. Two calls for the same name may return different addresses.
pub trait Resolve: Send + Sync {
    /// Returns the addresses of `name`.
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a>;
}

/// Resolver of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            // The trailing dot prevents the resolver from appending search domains.
            let rooted = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
            let found = tokio::net::lookup_host((rooted.as_str(), 0)).await?;
            Ok(found.map(|address: SocketAddr| address.ip()).collect())
        })
    }
}
