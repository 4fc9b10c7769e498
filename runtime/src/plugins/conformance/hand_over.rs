//! The rules about what one generation leaves to the next.

use super::bench::Bench;
use super::connector::{PATIENCE, TROUBLE, broken, goes_on, kept, named, skipped, words};
use super::life::{End, Life};
use super::rules::Outcome;
use crate::plugins::bindings::connector::exports::moorline::edge::connector_guest::{
    Event, Fault, HandOver, LinkState,
};

/// What a life that worked for a while hands over.
async fn handed_over(bench: &Bench) -> Result<HandOver, End> {
    let mut life = Life::begin(bench).await?;
    let limit = if bench.can_read() { PATIENCE } else { TROUBLE };
    life.until(limit, |heard, _| heard.has_readings()).await?;
    life.stop().await
}

pub(super) async fn hands_over(bench: &Bench) -> Result<Outcome, End> {
    let hand_over = handed_over(bench).await?;
    let described = bench.loaded.description.hand_over_schema;
    if hand_over.schema != described {
        let schema = hand_over.schema;
        return Ok(broken(format!(
            "stop() hands over schema {schema}, describe() says {described}"
        )));
    }
    let bytes = hand_over.bytes.len();
    let mut life = Life::conceived(bench).await?;
    match life
        .start(&bench.configuration.to_string(), Some(hand_over))
        .await
    {
        Ok(()) => {}
        Err(End::Refused(fault)) => {
            return Ok(broken(format!(
                "its own bytes are answered with {}",
                named(&fault)
            )));
        }
        Err(end @ (End::Failed(..) | End::Restless)) => return Err(end),
    }
    drop(life.tell(Event::LinkChanged(LinkState::Up)).await?);
    Ok(if goes_on(bench, &mut life).await? {
        kept(format!("{bytes} bytes, and the next generation works on"))
    } else {
        broken(format!(
            "started with its own {bytes} bytes it does nothing for {} s",
            PATIENCE.as_secs()
        ))
    })
}

pub(super) async fn bears_foreign_hand_over(bench: &Bench) -> Result<Outcome, End> {
    let own = handed_over(bench).await?;
    let half = own
        .bytes
        .get(..own.bytes.len() / 2)
        .unwrap_or_default()
        .to_vec();
    let flipped: Vec<u8> = own.bytes.iter().map(|byte| byte ^ 0x55).collect();
    let foreign = [
        ("no bytes", Vec::new()),
        ("half of its own", half),
        ("its own, inverted", flipped),
        ("255 times 255", vec![255; 255]),
        (
            "JSON of another plugin",
            b"{\"counter\":[1,2,null]}".to_vec(),
        ),
        ("a list of nothing", b"[[]]".to_vec()),
    ];
    let mut refused = 0;
    for (what, bytes) in &foreign {
        let mut life = Life::conceived(bench).await?;
        let hand_over = HandOver {
            schema: own.schema,
            bytes: bytes.clone(),
        };
        match life
            .start(&bench.configuration.to_string(), Some(hand_over))
            .await
        {
            Ok(()) => {}
            Err(End::Refused(Fault::HandOver(_))) => refused += 1,
            Err(End::Refused(fault)) => {
                return Ok(broken(format!("{what} is answered with {}", named(&fault))));
            }
            Err(end @ (End::Failed(..) | End::Restless)) => {
                return Ok(broken(format!("given {what}: {}", words(&end))));
            }
        }
    }
    Ok(kept(format!(
        "{refused} refused, {} clean starts",
        foreign.len() - refused
    )))
}

pub(super) async fn refuses_other_schema(bench: &Bench) -> Result<Outcome, End> {
    let own = handed_over(bench).await?;
    if own.bytes.is_empty() {
        return Ok(skipped("it hands nothing over"));
    }
    let other = own.schema.wrapping_add(1000);
    let mut life = Life::conceived(bench).await?;
    let hand_over = HandOver {
        schema: other,
        bytes: own.bytes,
    };
    Ok(
        match life
            .start(&bench.configuration.to_string(), Some(hand_over))
            .await
        {
            Err(End::Refused(Fault::HandOver(why))) => kept(why),
            Err(End::Refused(fault)) => {
                broken(format!("schema {other} is answered with {}", named(&fault)))
            }
            Ok(()) => broken(format!("it takes schema {other}, which it cannot know")),
            Err(end @ (End::Failed(..) | End::Restless)) => return Err(end),
        },
    )
}
