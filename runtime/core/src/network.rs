//! What this machine's network is like, from the kernel's word: whether there is a way to the broker, and what changed.
//!
//! ```text
//!  rtnetlink (bytes) ─► View (one look) ─► Watch ─► Seen: verdict, path, what changed, how often it left and came back
//! ```
//!
//! The kernel's notices are only a hint to look again, so that notices that were lost cost nothing. Between two looks an
//! interface that went and came back is told by its count of carrier changes.
//!
//! **Up** means: the kernel has a route to the broker's address over an interface that is running. As long as no address of
//! the broker is known, any running interface with an address that others can answer will do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub mod rtnetlink;
pub mod wireless;

use crate::link::policy::Network;
use crate::time::Instant;
use rtnetlink::{Link, Message, Route};
use wireless::Signal;

/// Changes that are remembered.
pub const CHANGES_KEPT: usize = 16;
/// Interfaces and addresses of one look that are taken in; a machine with more has most of them for containers.
const TABLE_MAX: usize = 4_096;
/// How long a change may explain a disconnect.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);
/// Changes told with one disconnect.
const CHANGES_TOLD: usize = 3;

/// What the kernel says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The broker's address, as far as it is known.
    towards: Option<IpAddr>,
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr)>,
    route: Option<Route>,
}

impl View {
    /// An empty table, to be filled with the kernel's answers.
    #[must_use]
    pub fn towards(towards: Option<IpAddr>) -> Self {
        Self {
            towards,
            ..Self::default()
        }
    }

    /// Takes in one message.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Link(link) if self.links.len() < TABLE_MAX => {
                self.links.insert(link.index, link);
            }
            Message::Address(address) if self.addresses.len() < TABLE_MAX => {
                self.addresses.insert((address.index, address.address));
            }
            Message::Route(route) => self.route = Some(route),
            Message::Link(_)
            | Message::Address(_)
            | Message::Done
            | Message::Refused(_)
            | Message::Other => {}
        }
    }

    fn verdict(&self) -> Network {
        let up = match (self.towards, self.route) {
            (Some(_), Some(route)) => self.running(route.index),
            (Some(_), None) => false,
            (None, _) => self
                .addresses
                .iter()
                .any(|&(index, address)| self.running(index) && is_answerable(address)),
        };
        if up { Network::Up } else { Network::Down }
    }

    fn running(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.running)
    }

    /// The way to the broker, if there is one.
    fn path(&self) -> Option<Path> {
        let route = self.route?;
        let link = self.links.get(&route.index).filter(|link| link.running)?;
        Some(Path {
            interface: link.name.clone(),
            source: route.source,
            gateway: route.gateway,
        })
    }

    fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }
}

/// Whether somebody on another machine can send an answer to it.
fn is_answerable(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_loopback() && !address.is_unspecified() && !link_local
}

/// The way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The interface's name.
    pub interface: String,
    /// The address our packets carry.
    pub source: Option<IpAddr>,
    /// Who passes them on; none on the interface's own network.
    pub gateway: Option<IpAddr>,
}

/// One thing that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An interface stopped.
    WentDown(String),
    /// An interface runs again.
    CameUp(String),
    /// An interface lost its carrier and has it again.
    Interrupted(String),
    /// An interface lost an address.
    Lost(String, IpAddr),
    /// An interface got an address.
    Got(String, IpAddr),
    /// No way leads to the broker any more.
    WayGone,
    /// The way to the broker leads over this interface now.
    WayOver(String),
    /// The list of name servers was written anew.
    NameServers,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WentDown(interface) => write!(f, "{interface} went down"),
            Self::CameUp(interface) => write!(f, "{interface} came up"),
            Self::Interrupted(interface) => write!(f, "{interface} lost its carrier for a moment"),
            Self::Lost(interface, address) => write!(f, "{interface} lost {address}"),
            Self::Got(interface, address) => write!(f, "{interface} got {address}"),
            Self::WayGone => f.write_str("no route to the broker was left"),
            Self::WayOver(interface) => write!(f, "the route to the broker went over {interface}"),
            Self::NameServers => f.write_str("the name servers changed"),
        }
    }
}

/// What others may know about the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether there is a way to the broker.
    pub verdict: Network,
    /// Since when the verdict stands; none before the first look.
    pub since: Option<Instant>,
    /// The way to the broker; none when there is none or the broker's address is not known yet.
    pub path: Option<Path>,
    /// How well the interface on the way hears its access point; none where it has none.
    pub signal: Option<Signal>,
    /// What changed last, oldest first: what concerns the way to the broker, or everything while there is none.
    pub changes: VecDeque<(Instant, Change)>,
    /// How often the way to the broker went, was interrupted, or became another.
    pub upsets: u64,
    /// How often a way came back, or another one opened, so that an attempt is worth while.
    pub returns: u64,
}

impl Default for Seen {
    /// Nobody watches.
    fn default() -> Self {
        Self {
            verdict: Network::Unknown,
            since: None,
            path: None,
            signal: None,
            changes: VecDeque::new(),
            upsets: 0,
            returns: 0,
        }
    }
}

impl Seen {
    /// How long there has been no way to the broker at `now`; none while there is one, or nobody knows.
    #[must_use]
    pub fn without_route(&self, now: Instant) -> Option<Duration> {
        let since = self.since.filter(|_| self.verdict == Network::Down)?;
        Some(now.saturating_since(since))
    }

    /// What may explain a disconnect at `now`, for people; none when nothing happened lately.
    #[must_use]
    pub fn explain(&self, now: Instant) -> Option<String> {
        let age = |at: Instant| now.saturating_since(at);
        let skipped = self.changes.len().saturating_sub(CHANGES_TOLD);
        let mut words: Vec<String> = self
            .changes
            .iter()
            .skip(skipped)
            .filter(|(at, _)| age(*at) <= EXPLAINS_FOR)
            .map(|(at, change)| format!("{change} {:.1} s before", age(*at).as_secs_f64()))
            .collect();
        if let Some(lasting) = self.without_route(now).filter(|_| words.is_empty()) {
            words.push(format!(
                "this machine has had no route to the broker for {:.0} s",
                lasting.as_secs_f64()
            ));
        }
        (!words.is_empty()).then(|| words.join(", "))
    }
}

/// Compares looks.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last: Option<View>,
    seen: Seen,
}

impl Watch {
    /// What is known.
    #[must_use]
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Takes in what the kernel says at `now`.
    pub fn look(&mut self, now: Instant, view: View) {
        let (verdict, path) = (view.verdict(), view.path());
        let came_back = self.seen.verdict == Network::Down && verdict == Network::Up;
        if let Some(last) = self.last.take()
            && last != view
        {
            let interrupted = self.note_links(now, &last, &view);
            self.note_addresses(now, &last, &view);
            // Another broker is another way without anything having changed.
            let moved = last.towards == view.towards && path != self.seen.path;
            if moved {
                let change = path.as_ref().map_or(Change::WayGone, |path| {
                    Change::WayOver(path.interface.clone())
                });
                self.note(now, change);
            }
            let upset = (moved || interrupted) && self.seen.path.is_some();
            self.seen.upsets += u64::from(upset);
            let open = verdict == Network::Up && (moved || interrupted);
            self.seen.returns += u64::from(came_back || open);
        }
        self.settle(now, verdict);
        self.seen.path = path;
        self.last = Some(view);
    }

    /// The kernel cannot be asked.
    pub fn blind(&mut self, now: Instant) {
        self.settle(now, Network::Unknown);
        self.seen.path = None;
        self.seen.signal = None;
        self.last = None;
    }

    /// The list of name servers was written anew: a name that did not resolve may do so now.
    pub fn name_servers_changed(&mut self, now: Instant) {
        self.note(now, Change::NameServers);
        self.seen.returns += 1;
    }

    /// The signal of the interface on the way.
    pub const fn hears(&mut self, signal: Option<Signal>) {
        self.seen.signal = signal;
    }

    fn settle(&mut self, now: Instant, verdict: Network) {
        if self.seen.verdict != verdict || self.seen.since.is_none() {
            self.seen.since = Some(now);
        }
        self.seen.verdict = verdict;
    }

    /// Whether the interface on the way had no carrier for a moment.
    fn note_links(&mut self, now: Instant, last: &View, view: &View) -> bool {
        let mut interrupted = false;
        for before in last.links.values() {
            let after = view.links.get(&before.index);
            let runs = after.is_some_and(|after| after.running);
            let flapped =
                after.is_some_and(|after| after.carrier_changes != before.carrier_changes);
            let change = match (before.running, runs) {
                (true, false) => Change::WentDown(before.name.clone()),
                (false, true) => Change::CameUp(before.name.clone()),
                (true, true) if flapped => Change::Interrupted(before.name.clone()),
                (true, true) | (false, false) => continue,
            };
            if self.concerns(&before.name) {
                interrupted |= matches!(change, Change::Interrupted(_));
                self.note(now, change);
            }
        }
        for after in view.links.values() {
            let is_new = !last.links.contains_key(&after.index);
            if is_new && after.running && self.concerns(&after.name) {
                self.note(now, Change::CameUp(after.name.clone()));
            }
        }
        interrupted && self.seen.path.is_some()
    }

    fn note_addresses(&mut self, now: Instant, last: &View, view: &View) {
        let name = |index: &u32| {
            let link = view.links.get(index).or_else(|| last.links.get(index));
            link.map(|link| link.name.clone())
        };
        // Interfaces give themselves an address of their own whatever happens.
        let way = self.seen.path.as_ref().and_then(|path| path.source);
        let matters = |address| is_answerable(address) || way == Some(address);
        for (index, address) in last.addresses.difference(&view.addresses) {
            if let Some(name) = name(index).filter(|name| matters(*address) && self.concerns(name))
            {
                self.note(now, Change::Lost(name, *address));
            }
        }
        for (index, address) in view.addresses.difference(&last.addresses) {
            if let Some(name) = name(index).filter(|name| matters(*address) && self.concerns(name))
            {
                self.note(now, Change::Got(name, *address));
            }
        }
    }

    /// On a machine full of containers interfaces come and go; only the one on the way matters, as long as there is one.
    fn concerns(&self, interface: &str) -> bool {
        self.seen
            .path
            .as_ref()
            .is_none_or(|path| path.interface == interface)
    }

    fn note(&mut self, now: Instant, change: Change) {
        if self.seen.changes.len() == CHANGES_KEPT {
            self.seen.changes.pop_front();
        }
        self.seen.changes.push_back((now, change));
    }

    /// Whether the interface on the way is a wireless one is for the caller to find out.
    #[must_use]
    pub fn interface(&self) -> Option<&str> {
        let path = self.seen.path.as_ref()?;
        let link = self.last.as_ref()?.named(&path.interface)?;
        (!link.loopback).then_some(&path.interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::Address;

    const BROKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn at(seconds: u64) -> Instant {
        Instant::from_start(Duration::from_secs(seconds))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    /// A machine with loopback and these interfaces: number, running, carrier changes, address; the route over the first
    /// that runs and has one.
    fn view(towards: Option<IpAddr>, interfaces: &[(u32, bool, u32, Option<u8>)]) -> View {
        let mut view = View::towards(towards);
        let link = |index, name: String, running, loopback, carrier_changes| {
            Message::Link(Link {
                index,
                name,
                running,
                loopback,
                carrier_changes,
            })
        };
        view.take(link(1, "lo".into(), true, true, 0));
        view.take(Message::Address(Address {
            index: 1,
            address: IpAddr::from([127, 0, 0, 1]),
        }));
        let mut route = None;
        for &(index, running, carrier_changes, address) in interfaces {
            view.take(link(
                index,
                format!("eth{index}"),
                running,
                false,
                carrier_changes,
            ));
            let Some(address) = address.map(ip) else {
                continue;
            };
            view.take(Message::Address(Address { index, address }));
            let source = Some(address);
            if running && towards.is_some() {
                route.get_or_insert(Route {
                    index,
                    source,
                    gateway: None,
                });
            }
        }
        if let Some(route) = route {
            view.take(Message::Route(route));
        }
        view
    }

    fn watching(first: View) -> Watch {
        let mut watch = Watch::default();
        watch.look(at(0), first);
        watch
    }

    fn changes(watch: &Watch) -> Vec<String> {
        let changes = watch.seen().changes.iter();
        changes.map(|(_, change)| change.to_string()).collect()
    }

    #[test]
    fn a_route_over_a_running_interface_is_a_way() {
        let seen = |view| watching(view).seen().verdict;
        assert_eq!(
            seen(view(Some(BROKER), &[(2, true, 1, Some(2))])),
            Network::Up
        );
        assert_eq!(
            seen(view(Some(BROKER), &[(2, true, 1, None)])),
            Network::Down
        );
        assert_eq!(
            seen(view(Some(BROKER), &[(2, false, 1, Some(2))])),
            Network::Down
        );
        // The kernel keeps routes over an interface without a carrier.
        let mut dark = view(Some(BROKER), &[(2, false, 1, Some(2))]);
        dark.take(Message::Route(Route {
            index: 2,
            source: Some(ip(2)),
            gateway: None,
        }));
        assert_eq!(seen(dark), Network::Down);
    }

    #[test]
    fn a_broker_on_this_machine_needs_no_other_interface() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let mut alone = view(Some(here), &[]);
        alone.take(Message::Route(Route {
            index: 1,
            source: Some(here),
            gateway: None,
        }));
        let watch = watching(alone);
        assert_eq!(watch.seen().verdict, Network::Up);
        assert_eq!(watch.interface(), None, "loopback has no signal");
    }

    #[test]
    fn before_the_broker_is_known_any_answerable_address_will_do() {
        let seen = |view| watching(view).seen().verdict;
        assert_eq!(seen(view(None, &[(2, true, 1, Some(2))])), Network::Up);
        assert_eq!(seen(view(None, &[])), Network::Down);
        let mut link_local = view(None, &[(2, true, 1, None)]);
        for address in ["169.254.3.4", "fe80::1"] {
            link_local.take(Message::Address(Address {
                index: 2,
                address: address.parse().unwrap(),
            }));
        }
        assert_eq!(seen(link_local), Network::Down);
    }

    #[test]
    fn an_interface_that_goes_upsets_the_way_and_its_return_is_a_return() {
        let up = || view(Some(BROKER), &[(2, true, 2, Some(2))]);
        let mut watch = watching(up());
        watch.look(at(5), view(Some(BROKER), &[(2, false, 3, Some(2))]));
        assert_eq!(watch.seen().verdict, Network::Down);
        assert_eq!((watch.seen().upsets, watch.seen().returns), (1, 0));
        assert_eq!(
            watch.seen().explain(at(7)).unwrap(),
            "eth2 went down 2.0 s before, no route to the broker was left 2.0 s before"
        );
        assert_eq!(
            watch.seen().explain(at(105)).unwrap(),
            "this machine has had no route to the broker for 100 s"
        );
        watch.look(at(106), view(Some(BROKER), &[(2, true, 4, Some(2))]));
        assert_eq!(watch.seen().verdict, Network::Up);
        assert_eq!((watch.seen().upsets, watch.seen().returns), (1, 1));
        assert_eq!(watch.seen().since, Some(at(106)));
        assert_eq!(watch.seen().explain(at(300)), None);
    }

    #[test]
    fn a_carrier_that_was_gone_between_two_looks_is_noticed() {
        let mut watch = watching(view(Some(BROKER), &[(2, true, 2, Some(2))]));
        watch.look(at(1), view(Some(BROKER), &[(2, true, 4, Some(2))]));
        assert_eq!((watch.seen().upsets, watch.seen().returns), (1, 1));
        assert_eq!(changes(&watch), ["eth2 lost its carrier for a moment"]);
    }

    #[test]
    fn another_address_is_another_way() {
        let mut watch = watching(view(Some(BROKER), &[(2, true, 2, Some(2))]));
        watch.look(at(1), view(Some(BROKER), &[(2, true, 2, Some(3))]));
        assert_eq!((watch.seen().upsets, watch.seen().returns), (1, 1));
        assert_eq!(
            changes(&watch),
            [
                "eth2 lost 10.0.0.2",
                "eth2 got 10.0.0.3",
                "the route to the broker went over eth2"
            ]
        );
    }

    #[test]
    fn what_does_not_concern_the_way_is_left_out() {
        let mut watch = watching(view(Some(BROKER), &[(2, true, 2, Some(2))]));
        let containers = [(2, true, 2, Some(2)), (7, true, 1, Some(9))];
        watch.look(at(1), view(Some(BROKER), &containers));
        watch.look(at(2), view(Some(BROKER), &[(2, true, 2, Some(2))]));
        assert_eq!((watch.seen().upsets, watch.seen().returns), (0, 0));
        assert_eq!(changes(&watch), [""; 0]);
    }

    #[test]
    fn another_broker_is_no_change_of_the_network() {
        let mut watch = watching(view(None, &[(2, true, 2, Some(2))]));
        watch.look(at(1), view(Some(BROKER), &[(2, true, 2, Some(2))]));
        assert_eq!((watch.seen().upsets, watch.seen().returns), (0, 0));
        assert_eq!(watch.seen().path.as_ref().unwrap().interface, "eth2");
        assert_eq!(changes(&watch), [""; 0]);
    }

    #[test]
    fn a_kernel_that_says_nothing_leaves_the_verdict_open() {
        let mut watch = watching(view(Some(BROKER), &[(2, true, 2, Some(2))]));
        watch.blind(at(1));
        assert_eq!(watch.seen().verdict, Network::Unknown);
        watch.look(at(2), view(Some(BROKER), &[(2, true, 2, Some(2))]));
        assert_eq!((watch.seen().upsets, watch.seen().returns), (0, 0));
    }

    #[test]
    fn other_name_servers_are_worth_an_attempt_and_upset_nothing() {
        let mut watch = watching(view(None, &[(2, true, 2, Some(2))]));
        watch.name_servers_changed(at(1));
        assert_eq!((watch.seen().upsets, watch.seen().returns), (0, 1));
        assert_eq!(changes(&watch), ["the name servers changed"]);
    }

    #[test]
    fn an_address_that_an_interface_gives_itself_is_left_out() {
        let mut watch = watching(view(Some(BROKER), &[(2, true, 2, Some(2))]));
        let mut with_more = view(Some(BROKER), &[(2, true, 2, Some(2))]);
        for address in ["fe80::1", "2001:db8::1"] {
            with_more.take(Message::Address(Address {
                index: 2,
                address: address.parse().unwrap(),
            }));
        }
        watch.look(at(1), with_more);
        assert_eq!((watch.seen().upsets, watch.seen().returns), (0, 0));
        assert_eq!(changes(&watch), ["eth2 got 2001:db8::1"]);
    }

    #[test]
    fn a_storm_of_changes_is_remembered_in_part() {
        let mut watch = watching(view(Some(BROKER), &[(2, true, 2, Some(2))]));
        for second in 1..100 {
            watch.look(
                at(second),
                view(Some(BROKER), &[(2, second % 2 == 0, 2, Some(2))]),
            );
        }
        assert_eq!(watch.seen().changes.len(), CHANGES_KEPT);
        let told = watch.seen().explain(at(100)).unwrap();
        assert_eq!(told.matches(" before").count(), CHANGES_TOLD, "{told}");
    }
}
