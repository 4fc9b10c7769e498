//! Two gateways with one client id, and a broker that lets the last one in: how often do they take it from each other?
//!
//! Real link machines and classifiers on virtual time; the broker, the ways to it and the policies are models.

use std::collections::VecDeque;

use super::*;
use crate::link::backoff::Random;

const WINDOW: Duration = Duration::from_secs(600);
const EXCHANGES_MAX: usize = 3;
/// From the other's going away: the longest wait of a duel, and a failed attempt or two.
const BACK_WITHIN: Duration = Duration::from_secs(900 + 300);

/// How the broker ends the session of the client that loses its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// DISCONNECT 0x8E.
    Code,
    /// Nothing: FIN, as 3.1.1 and some brokers of 5.0 do.
    Nothing,
    /// The code to one of the two, which speaks 5.0, and nothing to the other.
    CodeToOne,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adviser {
    Nobody,
    Storm,
    Slow,
    /// Anything, also more than an hour.
    Dice,
    Parks,
}

const ADVISERS: [Adviser; 5] = [
    Adviser::Nobody,
    Adviser::Storm,
    Adviser::Slow,
    Adviser::Dice,
    Adviser::Parks,
];

struct Gateway {
    link: Link,
    classifier: Classifier,
    adviser: Adviser,
    told: bool,
    /// Whether it has readings to send: only then a session becomes stable.
    sends: bool,
    trip: Duration,
    opened: Option<Instant>,
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Start(usize),
    /// CONNECT reaches the broker.
    Connect(usize),
    Connack(usize),
    Acked(usize),
    Lost(usize),
    Refused(usize),
    Leave(usize),
}

struct Duel {
    now: Instant,
    random: Random,
    gateways: [Gateway; 2],
    owner: Option<usize>,
    /// Until then connections are refused.
    away_until: Instant,
    events: VecDeque<(Instant, Event)>,
    exchanges: Vec<Instant>,
}

impl Duel {
    fn new(seed: u64, says: Says, advisers: [Adviser; 2]) -> Self {
        let mut random = Random::seeded(seed);
        let floor = Duration::from_millis([100, 1_000, 5_000, 60_000][pick(&mut random, 4)]);
        let ceiling = Duration::from_secs([60, 120, 900, 3_600][pick(&mut random, 4)]);
        let settings = Settings {
            floor,
            ceiling,
            ..Settings::default()
        };
        let gateways = [0, 1].map(|index| Gateway {
            link: Link::new(settings, random.next_u64()),
            classifier: Classifier::for_floor(floor),
            adviser: advisers[index],
            told: match says {
                Says::Code => true,
                Says::Nothing => false,
                Says::CodeToOne => index == 0,
            },
            sends: pick(&mut random, 4) > 0,
            trip: random.between(Duration::from_millis(1), Duration::from_millis(600)),
            opened: None,
            gone: false,
        });
        let away_until = at([0, 0, 30_000, 400_000][pick(&mut random, 4)]);
        let second = random.between(Duration::ZERO, Duration::from_secs(1_000));
        let first = pick(&mut random, 2);
        let mut duel = Self {
            now: at(0),
            random,
            gateways,
            owner: None,
            away_until,
            events: VecDeque::new(),
            exchanges: Vec::new(),
        };
        duel.at(at(0), Event::Start(first));
        duel.at(at(0) + second, Event::Start(1 - first));
        duel
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.events.push_back((at, event));
        self.events.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    fn run_until(&mut self, until: Instant) {
        loop {
            let timer = (0..2)
                .filter_map(|index| Some((self.gateways[index].link.poll_timeout()?.0, index)))
                .min();
            let event = self.events.front().map(|(at, _)| *at);
            let Some(next) = timer.map(|(at, _)| at).into_iter().chain(event).min() else {
                break;
            };
            if next > until {
                break;
            }
            self.now = next;
            if event == Some(next) {
                if let Some((_, event)) = self.events.pop_front() {
                    self.happen(event);
                }
            } else if let Some((_, index)) = timer {
                self.gateways[index].link.handle_timeout(self.now);
                self.drain(index);
            }
        }
        self.now = until;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(index) => self.input(index, Input::Start),
            Event::Connect(index) if self.now < self.away_until => {
                let trip = self.gateways[index].trip;
                self.after(trip, Event::Refused(index));
            }
            Event::Connect(index) => {
                if let Some(other) = self.owner.replace(index) {
                    assert_ne!(other, index, "one session at most");
                    self.exchanges.push(self.now);
                    let trip = self.gateways[other].trip;
                    self.after(trip, Event::Lost(other));
                }
                let trip = self.gateways[index].trip;
                self.after(trip, Event::Connack(index));
            }
            Event::Connack(index) => {
                self.gateways[index].opened = Some(self.now);
                self.input(index, Input::Opened);
                if self.gateways[index].sends {
                    let trip = self.gateways[index].trip;
                    self.after(trip * 2, Event::Acked(index));
                }
            }
            Event::Acked(index) => self.input(index, Input::Acknowledged),
            Event::Refused(index) => self.end(index, Phase::Tcp, Observed::Errno(111)),
            Event::Lost(index) => {
                let observed = if self.gateways[index].told {
                    Observed::ServerDisconnect(0x8e)
                } else {
                    Observed::Fin
                };
                self.end(index, Phase::Session, observed);
            }
            Event::Leave(index) => {
                self.gateways[index].gone = true;
                self.owner.take_if(|owner| *owner == index);
                self.events
                    .retain(|(_, event)| *event != Event::Connect(index));
                self.input(index, Input::Stop(Intent::Shutdown));
            }
        }
    }

    fn end(&mut self, index: usize, phase: Phase, observed: Observed) {
        let since_sent = self.random.between(Duration::ZERO, Duration::from_secs(30));
        let gateway = &mut self.gateways[index];
        let session = gateway.opened.take().map(|at| self.now - at);
        let disconnect = gateway.classifier.classify(Observation {
            phase,
            version: MqttVersion::V5,
            observed,
            evidence: Evidence {
                session,
                since_sent: Some(since_sent.min(session.unwrap_or_default())),
                keep_alive: Some(Duration::from_secs(30)),
                ..Evidence::default()
            },
            suspect: None,
        });
        self.input(index, Input::Ended(Box::new(disconnect)));
    }

    fn input(&mut self, index: usize, input: Input) {
        self.gateways[index].link.handle(self.now, input);
        self.drain(index);
    }

    fn drain(&mut self, index: usize) {
        while let Some(output) = self.gateways[index].link.poll_output() {
            match output {
                Output::Open { .. } => {
                    let gateway = &self.gateways[index];
                    let (gone, trip) = (gateway.gone, gateway.trip);
                    if !gone {
                        self.after(trip * 3, Event::Connect(index));
                    }
                }
                Output::Knock { .. } => {
                    let link = &mut self.gateways[index].link;
                    link.handle(self.now, Input::Knocked(true));
                }
                Output::Consult(question) => {
                    let advice = self.advise(index, &question);
                    self.gateways[index]
                        .link
                        .handle(self.now, Input::Decided(advice));
                }
                Output::Close(_) | Output::Redial | Output::Report(_) => {}
            }
        }
    }

    fn advise(&mut self, index: usize, question: &Question) -> Result<Decision, PolicyFault> {
        match self.gateways[index].adviser {
            Adviser::Nobody => Err(PolicyFault::Absent),
            Adviser::Storm => Ok(Decision::RetryNow),
            Adviser::Slow => Ok(Decision::RetryAfter(question.ceiling)),
            Adviser::Dice => Ok(Decision::RetryAfter(
                self.random
                    .between(Duration::ZERO, Duration::from_secs(5_000)),
            )),
            Adviser::Parks => Ok(Decision::Park),
        }
    }

    /// The most exchanges in any ten minutes.
    fn densest(&self) -> usize {
        let within = |from: Instant| {
            let inside = |at: &&Instant| **at >= from && **at - from <= WINDOW;
            self.exchanges.iter().filter(inside).count()
        };
        self.exchanges
            .iter()
            .map(|at| within(*at))
            .max()
            .unwrap_or(0)
    }

    fn is_up(&self, index: usize) -> bool {
        self.owner == Some(index) && matches!(self.gateways[index].link.state(), State::Up { .. })
    }
}

fn pick(random: &mut Random, count: usize) -> usize {
    usize::try_from(random.next_u64() % count as u64).unwrap()
}

#[test]
fn at_most_three_exchanges_in_ten_minutes_and_the_survivor_comes_back() {
    let mut most = 0;
    for says in [Says::Code, Says::Nothing, Says::CodeToOne] {
        for first in ADVISERS {
            for second in ADVISERS {
                for seed in 0..200 {
                    let name = format!("seed {seed}, {says:?}, {first:?} and {second:?}");
                    let mut duel = Duel::new(seed, says, [first, second]);
                    duel.run_until(at(4 * 3_600_000));
                    let densest = duel.densest();
                    assert!(
                        densest <= EXCHANGES_MAX,
                        "{name}: {densest} exchanges in ten minutes: {:?}",
                        duel.exchanges
                    );
                    most = most.max(densest);
                    survive(duel, &name);
                }
            }
        }
    }
    assert_eq!(most, EXCHANGES_MAX, "a duel did take place");
}

/// One goes away; the other needs nobody, unless its policy parked it on the broker's own word.
fn survive(mut duel: Duel, name: &str) {
    let leaver = pick(&mut duel.random, 2);
    let survivor = 1 - leaver;
    duel.after(Duration::ZERO, Event::Leave(leaver));
    let now = duel.now;
    duel.run_until(now + BACK_WITHIN + duel.gateways[survivor].link.settings.ceiling);
    let parked = matches!(duel.gateways[survivor].link.state(), State::Parked { .. });
    let may_park =
        duel.gateways[survivor].adviser == Adviser::Parks && duel.gateways[survivor].told;
    assert!(
        duel.is_up(survivor) || (parked && may_park),
        "{name}: {survivor} is not back: {:?}",
        duel.gateways[survivor].link.state()
    );
}

#[test]
fn the_alarm_is_raised_and_says_how_certain_it_is() {
    for (says, certainty) in [
        (Says::Code, Certainty::Certain),
        (Says::Nothing, Certainty::Inferred),
    ] {
        for seed in 0..20 {
            let mut duel = Duel::new(seed, says, [Adviser::Nobody; 2]);
            duel.run_until(at(3_600_000));
            let alarms: Vec<_> = duel
                .gateways
                .iter()
                .filter_map(|gateway| gateway.link.duplicate_client_id())
                .collect();
            assert!(!alarms.is_empty(), "seed {seed}");
            assert!(alarms.iter().all(|alarm| alarm.certainty == certainty));
        }
    }
}
