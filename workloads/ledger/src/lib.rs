//! Accounts whose total is conserved: every deposited amount that was not withdrawn is in exactly one account.
//!
//! - Transactions, with integer amounts from 1 to 2^64 - 1:
//!   - `{"deposit":{"account":"a","amount":5}}` opens the account if it is new. Reply: `{"balance":5}`.
//!   - `{"withdraw":{"account":"a","amount":5}}`. Reply: `{"balance":0}`.
//!   - `{"transfer":{"from":"a","to":"b","amount":5}}`, both open. Reply, the balances after it: `{"from":0,"to":5}`.
//! - Queries:
//!   - `{"balance":"a"}`. Answer: `{"balance":5}`.
//!   - `"total"`. Answer: `{"total":5,"balances":5}`: deposits less withdrawals, and the sum of all balances. They are
//!     equal unless the ledger is damaged. Its time is proportional to the number of accounts.
//!   - `"accounts"`. Answer: `{"accounts":1}`.
//! - Refused without a change: a zero amount, an unknown account, insufficient funds, a deposit that raises the total
//!   over 2^64 - 1, a transfer to the same account, an account name that is empty or over [`NAME_MAX_BYTES`].
//! - Accounts are never closed.
//! - Limits it meets: memory, through the number of accounts. Each takes about 60 bytes with a short name, and a few
//!   bytes more than the name in a snapshot; a million and a half are reasonable. The fuel for a transaction grows with
//!   the logarithm of that number.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use lifeboat_guest::prelude::*;
use serde::Serializer;

/// The longest account name, in bytes.
pub const NAME_MAX_BYTES: usize = 64;

/// The state: balances by account, and their total.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Deposits less withdrawals. No balance exceeds it, so a transfer cannot overflow.
    total: u64,
    /// The balances by account. `Box<str>` has no spare capacity: a third less than `String` for short names. With a
    /// `Cell`, a transfer looks each account up once instead of twice.
    #[serde(serialize_with = "from_the_last")]
    balances: BTreeMap<Box<str>, Cell<u64>>,
}

/// Writes the last account first. A restore inserts them in that order, and inserting before all others compares one
/// name in each node of the map. Inserting after all others compares every name: ten times the work in all.
fn from_the_last<S: Serializer>(balances: &BTreeMap<Box<str>, Cell<u64>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(balances.iter().rev())
}

/// A change of balances.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Transaction {
    /// Deposits into an account, which is opened if it is new.
    Deposit {
        /// The account's name.
        account: Box<str>,
        /// The amount, at least 1.
        amount: u64,
    },
    /// Withdraws from an account.
    Withdraw {
        /// The account's name.
        account: Box<str>,
        /// The amount, from 1 to the balance.
        amount: u64,
    },
    /// Moves an amount between two open accounts.
    Transfer {
        /// The account that pays.
        from: Box<str>,
        /// The account that is paid, which must be another one.
        to: Box<str>,
        /// The amount, from 1 to the balance of `from`.
        amount: u64,
    },
}

/// The new balances of the accounts that a transaction changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// The reply to a deposit or a withdrawal.
    Account {
        /// The account's balance.
        balance: u64,
    },
    /// The reply to a transfer.
    Accounts {
        /// The balance of the account that paid.
        from: u64,
        /// The balance of the account that was paid.
        to: u64,
    },
}

/// A question about balances.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The balance of one account.
    Balance(Box<str>),
    /// The sum of all accounts, counted in two ways.
    Total,
    /// The number of open accounts.
    Accounts,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The answer to `{"balance":...}`.
    Balance {
        /// The account's balance.
        balance: u64,
    },
    /// The answer to `"total"`.
    Total {
        /// Deposits less withdrawals.
        total: u64,
        /// The sum of all balances.
        balances: u64,
    },
    /// The answer to `"accounts"`.
    Accounts {
        /// The number of open accounts.
        accounts: u64,
    },
}

/// The reason for refusing a transaction or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The amount is zero.
    ZeroAmount,
    /// The account was never opened.
    UnknownAccount(Box<str>),
    /// The account holds less than the amount.
    InsufficientFunds {
        /// The account's name.
        account: Box<str>,
        /// The account's balance.
        balance: u64,
        /// The requested amount.
        amount: u64,
    },
    /// A deposit would raise the total of all accounts over 2^64 - 1.
    TotalOverflow {
        /// The total before it.
        total: u64,
        /// The amount of the deposit.
        amount: u64,
    },
    /// The paying account and the paid account are the same.
    SameAccount(Box<str>),
    /// The name of an account to be opened is empty or too long.
    BadName {
        /// The name's length, in bytes.
        bytes: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroAmount => write!(f, "amount is 0, at least 1 is needed"),
            Self::UnknownAccount(account) => write!(f, "unknown account {account:?}"),
            Self::InsufficientFunds { account, balance, amount } => {
                write!(f, "insufficient funds: account {account:?} has {balance}, {amount} is needed")
            }
            Self::TotalOverflow { total, amount } => {
                write!(f, "total is {total}, a deposit of {amount} would take it over {}", u64::MAX)
            }
            Self::SameAccount(account) => write!(f, "account {account:?} cannot transfer to itself"),
            Self::BadName { bytes } => write!(f, "account name is {bytes} bytes, 1 to {NAME_MAX_BYTES} are allowed"),
        }
    }
}

impl std::error::Error for Refusal {}

#[workload]
impl Workload for Ledger {
    type Transaction = Transaction;
    type Reply = Reply;
    type Query = Query;
    type Answer = Answer;
    type Error = Refusal;

    fn execute(&mut self, _: &Context, transaction: Transaction) -> Result<Reply, Refusal> {
        match transaction {
            Transaction::Deposit { account, amount } => self.deposit(account, amount),
            Transaction::Withdraw { account, amount } => self.withdraw(&account, amount),
            Transaction::Transfer { from, to, amount } => self.transfer(&from, &to, amount),
        }
    }

    fn query(&self, _: &Context, query: Query) -> Result<Answer, Refusal> {
        match query {
            Query::Balance(account) => Ok(Answer::Balance { balance: self.account(&account)?.get() }),
            Query::Total => {
                Ok(Answer::Total { total: self.total, balances: self.balances.values().map(Cell::get).sum() })
            }
            Query::Accounts => Ok(Answer::Accounts { accounts: self.balances.len() as u64 }),
        }
    }
}

impl Ledger {
    fn deposit(&mut self, account: Box<str>, amount: u64) -> Result<Reply, Refusal> {
        check_amount(amount)?;
        if account.is_empty() || account.len() > NAME_MAX_BYTES {
            return Err(Refusal::BadName { bytes: account.len() });
        }
        let total = self.total.checked_add(amount).ok_or(Refusal::TotalOverflow { total: self.total, amount })?;

        self.total = total;
        let account = self.balances.entry(account).or_default();
        account.set(account.get() + amount);
        Ok(Reply::Account { balance: account.get() })
    }

    fn withdraw(&mut self, account: &str, amount: u64) -> Result<Reply, Refusal> {
        check_amount(amount)?;
        let source = self.account(account)?;
        let rest = take(account, source.get(), amount)?;

        source.set(rest);
        self.total -= amount;
        Ok(Reply::Account { balance: rest })
    }

    fn transfer(&mut self, from: &str, to: &str, amount: u64) -> Result<Reply, Refusal> {
        check_amount(amount)?;
        if from == to {
            return Err(Refusal::SameAccount(from.into()));
        }
        let source = self.account(from)?;
        let rest = take(from, source.get(), amount)?;
        let destination = self.account(to)?;

        source.set(rest);
        destination.set(destination.get() + amount);
        Ok(Reply::Accounts { from: rest, to: destination.get() })
    }

    fn account(&self, name: &str) -> Result<&Cell<u64>, Refusal> {
        self.balances.get(name).ok_or_else(|| Refusal::UnknownAccount(name.into()))
    }
}

fn check_amount(amount: u64) -> Result<(), Refusal> {
    if amount == 0 { Err(Refusal::ZeroAmount) } else { Ok(()) }
}

fn take(account: &str, balance: u64, amount: u64) -> Result<u64, Refusal> {
    balance.checked_sub(amount).ok_or_else(|| Refusal::InsufficientFunds { account: account.into(), balance, amount })
}

#[cfg(test)]
mod tests;
