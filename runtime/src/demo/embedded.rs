//! The embedded broker's own process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mqtt5::broker::config::{RateLimitConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerConfig, MqttBroker};
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of the largest packet it takes.
const PACKET_BYTES_MAX: usize = 1024 * 1024;
const SESSION_EXPIRY: Duration = Duration::from_secs(3_600);

/// Runs until it is killed, or ends in good order on SIGTERM: its clients are told that the server shuts down.
///
/// # Errors
/// When it cannot listen on `port` or use `directory`.
pub(super) async fn run(port: u16, directory: PathBuf) -> mqtt5::Result<()> {
    let mut configuration = BrokerConfig {
        bind_addresses: vec![SocketAddr::from(([127, 0, 0, 1], port))],
        max_packet_size: PACKET_BYTES_MAX,
        session_expiry_interval: SESSION_EXPIRY,
        sys_topics_enabled: false,
        storage_config: StorageConfig::new()
            .with_backend(StorageBackend::File)
            .with_base_dir(directory),
        ..BrokerConfig::default()
    };
    configuration.auth_config.rate_limit = RateLimitConfig {
        enabled: false,
        ..RateLimitConfig::default()
    };
    let mut terminated = signal(SignalKind::terminate())?;
    let mut broker = MqttBroker::with_config(configuration).await?;
    let shutdown = broker.shutdown_handle();
    tokio::spawn(async move {
        terminated.recv().await;
        shutdown.shutdown();
    });
    broker.run().await
}
