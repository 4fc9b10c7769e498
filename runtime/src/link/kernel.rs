//! What the kernel does with bytes that are not through yet: a full socket and a missing answer alone do not say whether the
//! peer stopped reading, the way to it is gone, or the way is merely narrow.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Bytes of a connection that the peer's kernel has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendQueue {
    /// How many.
    pub(super) bytes: u64,
    /// What the kernel's timer says about them; none where it runs for none, or they are simply on their way.
    pub(super) stuck: Option<Stuck>,
}

/// Why bytes do not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    /// Sent bytes are sent again, or cannot even leave: the peer's kernel does not answer.
    Retransmitted,
    /// The peer's kernel answers and has no room: its process does not read.
    NoRoom,
}

const ESTABLISHED: &str = "01";
const RETRANSMIT: &str = "01";
const WINDOW_PROBE: &str = "04";

/// Looks the connection up; none where the kernel has no such table, or it does not say.
pub(super) fn send_queue(local: SocketAddr, peer: SocketAddr) -> Option<SendQueue> {
    let path = if local.is_ipv4() {
        "/proc/self/net/tcp"
    } else {
        "/proc/self/net/tcp6"
    };
    let table = std::fs::read_to_string(path).ok()?;
    let mut found = find(&table, local.port(), peer.port())?;
    // The kernel also waits with this timer for bytes that it could not send from an address that is gone.
    if found.stuck == Some(Stuck::NoRoom) && !is_ours(local.ip()) {
        found.stuck = Some(Stuck::Retransmitted);
    }
    Some(found)
}

/// Whether an interface still has this address.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The ports name the connection; should two addresses share them, nothing is said.
fn find(table: &str, local: u16, peer: u16) -> Option<SendQueue> {
    let (local, peer) = (format!(":{local:04X}"), format!(":{peer:04X}"));
    let mut found = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ours = fields.next()?.ends_with(&local) && fields.next()?.ends_with(&peer);
        let established = fields.next()? == ESTABLISHED;
        let queued = fields.next()?.split(':').next()?;
        let bytes = u64::from_str_radix(queued, 16).ok()?;
        let timer = fields.next()?.split(':').next()?;
        let repeats = u32::from_str_radix(fields.next()?, 16).ok()?;
        let stuck = match (timer, repeats) {
            (RETRANSMIT, 1..) => Some(Stuck::Retransmitted),
            (WINDOW_PROBE, _) => Some(Stuck::NoRoom),
            _ => None,
        };
        (ours && established).then_some(SendQueue { bytes, stuck })
    });
    let only = found.next()?;
    found.next().is_none().then_some(only)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:8197 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 162321 1 0000 100 0 0 10 0
   1: 0100007F:A001 0100007F:075B 01 00280000:00000000 01:00000123 00000003     0        0 162322 2 0000 20 4 30 10 -1
   2: 0100007F:A002 0100007F:075B 01 00280000:00000000 04:00000123 00000003     0        0 162323 2 0000 20 4 30 10 -1
   3: 0100007F:A003 0100007F:075B 01 00000000:00000000 02:00000123 00000000     0        0 162324 2 0000 20 4 30 10 -1
   4: 0100007F:A004 0100007F:075B 01 00280000:00000000 01:00000123 00000003     0        0 162325 2 0000 20 4 30 10 -1
   5: 0100007F:A006 0100007F:075B 01 00280000:00000000 01:00000014 00000000     0        0 162325 2 0000 20 4 30 10 -1
   6: 0200007F:A004 0200007F:075B 01 00280000:00000000 01:00000123 00000003     0        0 162326 2 0000 20 4 30 10 -1
";

    #[test]
    fn an_address_of_this_machine_is_told_from_one_that_is_gone() {
        assert!(is_ours(IpAddr::from([127, 0, 0, 1])));
        // One of the documentation's.
        assert!(!is_ours(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn the_timer_tells_a_gone_peer_from_a_deaf_one() {
        let queue = |bytes, stuck| Some(SendQueue { bytes, stuck });
        let full = 0x28_0000;
        assert_eq!(
            find(TABLE, 0xa001, 1883),
            queue(full, Some(Stuck::Retransmitted))
        );
        assert_eq!(find(TABLE, 0xa002, 1883), queue(full, Some(Stuck::NoRoom)));
        assert_eq!(find(TABLE, 0xa006, 1883), queue(full, None), "under way");
        assert_eq!(find(TABLE, 0xa003, 1883), queue(0, None), "nothing unsent");
        assert_eq!(find(TABLE, 0xa004, 1883), None, "two of them");
        assert_eq!(find(TABLE, 0xa005, 1883), None, "no such connection");
        assert_eq!(find("", 1, 1), None);
    }
}
