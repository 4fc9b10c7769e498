//! The way through a proxy: moves the bytes of the core's handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use moorline_core::link::cause::Phase;
use moorline_core::link::proxy::{Handshake, NO_ANSWER, Refusal, Target};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{DialError, DialFailure, errno_or_closed};
use crate::link::settings::{LinkSettings, ProxyKind, ProxySettings};

/// What is read at once; an answer is shorter.
const CHUNK_BYTES: usize = 1024;

/// How to get through.
#[derive(Clone)]
pub(super) struct Proxy {
    settings: Arc<ProxySettings>,
    budget: Duration,
}

/// Why the handshake ended without a way through.
enum Stopped {
    Refused(Refusal),
    Io(io::Error),
    Closed,
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Proxy {
    pub(super) fn new(settings: &LinkSettings) -> Option<Self> {
        let proxy = settings.proxy.clone()?;
        Some(Self {
            settings: Arc::new(proxy),
            budget: settings.timeouts.proxy,
        })
    }

    /// What to connect to instead of the broker.
    pub(super) fn address(&self) -> (&str, u16) {
        (&self.settings.host, self.settings.port)
    }

    /// Asks for the way to the broker over a fresh connection to the proxy.
    pub(super) async fn open<S>(
        &self,
        stream: &mut S,
        host: &str,
        port: u16,
    ) -> Result<(), DialFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (error, words) = match timeout(self.budget, shake(stream, self.handshake(host, port)))
            .await
        {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Stopped::Refused(Refusal { code, words }))) => (DialError::Proxy(code), words),
            Ok(Err(Stopped::Io(error))) => (errno_or_closed(&error), error.to_string()),
            Ok(Err(Stopped::Closed)) => (
                DialError::Proxy(NO_ANSWER),
                "it closed instead of answering".to_owned(),
            ),
            Err(_elapsed) => (
                DialError::Timeout,
                format!("no answer within {:?}", self.budget),
            ),
        };
        Err(DialFailure {
            phase: Phase::Proxy,
            error,
            detail: format!("{}: {words}", self.settings),
        })
    }

    fn handshake(&self, host: &str, port: u16) -> Handshake {
        let target = Target {
            host: host.to_owned(),
            port,
        };
        let login = self.settings.login.as_ref();
        match self.settings.kind {
            ProxyKind::Http => {
                let authorization = login.map(|login| {
                    let pair = format!("{}:{}", login.username.expose(), login.password.expose());
                    format!("Basic {}", BASE64.encode(pair.as_bytes()))
                });
                Handshake::http(target, authorization.as_deref())
            }
            ProxyKind::Socks5 => {
                let login = login.map(|login| {
                    (
                        login.username.expose().as_bytes().to_vec(),
                        login.password.expose().as_bytes().to_vec(),
                    )
                });
                Handshake::socks5(target, login)
            }
        }
    }
}

async fn shake<S>(stream: &mut S, mut handshake: Handshake) -> Result<(), Stopped>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut chunk = [0; CHUNK_BYTES];
    while !handshake.is_open() {
        while let Some(bytes) = handshake.poll_send() {
            stream.write_all(&bytes).await?;
        }
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Err(Stopped::Closed);
        }
        handshake
            .handle(chunk.get(..read).unwrap_or_default())
            .map_err(Stopped::Refused)?;
    }
    Ok(())
}
