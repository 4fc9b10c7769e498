//! The guest's view of its streams.

use std::time::Duration;

use super::edge::streams::{FrameRule as WitRule, Host, StreamError};
use crate::plugins::store::HostState;
use crate::plugins::streams::StreamFault;
use crate::plugins::streams::frame::FrameRule;

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

impl Host for HostState {
    async fn open(&mut self, name: String) -> Result<u32, StreamError> {
        self.cpu.waited();
        let resident = self.resident.as_mut().ok_or(StreamError::NotGranted)?;
        Ok(resident.streams.open(&name).await?)
    }

    async fn write(&mut self, id: u32, bytes: Vec<u8>) -> Result<(), StreamError> {
        self.cpu.waited();
        let resident = self.resident.as_mut().ok_or(StreamError::NotGranted)?;
        Ok(resident.streams.write(id, bytes).await?)
    }

    async fn exchange(
        &mut self,
        id: u32,
        request: Vec<u8>,
        rule: WitRule,
        deadline_ms: u32,
    ) -> Result<Vec<u8>, StreamError> {
        self.cpu.waited();
        let resident = self.resident.as_mut().ok_or(StreamError::NotGranted)?;
        let deadline = Duration::from_millis(u64::from(deadline_ms));
        Ok(resident
            .streams
            .exchange(id, request, rule.into(), deadline)
            .await?)
    }

    async fn close(&mut self, id: u32) {
        self.cpu.waited();
        if let Some(resident) = &self.resident {
            resident.streams.close(id).await;
        }
    }
}
