//! Builds the story's plugins from the workspace's sources, with the command their authors use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::DemoError;
use super::shelf::Shelved;
use crate::plugin_build::{BuildError, BuildOptions, BuiltPlugin, Progress, build_many};
use crate::screen::{Screen, Tone};

/// Where each component's crate is.
const CRATES: [(Shelved, &str); 5] = [
    (Shelved::Simulated, "plugins/simulated"),
    (Shelved::Modbus, "plugins/modbus-tcp"),
    (Shelved::Policy, "plugins/full-jitter"),
    (Shelved::Trap, "tests/guests/scripted-connector"),
    (Shelved::Storm, "tests/guests/scripted-policy"),
];
/// Lines of progress that may wait for the screen.
const LINES: usize = 16;

pub(super) async fn build_all(
    screen: &mut Screen,
) -> Result<BTreeMap<Shelved, PathBuf>, DemoError> {
    let root = sources()?;
    let crates: Vec<PathBuf> = CRATES.iter().map(|(_what, path)| root.join(path)).collect();
    let (progress, mut lines) = mpsc::channel(LINES);
    let building = tokio::task::spawn_blocking(move || build(&crates, &progress));
    while let Some(line) = lines.recv().await {
        screen.say(Tone::Plain, &line);
    }
    let built = building.await.map_err(|panicked| DemoError::Setup {
        what: "build the plugins",
        source: std::io::Error::other(panicked),
    })??;
    let by_name: BTreeMap<String, PathBuf> = built
        .into_iter()
        .map(|plugin| (plugin.name, plugin.path))
        .collect();
    CRATES
        .iter()
        .map(|(what, path)| {
            let name = path.rsplit('/').next().unwrap_or(path);
            let component = by_name
                .iter()
                .find(|(package, _component)| package.ends_with(name));
            let component = component.ok_or_else(|| DemoError::NotBuilt(name.to_owned()))?;
            Ok((*what, component.1.clone()))
        })
        .collect()
}

fn build(
    crates: &[PathBuf],
    progress: &mpsc::Sender<String>,
) -> Result<Vec<BuiltPlugin>, BuildError> {
    build_many(crates, &BuildOptions::default(), &mut |step| {
        let line = match step {
            Progress::Installing(what) => format!("installing {what}"),
            Progress::Compiling(packages) => format!("compiling {}", packages.join(", ")),
            Progress::Built(plugin) => {
                format!("built {} ({} KiB)", plugin.name, plugin.bytes / 1024)
            }
        };
        // The demo was interrupted: nobody reads on.
        progress.blocking_send(line).unwrap_or(());
    })
}

/// The repository this binary was built in.
fn sources() -> Result<PathBuf, DemoError> {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = runtime.parent().unwrap_or(runtime);
    if root.join("plugins").is_dir() {
        Ok(root.to_owned())
    } else {
        Err(DemoError::NoSources(root.to_owned()))
    }
}
