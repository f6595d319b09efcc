//! The configuration of each proxy: one worker, plain HTTP/1.1, cookie affinity over the pods, nothing logged.
//!
//! Each is set up as its own documentation recommends for event streams, so that podpin is compared with proxies at
//! their best: keep-alive connections to the pods, no buffering, timeouts beyond the run.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// Where a proxy listens and what lies behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a> {
    /// For HTTP/1.1.
    pub(crate) http: SocketAddr,
    /// For HTTP/2 in plaintext with prior knowledge.
    pub(crate) h2c: SocketAddr,
    /// podpin's admin port.
    pub(crate) admin: SocketAddr,
    pub(crate) pods: &'a [SocketAddr],
    /// The directory for files of its own.
    pub(crate) directory: &'a Path,
    /// The hard limit of open files: two for each stream.
    pub(crate) files: u64,
}

impl Layout<'_> {
    fn connections(&self) -> u64 {
        self.files.saturating_sub(200) / 2
    }
}

/// podpin with every default of the product, but for: an ephemeral key, no access log, one worker, and `drain.handover` as
/// asked for.
pub(crate) fn podpin(layout: &Layout<'_>, handover: &str) -> String {
    let mut endpoints = String::new();
    for (number, address) in layout.pods.iter().enumerate() {
        let _ = writeln!(endpoints, "        - {{name: pod-{number}, address: \"{address}\"}}");
    }
    format!(
        "listeners:
  - {{name: http, address: \"{http}\"}}
  - {{name: h2c, address: \"{h2c}\", h2c: true}}
admin: {{address: \"{admin}\"}}
workers: 1
limits: {{connections: 50000, requestsPerConnection: off}}
affinityKeys: ephemeral
accessLog: off
routes:
  - {{name: all, service: bench}}
services:
  bench:
    drain: {{handover: {handover}}}
    discovery:
      static:
{endpoints}",
        http = layout.http,
        h2c = layout.h2c,
        admin = layout.admin,
    )
}

/// HAProxy with an inserted cookie. Without `http-no-delay` it waits for more to send, and events come 100 ms late;
/// `http-reuse always` lets new sessions use connections that are open already.
pub(crate) fn haproxy(layout: &Layout<'_>) -> String {
    let mut servers = String::new();
    for (number, address) in layout.pods.iter().enumerate() {
        let _ = writeln!(servers, "  server pod-{number} {address} cookie pod-{number}");
    }
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
  http-reuse always
frontend http
  bind {http}
  bind {h2c} proto h2
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

/// nginx. Debian's has no `sticky`: a cookie that it sets itself is hashed over the pods, which costs it no more.
pub(crate) fn nginx(layout: &Layout<'_>) -> String {
    let mut servers = String::new();
    for address in layout.pods {
        let _ = writeln!(servers, "    server {address} max_fails=0;");
    }
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
  map $cookie_bench $session {{ \"\" $request_id; default $cookie_bench; }}
  map $cookie_bench $new_cookie {{ \"\" \"bench=$request_id; Path=/; HttpOnly; SameSite=Lax\"; default \"\"; }}
  upstream pods {{
    hash $session consistent;
{servers}    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {http} backlog=4096;
    listen {h2c} http2 backlog=4096;
    location / {{
      proxy_pass http://pods;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_buffering off;
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
