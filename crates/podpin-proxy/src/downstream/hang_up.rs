//! The end of a client whose bytes are not read: one that left behind more than is kept of its next requests.
//!
//! The end of the connection stands behind the bytes, where no read comes. The kernel tells it all the same (`EPOLLRDHUP`). It is asked by a
//! descriptor of its own, because readiness that is cleared on the connection's would be missing for its next read.

use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use crate::downstream::gone::Gone;

/// A watch on the end of a connection; begun when it is polled for the first time.
#[derive(Default)]
pub(crate) struct HangUp {
    watch: Option<Box<TcpStream>>,
}

impl HangUp {
    /// Polls for the end of the connection, whatever stands before it.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, tcp: &TcpStream) -> Poll<Gone> {
        let watch = match self.watch.take().map_or_else(|| begin(tcp), Ok) {
            Ok(watch) => self.watch.insert(watch),
            // Without a descriptor to spare, clients like this one are the first to go.
            Err(error) => {
                tracing::debug!(%error, "a connection cannot be watched");
                return Poll::Ready(Gone);
            }
        };
        loop {
            if ready!(watch.poll_read_ready(context)).is_err() {
                return Poll::Ready(Gone);
            }
            match unconstrained(watch.ready(Interest::READABLE)).now_or_never() {
                Some(Ok(ready)) if !ready.is_read_closed() => await_more(watch),
                Some(_) => return Poll::Ready(Gone),
                None => {}
            }
        }
    }
}

/// Returns another descriptor of the connection.
fn begin(tcp: &TcpStream) -> io::Result<Box<TcpStream>> {
    TcpStream::from_std(tcp.as_fd().try_clone_to_owned()?.into()).map(Box::new)
}

/// Has the watch say nothing before something new has come.
fn await_more(watch: &TcpStream) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    // An error, as it was meant to be.
    let _nothing = watch.try_io(Interest::READABLE, nothing);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::connected;

    #[tokio::test]
    async fn an_end_is_seen_behind_bytes_that_nobody_reads_and_the_bytes_are_still_there() {
        let (mut client, mut proxy) = connected().await;
        let mut hang_up = HangUp::default();
        client.write_all(b"GET /next").await.unwrap();
        proxy.readable().await.unwrap();
        {
            let mut gone = pin!(poll_fn(|context| hang_up.poll(context, &proxy)));
            assert!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            client.write_all(b" HTTP/1.1").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(gone.await, Gone);
        }
        let mut bytes = String::new();
        proxy.read_to_string(&mut bytes).await.unwrap();
        assert_eq!(bytes, "GET /next HTTP/1.1");
    }
}
