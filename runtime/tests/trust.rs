//! Keys and signatures as an operator meets them: files, modes, exit codes, and minisign on the other side.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A directory with a component in it, and the program run there.
struct Desk {
    directory: TempDir,
}

impl Desk {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
        for (from, to) in [
            ("connector-0.1.0.wasm", "line.wasm"),
            ("policy-0.1.0.wasm", "policy.wasm"),
        ] {
            std::fs::copy(data.join(from), directory.path().join(to)).unwrap();
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_moorline"))
            .args(arguments)
            .current_dir(self.directory.path())
            .env("PLANT_PASSWORD", "correct horse")
            .output()
            .unwrap()
    }

    /// What it printed, after it ended well.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str], code: i32, words: &str) {
        let output = self.run(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{words:?} not in {said}");
    }

    fn mode(&self, name: &str) -> u32 {
        std::fs::metadata(self.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    }

    fn configuration(&self, plugins: &str) {
        let text = format!(
            "[gateway]\nname = \"a\"\nstate_dir = \"state\"\n[link]\nurl = \"mqtt://127.0.0.1:1\"\n\
             {plugins}\n[[connector]]\nname = \"line\"\ncomponent = \"line.wasm\"\n"
        );
        std::fs::write(self.path("gateway.toml"), text).unwrap();
    }

    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(self.path(name), text.replace(from, to)).unwrap();
    }
}

#[test]
fn a_key_is_made_once_private_and_sealed() {
    let desk = Desk::new();
    let made = desk.json(&[
        "plugin",
        "keygen",
        "plant",
        "--password",
        "env:PLANT_PASSWORD",
    ]);
    assert_eq!(made["sealed"], true);
    assert_eq!(
        (desk.mode("plant.key"), desk.mode("plant.pub")),
        (0o600, 0o644)
    );
    let public = std::fs::read_to_string(desk.path("plant.pub")).unwrap();
    assert!(public.contains(made["public_key"].as_str().unwrap()));
    let again = ["plugin", "keygen", "plant", "--no-password"];
    desk.fails(&again, 71, "is not written over");
    let plain = ["plugin", "keygen", "other", "--password", "correct horse"];
    desk.fails(&plain, 64, "must be env:NAME or file:PATH");
    desk.fails(
        &["plugin", "keygen", "other"],
        64,
        "nobody is at a terminal",
    );
    std::fs::write(desk.path("wrong"), "battery staple\n").unwrap();
    let sign = [
        "plugin",
        "sign",
        "line.wasm",
        "--key",
        "plant.key",
        "--password",
        "file:wrong",
    ];
    desk.fails(&sign, 65, "the password is wrong");
    assert!(!desk.path("line.wasm.minisig").exists());
}

#[test]
fn what_is_signed_verifies_and_what_was_changed_does_not() {
    let desk = Desk::new();
    desk.json(&["plugin", "keygen", "plant", "--no-password"]);
    let sign = [
        "plugin",
        "sign",
        "line.wasm",
        "policy.wasm",
        "--key",
        "plant.key",
    ];
    let signed = desk.json(&sign);
    assert_eq!(signed[0]["name"], "scripted");
    assert_eq!(signed[0]["version"], "0.1.0");
    let verify = [
        "plugin",
        "verify",
        "line.wasm",
        "policy.wasm",
        "--key",
        "plant.pub",
    ];
    let verified = desk.json(&verify);
    assert_eq!(verified[1]["signed_by"], "plant");
    let shown = desk.json(&["plugin", "inspect", "line.wasm", "--key", "plant.pub"]);
    assert_eq!(shown["signature"]["ok"], true);
    assert_eq!(shown["contract"], "0.1");
    let untrusted = desk.json(&["plugin", "inspect", "line.wasm"]);
    assert_eq!(untrusted["signature"]["ok"], false);
    desk.fails(
        &["plugin", "verify", "line.wasm"],
        64,
        "no key to verify with",
    );
    desk.fails(
        &["plugin", "verify", "line.wasm", "--key", "nokey"],
        64,
        "no public key",
    );

    // The signature of one is no signature of another.
    std::fs::copy(
        desk.path("policy.wasm.minisig"),
        desk.path("line.wasm.minisig"),
    )
    .unwrap();
    let verify = ["plugin", "verify", "line.wasm", "--key", "plant.pub"];
    desk.fails(&verify, 65, "does not fit its signature");
    desk.json(&["plugin", "sign", "line.wasm", "--key", "plant.key"]);
    desk.json(&verify);
    std::fs::remove_file(desk.path("line.wasm.minisig")).unwrap();
    desk.fails(&verify, 65, "is not signed");
    desk.fails(
        &["plugin", "sign", "plant.pub", "--key", "plant.key"],
        65,
        "is not a component",
    );
    desk.fails(
        &["plugin", "sign", "line.wasm", "--key", "plant.pub"],
        65,
        "no secret key",
    );
}

#[test]
fn a_check_names_the_line_of_what_would_not_be_loaded() {
    let desk = Desk::new();
    let public = desk.json(&["plugin", "keygen", "plant", "--no-password"]);
    let line = public["public_key"].as_str().unwrap();
    let keys = format!("[plugins.trusted_keys]\nplant = \"{line}\"");
    desk.configuration(&keys);
    let check = ["check", "--config", "gateway.toml"];
    desk.fails(
        &check,
        78,
        "gateway.toml:10: connector \"line\": component: line.wasm is not signed",
    );
    desk.json(&["plugin", "sign", "line.wasm", "--key", "plant.key"]);
    let output = desk.run(&check);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("signed by plant"),
        "{said}"
    );
    desk.edit("line.wasm.minisig", "version:0.1.0", "version:0.1.1");
    desk.fails(
        &check,
        78,
        "gateway.toml:10: connector \"line\": component: line.wasm does not fit its signature",
    );

    desk.configuration(&format!("[plugins]\nsignatures = \"warn\"\n{keys}"));
    let output = desk.run(&check);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("warning: gateway.toml:12:"),
        "{said}"
    );

    for (section, words) in [
        (
            "[plugins]\nsignatures = \"require\"",
            "gateway.toml:7:14: plugins.signatures: there is no key",
        ),
        (
            "[plugins]\nsignatures = \"always\"",
            "gateway.toml:7:14: plugins.signatures: unknown variant",
        ),
        (
            "[plugins.trusted_keys]\nplant = \"RWQ\"",
            "gateway.toml:7:9: plugins.trusted_keys.plant: is no public key",
        ),
        (
            "[plugins.trusted_keys]\nplant = \"file:none.pub\"",
            "none.pub cannot be read",
        ),
        (
            &format!("{keys}\nagain = \"file:plant.pub\""),
            "which is again already",
        ),
    ] {
        desk.configuration(section);
        desk.fails(&check, 78, words);
    }
}

#[test]
fn a_downgrade_is_allowed_by_name() {
    let desk = Desk::new();
    desk.configuration("");
    std::fs::create_dir(desk.path("state")).unwrap();
    let served = r#"{"connector-line":{"scripted":"0.2.0"}}"#;
    std::fs::write(desk.path("state/served.json"), served).unwrap();
    let check = ["check", "--config", "gateway.toml"];
    desk.fails(
        &check,
        78,
        "line.wasm is a downgrade: scripted 0.1.0; 0.2.0 served last",
    );
    let allow = ["plugin", "allow-downgrade", "--config", "gateway.toml"];
    desk.fails(
        &[&allow[..], &["lime"]].concat(),
        64,
        "has no connector \"lime\"; it has line",
    );
    desk.fails(&[&allow[..], &["--policy"]].concat(), 64, "has no [policy]");
    assert!(desk.run(&[&allow[..], &["line"]].concat()).status.success());
    assert!(desk.run(&check).status.success());
    assert_eq!(desk.mode("state/allow-downgrade/connector-line"), 0o600);
}

#[test]
fn minisign_and_moorline_read_each_others_files() {
    if Command::new("minisign").arg("-v").output().is_err() {
        eprintln!("SKIPPED: minisign is not installed");
        return;
    }
    let desk = Desk::new();
    let minisign = |arguments: &[&str]| {
        let output = Command::new("minisign")
            .args(arguments)
            .current_dir(desk.directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    desk.json(&["plugin", "keygen", "ours", "--no-password"]);
    desk.json(&["plugin", "sign", "line.wasm", "--key", "ours.key"]);
    let said = minisign(&["-V", "-p", "ours.pub", "-m", "line.wasm"]);
    assert!(
        said.contains("name:scripted\tversion:0.1.0\tsha256:"),
        "{said}"
    );
    minisign(&["-S", "-s", "ours.key", "-m", "policy.wasm"]);
    desk.json(&["plugin", "verify", "policy.wasm", "--key", "ours.pub"]);

    minisign(&["-G", "-W", "-p", "theirs.pub", "-s", "theirs.key"]);
    for legacy in [&[][..], &["-l"]] {
        let sign = ["-S", "-s", "theirs.key", "-m", "line.wasm"];
        minisign(&[&sign[..], legacy].concat());
        desk.json(&["plugin", "verify", "line.wasm", "--key", "theirs.pub"]);
    }
    desk.json(&["plugin", "sign", "line.wasm", "--key", "theirs.key"]);
    minisign(&["-V", "-p", "theirs.pub", "-m", "line.wasm"]);
}

#[test]
fn builds_that_nobody_would_load_are_not_begun() {
    let desk = Desk::new();
    desk.json(&["plugin", "keygen", "plant", "--no-password"]);
    desk.configuration("[plugins.trusted_keys]\nplant = \"file:plant.pub\"\n");
    let dev = ["plugin", "dev", ".", "--config", "gateway.toml", "--once"];
    desk.fails(&dev, 64, "--key FILE");
}
