use std::time::Duration;

use moorline_core::message::Qos;
use moorline_core::report::{Deadband, Strategy};

use super::*;
use crate::link::{EndpointSettings, RateLimits, Versions};

mod confinement;

const MINIMAL: &str = r#"
[gateway]
name = "line-7"
state_dir = "state"

[link]
url = "mqtt://127.0.0.1"
"#;

fn findings(text: &str) -> Vec<String> {
    match parse(Path::new("dir/gateway.toml"), text) {
        Ok(settings) => panic!("accepted: {settings:?}"),
        Err(refused) => refused.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_smallest_file_resolves_to_the_documented_defaults() {
    let settings = parse(Path::new("dir/gateway.toml"), MINIMAL).unwrap();
    assert_eq!(settings.state_dir, Path::new("dir/state"));
    assert_eq!(settings.link.endpoints[0].name(), "127.0.0.1:1883");
    assert_eq!(settings.link.client_id, "line-7");
    assert!(settings.connectors.is_empty() && settings.policy.is_none());
}

/// Keys of the shipped example whose value is an example.
const WITHOUT_DEFAULT: [&str; 11] = [
    "metrics_file",
    "batch_readings_max",
    "bind_address",
    "bind_device",
    "proxy = ",
    "proxy_username",
    "proxy_password",
    "fail_back_after_s",
    "age_max_h",
    "backlog_share_percent",
    "backlog_readings_per_s",
];

#[test]
fn a_connectors_probation_differs_key_by_key_and_cannot_end_before_it_lasts() {
    let text = format!(
        "{MINIMAL}\n[probation]\ncalls = 3\nduration_s = 60\n\n[[connector]]\nname = \"a\"\ncomponent = \"a.wasm\"\n\
         swap = \"exclusive\"\nhand_over = \"required\"\n[connector.probation]\nsilence_percent = 0\n\n\
         [[connector]]\nname = \"b\"\ncomponent = \"b.wasm\"\n"
    );
    let settings = parse(Path::new("dir/gateway.toml"), &text).unwrap();
    let gateway = settings.swap.probation;
    assert_eq!((gateway.calls, gateway.silence_percent), (3, 20));
    assert_eq!(gateway.duration, Duration::from_secs(60));
    let (a, b) = (
        settings.connectors[0].succession,
        settings.connectors[1].succession,
    );
    assert_eq!((a.probation.calls, a.probation.silence_percent), (3, 0));
    assert!(a.exclusive && a.hand_over_required);
    assert_eq!(b.probation, gateway);
    assert!(!b.exclusive && !b.hand_over_required);

    let found = findings(&format!(
        "{text}\n[connector.probation]\nduration_max_s = 30\n"
    ));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("duration_max_s"), "{found:?}");
    assert!(
        found[0].ends_with("must be at least duration_s, which is 60"),
        "{found:?}"
    );
}

#[test]
fn the_shipped_example_with_every_default_uncommented_means_the_same() {
    let shipped =
        include_str!("../../../config/gateway.toml").replace("env:TB_ACCESS_TOKEN", "token");
    let as_is = parse(Path::new("config/gateway.toml"), &shipped).unwrap();
    let (mut section, mut optional_table) = (String::new(), false);
    let uncommented: Vec<String> = shipped
        .lines()
        .map(|line| {
            if let Some(header) = line.strip_prefix('[') {
                section = header.to_owned();
            }
            optional_table = !line.is_empty() && (optional_table || line.starts_with("# ["));
            match line.strip_prefix("# ") {
                Some(rest)
                    if rest.contains(" = ")
                        && !optional_table
                        && !section.is_empty()
                        && !WITHOUT_DEFAULT.iter().any(|key| rest.starts_with(key)) =>
                {
                    rest.to_owned()
                }
                _ => line.to_owned(),
            }
        })
        .collect();
    let explicit = parse(Path::new("config/gateway.toml"), &uncommented.join("\n")).unwrap();
    assert_ne!(
        uncommented.join("\n"),
        shipped,
        "the test must have uncommented something"
    );
    assert_eq!(format!("{as_is:?}"), format!("{explicit:?}"));
}

#[test]
fn a_typo_is_named_with_its_line() {
    let text = MINIMAL.replace("url =", "keep_alive = 5\nurl =");
    let found = findings(&text);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with(
            "dir/gateway.toml:7:1: link.keep_alive: unknown field `keep_alive`, expected"
        ),
        "{found:?}"
    );
}

#[test]
fn a_wrong_type_and_a_value_out_of_range_are_named() {
    let found = findings(&format!("{MINIMAL}keep_alive_s = \"thirty\"\n"));
    assert!(
        found[0].contains("gateway.toml:8:16: link.keep_alive_s: invalid type"),
        "{found:?}"
    );
    let found = findings(&format!("{MINIMAL}keep_alive_s = 1\n"));
    assert!(
        found[0].contains("link.keep_alive_s: 1 is out of range: it must be between 5 and 3600"),
        "{found:?}"
    );
    let found = findings(&MINIMAL.replace("mqtt://", "http://"));
    assert!(
        found[0].contains("must begin with mqtt:// or mqtts://, or with ws:// or wss://"),
        "{found:?}"
    );
    let found = findings(&format!("{MINIMAL}mqtt_version = 5\n"));
    assert!(
        found[0].contains(r#"link.mqtt_version: must be "auto", "5" or "3.1.1", in quotes"#),
        "{found:?}"
    );
    let found = findings(&format!("{MINIMAL}client_id = \"\"\n"));
    assert!(
        found[0].contains("link.client_id: must not be empty"),
        "{found:?}"
    );
    let found = findings(&MINIMAL.replace("mqtt://", "mqtt://user:sesame@"));
    assert!(
        found[0].contains("link.url: is not host:port; user names"),
        "{found:?}"
    );
    assert!(!found[0].contains("sesame"), "{found:?}");
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let text = format!(
        "{MINIMAL}username = \"env:MOORLINE_TEST_UNSET\"\npassword = \"file:/nonexistent\"\n\
         [policy]\ncomponent = \"missing.wasm\"\n\
         [[connector]]\nname = \"a\"\ncomponent = \"a.wasm\"\n[[connector]]\nname = \"a\"\ncomponent = \"a.wasm\"\n"
    );
    let found = findings(&text);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(
        found[0].contains(":8:")
            && found[0].contains("variable MOORLINE_TEST_UNSET is not set: export it"),
        "{found:?}"
    );
    assert!(
        found[3].contains("connector \"a\" is there twice"),
        "{found:?}"
    );
}

#[test]
fn a_mistake_hides_no_others() {
    let text = MINIMAL.replace("name = \"line-7\"", "name = \"\"");
    assert_ne!(text, MINIMAL);
    let text = format!(
        "{text}keep_alive = 5\nkeep_alive_s = \"thirty\"\nmqtt_version = \"6\"\nunknown = [\n  1,\n]\n\
         [[connector]]\nname = \"a\"\ncomponent = \"a.wasm\"\n\
         [[connector]]\nname = \"a\"\ncomponent = \"a.wasm\"\n"
    );
    let found = findings(&text);
    let words = [
        "gateway.toml:3:8: gateway.name: ",
        "link.keep_alive: unknown field",
        "link.keep_alive_s: invalid type",
        "link.mqtt_version: ",
        "link.unknown: unknown field",
        "gateway.toml:18:8: connector.name: connector \"a\" is there twice",
    ];
    assert_eq!(found.len(), words.len(), "{found:#?}");
    for words in words {
        let is_said = found.iter().any(|found| found.contains(words));
        assert!(is_said, "{words}: {found:#?}");
    }
}

#[test]
fn a_missing_file_says_so() {
    let refused = load(Path::new("/nonexistent/gateway.toml")).unwrap_err();
    assert!(
        refused
            .to_string()
            .starts_with("/nonexistent/gateway.toml: cannot be read"),
        "{refused}"
    );
}

#[test]
fn what_no_broker_can_be_reached_by_is_refused_before_the_run() {
    let long = "x".repeat(254);
    for host in ["[::1", "a:b:c", "h?", "a\\nb", "a b", "a..b", long.as_str()] {
        let found = findings(&MINIMAL.replace("127.0.0.1", host));
        assert!(
            found[0].contains("link.url: ") && found[0].contains("is not host:port"),
            "{found:?}"
        );
    }
    let found =
        findings(&format!("{MINIMAL}[link.tls]\nserver_name = \"?\"\n").replace("mqtt:", "mqtts:"));
    assert!(
        found[0].contains("link.url: TLS cannot be set up: \"?\" is not a name"),
        "{found:?}"
    );
    for host in [
        "[::1]",
        "[fe80::1%eth0]",
        "::1",
        "broker.example.",
        "edge_1",
    ] {
        parse(
            Path::new("gateway.toml"),
            &MINIMAL.replace("127.0.0.1", host),
        )
        .unwrap();
    }
}

#[test]
fn a_source_that_is_not_there_now_is_a_warning_and_a_wrong_one_a_finding() {
    let text = format!("{MINIMAL}bind_address = \"203.0.113.9\"\nbind_device = \"nowhere0\"\n");
    let settings = parse(Path::new("gateway.toml"), &text).unwrap();
    let warnings: Vec<_> = settings.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "gateway.toml:8:16: link.bind_address: this machine cannot connect from 203.0.113.9: \
             Cannot assign requested address (os error 99)",
            "gateway.toml:9:15: link.bind_device: this machine has no network interface \"nowhere0\" now",
        ]
    );
    assert_eq!(settings.link.bind.device.as_deref(), Some("nowhere0"));

    let fine = format!("{MINIMAL}bind_address = \"127.0.0.1\"\nbind_device = \"lo\"\n");
    let settings = parse(Path::new("gateway.toml"), &fine).unwrap();
    assert!(settings.warnings.is_empty(), "{:?}", settings.warnings);

    for (line, words) in [
        (
            "bind_address = \"eth0\"",
            "link.bind_address: invalid IP address",
        ),
        (
            "bind_device = \"../eth0\"",
            "is not the name of a network interface",
        ),
        (
            "bind_device = \"a-name-too-long-by-far\"",
            "is not the name of",
        ),
    ] {
        let found = findings(&format!("{MINIMAL}{line}\n"));
        assert!(found[0].contains(words), "{found:?}");
    }
}

#[test]
fn a_proxy_is_resolved_without_its_secrets_showing() {
    let text = format!(
        "{MINIMAL}proxy = \"socks5://[::1]:1080\"\nproxy_username = \"line-7\"\nproxy_password = \"sesame\"\n"
    );
    let settings = parse(Path::new("gateway.toml"), &text).unwrap();
    let proxy = settings.link.proxy.as_ref().unwrap();
    assert_eq!(proxy.to_string(), "socks5://[::1]:1080");
    assert_eq!(proxy.login.as_ref().unwrap().password.expose(), "sesame");
    assert!(!format!("{settings:?}").contains("sesame"));

    for (lines, words) in [
        (
            "proxy = \"https://proxy:3128\"",
            "link.proxy: \"https://proxy:3128\" must begin with",
        ),
        ("proxy = \"http://proxy\"", "needs a port"),
        (
            "proxy = \"http://me:sesame@proxy:3128\"",
            "link.proxy: is not host:port; the login belongs",
        ),
        (
            "proxy_password = \"x\"",
            "link.proxy_password: there is no link.proxy",
        ),
        (
            "proxy = \"http://proxy:1\"\nproxy_username = \"x\"",
            "needs proxy_password beside it",
        ),
        (
            "proxy = \"http://proxy:1\"\nproxy_username = \"a:b\"\nproxy_password = \"x\"",
            "cannot hold ':'",
        ),
    ] {
        let found = findings(&format!("{MINIMAL}{lines}\n"));
        assert!(
            found[0].contains(words) && !found[0].contains("sesame"),
            "{found:?}"
        );
    }
}

#[test]
fn a_websocket_has_a_path_and_the_ports_of_the_web() {
    for (url, tls, path, port) in [
        ("ws://broker", false, "/mqtt", 80),
        ("wss://broker", true, "/mqtt", 443),
        ("ws://broker:8083/", false, "/", 8083),
        (
            "wss://[::1]:8884/a/b?token=x%20y",
            true,
            "/a/b?token=x%20y",
            8884,
        ),
    ] {
        let text = MINIMAL.replace("mqtt://127.0.0.1", url);
        let link = parse(Path::new("gateway.toml"), &text).unwrap().link;
        let broker = &link.endpoints[0];
        assert_eq!(
            (
                broker.tls.is_some(),
                broker.websocket.as_deref(),
                broker.port
            ),
            (tls, Some(path), port),
            "{url}"
        );
    }
    for (url, words) in [
        (
            "ws://broker/a b",
            "the path \"/a b\" holds what a URL cannot",
        ),
        ("ws://broker/#x", "holds what a URL cannot"),
        ("ws:///mqtt", "is not host:port"),
        ("mqtt://broker/mqtt", "is not host:port"),
    ] {
        let found = findings(&MINIMAL.replace("mqtt://127.0.0.1", url));
        assert!(found[0].contains(words), "{found:?}");
    }
}

const SEVERAL: &str = r#"
[gateway]
name = "line-7"
state_dir = "state"

[link]
fail_back_after_s = 3600

[[link.endpoint]]
url = "mqtts://a.example"
priority = 1

[[link.endpoint]]
url = "wss://b.example"
priority = 2
mqtt_version = "3.1.1"
[link.endpoint.tls]
server_name = "plant.example"
"#;

#[test]
fn several_brokers_have_a_table_each() {
    let link = parse(Path::new("gateway.toml"), SEVERAL).unwrap().link;
    let names: Vec<_> = link.endpoints.iter().map(EndpointSettings::name).collect();
    assert_eq!(names, ["a.example:8883", "b.example:443"]);
    let second = &link.endpoints[1];
    assert_eq!(
        (second.priority, second.versions),
        (2, Some(Versions::V311))
    );
    let name = |number: usize| {
        link.endpoints[number]
            .tls
            .as_ref()
            .unwrap()
            .server_name
            .clone()
    };
    assert_eq!((name(0), name(1).as_deref()), (None, Some("plant.example")));
    assert_eq!(link.fail_back_after, Some(Duration::from_secs(3600)));
}

#[test]
fn brokers_that_are_named_ambiguously_are_refused() {
    let with_url = SEVERAL.replace("[link]", "[link]\nurl = \"mqtt://c.example\"");
    let none = MINIMAL.replace("url = \"mqtt://127.0.0.1\"", "");
    let cases = [
        (
            with_url,
            ":7:7: link.url: link.url and [[link.endpoint]] are both given",
        ),
        (none, "names no broker"),
        (
            SEVERAL.replace("priority = 1\n", ""),
            ":10:7: link.endpoint.url: has no priority",
        ),
        (
            SEVERAL.replace("wss://b.example", "mqtts://a.example:8883"),
            ":14:7: link.endpoint.url: a.example:8883 is there twice",
        ),
        (
            SEVERAL.replace("wss://", "ws://"),
            "a tls table is given but this URL",
        ),
        (
            SEVERAL.replace("priority = 1\n", "priority = 0\n"),
            "link.endpoint.priority: 0 is out of range",
        ),
        (
            SEVERAL.replace("priority = 1\n", "prio = 1\n"),
            "unknown field `prio`",
        ),
    ];
    for (text, words) in cases {
        let found = findings(&text);
        assert!(
            found.len() == 1 && found[0].contains(words),
            "{words}: {found:?}"
        );
    }
    let mixed = SEVERAL.replace("mqtts://a", "mqtt://a");
    let warnings = parse(Path::new("gateway.toml"), &mixed).unwrap().warnings;
    assert!(
        warnings.len() == 1
            && warnings[0]
                .to_string()
                .contains(":10:7: link.endpoint.url: has no TLS while"),
        "{warnings:?}"
    );
}

#[test]
fn rate_limits_are_asked_for_named_or_off() {
    let with = |lines: &str| format!("{MINIMAL}{lines}\n");
    let limits = |lines: &str| {
        let settings = parse(Path::new("gateway.toml"), &with(lines)).unwrap();
        settings.link.rate_limits
    };
    assert_eq!(limits(""), RateLimits::Ask);
    assert_eq!(limits("rate_limits = \"ask\""), RateLimits::Ask);
    assert_eq!(limits("rate_limits = \"off\""), RateLimits::Off);
    let known =
        limits("rate_limits = { messages = \"200:1,6000:60\", telemetry_data_points = \"5:1\" }");
    let RateLimits::Known(known) = known else {
        panic!("{known:?}");
    };
    assert_eq!(
        known.to_string(),
        "200 in 1 s: messages, 6000 in 60 s: messages, 5 in 1 s: telemetry data points"
    );
    for (lines, words) in [
        (
            "rate_limits = \"on\"",
            "must be \"ask\", \"off\", or a table",
        ),
        (
            "rate_limits = { readings = \"1:1\" }",
            "\"readings\" is not limited",
        ),
        (
            "rate_limits = { messages = \"200\" }",
            "messages: limits are written as count:seconds",
        ),
        ("rate_limits = { messages = 200 }", "messages must be text"),
        ("rate_limit_percent = 0", "0 is out of range"),
        ("batch_readings_max = 0", "0 is out of range"),
    ] {
        let found = findings(&with(lines));
        assert!(
            found.len() == 1 && found[0].contains(":8:") && found[0].contains(words),
            "{words}: {found:?}"
        );
    }
}

#[test]
fn no_secret_larger_than_a_packet_and_no_endless_file_is_taken() {
    let found = findings(&format!("{MINIMAL}password = \"{}\"\n", "x".repeat(70_000)));
    assert!(
        found[0].contains("link.password: no MQTT packet can carry it"),
        "{found:?}"
    );
    let found = findings(&format!("{MINIMAL}password = \"file:/dev/zero\"\n"));
    assert!(
        found[0].contains("link.password: secret file /dev/zero cannot be read: it is a pipe, a socket or a device"),
        "{found:?}"
    );
}

#[test]
fn a_kept_session_and_named_publishes_are_asked_for_by_key() {
    let settings = parse(Path::new("gateway.toml"), MINIMAL).unwrap();
    assert!(settings.link.clean_start() && settings.link.message_identity.is_none());
    assert_eq!(settings.inbox.limits.rpc_expiry, Duration::from_secs(30));
    assert_eq!(settings.link.check_qos(Qos::ExactlyOnce), Ok(()));
    let text = format!(
        "{MINIMAL}session_expiry_s = 600\nmessage_identity = true\nmqtt_version = \"3.1.1\"\n\
         [downlink]\nrpc_expiry_s = 5\n"
    );
    let settings = parse(Path::new("gateway.toml"), &text).unwrap();
    assert_eq!(settings.link.session_expiry, Duration::from_secs(600));
    assert!(!settings.link.clean_start());
    assert_eq!(settings.inbox.limits.rpc_expiry, Duration::from_secs(5));
    let named = settings.link.message_identity.as_ref();
    assert_eq!(named.map(|named| named.gateway.as_str()), Some("line-7"));
    let [warning] = &settings.warnings[..] else {
        panic!("{:?}", settings.warnings)
    };
    assert!(
        warning
            .to_string()
            .contains("there message_identity does nothing")
    );
    assert_eq!(settings.link.check_qos(Qos::AtLeastOnce), Ok(()));
    let refused = settings.link.check_qos(Qos::ExactlyOnce).unwrap_err();
    assert!(
        refused.to_string().contains("link.session_expiry_s"),
        "{refused}"
    );
}

const CONNECTOR: &str = "[[connector]]\nname = \"a\"\ncomponent = \"a.wasm\"\n";

#[test]
fn the_most_specific_report_strategy_holds() {
    let text = format!(
        "{MINIMAL}[report]\nstrategy = \"on-change-or-period\"\ndeadband = 1\nperiod_ms = 60_000\n\
         {CONNECTOR}[[connector]]\nname = \"b\"\ncomponent = \"b.wasm\"\n\
         [connector.report]\nstrategy = \"on-received\"\n\
         [[connector.report.rule]]\nkey = \"temp*\"\nstrategy = \"on-change\"\ndeadband = 0.5\ndeadband_percent = 2\n\
         [[connector.report.rule]]\ndevice = \"press-1\"\nstrategy = \"on-period\"\nperiod_ms = 1000\n"
    );
    let settings = parse(Path::new("dir/gateway.toml"), &text).unwrap();
    let [a, b] = &settings.connectors[..] else {
        panic!("{settings:?}");
    };
    let deadband = |absolute, percent| Deadband { absolute, percent };
    let minute = Duration::from_secs(60);
    for (connector, device, key, strategy) in [
        (
            a,
            "press-1",
            "temp",
            Strategy::OnChangeOrPeriod(deadband(1.0, 0.0), minute),
        ),
        (b, "press-2", "speed", Strategy::OnReceived),
        (
            b,
            "press-1",
            "speed",
            Strategy::OnPeriod(Duration::from_secs(1)),
        ),
        (b, "press-1", "temp", Strategy::OnChange(deadband(0.5, 2.0))),
    ] {
        assert_eq!(
            connector.report.strategy(device, key),
            strategy,
            "{device} {key}"
        );
    }
    let without = parse(
        Path::new("dir/gateway.toml"),
        &format!("{MINIMAL}{CONNECTOR}"),
    )
    .unwrap();
    assert!(without.connectors[0].report.pass_everything());
}

#[test]
fn a_report_strategy_that_contradicts_itself_is_named_with_its_line() {
    for (lines, words) in [
        (
            "strategy = \"on-chance\"\n",
            "12:12: connector.report.strategy: unknown variant `on-chance`, expected one of `on-received`, `on-change`",
        ),
        (
            "strategy = \"on-period\"\n",
            "12:12: connector.report.strategy: needs period_ms",
        ),
        (
            "strategy = \"on-change\"\nperiod_ms = 1000\n",
            "13:13: connector.report.period_ms: a period goes with \"on-period\"",
        ),
        (
            "strategy = \"on-received\"\ndeadband_percent = 1\n",
            "13:20: connector.report.deadband_percent: a deadband goes with",
        ),
        (
            "deadband = 1\n",
            "12:12: connector.report.deadband: goes with a strategy",
        ),
        (
            "strategy = \"on-change\"\ndeadband = -1\n",
            "13:12: connector.report.deadband: -1 is no deadband",
        ),
        (
            "strategy = \"on-change\"\ndeadband = nan\n",
            "13:12: connector.report.deadband: NaN is no deadband",
        ),
        (
            "strategy = \"on-change\"\ndeadband_percent = 101\n",
            "deadband_percent: 101 is out of range: it must be between 0 and 100",
        ),
        (
            "[[connector.report.rule]]\nstrategy = \"on-change\"\n",
            "13:12: connector.report.rule.strategy: this rule is about every device and key",
        ),
        (
            "[[connector.report.rule]]\nkey = \"\"\nstrategy = \"on-change\"\n",
            "13:7: connector.report.rule.key: no device and no key is called so: it is empty",
        ),
        (
            "[[connector.report.rule]]\nkey = \"k\"\nstrategy = \"on-change\"\n[[connector.report.rule]]\nkey = \"k\"\nstrategy = \"on-received\"\n",
            "16:7: connector.report.rule.key: there is a rule for device \"*\" and key \"k\" already",
        ),
    ] {
        let found = findings(&format!("{MINIMAL}{CONNECTOR}[connector.report]\n{lines}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(words), "{found:?} has not {words:?}");
    }
}
