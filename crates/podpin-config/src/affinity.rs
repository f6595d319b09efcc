//! How a service recognises its returning clients: the affinity cookie and its attributes (RFC 6265, RFC 6265bis, CHIPS).

mod source;

use std::{collections::BTreeMap, time::Duration};

use saphyr::Scalar;

pub use self::source::ClientIp;
use crate::{name, node::Node, section::Section, unit::DurationRange};

/// Affinity of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// `None` if `cookie: off`: clients are not recognised.
    pub cookie: Option<CookieAttributes>,
    /// Name of the request header that recognises a client, in lower case. It comes before everything else.
    pub header: Option<String>,
    /// Name of the query parameter that recognises a client that sends no such header.
    pub query: Option<String>,
    /// Recognises clients without any of the others by their address.
    pub client_ip: Option<ClientIp>,
    /// A pin ends this long after its session began, whatever the cookie says. 1 min to 9600 h, default 24 h.
    pub absolute_timeout: Duration,
    /// Treatment of a pinned client whose endpoint cannot be used. Default: it moves.
    pub on_unavailable: OnUnavailable,
}

/// Treatment of a request whose pinned endpoint cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnavailable {
    /// A move to the endpoint that the session id hashes to, for good.
    Repin,
    /// A refusal: 503, for event streams as `sse.unavailable` says.
    Strict,
    /// A place in a queue, first come, first served. A pin whose endpoint is leaving for good moves at once.
    Wait(WaitQueue),
}

/// Where requests of one service wait for a place at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitQueue {
    /// Requests that may wait at a time, 1 to 1,000,000, default 1,000; another is refused at once.
    pub length: u32,
    /// How long each may wait before it is refused. 10 ms to 10 min, default 10 s.
    pub timeout: Duration,
}

/// The attributes that the cookie is set with. A `__Host-` or `__Secure-` name has what browsers want of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieAttributes {
    /// An RFC 6265 token of at most 128 characters. Default `podpin-<service>`, so that services never share one.
    pub name: String,
    /// Begins with `/`. Default `/`.
    pub path: String,
    /// `None` if only the host that answered may get the cookie, without its subdomains.
    pub domain: Option<String>,
    /// Whole seconds, 1 s to 9600 h (400 days, the longest that browsers keep), default 24 h.
    /// `None` if it says `session`: until the browser closes.
    pub max_age: Option<Duration>,
    /// Default `Lax`.
    pub same_site: SameSite,
    /// Default `auto`.
    pub secure: Secure,
    /// Hidden from scripts. Default yes.
    pub http_only: bool,
    /// `Partitioned` (CHIPS). Default no; never with `secure: false`.
    pub partitioned: bool,
    /// Whether the pod sees the cookie too. Default no.
    pub forward: bool,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// Not sent with any cross-site request.
    Strict,
    /// Sent with top-level navigation from other sites.
    Lax,
    /// Sent always; browsers want `Secure` with it.
    None,
    /// Not written: browsers take it for `Lax`, but for the first two minutes of a cookie at requests of other sites by POST (SAML,
    /// `form_post`).
    Unset,
}

/// When the `Secure` attribute is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// On TLS, or when a trusted proxy says `X-Forwarded-Proto: https`.
    Auto,
    /// `secure: true`.
    Always,
    /// `secure: false`.
    Never,
}

const ABSOLUTE_TIMEOUT: DurationRange =
    DurationRange::new(Duration::from_secs(60), Duration::from_secs(9_600 * 3_600));
const MAX_AGE: DurationRange =
    DurationRange::whole_seconds(Duration::from_secs(1), Duration::from_secs(9_600 * 3_600));

/// Every request carries the name; a token has no length limit of its own.
const COOKIE_NAME_BYTES_MAX: usize = 128;
/// The limit of RFC 6265bis section 5.6 for one attribute.
const COOKIE_PATH_BYTES_MAX: usize = 1024;

const QUEUE_TIMEOUT: DurationRange = DurationRange::new(Duration::from_millis(10), Duration::from_secs(600));

const DAY: Duration = Duration::from_secs(86_400);

impl Affinity {
    /// The affinity of `service` when nothing is written.
    pub fn default_for(service: &str) -> Self {
        Self {
            cookie: Some(CookieAttributes::default_for(service)),
            header: None,
            query: None,
            client_ip: None,
            absolute_timeout: DAY,
            on_unavailable: OnUnavailable::Repin,
        }
    }

    pub(crate) fn read<'a>(section: &Section<'a>, service: &str, cookies: &mut CookieNames<'a>) -> Self {
        let absolute_timeout = section.duration("absoluteTimeout", ABSOLUTE_TIMEOUT, DAY);
        let cookie = match section.get("cookie").map(|node| node.section_or_off("cookie attributes")) {
            None => Some(CookieAttributes::default_for(service)),
            Some(written) => written.flatten().map(|attributes| CookieAttributes::read(&attributes, service)),
        };
        if let Some(cookie) = &cookie {
            let written = section.get("cookie").and_then(|node| node.child("name"));
            cookies.claim(service, cookie, written);
        }
        Self {
            cookie,
            header: source::read_header(section),
            query: source::read_query(section),
            client_ip: source::read_client_ip(section),
            absolute_timeout,
            on_unavailable: OnUnavailable::read(section),
        }
    }
}

impl OnUnavailable {
    fn read(section: &Section<'_>) -> Self {
        let queue = WaitQueue::read(&section.section("queue"));
        let choices = [("repin", Self::Repin), ("strict", Self::Strict), ("wait", Self::Wait(queue))];
        let chosen = section.choice("onUnavailable", &choices, Self::Repin);
        if let Some(unused) = section.get("queue").filter(|_| chosen != Self::Wait(queue)) {
            unused.fail_at_key("has no effect without `onUnavailable: wait`".to_owned());
        }
        chosen
    }
}

impl WaitQueue {
    fn read(section: &Section<'_>) -> Self {
        Self {
            length: section.count("length", 1..=1_000_000, 1_000),
            timeout: section.duration("timeout", QUEUE_TIMEOUT, Duration::from_secs(10)),
        }
    }
}

/// The cookies of all services, to find two that would overwrite each other in every browser.
#[derive(Debug, Default)]
pub(crate) struct CookieNames<'a> {
    /// By name and path: the service, and where the name is written unless it is the default.
    claims: BTreeMap<(String, String), Vec<CookieClaim<'a>>>,
    rivals: Vec<Rivals<'a>>,
}

/// A service that has a cookie of some name and path, and where the name is written unless it is the default.
type CookieClaim<'a> = (String, Option<Node<'a>>);

/// Two services whose cookies have one name and path: a browser that reaches both on one host has room for one of them.
#[derive(Debug)]
pub(crate) struct Rivals<'a> {
    /// The names of the services.
    pub(crate) services: [String; 2],
    /// Whether a cookie of theirs goes to other hosts than the one that set it.
    pub(crate) has_domain: bool,
    /// Where the name is written.
    at: Node<'a>,
    message: String,
}

impl Rivals<'_> {
    /// Reports that the two meet on a host.
    pub(crate) fn fail(self) {
        self.at.fail(self.message);
    }
}

impl<'a> CookieNames<'a> {
    fn claim(&mut self, service: &str, cookie: &CookieAttributes, written: Option<Node<'a>>) {
        let key = (cookie.name.clone(), cookie.path.clone());
        let others = self.claims.entry(key).or_default();
        for (other, other_written) in others.iter() {
            // Default names differ, so at least one of the two was written.
            let (at, rival) = match &written {
                Some(node) => (Some(node), other.as_str()),
                None => (other_written.as_ref(), service),
            };
            let name = &cookie.name;
            self.rivals.extend(at.map(|node| Rivals {
                services: [other.clone(), service.to_owned()],
                has_domain: cookie.domain.is_some(),
                at: node.clone(),
                message: format!(
                    "the service `{rival}` has a cookie named `{name}` with the same path, and one host reaches both"
                ),
            }));
        }
        others.push((service.to_owned(), written));
    }

    /// Returns the services whose cookies have one name and path.
    pub(crate) fn into_rivals(self) -> Vec<Rivals<'a>> {
        self.rivals
    }
}

impl CookieAttributes {
    /// The cookie of `service` when nothing is written.
    pub fn default_for(service: &str) -> Self {
        Self {
            name: format!("podpin-{service}"),
            path: "/".to_owned(),
            domain: None,
            max_age: Some(DAY),
            same_site: SameSite::Lax,
            secure: Secure::Auto,
            http_only: true,
            partitioned: false,
            forward: false,
        }
    }

    fn read(section: &Section<'_>, service: &str) -> Self {
        let default = Self::default_for(service);
        let same_site = [("Strict", SameSite::Strict), ("Lax", SameSite::Lax), ("None", SameSite::None)];
        let unset = section.get("sameSite").is_some_and(Node::is_off);
        let cookie = Self {
            name: section.get("name").and_then(read_name).unwrap_or(default.name),
            path: section.get("path").and_then(read_path).unwrap_or(default.path),
            domain: section.get("domain").and_then(read_domain),
            max_age: section.get("maxAge").and_then(read_max_age).unwrap_or(default.max_age),
            same_site: if unset {
                SameSite::Unset
            } else {
                section.choice("sameSite", &same_site, default.same_site)
            },
            secure: section.get("secure").and_then(read_secure).unwrap_or(default.secure),
            http_only: section.boolean("httpOnly", default.http_only),
            partitioned: section.boolean("partitioned", default.partitioned),
            forward: section.boolean("forward", default.forward),
        };
        cookie.check_prefix(section);
        cookie.check_secure(section);
        cookie
    }

    /// Checks the rules of browsers for names with a prefix (RFC 6265bis section 4.1.3); they drop the cookie otherwise.
    fn check_prefix(&self, section: &Section<'_>) {
        let at = section.get("name").unwrap_or(section.node());
        let starts_with = |prefix: &str| {
            self.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let is_host = starts_with("__Host-");
        if (is_host || starts_with("__Secure-")) && self.secure != Secure::Always {
            at.fail(format!("a cookie named `{}` needs `secure: true`", self.name));
        }
        if is_host && self.path != "/" {
            at.fail(format!("a cookie named `{}` needs `path: /`", self.name));
        }
        if is_host && self.domain.is_some() {
            at.fail(format!("a cookie named `{}` must not have a domain", self.name));
        }
    }

    /// Attributes that browsers take only from secure cookies.
    fn check_secure(&self, section: &Section<'_>) {
        if self.secure != Secure::Never {
            return;
        }
        if self.same_site == SameSite::None
            && let Some(node) = section.get("sameSite")
        {
            node.fail("browsers refuse `sameSite: None` with `secure: false`");
        }
        if self.partitioned
            && let Some(node) = section.get("partitioned")
        {
            node.fail("browsers refuse `partitioned: true` with `secure: false`");
        }
    }
}

fn read_name(node: &Node<'_>) -> Option<String> {
    let name = node.text("a cookie name")?;
    let fits = name::is_token(name) && name.len() <= COOKIE_NAME_BYTES_MAX;
    if !fits {
        node.fail(format!(
            "{name:?} is not a cookie name: at most {COOKIE_NAME_BYTES_MAX} of A-Z, a-z, 0-9 and !#$%&'*+-.^_`|~"
        ));
    }
    fits.then(|| name.to_owned())
}

fn read_path(node: &Node<'_>) -> Option<String> {
    let path = node.text("a path such as /")?;
    let visible = path.bytes().all(|b| b.is_ascii_graphic() && b != b';');
    let fits = path.starts_with('/') && visible && path.len() <= COOKIE_PATH_BYTES_MAX;
    if !fits {
        node.fail(format!("{path:?} is not a cookie path: it begins with / and has no spaces and no ;"));
    }
    fits.then(|| path.to_owned())
}

fn read_domain(node: &Node<'_>) -> Option<String> {
    let domain = node.text("a domain such as example.com")?.to_ascii_lowercase();
    let refusal = match domain.strip_prefix('.') {
        Some(bare) => Some(format!("write `{bare}` without the dot; subdomains are always included")),
        None => name::refuse_dns_name(&domain),
    };
    match refusal {
        Some(refusal) => {
            node.fail(refusal);
            None
        }
        None => Some(domain),
    }
}

fn read_max_age(node: &Node<'_>) -> Option<Option<Duration>> {
    if node.as_text() == Some("session") {
        return Some(None);
    }
    if node.is_off() {
        node.fail("cannot be `off`; write `session` for a cookie without Max-Age");
        return None;
    }
    node.duration(MAX_AGE).map(Some)
}

fn read_secure(node: &Node<'_>) -> Option<Secure> {
    match node.scalar() {
        Some(Scalar::Boolean(true)) => Some(Secure::Always),
        Some(Scalar::String(word)) if word == "auto" => Some(Secure::Auto),
        _ if node.is_off() => Some(Secure::Never),
        _ => {
            node.fail_expected("`auto`, `true` or `false`", "");
            None
        }
    }
}
