//! Targets for text that people and programs write: lines of batches, configurations, scenarios.

use crate::{Outcome, root};
use lifeboat_api::lines::{Line, parse_envelope};
use lifeboat_api::name::Name;
use lifeboat_api::transaction::{Kind, Request};
use lifeboat_server::config::{Config, Overrides, TEMPLATE};
use lifeboat_simulate::scenario::Scenario;
use std::fmt::Write;
use std::path::Path;

pub(super) fn envelope(bytes: &[u8]) -> Outcome {
    let user = Name::new("ada").expect("it is a name");
    let parse = |bytes: &[u8]| parse_envelope(Line { number: 1, bytes: Ok(bytes.to_vec()) }, &user);
    let (user, Request { id, body, kind }) = match parse(bytes) {
        Ok(parsed) => parsed,
        Err((_, denied)) => return Outcome::Refused(denied.to_string()),
    };
    let mut again = format!("{{\"user\":\"{user}\",\"query\":{},", kind == Kind::Query);
    if let Some(id) = &id {
        write!(again, "\"id\":{},", serde_json::json!(id)).expect("a text takes more");
    }
    again.truncate(again.len() - 1);
    let mut wrapped = lifeboat_api::lines::wrap(&body);
    wrapped[0] = b',';
    let again = [again.as_bytes(), &wrapped].concat();
    let (same_user, request) = parse(&again).expect("an envelope of it is one");
    let same = (same_user, request.id, request.body, request.kind);
    assert_eq!(same, (user, id, body, kind), "it is the same request");
    Outcome::Accepted(again)
}

pub(super) fn configurations() -> Vec<Vec<u8>> {
    // The second text has all keys, as far as each occurs once.
    let everything =
        TEMPLATE.lines().map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line));
    vec![TEMPLATE.into(), everything.collect::<Vec<_>>().join("\n").into()]
}

pub(super) fn configuration(bytes: &[u8]) -> Outcome {
    let Ok(text) = str::from_utf8(bytes) else { return Outcome::Refused("it is not UTF-8".into()) };
    let parse = |text: &str| Config::parse("lifeboat.toml", text, Path::new("/srv"), &Overrides::default());
    Outcome::of(parse(text).map(|config| {
        let _ = (config.host(), config.settings(None, None, Default::default()));
        let again = toml::to_string(&config).expect("a configuration can be printed");
        assert_eq!(parse(&again).map_err(|error| error.to_string()), Ok(config), "what was printed is read");
        again.into_bytes()
    }))
}

pub(super) fn scenarios() -> Vec<Vec<u8>> {
    ["host/simulate/src/default.toml", "tests/scenarios/spin.toml"]
        .map(|file| std::fs::read(root().join(file)).expect("it is a file of the repository"))
        .into()
}

pub(super) fn scenario(bytes: &[u8]) -> Outcome {
    let Ok(text) = str::from_utf8(bytes) else { return Outcome::Refused("it is not UTF-8".into()) };
    Outcome::of(Scenario::parse("scenario.toml", text, &root().join("tests/scenarios")).map(|scenario| {
        let _ = scenario.transactions();
        bytes.to_vec()
    }))
}
