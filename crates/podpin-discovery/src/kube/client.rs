//! The client of the API server: connections that notice when the other end is gone, a token that is as new as its file or
//! its plugin at each request, and refusals that say how long the server asks to wait.
//!
//! kube makes its connections without keep-alive: one that a NAT or a load balancer has forgotten would be found out at the
//! end of a watch, minutes later. So the connector is made here, with everything else that kube's has: TLS, proxies,
//! credentials.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{AsyncBufRead, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Bytes;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::TokioExecutor;
use k8s_openapi::jiff::fmt::rfc2822;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::timeout;
use tower::util::MapErr;
use tower::{BoxError, Service};

use crate::kube::failure::{Failure, with_sources};
use crate::kube::plugin::{Given, Identity, Plugin};
use crate::kube::resource::Resource;
use crate::kube::token::TokenFile;

/// To connect, TLS included. An API server in the same cluster answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence after which the other end is probed, and the time between two probes. A watch is silent for a minute.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_PROBES: u32 = 3;

/// How long data or probes may be unacknowledged before the kernel gives the connection up (TCP_USER_TIMEOUT, RFC 5482).
/// With the time to connect anew this is within the 45 s that client-go takes (30 s of silence, 15 s for its ping).
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A `Status` of the API is a few hundred bytes.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Time for the body of a refusal, which comes with its head.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Fields by which API priority and fairness says which queue a request was in.
const FAIRNESS: [HeaderName; 2] = [
    HeaderName::from_static("x-kubernetes-pf-flowschema-uid"),
    HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid"),
];

/// The body of a response.
pub(crate) type Reader = Pin<Box<dyn AsyncBufRead + Send>>;

/// A client of one API server. Clones share its connections.
#[derive(Clone)]
pub(crate) struct ApiClient {
    config: Arc<Config>,
    credentials: Credentials,
    made: Arc<Mutex<Made>>,
}

/// kube's client, and the certificate that it shows.
struct Made {
    client: Client,
    /// Number of the plugin's credential that the certificate is of; `None` if it is of none.
    identity: Option<u64>,
}

/// Credentials that change without another configuration. All others are a part of the configuration.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    /// None.
    Fixed,
    /// The token of a file.
    File(Arc<TokenFile>),
    /// The token, the certificate or both that a plugin gives.
    Plugin(Arc<Plugin>),
}

impl Credentials {
    /// Keeps them as new as can be, and logs when that fails; for ever. A run of a plugin may take `limit`.
    pub(crate) async fn keep(&self, limit: Duration) -> ! {
        match self {
            Credentials::Fixed => std::future::pending().await,
            Credentials::File(token) => token.watch().await,
            Credentials::Plugin(plugin) => plugin.keep(limit).await,
        }
    }
}

/// A refusal's body: a `Status` of the API, as far as it is needed.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(default)]
    retry_after_seconds: Option<u64>,
}

impl ApiClient {
    /// Makes a client of a configuration without the credentials that are given beside it.
    ///
    /// # Errors
    /// If a certificate, a key or a proxy is wrong.
    pub(crate) fn new(config: Arc<Config>, credentials: Credentials) -> Result<ApiClient, kube::Error> {
        let given = match &credentials {
            Credentials::Plugin(plugin) => plugin.given(),
            Credentials::Fixed | Credentials::File(_) => None,
        };
        let made = Arc::new(Mutex::new(Made::of(&config, given.as_ref())?));
        Ok(ApiClient { config, credentials, made })
    }

    /// Returns whether the credentials become new by themselves when they are refused.
    pub(crate) fn renews_credentials(&self) -> bool {
        matches!(&self.credentials, Credentials::Plugin(plugin) if plugin.is_kept())
    }

    /// Sends a request and returns the body of its response.
    ///
    /// # Errors
    /// [`Failure`] if there is no response, or one that is no success.
    pub(crate) async fn send(
        &self,
        mut request: Request<Vec<u8>>,
        verb: &'static str,
        resource: &'static Resource,
    ) -> Result<Reader, Failure> {
        let given = match &self.credentials {
            Credentials::Plugin(plugin) => plugin.given(),
            Credentials::Fixed | Credentials::File(_) => None,
        };
        let authorization = match &self.credentials {
            Credentials::Fixed => None,
            Credentials::File(token) => Some(token.authorization()),
            Credentials::Plugin(_) => given.as_ref().and_then(Given::authorization).cloned(),
        };
        if let Some(value) = authorization {
            request.headers_mut().insert(http::header::AUTHORIZATION, value);
        }
        let response = self.client(given.as_ref()).send(request.map(Body::from)).await;
        let response = response.map_err(|error| Failure::Unreachable(with_sources(&error)))?;
        self.judge(given.as_ref(), response.status())?;
        if response.status().is_success() {
            let body = response.into_body().into_data_stream().map_err(std::io::Error::other);
            return Ok(Box::pin(body.into_async_read()));
        }
        Err(refusal(response, verb, resource).await)
    }

    /// Returns kube's client, which shows the certificate that was `given` last.
    fn client(&self, given: Option<&Given>) -> Client {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other =
            |given: &&Given| given.credential.identity.is_some() && made.identity != Some(given.number);
        if let Some(given) = given.filter(is_other) {
            match Made::of(&self.config, Some(given)) {
                Ok(other) => *made = other,
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::error!(error, "the certificate of the credential plugin cannot be used");
                    made.identity = Some(given.number);
                }
            }
        }
        made.client.clone()
    }

    /// Tells a plugin what the API server thinks of its credential.
    ///
    /// # Errors
    /// If it is refused, and the plugin failed to give another one.
    fn judge(&self, given: Option<&Given>, status: StatusCode) -> Result<(), Failure> {
        let (Credentials::Plugin(plugin), Some(given)) = (&self.credentials, given) else { return Ok(()) };
        if status != StatusCode::UNAUTHORIZED {
            plugin.accepted(given.number);
            return Ok(());
        }
        plugin.refused(given.number).map_or(Ok(()), |words| Err(Failure::Plugin(words)))
    }
}

impl Made {
    fn of(config: &Config, given: Option<&Given>) -> Result<Made, kube::Error> {
        let Some((identity, number)) =
            given.and_then(|given| Some((given.credential.identity.as_ref()?, given.number)))
        else {
            return Ok(Made { client: client(config)?, identity: None });
        };
        let Identity { certificate, key } = identity;
        let mut config = config.clone();
        config.auth_info.client_certificate_data = Some(BASE64.encode(certificate));
        config.auth_info.client_key_data = Some(SecretString::from(BASE64.encode(key.expose_secret())));
        Ok(Made { client: client(&config)?, identity: Some(number) })
    }
}

/// Classifies a response that is no success.
async fn refusal(response: Response<Body>, verb: &'static str, resource: &'static Resource) -> Failure {
    let (head, body) = response.into_parts();
    let asked = retry_after(&head.headers, SystemTime::now());
    if matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let [flow_schema, priority_level] = FAIRNESS.map(|name| text(&head.headers, &name));
        tracing::debug!(
            status = head.status.as_u16(),
            verb,
            retry_after = ?asked,
            flow_schema,
            priority_level,
            "the API server throttles"
        );
    }
    // A body that does not end must not cost what the head has said already.
    let body = timeout(REFUSAL_TIMEOUT, Limited::new(body, REFUSAL_BYTES_MAX).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) | Err(_) => Bytes::new(),
    };
    let status: Refusal = serde_json::from_slice(&body).unwrap_or_default();
    let message = match status.message.is_empty() {
        true => String::from_utf8_lossy(&body).into_owned(),
        false => status.message,
    };
    let detailed = status.details.and_then(|details| details.retry_after_seconds).map(Duration::from_secs);
    Failure::of_status(head.status.as_u16(), &message, verb, resource).asking_to_wait(asked.or(detailed))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Returns how long `Retry-After` (RFC 9110, section 10.2.3) asks to wait: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = rfc2822::parse(value).ok()?.timestamp();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.as_second()).ok()?);
    Some(at.duration_since(now).unwrap_or_default())
}

/// Makes kube's client with a connector of our own, through the proxy of the configuration if it names one.
fn client(config: &Config) -> Result<Client, kube::Error> {
    let connector = connector();
    let Some(proxy) = config.proxy_url.clone() else { return client_over(config, connector) };
    match proxy.scheme_str() {
        Some("socks5") => {
            let tunnel = SocksV5::new(proxy.clone(), connector);
            client_over(
                config,
                match login(&proxy) {
                    // RFC 1929: a user name without a password is one with an empty password.
                    Some(login) => {
                        let (user, password) = login.split_once(':').unwrap_or((&login, ""));
                        tunnel.with_auth(decoded(user), decoded(password))
                    }
                    None => tunnel,
                },
            )
        }
        Some("http") => client_over(config, authorized(Tunnel::new(proxy.clone(), connector), &proxy)),
        Some("https") => {
            let connector = config.rustls_https_connector_with_connector(connector)?;
            client_over(config, authorized(Tunnel::new(proxy.clone(), connector), &proxy))
        }
        _ => Err(kube::Error::ProxyProtocolUnsupported { proxy_url: Box::new(proxy) }),
    }
}

/// Returns the maker of TCP connections.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEP_ALIVE_IDLE));
    connector.set_keepalive_interval(Some(KEEP_ALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEP_ALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    connector
}

/// Adds the user and password in the proxy's URL.
fn authorized<C>(tunnel: Tunnel<C>, proxy: &Uri) -> Tunnel<C> {
    let Some(login) = login(proxy) else { return tunnel };
    let basic = format!("Basic {}", BASE64.encode(decoded(&login)));
    match HeaderValue::try_from(basic) {
        Ok(value) => tunnel.with_auth(value),
        Err(_) => tunnel,
    }
}

/// Returns the user and password in a proxy's URL, as they are written there.
fn login(proxy: &Uri) -> Option<String> {
    let (login, _) = proxy.authority()?.as_str().rsplit_once('@')?;
    Some(login.to_owned())
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn client_over<C>(config: &Config, connector: C) -> Result<Client, kube::Error>
where
    C: Service<Uri> + Clone + Send + Sync + 'static,
    C::Response: Connection + hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: StdError + Send + Sync + 'static,
{
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector)?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let client: HyperClient<_, Body> = HyperClient::builder(TokioExecutor::new()).build(connector);
    let client = MapErr::new(client, BoxError::from);
    let builder = ClientBuilder::new(client, config.default_namespace.clone());
    let builder = builder.with_layer(&config.extra_headers_layer()?);
    let base = config.base_uri_layer();
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&base).build(),
        None => builder.with_layer(&base).build(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let cases = [
            ("7", Some(7)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
