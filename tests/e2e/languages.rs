//! Plugins that are not written in Rust: each language's connector at its own instrument, its policy through an outage, a
//! swap of both; and the rules of the contract, the same for all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use moorline::cli::exit;
use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::device::Device;
use moorline_tests::instruments::Instruments;
use moorline_tests::plugins::{Guest, Place, tools};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::{Message, Subscriber};
use moorline_tests::{binary, mosquitto, python, repository};
use serde_json::{Value, json};

/// CPython takes seconds to compile, and this machine may do other things.
const DEADLINE: Duration = Duration::from_secs(90);
const TELEMETRY: &str = "v1/gateway/telemetry";

/// What is to be seen of a connector.
struct Story {
    connector: Guest,
    policy: Guest,
    /// Everything of its `[[connector]]` but name and component.
    lines: String,
    device: &'static str,
    reading: (&'static str, Value),
    request: Value,
    answer: Value,
}

/// From the instrument to the broker and back, through an outage that the policy paces and a swap of both plugins.
async fn plays(story: Story) {
    let (Some(kind), Some(connector), Some(policy)) = (
        mosquitto(),
        story.connector.try_bytes(),
        story.policy.try_bytes(),
    ) else {
        return;
    };
    let rig = Rig::start(kind).await;
    let platform = Subscriber::start(rig.broker.address(), "v1/gateway/#").await;
    let mut connector = Place::stock_bytes(rig.path("connector.wasm"), connector);
    let mut policy = Place::stock_bytes(rig.path("policy.wasm"), policy);
    let configuration = rig.configuration().policy(policy.path()).with(&format!(
        "\n[[connector]]\nname = \"own\"\ncomponent = {:?}\nmemory_bytes_max = 67108864\n{}",
        connector.path(),
        story.lines
    ));
    rig.proxy.set(Mode::Refuse).await.unwrap();
    let mut running = rig.gateway(&configuration);
    running
        .wait("the policy paces the link", DEADLINE, |now| {
            now.now.policy.answered >= 2 && now.now.policy.state == "serving"
        })
        .await;
    rig.proxy.set(Mode::Pass).await.unwrap();
    let (key, value) = &story.reading;
    let reads = |message: &Message| {
        message.topic == TELEMETRY && message.json()[story.device][0]["values"][key] == *value
    };
    platform.first("telemetry arrives", DEADLINE, reads).await;
    let request = json!({"device": story.device, "data": story.request});
    platform.publish("v1/gateway/rpc", &request).await;
    let replied = |message: &Message| {
        message.topic == "v1/gateway/rpc" && message.json()["data"]["method"].is_null()
    };
    let reply = platform
        .first("the reply comes", DEADLINE, replied)
        .await
        .json();
    let data = reply["data"].as_object().unwrap();
    for (name, wanted) in story.answer.as_object().unwrap() {
        assert_eq!(data.get(name), Some(wanted), "{reply}");
    }
    connector.renew();
    policy.renew();
    let swapped = running
        .wait("both are swapped", DEADLINE, |now| {
            now.swaps().filter(|swap| swap.outcome == "swapped").count() == 2
        })
        .await;
    let read = swapped.now.connectors[0].readings;
    rig.proxy.strike(Strike::Reset).await.unwrap();
    let after = running
        .wait("the new generation reads on", DEADLINE, |now| {
            now.now.connectors[0].readings > read + 3 && now.now.link.sessions == 2
        })
        .await;
    assert_eq!(
        after.now.connectors[0].traps, 0,
        "{:?}",
        after.now.connectors
    );
    assert_eq!(
        after.now.policy.trapped + after.now.policy.stalled,
        0,
        "{:?}",
        after.now.policy
    );
}

#[tokio::test]
async fn python_reads_an_scpi_instrument() {
    let Some(python) = python() else { return };
    let instruments = Instruments::start(&python).await;
    plays(Story {
        connector: Guest::SCPI_MULTIMETER,
        policy: Guest::DECORRELATED_JITTER,
        lines: format!(
            "[connector.config]\ndevice = \"bench-1\"\npoll_ms = 50\nsettings = {{ setpoint = \"VOLT {{}}\" }}\n\
             readings = [{{ key = \"voltage\", query = \"MEAS:VOLT:DC?\" }}]\n\
             [[connector.connection]]\nname = \"psu\"\nstream = \"tcp://{}\"\n",
            instruments.scpi()
        ),
        device: "bench-1",
        reading: ("voltage", json!(5.0)),
        request: json!({"id": 41, "method": "set", "params": {"key": "setpoint", "value": 12.5}}),
        answer: json!({"success": true}),
    })
    .await;
}

#[tokio::test]
async fn javascript_reads_an_electricity_meter() {
    let Some(python) = python() else { return };
    let instruments = Instruments::start(&python).await;
    plays(Story {
        connector: Guest::IEC_METER,
        policy: Guest::BACKLOG_AWARE,
        lines: format!(
            "[connector.config]\ndevice = \"meter-1\"\npoll_ms = 50\ngap_ms = 40\n\
             values = {{ \"1.8.0\" = \"energy_kwh\", \"32.7.0\" = \"volt\" }}\n\
             [[connector.connection]]\nname = \"main\"\nstream = \"tcp://{}\"\n",
            instruments.meter()
        ),
        device: "meter-1",
        reading: ("volt", json!(229.5)),
        request: json!({"id": 41, "method": "read", "params": {}}),
        answer: json!({"meter": "ISk ME172-0000"}),
    })
    .await;
}

#[tokio::test]
async fn c_reads_modbus_registers() {
    let Some(python) = python() else { return };
    let device = Device::start(&python).await;
    plays(Story {
        connector: Guest::MODBUS_REGISTERS,
        policy: Guest::EQUAL_JITTER,
        lines: format!(
            "[connector.config]\ndevice = \"press-1\"\nunit = 1\naddress = 2\ncount = 2\npoll_ms = 50\n\
             [[connector.connection]]\nname = \"press\"\nstream = \"tcp://{}\"\n",
            device.address()
        ),
        device: "press-1",
        reading: ("r2", json!(1234)),
        request: json!({"id": 41, "method": "write", "params": {"address": 12, "value": 77}}),
        answer: json!({"success": true}),
    })
    .await;
    assert!(device.said().writes.is_empty() || device.said().writes == [(12, vec![77])]);
}

/// What `moorline plugin test` says: whether all is well, and each rule's outcome.
fn tested(component: &Path, arguments: &[&str]) -> (bool, Vec<(String, String)>) {
    let output = Command::new(binary())
        .args(["plugin", "test", "--format", "json"])
        .arg(component)
        .args(arguments)
        .current_dir(repository())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let word = |check: &Value, name: &str| check[name].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    let outcomes = checks.map(|check| (word(check, "rule"), word(check, "outcome")));
    let code = output.status.code();
    assert_eq!(report["ok"] == true, code == Some(0), "{code:?}: {text}");
    (report["ok"] == true, outcomes.collect())
}

#[test]
fn every_shipped_plugin_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    for guest in Guest::SHIPPED {
        let Some(bytes) = guest.try_bytes() else {
            continue;
        };
        let place = Place::stock_bytes(directory.path().join("plugin.wasm"), bytes);
        let plan = format!("{}/test.toml", guest.directory());
        let (good, outcomes) = tested(place.path(), &["--with", &plan]);
        assert!(good, "{}: {outcomes:?}", guest.directory());
        let kept = outcomes
            .iter()
            .filter(|(_, outcome)| outcome == "kept")
            .count();
        assert!(kept >= 6, "{}: {outcomes:?}", guest.directory());
    }
}

/// Each breaks one rule and keeps the others.
const BROKEN: [(Guest, &str); 16] = [
    (Guest::breaking_connector("version"), "describes-itself"),
    (Guest::breaking_connector("describe"), "describes-itself"),
    (
        Guest::breaking_connector("configuration-taken"),
        "refuses-bad-configuration",
    ),
    (
        Guest::breaking_connector("configuration-trap"),
        "refuses-bad-configuration",
    ),
    (Guest::breaking_connector("lose"), "bears-back-pressure"),
    (Guest::breaking_connector("hasty"), "bears-back-pressure"),
    (Guest::breaking_connector("rpc"), "answers-requests"),
    (Guest::breaking_connector("attributes"), "bears-attributes"),
    (Guest::breaking_connector("link"), "bears-link-changes"),
    (Guest::breaking_connector("garbled"), "bears-garbled-device"),
    (
        Guest::breaking_connector("hand-over"),
        "bears-foreign-hand-over",
    ),
    (Guest::breaking_connector("schema"), "refuses-other-schema"),
    (Guest::breaking_policy("schema"), "describes-itself"),
    (
        Guest::breaking_policy("configuration"),
        "refuses-bad-configuration",
    ),
    (Guest::breaking_policy("state"), "decides-the-same"),
    (Guest::breaking_policy("hang"), "decides-always"),
];

/// These break more than one, by what they are.
const BADLY_BROKEN: [(Guest, &str); 6] = [
    (Guest::breaking_connector("idle"), "works"),
    (Guest::breaking_connector("nan"), "emits-sound-readings"),
    (Guest::breaking_connector("closed"), "bears-closing-device"),
    (Guest::breaking_connector("silent"), "bears-silent-device"),
    (Guest::breaking_connector("restless"), "works"),
    (Guest::breaking_policy("overflow"), "decides-always"),
];

/// The rules that `guest` breaks.
fn broken_rules(guest: Guest) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::stock(directory.path().join("plugin.wasm"), guest);
    let plan = format!("{}/test.toml", guest.directory());
    let (_good, outcomes) = tested(place.path(), &["--with", &plan]);
    let broken = outcomes
        .into_iter()
        .filter(|(_, outcome)| outcome == "broken");
    broken.map(|(rule, _)| rule).collect()
}

#[test]
fn a_plugin_that_breaks_a_rule_is_found_by_that_rule() {
    assert_eq!(
        broken_rules(Guest::breaking_connector("")),
        Vec::<String>::new()
    );
    assert_eq!(
        broken_rules(Guest::breaking_policy("")),
        Vec::<String>::new()
    );
    // Most of the time they wait for what does not come: side by side it costs no more than one.
    std::thread::scope(|scope| {
        let each = BROKEN.into_iter().map(|case| (case, true));
        let each = each.chain(BADLY_BROKEN.into_iter().map(|case| (case, false)));
        let running: Vec<_> = each
            .map(|((guest, rule), alone)| (rule, alone, scope.spawn(move || broken_rules(guest))))
            .collect();
        for (rule, alone, test) in running {
            let broken = test.join().unwrap();
            assert!(
                broken.iter().any(|name| name == rule),
                "{rule} is not among {broken:?}"
            );
            assert!(
                !alone || broken.len() == 1,
                "{rule} alone was broken, and found were {broken:?}"
            );
        }
    });
}

#[test]
fn a_missing_tool_is_named() {
    let directory = tempfile::tempdir().unwrap();
    for (plugin, program) in [
        ("plugins/scpi-multimeter", "python3"),
        ("plugins/iec-meter", "node"),
        ("plugins/equal-jitter", "python3"),
    ] {
        let output = Command::new(binary())
            .args(["plugin", "build", plugin, "--out"])
            .arg(directory.path())
            .env("PATH", directory.path())
            .env("MOORLINE_TOOLS", directory.path().join("tools"))
            .current_dir(repository())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(i32::from(exit::UNAVAILABLE)),
            "{said}"
        );
        let words = format!("{program} is not on the PATH; install");
        assert!(said.contains(&words), "{said}");
    }
}

/// What an author finds after `moorline plugin new`: it builds and keeps the contract. Python takes a minute and Rust
/// wants the registry, so that they are tried in the long run only.
#[test]
fn every_language_begins_with_a_plugin_that_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let long = std::env::var_os("MOORLINE_EXTENDED").is_some();
    let languages = if long {
        &["c", "javascript", "python", "rust"][..]
    } else {
        &["c", "javascript"]
    };
    for language in languages {
        for kind in ["connector", "policy"] {
            let name = format!("try-{language}-{kind}");
            let plugin = directory.path().join(&name);
            let path = plugin.to_str().unwrap();
            let (code, said) =
                moorline(&["plugin", "new", "--lang", language, "--kind", kind, path]);
            assert_eq!(code, Some(0), "{said}");
            let (code, said) = moorline(&["plugin", "test", path]);
            if code == Some(i32::from(exit::UNAVAILABLE)) {
                println!("SKIPPED: {language} cannot be built here: {said}");
                continue;
            }
            assert_eq!(code, Some(0), "{name}: {said}");
            assert!(said.contains("0 broken, 0 not judged"), "{name}: {said}");
            let (code, said) = moorline(&["plugin", "new", "--lang", language, path]);
            assert_eq!(code, Some(i32::from(exit::USAGE)), "{said}");
            assert!(plugin.join("gateway.toml").is_file());
        }
    }
}

/// A plugin of the template, with changes in one of its files: each takes the first text away and puts the second there.
fn templated(directory: &Path, language: &str, file: &str, changes: &[(&str, &str)]) -> PathBuf {
    let plugin = directory.join("changed");
    drop(std::fs::remove_dir_all(&plugin));
    let kind = file.split('.').next().unwrap();
    let name = plugin.to_str().unwrap();
    let (code, said) = moorline(&["plugin", "new", "--lang", language, "--kind", kind, name]);
    assert_eq!(code, Some(0), "{said}");
    let path = plugin.join(file);
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (old, new) in changes {
        assert!(text.contains(old), "{old:?} is not in {file}");
        text = text.replace(old, new);
    }
    std::fs::write(path, text).unwrap();
    plugin
}

/// How the command ended, and what it said on both outputs.
fn moorline(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .args(arguments)
        .env("MOORLINE_TOOLS", tools())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// `plugin build` or `plugin test` of a changed template, which must fail; none where the language cannot be built.
fn fails(verb: &str, language: &str, file: &str, changes: &[(&str, &str)]) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let plugin = templated(directory.path(), language, file, changes);
    let place = plugin.display().to_string();
    let (code, said) = moorline(&["plugin", verb, &place]);
    if code == Some(i32::from(exit::UNAVAILABLE)) {
        println!("SKIPPED: {language} cannot be built here: {said}");
        return None;
    }
    assert_eq!(code, Some(i32::from(exit::DATA)), "{said}");
    Some(said)
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

#[test]
fn an_exception_in_javascript_is_named_with_its_place() {
    let trap = [("  unsent ??=", "  undefinedName.foo;\n  unsent ??=")];
    if let Some(said) = fails("test", "js", "connector.js", &trap) {
        assert_says(
            &said,
            &[
                "FAIL  works",
                "handle(timer) trapped",
                "it said: ReferenceError: undefinedName is not defined",
                "connector.js:",
                "1 broken",
            ],
        );
    }
    let promise = [("function handle", "async function handle")];
    if let Some(said) = fails("test", "javascript", "connector.js", &promise) {
        assert_says(&said, &["handle() returned a promise"]);
    }
}

#[test]
fn an_export_that_is_missing_in_javascript_is_named_by_the_build() {
    for (file, export, parts) in [
        (
            "connector.js",
            "connectorGuest",
            "describe, start, handle and stop",
        ),
        ("policy.js", "policyGuest", "describe, configure and decide"),
    ] {
        let (old, new) = (format!("const {export} ="), format!("const {export}t ="));
        if let Some(said) = fails("build", "js", file, &[(&old, &new)]) {
            let missing =
                format!("{file} must export {export}, an object with the functions {parts}");
            let there = format!("it exports {export}t");
            assert_says(&said, &[&missing, &there]);
        }
    }
    let stop = [("  stop,\n", "")];
    if let Some(said) = fails("build", "js", "connector.js", &stop) {
        assert_says(&said, &["stop is missing"]);
    }
}

#[test]
fn a_start_that_traps_breaks_one_rule_and_the_others_are_not_judged() {
    let trap = [(
        "function start(setup) {",
        "function start(setup) {\n  nope();",
    )];
    if let Some(said) = fails("test", "javascript", "connector.js", &trap) {
        assert_says(
            &said,
            &[
                "ok    describes-itself",
                "FAIL  takes-its-configuration    start() trapped with the configuration of test.toml",
                "ReferenceError: nope is not defined",
                "skip  works                      not judged: takes-its-configuration is broken",
                "1 rules kept, 1 broken, 13 not judged",
            ],
        );
    }
}

#[test]
fn a_reading_that_is_refused_is_told_to_its_author_and_no_rule_behind_it_is_judged() {
    let nan = [(".val.double_ = unsent.value", ".val.double_ = 0.0 / 0.0")];
    if let Some(said) = fails("test", "c", "connector.c", &nan) {
        assert_says(
            &said,
            &[
                "FAIL  works",
                "fault.internal: batch[0].readings[0]: the value is not a finite number",
                "not judged: works is broken",
            ],
        );
    }
}

#[test]
fn an_error_in_python_is_shown_with_file_and_line() {
    let syntax = [("HAND_OVER_SCHEMA = 1", "HAND_OVER_SCHEMA = = 1")];
    if let Some(said) = fails("build", "py", "connector.py", &syntax) {
        assert_says(&said, &["connector.py\", line 28", "SyntaxError"]);
        assert!(!said.contains("0x"), "{said}");
    }
    let import = [("import device\n", "import devize as device\n")];
    if let Some(said) = fails("build", "python", "connector.py", &import) {
        assert_says(&said, &["connector.py", "No module named 'devize'"]);
        assert!(!said.contains("0x"), "{said}");
    }
}

#[test]
fn what_c_lacks_is_said_in_the_words_of_c() {
    let print = [(
        "    unsent.is_some = false;\n    return",
        "    puts(\"sent\");\n    return",
    )];
    if let Some(said) = fails("build", "c", "connector.c", &print) {
        assert_says(&said, &["operating system", "moorline_edge_log_write"]);
        assert!(!said.contains("export_connector!"), "{said}");
    }
    let abort = [(
        "static bool poll(wake *ret, fault *err) {",
        "__attribute__((noinline)) static bool poll(wake *ret, fault *err) {\n    abort();",
    )];
    if let Some(said) = fails("test", "c", "connector.c", &abort) {
        assert_says(&said, &["handle(timer) trapped", "!poll"]);
    }
}

/// Answers each line that it is asked by a line, as the templates expect it of their device.
async fn line_device() -> std::net::SocketAddr {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                while let Ok(Some(_request)) = lines.next_line().await {
                    if lines.get_mut().write_all(b"21.5\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_plugin_of_the_template_answers_with_its_last_reading() {
    let Some(kind) = mosquitto() else { return };
    let device = line_device().await;
    for (language, file) in [("javascript", "connector.js"), ("c", "connector.c")] {
        let rig = Rig::start(kind.clone()).await;
        let plugin = templated(&rig.path(""), language, file, &[]);
        let (code, said) = moorline(&["plugin", "build", plugin.to_str().unwrap()]);
        if code == Some(i32::from(exit::UNAVAILABLE)) {
            println!("SKIPPED: {language} cannot be built here: {said}");
            continue;
        }
        let platform = Subscriber::start(rig.broker.address(), "v1/gateway/#").await;
        let configuration = rig.configuration().with(&format!(
            "\n[[connector]]\nname = \"own\"\ncomponent = {:?}\n[connector.config]\ndevice = \"d-1\"\npoll_ms = 50\n\
             [[connector.connection]]\nname = \"device\"\nstream = \"tcp://{device}\"\n",
            plugin.join("build/changed.wasm")
        ));
        let running = rig.gateway(&configuration);
        let reads = |message: &Message| message.topic == TELEMETRY;
        platform.first("telemetry arrives", DEADLINE, reads).await;
        let request = json!({"device": "d-1", "data": {"id": 1, "method": "get", "params": {}}});
        platform.publish("v1/gateway/rpc", &request).await;
        let replied = |message: &Message| {
            message.topic == "v1/gateway/rpc" && message.json()["data"]["method"].is_null()
        };
        let reply = platform.first("the reply comes", DEADLINE, replied).await;
        assert_eq!(reply.json()["data"], json!({"last": 21.5}), "{language}");
        drop(running);
    }
}

#[test]
fn what_needs_no_host_passes_its_own_tests() {
    let Some(python) = python() else { return };
    let run = |plugin: &str, command: &mut Command| {
        let output = command
            .current_dir(repository().join("plugins").join(plugin))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{plugin}: {said}");
    };
    for plugin in ["scpi-multimeter", "decorrelated-jitter"] {
        run(plugin, Command::new(&python).args(["-B", "-m", "unittest"]));
    }
    for plugin in ["iec-meter", "backlog-aware"] {
        run(plugin, Command::new("node").arg("--test"));
    }
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("test");
    for (plugin, sources) in [
        (
            "modbus-registers",
            &["test_registers.c", "registers.c", "json.c"][..],
        ),
        ("equal-jitter", &["test_jitter.c", "jitter.c"]),
    ] {
        run(
            plugin,
            Command::new("cc")
                .arg("-o")
                .arg(&program)
                .args(sources)
                .arg("-lm"),
        );
        run(plugin, &mut Command::new(&program));
    }
}
