//! The traffic of the ledger: opening accounts, and transfers between two of them, with ids from the client.
//!
//! The ids are UUIDs of version 7. A service denies a user who sends more than a million other ids in a minute.

use crate::served::anonymous;
use lifeboat_api::clock::{Clock, SystemClock};
use lifeboat_api::transaction::{Kind, Request};
use lifeboat_client::uuid_v7;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const SEED: u64 = 7;

/// A client of a ledger.
pub(crate) struct Client {
    accounts: u32,
    name_bytes: usize,
    random: ChaCha20Rng,
}

impl Client {
    /// Creates a client of a ledger with `accounts` accounts, whose names are `name_bytes` long.
    pub(crate) fn new(accounts: u32, name_bytes: usize) -> Self {
        Self { accounts, name_bytes, random: ChaCha20Rng::seed_from_u64(SEED) }
    }

    /// Opens every account with an amount that is large enough, and that takes two bytes of a snapshot.
    pub(crate) fn deposits(&self) -> impl Iterator<Item = Request> + use<> {
        let name_bytes = self.name_bytes;
        (0..self.accounts).map(move |account| {
            anonymous(format!(r#"{{"deposit":{{"account":"{}","amount":8000}}}}"#, name(account, name_bytes)))
        })
    }

    /// Returns an endless sequence of transfers of one unit each.
    pub(crate) fn transfers(&mut self) -> impl Iterator<Item = Request> {
        std::iter::repeat_with(|| {
            let from = self.random.random_range(0..self.accounts);
            let to = (from + self.random.random_range(1..self.accounts)) % self.accounts;
            let (from, to) = (name(from, self.name_bytes), name(to, self.name_bytes));
            Request {
                id: Some(uuid_v7(SystemClock.now(), self.random.random())),
                body: format!(r#"{{"transfer":{{"from":"{from}","to":"{to}","amount":1}}}}"#).into(),
                kind: Kind::Transaction,
            }
        })
    }
}

fn name(account: u32, bytes: usize) -> String {
    format!("account-{account:0digits$}", digits = bytes - "account-".len())
}
