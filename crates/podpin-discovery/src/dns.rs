//! Endpoints from names in DNS: all addresses of a name, or the hosts and ports of its SRV records.
//!
//! Every peer has this, and EndpointSlices are not everywhere, or may not be read: a headless Service without any right in the cluster, Docker
//! Compose, Consul, Nomad, or just `localhost:3000` in a file. Lookups are repeated when the TTL is over, within bounds; what
//! an answer means is decided in `dns/known.rs`, how it is asked for in `dns/resolver.rs`.

mod known;
mod resolver;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use podpin_config::{DnsName, EndpointAddress, StaticEndpoint};
use podpin_endpoints::Observed;
use podpin_time::Millis;
use tokio::time::{Instant, sleep_until, timeout};

use crate::dns::known::{Answer, Known, Target, Times};
use crate::dns::resolver::{Found, Resolver};
use crate::listed::{listed, static_endpoint};

/// How long a lookup may take in all: a resolver that hangs is a failure like any other.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Names that are looked up at a time.
const LOOKUPS_AT_A_TIME: usize = 16;

/// The longest time between two lookups of host names in a static list.
const STATIC_INTERVAL: Duration = Duration::from_secs(5);

/// Names to be followed, and endpoints that need no lookup.
#[derive(Clone, Debug)]
pub struct NameSource {
    /// The service, for the log.
    service: Arc<str>,
    fixed: Vec<Observed>,
    names: Vec<Wanted>,
    /// The name server; `None` if those of the system.
    server: Option<SocketAddr>,
    times: Times,
}

/// A name and what its addresses are.
#[derive(Clone, Debug)]
enum Wanted {
    /// Endpoints on this port.
    Host { name: String, port: u16 },
    /// Endpoints of SRV records.
    Service { name: String },
    /// The addresses of one endpoint of the configuration.
    Static { endpoint: StaticEndpoint, host: String, port: u16 },
}

/// An event of names that are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEvent {
    /// The full list, when it is new.
    Endpoints(Vec<Observed>),
    /// Every name was answered.
    Answered,
    /// A name was not answered, and why; what is known of it stays. Sent at every attempt.
    Failed(Arc<str>),
}

impl NameSource {
    /// A name in DNS whose addresses are the endpoints of `service`; one that vanishes drains for `linger`.
    #[must_use]
    pub fn of_name(service: &str, name: &DnsName, linger: Duration) -> NameSource {
        let wanted = match name.port {
            Some(port) => Wanted::Host { name: name.name.clone(), port },
            None => Wanted::Service { name: name.name.clone() },
        };
        NameSource {
            service: service.into(),
            fixed: Vec::new(),
            names: vec![wanted],
            server: name.resolver,
            times: Times { interval: name.interval, linger },
        }
    }

    /// A static list with host names in it.
    #[must_use]
    pub fn of_list(service: &str, list: &[StaticEndpoint], linger: Duration) -> NameSource {
        let times = Times { interval: STATIC_INTERVAL, linger };
        let (fixed, names) = (Vec::new(), Vec::new());
        let mut source = NameSource { service: service.into(), fixed, names, server: None, times };
        for endpoint in list {
            match &endpoint.address {
                EndpointAddress::Ip(address) => source.fixed.push(static_endpoint(endpoint, *address)),
                EndpointAddress::Name { host, port } => source.names.push(Wanted::Static {
                    endpoint: endpoint.clone(),
                    host: host.clone(),
                    port: *port,
                }),
            }
        }
        source
    }
}

impl Wanted {
    fn name(&self) -> &str {
        match self {
            Wanted::Host { name, .. } | Wanted::Service { name } => name,
            Wanted::Static { host, .. } => host,
        }
    }

    fn observed(&self, target: &Target) -> Observed {
        match self {
            Wanted::Static { endpoint, .. } => static_endpoint(endpoint, target.address),
            Wanted::Host { .. } | Wanted::Service { .. } => {
                let name = target.name.clone().unwrap_or_else(|| target.address.ip().to_string().into());
                listed(name, target.address, target.weight.max(1))
            }
        }
    }

    async fn look_up(&self, resolver: &Resolver) -> Answer {
        let found = async {
            match self {
                Wanted::Host { name, port } => hosts(resolver.addresses(name).await, *port),
                Wanted::Static { host, port, .. } => hosts(resolver.addresses(host).await, *port),
                Wanted::Service { name } => services(resolver, name).await,
            }
        };
        let late = |_| Answer::Failed(format!("no answer within {LOOKUP_TIMEOUT:?}"));
        timeout(LOOKUP_TIMEOUT, found).await.unwrap_or_else(late)
    }
}

/// Turns addresses into targets on one port.
fn hosts(found: Found<std::net::IpAddr>, port: u16) -> Answer {
    match found {
        Found::Records { list, ttl } => {
            let target = |ip| Target { name: None, address: SocketAddr::new(ip, port), weight: 1 };
            Answer::Targets { list: list.into_iter().map(target).collect(), ttl }
        }
        Found::Nothing => Answer::Targets { list: Vec::new(), ttl: Duration::MAX },
        Found::Failed(error) => Answer::Failed(error),
    }
}

/// Looks up the hosts of SRV records. One host without an answer fails all: what is known of it must stay.
async fn services(resolver: &Resolver, name: &str) -> Answer {
    let (services, ttl) = match resolver.services(name).await {
        Found::Records { list, ttl } => (list, ttl),
        Found::Nothing => return Answer::Targets { list: Vec::new(), ttl: Duration::MAX },
        Found::Failed(error) => return Answer::Failed(error),
    };
    let lookups = services.into_iter().map(|service| async move {
        let mut host = service.target.to_utf8();
        if !host.ends_with('.') {
            host.push('.');
        }
        (resolver.addresses(&host).await, host, service)
    });
    let mut answers = stream::iter(lookups).buffer_unordered(LOOKUPS_AT_A_TIME);
    let (mut targets, mut ttl_min) = (Vec::new(), ttl);
    while let Some((found, host, service)) = answers.next().await {
        match found {
            Found::Records { list, ttl } => {
                ttl_min = ttl_min.min(ttl);
                let name: Arc<str> = host.trim_end_matches('.').into();
                targets.extend(list.into_iter().filter(|_| service.port > 0).map(|ip| Target {
                    name: Some(Arc::clone(&name)),
                    address: SocketAddr::new(ip, service.port),
                    weight: u32::from(service.weight),
                }));
            }
            Found::Nothing => {}
            Found::Failed(error) => return Answer::Failed(format!("{host}: {error}")),
        }
    }
    Answer::Targets { list: targets, ttl: ttl_min }
}

/// A name that is followed.
struct Followed<'s> {
    wanted: &'s Wanted,
    known: Known,
    due: Instant,
    /// State that was logged last.
    said: Said,
}

/// State of a name, as far as it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Failed,
    Empty,
}

/// Follows names and calls `on` with their events, for ever; drop the future to stop.
///
/// The first event comes after the first round of lookups. A list is sent when all names were answered once, or some
/// endpoint is known.
///
/// # Panics
/// Outside a tokio runtime with IO and time.
pub async fn follow_names(source: NameSource, mut on: impl FnMut(NameEvent) + Send) -> ! {
    let began = Instant::now();
    let since = |at: Instant| Millis(0).after(at - began);
    let NameSource { service, fixed, names, server, times } = &source;
    let new = |wanted| Followed { wanted, known: Known::default(), due: began, said: Said::Nothing };
    let mut followed: Vec<Followed<'_>> = names.iter().map(new).collect();
    let mut sent: Option<Vec<Observed>> = None;
    loop {
        let now = Instant::now();
        let resolver = server.map_or_else(Resolver::of_system, Resolver::at);
        let due: Vec<&Wanted> = followed.iter().filter(|one| one.due <= now).map(|one| one.wanted).collect();
        let mut answers = look_up(&due, &resolver).await.into_iter();
        let due = followed.iter_mut().filter(|one| one.due <= now);
        let now = Instant::now();
        let mut failure = None;
        for (one, answer) in due.zip(&mut answers) {
            one.log(service, &answer);
            let next = one.known.take(&answer, *times, since(now));
            // Replicas that started together do not ask together for ever.
            one.due = now + next.mul_f64(0.95 + 0.1 * fastrand::f64());
            if let Answer::Failed(error) = answer {
                failure = Some(format!("{}: {error}", one.wanted.name()));
            }
        }
        let list = followed.iter_mut().flat_map(|one| {
            one.known.expire(since(now));
            one.known.endpoints(|target| one.wanted.observed(target))
        });
        let list: Vec<Observed> = fixed.iter().cloned().chain(list).collect();
        let is_complete = followed.iter().all(|one| one.known.is_answered) || !list.is_empty();
        on(failure.map_or(NameEvent::Answered, |reason| NameEvent::Failed(reason.into())));
        if is_complete && sent.as_ref() != Some(&list) {
            on(NameEvent::Endpoints(list.clone()));
            sent = Some(list);
        }
        let due = followed.iter().map(|one| one.due).min().unwrap_or(now + times.interval);
        sleep_until(due).await;
    }
}

/// Looks names up, some at a time; returns their answers in order.
async fn look_up(names: &[&Wanted], resolver: &Resolver) -> Vec<Answer> {
    let mut lookups = Vec::with_capacity(names.len());
    for wanted in names {
        lookups.push(wanted.look_up(resolver).boxed());
    }
    stream::iter(lookups).buffered(LOOKUPS_AT_A_TIME).collect().await
}

impl Followed<'_> {
    /// Logs what has changed.
    fn log(&mut self, service: &str, answer: &Answer) {
        let name = self.wanted.name();
        let (now, before) = (Said::of(answer), self.said);
        if now == before {
            return;
        }
        self.said = now;
        match answer {
            Answer::Failed(reason) => {
                let kept = if self.known.is_answered {
                    "the last good answer is kept"
                } else {
                    "nothing is known yet"
                };
                tracing::warn!(service, name, %reason, "the name cannot be looked up: {kept}");
            }
            Answer::Targets { list, .. } if list.is_empty() => {
                tracing::warn!(service, name, "the name does not exist, or has no addresses");
            }
            Answer::Targets { list, .. } => {
                tracing::info!(service, name, addresses = list.len(), "the name is looked up again");
            }
        }
    }
}

impl Said {
    fn of(answer: &Answer) -> Said {
        match answer {
            Answer::Failed(_) => Said::Failed,
            Answer::Targets { list, .. } if list.is_empty() => Said::Empty,
            Answer::Targets { .. } => Said::Nothing,
        }
    }
}
