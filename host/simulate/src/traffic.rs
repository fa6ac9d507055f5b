//! The seeded requests of the users: their order, their users and their bodies.

use crate::scenario::{
    ArchiveTraffic, Bodies, Choice, CounterTraffic, CourierTraffic, CrunchTraffic, Generator, LedgerTraffic,
    NotesTraffic, Scenario, TrafficPlan,
};
use crate::webhook::{CLOSED_PATH, CUT_PATH, WEBHOOK};
use bytes::Bytes;
use lifeboat_api::meter::Percent;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::VecDeque;

/// The number of latest requests of its traffic among which a repetition chooses.
const REPEATED_AMONG: usize = 32;

/// The independent streams that are drawn from one seed, so that a change of one does not affect the others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    Secrets = 1,
    Tokens = 2,
    Traffic = 3,
    Clock = 4,
}

/// Returns the random numbers of a seed for one purpose.
pub(super) fn random(seed: u64, stream: Stream) -> ChaCha20Rng {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    random.set_stream(stream as u64);
    random
}

/// Draws 256 random bits.
pub(super) fn bits(random: &mut ChaCha20Rng) -> [u8; 32] {
    let mut bits = [0; 32];
    random.fill_bytes(&mut bits);
    bits
}

/// One request of a user.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    /// The index of its service.
    pub(super) service: usize,
    /// The index of its user.
    pub(super) user: usize,
    pub(super) id: String,
    pub(super) body: Bytes,
}

/// All requests of a scenario, in an order that mixes its traffic evenly.
pub(super) struct Traffic<'a> {
    random: ChaCha20Rng,
    sources: Vec<Source<'a>>,
    /// The next request, if it is already chosen: a repetition.
    repeated: Option<Outgoing>,
}

struct Source<'a> {
    plan: &'a TrafficPlan,
    sent: u64,
    last: VecDeque<Outgoing>,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let sources = scenario.traffic.iter().map(|plan| Source { plan, sent: 0, last: VecDeque::new() }).collect();
        Self { random: random(seed, Stream::Traffic), sources, repeated: None }
    }
}

impl Iterator for Traffic<'_> {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        if let Some(repeated) = self.repeated.take() {
            return Some(repeated);
        }
        let Self { random, sources, repeated } = self;
        let left = sources.iter().map(|source| source.plan.count - source.sent);
        let index = by_weight(random, left)?;
        let source = &mut sources[index];
        let TrafficPlan { service, users, repeat, bodies, .. } = source.plan;
        let body = body(random, bodies, source.sent, source.plan.count);
        let user = users[random.random_range(0..users.len())];
        let id = format!("{:016x}", random.next_u64());
        let outgoing = Outgoing { service: *service, user, id, body: body.into() };
        source.sent += 1;
        if source.last.len() == REPEATED_AMONG {
            source.last.pop_front();
        }
        source.last.push_back(outgoing.clone());
        if repeat.is_some_and(|share| hits(random, share)) {
            *repeated = Some(source.last[random.random_range(0..source.last.len())].clone());
        }
        Some(outgoing)
    }
}

/// Draws an event with this probability.
fn hits(random: &mut ChaCha20Rng, share: Percent) -> bool {
    const SCALE: u64 = 1_000_000;
    random.random_range(0..SCALE) < share.of(SCALE)
}

/// Draws an index with a probability proportional to its weight. Returns `None` if all weights are zero.
fn by_weight(random: &mut ChaCha20Rng, weights: impl Iterator<Item = u64> + Clone) -> Option<usize> {
    let sum: u64 = weights.clone().sum();
    if sum == 0 {
        return None;
    }
    let mut left = random.random_range(0..sum);
    for (index, weight) in weights.enumerate() {
        if left < weight {
            return Some(index);
        }
        left -= weight;
    }
    None
}

/// Returns the body of the transaction that follows the first `sent` of `count`.
fn body(random: &mut ChaCha20Rng, bodies: &Bodies, sent: u64, count: u64) -> String {
    match bodies {
        Bodies::Generated(generator) => generated(random, generator, sent, count),
        Bodies::Cycled(bodies) => {
            let index = usize::try_from(sent % bodies.len() as u64).expect("it is below a length");
            bodies[index].clone()
        }
        Bodies::Chosen(choices) => {
            let weights = choices.iter().map(|Choice { weight, .. }| u64::from(*weight));
            let index = by_weight(random, weights).expect("a scenario's choices have a weight");
            choices[index].body.clone()
        }
    }
}

fn generated(random: &mut ChaCha20Rng, generator: &Generator, sent: u64, count: u64) -> String {
    match generator {
        Generator::Counter(CounterTraffic { up_to }) => format!(r#"{{"add":{}}}"#, random.random_range(1..=*up_to)),
        Generator::Ledger(traffic) => ledger(random, traffic, sent, count),
        Generator::Notes(traffic) => notes(random, traffic, sent, count),
        Generator::Archive(traffic) => archive(random, traffic, sent, count),
        Generator::Crunch(traffic) => crunch(random, traffic),
        Generator::Courier(traffic) => courier(random, traffic),
    }
}

fn drawn(random: &mut ChaCha20Rng, weights: [u32; 3]) -> usize {
    by_weight(random, weights.into_iter().map(u64::from)).expect("a generator's weights are not all 0")
}

/// Returns the current number of accounts, notes or documents. It grows with the traffic, so that most of those that
/// are named have been opened, and the state grows.
fn grown(most: u32, sent: u64, count: u64) -> u64 {
    (u64::from(most) * (sent + 1)).div_ceil(count)
}

fn ledger(random: &mut ChaCha20Rng, traffic: &LedgerTraffic, sent: u64, count: u64) -> String {
    let accounts = grown(traffic.accounts, sent, count);
    let kind = drawn(random, [traffic.deposit, traffic.withdraw, traffic.transfer]);
    let amount = random.random_range(1..=traffic.amount_up_to);
    let mut account = || format!("account-{:06}", random.random_range(1..=accounts));
    match kind {
        0 => format!(r#"{{"deposit":{{"account":"{}","amount":{amount}}}}}"#, account()),
        1 => format!(r#"{{"withdraw":{{"account":"{}","amount":{amount}}}}}"#, account()),
        _ => format!(r#"{{"transfer":{{"from":"{}","to":"{}","amount":{amount}}}}}"#, account(), account()),
    }
}

/// The words of generated texts.
const WORDS: [&str; 12] =
    ["the ", "lifeboat ", "state ", "and ", "carries ", "every ", "note ", "over ", "no ", "holes ", "are ", "left "];

fn notes(random: &mut ChaCha20Rng, traffic: &NotesTraffic, sent: u64, count: u64) -> String {
    let NotesTraffic { notes, text_bytes, put, append, delete } = *traffic;
    let removal = |name: &str| format!(r#"{{"delete":{{"name":"{name}"}}}}"#);
    edit(random, "note", grown(notes, sent, count), text_bytes, [put, append, delete], removal)
}

fn archive(random: &mut ChaCha20Rng, traffic: &ArchiveTraffic, sent: u64, count: u64) -> String {
    let ArchiveTraffic { documents, text_bytes, put, append, delete } = *traffic;
    let removal = |name: &str| format!(r#"{{"delete":"{name}"}}"#);
    edit(random, "document", grown(documents, sent, count), text_bytes, [put, append, delete], removal)
}

/// Returns a write, an addition or a removal, by weight, of one of `names` texts of a kind.
fn edit(
    random: &mut ChaCha20Rng,
    kind: &str,
    names: u64,
    text_bytes: u32,
    weights: [u32; 3],
    removal: impl FnOnce(&str) -> String,
) -> String {
    let edit = drawn(random, weights);
    let name = format!("{kind}-{:06}", random.random_range(1..=names));
    if edit == 2 {
        return removal(&name);
    }
    let text = text(random, text_bytes);
    let verb = if edit == 0 { "put" } else { "append" };
    format!(r#"{{"{verb}":{{"name":"{name}","text":"{text}"}}}}"#)
}

/// Returns a text of words with a random length of at most `bytes_max`.
fn text(random: &mut ChaCha20Rng, bytes_max: u32) -> String {
    let bytes = usize::try_from(random.random_range(1..=bytes_max)).expect("a text fits into memory");
    let mut text = String::with_capacity(bytes + WORDS[1].len());
    while text.len() < bytes {
        text.push_str(WORDS[random.random_range(0..WORDS.len())]);
    }
    // The words are ASCII, so any position is a character boundary.
    text.truncate(bytes);
    text
}

fn crunch(random: &mut ChaCha20Rng, traffic: &CrunchTraffic) -> String {
    match drawn(random, [traffic.primes, traffic.sha256, traffic.json]) {
        0 => format!(r#"{{"primes":{{"below":{}}}}}"#, random.random_range(1..=traffic.primes_below)),
        1 => format!(r#"{{"sha256":{{"bytes":{}}}}}"#, random.random_range(1..=traffic.sha256_bytes)),
        _ => format!(r#"{{"json":{{"records":{}}}}}"#, random.random_range(1..=traffic.json_records)),
    }
}

fn courier(random: &mut ChaCha20Rng, traffic: &CourierTraffic) -> String {
    let CourierTraffic { text_bytes, parcels, post, post_all, refused } = *traffic;
    let parcel = |random: &mut ChaCha20Rng, path: &str| {
        format!(r#"{{"to":"{WEBHOOK}{path}","parcel":"{}"}}"#, text(random, text_bytes))
    };
    match drawn(random, [post, post_all, refused]) {
        0 => format!(r#"{{"post":{}}}"#, parcel(random, "/in")),
        1 => {
            let count = random.random_range(1..=parcels);
            let parcels: Vec<String> = (0..count).map(|_| parcel(random, "/in")).collect();
            format!(r#"{{"post_all":[{}]}}"#, parcels.join(","))
        }
        _ => {
            let path = [CLOSED_PATH, CUT_PATH][random.random_range(0..2)];
            format!(r#"{{"post":{}}}"#, parcel(random, path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64) -> Vec<(usize, usize, String, Bytes)> {
        let scenario = Scenario::built_in();
        Traffic::new(&scenario, seed).map(|Outgoing { service, user, id, body }| (service, user, id, body)).collect()
    }

    #[test]
    fn traffic_follows_from_its_seed() {
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }

    #[test]
    fn every_transaction_of_the_scenario_is_sent() {
        let scenario = Scenario::built_in();
        let sent = all(7);
        let ids: std::collections::HashSet<_> = sent.iter().map(|(_, _, id, _)| id).collect();
        assert_eq!(ids.len() as u64, scenario.transactions());
        for service in 0..scenario.services.len() {
            assert!(sent.iter().any(|outgoing| outgoing.0 == service));
        }
    }

    #[test]
    fn some_transactions_of_the_scenario_are_repeated() {
        assert!(all(7).len() as u64 > Scenario::built_in().transactions());
    }

    #[test]
    fn a_choice_is_drawn_as_often_as_its_weight_says() {
        let mut random = random(1, Stream::Traffic);
        let mut counts = [0; 3];
        for _ in 0..4_000 {
            counts[by_weight(&mut random, [1, 0, 3].into_iter()).expect("there is a weight")] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((2_800..3_200).contains(&counts[2]), "{counts:?}");
    }
}
