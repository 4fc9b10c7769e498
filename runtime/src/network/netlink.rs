//! Two netlink sockets: one that hears notices, one that asks. What the bytes say is for `moorline_core::network`.

use std::io;
use std::os::unix::net::UnixDatagram as Datagrams;

use moorline_core::network::rtnetlink::{self, Message, Request};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;

/// The kernel's own datagrams hold 32 KiB; one interface with many functions can be larger.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Datagrams thrown away at once; more than a socket holds.
const NOTICES_MAX: usize = 10_000;

/// A netlink socket in the clothes of a datagram socket: the same system calls send and receive, and no `unsafe` is needed
/// to wait for it.
fn open(groups: u32) -> io::Result<UnixDatagram> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol: NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    UnixDatagram::from_std(Datagrams::from(socket))
}

fn is_overflow(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

/// Hears that something changed.
pub(super) struct Ear(UnixDatagram);

impl Ear {
    pub(super) fn open() -> io::Result<Self> {
        open(rtnetlink::GROUPS).map(Self)
    }

    /// Comes back when something changed.
    pub(super) async fn hear(&mut self) -> io::Result<()> {
        // The words do not matter, nor that more came than the socket holds.
        match self.0.recv(&mut [0; 16]).await {
            Err(error) if !is_overflow(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Forgets what is already there: the next look sees all of it.
    pub(super) fn empty(&self) {
        for _ in 0..NOTICES_MAX {
            match self.0.try_recv(&mut [0; 16]) {
                Err(error) if !is_overflow(&error) => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Asks and hears the answer.
pub(super) struct Questions {
    socket: UnixDatagram,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Questions {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: open(0)?,
            sequence: 0,
            datagram: vec![0; DATAGRAM_BYTES_MAX],
        })
    }

    /// Gives every message of the answer to `take`. That there is no route is an answer, too.
    pub(super) async fn ask(
        &mut self,
        request: Request,
        mut take: impl FnMut(Message),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = request.encode(self.sequence);
        self.socket.send(&question).await?;
        loop {
            let length = self.socket.recv(&mut self.datagram).await?;
            let datagram = self.datagram.get(..length).unwrap_or_default();
            for (sequence, message) in rtnetlink::messages(datagram) {
                // The end of a question that was given up.
                if sequence != self.sequence {
                    continue;
                }
                match message {
                    Message::Done => return Ok(()),
                    Message::Refused(errno) if request.is_list() => {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    Message::Refused(_no_route) => return Ok(()),
                    Message::Link(_) | Message::Address(_) | Message::Route(_) | Message::Other => {
                        take(message);
                        if !request.is_list() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}
