//! The command line as a script meets it: exit codes, where output goes, and what `--format json` prints.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::process::{Command, Output};

fn moorline(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn file(directory: &Path, name: &str, content: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

const LINK: &str =
    "[gateway]\nname = \"a\"\nstate_dir = \"state\"\n[link]\nurl = \"mqtt://127.0.0.1:1\"\n";

#[test]
fn help_names_every_command_and_shows_examples() {
    let output = moorline(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for command in [
        "run", "demo", "check", "doctor", "reload", "explain", "plugin", "spool", "audit",
    ] {
        assert!(help.contains(command), "{help}");
    }
    assert!(!help.contains("demo-part"), "{help}");
    for command in [
        &["run"][..],
        &["demo"],
        &["check"],
        &["doctor"],
        &["explain", "link"],
        &["reload"],
        &["plugin", "build"],
        &["plugin", "inspect"],
        &["plugin", "keygen"],
        &["plugin", "sign"],
        &["plugin", "verify"],
        &["plugin", "allow-downgrade"],
        &["audit"],
        &["spool", "stat"],
        &["spool", "verify"],
        &["spool", "dump"],
        &["spool", "export"],
        &["spool", "purge"],
    ] {
        let help = moorline(&[command, &["--help"]].concat());
        assert!(
            String::from_utf8(help.stdout).unwrap().contains("Example"),
            "{command:?}"
        );
    }
}

#[test]
fn a_valid_file_checks_and_a_json_report_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "gateway.toml", LINK);
    let output = moorline(&["check", "--config", &config, "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["ok"], report["findings"].as_array().unwrap().len()),
        (&true.into(), 0)
    );
    assert!(
        !directory.path().join("state").exists(),
        "checking writes nothing"
    );
}

#[test]
fn a_bad_file_ends_with_ex_config_and_names_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(
        directory.path(),
        "gateway.toml",
        &format!("{LINK}keep_alive_s = 1\n"),
    );
    let output = moorline(&["check", "--config", &config, "--format", "json"]);
    assert_eq!(output.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            &report["findings"][0]["line"],
            &report["findings"][0]["field"]
        ),
        (&6.into(), &"link.keep_alive_s".into())
    );
    let output = moorline(&["run", "--config", &config]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said(&output).contains("gateway.toml:6:16: link.keep_alive_s"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_state_directory_that_cannot_be_made_ends_with_ex_oserr() {
    let directory = tempfile::tempdir().unwrap();
    file(
        directory.path(),
        "state",
        "a file where a directory should be",
    );
    let config = file(directory.path(), "gateway.toml", LINK);
    let output = moorline(&["run", "--config", &config]);
    assert_eq!(output.status.code(), Some(71), "{}", said(&output));
    assert!(
        said(&output).contains("gateway.state_dir"),
        "{}",
        said(&output)
    );
}

/// Asks for a secret that nobody has set, and for a private key that nobody has.
const SECRETIVE: &str = "[gateway]\nname = \"a\"\nstate_dir = \"state\"\n[link]\nurl = \"mqtt://127.0.0.1:1\"\n\
     username = \"env:MOORLINE_TEST_UNSET\"\npassword = \"file:nowhere\"\n";

#[test]
fn only_who_goes_to_the_broker_needs_its_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "gateway.toml", SECRETIVE);
    for command in [
        &["run"][..],
        &["check"],
        &["doctor"],
        &["audit"],
        &["stress", "--yes"],
    ] {
        let output = moorline(&[command, &["--config", &config]].concat());
        assert_eq!(output.status.code(), Some(78), "{command:?}");
        let told = [&*output.stdout, &*output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("MOORLINE_TEST_UNSET"), "{command:?}: {told}");
    }
    let backup = file(directory.path(), "backup.json", "{}");
    for (command, code) in [
        (&["plugin", "ls"][..], 0),
        (&["plugin", "history"], 0),
        (&["plugin", "swap", "line"], 65),
        (&["plugin", "rollback", "line"], 65),
        (&["plugin", "state", "ls"], 0),
        (&["plugin", "state", "export"], 0),
        (&["plugin", "state", "import", &backup], 65),
        (&["plugin", "allow-downgrade", "line"], 64),
        (&["explain", "link"], 65),
        (&["reload"], 65),
        (&["spool", "stat"], 0),
        (&["spool", "verify"], 0),
        (&["spool", "dump"], 0),
        (&["spool", "export"], 0),
        (&["spool", "purge", "--yes"], 0),
        (&["spool", "dead-letter", "ls"], 0),
    ] {
        let output = moorline(&[command, &["--config", &config]].concat());
        let why = said(&output);
        assert_eq!(output.status.code(), Some(code), "{command:?}: {why}");
        assert!(!why.contains("MOORLINE_TEST_UNSET"), "{command:?}: {why}");
    }
}

#[test]
fn without_a_configuration_the_way_to_name_one_is_told() {
    let usual = Path::new("/etc/moorline/gateway.toml");
    if usual.exists() {
        return;
    }
    for command in [
        &["run"][..],
        &["check"],
        &["doctor"],
        &["reload"],
        &["explain", "link"],
        &["plugin", "ls"],
        &["spool", "stat"],
    ] {
        let output = moorline(command);
        assert_eq!(output.status.code(), Some(78), "{command:?}");
        let told = [&*output.stdout, &*output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(
            told.contains("/etc/moorline/gateway.toml") && told.contains("--config FILE"),
            "{command:?}: {told}"
        );
    }
    let named = moorline(&["check", "--config", "nowhere.toml"]);
    let told = String::from_utf8(named.stdout).unwrap();
    assert!(
        told.contains("nowhere.toml") && !told.contains("--config FILE"),
        "{told}"
    );
}

#[test]
fn a_check_finds_a_state_directory_that_a_run_would_refuse() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "gateway.toml", LINK);
    let state = directory.path().join("state");
    let refused = |what: &str| {
        let output = moorline(&["check", "--config", &config]);
        let told = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(78), "{what}: {told}");
        assert!(
            told.contains("gateway.toml:3: gateway.state_dir: ") && told.contains(what),
            "{what}: {told}"
        );
        let output = moorline(&["run", "--config", &config]);
        assert_eq!(output.status.code(), Some(71), "{what}: {}", said(&output));
    };
    std::fs::write(&state, "in the way").unwrap();
    refused("state cannot be used");
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir_all(&state).unwrap();
    file(&state, "plugins", "in the way");
    refused("state/plugins cannot be used");
    // The run that was refused had made its spool.
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::create_dir_all(&state).unwrap();
    file(&state, "spool", "in the way");
    refused("cannot be used");
}

#[test]
fn a_document_is_not_written_over_unless_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "gateway.toml", LINK);
    let there = file(directory.path(), "state.json", "mine");
    let export = [
        "plugin", "state", "export", "--to", &there, "--config", &config,
    ];
    let output = moorline(&export);
    assert_eq!(output.status.code(), Some(71));
    let why = said(&output);
    for words in [&*there, "is there already", "another name", "--force"] {
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "mine");
    let output = moorline(&[&export[..], &["--force"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_ne!(std::fs::read_to_string(&there).unwrap(), "mine");
}

#[test]
fn inspect_says_that_it_shows_grants() {
    let help = moorline(&["plugin", "inspect", "--help"]).stdout;
    let help = String::from_utf8(help).unwrap();
    assert!(help.contains("[connector.grants]"), "{help}");
}

#[test]
fn a_check_names_the_plugin_that_is_none() {
    let directory = tempfile::tempdir().unwrap();
    file(directory.path(), "page.wasm", "<html>404</html>");
    let text = format!("{LINK}[[connector]]\nname = \"line\"\ncomponent = \"page.wasm\"\n");
    let config = file(directory.path(), "gateway.toml", &text);
    let output = moorline(&["check", "--config", &config]);
    assert_eq!(output.status.code(), Some(78));
    let findings = String::from_utf8(output.stdout).unwrap();
    assert!(
        findings.contains("page.wasm") && findings.contains("is not a component"),
        "{findings}"
    );
}

#[test]
fn inspecting_what_is_no_component_ends_with_ex_dataerr() {
    let directory = tempfile::tempdir().unwrap();
    let page = file(directory.path(), "page.wasm", "<html>404</html>");
    let output = moorline(&["plugin", "inspect", &page]);
    assert_eq!(output.status.code(), Some(65));
    assert!(
        said(&output).contains("page.wasm is not a component"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_wrong_option_ends_with_usage() {
    assert_eq!(moorline(&["run", "--confg", "x"]).status.code(), Some(64));
}

#[test]
fn a_doctor_called_wrongly_says_how_and_connects_to_nobody() {
    for arguments in [
        &["doctor", "mqtt://h", "--config", "x"][..],
        &["doctor", "--password", "x"],
        &["doctor", "mqtt://h", "--topic", "a/#"],
        &["doctor", "mqtt://h", "--patience", "0"],
    ] {
        assert_eq!(moorline(arguments).status.code(), Some(64), "{arguments:?}");
    }
    let output = moorline(&["doctor", "http://h"]);
    assert_eq!(output.status.code(), Some(78));
    let why = said(&output);
    assert!(
        why.contains("command line: link.url: ") && why.contains("mqtt:// or mqtts://"),
        "{why}"
    );
    let output = moorline(&[
        "doctor",
        "mqtt://h",
        "--username",
        "env:MOORLINE_TEST_UNSET",
    ]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        said(&output).contains("MOORLINE_TEST_UNSET"),
        "{}",
        said(&output)
    );
}

/// A gateway without a broker goes on trying, and ends when asked, whatever becomes of its log.
fn works_with_a_log_that_goes_to(log: impl Into<std::process::Stdio>) {
    use std::time::{Duration, Instant};

    const DEADLINE: Duration = Duration::from_secs(30);

    fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let config = file(directory.path(), "gateway.toml", LINK);
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(["run", "--config", &config])
        .stderr(log)
        .spawn()
        .unwrap();
    let status = directory.path().join("state/status.json");
    until("an attempt was made and failed", || {
        let text = std::fs::read(&status).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&text).ok()?;
        (status["link"]["disconnects"].as_array()?.len() > 1).then_some(())
    });
    let process = rustix::process::Pid::from_child(&gateway);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let ended = until("it ends when asked", || gateway.try_wait().unwrap());
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    use std::io::Write as _;

    /// What a pipe holds on Linux.
    const PIPE_BYTES: usize = 64 * 1024;

    let (unread, mut log) = std::io::pipe().unwrap();
    log.write_all(&vec![b'.'; PIPE_BYTES]).unwrap();
    works_with_a_log_that_goes_to(log);
    drop(unread);
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    works_with_a_log_that_goes_to(full);
    let (unread, log) = std::io::pipe().unwrap();
    drop(unread);
    works_with_a_log_that_goes_to(log);
}
