//! MQTT in the frames of a WebSocket (MQTT 5.0 section 6): the upgrade, and a stream of the bytes inside.
//!
//! What is framed how is of no meaning: a frame may hold a part of a packet or several. PINGs are answered on the way. A
//! Close ends the stream, and what it says is kept.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{Sink as _, Stream as _};
use moorline_core::link::cause::Phase;
use moorline_core::link::proxy::NO_ANSWER;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{DialError, DialFailure, errno_or_closed};
use crate::link::settings::EndpointSettings;
use crate::link::tls;

/// The subprotocol's name (MQTT 5.0 section 6).
const MQTT: HeaderValue = HeaderValue::from_static("mqtt");
/// The longest frame we send; longer writes become several.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// What is gathered before it is written, flushes aside.
const GATHERED_BYTES: usize = 16 * 1024;
/// The longest message we take; a broker frames what it has at hand.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// How a stream becomes a WebSocket.
#[derive(Clone)]
pub(super) struct Upgrade {
    url: String,
    budget: Duration,
}

/// Why a WebSocket is of no more use, apart from what its carrier says.
#[derive(Debug, Error)]
enum Ended {
    /// The server sent Close, with a code (RFC 6455 section 7.4) and a reason, or without.
    #[error("the server closed the WebSocket{}", .0.as_deref().unwrap_or(" without a code"))]
    Closed(Option<String>),
    /// The server sent what no MQTT server may.
    #[error("{0}")]
    Broken(String),
}

/// What an error of a WebSocket stream means.
pub(in crate::link) enum WebSocketEnd {
    Closed(String),
    Broken(String),
}

/// What ended the WebSocket; none where the error is the carrier's.
pub(in crate::link) fn ended(error: &io::Error) -> Option<WebSocketEnd> {
    let ended = error.get_ref()?.downcast_ref::<Ended>()?;
    let words = ended.to_string();
    Some(match ended {
        Ended::Closed(_) => WebSocketEnd::Closed(words),
        Ended::Broken(_) => WebSocketEnd::Broken(words),
    })
}

impl Upgrade {
    pub(super) fn new(endpoint: &EndpointSettings, budget: Duration) -> Option<Self> {
        let path = endpoint.websocket.as_deref()?;
        let scheme = if endpoint.tls.is_some() { "wss" } else { "ws" };
        let name = endpoint.name();
        // Servers that choose by the Host header expect it without the port a browser would leave out.
        let host = name
            .strip_suffix(&format!(":{}", endpoint.default_port()))
            .unwrap_or(&name);
        Some(Self {
            url: format!("{scheme}://{host}{path}"),
            budget,
        })
    }

    /// Asks for the upgrade.
    pub(super) async fn open<S>(&self, carrier: S) -> Result<WebSocket<S>, DialFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let configuration = WebSocketConfig::default()
            .read_buffer_size(GATHERED_BYTES)
            .write_buffer_size(GATHERED_BYTES)
            .max_write_buffer_size(GATHERED_BYTES + 2 * FRAME_BYTES_MAX)
            .max_frame_size(Some(MESSAGE_BYTES_MAX))
            .max_message_size(Some(MESSAGE_BYTES_MAX));
        let upgrading = async {
            let request = self.request()?;
            client_async_with_config(request, carrier, Some(configuration)).await
        };
        let (error, words) = match timeout(self.budget, upgrading).await {
            Ok(Ok((inner, _response))) => {
                return Ok(WebSocket {
                    inner,
                    received: Bytes::new(),
                });
            }
            Ok(Err(error)) => (exact(&error), error.to_string()),
            Err(_elapsed) => (
                DialError::Timeout,
                format!("no answer within {:?}", self.budget),
            ),
        };
        Err(DialFailure {
            phase: Phase::WebSocket,
            error,
            detail: format!("{}: {words}", self.url),
        })
    }

    fn request(&self) -> Result<Request, WsError> {
        let uri: Uri = self.url.parse()?;
        let mut request = uri.into_client_request()?;
        request
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, MQTT);
        Ok(request)
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest of the crate's errors is told apart in the detail only"
)]
fn exact(error: &WsError) -> DialError {
    match error {
        WsError::Http(response) => DialError::WebSocket(response.status().as_u16()),
        // TLS 1.3 lets the client finish first: a refusal of our certificate comes here.
        WsError::Io(error) => {
            tls::rejection(error).map_or_else(|| errno_or_closed(error), DialError::Tls)
        }
        WsError::Protocol(ProtocolError::HandshakeIncomplete) => DialError::Closed,
        _ => DialError::WebSocket(NO_ANSWER),
    }
}

/// The bytes inside a WebSocket.
pub(in crate::link) struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// Of the last message, what the reader had no room for.
    received: Bytes,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest of the crate's errors is told apart in the words only"
)]
fn to_io(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        other => io::Error::other(Ended::Broken(other.to_string())),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        while socket.received.is_empty() {
            let Some(next) = ready!(Pin::new(&mut socket.inner).poll_next(cx)) else {
                return Poll::Ready(Ok(()));
            };
            match next {
                Ok(Message::Binary(bytes)) => socket.received = bytes,
                // Answered by the crate.
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(frame)) => {
                    let words =
                        frame.map(|frame| format!(": {} {:?}", frame.code, frame.reason.as_str()));
                    return Poll::Ready(Err(io::Error::other(Ended::Closed(words))));
                }
                Ok(Message::Text(_) | Message::Frame(_)) => {
                    let words = "a text frame, where MQTT wants binary ones".to_owned();
                    return Poll::Ready(Err(io::Error::other(Ended::Broken(words))));
                }
                // A plain end of the stream, as without a WebSocket.
                Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let length = socket.received.len().min(buf.remaining());
        buf.put_slice(&socket.received[..length]);
        socket.received.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = Pin::new(&mut self.get_mut().inner);
        ready!(inner.as_mut().poll_ready(cx)).map_err(to_io)?;
        let frame = buf.get(..FRAME_BYTES_MAX).unwrap_or(buf);
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        inner.as_mut().start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner)
            .poll_flush(cx)
            .map_err(to_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner)
            .poll_close(cx)
            .map_err(to_io)
    }
}
