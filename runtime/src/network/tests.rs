use std::net::{Ipv4Addr, UdpSocket};

use moorline_core::link::policy::Network;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_broker_on_this_machine_is_found_over_loopback() {
    let (_towards, broker) = watch::channel(Some(Ipv4Addr::LOCALHOST.into()));
    let mut network = spawn(broker, Clock::start());
    let looked = network.wait_for(|seen| seen.since.is_some());
    let seen = timeout(DEADLINE, looked)
        .await
        .expect("the kernel answers")
        .expect("the watch lives")
        .clone();
    if seen.verdict == Network::Unknown {
        // A sandbox without AF_NETLINK: that the gateway lives on is all there is to see.
        return;
    }
    assert_eq!(seen.verdict, Network::Up, "{seen:?}");
    let path = seen.path.expect("a way");
    assert_eq!(path.interface, "lo");
    assert_eq!(path.source, Some(Ipv4Addr::LOCALHOST.into()));
}

/// The kernel's own choice of source address is the oracle.
#[tokio::test]
async fn the_way_out_is_the_one_the_kernel_takes() {
    let (towards, broker) = watch::channel(None);
    let mut network = spawn(broker, Clock::start());
    // An address of the documentation's: nothing is sent to it.
    let somewhere = Ipv4Addr::new(192, 0, 2, 1);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    let source = socket
        .connect((somewhere, 9))
        .and_then(|()| socket.local_addr())
        .map(|address| address.ip())
        .ok();
    towards.send_replace(Some(somewhere.into()));
    let looked = network.wait_for(|seen| match seen.verdict {
        Network::Unknown => seen.since.is_some(),
        Network::Up => seen.path.as_ref().map(|path| path.source) == Some(source),
        Network::Down => source.is_none(),
    });
    let seen = timeout(DEADLINE, looked).await;
    assert!(seen.is_ok(), "not from {source:?}");
}
