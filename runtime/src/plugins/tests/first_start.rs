//! What `moorline check` learns of a connector's configuration, and that it leaves nothing behind.

use serde_json::json;

use super::gateway::Plan;
use super::guests::connector;
use crate::plugins::{DirectoryGrant, Grants, Unstarted, inspect_to_start, unstarted};

async fn of(plan: &Plan) -> Vec<Unstarted> {
    let connector = &plan.settings.connectors[0];
    let inspected = inspect_to_start(&connector.component, &plan.settings.trust).await;
    let loaded = inspected.unwrap().loaded.unwrap();
    let unstarted = unstarted(&loaded, connector).await;
    assert!(!plan.settings.state_directory.exists());
    unstarted
}

fn plan(script: &str) -> Plan {
    Plan::new().connector("line", &connector(script))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_is_refused_is_told_apart_from_a_device_that_is_away() {
    let away = "tcp://127.0.0.1:9";
    for good in ["", "start:resume", "start:refuse-always"] {
        let unstarted = of(&plan(good).connection("a", Some(away))).await;
        assert!(unstarted.is_empty(), "{good}: {unstarted:?}");
    }
    let refused = of(&plan("start:configuration").connection("a", Some(away))).await;
    let refused = refused.first().unwrap();
    assert_eq!(refused.connection, Some(0));
    assert_eq!(
        refused.why,
        "the plugin refuses this configuration: unit is missing"
    );
    assert!(!refused.is_doubtful);
    // Without a connection there is one instance.
    assert_eq!(of(&plan("start:configuration")).await[0].connection, None);

    let second = plan("start:trap-b")
        .connection("a", None)
        .connection("b", None);
    let second = of(&second).await;
    assert_eq!(second.len(), 1, "{second:?}");
    assert_eq!(second[0].connection, Some(1));
    assert!(second[0].why.contains("trapped"), "{second:?}");
    let hung = of(&plan("start:hang")).await;
    assert!(hung[0].why.contains("used up its CPU time"), "{hung:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_it_may_write_is_not_touched_and_makes_a_refusal_doubtful() {
    let mut plan = plan("start:configuration").connection("a", None);
    let host = plan.directory.path().join("kept");
    std::fs::create_dir(&host).unwrap();
    let connector = &mut plan.settings.connectors[0];
    connector.configuration = json!({"directory": "/data"});
    connector.grants = Grants {
        writable_directories: vec![DirectoryGrant {
            guest: "/data".to_owned(),
            host: host.clone(),
        }],
        ..Grants::default()
    };
    let refused = of(&plan).await;
    assert!(refused[0].is_doubtful, "{refused:?}");
    assert_eq!(std::fs::read_dir(&host).unwrap().count(), 0);
}
