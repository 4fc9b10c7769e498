//! What CONNECT is answered with.

use std::time::Duration;

use moorline_core::doctor::facts::{
    Answer, KeepAliveSeen, SilenceSeen, StrangersSeen, TakeoverSeen, TermsSeen,
};
use moorline_core::doctor::{Finding, Probe, judge};
use moorline_core::link::cause::{Cause, MqttVersion};
use moorline_core::mqtt_frame::packet::Connect;
use tokio::time::Instant;

use super::{Answers, Doctor};
use crate::link::probe::Prober;

/// A broker must notice a client that is silent for so long; short, so that the wait is.
const SILENT_KEEP_ALIVE_S: u16 = 2;
/// Attempts to find the longest keep-alive that is accepted.
const KEEP_ALIVE_TRIES: u32 = 12;
/// The older of two clients hears of it within.
const TAKEOVER_WAIT: Duration = Duration::from_secs(3);

impl Doctor {
    pub(super) async fn version(&mut self, version: MqttVersion) -> Finding {
        if self.answers.is_none() {
            self.answers = Some(self.ask_versions().await);
        }
        match &self.answers {
            Some(answers) => judge::version(&self.wanted, version, &answers.v5, &answers.v311),
            None => Finding::not_tried(Probe::Version5, "because nothing was answered"),
        }
    }

    async fn ask_versions(&self) -> Answers {
        let asked = self.wanted.keep_alive_s;
        let v5 = self.answered(MqttVersion::V5, asked).await;
        let mut v311 = self.answered(MqttVersion::V311, asked).await;
        let mut accepted_keep_alive_s = None;
        let spoken = judge::spoken(&self.wanted, &v5, &v311);
        let refused = matches!(&v311, Err(failed) if failed.cause == Cause::ClientIdRefused);
        // 3.1.1 has no code for a keep-alive that is too long; what comes closest is a client id that is refused.
        if refused && spoken == Some(MqttVersion::V311) && asked > judge::KEEP_ALIVE_S_MIN {
            let shortest = self
                .answered(MqttVersion::V311, judge::KEEP_ALIVE_S_MIN)
                .await;
            if shortest.is_ok() {
                accepted_keep_alive_s = Some(self.longest_keep_alive_s().await);
                v311 = shortest;
            }
        }
        Answers {
            v5,
            v311,
            accepted_keep_alive_s,
        }
    }

    async fn longest_keep_alive_s(&self) -> u16 {
        let mut accepted = judge::KEEP_ALIVE_S_MIN;
        let mut refused = self.wanted.keep_alive_s;
        for _ in 0..KEEP_ALIVE_TRIES {
            if refused - accepted <= 1 {
                break;
            }
            let middle = accepted + (refused - accepted) / 2;
            if self.answered(MqttVersion::V311, middle).await.is_ok() {
                accepted = middle;
            } else {
                refused = middle;
            }
        }
        accepted
    }

    async fn answered(&self, version: MqttVersion, keep_alive_s: u16) -> Answer {
        let mut connect = self.connect(version, &self.client_id);
        connect.keep_alive_s = keep_alive_s;
        answered(&self.prober, &connect).await
    }

    pub(super) fn credentials(&mut self) -> Finding {
        let suffixed = !self.options.as_gateway;
        let Some(answers) = &self.answers else {
            return judge::credentials(&self.wanted, None, suffixed);
        };
        let version = judge::spoken(&self.wanted, &answers.v5, &answers.v311);
        let answer = version.map(|version| match version {
            MqttVersion::V5 => (version, &answers.v5),
            MqttVersion::V311 => (version, &answers.v311),
        });
        let finding = judge::credentials(&self.wanted, answer.map(|(_, answer)| answer), suffixed);
        if let Some((version, Ok(connack))) = answer {
            self.terms = Some(TermsSeen {
                version,
                connack: connack.clone(),
            });
            self.begin_silence();
        }
        finding
    }

    pub(super) async fn strangers(&self) -> Finding {
        let version = self.version_spoken();
        let mut nobody = self.connect(version, &self.client_id);
        (nobody.username, nobody.password) = (None, None);
        let nobody = answered(&self.prober, &nobody).await;
        let mut impostor = None;
        if self.wanted.username {
            let mut connect = self.connect(version, &self.client_id);
            // A token has no password: then the token is the secret.
            if connect.password.is_some() {
                connect.password = Some("moorline-doctor-wrong-password");
            } else {
                connect.username = Some("moorline-doctor-wrong-user");
            }
            impostor = Some(answered(&self.prober, &connect).await);
        }
        judge::strangers(&self.wanted, &StrangersSeen { nobody, impostor })
    }

    pub(super) fn announced(&self) -> Finding {
        match &self.terms {
            Some(terms) => judge::terms(terms),
            None => Finding::not_tried(Probe::Terms, "because there is no CONNACK"),
        }
    }

    pub(super) fn keep_alive(&self) -> Finding {
        let properties = self.terms.as_ref().map(|terms| &terms.connack.properties);
        let seen = KeepAliveSeen {
            server_s: properties.and_then(|properties| properties.server_keep_alive_s),
            accepted_s: self
                .answers
                .as_ref()
                .and_then(|answers| answers.accepted_keep_alive_s),
        };
        judge::keep_alive(&self.wanted, &seen)
    }

    pub(super) async fn takeover(&self) -> Finding {
        let version = self.version_spoken();
        let connect = self.connect(version, &self.client_id);
        let seen = match self.prober.converse(&connect).await {
            Err(failed) => TakeoverSeen::Second(failed),
            Ok((mut first, _)) => match self.prober.converse(&connect).await {
                Err(failed) => {
                    first.close().await;
                    TakeoverSeen::Second(failed)
                }
                Ok((second, _)) => {
                    let deadline = Instant::now() + TAKEOVER_WAIT;
                    let seen = loop {
                        match first.next(deadline).await {
                            Ok(Some(_packet)) => {}
                            Ok(None) => break TakeoverSeen::Neither,
                            Err(failed) => break TakeoverSeen::First(failed),
                        }
                    };
                    second.close().await;
                    seen
                }
            },
        };
        judge::takeover(&seen)
    }

    /// The wait is long: it goes on beside the other probes.
    fn begin_silence(&mut self) {
        let prober = self.prober.clone();
        let patience = self.options.patience;
        let id = format!("{}-silent", self.client_id);
        let version = self.version_spoken();
        let credentials = prober.settings().credentials.clone();
        self.silence = Some(tokio::spawn(async move {
            let connect = Connect {
                version,
                client_id: &id,
                username: super::given(credentials.username.as_ref()),
                password: super::given(credentials.password.as_ref()),
                keep_alive_s: SILENT_KEEP_ALIVE_S,
                clean_start: true,
                session_expiry_s: 0,
            };
            silence(&prober, &connect, patience).await
        }));
    }

    pub(super) async fn silent_client(&mut self) -> Finding {
        match self.silence.take() {
            Some(task) => match task.await {
                Ok(seen) => judge::silence(SILENT_KEEP_ALIVE_S, &seen),
                Err(_aborted) => Finding::not_tried(Probe::Silence, "because it was ended"),
            },
            None => Finding::not_tried(Probe::Silence, "because there is no session"),
        }
    }
}

async fn silence(prober: &Prober, connect: &Connect<'_>, patience: Duration) -> SilenceSeen {
    let (mut session, connack) = match prober.converse(connect).await {
        Ok(opened) => opened,
        Err(failed) => return SilenceSeen::NoSession(failed),
    };
    let in_force = connack.properties.server_keep_alive_s;
    let in_force = in_force.unwrap_or(connect.keep_alive_s);
    // MQTT 5.0 section 3.1.2.10: one and a half times the keep-alive.
    if Duration::from_secs(in_force.into()).mul_f64(1.5) > patience {
        session.close().await;
        return SilenceSeen::TooLong(patience);
    }
    let started = Instant::now();
    loop {
        match session.next(started + patience).await {
            Ok(Some(_packet)) => {}
            Ok(None) => {
                session.close().await;
                return SilenceSeen::Open(patience);
            }
            Err(failed) => return SilenceSeen::Closed(started.elapsed(), failed),
        }
    }
}

/// What `connect` is answered with; a session that it opens is closed again.
async fn answered(prober: &Prober, connect: &Connect<'_>) -> Answer {
    let (session, connack) = prober.converse(connect).await?;
    session.close().await;
    Ok(connack)
}
