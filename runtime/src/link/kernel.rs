//! What the kernel does with bytes that are not through yet: a full socket and a missing answer alone do not say whether the
//! peer stopped reading, the way to it is gone, or the way is merely narrow.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Which timer runs for bytes in the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// Sent bytes are sent again, or cannot even leave: the peer's kernel does not answer.
    Retransmitted,
    /// The peer's kernel answers and has no room: its process does not read.
    NoRoom,
    /// Bytes are on their way and none had to be sent again: the line is slow, and our question stands behind them.
    Moving,
}

const ESTABLISHED: &str = "01";
const RETRANSMIT: &str = "01";
const WINDOW_PROBE: &str = "04";

/// Looks the connection up; none where the kernel has no such table, or it does not say.
pub(super) fn unsent(local: SocketAddr, peer: SocketAddr) -> Option<Unsent> {
    let path = if local.is_ipv4() {
        "/proc/self/net/tcp"
    } else {
        "/proc/self/net/tcp6"
    };
    let table = std::fs::read_to_string(path).ok()?;
    let found = find(&table, local.port(), peer.port())?;
    // The kernel also waits with this timer for bytes that it could not send from an address that is gone.
    let stranded = found == Unsent::NoRoom && !is_ours(local.ip());
    Some(if stranded {
        Unsent::Retransmitted
    } else {
        found
    })
}

/// Whether an interface still has this address.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// The ports name the connection; should two addresses share them, nothing is said.
fn find(table: &str, local: u16, peer: u16) -> Option<Unsent> {
    let (local, peer) = (format!(":{local:04X}"), format!(":{peer:04X}"));
    let mut found = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ours = fields.next()?.ends_with(&local) && fields.next()?.ends_with(&peer);
        let established = fields.next()? == ESTABLISHED;
        let timer = fields.nth(1)?.split(':').next()?;
        let repeats = u32::from_str_radix(fields.next()?, 16).ok()?;
        (ours && established).then_some((timer, repeats))
    });
    let only = found.next()?;
    match (only, found.next()) {
        ((RETRANSMIT, 0), None) => Some(Unsent::Moving),
        ((RETRANSMIT, _), None) => Some(Unsent::Retransmitted),
        ((WINDOW_PROBE, _), None) => Some(Unsent::NoRoom),
        _ => None,
    }
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
        assert_eq!(find(TABLE, 0xa001, 1883), Some(Unsent::Retransmitted));
        assert_eq!(find(TABLE, 0xa002, 1883), Some(Unsent::NoRoom));
        assert_eq!(find(TABLE, 0xa006, 1883), Some(Unsent::Moving));
        assert_eq!(find(TABLE, 0xa003, 1883), None, "nothing is unsent");
        assert_eq!(find(TABLE, 0xa004, 1883), None, "two of them");
        assert_eq!(find(TABLE, 0xa005, 1883), None, "no such connection");
        assert_eq!(find("", 1, 1), None);
    }
}
