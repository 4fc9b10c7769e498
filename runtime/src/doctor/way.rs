//! Name, addresses, protocol, certificates, clock.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use moorline_core::doctor::facts::{
    AddressSeen, ClockSeen, NameSeen, Outer, ProtocolSeen, Speech, TlsSeen, TlsTerms,
};
use moorline_core::doctor::{Finding, judge};
use moorline_core::link::cause::{Cause, MqttVersion, TlsReject};

use super::{Doctor, certificate};
use crate::link::TlsSetupError;
use crate::link::probe::{Handshake, Way};

/// Where brokers serve MQTT over WebSocket unless they are told otherwise.
const USUAL_PATH: &str = "/mqtt";

impl Doctor {
    pub(super) async fn name(&mut self) -> Finding {
        let addresses = self.prober.addresses().await;
        if let Ok(addresses) = &addresses {
            self.addresses.clone_from(addresses);
        }
        let seen = NameSeen {
            literal: self.wanted.host.parse::<std::net::IpAddr>().is_ok(),
            addresses: addresses
                .map(|addresses| addresses.iter().map(std::net::SocketAddr::ip).collect()),
        };
        judge::name(&self.wanted, &seen)
    }

    /// All addresses at once: each has the whole deadline.
    pub(super) async fn connection(&mut self) -> Finding {
        let mut tasks = Vec::with_capacity(self.addresses.len());
        for &address in &self.addresses {
            let prober = self.prober.clone();
            tasks.push((
                address,
                tokio::spawn(async move { prober.connects(address).await }),
            ));
        }
        let mut seen = Vec::with_capacity(tasks.len());
        for (address, task) in tasks {
            // A task of ours neither panics nor is aborted; if it were, there is nothing to say about its address.
            if let Ok(connected) = task.await {
                seen.push(AddressSeen { address, connected });
            }
        }
        judge::connection(&self.wanted, &seen)
    }

    pub(super) async fn protocol(&mut self) -> Result<Finding, TlsSetupError> {
        let seen = match self.prober.handshake().await {
            None => self.plain_protocol().await,
            Some(handshake) => {
                let handshake = handshake?;
                let spoken = handshake.spoken;
                let shaken = handshake.terms.is_ok();
                self.tls = Some(self.tls_seen(handshake));
                self.tls_protocol(spoken, shaken).await
            }
        };
        let finding = judge::protocol(&self.wanted, &seen);
        self.protocol = Some(seen);
        Ok(finding)
    }

    async fn plain_protocol(&self) -> ProtocolSeen {
        let inside = self.answer_to_connect(Way::Configured).await;
        let understood = !matches!(inside, Speech::Closed | Speech::Silent);
        let mut seen = ProtocolSeen {
            outer: Outer::Plain,
            inside: Some(inside),
            other: None,
            http: None,
        };
        if !understood && self.wanted.websocket.is_some() {
            seen.other = Some(self.answer_to_connect(Way::Bare).await);
            seen.http = Some(self.http(Way::Plain).await);
        } else if !understood {
            let hello = self.prober.tls_hello();
            let other = self.prober.speech(Way::Plain, &hello).await;
            if other != Speech::Tls {
                seen.http = Some(self.http(Way::Plain).await);
            }
            seen.other = Some(other);
        }
        seen
    }

    async fn tls_protocol(&self, spoken: bool, shaken: bool) -> ProtocolSeen {
        let mut seen = ProtocolSeen {
            outer: match (spoken, shaken) {
                (_, true) => Outer::Tls,
                (true, false) => Outer::TlsRefused,
                (false, false) => Outer::NotTls,
            },
            inside: None,
            other: None,
            http: None,
        };
        match seen.outer {
            Outer::Plain | Outer::TlsRefused => {}
            Outer::Tls => {
                let inside = self.answer_to_connect(Way::Configured).await;
                if matches!(inside, Speech::Closed | Speech::Silent) {
                    if self.wanted.websocket.is_some() {
                        seen.other = Some(self.answer_to_connect(Way::Bare).await);
                    }
                    seen.http = Some(self.http(Way::Bare).await);
                }
                seen.inside = Some(inside);
            }
            Outer::NotTls => {
                let other = self.answer_to_connect(Way::Plain).await;
                if other != Speech::Mqtt {
                    seen.http = Some(self.http(Way::Plain).await);
                }
                seen.other = Some(other);
            }
        }
        seen
    }

    /// What CONNECT is answered with, in the first version that is answered at all. On the way that is not configured no
    /// secret is sent.
    async fn answer_to_connect(&self, way: Way) -> Speech {
        let mut heard = Speech::Silent;
        for version in [MqttVersion::V5, MqttVersion::V311] {
            let mut connect = self.connect(version, &self.client_id);
            if way != Way::Configured {
                (connect.username, connect.password) = (None, None);
            }
            heard = self.prober.speech(way, &connect.encode()).await;
            if !matches!(heard, Speech::Closed | Speech::Silent) {
                break;
            }
        }
        heard
    }

    async fn http(&self, way: Way) -> Speech {
        // As a browser would; whatever speaks HTTP answers something.
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: bW9vcmxpbmUtZG9jdG9yIQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
            self.wanted.websocket.as_deref().unwrap_or(USUAL_PATH),
            self.prober.endpoint().name(),
        );
        self.prober.speech(way, request.as_bytes()).await
    }

    fn tls_seen(&self, handshake: Handshake) -> TlsSeen {
        let now_s = i64::try_from(self.clock.wall().0 / 1000).unwrap_or(i64::MAX);
        TlsSeen {
            handshake: handshake.terms.map(|(version, cipher, alpn)| TlsTerms {
                version,
                cipher,
                alpn,
            }),
            root: certificate::root(&handshake.offered, &handshake.trusted),
            offered: handshake
                .offered
                .iter()
                .filter_map(certificate::read)
                .collect(),
            now_s,
            now: certificate::time(now_s),
        }
    }

    pub(super) fn clocks(&self) -> Finding {
        let now_s = i64::try_from(self.clock.wall().0 / 1000).unwrap_or(i64::MAX);
        let theirs = self
            .http_date()
            .and_then(|date| rfc2822::parse(date).ok())
            .map(|date| date.timestamp());
        let outside = |reject| {
            matches!(
                reject,
                Cause::Tls(TlsReject::Expired | TlsReject::NotYetValid)
            )
        };
        let certificate_valid = self.tls.as_ref().and_then(|tls| match &tls.handshake {
            Ok(_) => Some(true),
            Err(failed) => outside(failed.cause).then_some(false),
        });
        judge::clock(&ClockSeen {
            http_ahead_s: theirs.map(|theirs: Timestamp| now_s - theirs.as_second()),
            certificate_valid,
        })
    }
}
