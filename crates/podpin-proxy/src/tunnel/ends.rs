//! Both ends of an upgraded connection, as its relay writes to them and closes them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::downstream::tunnel_client::{self, TunnelClient};
use crate::net::transport::Transport;
use crate::tunnel::flow::Sink;

/// Both ends of a connection.
pub(crate) struct Ends {
    /// Client.
    pub client: TunnelClient,
    /// Upstream.
    pub upstream: Transport,
}

/// Reason for which a connection is over at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The client reset its connection, or takes no more.
    Client,
    /// The upstream reset its connection.
    Upstream,
}

impl Ends {
    /// Closes both. If one is `broken`, the other can tell that from an end.
    pub(crate) fn close(self, broken: Option<Broken>) {
        let Ends { client, upstream } = self;
        match broken {
            None => {
                client.close();
                upstream.close();
            }
            Some(Broken::Client) => upstream.reset(),
            Some(Broken::Upstream) => client.reset(),
        }
    }
}

impl Sink for TunnelClient {
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        TunnelClient::poll_write(self, context, bytes)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        TunnelClient::poll_flush(self, context)
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        TunnelClient::poll_shutdown(self, context)
    }
}

impl Sink for Transport {
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        tunnel_client::poll_write(self, context, bytes)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tunnel_client::poll_flush(self, context)
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), context)
    }
}
