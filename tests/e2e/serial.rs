//! A meter at the end of a serial line: read through a swap and an unplugged converter; and what is said of device files that
//! are missing or not permitted.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use moorline::cli::exit;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::Rig;
use moorline_tests::serial_meter::SerialMeter;
use moorline_tests::subscriber::{Message, Subscriber};
use moorline_tests::{binary, mosquitto, python};

/// JavaScript takes its time to compile, and this machine may do other things.
const DEADLINE: Duration = Duration::from_secs(90);
const TELEMETRY: &str = "v1/gateway/telemetry";
/// Whom no file belongs to.
const NOBODY: &str = "65534";

fn connector(component: &Path, file: &Path) -> String {
    format!(
        "\n[[connector]]\nname = \"grid\"\ncomponent = {component:?}\nmemory_bytes_max = 67108864\n[connector.config]\n\
         device = \"meter-1\"\npoll_ms = 50\ngap_ms = 100\nvalues = {{ \"1.8.0\" = \"energy_kwh\", \"32.7.0\" = \"volt\" }}\n\
         [[connector.connection]]\nname = \"main\"\n\
         stream = \"serial://{}?baud=2400&data_bits=7&parity=even\"\n",
        file.display()
    )
}

fn energies(platform: &Subscriber) -> Vec<f64> {
    let messages = platform.on(TELEMETRY);
    let energy = |message: &Message| {
        let readings = message.json()["meter-1"].clone();
        let readings = readings.as_array().cloned().unwrap_or_default();
        readings
            .into_iter()
            .filter_map(|reading| reading["values"]["energy_kwh"].as_f64())
            .collect::<Vec<_>>()
    };
    messages.iter().flat_map(energy).collect()
}

#[tokio::test]
async fn a_meter_on_a_serial_line_is_read_through_a_swap_and_an_unplugged_converter() {
    let (Some(python), Some(kind), Some(bytes)) =
        (python(), mosquitto(), Guest::IEC_METER.try_bytes())
    else {
        return;
    };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/gateway/#").await;
    let file = rig.path("ttyMETER");
    let meter = SerialMeter::plug_in(&python, &file).await;
    let mut component = Place::stock_bytes(rig.path("connector.wasm"), bytes);
    let configuration = rig
        .configuration()
        .with(&connector(component.path(), &file));
    let mut running = rig.gateway(&configuration);
    let volt = |message: &Message| {
        message.topic == TELEMETRY && message.json()["meter-1"][0]["values"]["volt"] == 229.5
    };
    platform.first("telemetry arrives", DEADLINE, volt).await;

    let before = meter.seen();
    component.renew();
    running
        .wait("the connector is swapped", DEADLINE, |now| {
            now.swaps().any(|swap| swap.outcome == "swapped")
        })
        .await;
    let after = meter.read_out(meter.seen().readouts + 3, DEADLINE).await;
    assert_eq!(
        (after.flushes, after.hang_ups),
        (before.flushes, 0),
        "the port stayed open"
    );

    let read = running.history().now.connectors[0].readings;
    drop(meter);
    let missed = running
        .wait("the missing device is named", DEADLINE, |now| {
            let error = now.now.connectors[0].stream_error.as_deref();
            error.is_some_and(|error| error.contains("is not there: is it plugged in"))
        })
        .await;
    let error = missed.now.connectors[0].stream_error.clone().unwrap();
    assert!(
        error.starts_with(&format!("grid/main: {} ", file.display())),
        "{error}"
    );
    let log = running.gateway.log().unwrap();
    assert!(log.contains("ttyMETER hung up: it was unplugged"), "{log}");
    let listed = moorline(
        &["plugin", "ls", "--format", "human"],
        &rig.path("gateway.toml"),
        None,
    );
    assert!(
        listed.1.contains("its stream is closed: grid/main: "),
        "{listed:?}"
    );

    let meter = SerialMeter::plug_in(&python, &file).await;
    meter.read_out(3, DEADLINE).await;
    let back = running
        .wait("it is read again", DEADLINE, |now| {
            let connector = &now.now.connectors[0];
            connector.readings > read + 3 && connector.stream_error.is_none()
        })
        .await;
    assert_eq!(back.now.connectors[0].traps, 0, "{:?}", back.now.connectors);
    let energies = energies(&platform);
    // Each readout of a meter is one step on; a new meter begins anew, at 0.1.
    let steps = energies.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(steps <= 1, "{energies:?}");
}

/// Its exit code and everything it says, by somebody else if there is one.
fn moorline(arguments: &[&str], configuration: &Path, user: Option<&str>) -> (Option<i32>, String) {
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args([
                &format!("--reuid={user}"),
                &format!("--regid={user}"),
                "--clear-groups",
            ]);
            command.arg(binary());
            command
        }
        None => Command::new(binary()),
    };
    command.args(arguments).arg("--config").arg(configuration);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[tokio::test]
async fn check_names_a_device_file_that_is_missing_or_not_permitted_and_a_port_that_is_given_twice()
{
    let (Some(python), Some(bytes)) = (python(), Guest::IEC_METER.try_bytes()) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let open_to_all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open_to_all).unwrap();
    let path = |name: &str| directory.path().join(name);
    let component = Place::stock_bytes(path("connector.wasm"), bytes);
    let (state, file) = (path("state"), path("ttyMETER"));
    let text = format!(
        "[gateway]\nname = \"e2e\"\nstate_dir = {state:?}\n[link]\nurl = \"mqtt://127.0.0.1\"\n{}",
        connector(component.path(), &file)
    );
    let configuration = path("gateway.toml");
    std::fs::write(&configuration, &text).unwrap();
    let place = format!(
        "warning: {}:18:10: connector.connection.stream: ",
        configuration.display()
    );
    let (code, said) = moorline(&["check"], &configuration, None);
    assert_eq!(code, Some(0), "{said}");
    let words = format!("{place}{} is not there: is it plugged in", file.display());
    assert!(said.contains(&words), "{said}");

    let _meter = SerialMeter::plug_in(&python, &file).await;
    let (code, said) = moorline(&["check"], &configuration, None);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let device = file.canonicalize().unwrap();
    let group_alone = std::fs::Permissions::from_mode(0o060);
    std::fs::set_permissions(&device, group_alone).unwrap();
    // Root may open everything; others may not take another's name.
    let user = rustix::process::geteuid().is_root().then_some(NOBODY);
    let (_code, said) = moorline(&["check"], &configuration, user);
    let words = format!(
        "{place}{} may not be opened by this user: is the user in the group ",
        file.display()
    );
    assert!(said.contains(&words), "{said}");

    let twice = format!(
        "{text}[[connector.connection]]\nname = \"other\"\nstream = \"serial://{}?baud=9600\"\n",
        device.display()
    );
    std::fs::write(&configuration, twice).unwrap();
    let (code, said) = moorline(&["check"], &configuration, None);
    assert_eq!(code, Some(i32::from(exit::CONFIG)), "{said}");
    let words = format!(
        "21:10: connector.connection.stream: {} is the port of connection grid/main already",
        device.display()
    );
    assert!(said.contains(&words), "{said}");
}
