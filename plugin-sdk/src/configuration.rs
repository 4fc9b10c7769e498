//! Reading the configuration a connector is started with.

use serde::de::DeserializeOwned;

use crate::{Fault, Setup};

/// The configuration as a type of the author's.
///
/// # Errors
/// [`Fault::Configuration`] naming the field and what is wrong with it.
pub fn configuration<T: DeserializeOwned>(setup: &Setup) -> Result<T, Fault> {
    serde_json::from_str(&setup.configuration)
        .map_err(|error| Fault::Configuration(format!("{}: {error}", setup.instance)))
}
