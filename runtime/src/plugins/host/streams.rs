//! The guest's view of its streams.

use std::time::Duration;

use moorline_core::confine::Limit;

use super::Resident;
use super::edge::streams::{FrameRule as WitRule, Host, StreamError};
use crate::plugins::store::HostState;
use crate::plugins::streams::StreamFault;
use crate::plugins::streams::frame::FrameRule;

/// Characters of a name that are repeated.
const NAME_CHARS_SHOWN: usize = 64;
/// A write waits no longer than this for its streams to have rested.
const WRITE_REST_MAX: Duration = Duration::from_secs(5);

impl From<StreamFault> for StreamError {
    fn from(fault: StreamFault) -> Self {
        match fault {
            StreamFault::NotGranted => Self::NotGranted,
            StreamFault::Closed(reason) => Self::Closed(reason),
            StreamFault::Timeout => Self::Timeout,
            StreamFault::TooLarge => Self::TooLarge,
            StreamFault::BadRule => Self::BadRule,
        }
    }
}

fn bytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl From<WitRule> for FrameRule {
    fn from(rule: WitRule) -> Self {
        match rule {
            WitRule::Fixed(count) => Self::Fixed(bytes(count)),
            WitRule::LengthPrefixed(field) => Self::LengthPrefixed {
                offset: bytes(field.offset),
                width: usize::from(field.width),
                big_endian: field.big_endian,
                adjust: i64::from(field.adjust),
            },
            WitRule::Delimited(delimiter) => Self::Delimited(delimiter),
            WitRule::IdleGap(ms) => Self::IdleGap(Duration::from_millis(u64::from(ms))),
        }
    }
}

impl Resident {
    /// Lets the streams rest if they owe it. Says what is left of `deadline` then.
    async fn stream_rest(&mut self, deadline: Duration) -> Result<Duration, StreamError> {
        let rest = self.confined.stream_rest(self.clock.now());
        if rest.is_zero() {
            return Ok(deadline);
        }
        self.hit(Limit::Stream);
        tokio::time::sleep(rest.min(deadline)).await;
        let left = deadline.saturating_sub(rest);
        if left.is_zero() {
            return Err(StreamError::Timeout);
        }
        Ok(left)
    }

    fn count_stream_bytes(&mut self, bytes: usize) {
        self.confined.count_stream_bytes(self.clock.now(), bytes);
    }
}

impl Host for HostState {
    async fn open(&mut self, name: String) -> Result<u32, StreamError> {
        let resident = self.resident.as_mut().ok_or(StreamError::NotGranted)?;
        let opened = resident.streams.open(&name).await;
        if opened == Err(StreamFault::NotGranted) {
            let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
            resident.deny(&format!(
                "the stream {shown:?}; streams are granted by [[connector.connection]]"
            ));
        }
        Ok(opened?)
    }

    async fn write(&mut self, id: u32, bytes: Vec<u8>) -> Result<(), StreamError> {
        let resident = self.resident.as_mut().ok_or(StreamError::NotGranted)?;
        resident.stream_rest(WRITE_REST_MAX).await?;
        resident.count_stream_bytes(bytes.len());
        Ok(resident.streams.write(id, bytes).await?)
    }

    async fn exchange(
        &mut self,
        id: u32,
        request: Vec<u8>,
        rule: WitRule,
        deadline_ms: u32,
    ) -> Result<Vec<u8>, StreamError> {
        let resident = self.resident.as_mut().ok_or(StreamError::NotGranted)?;
        let deadline = Duration::from_millis(u64::from(deadline_ms));
        let deadline = resident.stream_rest(deadline).await?;
        let sent = request.len();
        let streams = &resident.streams;
        let answer = streams.exchange(id, request, rule.into(), deadline).await;
        let received = answer.as_ref().map_or(0, Vec::len);
        resident.count_stream_bytes(sent.saturating_add(received));
        Ok(answer?)
    }

    async fn close(&mut self, id: u32) {
        if let Some(resident) = &self.resident {
            resident.streams.close(id).await;
        }
    }
}
