//! rumqttd with a configuration file: `rumqttd-for-tests FILE`. Its own binary cannot be installed as it was locked: one of
//! its dependencies does not build with a current compiler.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os().nth(1).ok_or("which configuration?")?;
    let configuration: rumqttd::Config = toml::from_str(&std::fs::read_to_string(file)?)?;
    rumqttd::Broker::new(configuration).start()?;
    Ok(())
}
