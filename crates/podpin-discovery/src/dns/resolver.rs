//! Lookups: hickory's resolver, asked so that "there is no such name" and "there is no answer" are told apart.
//!
//! The search list is walked here, not in hickory: there, a server that fails for one name of the list and denies the next is
//! a name that does not exist. Files are read at each round: `/etc/resolv.conf` and `/etc/hosts` are small, and change.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};

/// How long one name server may take, and how often it is asked: together less than [`super::LOOKUP_TIMEOUT`].
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const SERVER_ATTEMPTS: usize = 1;

/// The way to DNS as the system has it now, or a name server of its own.
pub(crate) struct Resolver {
    /// `None` if the system names no server: `/etc/hosts` may have what is wanted.
    dns: Option<TokioResolver>,
    /// Why there is no server.
    missing: String,
    hosts: Hosts,
    search: Vec<Name>,
    dots_min: usize,
}

/// Records of one kind.
pub(crate) enum Found<T> {
    /// There are some.
    Records {
        /// The records.
        list: Vec<T>,
        /// The shortest time to live.
        ttl: Duration,
    },
    /// The name does not exist, or has no records of the kind.
    Nothing,
    /// No answer, in words.
    Failed(String),
}

impl Resolver {
    /// Reads the system's configuration.
    pub(crate) fn of_system() -> Resolver {
        let hosts = Hosts::from_system().unwrap_or_default();
        let read = read_system_conf();
        let (config, options) = match read {
            Ok(found) => found,
            Err(error) => {
                let missing = format!("/etc/resolv.conf cannot be used: {error}");
                return Resolver { dns: None, missing, hosts, search: Vec::new(), dots_min: 1 };
            }
        };
        let search = match config.search() {
            [] => config.domain().cloned().into_iter().collect(),
            list => list.to_vec(),
        };
        let dots_min = options.ndots;
        let dns = resolver(config, options);
        let missing = "no name server can be used".to_owned();
        Resolver { dns, missing, hosts, search, dots_min }
    }

    /// Asks this name server alone; the system's files do not count.
    pub(crate) fn at(server: SocketAddr) -> Resolver {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        let server = NameServerConfig::new(server.ip(), true, connections.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let dns = resolver(config, ResolverOpts::default());
        let missing = "the name server cannot be used".to_owned();
        Resolver { dns, missing, hosts: Hosts::default(), search: Vec::new(), dots_min: 1 }
    }

    /// Looks up the addresses of a host: those of IPv4, else those of IPv6.
    pub(crate) async fn addresses(&self, host: &str) -> Found<IpAddr> {
        let candidates = match self.candidates(host) {
            Ok(candidates) => candidates,
            Err(error) => return Found::Failed(error),
        };
        // As glibc does it: a name in a file is not asked for.
        for name in candidates.last().into_iter().chain(&candidates) {
            for kind in [RecordType::A, RecordType::AAAA] {
                if let Some(lookup) = self.hosts.lookup_static_host(&Query::query(name.clone(), kind)) {
                    return of_lookup(&lookup, address_of);
                }
            }
        }
        let mut failure = None;
        for name in candidates {
            match self.addresses_of(name).await {
                Found::Nothing => {}
                Found::Failed(error) => failure = failure.or(Some(error)),
                found @ Found::Records { .. } => return found,
            }
        }
        failure.map_or(Found::Nothing, Found::Failed)
    }

    /// Looks up the addresses of one complete name.
    async fn addresses_of(&self, name: Name) -> Found<IpAddr> {
        match self.lookup(name.clone(), RecordType::A, address_of).await {
            // Without an answer for IPv4, IPv6 would be a guess.
            Found::Nothing => self.lookup(name, RecordType::AAAA, address_of).await,
            other => other,
        }
    }

    /// Looks up the services of a name that has SRV records (RFC 2782), those of the best priority.
    pub(crate) async fn services(&self, name: &str) -> Found<SRV> {
        let candidates = match self.candidates(name) {
            Ok(candidates) => candidates,
            Err(error) => return Found::Failed(error),
        };
        let mut failure = None;
        let service = |data: &RData| match data {
            // A target "." says that there is no such service.
            RData::SRV(service) if !service.target.is_root() => Some(service.clone()),
            _ => None,
        };
        for name in candidates {
            match self.lookup(name, RecordType::SRV, service).await {
                Found::Nothing => {}
                Found::Failed(error) => failure = failure.or(Some(error)),
                Found::Records { mut list, ttl } => {
                    let best = list.iter().map(|service| service.priority).min();
                    list.retain(|service| Some(service.priority) == best);
                    return Found::Records { list, ttl };
                }
            }
        }
        failure.map_or(Found::Nothing, Found::Failed)
    }

    async fn lookup<T>(&self, name: Name, kind: RecordType, of: impl Fn(&RData) -> Option<T>) -> Found<T> {
        let Some(dns) = &self.dns else { return Found::Failed(self.missing.clone()) };
        match dns.lookup(name, kind).await {
            Ok(lookup) => of_lookup(&lookup, of),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Found::Nothing,
            Err(error) => Found::Failed(error.to_string()),
        }
    }

    /// Returns the complete names that `text` may stand for, in the order of resolv.conf(5).
    fn candidates(&self, text: &str) -> Result<Vec<Name>, String> {
        let mut name = Name::from_utf8(text).map_err(|error| format!("{text:?} is no name: {error}"))?;
        if name.is_fqdn() {
            return Ok(vec![name]);
        }
        let is_local = name.is_localhost();
        let first = usize::from(name.num_labels()) > self.dots_min || is_local;
        let search = self.search.iter().filter(|_| !is_local);
        let mut candidates: Vec<Name> =
            search.filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        name.set_fqdn(true);
        candidates.insert(if first { 0 } else { candidates.len() }, name);
        Ok(candidates)
    }
}

fn resolver(config: ResolverConfig, mut options: ResolverOpts) -> Option<TokioResolver> {
    // Each lookup is meant to ask: how long an answer is good for is decided by who asks.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = options.timeout.min(SERVER_TIMEOUT);
    options.attempts = options.attempts.min(SERVER_ATTEMPTS);
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().ok()
}

fn address_of(data: &RData) -> Option<IpAddr> {
    data.ip_addr().filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
}

fn of_lookup<T>(lookup: &Lookup, of: impl Fn(&RData) -> Option<T>) -> Found<T> {
    let list: Vec<T> = lookup.answers().iter().filter_map(|record| of(&record.data)).collect();
    match list.is_empty() {
        true => Found::Nothing,
        false => Found::Records { list, ttl: lookup.valid_until().saturating_duration_since(Instant::now()) },
    }
}
