//! A TCP copy loop that knows no HTTP: the floor of any proxy in user space.
//!
//! One thread, `epoll` level-triggered, one scratch buffer for all connections; a connection costs one small slot and
//! holds bytes of its own only while its reader is slower than its writer. So the loop does what cannot be left out
//! (one wait, one read, one write for an event) and its cost is what the ratios in the report are taken to.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use anyhow::Context;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::cli::RelayArgs;

/// The token of the listening socket; sockets have their slot's number.
const LISTENER: u64 = u64::MAX;
/// Chosen by measurement: 16 KiB cost a third more CPU in a burst, 32 KiB and 64 KiB the same.
const SCRATCH_BYTES: usize = 64 * 1024;
const EVENTS_AT_ONCE: usize = 256;

/// Copies until the process is ended.
pub(crate) fn run(arguments: &RelayArgs) -> anyhow::Result<()> {
    let listener = TcpListener::bind(arguments.listen).context("cannot listen")?;
    // std's backlog of 128 (4,096 since 1.78) would refuse a crowd: listen again with a longer one.
    rustix::net::listen(&listener, 4_096)?;
    let mut relay = Relay::new(listener, arguments.pods.clone())?;
    loop {
        relay.turn().context("the copy loop failed")?;
    }
}

struct Relay {
    epoll: OwnedFd,
    listener: TcpListener,
    pods: Vec<SocketAddr>,
    next_pod: usize,
    slots: Vec<Option<Socket>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    events: Vec<Event>,
}

/// A socket of a copied connection, with its buffer.
struct Socket {
    stream: TcpStream,
    /// The slot of the other side.
    other: usize,
    /// Bytes that this side has not taken yet. While there are any, the other side is not read.
    waiting: Vec<u8>,
}

/// State of a connection after a step.
#[derive(PartialEq, Eq)]
enum Step {
    Goes,
    Ended,
}

impl Relay {
    fn new(listener: TcpListener, pods: Vec<SocketAddr>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            pods,
            next_pod: 0,
            slots: Vec::new(),
            free: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            events: Vec::with_capacity(EVENTS_AT_ONCE),
        })
    }

    /// Waits once and handles what came.
    fn turn(&mut self) -> io::Result<()> {
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let events = std::mem::take(&mut self.events);
        for event in &events {
            let token = event.data.u64();
            match usize::try_from(token) {
                _ if token == LISTENER => self.accept()?,
                Ok(slot) => self.serve(slot, event.flags),
                Err(_) => {}
            }
        }
        self.events = events;
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                // A pod that refuses costs this client its connection, nothing else.
                Ok((client, _)) => drop(self.link(client)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn link(&mut self, client: TcpStream) -> io::Result<()> {
        let pod = self.pods.get(self.next_pod % self.pods.len()).copied();
        self.next_pod = self.next_pod.wrapping_add(1);
        let Some(pod) = pod else { return Ok(()) };
        // On loopback a connection is there at once, or refused.
        let pod = TcpStream::connect(pod)?;
        for stream in [&client, &pod] {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
        }
        let client_slot = self.free_slot();
        let pod_slot = self.free_slot();
        self.place(client_slot, Socket { stream: client, other: pod_slot, waiting: Vec::new() })?;
        self.place(pod_slot, Socket { stream: pod, other: client_slot, waiting: Vec::new() })
    }

    fn free_slot(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }

    fn place(&mut self, slot: usize, socket: Socket) -> io::Result<()> {
        epoll::add(&self.epoll, &socket.stream, EventData::new_u64(slot as u64), EventFlags::IN)?;
        if let Some(place) = self.slots.get_mut(slot) {
            *place = Some(socket);
        }
        Ok(())
    }

    /// An event of a slot that was freed, or given anew, in the same turn does no harm: nothing there, or nothing to read.
    fn serve(&mut self, slot: usize, flags: EventFlags) {
        let mut step = Step::Goes;
        if flags.contains(EventFlags::OUT) {
            step = self.write_waiting(slot);
        }
        if step == Step::Goes && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            step = if self.may_read(slot) { self.copy_from(slot) } else { Step::Goes };
            if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                // Both directions are over, and the rest has no reader.
                step = Step::Ended;
            }
        }
        if step == Step::Ended {
            self.close(slot);
        }
    }

    fn copy_from(&mut self, slot: usize) -> Step {
        let Some(Some(from)) = self.slots.get(slot) else { return Step::Goes };
        let other = from.other;
        let length = match rustix::io::read(&from.stream, &mut self.scratch) {
            Ok(0) => return Step::Ended,
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return Step::Goes,
            Err(_) => return Step::Ended,
        };
        let bytes = self.scratch.get(..length).unwrap_or_default();
        let Some(Some(to)) = self.slots.get_mut(other) else { return Step::Ended };
        match rustix::io::write(&to.stream, bytes) {
            Ok(written) if written == length => return Step::Goes,
            Ok(written) => to.waiting = bytes.get(written..).unwrap_or_default().to_vec(),
            Err(Errno::AGAIN | Errno::INTR) => to.waiting = bytes.to_vec(),
            Err(_) => return Step::Ended,
        }
        self.listen_anew(other);
        self.listen_anew(slot);
        Step::Goes
    }

    fn write_waiting(&mut self, slot: usize) -> Step {
        let Some(Some(socket)) = self.slots.get_mut(slot) else { return Step::Goes };
        let other = socket.other;
        match rustix::io::write(&socket.stream, &socket.waiting) {
            Ok(written) => drop(socket.waiting.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => return Step::Goes,
            Err(_) => return Step::Ended,
        }
        if socket.waiting.is_empty() {
            socket.waiting = Vec::new();
            self.listen_anew(slot);
            self.listen_anew(other);
        }
        Step::Goes
    }

    /// Room for bytes of its own is waited for, and nothing is read for a side that has not taken all yet.
    fn listen_anew(&self, slot: usize) {
        let Some(Some(socket)) = self.slots.get(slot) else { return };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::OUT, !socket.waiting.is_empty());
        flags.set(EventFlags::IN, !self.waits(socket.other));
        // Fails for a socket that is no longer there: its close comes as an event of its own.
        let _ = epoll::modify(&self.epoll, &socket.stream, EventData::new_u64(slot as u64), flags);
    }

    fn may_read(&self, slot: usize) -> bool {
        matches!(self.slots.get(slot), Some(Some(socket)) if !self.waits(socket.other))
    }

    fn waits(&self, slot: usize) -> bool {
        matches!(self.slots.get(slot), Some(Some(socket)) if !socket.waiting.is_empty())
    }

    /// Ends both sides; dropping a socket takes it out of the epoll set.
    fn close(&mut self, slot: usize) {
        let Some(socket) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        self.free.push(slot);
        if self.slots.get_mut(socket.other).and_then(Option::take).is_some() {
            self.free.push(socket.other);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;

    use super::*;

    /// A relay in a thread of its own, which ends with the test's process, before one scripted pod.
    fn relay_to(pod: &TcpListener) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pod = pod.local_addr().unwrap();
        thread::spawn(move || {
            let mut relay = Relay::new(listener, vec![pod]).unwrap();
            while relay.turn().is_ok() {}
        });
        address
    }

    #[test]
    fn a_slow_reader_gets_every_byte_in_order() {
        let pod = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(relay_to(&pod)).unwrap();
        let sent: Vec<u8> = (0..32_000_000_u32).map(|number| (number % 251) as u8).collect();
        let expected = sent.clone();
        let (mut upstream, _) = pod.accept().unwrap();
        // Far more than the socket buffers hold, without a reader: the relay must wait without losing or growing.
        let writer = thread::spawn(move || upstream.write_all(&sent).map(|()| upstream));
        let mut received = vec![0; expected.len()];
        client.read_exact(&mut received).unwrap();
        assert!(received == expected, "bytes were lost or changed");
        drop(writer.join().unwrap());
    }

    #[test]
    fn the_end_of_one_side_ends_the_other() {
        let pod = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(relay_to(&pod)).unwrap();
        client.write_all(b"hello").unwrap();
        let (mut upstream, _) = pod.accept().unwrap();
        let mut heard = [0; 5];
        upstream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        drop(client);
        assert_eq!(upstream.read(&mut heard).unwrap(), 0);
    }
}
