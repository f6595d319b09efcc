//! The configuration of each proxy: one worker, HTTP/1.1 to the pods, cookie affinity over them, nothing logged.
//!
//! Each is set up as its own documentation recommends for event streams, so that podpin is compared with proxies at
//! their best: keep-alive connections to the pods, no buffering, timeouts beyond the run. For TLS all have the same
//! certificate and their defaults, but for what their documentation advises (it is said where); clients offer TLS 1.3 alone.

mod envoy;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

pub(crate) use self::envoy::envoy;
use crate::certificate::Certificate;

/// Where a proxy listens and what lies behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a> {
    /// For HTTP/1.1.
    pub(crate) http: SocketAddr,
    /// For HTTP/2 in plaintext with prior knowledge.
    pub(crate) h2c: SocketAddr,
    /// For HTTP/1.1 and HTTP/2 over TLS.
    pub(crate) https: SocketAddr,
    /// `None` if TLS is not measured; a TLS listener would only cost memory then.
    pub(crate) certificate: Option<&'a Certificate>,
    /// podpin's admin port.
    pub(crate) admin: SocketAddr,
    pub(crate) pods: &'a [SocketAddr],
    /// The directory for files of its own.
    pub(crate) directory: &'a Path,
    /// The hard limit of open files: two for each stream.
    pub(crate) files: u64,
    /// Configuration of podpin that is there besides the measured part.
    pub(crate) beside: Beside,
    pub(crate) upkeep: Upkeep,
}

/// Changes that a proxy goes through while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upkeep {
    Left,
    /// HAProxy needs a master process for it, which is left out elsewhere.
    Reloaded,
}

/// podpin's list of endpoints where it does not stand in the configuration.
pub(crate) const ENDPOINTS_FILE: &str = "endpoints.yaml";

/// Much of one kind that no request of the benchmark is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    Nothing,
    /// Each for a host and a path of its own.
    Routes(u32),
    /// Each with one endpoint and a route of its own.
    Services(u32),
    /// Not ready, of the service that is measured.
    Endpoints(u32),
}

impl Beside {
    /// Returns the name in the table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Nothing => "alone".to_owned(),
            Self::Routes(count) => format!("beside {count} routes"),
            Self::Services(count) => format!("beside {count} services"),
            Self::Endpoints(count) => format!("beside {count} endpoints"),
        }
    }

    /// Entries of `routes`, of `services`, and of the measured service's endpoints, which are in a file then; those after
    /// `changes` changes.
    fn entries(self, changes: u32) -> [String; 3] {
        let each = |count, entry: &dyn Fn(u32) -> String| (0..count).map(entry).collect::<String>();
        let route = |service: &'static str| {
            move |number: u32| {
                let service = service.replace('#', &number.to_string());
                format!(
                    "  - {{name: r{number}, hostnames: [h{number}.example.com], matches: [{{path: {{value: /p{number}}}}}], \
                     service: {service}}}\n"
                )
            }
        };
        let service =
            |number| format!("  s{number}: {{discovery: {{static: [{{name: p, address: 127.0.0.1:9}}]}}}}\n");
        let endpoint = |number: u32| {
            let [_, b, c, d] = number.to_be_bytes();
            let name = far_endpoint(number, changes);
            format!("- {{name: {name}, address: \"10.{b}.{c}.{d}:80\", state: notReady}}\n")
        };
        match self {
            Self::Nothing => Default::default(),
            Self::Routes(count) => [each(count, &route("bench")), String::new(), String::new()],
            Self::Services(count) => [each(count, &route("s#")), each(count, &service), String::new()],
            Self::Endpoints(count) => [String::new(), String::new(), each(count, &endpoint)],
        }
    }
}

/// Each change replaces one endpoint of so many by another of another name.
pub(crate) const CHANGED_OF: u32 = 100;

/// The name of a distant endpoint after `changes` changes.
pub(crate) fn far_endpoint(number: u32, changes: u32) -> String {
    let replaced = (changes + CHANGED_OF - 1 - number % CHANGED_OF) / CHANGED_OF;
    format!("far-{number}-{replaced}")
}

impl Layout<'_> {
    fn connections(&self) -> u64 {
        self.files.saturating_sub(200) / 2
    }
}

/// podpin with every default of the product, but for: an ephemeral key, no access log, one worker, `drain.handover` as
/// asked for, and counts of streams and connections that only the limit of files bounds.
pub(crate) fn podpin(layout: &Layout<'_>, handover: &str) -> String {
    let [routes, services, _] = layout.beside.entries(0);
    let discovery = match layout.beside {
        Beside::Endpoints(_) => format!("file: {{path: {ENDPOINTS_FILE}}}"),
        _ => format!("static:\n{}", pods(layout.pods, "        ")),
    };
    let tls = layout.certificate.map_or_else(String::new, |certificate| {
        format!(
            "
  - name: https
    address: \"{https}\"
    tls: {{certificates: [{{certFile: \"{chain}\", keyFile: \"{key}\"}}]}}",
            https = layout.https,
            chain = certificate.chain().display(),
            key = certificate.key().display(),
        )
    });
    format!(
        "listeners:
  - {{name: http, address: \"{http}\"}}
  - {{name: h2c, address: \"{h2c}\", h2c: true}}{tls}
admin: {{address: \"{admin}\"}}
workers: 1
limits: {{connections: {files}, requestsPerConnection: off}}
affinityKeys: ephemeral
accessLog: off
routes:
  - {{name: all, service: bench}}
{routes}services:
{services}  bench:
    drain: {{handover: {handover}}}
    limits: {{streamsPerEndpoint: {files}}}
    discovery:
      {discovery}
",
        http = layout.http,
        h2c = layout.h2c,
        admin = layout.admin,
        files = layout.files,
    )
}

/// The endpoints file of [`Beside::Endpoints`] after `changes` changes.
pub(crate) fn endpoints(measured: &[SocketAddr], beside: Beside, changes: u32) -> String {
    let [_, _, others] = beside.entries(changes);
    pods(measured, "") + &others
}

fn pods(addresses: &[SocketAddr], indent: &str) -> String {
    let one = |(number, address)| format!("{indent}- {{name: pod-{number}, address: \"{address}\"}}\n");
    addresses.iter().enumerate().map(one).collect()
}

/// HAProxy with an inserted cookie. Without `http-no-delay` it waits for more to send, and events come 100 ms late;
/// `http-reuse always` lets new sessions use connections that are open already. Without `redispatch` a client whose server
/// refuses waits for three more tries a second apart and gets an error then; it retries no request that a server may have
/// begun, as by default. TLS is as by default: HAProxy already asks
/// OpenSSL to release the buffers of idle connections, keeps 20,000 sessions, and gives tickets; its manual advises
/// `tune.ssl.maxrecord` only for large answers over slow lines.
pub(crate) fn haproxy(layout: &Layout<'_>) -> String {
    let mut servers = String::new();
    for (number, address) in layout.pods.iter().enumerate() {
        let _ = writeln!(servers, "  server pod-{number} {address} cookie pod-{number}");
    }
    let tls = layout.certificate.map_or_else(String::new, |certificate| {
        format!("\n  bind {} ssl crt {} alpn h2,http/1.1", layout.https, certificate.both().display())
    });
    format!(
        "global
  nbthread 1
  maxconn {connections}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  option http-no-delay
  option redispatch 1
  http-reuse always
frontend http
  bind {http}
  bind {h2c} proto h2{tls}
  default_backend pods
backend pods
  balance roundrobin
  cookie bench insert indirect nocache httponly
{servers}",
        connections = layout.connections(),
        http = layout.http,
        h2c = layout.h2c,
    )
}

/// nginx. Debian's has no `sticky`: a cookie that it sets itself is hashed over the pods, which costs it no more. With
/// `proxy_request_buffering off` it does not write uploads to a file first.
pub(crate) fn nginx(layout: &Layout<'_>) -> String {
    let mut servers = String::new();
    for address in layout.pods {
        let _ = writeln!(servers, "    server {address} max_fails=0;");
    }
    let tls = layout.certificate.map_or_else(String::new, |certificate| nginx_tls(layout, certificate));
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx-body;
  proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi;
  uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  tcp_nodelay on;
  map $http_upgrade $connection {{ \"\" \"\"; default upgrade; }}
  map $cookie_bench $session {{ \"\" $request_id; default $cookie_bench; }}
  map $cookie_bench $new_cookie {{ \"\" \"bench=$request_id; Path=/; HttpOnly; SameSite=Lax\"; default \"\"; }}
  upstream pods {{
    hash $session consistent;
{servers}    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {http} backlog=4096;
    listen {h2c} http2 backlog=4096;{tls}
    location / {{
      proxy_pass http://pods;
      proxy_http_version 1.1;
      proxy_set_header Connection $connection;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_buffering off;
      proxy_request_buffering off;
      client_max_body_size 0;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
      add_header Set-Cookie $new_cookie;
    }}
  }}
}}
",
        directory = layout.directory.display(),
        // When less than a sixteenth is free, nginx closes connections that have not sent a request yet.
        connections = layout.files + layout.files / 8,
        http = layout.http,
        h2c = layout.h2c,
    )
}

/// As nginx's guide "Configuring HTTPS servers" advises: a session cache that all workers share, 10 MB of it; and the
/// smaller `ssl_buffer_size` that the module's reference names for a short time to the first byte, which also makes a
/// stream over HTTP/1.1 6 to 11 KiB cheaper. Debian's version does not speak TLS 1.3 unless told to.
fn nginx_tls(layout: &Layout<'_>, certificate: &Certificate) -> String {
    format!(
        "
    listen {https} ssl http2 backlog=4096;
    ssl_certificate {chain};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:TLS:10m;
    ssl_buffer_size 4k;",
        https = layout.https,
        chain = certificate.chain().display(),
        key = certificate.key().display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_show_the_same_certificate_where_tls_is_measured_and_none_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(directory.path()).unwrap();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let layout = Layout {
            http: address(1),
            h2c: address(2),
            https: address(3),
            admin: address(4),
            certificate: Some(&certificate),
            pods: &[address(5)],
            directory: directory.path(),
            files: 20_000,
            beside: Beside::Nothing,
            upkeep: Upkeep::Left,
        };
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (chain, key, both) = (path("bench.crt"), path("bench.key"), path("bench.pem"));

        let text = podpin(&layout, "none");
        assert!(text.contains("    address: \"127.0.0.1:3\"\n    tls:"), "{text}");
        assert!(text.contains(&format!("{{certFile: \"{chain}\", keyFile: \"{key}\"}}")), "{text}");
        let text = haproxy(&layout);
        assert!(text.contains(&format!("bind 127.0.0.1:3 ssl crt {both} alpn h2,http/1.1\n")), "{text}");
        let text = nginx(&layout);
        assert!(text.contains("listen 127.0.0.1:3 ssl http2 "), "{text}");
        assert!(text.contains(&format!("ssl_certificate {chain};")), "{text}");
        assert!(text.contains(&format!("ssl_certificate_key {key};")), "{text}");

        let text = envoy(&layout);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let listeners = &parsed["static_resources"]["listeners"];
        assert_eq!(listeners[2]["address"]["socket_address"]["port_value"], 3);
        let tls = &listeners[2]["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"];
        assert_eq!(tls["tls_certificates"][0]["certificate_chain"]["filename"], chain.as_str());
        assert_eq!(tls["tls_certificates"][0]["private_key"]["filename"], key.as_str());

        let plain = Layout { certificate: None, ..layout };
        for text in [podpin(&plain, "none"), haproxy(&plain), nginx(&plain), envoy(&plain)] {
            assert!(
                !text.contains("127.0.0.1:3") && !text.contains("bench.") && !text.contains("https"),
                "{text}"
            );
        }

        let read = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        assert_eq!(read("bench.pem"), read("bench.crt") + &read("bench.key"));
    }

    #[test]
    fn what_stands_beside_the_measured_is_of_one_kind_and_as_much_as_was_asked_for() {
        let count = |size: Beside| size.entries(0).map(|text| text.lines().count());
        assert_eq!(count(Beside::Nothing), [0, 0, 0]);
        assert_eq!(count(Beside::Routes(1_000)), [1_000, 0, 0]);
        assert_eq!(count(Beside::Services(1_000)), [1_000, 1_000, 0]);
        assert_eq!(count(Beside::Endpoints(10_000)), [0, 0, 10_000]);
    }

    #[test]
    fn each_change_replaces_another_hundredth_of_the_endpoints() {
        let names = |changes| (0..1_000).map(|number| far_endpoint(number, changes)).collect::<Vec<_>>();
        for changes in 0..250 {
            let (before, after) = (names(changes), names(changes + 1));
            let replaced = |number: &u32| before[*number as usize] != after[*number as usize];
            let replaced: Vec<u32> = (0..1_000).filter(replaced).collect();
            assert_eq!(replaced.len(), 10);
            assert!(replaced.iter().all(|number| number % CHANGED_OF == changes % CHANGED_OF));
        }
        assert_eq!(names(0)[7], "far-7-0");
    }
}
