//! The table in `docs/brokers.md`: asked anew at each run, and held against the file for those brokers whose version is the
//! documented one. `MOORLINE_BLESS=1` writes the file.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use moorline_tests::brokers::{Level, Make, RealBroker};
use moorline_tests::repository;

use super::wire::{RawClient, Said, connect_packet, publish_packet};

/// How long silence is listened to. The slowest broker ends a session of one second's keep-alive after six.
const PATIENCE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_S: u16 = 60;
/// A version that nobody has made yet.
const LEVEL_OF_THE_FUTURE: u8 = 6;
/// Larger than what small brokers take, smaller than what large ones do.
const LARGE_BYTES: u32 = 1024 * 1024;
/// PUBLISH with both bits of QoS set. MQTT 5.0 section 3.3.1.2.
const QOS_3: &[u8] = &[0x36, 5, 0, 1, b't', 0, 1];

/// How a session is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scene {
    /// CONNECT with a version nobody knows.
    FutureVersion,
    /// CONNECT with 5.0 to a broker, or a port, that speaks 3.1.1 only.
    FiveToFour,
    /// Another client with the same id.
    Takeover,
    /// Silence after a CONNECT with a keep-alive of one second.
    KeepAlive,
    /// A second CONNECT.
    SecondConnect,
    /// A PUBLISH with QoS 3.
    Malformed,
    /// A PUBLISH of one mebibyte.
    Large,
    /// SIGTERM to the broker.
    Terminated,
}

impl Scene {
    /// Those that leave the broker alive.
    const ON_A_LIVING_BROKER: [Self; 7] = [
        Self::FutureVersion,
        Self::FiveToFour,
        Self::Takeover,
        Self::KeepAlive,
        Self::SecondConnect,
        Self::Malformed,
        Self::Large,
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::FutureVersion => "CONNECT of version 6",
            Self::FiveToFour => "CONNECT of 5.0 where 3.1.1 is spoken",
            Self::Takeover => "takeover",
            Self::KeepAlive => "keep-alive missed",
            Self::SecondConnect => "second CONNECT",
            Self::Malformed => "PUBLISH with QoS 3",
            Self::Large => "PUBLISH of 1 MiB",
            Self::Terminated => "SIGTERM",
        }
    }
}

/// What a broker said in one scene.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Observed(pub(super) Vec<Said>);

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, said) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{said}")?;
        }
        Ok(())
    }
}

/// One broker's column at one version of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    make: Make,
    version: String,
    level: Level,
    scenes: BTreeMap<Scene, Observed>,
}

/// Plays every scene on one make; none when it is not installed.
pub(super) async fn ask(make: Make) -> Option<Vec<Row>> {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for &level in make.levels() {
        let path = directory.path().join(level.name());
        let broker = RealBroker::start(make, &path).await?;
        let mut scenes = BTreeMap::new();
        for scene in Scene::ON_A_LIVING_BROKER {
            let four_only = level == Level::Four
                && (make == Make::Rumqttd || !make.levels().contains(&Level::Five));
            if scene == Scene::FiveToFour && !four_only {
                continue;
            }
            let said = play_on(&broker, level, scene).await;
            scenes.insert(scene, Observed(said));
        }
        let version = broker.version().to_owned();
        scenes.insert(Scene::Terminated, Observed(end(broker, level).await));
        rows.push(Row {
            make,
            version,
            level,
            scenes,
        });
    }
    Some(rows)
}

/// Plays one scene with clients of its own.
pub(super) async fn play_on(broker: &RealBroker, level: Level, scene: Scene) -> Vec<Said> {
    let address = broker.address(level);
    let client_id = format!("scene-{scene:?}");
    let connected = async |keep_alive_s| {
        let mut client = RawClient::connect(address, level, &client_id, keep_alive_s)
            .await
            .unwrap();
        client.hear_connack().await;
        client
    };
    let refused = async |version: u8| {
        RawClient::open(address, &connect_packet(version, &client_id, KEEP_ALIVE_S))
            .await
            .unwrap()
    };
    let after = async |bytes: &[u8]| {
        let mut client = connected(KEEP_ALIVE_S).await;
        client.send(bytes).await;
        client
    };
    let mut rival = None;
    let mut client = match scene {
        Scene::FutureVersion => refused(LEVEL_OF_THE_FUTURE).await,
        Scene::FiveToFour => refused(Level::Five as u8).await,
        Scene::Takeover => {
            let client = connected(KEEP_ALIVE_S).await;
            rival = Some(connected(KEEP_ALIVE_S).await);
            client
        }
        Scene::KeepAlive => connected(1).await,
        Scene::SecondConnect => after(&connect_packet(level as u8, &client_id, KEEP_ALIVE_S)).await,
        Scene::Malformed => after(QOS_3).await,
        Scene::Large => after(&publish_packet(level, LARGE_BYTES)).await,
        Scene::Terminated => unreachable!("the broker does not survive it"),
    };
    let said = client.hear_all(PATIENCE).await;
    drop(rival);
    said
}

/// What a client hears when a fresh broker of this make gets SIGTERM; none when it is not installed.
pub(super) async fn play_end(make: Make, level: Level) -> Option<Vec<Said>> {
    let directory = tempfile::tempdir().unwrap();
    let broker = RealBroker::start(make, directory.path()).await?;
    Some(end(broker, level).await)
}

async fn end(mut broker: RealBroker, level: Level) -> Vec<Said> {
    let address = broker.address(level);
    let mut client = RawClient::connect(address, level, "scene-end", KEEP_ALIVE_S)
        .await
        .unwrap();
    client.hear_connack().await;
    let hearing = tokio::spawn(async move { client.hear_all(PATIENCE).await });
    broker.terminate().await;
    hearing.await.unwrap()
}

fn document() -> PathBuf {
    repository().join("docs/brokers.md")
}

const INTRODUCTION: &str = "\
# What brokers really send

When a broker ends a session, MQTT 5.0 lets it say why, and 3.1.1 does not. What each really does is asked on the bare wire by
`tests/e2e/brokers.rs`; the same test then puts the gateway on the same broker and requires that its record says what the wire
said. `FIN` is a close without a word, `RST` one with bytes of ours unread (which of the two is a matter of luck), `nothing`
means that the broker did nothing within ten seconds.

";

const REMARKS: &str = "
A takeover that is told only by FIN is told apart from other closes by context (docs/disconnects.md,
`closed-by-server-takeover-or-access`) and marked as inferred.
";

#[expect(
    clippy::print_stdout,
    reason = "what was seen of an undocumented version is the test's report"
)]
/// Compares with the documents what was seen of those brokers whose version is documented, or writes them anew.
pub(super) fn hold_against_documents(rows: &[Row]) {
    if std::env::var_os("MOORLINE_BLESS").is_some() {
        std::fs::write(document(), page(rows)).unwrap();
        return;
    }
    let page = std::fs::read_to_string(document()).unwrap();
    for row in rows {
        let line = row.to_string();
        let title = row.title();
        let documented = page.lines().find(|line| line.starts_with(&title));
        match documented {
            Some(documented) => assert_eq!(closes(documented), closes(&line), "{}", page_hint()),
            // Another version of the broker than the documented one: seen, not judged.
            None => println!("not in docs/brokers.md:\n{line}"),
        }
    }
}

/// Whether a broker had read everything when it closed is not its own doing.
fn closes(line: &str) -> String {
    line.replace("RST", "FIN")
}

fn page_hint() -> &'static str {
    "docs/brokers.md says otherwise; MOORLINE_BLESS=1 writes what is true"
}

fn page(rows: &[Row]) -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut head = "| broker".to_owned();
    let mut rule = "|---".to_owned();
    for scene in all_scenes() {
        // Writing into a string cannot fail.
        write!(head, " | {}", scene.title()).unwrap();
        rule.push_str("|---");
    }
    writeln!(page, "{head} |\n{rule}|").unwrap();
    for row in rows {
        writeln!(page, "{row}").unwrap();
    }
    page.push_str(REMARKS);
    page
}

fn all_scenes() -> impl Iterator<Item = Scene> {
    Scene::ON_A_LIVING_BROKER
        .into_iter()
        .chain([Scene::Terminated])
}

impl Row {
    fn title(&self) -> String {
        format!(
            "| {} {}, {} ",
            self.make.name(),
            self.version,
            self.level.name()
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title())?;
        for scene in all_scenes() {
            match self.scenes.get(&scene) {
                Some(observed) => write!(f, "| {observed} ")?,
                None => f.write_str("| – ")?,
            }
        }
        f.write_str("|")
    }
}
