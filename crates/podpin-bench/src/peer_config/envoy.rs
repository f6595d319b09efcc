//! Envoy's configuration: one worker, a cookie that names the endpoint, nothing logged, no timeout within the run.
//!
//! Windows and buffers are those of Envoy's own advice for a proxy at the edge ("Configuring Envoy as an edge proxy"), the
//! rest is as by default. Circuit breakers would end a run at 1,024 requests. Endpoints are static: it is not reloaded.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::Layout;
use crate::certificate::Certificate;

const TYPES: &str = "type.googleapis.com/envoy.extensions";
/// Bytes that are buffered for a connection.
const BUFFER_BYTES: u32 = 32 * 1024;

/// Envoy, started with `--concurrency 1`.
pub(crate) fn envoy(layout: &Layout<'_>) -> String {
    let mut listeners =
        vec![listener("http", layout.http, "HTTP1", None), listener("h2c", layout.h2c, "HTTP2", None)];
    listeners.extend(
        layout.certificate.map(|certificate| listener("https", layout.https, "AUTO", Some(certificate))),
    );
    let configuration = json!({"static_resources": {"listeners": listeners, "clusters": [cluster(layout)]}});
    format!("{configuration:#}\n")
}

fn listener(name: &str, at: SocketAddr, codec: &str, certificate: Option<&Certificate>) -> Value {
    let manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": connection_manager(name, codec),
    });
    let mut chain = Map::from_iter([("filters".to_owned(), json!([manager]))]);
    if let Some(certificate) = certificate {
        let pair = json!({
            "certificate_chain": {"filename": certificate.chain()},
            "private_key": {"filename": certificate.key()},
        });
        let tls = json!({
            "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [pair],
            },
        });
        let socket = json!({"name": "envoy.transport_sockets.tls", "typed_config": tls});
        chain.insert("transport_socket".to_owned(), socket);
    }
    json!({
        "name": name,
        "address": address(at),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    })
}

fn connection_manager(name: &str, codec: &str) -> Value {
    let cookie = json!({
        "@type": format!("{TYPES}.http.stateful_session.cookie.v3.CookieBasedSessionState"),
        "cookie": {"name": "bench", "path": "/"},
    });
    let session = json!({
        "@type": format!("{TYPES}.filters.http.stateful_session.v3.StatefulSession"),
        "session_state": {"name": "envoy.http.stateful_session.cookie", "typed_config": cookie},
    });
    let router = json!({"@type": format!("{TYPES}.filters.http.router.v3.Router")});
    let route = json!({
        "match": {"prefix": "/"},
        "route": {
            "cluster": "pods",
            "timeout": "0s",
            "retry_policy": {"retry_on": "connect-failure", "num_retries": 2},
        },
    });
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "codec_type": codec,
        "use_remote_address": true,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "common_http_protocol_options": {"idle_timeout": "3600s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65_536,
            "initial_connection_window_size": 1_048_576,
        },
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.stateful_session", "typed_config": session},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    })
}

fn cluster(layout: &Layout<'_>) -> Value {
    let endpoints: Vec<Value> =
        layout.pods.iter().map(|pod| json!({"endpoint": {"address": address(*pod)}})).collect();
    let most = layout.files;
    json!({
        "name": "pods",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "ROUND_ROBIN",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "circuit_breakers": {"thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
        }]},
        "load_assignment": {"cluster_name": "pods", "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip(), "port_value": of.port()}})
}
