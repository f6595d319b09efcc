//! The test's end of a response that is written piece by piece.

use tokio::sync::{mpsc, oneshot, watch};

use super::PodRequest;
use super::answer::{Framing, chunk};
use crate::in_time;
use crate::wire::Ending;

/// A command of the test to the connection.
#[derive(Debug)]
pub(super) enum Command {
    /// Write these bytes, then answer whether the socket took them.
    Write(Vec<u8>, oneshot::Sender<bool>),
    /// The response is complete: wait for the next request on this connection.
    NextRequest,
    /// FIN.
    Close,
    /// RST.
    Reset,
}

/// Drives one response. Dropping it leaves the response open and silent.
#[derive(Debug)]
pub struct PodStream {
    /// The request that is being answered.
    pub request: PodRequest,
    pub(super) framing: Framing,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) gone: watch::Receiver<Option<Ending>>,
}

impl PodStream {
    /// Sends `data: <data>` as an event.
    pub async fn event(&mut self, data: &str) {
        self.send(&format!("data: {data}\n\n")).await;
    }

    /// Sends an event with an id.
    pub async fn event_with_id(&mut self, id: &str, data: &str) {
        self.send(&format!("id: {id}\ndata: {data}\n\n")).await;
    }

    /// Sends bytes of the body, framed as the head announced.
    ///
    /// # Panics
    /// When the client is gone.
    pub async fn send(&mut self, body: &str) {
        let taken = self.try_send(body.as_bytes()).await;
        assert!(taken, "the proxy has closed its connection to the pod");
    }

    /// Sends bytes of the body; `false` when the client is gone.
    pub async fn try_send(&mut self, body: &[u8]) -> bool {
        match self.framing {
            Framing::Chunked => self.try_raw(&chunk(body)).await,
            Framing::UntilClose | Framing::Http10 => self.try_raw(body).await,
        }
    }

    /// Sends bytes as they are, whatever the framing.
    ///
    /// # Panics
    /// When the client is gone.
    pub async fn raw(&mut self, bytes: &str) {
        assert!(self.try_raw(bytes.as_bytes()).await, "the proxy has closed its connection to the pod");
    }

    /// Sends bytes as they are; `false` when the client is gone. Waits as long as the client does not read.
    pub async fn try_raw(&mut self, bytes: &[u8]) -> bool {
        let (done, taken) = oneshot::channel();
        self.commands.send(Command::Write(bytes.to_vec(), done)).is_ok() && taken.await.unwrap_or(false)
    }

    /// Ends the response as its framing says: the last chunk, or a FIN.
    pub async fn finish(mut self) {
        match self.framing {
            Framing::Chunked => {
                self.raw("0\r\n\r\n").await;
                self.command(Command::NextRequest);
            }
            Framing::UntilClose | Framing::Http10 => self.command(Command::Close),
        }
    }

    /// FIN, without the last chunk.
    pub fn close(self) {
        self.command(Command::Close);
    }

    /// RST.
    pub fn reset(self) {
        self.command(Command::Reset);
    }

    /// Waits until the other side has ended the connection, and says how.
    pub async fn client_gone(&mut self) -> Ending {
        let gone =
            in_time("the proxy closing its connection to the pod", self.gone.wait_for(Option::is_some));
        match gone.await {
            Ok(ending) => ending.clone().expect("waited for it"),
            // The connection's task has ended with everything it had to say.
            Err(_) => Ending::Cut,
        }
    }

    /// Whether the other side has ended the connection.
    pub fn is_client_gone(&self) -> bool {
        self.gone.borrow().is_some()
    }

    fn command(&self, command: Command) {
        // The connection may have ended: then the command is moot.
        let _moot = self.commands.send(command);
    }
}
