//! The rules, and how each was kept.

use std::fmt;

/// A rule of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A card that is whole and always the same.
    Describes,
    /// The good configuration is taken.
    Starts,
    /// A bad one is refused as such.
    RefusesBadConfiguration,
    /// Something comes of the timer.
    Works,
    /// What it emits can be taken.
    EmitsSoundReadings,
    /// Back-pressure loses nothing.
    BearsBackPressure,
    /// Every request is answered or refused.
    AnswersRequests,
    /// Shared attributes do no harm.
    BearsAttributes,
    /// The link's ups and downs do no harm.
    BearsLinkChanges,
    /// A device that closes does no harm.
    BearsClosingDevice,
    /// A device that says nonsense does no harm.
    BearsGarbledDevice,
    /// A device that says nothing does no harm.
    BearsSilentDevice,
    /// The next generation goes on.
    HandsOver,
    /// Bytes of somebody else are refused, or a clean start made.
    BearsForeignHandOver,
    /// A hand-over of another schema is refused.
    RefusesOtherSchema,
    /// A policy decides on whatever it may be asked.
    DecidesAlways,
    /// The same question gets the same answer.
    DecidesTheSame,
    /// Every wait is between floor and ceiling, or the host makes it so.
    DecidesWithinBounds,
}

impl Rule {
    /// Those of a connector, in the order they are judged.
    pub const CONNECTOR: [Self; 15] = [
        Self::Describes,
        Self::Starts,
        Self::RefusesBadConfiguration,
        Self::Works,
        Self::EmitsSoundReadings,
        Self::BearsBackPressure,
        Self::AnswersRequests,
        Self::BearsAttributes,
        Self::BearsLinkChanges,
        Self::BearsClosingDevice,
        Self::BearsGarbledDevice,
        Self::BearsSilentDevice,
        Self::HandsOver,
        Self::BearsForeignHandOver,
        Self::RefusesOtherSchema,
    ];
    /// Those of a policy.
    pub const POLICY: [Self; 6] = [
        Self::Describes,
        Self::Starts,
        Self::RefusesBadConfiguration,
        Self::DecidesAlways,
        Self::DecidesTheSame,
        Self::DecidesWithinBounds,
    ];

    /// A stable name, for reports that programs read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Describes => "describes-itself",
            Self::Starts => "takes-its-configuration",
            Self::RefusesBadConfiguration => "refuses-bad-configuration",
            Self::Works => "works",
            Self::EmitsSoundReadings => "emits-sound-readings",
            Self::BearsBackPressure => "bears-back-pressure",
            Self::AnswersRequests => "answers-requests",
            Self::BearsAttributes => "bears-attributes",
            Self::BearsLinkChanges => "bears-link-changes",
            Self::BearsClosingDevice => "bears-closing-device",
            Self::BearsGarbledDevice => "bears-garbled-device",
            Self::BearsSilentDevice => "bears-silent-device",
            Self::HandsOver => "hands-over",
            Self::BearsForeignHandOver => "bears-foreign-hand-over",
            Self::RefusesOtherSchema => "refuses-other-schema",
            Self::DecidesAlways => "decides-always",
            Self::DecidesTheSame => "decides-the-same",
            Self::DecidesWithinBounds => "decides-within-bounds",
        }
    }

    /// What to do when it is broken.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Describes => {
                "describe() returns constants: a name, a version like 1.2.3, a JSON Schema or nothing"
            }
            Self::Starts => {
                "give the test a configuration that works (test.toml, --with FILE or --config JSON); a trap is a defect whatever the configuration"
            }
            Self::RefusesBadConfiguration => {
                "check every field in start() or configure(), and return fault.configuration (a policy: the error) with the field's name"
            }
            Self::Works => {
                "begin with the trap or fault named here; where there is none, return a wake from start(), read the device on the timer and emit, and give the fake device its answers ([[answer]] in the test file)"
            }
            Self::EmitsSoundReadings => {
                "names have 1 to 255 bytes and no control characters, numbers are finite, json is JSON"
            }
            Self::BearsBackPressure => {
                "keep the batch, return the wait as wake, and offer the same batch at the next timer"
            }
            Self::AnswersRequests => {
                "answer every rpc event with rpc.reply, unknown methods with an error, or return a fault"
            }
            Self::BearsAttributes => "ignore what is not meant for you; return no trap",
            Self::BearsLinkChanges => "go on reading: the spool keeps what the link cannot send",
            Self::BearsClosingDevice => {
                "open the stream again on stream-closed or before the next exchange; return fault.device"
            }
            Self::BearsGarbledDevice => {
                "check every byte of an answer before using it; return fault.device"
            }
            Self::BearsSilentDevice => {
                "take a timeout of exchange for what it is: return fault.device, ask again later"
            }
            Self::HandsOver => "stop() returns what start() of the same version takes",
            Self::BearsForeignHandOver => {
                "check the bytes, and return fault.hand-over when they are not yours"
            }
            Self::RefusesOtherSchema => {
                "compare hand-over.schema with your own, and return fault.hand-over when you do not know it"
            }
            Self::DecidesAlways => {
                "compute with saturating arithmetic; keep to a few microseconds, whatever the numbers"
            }
            Self::DecidesTheSame => {
                "keep no state between questions, and draw from the question's seed alone"
            }
            Self::DecidesWithinBounds => "take floor-ms and ceiling-ms from the question",
        }
    }
}

/// How a rule was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was; with what was seen.
    Kept(String),
    /// It was not; with what was seen.
    Broken(String),
    /// It could not be judged; why.
    Skipped(String),
}

/// A rule and how it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The rule.
    pub rule: Rule,
    /// How it was kept.
    pub outcome: Outcome,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(words) | Self::Broken(words) | Self::Skipped(words) => f.write_str(words),
        }
    }
}
