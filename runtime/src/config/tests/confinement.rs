//! What plugins may use and reach, as the file says it.

use super::*;

#[test]
fn every_limit_can_be_set_and_what_cannot_be_right_is_named_with_its_line() {
    let usual = crate::plugins::Limits::default();
    let text = |lines: &str| format!("{MINIMAL}{CONNECTOR}{lines}");
    let parse = |lines: &str| parse(Path::new("dir/gateway.toml"), &text(lines));
    assert_eq!(parse("").unwrap().connectors[0].limits, usual);
    let settings = parse(
        "[connector.limits]\nmemory_bytes_max = 1048576\ntable_elements_max = 1\ninstances_max = 2\n\
         call_deadline_ms = 10\ncpu_percent = 3\nemit_readings_per_s = 4\nlog_lines_per_s = 5\n\
         stream_bytes_per_s = 6\nstate_bytes_max = 7\nstate_write_bytes_per_s = 8192\ndescriptors_max = 8\n\
         directory_bytes_max = 9\ndirectory_entries_max = 10\n",
    )
    .unwrap();
    let expected = crate::plugins::Limits {
        memory_bytes: 1_048_576,
        table_elements: 1,
        instances: 2,
        call_cpu: Duration::from_millis(10),
        cpu_percent: 3,
        emit_readings_per_s: 4,
        log_lines_per_s: 5,
        stream_bytes_per_s: 6,
        state_bytes: 7,
        state_write_bytes_per_s: 8192,
        descriptors: 8,
        directory_bytes: 9,
        directory_entries: 10,
        ..usual
    };
    assert_eq!(settings.connectors[0].limits, expected);
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);

    let beside = parse("memory_bytes_max = 2097152\ncall_deadline_ms = 20\n").unwrap();
    let limits = beside.connectors[0].limits;
    assert_eq!(
        (limits.memory_bytes, limits.call_cpu),
        (2_097_152, Duration::from_millis(20))
    );

    for (lines, expected) in [
        (
            "call_deadline_ms = 20\n[connector.limits]\ncall_deadline_ms = 30\n",
            "13:20: connector.limits.call_deadline_ms: stands in [[connector]] itself, too",
        ),
        (
            "[connector.limits]\ncpu_percent = 0\n",
            "12:15: connector.limits.cpu_percent: 0 is out of range: it must be between 1 and 100",
        ),
        (
            "[connector.limits]\nfuel = 1\n",
            "12:1: connector.limits.fuel: unknown field `fuel`",
        ),
    ] {
        let found = findings(&text(lines));
        assert!(found[0].contains(expected), "{found:?}");
    }
    let slow = parse("[connector.limits]\ncall_deadline_ms = 5000\ncpu_percent = 10\n").unwrap();
    let warned = slow.warnings[0].to_string();
    assert!(
        warned.contains("12:20: connector.limits.call_deadline_ms: one call may use more"),
        "{warned}"
    );
}

#[test]
fn grants_are_resolved_and_what_grants_nothing_is_named_with_its_line() {
    let text = |lines: &str| format!("{MINIMAL}{CONNECTOR}[connector.grants]\n{lines}");
    let parse = |lines: &str| parse(Path::new("dir/gateway.toml"), &text(lines)).unwrap();
    let nothing = parse("").connectors.remove(0).grants;
    assert_eq!(nothing, crate::plugins::Grants::default());
    assert!(nothing.wall_clock && nothing.tcp.is_empty() && nothing.environment.is_empty());

    let directory = tempfile::tempdir().unwrap();
    let settings = parse(&format!(
        "environment = [\"PATH\"]\nwall_clock = false\ntcp = [\"10.0.0.0/8:502\", \"plc.example:*\"]\n\
         directories = {{ \"/maps\" = {:?}, \"/later\" = \"later\" }}\n",
        directory.path()
    ));
    let grants = &settings.connectors[0].grants;
    assert!(!grants.wall_clock);
    let path = std::env::var("PATH").unwrap();
    assert_eq!(grants.environment, [("PATH".to_owned(), path)]);
    let tcp: Vec<_> = grants.tcp.iter().map(ToString::to_string).collect();
    assert_eq!(tcp, ["10.0.0.0/8:502", "plc.example:*"]);
    let directories: Vec<_> = grants
        .directories
        .iter()
        .map(|d| (&*d.guest, &*d.host))
        .collect();
    assert_eq!(
        directories,
        [
            ("/later", Path::new("dir/later")),
            ("/maps", directory.path())
        ]
    );
    let warned: Vec<_> = settings.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("dir/later is no directory now"),
        "{warned:?}"
    );

    for (lines, expected) in [
        (
            "tcp = [\"10.0.0.0/8\"]\n",
            "12:8: connector.grants.tcp: \"10.0.0.0/8\" needs a port",
        ),
        (
            "environment = [\"A=B\"]\n",
            "12:16: connector.grants.environment: \"A=B\" is no name of a variable",
        ),
        (
            "directories = { maps = \"maps\" }\n",
            "connector.grants.directories: \"maps\" is what the plugin knows the directory by",
        ),
        (
            "http = [\"api.example\"]\n",
            "12:9: connector.grants.http: \"api.example\" must begin with http:// or https://",
        ),
        (
            "udp = []\n",
            "12:1: connector.grants.udp: unknown field `udp`",
        ),
    ] {
        let found = findings(&text(lines));
        assert!(found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn a_serial_port_is_described_well_and_serves_one_connection() {
    let connection = |name: &str, url: &str| {
        format!("[[connector.connection]]\nname = \"{name}\"\nstream = \"{url}\"\n")
    };
    let connector = |name: &str| {
        format!("{MINIMAL}\n[[connector]]\nname = \"{name}\"\ncomponent = \"a.wasm\"\n")
    };
    let one =
        connector("meters") + &connection("a", "serial:///dev/moorline-none?baud=300&parity=even");
    let settings = parse(Path::new("dir/gateway.toml"), &one).unwrap();
    let stream = settings.connectors[0].connections[0].stream.as_ref();
    assert_eq!(
        stream.unwrap().to_string(),
        "serial:///dev/moorline-none?baud=300&data_bits=8&parity=even&stop_bits=1&flow_control=none"
    );
    let warnings: Vec<_> = settings.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings[0].starts_with(
            "dir/gateway.toml:14:10: connector.connection.stream: /dev/moorline-none is not there"
        ),
        "{warnings:?}"
    );

    let found = findings(
        &(connector("meters") + &connection("a", "serial:///dev/ttyS9?baud=300&parity=E")),
    );
    assert_eq!(
        found,
        [
            "dir/gateway.toml:14:10: connector.connection.stream: \"serial:///dev/ttyS9?baud=300&parity=E\" parity=\"E\" must be none, even or odd"
        ]
    );

    let directory = tempfile::tempdir().unwrap();
    let device = directory.path().join("ttyS9");
    std::fs::write(&device, "").unwrap();
    let by_id = directory.path().join("by-id");
    std::os::unix::fs::symlink(&device, &by_id).unwrap();
    let url = |path: &Path| format!("serial://{}?baud=300", path.display());
    let other = connector("others").replace(MINIMAL, "");
    let twice = connector("meters")
        + &connection("a", &url(&device))
        + &other
        + &connection("b", &url(&by_id));
    let found = findings(&twice);
    assert_eq!(found.len(), 1, "{found:?}");
    let words = format!(
        "gateway.toml:21:10: connector.connection.stream: {} is the port of connection meters/a already",
        by_id.display()
    );
    assert!(found[0].contains(&words), "{found:?}");
}

/// A place for a gateway, its file and the directories it may grant.
fn site() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["etc", "state/spool", "plugins", "data/inner"] {
        std::fs::create_dir_all(directory.path().join(name)).unwrap();
    }
    let alias = directory.path().join("alias");
    std::os::unix::fs::symlink(directory.path().join("data"), alias).unwrap();
    directory
}

/// One connector for each of these directories, which it may write; the first grant is in line 10.
fn writers(site: &Path, granted: &[&str]) -> Result<Settings, Refused> {
    let at = |name: &str| site.join(name);
    let (state, metrics) = (at("state"), at("metrics/moorline.prom"));
    let mut text = format!(
        "[gateway]\nname = \"line-7\"\nstate_dir = {state:?}\nmetrics_file = {metrics:?}\n[link]\nurl = \"mqtt://broker\"\n"
    );
    for (number, granted) in granted.iter().enumerate() {
        let component = at(&format!("plugins/{number}.wasm"));
        let granted = at(granted);
        text += &format!(
            "[[connector]]\nname = \"c{number}\"\ncomponent = {component:?}\n\
             grants.writable_directories = {{ \"/data\" = {granted:?} }}\n"
        );
    }
    parse(&at("etc/gateway.toml"), &text)
}

#[test]
fn a_directory_to_be_written_is_resolved_and_may_come_later() {
    let site = site();
    let settings = writers(site.path(), &["data/inner"]).unwrap();
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);
    let written = &settings.connectors[0].grants.writable_directories[0];
    let host = site.path().join("data/inner");
    assert_eq!((&*written.guest, &*written.host), ("/data", &*host));
    let settings = writers(site.path(), &["later"]).unwrap();
    let warned = settings.warnings[0].to_string();
    assert!(warned.contains("later is no directory now"), "{warned}");
    let twice = "[connector.grants]\ndirectories = { \"/data\" = \"a\" }\nwritable_directories = { \"/data\" = \"b\" }\n";
    let found = findings(&format!("{MINIMAL}{CONNECTOR}{twice}"));
    assert!(found[0].contains("stands in directories, too"), "{found:?}");
}

#[test]
fn what_a_plugin_may_write_is_neither_the_gateways_nor_anothers() {
    let site = site();
    let each = "each needs a directory of its own";
    let inside = "lies in the gateway's state_dir";
    for (granted, line, words) in [
        (
            &["state"][..],
            10,
            "a plugin could write the gateway's state_dir",
        ),
        (&["state/spool"], 10, inside),
        (&["state/later/deep"], 10, inside),
        (&["data/../state/spool"], 10, inside),
        (&[""], 10, "a plugin could write the gateway's state_dir"),
        (&["/"], 10, "a plugin could write"),
        (
            &["plugins"],
            10,
            "a plugin could write a directory of components",
        ),
        (&["plugins/data"], 10, "lies in a directory of components"),
        (&["etc"], 10, "a plugin could write this file's directory"),
        (
            &["metrics"],
            10,
            "a plugin could write what the gateway tells of itself",
        ),
        (&["data", "data"], 14, each),
        (&["data/inner", "data"], 14, each),
        (&["data", "alias/inner"], 14, each),
    ] {
        let Refused(found) = writers(site.path(), granted).unwrap_err();
        let found = found.first().unwrap().to_string();
        let place = format!("gateway.toml:{line}:");
        assert!(found.contains(&place), "{granted:?}: {found}");
        assert!(found.contains(words), "{granted:?}: {found}");
        assert!(found.contains("writable_directories: "), "{found}");
    }
}

#[test]
fn what_the_file_names_to_be_read_is_written_by_no_plugin() {
    let site = tempfile::tempdir().unwrap();
    let at = |name: &str| site.path().join(name);
    for name in ["etc", "keys/inner", "links", "certs"] {
        std::fs::create_dir_all(at(name)).unwrap();
    }
    std::fs::write(at("keys/token"), "token").unwrap();
    std::fs::write(at("certs/ca.pem"), "").unwrap();
    std::os::unix::fs::symlink(at("keys/token"), at("links/token")).unwrap();
    let read = |url: &str, link: &str, rest: &str, granted: &str| {
        let text = format!(
            "[gateway]\nname = \"line-7\"\nstate_dir = \"state\"\n[link]\nurl = \"{url}\"\n{link}\n[[connector]]\nname = \"c\"\n\
             component = \"plugins/a.wasm\"\ngrants.writable_directories = {{ \"/data\" = {:?} }}\n{rest}",
            at(granted)
        );
        let Refused(found) = parse(&at("etc/gateway.toml"), &text).unwrap_err();
        let found = found.iter().map(ToString::to_string);
        let words = "a plugin could write a key, certificate or secret";
        found.filter(|found| found.contains(words)).collect()
    };
    let secrets = "username = \"file:../keys/token\"\npassword = \"file:../keys/token\"";
    let behind_a_link = "username = \"file:../links/token\"";
    let plain = "mqtt://broker";
    let key = "[plugins.trusted_keys]\nplant = \"file:../keys/plant.pub\"\n";
    let proxied = "proxy = \"http://proxy:3128\"\nproxy_username = \"u\"\nproxy_password = \"file:../keys/proxy\"";
    let ca = "tls.ca_file = \"../certs/ca.pem\"";
    let client =
        "tls.client_cert_file = \"../certs/c.pem\"\ntls.client_key_file = \"../keys/inner/c.key\"";
    for (url, link, rest, granted) in [
        (plain, secrets, "", "keys"),
        (plain, behind_a_link, "", "keys"),
        (plain, behind_a_link, "", "links"),
        (plain, "", key, "keys"),
        (plain, proxied, "", "keys"),
        ("mqtts://broker", ca, "", "certs"),
        ("mqtts://broker", client, "", "certs"),
        ("mqtts://broker", client, "", "keys/inner"),
    ] {
        let found: Vec<String> = read(url, link, rest, granted);
        assert_eq!(found.len(), 1, "{link}{rest} {granted}: {found:?}");
        let line = 9 + link.lines().count().max(1);
        let place = format!("gateway.toml:{line}:");
        assert!(found[0].contains(&place), "{link}{rest}: {found:?}");
    }
    let none: Vec<String> = read(plain, secrets, key, "keys/inner");
    assert!(none.is_empty(), "{none:?}");
}
