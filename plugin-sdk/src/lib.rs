//! Write Moorline connectors and reconnect policies in Rust.
//!
//! A connector implements [`Connector`] and is exported with [`export_connector!`]; a policy implements
//! [`ReconnectPolicy`] and is exported with [`export_policy!`]. Build it with `moorline plugin build`.
//!
//! All contact with the host goes through the [`Host`] trait, so the logic is tested natively with a [`FakeHost`]:
//!
//! ```
//! use std::time::Duration;
//! use moorline_plugin_sdk::{
//!     Connector, Description, DeviceReadings, Event, FakeHost, Fault, HandOver, Host, Quality, Reading, Setup, Value, Wake,
//! };
//!
//! struct Thermometer { ticks: i64 }
//!
//! impl Connector for Thermometer {
//!     fn describe() -> Description {
//!         Description {
//!             name: "thermometer".into(),
//!             version: env!("CARGO_PKG_VERSION").into(),
//!             configuration_schema: "{}".into(),
//!             hand_over_schema: 1,
//!         }
//!     }
//!     fn start(_setup: Setup, _host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
//!         Ok((Self { ticks: 0 }, Some(Duration::from_secs(1))))
//!     }
//!     fn handle(&mut self, _event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
//!         self.ticks += 1;
//!         let reading = Reading {
//!             key: "ticks".into(),
//!             value: Value::Integer(self.ticks),
//!             quality: Quality::Good,
//!             timestamp: None,
//!         };
//!         let batch = [DeviceReadings { device: "t-1".into(), readings: vec![reading] }];
//!         match host.emit(&batch) {
//!             Ok(()) => Ok(Some(Duration::from_secs(1))),
//!             Err(refusal) => { self.ticks -= 1; Ok(refusal.retry_after()) }
//!         }
//!     }
//!     fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
//!         HandOver { schema: 1, bytes: self.ticks.to_le_bytes().to_vec() }
//!     }
//! }
//!
//! let mut host = FakeHost::default();
//! let (mut connector, _wake) = Thermometer::start(FakeHost::setup("{}"), &mut host)?;
//! connector.handle(Event::Timer, &mut host)?;
//! assert_eq!(host.emitted[0][0].device, "t-1");
//! # Ok::<(), Fault>(())
//! ```

use std::time::Duration;

#[doc(hidden)]
pub mod bindings;
mod configuration;
mod fake_host;
mod host;
mod policy;

pub use bindings::connector::exports::moorline::edge::connector_guest::{
    AttributeUpdate, Description, Event, HandOver, LinkState, RpcRequest, Setup,
};
pub use bindings::connector::moorline::edge::log::Level;
pub use bindings::connector::moorline::edge::state::StateError;
pub use bindings::connector::moorline::edge::streams::{FrameRule, LengthField, StreamError};
pub use bindings::connector::moorline::edge::telemetry::EmitError;
pub use bindings::connector::moorline::edge::types::{
    Attribute, DeviceReadings, Fault, Quality, Reading, Value,
};
pub use configuration::configuration;
pub use fake_host::FakeHost;
pub use host::{Host, SeriesId, StreamId};
pub use policy::{
    Cause, Decision, FaultOf, LocalTime, Network, PolicyDescription, Question, ReconnectPolicy,
    Seed, no_policy_configuration, policy_configuration,
};

/// When the next [`Event::Timer`] should come, instead of what was asked for before; `None` leaves that as it is, so an
/// event in between never puts off a timer.
pub type Wake = Option<Duration>;

/// A connector: speaks to devices, emits their readings, answers their RPC.
///
/// The host calls one method at a time. Nothing may block but [`Host::exchange`]; a call that computes for longer than
/// the configured deadline is ended and the instance replaced.
pub trait Connector: Sized {
    /// The connector's card. Must not depend on configuration or time.
    fn describe() -> Description;

    /// Called once, first: read the configuration, open the streams, take over from the generation before.
    ///
    /// # Errors
    /// A [`Fault`] says whose fault it is and whether the host should try again.
    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault>;

    /// Called for every event.
    ///
    /// # Errors
    /// A [`Fault`] is logged and counted; the instance goes on.
    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault>;

    /// Called once, last: what the next generation needs to go on.
    fn stop(&mut self, host: &mut dyn Host) -> HandOver;
}

impl EmitError {
    /// How long to wait before the same batch is offered again; `None` when it never will be taken.
    #[must_use]
    pub fn retry_after(&self) -> Wake {
        match self {
            Self::BackPressure(ms) => Some(Duration::from_millis(u64::from(*ms))),
            Self::Refused(_) => None,
        }
    }
}

/// On native targets the export macros only check their argument.
#[doc(hidden)]
pub fn assert_connector<C: Connector>() {}

/// On native targets the export macros only check their argument.
#[doc(hidden)]
pub fn assert_policy<P: ReconnectPolicy>() {}

/// A wake as the contract counts it.
#[doc(hidden)]
#[must_use]
pub fn wake_ms(wake: Wake) -> Option<u32> {
    wake.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX))
}

/// Exports a [`Connector`] as the component's `connector` world. Does nothing on native targets, so that the logic links
/// into tests.
#[macro_export]
macro_rules! export_connector {
    ($connector:ty) => {
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = $crate::assert_connector::<$connector>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::connector::exports::moorline::edge::connector_guest as guest;

            struct Exported;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<::std::option::Option<$connector>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            fn not_started() -> $crate::Fault {
                $crate::Fault::Internal("called before start".into())
            }

            impl guest::Guest for Exported {
                fn describe() -> $crate::Description {
                    <$connector as $crate::Connector>::describe()
                }
                fn start(setup: $crate::Setup) -> Result<Option<u32>, $crate::Fault> {
                    $crate::bindings::log_panics();
                    let host = &mut $crate::bindings::WasmHost;
                    let (connector, wake) = <$connector as $crate::Connector>::start(setup, host)?;
                    INSTANCE.with_borrow_mut(|instance| *instance = Some(connector));
                    Ok($crate::wake_ms(wake))
                }
                fn handle(event: $crate::Event) -> Result<Option<u32>, $crate::Fault> {
                    let host = &mut $crate::bindings::WasmHost;
                    INSTANCE.with_borrow_mut(|instance| {
                        let connector = instance.as_mut().ok_or_else(not_started)?;
                        let wake = $crate::Connector::handle(connector, event, host)?;
                        Ok($crate::wake_ms(wake))
                    })
                }
                fn stop() -> $crate::HandOver {
                    let host = &mut $crate::bindings::WasmHost;
                    INSTANCE.with_borrow_mut(|instance| match instance.as_mut() {
                        Some(connector) => $crate::Connector::stop(connector, host),
                        None => $crate::HandOver {
                            schema: 0,
                            bytes: ::std::vec::Vec::new(),
                        },
                    })
                }
            }

            $crate::bindings::connector::export_connector_world!(
                Exported with_types_in $crate::bindings::connector
            );
        };
    };
}

/// Exports a [`ReconnectPolicy`] as the component's `reconnect-policy` world. Does nothing on native targets.
#[macro_export]
macro_rules! export_policy {
    ($policy:ty) => {
        #[cfg(not(target_family = "wasm"))]
        const _: fn() = $crate::assert_policy::<$policy>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::policy::exports::moorline::edge::policy_guest as guest;

            struct Exported;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<::std::option::Option<$policy>> =
                    const { ::std::cell::RefCell::new(None) };
            }

            impl guest::Guest for Exported {
                fn describe() -> guest::Description {
                    <$policy as $crate::ReconnectPolicy>::describe()
                }
                fn configure(
                    configuration: ::std::string::String,
                ) -> Result<(), ::std::string::String> {
                    let policy = <$policy as $crate::ReconnectPolicy>::configure(&configuration)?;
                    INSTANCE.with_borrow_mut(|instance| *instance = Some(policy));
                    Ok(())
                }
                fn decide(question: guest::Question) -> guest::Decision {
                    INSTANCE.with_borrow(|instance| {
                        let policy = instance.as_ref().expect("configure comes first");
                        $crate::ReconnectPolicy::decide(policy, &question)
                    })
                }
            }

            $crate::bindings::policy::export_policy_world!(
                Exported with_types_in $crate::bindings::policy
            );
        };
    };
}
