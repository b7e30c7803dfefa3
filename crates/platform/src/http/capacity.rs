//! Limits on open connections, in total and per client network. If a limit is reached, chooses a connection
//! to close. A connection whose request is being answered is never closed.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ClientAddress;
use super::connection_state::{CloseRequest, ConnectionState, Phase};
use crate::config;

/// Number of file descriptors reserved for the database, files, outbound requests and logs.
const RESERVED_DESCRIPTORS: u64 = 256;
/// Highest limit of file descriptors that [`raise_descriptor_limit`] sets.
const MAX_DESCRIPTORS: u64 = 1 << 20;
/// Maximum number of evicted connections that are not closed yet. They no longer count against the limits.
/// The limit per network can cause at most half of them.
const MAX_EVICTED: usize = 64;
/// Number of networks, largest first, that are searched for a connection to close.
const SEARCHED_NETWORKS: usize = 8;
/// Age from which a connection with an incomplete request body can be closed, in ticks of a quarter of a
/// second.
const SLOW_BODY_TICKS: u32 = 8;
/// Default of `server.max_connections`, unless the limit of file descriptors requires a lower value.
const DEFAULT_MAX_CONNECTIONS: u64 = 100_000;
/// Lowest and highest default of `server.max_connections_per_network`.
const DEFAULT_PER_NETWORK: std::ops::RangeInclusive<usize> = 16..=1_000;

/// Raises the soft limit of open file descriptors to the hard limit, but not above 1,048,576. Returns the
/// resulting limit, or `None` if there is no limit.
pub fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS);
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// Maximum numbers of open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnectionLimits {
    /// Maximum number of connections in total.
    pub total: usize,
    /// Maximum number of connections per client network, which is an IPv4 address or an IPv6 /64.
    pub per_network: usize,
}

impl ConnectionLimits {
    /// Returns the configured limits. If a setting is 0, uses a default that depends on the limit of open
    /// file descriptors. The total always stays below that limit.
    pub fn of(server: &config::Server, descriptors: Option<u64>) -> Self {
        let descriptors = descriptors.unwrap_or(u64::MAX);
        let available = descriptors - RESERVED_DESCRIPTORS.min(descriptors / 4);
        let wanted = match server.max_connections {
            0 => DEFAULT_MAX_CONNECTIONS,
            max => u64::from(max),
        };
        if server.max_connections > 0 && wanted > available {
            tracing::warn!(
                wanted,
                available,
                "`server.max_connections` exceeds the limit of open files and was reduced"
            );
        }
        let total = usize::try_from(wanted.min(available)).unwrap_or(usize::MAX).max(1);
        let per_network = match server.max_connections_per_network {
            0 => (total / 4).clamp(*DEFAULT_PER_NETWORK.start(), *DEFAULT_PER_NETWORK.end()),
            max => usize::try_from(max).unwrap_or(usize::MAX),
        };
        Self { total, per_network }
    }
}

/// Connection limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitReached {
    /// `server.max_connections`.
    Total,
    /// `server.max_connections_per_network`.
    Network,
}

impl LimitReached {
    /// Returns the name of the limit as a label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Network => "network",
        }
    }
}

/// Open connections, counted per client network.
#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    states: HashMap<usize, (Arc<ConnectionState>, IpAddr)>,
    /// Ids of the connections that count against the limits, by network.
    by_network: HashMap<IpAddr, HashSet<usize>>,
    /// Ids of the connections that were evicted and are not closed yet.
    evicting: HashSet<usize>,
}

impl OpenConnections {
    pub fn insert(&mut self, id: usize, state: Arc<ConnectionState>, network: IpAddr) {
        self.states.insert(id, (state, network));
        self.by_network.entry(network).or_default().insert(id);
    }

    pub fn remove(&mut self, id: usize) {
        let Some((_, network)) = self.states.remove(&id) else { return };
        if !self.evicting.remove(&id) {
            self.discount(id, network);
        }
    }

    fn discount(&mut self, id: usize, network: IpAddr) {
        if let Some(ids) = self.by_network.get_mut(&network) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_network.remove(&network);
            }
        }
    }

    pub fn states(&self) -> impl Iterator<Item = &Arc<ConnectionState>> {
        self.states.values().map(|(state, _)| state)
    }

    /// Returns the limit that one more connection from `network` would exceed. If `exempts_network` is true,
    /// ignores the limit per network.
    pub fn limit_reached(
        &self,
        network: IpAddr,
        limits: ConnectionLimits,
        exempts_network: bool,
    ) -> Option<LimitReached> {
        let of_network = self.by_network.get(&network).map_or(0, HashSet::len);
        if !exempts_network && of_network >= limits.per_network {
            Some(LimitReached::Network)
        } else if self.states.len() - self.evicting.len() >= limits.total {
            Some(LimitReached::Total)
        } else {
            None
        }
    }

    /// Evicts a connection so that a new connection from `network` can be accepted. If the limit per network
    /// is reached, evicts one in `network`, otherwise one in the largest network that has a candidate.
    /// Prefers the connection that has been idle longest, then the request head that has been arriving
    /// longest, then slow bodies, then new connections. Returns false if there is no candidate, or too many
    /// evicted connections are not closed yet.
    pub fn evict(&mut self, network: IpAddr, reached: LimitReached) -> bool {
        let max_evicting = if reached == LimitReached::Network { MAX_EVICTED / 2 } else { MAX_EVICTED };
        if self.evicting.len() >= max_evicting {
            return false;
        }
        let found = match reached {
            LimitReached::Network => self.find_evictable(network),
            LimitReached::Total => {
                let mut networks: Vec<_> = self.by_network.iter().map(|(of, ids)| (ids.len(), *of)).collect();
                let largest = networks.len().min(SEARCHED_NETWORKS);
                if largest < networks.len() {
                    networks.select_nth_unstable_by(largest, |one, other| other.cmp(one));
                    networks.truncate(largest);
                }
                networks.sort_unstable_by(|one, other| other.cmp(one));
                networks.into_iter().find_map(|(_, of)| self.find_evictable(of))
            }
        };
        let Some(id) = found else { return false };
        let Some((state, of)) = self.states.get(&id).cloned() else { return false };
        self.evicting.insert(id);
        self.discount(id, of);
        state.order(CloseRequest::Cut);
        true
    }

    fn find_evictable(&self, network: IpAddr) -> Option<usize> {
        let ids = self.by_network.get(&network)?;
        let ranked = ids.iter().filter_map(|id| {
            let (state, _) = self.states.get(id)?;
            let (phase, ticks) = state.phase();
            let rank = match phase {
                _ if state.is_close_requested() => return None,
                // The last bytes of a long response may not have been sent yet.
                Phase::Idle if state.is_blocked() => return None,
                // The server may not have read the received bytes yet.
                Phase::Idle | Phase::Reading if ticks == 0 => 0,
                Phase::Idle => 3,
                Phase::Reading => 2,
                Phase::ReadingBody if ticks >= SLOW_BODY_TICKS => 1,
                Phase::ReadingBody
                | Phase::Answering
                | Phase::Sending
                | Phase::Closing
                | Phase::Lingering => return None,
            };
            Some(((rank, ticks), *id))
        });
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, id)| id)
    }
}

/// Returns the client network of a connection's remote address.
pub(super) fn network_of(peer: SocketAddr) -> IpAddr {
    ClientAddress::new(peer.ip()).first_of_network()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::config::Config;

    fn limits(max: u32, per_network: u32, descriptors: Option<u64>) -> (usize, usize) {
        let mut server = Config::default().server;
        (server.max_connections, server.max_connections_per_network) = (max, per_network);
        let ConnectionLimits { total, per_network } = ConnectionLimits::of(&server, descriptors);
        (total, per_network)
    }

    #[test]
    fn connection_limits_stay_below_descriptor_limit() {
        for (max, per_network, descriptors, expected) in [
            (0, 0, Some(1_024), (768, 192)),
            (0, 0, Some(1 << 20), (100_000, 1_000)),
            (0, 0, None, (100_000, 1_000)),
            (0, 0, Some(64), (48, 16)),
            (500, 0, Some(1_024), (500, 125)),
            (5_000, 10, Some(1_024), (768, 10)),
        ] {
            assert_eq!(
                limits(max, per_network, descriptors),
                expected,
                "{max} {per_network} {descriptors:?}"
            );
        }
    }

    #[test]
    fn descriptor_limit_is_raised_to_the_hard_limit() {
        let raised = raise_descriptor_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(raised, current);
        assert_eq!(current, Some(maximum.unwrap_or(MAX_DESCRIPTORS).min(MAX_DESCRIPTORS)));
    }

    struct TestConnections {
        open: OpenConnections,
        ticks: Arc<AtomicU32>,
        next: usize,
    }

    impl TestConnections {
        fn add(&mut self, network: &str, phase: Phase) -> Arc<ConnectionState> {
            let state = Arc::new(ConnectionState::new(Arc::clone(&self.ticks)));
            state.enter(phase);
            self.next += 1;
            self.open.insert(self.next, Arc::clone(&state), network.parse().unwrap());
            self.ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            state
        }

        /// Evicts a connection and returns true if it was `state`.
        fn evicts(&mut self, state: &ConnectionState, network: &str, reached: LimitReached) -> bool {
            self.open.evict(network.parse().unwrap(), reached) && state.is_close_requested()
        }
    }

    #[test]
    fn idle_connection_of_largest_network_is_evicted() {
        let mut world = TestConnections { open: OpenConnections::default(), ticks: Arc::default(), next: 0 };
        let alone = world.add("192.0.2.1", Phase::Idle);
        world.add("192.0.2.2", Phase::Answering);
        world.add("192.0.2.2", Phase::Sending);
        assert!(
            world.evicts(&alone, "192.0.2.9", LimitReached::Total),
            "the only idle connection is evicted"
        );
        let alone = world.add("192.0.2.1", Phase::Idle);
        let longest = world.add("192.0.2.2", Phase::Idle);
        world.add("192.0.2.2", Phase::Idle);
        assert!(world.evicts(&longest, "192.0.2.9", LimitReached::Total));
        // If a network has reached its limit, one of its own connections is closed.
        assert!(world.evicts(&alone, "192.0.2.1", LimitReached::Network));
    }

    #[test]
    fn connections_being_answered_are_never_evicted() {
        let mut world = TestConnections { open: OpenConnections::default(), ticks: Arc::default(), next: 0 };
        for phase in [Phase::Answering, Phase::Sending, Phase::Closing, Phase::Lingering] {
            world.add("192.0.2.2", phase);
        }
        let network = "192.0.2.9".parse().unwrap();
        assert!(!world.open.evict(network, LimitReached::Total));
        let body = world.add("192.0.2.3", Phase::ReadingBody);
        assert!(
            !world.open.evict(network, LimitReached::Total),
            "a connection that may soon send a request is not evicted"
        );
        world.ticks.fetch_add(SLOW_BODY_TICKS, std::sync::atomic::Ordering::Relaxed);
        assert!(world.evicts(&body, "192.0.2.9", LimitReached::Total));
        let arriving = world.add("192.0.2.3", Phase::Reading);
        assert!(world.evicts(&arriving, "192.0.2.9", LimitReached::Total));
    }

    #[test]
    fn evicted_connections_do_not_count_and_are_limited() {
        let mut world = TestConnections { open: OpenConnections::default(), ticks: Arc::default(), next: 0 };
        let network: IpAddr = "192.0.2.1".parse().unwrap();
        let limits = ConnectionLimits { total: 1_000, per_network: 100 };
        for _ in 0..100 {
            world.add("192.0.2.1", Phase::Idle);
        }
        assert_eq!(world.open.limit_reached(network, limits, false), Some(LimitReached::Network));
        let evicted = std::iter::repeat_with(|| world.open.evict(network, LimitReached::Network));
        assert_eq!(evicted.take(100).filter(|evicted| *evicted).count(), MAX_EVICTED / 2);
        assert_eq!(world.open.limit_reached(network, limits, false), None);
        assert_eq!(world.open.states().count(), 100, "evicted connections count until they are closed");
        assert!(
            world.open.evict(network, LimitReached::Total),
            "connections from other networks are accepted"
        );
        for id in 1..=100 {
            world.open.remove(id);
        }
        assert!(world.open.by_network.is_empty() && world.open.evicting.is_empty());
    }

    #[test]
    fn closed_connections_are_not_counted() {
        let mut world = TestConnections { open: OpenConnections::default(), ticks: Arc::default(), next: 0 };
        let limits = ConnectionLimits { total: 2, per_network: 1 };
        world.add("192.0.2.1", Phase::Idle);
        let network = |ip: &str| ip.parse::<IpAddr>().unwrap();
        let reached =
            |world: &TestConnections, ip, lifts| world.open.limit_reached(network(ip), limits, lifts);
        assert_eq!(reached(&world, "192.0.2.1", false), Some(LimitReached::Network));
        assert_eq!((reached(&world, "192.0.2.1", true), reached(&world, "192.0.2.2", false)), (None, None));
        world.add("192.0.2.1", Phase::Idle);
        assert_eq!(reached(&world, "192.0.2.2", true), Some(LimitReached::Total));
        world.open.remove(1);
        world.open.remove(1);
        assert_eq!((world.open.states().count(), reached(&world, "192.0.2.2", false)), (1, None));
    }
}
