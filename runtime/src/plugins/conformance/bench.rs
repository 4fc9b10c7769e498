//! The component under test, its plan and its device.

use std::path::PathBuf;

use moorline_core::swap::{Failure, Reason};

use super::answers::rules;
use super::device::{ANYWHERE, Answering, FakeDevice, Mood, Seen};
use super::{Device, Plan};
use crate::plugins::guest::Loaded;
use crate::plugins::settings::Limits;
use crate::plugins::stream_target::{StreamTarget, TcpTarget};

/// Everything that outlasts one life.
pub(super) struct Bench {
    pub(super) loaded: Loaded,
    pub(super) configuration: serde_json::Value,
    pub(super) limits: Limits,
    /// Never written to.
    pub(super) state_directory: PathBuf,
    stream: String,
    device: Option<FakeDevice>,
    /// Whether the device may ever answer.
    answers: bool,
}

impl Bench {
    pub(super) async fn set_up(loaded: Loaded, plan: Plan) -> Result<Self, Failure> {
        let (answering, answers) = match plan.device {
            Device::None => (None, false),
            Device::Real(target) => (Some(Answering::Real(target)), true),
            Device::Fake(answers) => {
                let rules = rules(&answers)
                    .map_err(|why| Failure::new(Reason::Host, format!("cannot test it: {why}")))?;
                let any = !rules.is_empty();
                (Some(Answering::Rules(rules.into())), any)
            }
        };
        let device = match answering {
            Some(answering) => Some(FakeDevice::start(answering, ANYWHERE).await.map_err(
                |error| {
                    Failure::new(
                        Reason::Host,
                        format!("cannot test it: no port for a fake device: {error}"),
                    )
                },
            )?),
            None => None,
        };
        Ok(Self {
            loaded,
            configuration: plan.configuration,
            limits: plan.limits,
            state_directory: std::env::temp_dir().join("moorline-conformance"),
            stream: plan.stream,
            device,
            answers,
        })
    }

    /// The streams it is granted.
    pub(super) fn grants(&self) -> Vec<(String, StreamTarget)> {
        let target = |device: &FakeDevice| {
            StreamTarget::Tcp(TcpTarget {
                host: device.address().ip().to_string(),
                port: device.address().port(),
            })
        };
        self.device
            .iter()
            .map(|device| (self.stream.clone(), target(device)))
            .collect()
    }

    pub(super) fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Whether readings can be expected.
    pub(super) fn can_read(&self) -> bool {
        self.device.is_none() || self.answers
    }

    /// What the device has seen, of all lives together.
    pub(super) fn seen(&self) -> Seen {
        self.device
            .as_ref()
            .map(FakeDevice::seen)
            .unwrap_or_default()
    }

    pub(super) fn set_mood(&self, mood: Mood) {
        if let Some(device) = &self.device {
            device.set(mood);
        }
    }
}
