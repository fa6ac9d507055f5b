//! Accounts under restarts, crashes and guesses.

mod clocks;

use super::*;
use crate::catalog::{CATALOG_FILE, REOPEN_RETRY_MAX};
use lifeboat_api::clock::{Clock, VirtualClock};
use lifeboat_api::transaction::Denial;
use lifeboat_journal::frame::{DirectoryId, Position};
use lifeboat_journal::storage::{Operation, SimulatedStorage, Storage};
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

const NOW: Timestamp = Timestamp(1_000_000_000_000);
/// `NOW`, as the process starts.
const START: ClockReading = ClockReading { wall: NOW, monotonic: Duration::ZERO };
const LIFETIME: Duration = Duration::from_secs(3_600);
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "correct horse";
const SALT: Salt = [7; 16];

/// A scheme that hashes fast, and counts how often a password is compared.
#[derive(Debug, Default, Clone)]
struct Fast {
    compared: Arc<AtomicUsize>,
}

impl PasswordScheme for Fast {
    fn hash(&self, password: &str, salt: &Salt) -> PasswordHash {
        let mut salted = salt.to_vec();
        salted.extend_from_slice(password.as_bytes());
        let salt = u128::from_le_bytes(*salt);
        PasswordHash::from_phc(format!("$fast${salt}${}", blake3::hash(&salted))).expect("a PHC string")
    }

    fn is_of(&self, hash: &PasswordHash, password: &str) -> bool {
        self.compared.fetch_add(1, Ordering::SeqCst);
        let salt = hash.as_phc().split('$').nth(2).and_then(|salt| salt.parse::<u128>().ok()).unwrap_or_default();
        self.hash(password, &salt.to_le_bytes()) == *hash
    }

    fn of_nobody(&self) -> PasswordHash {
        PasswordHash::from_phc("$fast$0$0".into()).expect("a PHC string")
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn create(storage: &dyn Storage) {
    Catalog::create(storage, DirectoryId([7; 16])).map(drop).expect("a catalog");
}

/// Returns the reading of both clocks `time` after `START`.
fn after(time: Duration) -> ClockReading {
    ClockReading { wall: NOW.plus(time), monotonic: time }
}

fn open_at(storage: &dyn Storage, now: ClockReading) -> Result<Accounts, CatalogError> {
    let catalog = Arc::new(Catalog::open(storage)?);
    Accounts::load(catalog, Arc::default(), Box::new(Fast::default()), LIFETIME, now)
}

fn open(storage: &dyn Storage) -> Accounts {
    open_at(storage, START).expect("the accounts can be loaded")
}

fn fresh() -> (SimulatedStorage, Accounts) {
    let storage = SimulatedStorage::new(1);
    create(&storage);
    let accounts = open(&storage);
    (storage, accounts)
}

#[test]
fn log_ins_are_limited_by_a_clock_that_nobody_sets() {
    let (_storage, accounts) = fresh();
    accounts.add("ada", false).expect("added");
    let clock = VirtualClock::new(NOW);
    let attempts = || {
        let wrong = || accounts.log_in("ada", "a wrong password", HOME, clock.read(), [5; 32]);
        (0..100).take_while(|_| matches!(wrong(), Err(LogInError::WrongCredentials))).count()
    };
    assert_eq!(attempts(), 5);
    clock.set(NOW.plus(Duration::from_secs(365 * 24 * 3_600)));
    assert_eq!(attempts(), 0, "a clock that is put forward gives no more");
    clock.set(NOW);
    assert_eq!(attempts(), 0);
    clock.advance(Duration::from_secs(60));
    assert_eq!(attempts(), 2, "nor does one that is put back take anything away");
}

impl Accounts {
    fn add(&self, user: &str, is_admin: bool) -> Result<(), AccountError> {
        self.add_user(&name(user), PASSWORD, is_admin, NOW, &SALT)
    }

    /// Logs in from `HOME`, with a token derived from `random`.
    fn enter_as(&self, user: &str, random: u8) -> Result<LogIn, LogInError> {
        self.log_in(user, PASSWORD, HOME, START, [random; 32])
    }

    fn is_valid(&self, token: &Token) -> bool {
        self.authority().authenticate(token.reveal(), START).is_ok()
    }
}

type TestResult = Result<(), Box<dyn std::error::Error>>;

#[test]
fn the_next_user_of_a_name_is_another_one_also_after_a_restart() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("root", true)?;
    accounts.add("ada", false)?;
    let first = accounts.enter_as("ada", 1)?.identity.incarnation;
    accounts.set_password("ada", PASSWORD, &SALT)?;
    assert_eq!(accounts.enter_as("ada", 2)?.identity.incarnation, first, "another password makes nobody else of them");
    accounts.remove_user("ada")?;
    drop(accounts);
    let accounts = open(&storage);
    accounts.add("ada", false)?;
    let LogIn { token, identity } = accounts.enter_as("ada", 3)?;
    assert!(identity.incarnation > first, "{identity:?}");
    accounts.remove_user("ada")?;
    accounts.add("ada", false)?;
    let third = accounts.enter_as("ada", 4)?;
    assert!(third.identity.incarnation > identity.incarnation && !accounts.is_valid(&token));
    drop(accounts);
    let accounts = open(&storage);
    assert_eq!(accounts.authority().authenticate(third.token.reveal(), START)?, third.identity);
    Ok(())
}

#[test]
fn users_of_a_catalog_that_does_not_count_them_stay_who_they_are() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("root", true)?;
    drop(accounts);
    let catalog = Catalog::open(&storage)?;
    catalog.forget_incarnations()?;
    drop(catalog);
    let accounts = open(&storage);
    assert_eq!(accounts.enter_as("root", 1)?.identity.incarnation, 0);
    accounts.set_password("root", PASSWORD, &SALT)?;
    assert_eq!(accounts.enter_as("root", 2)?.identity.incarnation, 0);
    accounts.add("ada", false)?;
    assert_eq!(accounts.enter_as("ada", 3)?.identity.incarnation, 1);
    Ok(())
}

#[test]
fn accounts_survive_a_restart() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("root", true)?;
    accounts.add("ada", false)?;
    accounts.grant("ada", &name("bank"), Grant::Transact)?;
    accounts.grant("ada", &name("bank"), Grant::Observe)?;
    accounts.grant("ada", &name("vault"), Grant::Observe)?;
    accounts.revoke("ada", "bank", Grant::Observe)?;
    let LogIn { token, identity } = accounts.enter_as("ada", 1)?;
    let hash = TokenHash::of(token.reveal());
    assert_eq!(
        identity,
        Identity { user: name("ada"), incarnation: 2, is_admin: false, expires: NOW.plus(LIFETIME), token: hash }
    );
    assert!(accounts.enter_as("root", 2)?.identity.is_admin);
    let before = accounts.list();
    drop(accounts);

    let accounts = open(&storage);
    assert_eq!(accounts.list(), before);
    let ada = accounts.authority().authenticate(token.reveal(), START)?;
    assert_eq!(ada, identity);
    assert_eq!(accounts.authority().authorise(&ada, "bank", Grant::Transact, START), Ok(()));
    assert_eq!(accounts.authority().authorise(&ada, "vault", Grant::Observe, START), Ok(()));
    assert!(accounts.authority().authorise(&ada, "bank", Grant::Observe, START).is_err());
    assert!(accounts.enter_as("ada", 3).is_ok());
    Ok(())
}

#[test]
fn changes_that_cannot_be_made_are_refused_by_name() -> TestResult {
    let (_, accounts) = fresh();
    accounts.add("root", true)?;
    accounts.add("ada", false)?;
    let refused = |result: Result<(), AccountError>, text: &str| {
        let shown = result.expect_err("refused").to_string();
        assert!(shown.contains(text), "{shown}");
    };
    refused(accounts.add("ada", true), "there is a user 'ada' already");
    refused(accounts.set_password("bob", PASSWORD, &SALT), "there is no user 'bob'");
    refused(accounts.set_password("../bob", PASSWORD, &SALT), "there is no user '../bob'");
    refused(accounts.set_password("ada", "short", &SALT), "has 5 characters");
    refused(accounts.grant("bob", &name("bank"), Grant::Operate), "there is no user 'bob'");
    refused(accounts.revoke("ada", "bank", Grant::Operate), "'ada' has no grant to operate service 'bank'");
    refused(accounts.remove_user("bob"), "there is no user 'bob'");
    refused(accounts.remove_user("root"), "'root' is the last admin");
    accounts.add("second", true)?;
    accounts.remove_user("root")?;
    refused(accounts.remove_user("second"), "'second' is the last admin");
    Ok(())
}

#[test]
fn another_password_makes_all_tokens_of_the_user_void_for_good() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    accounts.add("bob", false)?;
    let tokens = [accounts.enter_as("ada", 1)?.token, accounts.enter_as("ada", 2)?.token];
    let bobs = accounts.enter_as("bob", 3)?.token;
    accounts.set_password("ada", "battery staple", &SALT)?;
    let check = |accounts: &Accounts| {
        assert!(tokens.iter().all(|token| !accounts.is_valid(token)));
        assert!(accounts.is_valid(&bobs));
        assert!(matches!(accounts.enter_as("ada", 4), Err(LogInError::WrongCredentials)));
    };
    check(&accounts);
    drop(accounts);
    let accounts = open(&storage);
    check(&accounts);
    assert!(accounts.log_in("ada", "battery staple", HOME, START, [5; 32]).is_ok());

    // Change her own password, with the old one.
    let change = |old: &str| accounts.change_password(&name("ada"), old, PASSWORD, HOME, START, &SALT);
    assert!(matches!(change(PASSWORD), Err(AccountError::LogIn(LogInError::WrongCredentials))));
    change("battery staple")?;
    assert!(accounts.enter_as("ada", 6).is_ok());
    Ok(())
}

#[test]
fn a_token_is_void_after_log_out() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    let (one, two) = (accounts.enter_as("ada", 1)?.token, accounts.enter_as("ada", 2)?.token);
    assert!(accounts.log_out(&TokenHash::of(one.reveal()))?);
    assert!(!accounts.log_out(&TokenHash::of(one.reveal()))?);
    assert!(!accounts.log_out(&TokenHash::of("lifeboat_of_nobody"))?);
    assert!(!accounts.is_valid(&one) && accounts.is_valid(&two));
    drop(accounts);
    let accounts = open(&storage);
    assert!(!accounts.is_valid(&one) && accounts.is_valid(&two));
    assert_eq!(accounts.catalog().tokens()?.len(), 1);
    Ok(())
}

#[test]
fn a_token_is_void_after_its_lifetime() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    let token = accounts.enter_as("ada", 1)?.token;
    drop(accounts);
    let accounts = open(&storage);
    assert!(accounts.is_valid(&token));
    assert_eq!(accounts.catalog().tokens()?.len(), 1);
    drop(accounts);
    let accounts = open_at(&storage, after(LIFETIME))?;
    assert!(!accounts.is_valid(&token));
    assert_eq!(accounts.catalog().tokens()?.len(), 0);
    Ok(())
}

#[test]
fn a_log_in_over_the_limit_voids_the_oldest_token_of_the_user() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    let mut tokens = Vec::new();
    for second in 0..=TOKENS_PER_USER_MAX {
        let now = after(Duration::from_secs(second as u64));
        tokens.push(accounts.log_in("ada", PASSWORD, HOME, now, [second as u8; 32])?.token);
    }
    assert!(!accounts.is_valid(&tokens[0]));
    assert!(tokens[1..].iter().all(|token| accounts.is_valid(token)));
    drop(accounts);
    // The order is also known after a restart.
    let accounts = open(&storage);
    accounts.enter_as("ada", 200)?;
    assert!(!accounts.is_valid(&tokens[1]));
    assert!(tokens[2..].iter().all(|token| accounts.is_valid(token)));
    assert_eq!(accounts.catalog().tokens()?.len(), TOKENS_PER_USER_MAX);
    // Expired tokens make room first, and are removed from the disk.
    accounts.log_in("ada", PASSWORD, HOME, after(LIFETIME * 2), [201; 32])?;
    assert_eq!(accounts.catalog().tokens()?.len(), 1);
    Ok(())
}

#[test]
fn removing_a_service_removes_its_grants() -> TestResult {
    let (storage, accounts) = fresh();
    for user in ["ada", "bob"] {
        accounts.add(user, false)?;
        accounts.grant(user, &name("bank"), Grant::Transact)?;
    }
    accounts.grant("bob", &name("vault"), Grant::Operate)?;
    remove_service(&accounts, "bank")?;
    let check = |accounts: &Accounts| {
        let grants = |user: &str| accounts.account(user).map(|account| account.grants).unwrap_or_default();
        assert_eq!(grants("ada"), BTreeMap::new());
        assert_eq!(grants("bob"), BTreeMap::from([(name("vault"), BTreeSet::from([Grant::Operate]))]));
    };
    check(&accounts);
    drop(accounts);
    check(&open(&storage));
    Ok(())
}

#[test]
fn grants_have_a_bound() -> TestResult {
    let (_, accounts) = fresh();
    accounts.add("ada", false)?;
    let mut entry = accounts.entry("ada")?.1;
    entry.grants = (0..GRANTED_SERVICES_MAX)
        .map(|number| (name(&format!("service-{number}")), BTreeSet::from([Grant::Observe])))
        .collect();
    accounts.put(&name("ada"), entry, BTreeSet::new(), Room::Ordinary)?;
    let one_more = accounts.grant("ada", &name("bank"), Grant::Observe);
    assert!(matches!(one_more, Err(AccountError::TooManyGrants { .. })), "{one_more:?}");
    accounts.grant("ada", &name("service-1"), Grant::Operate)?;
    Ok(())
}

#[test]
fn a_log_in_does_not_reveal_whether_the_user_exists() -> TestResult {
    let storage = SimulatedStorage::new(1);
    create(&storage);
    let scheme = Fast::default();
    let catalog = Arc::new(Catalog::open(&storage)?);
    let accounts = Accounts::load(catalog, Arc::default(), Box::new(scheme.clone()), LIFETIME, START)?;
    accounts.add("ada", false)?;
    let mut errors = HashMap::new();
    for user in ["ada", "nobody"] {
        let before = scheme.compared.load(Ordering::SeqCst);
        for _ in 0..7 {
            let error = accounts.log_in(user, "wrong horse", HOME, START, [1; 32]).expect_err("wrong");
            errors.entry(user).or_insert_with(Vec::new).push(error.to_string());
        }
        assert_eq!(scheme.compared.load(Ordering::SeqCst) - before, 5, "{user}");
    }
    assert_eq!(errors["ada"], errors["nobody"]);
    assert!(errors["ada"][6].ends_with("try again in 30 s"), "{errors:?}");
    Ok(())
}

#[test]
fn after_wrong_passwords_even_the_right_one_waits_at_their_address_alone() -> TestResult {
    let (_storage, accounts) = fresh();
    accounts.add("ada", false)?;
    for _ in 0..7 {
        accounts.log_in("ada", "wrong horse", HOME, START, [1; 32]).expect_err("wrong");
    }
    assert!(matches!(accounts.enter_as("ada", 1), Err(LogInError::TooMany { .. })));
    let elsewhere = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert!(accounts.log_in("ada", PASSWORD, elsewhere, START, [1; 32]).is_ok());
    Ok(())
}

#[test]
fn impossible_credentials_are_wrong_credentials() -> TestResult {
    let (_storage, accounts) = fresh();
    accounts.add("ada", false)?;
    let long = accounts.log_in("ada", &"x".repeat(1_000_000), HOME, START, [2; 32]);
    assert!(matches!(long, Err(LogInError::WrongCredentials)), "{long:?}");
    let odd = accounts.log_in("no name\n", PASSWORD, HOME, START, [3; 32]);
    assert!(matches!(odd, Err(LogInError::WrongCredentials)), "{odd:?}");
    Ok(())
}

#[test]
fn accounts_are_what_every_request_is_checked_against() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    drop(accounts);
    let authority = Arc::new(RwLock::new(Authority::default()));
    // A user that was added to the authority otherwise is removed from it.
    authority.write().unwrap_or_else(PoisonError::into_inner).add_admin(&name("stranger"));
    let catalog = Arc::new(Catalog::open(&storage)?);
    let accounts = Accounts::load(catalog, Arc::clone(&authority), Box::new(Fast::default()), LIFETIME, START)?;
    let authority = || authority.read().unwrap_or_else(PoisonError::into_inner);
    assert!(authority().account("stranger").is_none());
    let LogIn { token, identity } = accounts.enter_as("ada", 1)?;
    assert_eq!(authority().authenticate(token.reveal(), START), Ok(identity.clone()));
    accounts.grant("ada", &name("bank"), Grant::Transact)?;
    assert_eq!(authority().authorise(&identity, "bank", Grant::Transact, START), Ok(()));
    accounts.add("root", true)?;
    accounts.remove_user("ada")?;
    assert!(matches!(authority().authenticate(token.reveal(), START), Err(Denial::NotAuthenticated { .. })));
    Ok(())
}

#[test]
fn no_credential_is_stored_or_printed() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    let LogIn { token, .. } = accounts.enter_as("ada", 0xab)?;
    let shown = format!("{accounts:?} {:?} {:?}", accounts.catalog().users()?, accounts.catalog().tokens()?);
    let secret = token.reveal().trim_start_matches("lifeboat_").to_owned();
    assert!(!shown.contains(PASSWORD) && !shown.contains(&secret) && !shown.contains("$fast$"), "{shown}");
    drop(accounts);
    let file = storage.open(CATALOG_FILE)?;
    let mut bytes = vec![0; usize::try_from(file.bytes()?)?];
    file.read_exact_at(0, &mut bytes)?;
    for secret in [secret.as_bytes(), &[0xab; 32], PASSWORD.as_bytes()] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    Ok(())
}

/// The accounts and their valid tokens, as expected after all changes that were reported as successful.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Expected {
    accounts: Vec<Account>,
    /// Which of the issued tokens are valid.
    valid: Vec<bool>,
}

/// Users log in until there is no free page left, on a disk without a free byte.
#[test]
fn log_ins_take_no_room_from_removals() -> TestResult {
    let storage = SimulatedStorage::new(1);
    create(&storage);
    let accounts = open(&storage);
    accounts.catalog().reopen_from(Arc::new(storage.clone()), Arc::new(VirtualClock::new(NOW)));
    accounts.add("root", true)?;
    let users: Vec<String> = (0..40).map(|number| format!("user-{number}")).collect();
    for user in &users {
        accounts.add(user, false)?;
        accounts.grant(user, &name("bank"), Grant::Transact)?;
    }
    storage.limit_space(storage.taken_bytes());
    let mut random = (0_u128..).map(|number| {
        let mut random = [0; 32];
        random[..16].copy_from_slice(&number.to_le_bytes());
        random
    });
    let mut log_in = |user: &str, second: u64| {
        // Late enough that no attempt exceeds a limit.
        let now = after(Duration::from_secs(second));
        accounts.log_in(user, PASSWORD, HOME, now, random.next().expect("there are enough"))
    };
    let mut second = 0;
    let refused = loop {
        second += 1;
        let user = &users[second as usize % users.len()];
        if let Err(error) = log_in(user, second) {
            break error;
        }
    };
    let LogInError::Catalog(error) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("make room on the disk, or remove services or users"), "{error}");

    // Changes that make room succeed, however often they are made.
    for round in 0..TOKENS_PER_USER_MAX as u64 + 5 {
        let _ = log_in("root", second + round)?;
    }
    accounts.revoke("user-1", "bank", Grant::Transact)?;
    accounts.set_password("user-2", PASSWORD, &SALT)?;
    remove_service(&accounts, "bank")?;
    for user in &users[3..] {
        accounts.remove_user(user)?;
    }
    drop(accounts);
    assert_eq!(open(&storage.crash()).users(), 4);
    Ok(())
}

#[test]
fn an_incomplete_reserve_serves_only_removals_or_log_ins_of_admins() -> TestResult {
    let (storage, accounts) = fresh();
    for (user, is_admin) in [("root", true), ("ada", false), ("bob", false)] {
        accounts.add(user, is_admin)?;
    }
    let token = accounts.enter_as("ada", 1)?.token;
    drop(accounts);
    // The holder of the reserve is gone, and another user of the disk has taken the room.
    let storage = storage.crash();
    storage.limit_space(storage.taken_bytes());
    let accounts = open(&storage);
    let is_refused = |error: &CatalogError| matches!(error, CatalogError::NoRoom { .. });
    assert!(matches!(accounts.enter_as("ada", 2), Err(LogInError::Catalog(error)) if is_refused(&error)));
    assert!(matches!(accounts.add("eve", false), Err(AccountError::Catalog(error)) if is_refused(&error)));
    let granted = accounts.grant("ada", &name("bank"), Grant::Observe);
    assert!(matches!(granted, Err(AccountError::Catalog(error)) if is_refused(&error)));
    assert!(accounts.is_valid(&token), "who is in stays in");
    accounts.enter_as("root", 3)?;
    assert!(accounts.log_out(&TokenHash::of(token.reveal()))?);
    accounts.remove_user("bob")?;
    storage.limit_space(u64::MAX);
    accounts.enter_as("ada", 4)?;
    Ok(accounts.add("eve", false)?)
}

/// On a file system that cannot reserve room, additions find out only by their writes that there is none.
#[test]
fn log_ins_on_a_full_disk_leave_room_for_removals() -> TestResult {
    let (storage, accounts) = fresh();
    let clock = Arc::new(VirtualClock::new(NOW));
    accounts.catalog().reopen_from(Arc::new(storage.clone()), Arc::clone(&clock) as _);
    let users: Vec<String> = (0..40).map(|number| format!("user-{number}")).collect();
    let services: Vec<String> = (0..8).map(|number| format!("service-{number}")).collect();
    for user in &users {
        accounts.add(user, false)?;
        for service in &services {
            accounts.grant(user, &name(service), Grant::Transact)?;
        }
    }
    storage.break_down(Operation::HoldRoom, io::ErrorKind::Unsupported);
    storage.break_down(Operation::SetBytes, io::ErrorKind::StorageFull);
    let mut random = 0_u64;
    let mut log_in = |user: &str| {
        random += 1;
        clock.advance(Duration::from_secs(1));
        let token = *blake3::hash(&random.to_le_bytes()).as_bytes();
        accounts.log_in(user, PASSWORD, HOME, clock.read(), token)
    };
    let is_refused = |error: &LogInError| matches!(error, LogInError::Catalog(CatalogError::NoRoom { .. }));
    for service in &services {
        // As a pause ends, and until the room released by a removal is used up.
        clock.advance(REOPEN_RETRY_MAX);
        let refused = (0..5_000).find_map(|number| log_in(&users[number % users.len()]).err());
        assert!(refused.as_ref().is_some_and(is_refused), "{refused:?}");
        // The removal of one service is tried at least.
        match remove_service(&accounts, service) {
            Ok(()) | Err(AccountError::Catalog(CatalogError::Storage { .. })) => {}
            Err(error) => return Err(error.into()),
        }
    }
    storage.mend(Operation::SetBytes);
    Ok(remove_service(&accounts, "service-1")?)
}

#[test]
fn a_log_in_that_a_pause_of_the_catalog_refuses_is_no_attempt() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    accounts.catalog().reopen_from(Arc::new(storage.clone()), Arc::new(VirtualClock::new(NOW)));
    for _ in 0..2 {
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
        assert!(accounts.enter_as("ada", 1).is_err() && fault.has_fired());
    }
    for number in 0..10 {
        let refused = accounts.enter_as("ada", number);
        assert!(matches!(refused, Err(LogInError::Catalog(CatalogError::Pausing { .. }))), "{refused:?}");
    }
    assert_eq!(accounts.limits().trust(&name("ada"), HOME, Timestamp(0)), Trust::Known);
    // A refusal by a pause does not count against an unknown address either.
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    for _ in 0..10 {
        let refused = accounts.log_in("ada", PASSWORD, other, START, [9; 32]);
        assert!(matches!(refused, Err(LogInError::Catalog(CatalogError::Pausing { .. }))), "{refused:?}");
    }
    assert_eq!(accounts.limits().trust(&name("ada"), other, Timestamp(0)), Trust::Fresh);
    Ok(())
}

#[test]
fn in_a_pause_of_the_catalog_only_admins_open_or_close_sessions() -> TestResult {
    let (storage, accounts) = fresh();
    accounts.add("ada", false)?;
    accounts.add("root", true)?;
    let ada = TokenHash::of(accounts.enter_as("ada", 1)?.token.reveal());
    accounts.catalog().reopen_from(Arc::new(storage.clone()), Arc::new(VirtualClock::new(NOW)));
    let fails = || -> TestResult {
        for _ in 0..2 {
            let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
            assert!(accounts.enter_as("root", 2).is_err() && fault.has_fired());
        }
        Ok(())
    };
    fails()?;
    // Otherwise each of these would reopen the file, as often as the user likes.
    for _ in 0..3 {
        let refused = accounts.log_out(&ada);
        assert!(matches!(refused, Err(AccountError::Catalog(CatalogError::Pausing { .. }))), "{refused:?}");
    }
    let root = TokenHash::of(accounts.enter_as("root", 3)?.token.reveal());
    fails()?;
    assert!(accounts.log_out(&root)?, "an admin makes a token void");
    assert!(accounts.log_out(&ada)?, "a change was stored: the pause is over");
    Ok(())
}

/// A step of a story. It adds the tokens that it issues.
type Step = fn(&Accounts, &mut Vec<Token>) -> Result<(), AccountError>;

/// Every possible operation, once.
const STORY: [Step; 13] = [
    |accounts, _| accounts.add("root", true),
    |accounts, _| accounts.add("ada", false),
    |accounts, _| accounts.grant("ada", &name("bank"), Grant::Transact),
    |accounts, tokens| issue(accounts, tokens, "ada", 1),
    |accounts, tokens| issue(accounts, tokens, "ada", 2),
    |accounts, tokens| issue(accounts, tokens, "root", 3),
    |accounts, tokens| accounts.log_out(&TokenHash::of(tokens[0].reveal())).map(drop),
    |accounts, _| accounts.revoke("ada", "bank", Grant::Transact),
    |accounts, _| accounts.set_password("ada", PASSWORD, &[9; 16]),
    |accounts, tokens| issue(accounts, tokens, "ada", 4),
    |accounts, _| accounts.grant("ada", &name("bank"), Grant::Observe),
    |accounts, _| remove_service(accounts, "bank"),
    |accounts, _| accounts.remove_user("ada"),
];

/// Changes the users as a host does when it removes a service.
fn remove_service(accounts: &Accounts, service: &str) -> Result<(), AccountError> {
    let users = accounts.catalog().hold_users();
    accounts.catalog().remove_service(&name(service), Position(1), &users)?;
    accounts.authority_mut().forget_service(service);
    Ok(())
}

fn issue(accounts: &Accounts, tokens: &mut Vec<Token>, user: &str, random: u8) -> Result<(), AccountError> {
    tokens.push(accounts.enter_as(user, random).map_err(AccountError::LogIn)?.token);
    Ok(())
}

fn expected(accounts: &Accounts) -> Expected {
    let valid = (1..=4).map(|random| accounts.is_valid(&Token::from_random([random; 32]))).collect();
    Expected { accounts: accounts.list(), valid }
}

#[test]
fn a_crash_between_any_two_steps_undoes_no_acknowledged_change() -> TestResult {
    // The expected state after each step if nothing fails.
    let (_, accounts) = fresh();
    let mut tokens = Vec::new();
    let mut after = vec![expected(&accounts)];
    for step in STORY {
        step(&accounts, &mut tokens)?;
        after.push(expected(&accounts));
    }
    let (mut olds, mut news) = (0, 0);
    for nth in 1.. {
        let storage = SimulatedStorage::new(nth);
        create(&storage);
        let accounts = open(&storage);
        storage.power_off(nth);
        let mut tokens = Vec::new();
        let acknowledged = STORY.iter().take_while(|step| step(&accounts, &mut tokens).is_ok()).count();
        // The authority is ahead of the reported changes where it is unknown whether a right was removed.
        let next = after.get(acknowledged + 1).unwrap_or(&after[acknowledged]);
        let now = expected(&accounts);
        assert!(
            now == after[acknowledged] || now == *next,
            "power off at {nth}, {acknowledged} steps acknowledged: {now:?}"
        );
        let is_done = !storage.is_off();
        drop(accounts);
        let found = expected(&open(&storage.crash()));
        assert!(
            found == after[acknowledged] || found == *next,
            "power off at {nth}, {acknowledged} steps acknowledged: {found:?}"
        );
        olds += u32::from(found == after[acknowledged]);
        news += u32::from(found != after[acknowledged]);
        if is_done {
            assert_eq!(acknowledged, STORY.len());
            break;
        }
    }
    assert!(olds > 20 && news > 5, "{olds} {news}");
    Ok(())
}

/// Every order, and whether it adds a right rather than removing one.
const ORDERS: [(bool, Step); 8] = [
    (true, |accounts, _| accounts.add("bob", true)),
    (true, |accounts, _| accounts.grant("ada", &name("vault"), Grant::Operate)),
    (true, |accounts, tokens| issue(accounts, tokens, "ada", 4)),
    (false, |accounts, tokens| accounts.log_out(&TokenHash::of(tokens[0].reveal())).map(drop)),
    (false, |accounts, _| accounts.revoke("ada", "bank", Grant::Transact)),
    (false, |accounts, _| accounts.set_password("ada", "battery staple", &SALT)),
    (false, |accounts, _| accounts.remove_user("ada")),
    (false, |accounts, _| accounts.remove_user("root")),
];

/// Adds users, two of them admins, with a grant and tokens.
fn prepare(accounts: &Accounts) -> Result<Vec<Token>, AccountError> {
    let mut tokens = Vec::new();
    STORY[..6].iter().try_for_each(|step| step(accounts, &mut tokens))?;
    accounts.add("eve", true)?;
    Ok(tokens)
}

#[test]
fn an_order_whose_storage_fails_never_grants_an_unstored_right() -> TestResult {
    let (mut done, mut failed, mut unknown) = (0, 0, [0; 2]);
    for (number, (gives, order)) in ORDERS.into_iter().enumerate() {
        for kind in [Operation::Write, Operation::SyncData] {
            for nth in 1.. {
                let storage = SimulatedStorage::new(nth);
                create(&storage);
                let accounts = open(&storage);
                let mut tokens = prepare(&accounts)?;
                let prepared = storage.copy();
                let old = expected(&accounts);
                let new = {
                    let accounts = open(&prepared);
                    order(&accounts, &mut tokens.clone())?;
                    expected(&accounts)
                };
                storage.fail(kind, nth);
                let before = storage.count(kind);
                let result = order(&accounts, &mut tokens);
                if storage.count(kind) < before + nth {
                    result?;
                    break;
                }
                let now = expected(&accounts);
                drop(accounts);
                let accounts = open(&storage.crash());
                let found = expected(&accounts);
                let what = format!("order {number}, {kind:?} {nth}: {result:?}, now {now:?}, after a start {found:?}");
                // Either both or neither: the new password, and the void tokens of the old one.
                if number == 5 {
                    let is_new = accounts.log_in("ada", "battery staple", HOME, START, [5; 32]).is_ok();
                    assert_eq!(is_new, found == new, "{what}");
                }
                match result {
                    Ok(()) => {
                        assert!(now == new && found == new, "{what}");
                        done += 1;
                    }
                    Err(
                        AccountError::OutcomeUnknown(_)
                        | AccountError::LogIn(LogInError::Catalog(CatalogError::OutcomeUnknown { .. })),
                    ) => {
                        assert!(now == if gives { old.clone() } else { new.clone() }, "{what}");
                        assert!(found == old || found == new, "{what}");
                        unknown[usize::from(found == new)] += 1;
                    }
                    Err(_) => {
                        assert!(now == old && found == old, "{what}");
                        failed += 1;
                    }
                }
            }
        }
    }
    assert!(done > 20 && failed > 20 && unknown[0] > 2 && unknown[1] > 2, "{done} {failed} {unknown:?}");
    Ok(())
}

/// The state after an order with an unknown outcome.
struct Unknown {
    storage: SimulatedStorage,
    accounts: Accounts,
    tokens: Vec<Token>,
    is_stored: bool,
}

/// Orders a change of accounts after [`prepare`] while its decisive write fails: once so that the disk has the change
/// all the same, and once so that it has not. The catalog reopens its file after that.
fn unknown(order: Step) -> Result<[Unknown; 2], Box<dyn std::error::Error>> {
    let storage = SimulatedStorage::new(1);
    create(&storage);
    let accounts = open(&storage);
    let prepared = prepare(&accounts)?;
    let old = expected(&accounts);
    drop(accounts);
    let mut stored = vec![0; usize::try_from(storage.open(CATALOG_FILE)?.bytes()?)?];
    storage.open(CATALOG_FILE)?.read_exact_at(0, &mut stored)?;
    let (mut found, mut nth) = ([None, None], 1);
    // The seed decides which part of a failed write remains. It is seldom nothing.
    for seed in 0..10_000 {
        let storage = SimulatedStorage::new(seed);
        storage.create(CATALOG_FILE)?.write_all_at(0, &stored)?;
        let storage = storage.copy();
        let accounts = open(&storage);
        accounts.catalog().reopen_from(Arc::new(storage.clone()), Arc::new(VirtualClock::new(NOW)));
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, nth);
        let mut tokens = prepared.clone();
        match order(&accounts, &mut tokens) {
            Err(
                AccountError::OutcomeUnknown(_)
                | AccountError::LogIn(LogInError::Catalog(CatalogError::OutcomeUnknown { .. })),
            ) => {}
            _ if fault.has_fired() => {
                nth += 1;
                continue;
            }
            ordered => return Err(format!("no write makes it count: {ordered:?}").into()),
        }
        let is_stored = expected(&open(&storage.copy())) != old;
        found[usize::from(is_stored)] = Some(Unknown { storage, accounts, tokens, is_stored });
        found = match found {
            [Some(one), Some(other)] => return Ok([one, other]),
            found => found,
        };
    }
    Err("one of the two never happens".into())
}

/// Returns the incarnation of each user.
fn incarnations(accounts: &Accounts) -> Vec<(Name, u64)> {
    let users = accounts.list().into_iter();
    users.map(|account| (account.user.clone(), accounts.authority().incarnation(&account.user))).collect()
}

#[test]
fn repeating_an_order_of_unknown_outcome_stores_it() -> TestResult {
    for (number, (_, order)) in ORDERS.into_iter().enumerate() {
        for Unknown { storage, accounts, mut tokens, is_stored } in unknown(order)? {
            match order(&accounts, &mut tokens) {
                // The catalog already had the change.
                Ok(()) | Err(AccountError::Unknown { .. } | AccountError::NotHeld { .. }) => {}
                Err(error) => return Err(format!("order {number}: {error}").into()),
            }
            let known = (expected(&accounts), incarnations(&accounts));
            drop(accounts);
            let accounts = open(&storage.crash());
            assert_eq!((expected(&accounts), incarnations(&accounts)), known, "order {number}, stored: {is_stored}");
        }
    }
    Ok(())
}

#[test]
fn the_order_after_one_of_unknown_outcome_leaves_no_void_token_on_the_disk() -> TestResult {
    for (number, (_, order)) in ORDERS.into_iter().enumerate() {
        for (next, (_, then)) in ORDERS.into_iter().enumerate() {
            for Unknown { storage, accounts, mut tokens, is_stored } in unknown(order)? {
                if then(&accounts, &mut tokens).is_err() {
                    continue;
                }
                let what = format!("order {number}, then {next}, stored: {is_stored}");
                let (valid, known) = (expected(&accounts).valid, incarnations(&accounts));
                drop(accounts);
                let accounts = open(&storage.crash());
                assert_eq!(expected(&accounts).valid, valid, "{what}");
                let found = incarnations(&accounts);
                assert!(known.iter().all(|user| found.contains(user)), "{what}: {known:?}, then {found:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_stolen_token_is_void_for_good_once_the_password_is_changed_with_success() -> TestResult {
    let change: Step = |accounts, _| accounts.set_password("ada", "battery staple", &SALT);
    for Unknown { storage, accounts, mut tokens, is_stored } in unknown(change)? {
        change(&accounts, &mut tokens)?;
        drop(accounts);
        let accounts = open(&storage.crash());
        assert!(accounts.log_in("ada", "battery staple", HOME, START, [5; 32]).is_ok());
        for stolen in &tokens[..2] {
            let refused = accounts.authority().authenticate(stolen.reveal(), START);
            assert_eq!(refused, Err(Denial::NotAuthenticated { reason: "the token is unknown" }), "{is_stored}");
        }
    }
    Ok(())
}

#[test]
fn a_user_added_after_a_removal_of_unknown_outcome_inherits_nothing() -> TestResult {
    for again in [false, true] {
        for Unknown { storage, accounts, tokens, is_stored } in unknown(|accounts, _| accounts.remove_user("ada"))? {
            if again {
                match accounts.remove_user("ada") {
                    Ok(()) | Err(AccountError::Unknown { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            accounts.add_user(&name("ada"), "battery staple", false, NOW, &SALT)?;
            let check = |accounts: &Accounts, random: u8| -> TestResult {
                let what = format!("again: {again}, stored: {is_stored}");
                assert!(!tokens.iter().take(2).any(|token| accounts.is_valid(token)), "{what}");
                assert!(accounts.enter_as("ada", 8).is_err(), "{what}: the old password");
                let LogIn { identity, .. } = accounts.log_in("ada", "battery staple", HOME, START, [random; 32])?;
                // Root was the first, then came the users of this name, and eve.
                assert!(identity.incarnation > 3, "{what}: {identity:?}");
                assert_eq!(accounts.account("ada").map(|account| account.grants), Some(BTreeMap::new()), "{what}");
                Ok(())
            };
            check(&accounts, 5)?;
            drop(accounts);
            check(&open(&storage.crash()), 6)?;
        }
    }
    Ok(())
}

#[test]
fn a_user_of_unknown_outcome_is_granted_nothing() -> TestResult {
    for Unknown { accounts, .. } in unknown(|accounts, _| accounts.add("bob", false))? {
        let granted = accounts.grant("bob", &name("bank"), Grant::Observe);
        assert!(matches!(granted, Err(AccountError::Unknown { .. })), "{granted:?}");
        let changed = accounts.set_password("bob", "battery staple", &SALT);
        assert!(matches!(changed, Err(AccountError::Unknown { .. })), "{changed:?}");
        accounts.add("bob", false)?;
        accounts.grant("bob", &name("bank"), Grant::Observe)?;
    }
    Ok(())
}

#[test]
fn a_password_whose_change_may_be_stored_lets_nobody_in_any_more() -> TestResult {
    const NEW: &str = "battery staple";
    let mut unknown = [0; 2];
    // The seed decides which part of a failed write remains. It is seldom nothing.
    let (mut seed, mut nth) = (1, 1);
    while unknown.contains(&0) {
        let storage = SimulatedStorage::new(seed);
        create(&storage);
        let accounts = open(&storage);
        accounts.catalog().reopen_from(Arc::new(storage.clone()), Arc::new(VirtualClock::new(NOW)));
        accounts.add("ada", false)?;
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, nth);
        let changed = accounts.set_password("ada", NEW, &SALT);
        assert!(fault.has_fired(), "no write is the one that counts");
        match changed {
            Ok(()) => nth += 1,
            Err(AccountError::OutcomeUnknown(_)) => {
                seed += 1;
                let has_new = open(&storage.copy()).enter_as("ada", 1).is_err();
                unknown[usize::from(has_new)] += 1;
                for random in 1..3 {
                    let refused = accounts.enter_as("ada", random);
                    assert!(matches!(refused, Err(LogInError::WrongCredentials)), "{has_new}: {refused:?}");
                }
                let changed = accounts.change_password(&name("ada"), PASSWORD, "another one", HOME, START, &SALT);
                assert!(matches!(changed, Err(AccountError::LogIn(LogInError::WrongCredentials))), "{changed:?}");
                let let_in = accounts.log_in("ada", NEW, HOME, START, [3; 32]);
                assert_eq!(let_in.is_ok(), has_new, "{let_in:?}");
                accounts.set_password("ada", NEW, &[8; 16])?;
            }
            Err(error) => {
                nth += 1;
                assert!(accounts.enter_as("ada", 1).is_ok(), "{error}");
                accounts.set_password("ada", NEW, &SALT)?;
            }
        }
        assert!(seed < 1000, "{unknown:?}");
        assert!(matches!(accounts.enter_as("ada", 4), Err(LogInError::WrongCredentials)));
        accounts.log_in("ada", NEW, HOME, START, [5; 32])?;
    }
    Ok(())
}
