//! Both ends of an upgraded connection, as its relay writes to them and closes them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use crate::downstream::tunnel_client::TunnelClient;
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
        match self {
            TunnelClient::Socket(transport) => transport.poll_write_some(context, bytes),
            TunnelClient::Stream(stream) => stream.poll_write(context, bytes).map_err(io::Error::from),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            TunnelClient::Socket(transport) => transport.poll_flush_held(context),
            TunnelClient::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            TunnelClient::Socket(transport) => Pin::new(transport).poll_shutdown(context),
            TunnelClient::Stream(stream) => Poll::Ready(stream.end().map_err(io::Error::from)),
        }
    }
}

impl Sink for Transport {
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_some(context, bytes)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush_held(context)
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), context)
    }
}
