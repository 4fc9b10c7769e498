//! HTTP by `wasi:http`, to the origins that are granted and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Scheme;
use moorline_core::confine::Origin;
use tokio::sync::mpsc;
use wasmtime_wasi_http::{
    Error, RequestOptions, Result, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
    WasiHttpView, default_hooks,
};

use super::descriptors::Places;
use super::store::HostState;
use super::wasi::Said;

/// Bytes of the headers of one message.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// For each part of a request, whatever a guest asks for; the call's own deadline ends it in any case.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// The client behind `wasi:http/outgoing-handler`.
pub(crate) struct Http {
    context: WasiHttpCtx,
    gate: Gate,
}

struct Gate {
    origins: Arc<[Origin]>,
    places: Places,
    said: mpsc::Sender<Said>,
}

type Sending = Box<dyn Future<Output = Result<Sent>> + Send>;
type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl Http {
    pub(super) fn new(origins: &[Origin], places: Places, said: mpsc::Sender<Said>) -> Self {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(HEADER_BYTES_MAX);
        Self {
            context,
            gate: Gate {
                origins: origins.into(),
                places,
                said,
            },
        }
    }
}

impl WasiHttpHooks for Gate {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        body: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Sending {
        let uri = request.uri();
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = uri.host().unwrap_or_default();
        let granted = |origin: &Origin| origin.is(secure, host, port);
        if !self.origins.iter().any(granted) {
            let scheme = if secure { "https" } else { "http" };
            let words = format!(
                "a request to {scheme}://{host}:{port}; what may be requested from stands in http of [connector.grants]"
            );
            match self.said.try_send(Said::Denied(words)) {
                // Full: the guest is told in any case.
                Ok(()) | Err(_) => {}
            }
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        let mut options = options.unwrap_or_default();
        for timeout in [
            &mut options.connect_timeout,
            &mut options.first_byte_timeout,
            &mut options.between_bytes_timeout,
        ] {
            *timeout = Some(timeout.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX));
        }
        let Ok(place) = self.places.take() else {
            return Box::new(std::future::ready(Err(Error::ConnectionLimitReached)));
        };
        let sending = Box::into_pin(default_hooks().send_request(request, Some(options), body));
        Box::new(async move {
            let (response, connection) = sending.await?;
            let connection = Box::into_pin(connection);
            let held: Box<dyn Future<Output = Result<(), Error>> + Send> = Box::new(async move {
                let ended = connection.await;
                drop(place);
                ended
            });
            Ok((response, held))
        })
    }
}

impl WasiHttpView for HostState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let (http, table) = self.http_parts();
        WasiHttpCtxView {
            hooks: &mut http.gate,
            table,
            ctx: &mut http.context,
        }
    }
}
