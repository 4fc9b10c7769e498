//! `moorline doctor` as a new user meets it: Mosquitto misconfigured in each way that is known to cost an afternoon, and the
//! doctor names it, its remedy and the line of the configuration.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use moorline::demo::broker::{Broker, BrokerKind};
use moorline_core::mqtt_frame::{FrameScanner, PacketKind, body};
use moorline_tests::rig::Rig;
use moorline_tests::subscriber::Subscriber;
use moorline_tests::{binary, eventually, mosquitto};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

const FITS: i32 = 0;
const MISFIT: i32 = 69;
/// No examination takes longer, whoever is examined.
const BOUND: Duration = Duration::from_secs(90);
/// Where [`Clinic::write`] puts these keys.
const URL_LINE: u64 = 6;
const USERNAME_LINE: u64 = 7;
const LINK_LINE: u64 = 5;

/// A broker and a place for files.
struct Clinic {
    broker: Broker,
    directory: TempDir,
}

impl Clinic {
    async fn open(kind: BrokerKind, lines: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lines = lines(directory.path());
        let broker = Broker::start_with(kind, &directory.path().join("broker"), &lines)
            .await
            .unwrap();
        Self { broker, directory }
    }

    fn write(&self, scheme: &str, lines: &str) -> PathBuf {
        write(self.directory.path(), scheme, self.broker.address(), lines)
    }

    /// Examines the broker as this configuration wants it.
    fn examine(&self, scheme: &str, lines: &str) -> Report {
        examine(&self.write(scheme, lines), &[])
    }
}

fn write(directory: &Path, scheme: &str, broker: SocketAddr, lines: &str) -> PathBuf {
    let file = directory.join("gateway.toml");
    let text = format!(
        "[gateway]\nname = \"clinic\"\nstate_dir = \"state\"\n\n[link]\nurl = \"{scheme}://{broker}\"\nusername = \
         \"line-7\"\nconnect_timeout_ms = 2000\ntls_timeout_ms = 2000\nconnack_timeout_ms = 2000\n{lines}\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// What the doctor said, both ways.
struct Report {
    code: i32,
    page: Value,
    text: String,
}

fn doctor(config: &Path, arguments: &[&str]) -> Output {
    let begun = Instant::now();
    let output = Command::new(binary())
        .arg("doctor")
        .arg("--config")
        .arg(config)
        .args(arguments)
        .output()
        .unwrap();
    assert!(begun.elapsed() < BOUND, "it took {:?}", begun.elapsed());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    output
}

/// Both as JSON and as text: what one names, the other must name.
fn examine(config: &Path, arguments: &[&str]) -> Report {
    let output = doctor(config, &[&["--json"], arguments].concat());
    let page = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {} {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let text = doctor(config, arguments);
    assert_eq!(output.status.code(), text.status.code());
    Report {
        code: output.status.code().unwrap(),
        page,
        text: String::from_utf8(text.stdout).unwrap(),
    }
}

impl Report {
    fn finding(&self, probe: &str) -> &Value {
        let findings = self.page["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["probe"] == probe);
        found.unwrap_or_else(|| panic!("{probe} is not in {:#}", self.page))
    }

    #[track_caller]
    fn assert(&self, probe: &str, verdict: &str, said: &str) -> &Value {
        let finding = self.finding(probe);
        assert_eq!(finding["verdict"], verdict, "{:#}", self.page);
        let seen = finding["seen"].as_str().unwrap();
        assert!(seen.contains(said), "{said:?} is not in {seen:?}");
        finding
    }

    /// The finding, its remedy and the line, in both outputs. `order`: what the text says behind `gateway.toml:LINE: `.
    #[track_caller]
    fn assert_remedy(&self, (probe, verdict, said): (&str, &str, &str), line: u64, order: &str) {
        let finding = self.assert(probe, verdict, said);
        assert_eq!(finding["remedy"]["line"], line, "{finding:#}");
        assert!(!finding["remedy"]["what"].as_str().unwrap().is_empty());
        let order = format!("gateway.toml:{line}: {order}");
        assert!(
            self.text.contains(&order),
            "{order:?} is not in\n{}",
            self.text
        );
    }

    /// Nothing else is wrong; what is not tried names why.
    #[track_caller]
    fn assert_rest_fits(&self, but: &[&str]) {
        for finding in self.page["findings"].as_array().unwrap() {
            let probe = finding["probe"].as_str().unwrap();
            let fits = finding["verdict"] == "fits" || finding["verdict"] == "not-tried";
            // A broker for tests asks nobody for a password.
            assert!(
                fits || but.contains(&probe) || probe == "strangers",
                "{finding:#}"
            );
        }
    }
}

#[tokio::test]
async fn a_broker_that_fits_is_said_to_and_nothing_is_left_behind() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind, |_| String::new()).await;
    let report = clinic.examine("mqtt", "");
    assert_eq!(report.code, FITS, "{}", report.text);
    report.assert_rest_fits(&[]);
    report.assert("strangers", "warns", "wrong credentials");
    report.assert("protocol", "fits", "MQTT without TLS");
    report.assert("qos", "fits", "QoS 2 in");
    report.assert("retained", "fits", "cleared again");
    report.assert("packet-size", "fits", "65536 bytes");
    report.assert("in-flight", "fits", "100 publishes at once");
    report.assert("session-resume", "fits", "with what was sent meanwhile");
    report.assert("silent-client", "fits", "closed after");
    report.assert("shared", "fits", "work");
    report.assert("clock", "not-tried", "tells the time");
    assert_eq!(report.page["findings"].as_array().unwrap().len(), 22);
    assert!(
        report.text.contains("the gateway works with this broker"),
        "{}",
        report.text
    );
    assert!(!report.text.contains('\x1b'), "{}", report.text);

    // Warnings are its own affair, unless somebody wants to know.
    let config = clinic.write("mqtt", "");
    assert_eq!(doctor(&config, &["--strict"]).status.code(), Some(MISFIT));

    let platform = Subscriber::start(clinic.broker.address(), "moorline/doctor/#").await;
    let end = serde_json::json!({});
    platform.publish("moorline/doctor/end", &end).await;
    let first = platform.first("the end", BOUND, |_any| true).await;
    assert_eq!(first.topic, "moorline/doctor/end", "something was retained");
}

// The proxy goes on while the test waits for the doctor.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_gateway_does_not_notice() {
    let Some(kind) = mosquitto() else { return };
    let rig = Rig::start(kind).await;
    let mut running = rig.gateway(&rig.configuration());
    running
        .wait("the link is up", BOUND, |now| now.now.link.state == "up")
        .await;
    let report = examine(&rig.path("gateway.toml"), &[]);
    assert_eq!(report.code, FITS, "{}", report.text);
    let history = running
        .wait("the link is up", BOUND, |now| now.now.link.state == "up")
        .await;
    assert_eq!(history.disconnects().len(), 0, "{history:?}");

    // As the gateway it takes the session over, says so before, and the link comes back.
    let output = doctor(&rig.path("gateway.toml"), &["--as-gateway", "--json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is thrown off the broker"));
    running
        .wait("the link was thrown off", BOUND, |now| {
            now.disconnects().len() > 0
        })
        .await;
}

#[tokio::test]
async fn misconfigured_1_the_listener_speaks_something_else() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind.clone(), |directory| {
        // Mosquitto 2.0.11 does not start with WebSockets alone.
        let socket = directory.join("plain.sock");
        format!("protocol websockets\nlistener 0 {}", socket.display())
    })
    .await;
    let report = clinic.examine("mqtt", "");
    assert_eq!(report.code, MISFIT);
    report.assert_remedy(("protocol", "fails", "WebSocket"), URL_LINE, "link.url");
    report.assert("mqtt-5.0", "not-tried", "because protocol does not hold");
    report.assert_rest_fits(&["protocol"]);
    let report = clinic.examine("ws", "");
    assert_eq!(report.code, FITS, "{}", report.text);
    report.assert("protocol", "fits", "MQTT over WebSocket without TLS");

    let tls = Clinic::open(kind.clone(), |directory| {
        certificates(directory, 2020..2090)
    })
    .await;
    let report = tls.examine("mqtt", "");
    assert_eq!(report.code, MISFIT);
    let order = format!("change to url = \"mqtts://{}\"", tls.broker.address());
    report.assert_remedy(("protocol", "fails", "expects TLS"), URL_LINE, &order);

    let plain = Clinic::open(kind, |_| String::new()).await;
    let ca_file = plain.directory.path().to_owned();
    certificates(&ca_file, 2020..2090);
    let report = plain.examine("mqtts", "[link.tls]\nca_file = \"ca.pem\"");
    assert_eq!(report.code, MISFIT);
    let order = format!("change to url = \"mqtt://{}\"", plain.broker.address());
    let said = ("protocol", "fails", "speaks MQTT without TLS");
    report.assert_remedy(said, URL_LINE, &order);
}

#[tokio::test]
async fn misconfigured_2_a_rule_forbids_the_gateways_topic() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind, |directory| {
        let rules = "user line-7\ntopic readwrite moorline/doctor/#\ntopic readwrite v1/gateway/rpc\n\
                     topic readwrite v1/gateway/attributes\ntopic write v1/devices/me/telemetry\n\
                     topic write v1/devices/me/attributes\n";
        let file = directory.join("acl");
        std::fs::write(&file, rules).unwrap();
        format!("acl_file {}", file.display())
    })
    .await;
    for version in ["auto", "3.1.1"] {
        // 5.0 says it; where the link speaks 3.1.1 the doctor asks in 5.0 nevertheless.
        let report = clinic.examine("mqtt", &format!("mqtt_version = \"{version}\""));
        assert_eq!(report.code, MISFIT);
        let said = (
            "gateway-topics",
            "fails",
            "publishing on v1/gateway/telemetry is refused with 0x87",
        );
        report.assert_remedy(said, USERNAME_LINE, "link.username");
        assert!(
            report.text.contains("`topic write v1/gateway/telemetry`"),
            "{}",
            report.text
        );
        report.assert_rest_fits(&["gateway-topics"]);
    }
}

#[tokio::test]
async fn misconfigured_3_packets_may_not_be_large() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind.clone(), |_| "max_packet_size 2000".into()).await;
    let report = clinic.examine("mqtt", "");
    assert_eq!(report.code, FITS, "the link packs less: {}", report.text);
    let said = ("packet-size", "warns", "takes up to 2000 bytes");
    report.assert_remedy(said, LINK_LINE, "packet_bytes_max = 2000 goes under [link]");

    let report = clinic.examine("mqtt", "mqtt_version = \"3.1.1\"\npacket_bytes_max = 8192");
    assert_eq!(report.code, MISFIT);
    let said = ("packet-size", "fails", "does not announce that");
    let found = report.assert(said.0, said.1, said.2);
    let bytes: u64 = found["remedy"]["value"].as_str().unwrap().parse().unwrap();
    assert!((1900..=2000).contains(&bytes), "{found:#}");
    report.assert_remedy(said, 12, &format!("change to packet_bytes_max = {bytes}"));
    report.assert_rest_fits(&["packet-size"]);

    // Not announced in 5.0 either: only trying tells.
    let clinic = Clinic::open(kind, |_| "message_size_limit 3000".into()).await;
    let report = clinic.examine("mqtt", "");
    assert_eq!(report.code, MISFIT);
    let found = report.assert("packet-size", "fails", "is refused with 0x95");
    let bytes: u64 = found["remedy"]["value"].as_str().unwrap().parse().unwrap();
    assert!((2900..=3100).contains(&bytes), "{found:#}");
}

#[tokio::test]
async fn misconfigured_4_few_publishes_may_be_in_flight() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind, |_| "max_inflight_messages 5".into()).await;
    let report = clinic.examine("mqtt", "inflight_max = 50");
    assert_eq!(report.code, FITS, "the link goes by it: {}", report.text);
    let said = ("in-flight", "warns", "lets up to 5 publishes wait");
    report.assert_remedy(said, 11, "change to inflight_max = 5");
    report.assert_rest_fits(&["in-flight"]);
}

#[tokio::test]
async fn misconfigured_5_the_keep_alive_has_a_limit() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind, |_| "max_keepalive 12".into()).await;
    let report = clinic.examine("mqtt", "keep_alive_s = 60");
    assert_eq!(report.code, FITS, "the link goes by it: {}", report.text);
    let said = ("keep-alive", "warns", "sets 12 s instead of the 60 s");
    report.assert_remedy(said, 11, "change to keep_alive_s = 12");
    report.assert_rest_fits(&["keep-alive"]);
}

/// A broker of 3.1.1 that takes a keep-alive of 12 s at most, acknowledges everything and delivers nothing.
fn strict_about_keep_alive() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve_strictly(stream));
        }
    });
    address
}

fn serve_strictly(mut stream: std::net::TcpStream) {
    let mut scanner = FrameScanner::default();
    let (mut pending, mut frame, mut buffer) = (Vec::new(), Vec::new(), [0; 4096]);
    while let Ok(count) = stream.read(&mut buffer)
        && count > 0
    {
        pending.extend_from_slice(&buffer[..count]);
        while let Some(Ok(piece)) = scanner.next_piece(&pending) {
            frame.extend(pending.drain(..piece.len));
            if !piece.ends {
                continue;
            }
            let whole = std::mem::take(&mut frame);
            let content = body(&whole);
            let answer = if piece.kind == PacketKind::Connect {
                let code = match (content[6], &content[8..10]) {
                    (4, keep_alive) if keep_alive > &[0, 12][..] => 2,
                    (4, _) => 0,
                    (_other_version, _) => 1,
                };
                vec![0x20, 2, 0, code]
            } else if piece.kind == PacketKind::Subscribe {
                vec![0x90, 3, content[0], content[1], 1]
            } else if piece.kind == PacketKind::Publish {
                let id = 2 + usize::from(u16::from_be_bytes([content[0], content[1]]));
                vec![0x40, 2, content[id], content[id + 1]]
            } else {
                return;
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

/// 3.1.1 has no code for a keep-alive that is too long: such a broker says that the client id is wrong, and it is not.
#[test]
fn misconfigured_5_a_keep_alive_refused_without_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let config = write(directory.path(), "mqtt", strict_about_keep_alive(), "");
    let report = examine(&config, &[]);
    assert_eq!(report.code, MISFIT);
    let said = ("keep-alive", "fails", "takes 12 s");
    report.assert_remedy(said, LINK_LINE, "keep_alive_s = 12 goes under [link]");
    report.assert("credentials", "fits", "");
    let said = ("mqtt-5.0", "warns", "falls back to 3.1.1");
    let order = "mqtt_version = \"3.1.1\" goes under [link]";
    report.assert_remedy(said, LINK_LINE, order);
    // Nor has it one for a topic that is forbidden.
    report.assert("gateway-topics", "warns", "does not come back");
    report.assert("scratch-topic", "not-tried", "does not come back");
}

#[tokio::test]
async fn misconfigured_6_the_certificate_has_expired() {
    let Some(kind) = mosquitto() else { return };
    const TLS: &str = "[link.tls]\nca_file = \"ca.pem\"";
    let clinic = Clinic::open(kind.clone(), |directory| {
        certificates(directory, 2010..2011)
    })
    .await;
    let report = clinic.examine("mqtts", TLS);
    assert_eq!(report.code, MISFIT);
    let said = ("tls", "fails", "expired on 2011-01-01");
    report.assert_remedy(said, URL_LINE, "link.url");
    report.assert("credentials", "not-tried", "because tls does not hold");
    let evidence = &report.finding("tls")["evidence"]["certificate"][0];
    assert!(
        evidence
            .as_str()
            .unwrap()
            .contains("issued by \"clinic authority\""),
        "{evidence}"
    );

    // And one that holds, its authority unknown at first.
    let clinic = Clinic::open(kind, |directory| certificates(directory, 2020..2090)).await;
    let report = clinic.examine("mqtts", TLS);
    assert_eq!(report.code, FITS, "{}", report.text);
    report.assert(
        "tls",
        "fits",
        "trusted by \"clinic authority\" of link.tls.ca_file",
    );
    report.assert("clock", "fits", "within the certificate's dates");
    report.assert_rest_fits(&[]);
    std::fs::rename(
        clinic.directory.path().join("stranger.pem"),
        clinic.directory.path().join("ca.pem"),
    )
    .unwrap();
    let report = clinic.examine("mqtts", TLS);
    let said = ("tls", "fails", "is not in link.tls.ca_file");
    report.assert_remedy(said, 12, "link.tls.ca_file");
}

#[tokio::test]
async fn refused_credentials_and_a_url_without_a_file() {
    let Some(kind) = mosquitto() else { return };
    let clinic = Clinic::open(kind, |directory| {
        let file = directory.join("passwords");
        std::fs::write(&file, "line-7:sesame\n").unwrap();
        let hashed = Command::new("mosquitto_passwd")
            .arg("-U")
            .arg(&file)
            .status();
        assert!(hashed.unwrap().success());
        format!("allow_anonymous false\npassword_file {}", file.display())
    })
    .await;
    let report = clinic.examine("mqtt", "password = \"wrong\"");
    assert_eq!(report.code, MISFIT);
    let said = ("credentials", "fails", "does not authorize this client");
    report.assert_remedy(said, USERNAME_LINE, "link.username");
    report.assert("mqtt-5.0", "fits", "spoken, though");
    report.assert("qos", "not-tried", "because credentials does not hold");

    let report = clinic.examine("mqtt", "password = \"sesame\"");
    assert_eq!(report.code, FITS, "{}", report.text);
    report.assert("strangers", "fits", "refused");

    let url = format!("mqtt://{}", clinic.broker.address());
    let secret = clinic.directory.path().join("secret");
    std::fs::write(&secret, "sesame\n").unwrap();
    let file = format!("file:{}", secret.display());
    for (password, warned) in [("sesame", true), (file.as_str(), false)] {
        let output = Command::new(binary())
            .args([
                "doctor",
                &url,
                "--username",
                "line-7",
                "--password",
                password,
            ])
            .output()
            .unwrap();
        let (said, told) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert_eq!(output.status.code(), Some(FITS), "{said}{told}");
        assert_eq!(told.contains("can be read by every user"), warned, "{told}");
        assert!(!said.contains("sesame") && !told.contains("sesame"));
    }
}

/// Somebody who is no broker: for each connection he sends this, reads until the other end goes or the wait is over, and
/// closes.
fn peer(answer: &'static [u8], wait: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(wait)).unwrap_or_default();
                let mut buffer = [0; 4096];
                let heard = stream.read(&mut buffer);
                if heard.is_ok_and(|count| count > 0) && stream.write_all(answer).is_ok() {
                    // The end of the connection or of the wait; either way it is over.
                    stream.read(&mut buffer).map(drop).unwrap_or_default();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn whoever_is_no_broker_is_named_in_bounded_time() {
    let patience = Duration::from_secs(60);
    let at_once = Duration::from_millis(100);
    let table: [(&'static [u8], Duration, &str); 7] = [
        (b"", patience, "never answers"),
        (b"", at_once, "without a word"),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            patience,
            "answers with \"SSH-2.0-OpenSSH_9.2",
        ),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            patience,
            "HTTP (\"HTTP/1.1 400 Bad Request\")",
        ),
        (
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            patience,
            "no MQTT listener",
        ),
        (b"\x15\x03\x03\x00\x02\x02\x28", patience, "expects TLS"),
        // A CONNACK that promises more than it holds, and then nothing: the next steps must not wait for ever.
        (b"\x20\x7f\x00\x00\x00", patience, ""),
    ];
    let mut examinations = Vec::new();
    for (answer, wait, said) in table {
        let directory = tempfile::tempdir().unwrap();
        let config = write(directory.path(), "mqtt", peer(answer, wait), "");
        examinations.push(std::thread::spawn(move || {
            let report = examine(&config, &[]);
            assert_eq!(report.code, MISFIT, "{said:?}: {}", report.text);
            if said.is_empty() {
                report.assert("mqtt-5.0", "fails", "");
            } else {
                let line = URL_LINE;
                assert_eq!(
                    report.assert("protocol", "fails", said)["remedy"]["line"],
                    line
                );
            }
            drop(directory);
        }));
    }
    eventually("all examinations end", BOUND * 2, || {
        examinations
            .iter()
            .all(|one| one.is_finished())
            .then_some(())
    })
    .await;
    for examination in examinations {
        examination.join().unwrap();
    }
}

#[test]
fn nobody_listens_and_no_name_resolves() {
    let directory = tempfile::tempdir().unwrap();
    let vacant = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let report = examine(&write(directory.path(), "mqtt", vacant, ""), &[]);
    assert_eq!(report.code, MISFIT);
    let said = ("connection", "fails", "nobody listens");
    report.assert_remedy(said, URL_LINE, "link.url");

    let config = write(directory.path(), "mqtt", vacant, "dns_timeout_ms = 2000");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace(&vacant.to_string(), "no-such-broker.invalid"),
    )
    .unwrap();
    let report = examine(&config, &[]);
    assert_eq!(report.code, MISFIT);
    report.assert_remedy(("name", "fails", "does not resolve"), URL_LINE, "link.url");
    report.assert("clock", "not-tried", "because connection does not hold");
}

/// A listener that is there and whose connections the kernel does not take: SYNs vanish.
#[test]
fn a_black_hole_is_named_within_its_deadline() {
    // A documentation network (RFC 5737): no route, or a route on which nobody answers. Both are findings of the way.
    let directory = tempfile::tempdir().unwrap();
    let config = write(directory.path(), "mqtt", ([192, 0, 2, 1], 1883).into(), "");
    let begun = Instant::now();
    let report = examine(&config, &[]);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(report.code, MISFIT);
    let finding = report.finding("connection");
    let cause = finding["evidence"]["cause"][0].as_str().unwrap();
    assert!(
        ["connect-timeout", "unreachable", "connect-refused"].contains(&cause),
        "{finding:#}"
    );
    assert_eq!(finding["remedy"]["line"], URL_LINE);
}

/// Lines for Mosquitto with a certificate for 127.0.0.1 that is valid in these years; `ca.pem` is its authority.
fn certificates(directory: &Path, years: std::ops::Range<i32>) -> String {
    let authority = |name: &str| {
        let mut parameters = CertificateParams::default();
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, stranger) = (authority("clinic authority"), authority("stranger"));
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(years.start, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(years.end, 1, 1);
    let certificate = parameters.signed_by(&key, &ours).unwrap();
    let file = |name: &str, content: String| {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    file("ca.pem", ours.pem());
    file("stranger.pem", stranger.pem());
    let certificate = file("broker.pem", certificate.pem());
    let key = file("broker.key", key.serialize_pem());
    format!(
        "certfile {}\nkeyfile {}",
        certificate.display(),
        key.display()
    )
}
