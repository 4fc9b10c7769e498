//! The few words of rtnetlink that are needed, as bytes: three questions, and the answers to them.
//!
//! ```text
//!  nlmsghdr: length u32 · type u16 · flags u16 · sequence u32 · port u32, then the message of the type, then attributes
//!  attribute: length u16 · type u16 · value, padded to 4 bytes
//! ```
//!
//! Numbers are in the host's byte order, attributes nobody asked for are skipped, and a length that does not fit ends the
//! datagram. Source: `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`; netlink(7), rtnetlink(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a socket joins to be told of links, addresses and routes: `RTMGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`,
/// `_IPV6_IFADDR`, `_IPV6_ROUTE`.
pub const GROUPS: u32 = 0x001 | 0x010 | 0x040 | 0x100 | 0x400;

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

const IFINFOMSG_BYTES: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_CARRIER_CHANGES: u16 = 35;
/// Counters of bytes and packets are most of a link's message and nobody reads them here.
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFF_UP: u32 = 0x01;
const IFF_LOOPBACK: u32 = 0x08;
const IFF_RUNNING: u32 = 0x40;

const IFADDRMSG_BYTES: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;

const RTMSG_BYTES: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;

/// A question to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Every interface.
    Links,
    /// Every address.
    Addresses,
    /// The route it would take to this address.
    RouteTo(IpAddr),
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up and has a carrier.
    pub running: bool,
    /// Whether it leads nowhere but here.
    pub loopback: bool,
    /// How often its carrier came or went.
    pub carrier_changes: u32,
}

/// One address of an interface that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface's number.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface's number.
    pub index: u32,
    /// The address that packets on it carry as theirs.
    pub source: Option<IpAddr>,
    /// Who passes them on; none on the interface's own network.
    pub gateway: Option<IpAddr>,
}

/// One message of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// An interface.
    Link(Link),
    /// An address.
    Address(Address),
    /// A route.
    Route(Route),
    /// The answer is complete.
    Done,
    /// The question was refused with this errno; zero: it was accepted.
    Refused(i32),
    /// Something else, or a message without what matters: a route into nothing, an address not yet usable.
    Other,
}

impl Request {
    /// Whether the answer is a list that ends with [`Message::Done`].
    #[must_use]
    pub const fn is_list(self) -> bool {
        match self {
            Self::Links | Self::Addresses => true,
            Self::RouteTo(_) => false,
        }
    }

    /// The question as a datagram; answers carry `sequence`.
    #[must_use]
    pub fn encode(self, sequence: u32) -> Vec<u8> {
        let (kind, flags, body) = match self {
            Self::Links => {
                let mut body = vec![0; IFINFOMSG_BYTES];
                body[0] = AF_UNSPEC;
                put_attribute(
                    &mut body,
                    IFLA_EXT_MASK,
                    &RTEXT_FILTER_SKIP_STATS.to_ne_bytes(),
                );
                (RTM_GETLINK, NLM_F_DUMP, body)
            }
            Self::Addresses => (RTM_GETADDR, NLM_F_DUMP, vec![0; IFADDRMSG_BYTES]),
            Self::RouteTo(address) => {
                let mut body = vec![0; RTMSG_BYTES];
                match address {
                    IpAddr::V4(v4) => {
                        (body[0], body[1]) = (AF_INET, 32);
                        put_attribute(&mut body, RTA_DST, &v4.octets());
                    }
                    IpAddr::V6(v6) => {
                        (body[0], body[1]) = (AF_INET6, 128);
                        put_attribute(&mut body, RTA_DST, &v6.octets());
                    }
                }
                (RTM_GETROUTE, 0, body)
            }
        };
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
        let mut datagram = Vec::with_capacity(HEADER_BYTES + body.len());
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&kind.to_ne_bytes());
        datagram.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        datagram.extend_from_slice(&sequence.to_ne_bytes());
        datagram.extend_from_slice(&[0; 4]);
        datagram.extend_from_slice(&body);
        datagram
    }
}

/// Appends an attribute whose value is a multiple of four bytes long.
fn put_attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
}

/// The messages of one datagram, each with the sequence number of its question.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (u32, Message)> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(rest, 0)?).ok()?;
        if length < HEADER_BYTES {
            return None;
        }
        let whole = rest.get(..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        let body = whole.get(HEADER_BYTES..)?;
        let message = message(u16_at(whole, 4)?, body).unwrap_or(Message::Other);
        Some((u32_at(whole, 8)?, message))
    })
}

fn message(kind: u16, body: &[u8]) -> Option<Message> {
    match kind {
        NLMSG_DONE => Some(Message::Done),
        // The kernel's errno is negative.
        NLMSG_ERROR => Some(Message::Refused(i32_at(body, 0)?.wrapping_neg())),
        RTM_NEWLINK => link(body).map(Message::Link),
        RTM_NEWADDR => address(body).map(Message::Address),
        RTM_NEWROUTE => route(body).map(Message::Route),
        _ => None,
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        index: u32_at(body, 4)?,
        name: String::new(),
        running: flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING,
        loopback: flags & IFF_LOOPBACK != 0,
        carrier_changes: 0,
    };
    for (kind, value) in attributes(body.get(IFINFOMSG_BYTES..)?) {
        match kind {
            IFLA_IFNAME => {
                let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_CARRIER_CHANGES => link.carrier_changes = u32_at(value, 0)?,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn address(body: &[u8]) -> Option<Address> {
    let family = *body.first()?;
    let mut flags = u32::from(*body.get(2)?);
    let index = u32_at(body, 4)?;
    let (mut address, mut local) = (None, None);
    for (kind, value) in attributes(body.get(IFADDRMSG_BYTES..)?) {
        match kind {
            IFA_ADDRESS => address = ip(family, value),
            // On a point-to-point interface the other one is the peer's.
            IFA_LOCAL => local = ip(family, value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    let usable = flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0;
    let address = local.or(address).filter(|_| usable)?;
    Some(Address { index, address })
}

/// None for a route that leads nowhere: unreachable, prohibited, black hole.
fn route(body: &[u8]) -> Option<Route> {
    let family = *body.first()?;
    let leads = matches!(*body.get(7)?, RTN_UNICAST | RTN_LOCAL);
    let (mut index, mut source, mut gateway) = (None, None, None);
    for (kind, value) in attributes(body.get(RTMSG_BYTES..)?) {
        match kind {
            RTA_OIF => index = u32_at(value, 0),
            RTA_PREFSRC => source = ip(family, value),
            RTA_GATEWAY => gateway = ip(family, value),
            _ => {}
        }
    }
    let index = index.filter(|_| leads)?;
    Some(Route {
        index,
        source,
        gateway,
    })
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The upper two bits of a type say how its value is written.
    const KIND: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        let kind = u16_at(rest, 2)? & KIND;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

const fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut datagram = u32::try_from(HEADER_BYTES + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        datagram.extend(kind.to_ne_bytes());
        datagram.extend([0; 2]);
        datagram.extend(7u32.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(body);
        datagram.resize(padded(datagram.len()), 0);
        datagram
    }

    fn link_body(index: u32, flags: u32, name: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        // An attribute whose value is no multiple of four.
        body.extend(u16::try_from(4 + name.len()).unwrap().to_ne_bytes());
        body.extend(IFLA_IFNAME.to_ne_bytes());
        body.extend(name);
        body.resize(padded(body.len()), 0);
        put_attribute(&mut body, IFLA_CARRIER_CHANGES, &3u32.to_ne_bytes());
        body
    }

    #[test]
    fn an_interface_an_address_and_a_route_are_read_from_one_datagram() {
        let mut datagram = framed(
            RTM_NEWLINK,
            &link_body(2, IFF_UP | IFF_RUNNING | 0x1000, b"wlan0\0"),
        );
        let mut body = vec![AF_INET, 24, 0, 0];
        body.extend(2u32.to_ne_bytes());
        put_attribute(&mut body, IFA_ADDRESS, &[10, 0, 0, 1]);
        put_attribute(&mut body, IFA_LOCAL, &[10, 0, 0, 2]);
        datagram.extend(framed(RTM_NEWADDR, &body));
        let mut body = vec![AF_INET, 32, 0, 0, 0, 0, 0, RTN_UNICAST, 0, 0, 0, 0];
        put_attribute(&mut body, RTA_OIF, &2u32.to_ne_bytes());
        put_attribute(&mut body, RTA_PREFSRC, &[10, 0, 0, 2]);
        put_attribute(&mut body, RTA_GATEWAY, &[10, 0, 0, 1]);
        datagram.extend(framed(RTM_NEWROUTE, &body));
        datagram.extend(framed(NLMSG_DONE, &[0; 4]));
        let found: Vec<_> = messages(&datagram).collect();
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let link = Link {
            index: 2,
            name: "wlan0".into(),
            running: true,
            loopback: false,
            carrier_changes: 3,
        };
        let address = Address {
            index: 2,
            address: ip(2),
        };
        let route = Route {
            index: 2,
            source: Some(ip(2)),
            gateway: Some(ip(1)),
        };
        assert_eq!(
            found,
            [
                (7, Message::Link(link)),
                (7, Message::Address(address)),
                (7, Message::Route(route)),
                (7, Message::Done),
            ]
        );
    }

    #[test]
    fn a_refusal_tells_its_errno_and_a_route_into_nothing_is_none() {
        let refused = framed(NLMSG_ERROR, &(-101i32).to_ne_bytes());
        assert_eq!(messages(&refused).next(), Some((7, Message::Refused(101))));
        const RTN_UNREACHABLE: u8 = 7;
        let mut body = vec![AF_INET6, 128, 0, 0, 0, 0, 0, RTN_UNREACHABLE, 0, 0, 0, 0];
        put_attribute(&mut body, RTA_OIF, &1u32.to_ne_bytes());
        let unreachable = framed(RTM_NEWROUTE, &body);
        assert_eq!(messages(&unreachable).next(), Some((7, Message::Other)));
    }

    #[test]
    fn an_address_under_examination_cannot_be_used_yet() {
        let mut body = vec![AF_INET6, 64, 0, 0];
        body.extend(2u32.to_ne_bytes());
        put_attribute(&mut body, IFA_ADDRESS, &[0xfd; 16]);
        put_attribute(&mut body, IFA_FLAGS, &IFA_F_TENTATIVE.to_ne_bytes());
        let tentative = framed(RTM_NEWADDR, &body);
        assert_eq!(messages(&tentative).next(), Some((7, Message::Other)));
    }

    #[test]
    fn lengths_that_do_not_fit_end_the_datagram() {
        let whole = framed(RTM_NEWLINK, &link_body(2, IFF_UP, b"eth0\0"));
        for cut in 0..whole.len() {
            assert_eq!(messages(&whole[..cut]).count(), 0, "cut at {cut}");
        }
        let mut short = whole.clone();
        short[..4].copy_from_slice(&3u32.to_ne_bytes());
        assert_eq!(messages(&short).count(), 0, "shorter than its own header");
        let mut attribute = whole;
        attribute[HEADER_BYTES + IFINFOMSG_BYTES..][..2].copy_from_slice(&1u16.to_ne_bytes());
        let found: Vec<_> = messages(&attribute).collect();
        assert_eq!(found, [(7, Message::Other)], "an attribute without a name");
    }
}
