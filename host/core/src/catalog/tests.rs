//! The catalog under crashes, failures and damage.

use super::backend::SPARE_BYTES;
use super::*;
use crate::answers::DeduplicationWindow;
use crate::command_line::ProgramSettings;
use crate::credential::{PasswordHash, TokenHash};
use crate::network::{AllowList, Allowed, NetworkSettings, Retry};
use crate::parts::{Parts, PartsError};
use lifeboat_api::access::Grant;
use lifeboat_api::clock::{Timestamp, VirtualClock};
use lifeboat_api::id::Sequence;
use lifeboat_api::id::WorkloadHash;
use lifeboat_api::meter::Percent;
use lifeboat_api::size::Size;
use lifeboat_api::sla::{FailoverMode, Thresholds};
use lifeboat_journal::frame::{FrameHash, POSITION_MAX, Position, RecordNumber};
use lifeboat_journal::storage::{DiskStorage, Operation, SimulatedStorage};
use proptest::collection::vec;
use proptest::prelude::*;
use std::time::Duration;

const DIRECTORY_ID: DirectoryId = DirectoryId([7; 16]);

/// The end of the journal.
const END: Position = Position(4096);

/// The note on a service that is removed at that time.
const REMOVED: Absent = Absent { journal_end: END, is_being_created: false };

/// The longest file of a catalog that a test fills, in bytes.
const SHORT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The byte that an entry's secret consists of.
const SECRET_BYTE: u8 = 213;

/// The whole contents of a catalog.
#[derive(Debug, Clone, PartialEq, Default)]
struct Content {
    seal: Option<Seal>,
    is_journal_in_use: bool,
    services: BTreeMap<Name, ServiceEntry>,
    users: BTreeMap<Name, UserEntry>,
    tokens: BTreeMap<TokenHash, TokenEntry>,
    bounds: BTreeMap<TokenHash, Timestamp>,
    stopped: BTreeSet<Name>,
    absent: BTreeMap<Name, Absent>,
}

fn content(catalog: &Catalog) -> Result<Content, CatalogError> {
    assert_eq!(catalog.directory(), DIRECTORY_ID);
    Ok(Content {
        seal: catalog.seal()?,
        is_journal_in_use: catalog.is_journal_in_use()?,
        services: catalog.services()?,
        users: catalog.users()?,
        tokens: catalog.tokens()?,
        bounds: catalog.token_bounds()?,
        stopped: catalog.stopped()?,
        absent: catalog.absent()?,
    })
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn entry(number: u64) -> ServiceEntry {
    ServiceEntry {
        secret: [SECRET_BYTE; 32],
        workload: WorkloadHash::of(&number.to_le_bytes()),
        settings: ServiceSettings {
            size: "small".into(),
            sizes: Size::built_in(),
            thresholds: Thresholds { cpu: Percent::whole(97), ..Thresholds::default() },
            deduplication_window: DeduplicationWindow {
                age: Duration::from_millis(number),
                ..DeduplicationWindow::default()
            },
            failover: FailoverMode::Shadow,
            network: network(number),
            program: program(number),
        },
        first_snapshot: number.is_multiple_of(2).then_some(RecordNumber(number)),
        accepted_divergences: (0..number % 4).map(Sequence).collect(),
    }
}

/// Returns the network of an entry, which only some have.
fn network(number: u64) -> NetworkSettings {
    if number % 11 != 10 {
        return NetworkSettings::default();
    }
    let allowed = |text: &str, private| Allowed { target: text.parse().expect("a target"), private };
    let entries = vec![allowed("https://*.example.org", false), allowed("http://db:5432", true)];
    NetworkSettings { allow: AllowList::new(entries).expect("two"), retry: Retry::Idempotent }
}

/// Returns what a program gets, which only some do.
fn program(number: u64) -> ProgramSettings {
    if number % 13 != 12 {
        return ProgramSettings::default();
    }
    let environment = BTreeMap::from([("LANG".to_owned(), "C".to_owned())]);
    ProgramSettings::new(vec!["-v".into(), number.to_string()], environment).expect("short")
}

/// Returns an entry whose size has a name of `bytes`.
fn named(bytes: usize) -> ServiceEntry {
    let mut long = entry(1);
    long.settings.size = "x".repeat(bytes);
    long
}

fn seal(number: u64) -> Seal {
    Seal { directory: DIRECTORY_ID, position: Position(number * 4096), hash: FrameHash([number as u8; 32]) }
}

fn user_entry(number: u64) -> UserEntry {
    UserEntry {
        password: PasswordHash::from_phc(format!("$fast${number}")).expect("a PHC string"),
        is_admin: number.is_multiple_of(3),
        created: Timestamp(number),
        grants: (0..number % 3)
            .map(|service| {
                (name(&format!("service-{service}")), Grant::ALL.into_iter().skip(service as usize).collect())
            })
            .collect(),
    }
}

/// Returns a change of several rows: a user, one of their tokens replaced by another, and its bound.
fn accounts_change(which: u8, number: u64) -> AccountsChange {
    let user = name(&format!("user-{which}"));
    let token =
        TokenEntry { user: user.clone(), issued: Timestamp(number), expires: Timestamp(number.saturating_add(9)) };
    AccountsChange {
        put_users: BTreeMap::from([(user, user_entry(number))]),
        put_tokens: BTreeMap::from([(TokenHash([which; 32]), token)]),
        remove_tokens: [TokenHash([which.wrapping_sub(1); 32])].into(),
        // `filled` sets no bounds: tests of faults depend on the layout of its pages.
        bounds: match number % 4 {
            0 => BTreeMap::from([(TokenHash([which; 32]), Some(Timestamp(number)))]),
            1 => BTreeMap::from([(TokenHash([which; 32]), None)]),
            _ => BTreeMap::new(),
        },
        ..AccountsChange::default()
    }
}

#[derive(Debug, Clone)]
enum Action {
    Put(u8, u64),
    Remove(u8),
    Forget(u8),
    Begin(u8),
    Seal(Option<u64>),
    Account(u8, u64),
    RemoveUser(u8),
    Stop(u8, bool),
}

impl Action {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            4 => (0..6_u8, any::<u64>()).prop_map(|(which, number)| Self::Put(which, number)),
            2 => (0..6_u8).prop_map(Self::Remove),
            1 => (0..6_u8).prop_map(Self::Forget),
            1 => (6..8_u8).prop_map(Self::Begin),
            1 => proptest::option::of(0..100_u64).prop_map(Self::Seal),
            2 => (0..4_u8, any::<u64>()).prop_map(|(which, number)| Self::Account(which, number)),
            1 => (0..4_u8).prop_map(Self::RemoveUser),
            1 => (0..6_u8, any::<bool>()).prop_map(|(which, is_stopped)| Self::Stop(which, is_stopped)),
        ]
    }

    fn run(&self, catalog: &Catalog, content: &mut Content) -> Result<(), CatalogError> {
        match self {
            Self::Put(which, number) => {
                let (name, entry) = (name(&format!("service-{which}")), entry(*number));
                content.is_journal_in_use = true;
                content.services.insert(name.clone(), entry.clone());
                content.absent.remove(&name);
                catalog.put_service(&name, &entry)
            }
            Self::Remove(which) => {
                let name = name(&format!("service-{which}"));
                let was_there = content.services.remove(&name).is_some();
                content.users.values_mut().for_each(|user| drop(user.grants.remove(&name)));
                content.stopped.remove(&name);
                content.absent.insert(name.clone(), REMOVED);
                let removed = catalog.remove_service(&name, END, &catalog.hold_users());
                removed.map(|removed| assert_eq!(removed, was_there))
            }
            Self::Begin(which) => {
                let name = name(&format!("service-{which}"));
                content.absent.insert(name.clone(), Absent { is_being_created: true, ..REMOVED });
                catalog.note_creation(&name, END)
            }
            Self::Forget(which) => {
                let name = name(&format!("service-{which}"));
                content.absent.remove(&name);
                catalog.forget_absent([&name])
            }
            Self::Seal(number) => {
                content.seal = number.map(seal);
                catalog.set_seal(content.seal.as_ref())
            }
            Self::Account(which, number) => {
                let change = accounts_change(*which, *number);
                content.users.extend(change.put_users.clone());
                content.tokens.retain(|hash, _| !change.remove_tokens.contains(hash));
                content.tokens.extend(change.put_tokens.clone());
                for (hash, bound) in &change.bounds {
                    match bound {
                        Some(bound) => drop(content.bounds.insert(*hash, *bound)),
                        None => drop(content.bounds.remove(hash)),
                    }
                }
                catalog.change_accounts(&change, Room::Ordinary)
            }
            Self::RemoveUser(which) => {
                let user = name(&format!("user-{which}"));
                content.users.remove(&user);
                content.tokens.remove(&TokenHash([*which; 32]));
                let change = AccountsChange {
                    remove_users: [user].into(),
                    remove_tokens: [TokenHash([*which; 32])].into(),
                    ..AccountsChange::default()
                };
                catalog.change_accounts(&change, Room::Reserve)
            }
            Self::Stop(which, is_stopped) => {
                let name = name(&format!("service-{which}"));
                if *is_stopped {
                    content.stopped.insert(name.clone())
                } else {
                    content.stopped.remove(&name)
                };
                catalog.set_stopped(&name, *is_stopped)
            }
        }
    }
}

/// Creates a catalog with rows in every table.
fn filled(storage: &dyn Storage) -> Result<(Catalog, Content), CatalogError> {
    let catalog = Catalog::create(storage, DIRECTORY_ID)?;
    let mut wanted = Content::default();
    for action in [
        Action::Put(1, 1),
        Action::Seal(Some(3)),
        Action::Put(2, 2),
        Action::Put(1, 3),
        Action::Account(1, 2),
        Action::Account(3, 3),
        Action::Stop(2, true),
        Action::Put(5, 5),
        Action::Remove(5),
    ] {
        action.run(&catalog, &mut wanted)?;
    }
    Ok((catalog, wanted))
}

/// Lets the catalog reopen its file after a failed write. Returns the clock that measures its pauses.
fn reopens(catalog: &Catalog, storage: &SimulatedStorage) -> Arc<VirtualClock> {
    let clock = Arc::new(VirtualClock::new(Timestamp(1)));
    catalog.reopen_from(Arc::new(storage.clone()), Arc::clone(&clock) as _);
    clock
}

/// Returns the current contents of the catalog's file.
fn bytes_of(storage: &dyn Storage) -> io::Result<Vec<u8>> {
    let file = storage.open(CATALOG_FILE)?;
    let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(io::Error::other)?];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Returns a directory whose catalog file has these bytes.
fn storage_with(bytes: &[u8]) -> io::Result<SimulatedStorage> {
    let storage = SimulatedStorage::new(1);
    storage.create(CATALOG_FILE)?.write_all_at(0, bytes)?;
    Ok(storage)
}

fn catalog_error(error: io::Error) -> CatalogError {
    CatalogError::storage("test")(error)
}

#[test]
fn changes_are_read_back_from_every_storage() -> Result<(), CatalogError> {
    let directory = tempfile::tempdir().map_err(catalog_error)?;
    let storages: [Box<dyn Storage>; 2] =
        [Box::new(DiskStorage::create(directory.path()).map_err(catalog_error)?), Box::new(SimulatedStorage::new(1))];
    for storage in &storages {
        assert!(!Catalog::exists(storage.as_ref()).map_err(catalog_error)?);
        let catalog = Catalog::create(storage.as_ref(), DIRECTORY_ID)?;
        assert_eq!(content(&catalog)?, Content::default());
        drop(catalog);
        assert!(matches!(Catalog::create(storage.as_ref(), DIRECTORY_ID), Err(CatalogError::Exists)));

        let catalog = Catalog::open(storage.as_ref())?;
        let (bank, shop) = (name("bank"), name("shop"));
        catalog.put_service(&bank, &entry(1))?;
        catalog.put_service(&shop, &entry(2))?;
        catalog.put_service(&bank, &entry(3))?;
        catalog.set_seal(Some(&seal(9)))?;
        assert!(catalog.remove_service(&shop, END, &catalog.hold_users())?);
        assert!(!catalog.remove_service(&shop, END, &catalog.hold_users())?);
        let wanted = Content {
            seal: Some(seal(9)),
            is_journal_in_use: true,
            services: BTreeMap::from([(bank.clone(), entry(3))]),
            absent: BTreeMap::from([(shop.clone(), REMOVED)]),
            ..Content::default()
        };
        assert_eq!(content(&catalog)?, wanted);
        drop(catalog);

        let catalog = Catalog::open(storage.as_ref())?;
        assert_eq!(content(&catalog)?, wanted);
        assert_eq!(catalog.service(&bank)?, Some(entry(3)));
        assert_eq!(catalog.service(&shop)?, None);
        catalog.set_seal(None)?;
        assert!(catalog.remove_service(&bank, END, &catalog.hold_users())?);
        let absent = BTreeMap::from([(shop.clone(), REMOVED), (bank.clone(), REMOVED)]);
        assert_eq!(content(&catalog)?, Content { is_journal_in_use: true, absent, ..Content::default() });
        catalog.forget_absent([&bank])?;
        catalog.put_service(&shop, &entry(4))?;
        assert_eq!(catalog.absent()?, BTreeMap::new(), "one that has its name is another");
    }
    Ok(())
}

#[test]
fn the_file_stays_small_however_often_it_changes() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let catalog = Catalog::create(&storage, DIRECTORY_ID)?;
    for round in 0..200 {
        catalog.put_service(&name("bank"), &entry(round))?;
        catalog.set_seal(Some(&seal(round)))?;
    }
    assert!(storage.used_bytes() <= 128 * 1024, "{} bytes", storage.used_bytes());
    Ok(())
}

#[test]
fn a_secret_is_never_printed() -> Result<(), CatalogError> {
    let shown = format!("{:?} {:#?}", entry(1), entry(1));
    assert!(shown.contains("small") && !shown.contains(&SECRET_BYTE.to_string()), "{shown}");
    let directory = tempfile::tempdir().map_err(catalog_error)?;
    let (catalog, _) = filled(&DiskStorage::create(directory.path()).map_err(catalog_error)?)?;
    let shown = format!("{catalog:?}");
    assert!(!shown.contains(&SECRET_BYTE.to_string()), "{shown}");
    Ok(())
}

#[test]
fn a_catalog_older_than_accounts_gains_their_tables_with_the_first_one() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let catalog = Catalog::create(&storage, DIRECTORY_ID)?;
    catalog.put_service(&name("bank"), &entry(1))?;
    let tables = |catalog: &Catalog| {
        let transaction = catalog.current().database.begin_read().map_err(CatalogError::redb("read"))?;
        let tables = transaction.list_tables().map_err(CatalogError::redb("read"))?;
        Ok::<_, CatalogError>(tables.map(|table| table.name().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(tables(&catalog)?, ["absent", "meta", "services"]);
    assert_eq!(catalog.user(&name("ada"))?, None);
    // An empty change changes nothing.
    catalog.change_accounts(&AccountsChange::default(), Room::Ordinary)?;
    drop(catalog);
    let copy = Catalog::open_copy(&storage)?;
    assert_eq!(content(&copy)?.users, BTreeMap::new());
    let change = accounts_change(1, 1);
    assert!(matches!(copy.change_accounts(&change, Room::Ordinary), Err(CatalogError::ReadOnly)));
    let catalog = Catalog::open(&storage)?;
    catalog.change_accounts(&change, Room::Ordinary)?;
    assert_eq!(tables(&catalog)?, ["absent", "incarnations", "meta", "services", "token_bounds", "tokens", "users"]);
    drop(catalog);
    let copy = Catalog::open_copy(&storage)?;
    assert_eq!((copy.users()?, copy.tokens()?), (change.put_users, change.put_tokens));
    assert_eq!(copy.user(&name("user-1"))?, Some(user_entry(1)));
    Ok(())
}

#[test]
fn an_interrupted_creation_leaves_a_whole_catalog_or_none() -> Result<(), CatalogError> {
    let (mut none, mut whole) = (0, 0);
    for seed in 0..4 {
        for nth in 1.. {
            let storage = SimulatedStorage::new(seed * 1000 + nth);
            storage.power_off(nth);
            let is_created = Catalog::create(&storage, DIRECTORY_ID).is_ok();
            let is_done = !storage.is_off();
            let after = storage.crash();
            if Catalog::exists(&after).map_err(catalog_error)? {
                assert_eq!(content(&Catalog::open(&after)?)?, Content::default());
                whole += 1;
            } else {
                assert!(!is_created);
                assert_eq!(content(&Catalog::create(&after, DIRECTORY_ID)?)?, Content::default());
                none += 1;
            }
            if is_done {
                break;
            }
        }
    }
    assert!(none > 20 && whole > 20, "{none} {whole}");
    Ok(())
}

#[test]
fn a_creation_that_fails_can_be_tried_again() -> Result<(), CatalogError> {
    use Operation::{Create, Open, Read, Remove, Rename, SetBytes, SyncData, SyncDirectory, Write};
    let mut failures = 0;
    for operation in [Create, Open, Read, Remove, Rename, SetBytes, SyncData, SyncDirectory, Write] {
        for nth in 1.. {
            let storage = SimulatedStorage::new(nth);
            storage.fail(operation, nth);
            if Catalog::create(&storage, DIRECTORY_ID).is_ok() {
                break;
            }
            failures += 1;
            let catalog = if Catalog::exists(&storage).map_err(catalog_error)? {
                Catalog::open(&storage)?
            } else {
                Catalog::create(&storage, DIRECTORY_ID)?
            };
            assert_eq!(content(&catalog)?, Content::default());
        }
    }
    assert!(failures > 20, "{failures}");
    Ok(())
}

#[test]
fn a_change_that_fails_is_not_made_unless_its_outcome_is_unknown() -> Result<(), CatalogError> {
    let writes = |storage: &SimulatedStorage| {
        [Operation::Write, Operation::SyncData, Operation::SetBytes].map(|kind| storage.count(kind))
    };
    let actions = [
        Action::Put(3, 3),
        Action::Put(1, 5),
        Action::Remove(1),
        Action::Remove(2),
        Action::Seal(None),
        Action::Account(1, 5),
        Action::RemoveUser(1),
        Action::Stop(1, true),
        Action::Stop(2, false),
    ];
    let (mut done, mut failed, mut unknown) = (0, 0, [0; 2]);
    let kinds = [Operation::Write, Operation::SyncData, Operation::SetBytes];
    for (action, kind) in actions.iter().flat_map(|action| kinds.map(|kind| (action, kind))) {
        for nth in 1.. {
            let storage = SimulatedStorage::new(nth);
            let (catalog, old) = filled(&storage)?;
            storage.fail(kind, nth);
            let mut new = old.clone();
            let result = action.run(&catalog, &mut new);
            if catalog.current().progress.failed().is_none() {
                result?;
                break;
            }
            // Whatever the outcome, nothing is written any more, and the state of the outcome is read.
            let written = writes(&storage);
            assert!(matches!(catalog.set_seal(None), Err(CatalogError::Poisoned)));
            assert!(matches!(catalog.put_service(&name("bank"), &entry(1)), Err(CatalogError::Poisoned)));
            assert_eq!(content(&catalog)?, if result.is_ok() { new.clone() } else { old.clone() });
            drop(catalog);
            assert_eq!(writes(&storage), written);
            let found = content(&Catalog::open(&storage.crash())?)?;
            match result {
                Ok(()) => {
                    assert_eq!(found, new, "{action:?}, {kind:?} {nth}");
                    done += 1;
                }
                Err(CatalogError::OutcomeUnknown { .. }) => {
                    assert!(found == old || found == new, "{action:?}, {kind:?} {nth}: {found:?}");
                    unknown[usize::from(found == new)] += 1;
                }
                Err(CatalogError::Storage { action: "write", .. }) => {
                    assert_eq!(found, old, "{action:?}, {kind:?} {nth}");
                    failed += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
    assert!(done > 20 && failed > 20 && unknown[0] > 2 && unknown[1] > 2, "{done} {failed} {unknown:?}");
    Ok(())
}

/// redb cuts its file after a change is on the disk and before it shows the change. The layout of the pages decides
/// whether the change's commit or the empty one after it does that.
#[test]
fn a_change_that_is_on_the_disk_is_shown_even_if_the_file_cannot_be_cut() -> Result<(), CatalogError> {
    let mut reopened = 0;
    for (others, nth) in (0..8).flat_map(|others| (1..4).map(move |nth| (others, nth))) {
        let storage = SimulatedStorage::new(nth);
        let (catalog, mut wanted) = filled(&storage)?;
        reopens(&catalog, &storage);
        for which in 10..10 + others {
            Action::Account(which, 1).run(&catalog, &mut wanted)?;
        }
        let (big, long) = (name("big"), named(ENTRY_BYTES_MAX - 1000));
        catalog.put_service(&big, &long)?;
        catalog.remove_service(&big, END, &catalog.hold_users())?;
        wanted.absent.insert(big, REMOVED);
        wanted.is_journal_in_use = true;
        // From now on each commit cuts off some of the free room.
        let fault = storage.fail_in(CATALOG_FILE, Operation::SetBytes, nth);
        for number in 1..6 {
            Action::Seal(Some(number)).run(&catalog, &mut wanted)?;
            let is_reopened = catalog.current().progress.failed().is_none();
            assert_eq!(content(&catalog)?, wanted, "{others}, {nth}, {number}");
            if fault.has_fired() {
                reopened += usize::from(is_reopened);
                break;
            }
        }
        drop(catalog);
        assert_eq!(content(&Catalog::open(&storage.crash())?)?, wanted, "{others}, {nth}");
    }
    assert!(reopened > 0);
    Ok(())
}

#[test]
fn a_change_that_is_on_the_disk_ends_the_pauses_of_the_catalog() -> Result<(), CatalogError> {
    let mut reopened = 0;
    for others in 0..16 {
        let storage = SimulatedStorage::new(1);
        let (catalog, mut wanted) = filled(&storage)?;
        reopens(&catalog, &storage);
        for which in 10..10 + others {
            Action::Account(which, 1).run(&catalog, &mut wanted)?;
        }
        let big = name("big");
        catalog.put_service(&big, &named(ENTRY_BYTES_MAX - 1000))?;
        catalog.remove_service(&big, END, &catalog.hold_users())?;
        assert!(storage_fails_once(&storage, || catalog.set_seal(None)).is_err());
        catalog.mend(Room::Ordinary)?;
        // During the pause that has begun, the change fails once it is on the disk.
        let opened = storage.count(Operation::Open);
        let fault = storage.fail_in(CATALOG_FILE, Operation::SetBytes, 1);
        catalog.set_seal(Some(&seal(9)))?;
        if storage.count(Operation::Open) == opened {
            continue;
        }
        assert!(fault.has_fired());
        assert_eq!(catalog.seal()?, Some(seal(9)));
        reopened += 1;
        assert!(storage_fails_once(&storage, || catalog.set_seal(None)).is_err());
        catalog.mend(Room::Ordinary)?;
    }
    assert!(reopened > 0);
    Ok(())
}

#[test]
fn readers_continue_while_the_file_is_opened_anew() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, wanted) = filled(&storage)?;
    reopens(&catalog, &storage);
    let table = catalog.read(SERVICES)?;
    let mut rows = table.iter().map_err(CatalogError::redb("read"))?;
    let mut read = usize::from(rows.next().is_some());
    let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
    assert!(catalog.set_seal(None).is_err() && fault.has_fired());
    catalog.mend(Room::Ordinary)?;
    for row in rows {
        row.map_err(CatalogError::redb("read"))?;
        read += 1;
    }
    assert_eq!(read, wanted.services.len());
    assert!(table.get("service-1").map_err(CatalogError::redb("read"))?.is_some());
    Ok(())
}

#[test]
fn a_sync_that_fails_while_the_file_is_opened_anew_is_final() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, old) = filled(&storage)?;
    reopens(&catalog, &storage);
    let write = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
    assert!(catalog.set_seal(None).is_err() && write.has_fired());
    let sync = storage.fail_in(CATALOG_FILE, Operation::SyncData, 1);
    assert!(matches!(catalog.mend(Room::Ordinary), Err(CatalogError::Storage { .. })));
    assert!(sync.has_fired());
    assert!(matches!(catalog.mend(Room::Ordinary), Err(CatalogError::Poisoned)));
    assert_eq!(content(&catalog)?, old);
    Ok(())
}

#[test]
fn a_change_during_which_the_file_is_removed_or_replaced_has_an_unknown_outcome() -> Result<(), CatalogError> {
    for is_removed in [true, false] {
        let directory = tempfile::tempdir().map_err(catalog_error)?;
        let (path, aside) = (directory.path().join(CATALOG_FILE), directory.path().join("aside"));
        let storage = DiskStorage::open(directory.path()).map_err(catalog_error)?;
        drop(Catalog::create(&storage, DIRECTORY_ID)?);
        let _lock = storage.lock().map_err(catalog_error)?;
        let catalog = Catalog::open(&storage)?;
        let clock = Arc::new(VirtualClock::new(Timestamp(1)));
        catalog.reopen_from(Arc::new(storage), Arc::clone(&clock) as Arc<dyn Clock>);
        let changed = catalog.change("write", Room::Reserve, |transaction| {
            std::fs::rename(&path, &aside).expect("moved");
            if !is_removed {
                std::fs::copy(&aside, &path).expect("copied");
            }
            put_meta(transaction, SEAL, &postcard::to_stdvec(&seal(1)).expect("plain numbers"))
        });
        let Err(CatalogError::OutcomeUnknown { source }) = changed else { panic!("{changed:?}") };
        assert!(source.to_string().contains("its 'catalog.redb' is "), "{source}");
        let next = catalog.set_seal(None);
        assert!(matches!(next, Err(CatalogError::Storage { action: "check", .. })), "{next:?}");
        // Put the file back that was written to.
        std::fs::rename(&aside, &path).map_err(catalog_error)?;
        clock.advance(REOPEN_RETRY_MAX);
        catalog.mend(Room::Ordinary)?;
        assert_eq!(catalog.seal()?, Some(seal(1)));
        catalog.set_seal(None)?;
    }
    Ok(())
}

#[test]
fn a_seal_behind_the_last_position_is_damage() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let catalog = Catalog::create(&storage, DIRECTORY_ID)?;
    let sealed_at = |position| {
        catalog.set_seal(Some(&Seal { position, ..seal(1) }))?;
        Ok(catalog.seal()?.map(|seal| seal.position))
    };
    assert_eq!(sealed_at(POSITION_MAX)?, Some(POSITION_MAX));
    let behind = sealed_at(Position(POSITION_MAX.0 + 1));
    assert!(matches!(behind, Err(CatalogError::Damaged { .. })), "{behind:?}");
    Ok(())
}

/// An operator does this to put a copy back while the host runs.
#[test]
fn a_catalog_whose_file_is_removed_or_replaced_takes_no_changes() -> Result<(), CatalogError> {
    let directory = tempfile::tempdir().map_err(catalog_error)?;
    let (path, aside) = (directory.path().join(CATALOG_FILE), directory.path().join("aside"));
    let storage = DiskStorage::open(directory.path()).map_err(catalog_error)?;
    drop(Catalog::create(&storage, DIRECTORY_ID)?);
    let _lock = storage.lock().map_err(catalog_error)?;
    let catalog = Catalog::open(&storage)?;
    catalog.reopen_from(Arc::new(storage), Arc::new(VirtualClock::new(Timestamp(1))));
    catalog.put_service(&name("bank"), &entry(1))?;
    let old = content(&catalog)?;
    std::fs::rename(&path, &aside).map_err(catalog_error)?;
    for is_removed in [true, false] {
        if !is_removed {
            std::fs::copy(&aside, &path).map_err(catalog_error)?;
        }
        let changes = [
            catalog.set_seal(Some(&seal(1))),
            catalog.put_service(&name("shop"), &entry(2)),
            catalog.change_accounts(&accounts_change(1, 2), Room::Ordinary),
            catalog.change_accounts(&accounts_change(1, 2), Room::Reserve),
            catalog.remove_service(&name("bank"), END, &catalog.hold_users()).map(drop),
        ];
        for change in changes {
            assert!(matches!(change, Err(CatalogError::Storage { action: "check", .. })), "{change:?}");
        }
        assert_eq!(content(&catalog)?, old);
    }
    // The file that was opened has none of the changes, and is valid again at its path.
    std::fs::rename(&aside, &path).map_err(catalog_error)?;
    catalog.set_seal(Some(&seal(2)))?;
    assert_eq!(content(&catalog)?, Content { seal: Some(seal(2)), ..old });
    Ok(())
}

#[test]
fn another_file_is_not_opened_in_the_place_of_one_whose_write_failed() -> Result<(), CatalogError> {
    let failed = || {
        let storage = SimulatedStorage::new(1);
        let (catalog, old) = filled(&storage)?;
        let clock = reopens(&catalog, &storage);
        let write = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
        assert!(catalog.set_seal(None).is_err() && write.has_fired());
        Ok::<_, CatalogError>((storage, catalog, old, clock))
    };
    let (storage, catalog, old, _) = failed()?;
    storage.replace();
    let opened = storage.count(Operation::Open);
    let mended = catalog.mend(Room::Ordinary);
    assert!(matches!(mended, Err(CatalogError::Storage { action: "check", .. })), "{mended:?}");
    assert_eq!((storage.count(Operation::Open), content(&catalog)?), (opened, old));
    assert!(matches!(catalog.mend(Room::Ordinary), Err(CatalogError::Pausing { retry_after: REOPEN_RETRY_FIRST })));

    let (storage, catalog, old, clock) = failed()?;
    storage.rename(CATALOG_FILE, "aside").map_err(catalog_error)?;
    drop(Catalog::create(&storage, DirectoryId([8; 16]))?);
    for _ in 0..2 {
        let mended = catalog.mend(Room::Ordinary);
        assert!(matches!(mended, Err(CatalogError::NotACatalog { .. })), "{mended:?}");
        clock.advance(REOPEN_RETRY_MAX);
    }
    assert_eq!(content(&catalog)?, old);
    storage.rename("aside", CATALOG_FILE).map_err(catalog_error)?;
    catalog.set_seal(None)
}

#[test]
fn removing_a_service_brings_no_user_back() -> Result<(), CatalogError> {
    let mut unknown = [0; 2];
    for nth in 1.. {
        let storage = SimulatedStorage::new(nth);
        let (catalog, _) = filled(&storage)?;
        reopens(&catalog, &storage);
        let (user, service) = (name("user-1"), name("service-0"));
        assert!(catalog.user(&user)?.is_some_and(|entry| entry.grants.contains_key(&service)));
        let fault = storage.fail_in(CATALOG_FILE, Operation::Write, nth);
        let removal = AccountsChange { remove_users: [user.clone()].into(), ..AccountsChange::default() };
        let removed = catalog.change_accounts(&removal, Room::Reserve);
        if !fault.has_fired() {
            break;
        }
        let is_there = Catalog::open(&storage.copy())?.user(&user)?.is_some();
        if matches!(removed, Err(CatalogError::OutcomeUnknown { .. })) {
            unknown[usize::from(is_there)] += 1;
        }
        let _ = catalog.remove_service(&service, END, &catalog.hold_users())?;
        assert_eq!(catalog.user(&user)?.is_some(), is_there, "{nth}: {removed:?}");
    }
    assert!(unknown[0] > 0, "{unknown:?}");
    Ok(())
}

#[test]
fn a_catalog_that_found_no_room_takes_changes_again_once_there_is_some() -> Result<(), CatalogError> {
    let mut refused = 0;
    for nth in 1.. {
        let storage = SimulatedStorage::new(nth);
        let (catalog, old) = filled(&storage)?;
        let clock = reopens(&catalog, &storage);
        let mut new = old.clone();
        storage.fail(Operation::Write, nth);
        if Action::Put(3, nth).run(&catalog, &mut new).is_ok() {
            break;
        }
        refused += 1;
        // As long as there is no room, no change is accepted, however often it is retried.
        storage.break_down(Operation::Write, io::ErrorKind::StorageFull);
        for _ in 0..3 {
            assert!(Action::Put(4, nth).run(&catalog, &mut new.clone()).is_err());
            clock.advance(REOPEN_RETRY_MAX);
        }
        storage.mend(Operation::Write);
        Action::Put(4, nth).run(&catalog, &mut old.clone())?;
        let known = [&old, &new].map(|known| {
            let mut known = known.clone();
            known.services.insert(name("service-4"), entry(nth));
            known
        });
        let found = content(&catalog)?;
        assert!(known.contains(&found), "{found:?}");
        drop(catalog);
        assert_eq!(content(&Catalog::open(&storage.crash())?)?, found);
    }
    assert!(refused > 4, "{refused}");
    // The state after a failed sync is unknown.
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    reopens(&catalog, &storage);
    storage.fail(Operation::SyncData, 1);
    assert!(catalog.set_seal(None).is_err());
    assert!(matches!(catalog.set_seal(None), Err(CatalogError::Poisoned)));
    Ok(())
}

#[test]
fn while_writes_fail_the_file_is_opened_anew_after_pauses_alone() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, old) = filled(&storage)?;
    let clock = reopens(&catalog, &storage);
    storage.break_down(Operation::Write, io::ErrorKind::Other);
    let openings = || storage.count(Operation::Open);
    let before = openings();
    let order = || catalog.put_service(&name("service-9"), &entry(9));
    assert!(matches!(order(), Err(CatalogError::Storage { .. })));
    assert_eq!(openings(), before);
    // The outcome of the first failure is read at once, and then not again, however many callers ask.
    assert!(order().is_err());
    for _ in 0..20 {
        assert!(matches!(order(), Err(CatalogError::Pausing { retry_after: REOPEN_RETRY_FIRST })));
        assert!(matches!(catalog.mend(Room::Ordinary), Err(CatalogError::Pausing { .. })));
        assert_eq!(content(&catalog)?, old);
    }
    assert_eq!(openings(), before + 1);
    for _ in 0..20 {
        clock.advance(REOPEN_RETRY_MAX);
        assert!(!matches!(order(), Err(CatalogError::Pausing { .. })));
        assert!(matches!(order(), Err(CatalogError::Pausing { .. })));
    }
    assert_eq!(openings(), before + 21);
    storage.mend(Operation::Write);
    clock.advance(REOPEN_RETRY_MAX);
    order()?;
    // A change was stored, so the next failure is examined at once again.
    assert!(storage_fails_once(&storage, order).is_err());
    order()?;
    Ok(())
}

/// A caller that adds something retries as each pause ends.
#[test]
fn changes_that_make_room_do_not_wait_for_the_end_of_a_pause() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    let clock = reopens(&catalog, &storage);
    let fails = || storage_fails_once(&storage, || catalog.put_service(&name("service-9"), &entry(9)));
    for number in 0..3 {
        assert!(fails().is_err());
        // The file is reopened. A pause begins because nothing is stored.
        catalog.mend(Room::Ordinary)?;
        assert!(fails().is_err());
        assert!(matches!(catalog.mend(Room::Ordinary), Err(CatalogError::Pausing { .. })));
        match number {
            0 => drop(catalog.remove_service(&name("service-1"), END, &catalog.hold_users())?),
            1 => catalog.set_stopped(&name("service-2"), true)?,
            _ => catalog.set_seal(Some(&seal(9)))?,
        }
        clock.advance(REOPEN_RETRY_MAX);
    }
    Ok(())
}

/// Calls `order` while one write fails.
fn storage_fails_once<T>(storage: &SimulatedStorage, order: impl FnOnce() -> T) -> T {
    let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
    let ordered = order();
    assert!(fault.has_fired());
    ordered
}

#[test]
fn a_change_that_waits_behind_a_failed_write_is_stored() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    reopens(&catalog, &storage);
    let fault = storage.fail_in(CATALOG_FILE, Operation::Write, 1);
    let transaction = catalog.current().begin(Room::Reserve).map_err(CatalogError::redb("write"))?;
    let progress = catalog.current().progress;
    let before = progress.beginnings();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| catalog.set_seal(Some(&seal(9))));
        while progress.beginnings() == before {
            std::thread::yield_now();
        }
        assert!(put_meta(&transaction, SEAL, &[]).is_ok() && transaction.commit().is_err() && fault.has_fired());
        waiting.join().expect("it does not panic")
    })?;
    assert_eq!(catalog.seal()?, Some(seal(9)));
    Ok(())
}

#[test]
fn a_reader_does_not_wait_for_the_file_to_be_opened_anew() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, old) = filled(&storage)?;
    let catalog = Arc::new(catalog);
    reopens(&catalog, &storage);
    assert!(storage_fails_once(&storage, || catalog.set_seal(None)).is_err());
    // Opening writes, too.
    let held = storage.hold_writes();
    let before = storage.count(Operation::Open);
    let mending = std::thread::spawn({
        let catalog = Arc::clone(&catalog);
        move || catalog.mend(Room::Ordinary)
    });
    while storage.count(Operation::Open) == before {
        std::thread::yield_now();
    }
    let (send, read) = std::sync::mpsc::channel();
    let reading = Arc::clone(&catalog);
    std::thread::spawn(move || drop(send.send(content(&reading))));
    let read = read.recv_timeout(Duration::from_secs(30)).expect("it is read meanwhile");
    assert!(!mending.is_finished());
    drop(held);
    assert_eq!(read?, old);
    mending.join().expect("it does not panic")
}

#[test]
fn a_catalog_whose_storage_failed_can_be_read_whole_however_long_it_is() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, mut wanted) = filled(&storage)?;
    for number in 0..16 {
        let (name, long) = (name(&format!("long-{number}")), named(ENTRY_BYTES_MAX - 1000));
        catalog.put_service(&name, &long)?;
        wanted.services.insert(name, long);
    }
    assert!(storage.used_bytes() > 16 << 20);
    for catalog in [catalog, Catalog::open(&storage.copy())?] {
        assert_eq!(content(&catalog)?, wanted);
        catalog.current().progress.fail(Failed::Write);
        // redb tries to write, and from then on does nothing with the file.
        assert!(catalog.current().begin(Room::Reserve).and_then(|change| Ok(change.commit()?)).is_err());
        assert_eq!(content(&catalog)?, wanted);
    }
    Ok(())
}

#[test]
fn a_full_disk_is_an_error() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, old) = filled(&storage)?;
    storage.limit_space(storage.taken_bytes());
    let long = named(200_000);
    let result = catalog.put_service(&name("bank"), &long);
    assert!(
        matches!(&result, Err(CatalogError::NoRoom { source, .. }) if source.kind() == io::ErrorKind::StorageFull),
        "{result:?}"
    );
    let text = result.expect_err("there is none").to_string();
    assert!(text.contains("4 MiB that removals may need; make room on the disk, or remove"), "{text}");
    drop(catalog);
    let after = storage.crash();
    assert_eq!(content(&Catalog::open(&after)?)?, old);
    Ok(())
}

/// This holds for all contents, and however the file grew and shrank.
#[test]
fn services_can_be_stopped_or_removed_on_a_full_disk() -> Result<(), CatalogError> {
    let service = |number: u64| name(&format!("service-{number}"));
    for count in 1..40 {
        let storage = SimulatedStorage::new(count);
        let catalog = Catalog::create(&storage, DIRECTORY_ID)?;
        reopens(&catalog, &storage);
        for number in 0..2 * count {
            catalog.put_service(&service(number), &entry(number))?;
        }
        for number in count..2 * count {
            catalog.remove_service(&service(number), END, &catalog.hold_users())?;
        }
        for which in 0..(count % 60) as u8 {
            catalog.change_accounts(&accounts_change(which, 3), Room::Ordinary)?;
        }
        storage.limit_space(storage.taken_bytes());
        // A change that needs more room is refused, and takes none from these.
        let more = |number| catalog.put_service(&name(&format!("more-{number}")), &named(2000));
        let refused = (0..1000).find_map(|number| more(number).err());
        assert!(matches!(refused, Some(CatalogError::NoRoom { .. })), "{refused:?}");
        for number in 0..count {
            catalog.set_stopped(&service(number), true)?;
            catalog.set_stopped(&service(number), false)?;
        }
        for number in 0..count {
            assert!(catalog.remove_service(&service(number), END, &catalog.hold_users())?, "{count}, {number}");
        }
    }
    Ok(())
}

/// Adds `count` tokens from `first` on, as log-ins do.
fn add_tokens(catalog: &Catalog, first: u64, count: u64) -> Result<(), CatalogError> {
    let token = TokenEntry { user: name("user-1"), issued: Timestamp(1), expires: Timestamp(2) };
    let hash = |number: u64| TokenHash(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let put_tokens = (first..first + count).map(|number| (hash(number), token.clone())).collect();
    catalog.change_accounts(&AccountsChange { put_tokens, ..AccountsChange::default() }, Room::Ordinary)
}

/// Creates a catalog of `tokens` tokens on a disk without a free byte, and adds tokens until it accepts no more. Users
/// have grants on the first service.
fn full(seed: u64, tokens: u64) -> Result<(SimulatedStorage, Catalog, Arc<VirtualClock>), CatalogError> {
    let storage = SimulatedStorage::new(seed);
    let catalog = Catalog::create(&storage, DIRECTORY_ID)?;
    let clock = reopens(&catalog, &storage);
    for which in 0..=seed as u8 {
        catalog.put_service(&name(&format!("service-{which}")), &entry(which.into()))?;
        catalog.change_accounts(&accounts_change(which, 2), Room::Ordinary)?;
    }
    add_tokens(&catalog, 0, tokens)?;
    storage.limit_space(storage.taken_bytes());
    let refused = (tokens..).find_map(|number| add_tokens(&catalog, number, 1).err());
    assert!(matches!(refused, Some(CatalogError::NoRoom { .. })), "{refused:?}");
    Ok((storage, catalog, clock))
}

/// Removes everything from a [`full`] catalog.
fn remove_all(catalog: &Catalog) -> Result<(), CatalogError> {
    let services: Vec<Name> = catalog.services()?.into_keys().collect();
    for service in services {
        catalog.set_stopped(&service, true)?;
        assert!(catalog.remove_service(&service, END, &catalog.hold_users())?);
    }
    let remove_users = catalog.users()?.into_keys().collect();
    let remove_tokens = catalog.tokens()?.into_keys().collect();
    let bounds = catalog.token_bounds()?.into_keys().map(|hash| (hash, None)).collect();
    let change = AccountsChange { remove_users, remove_tokens, bounds, ..AccountsChange::default() };
    catalog.change_accounts(&change, Room::Reserve)?;
    catalog.forget_absent(catalog.absent()?.keys())?;
    catalog.set_seal(Some(&seal(1)))
}

#[test]
fn whatever_additions_left_of_a_full_disk_removals_find_room() -> Result<(), CatalogError> {
    // In the longest one, the reserve is as long as the file.
    for (seed, tokens) in (0..12).map(|seed| (seed, 40 * seed)).chain([(1, 20_000)]) {
        let (storage, catalog, clock) = full(seed, tokens)?;
        // Test the time before the first removal, and the time after one that failed and was repeated.
        if seed % 2 == 1 {
            storage.fail_in(CATALOG_FILE, Operation::Write, 1);
            assert!(catalog.remove_service(&name("service-0"), END, &catalog.hold_users()).is_err());
            clock.advance(REOPEN_RETRY_MAX);
        }
        remove_all(&catalog)?;
        drop(catalog);
        let found = content(&Catalog::open(&storage.crash())?)?;
        assert_eq!(found, Content { seal: Some(seal(1)), is_journal_in_use: true, ..Content::default() });
    }
    Ok(())
}

#[test]
fn additions_wait_until_the_reserve_is_whole_again() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    add_tokens(&catalog, 0, 300)?;
    let change = AccountsChange { remove_tokens: catalog.tokens()?.into_keys().collect(), ..AccountsChange::default() };
    catalog.change_accounts(&change, Room::Reserve)?;
    drop(catalog);
    // There are free pages and some room, and no room is held for removals.
    let storage = storage.crash();
    storage.limit_space(storage.taken_bytes() + 512 * 1024);
    let catalog = Catalog::open(&storage)?;
    reopens(&catalog, &storage);
    let writes = storage.count(Operation::Write);
    for number in 0..3 {
        let refused = add_tokens(&catalog, 1_000 + number, 1);
        assert!(matches!(refused, Err(CatalogError::NoRoom { .. })), "{refused:?}");
    }
    assert_eq!(storage.count(Operation::Write), writes, "it is known before anything is written");
    assert!(catalog.remove_service(&name("service-1"), END, &catalog.hold_users())?);
    let refused = add_tokens(&catalog, 1_000, 1);
    assert!(matches!(refused, Err(CatalogError::NoRoom { .. })), "{refused:?}");

    storage.limit_space(u64::MAX);
    add_tokens(&catalog, 1_000, 1)?;
    let file_bytes = bytes_of(&storage).map_err(catalog_error)?.len() as u64;
    assert!(storage.taken_bytes() >= file_bytes + 4 * 1024 * 1024, "{} bytes", storage.taken_bytes());
    // Whatever is added then, removals find room.
    storage.limit_space(storage.taken_bytes());
    let refused = (2_000..).find_map(|number| add_tokens(&catalog, number, 1).err());
    assert!(matches!(refused, Some(CatalogError::NoRoom { .. })), "{refused:?}");
    remove_all(&catalog)
}

/// A file that may not grow is like a full disk.
#[test]
fn whatever_additions_left_of_the_longest_file_removals_find_room() -> Result<(), CatalogError> {
    let mut lengths = BTreeSet::new();
    for seed in 0..6 {
        let storage = SimulatedStorage::new(seed);
        drop(filled(&storage)?);
        let catalog = Catalog::open_of_at_most(&storage, SHORT_BYTES_MAX)?;
        reopens(&catalog, &storage);
        // The file doubles from another length each time.
        for which in 0..seed {
            catalog.put_service(&name(&format!("long-{which}")), &named(150_000 * (which as usize + 1)))?;
        }
        let refused = (0..).find_map(|number| add_tokens(&catalog, 1_000 * number, 1_000).err());
        assert!(matches!(refused, Some(CatalogError::Full { .. })), "{refused:?}");
        let refused = (0..).find_map(|number| add_tokens(&catalog, 1_000_000 + number, 1).err());
        let text = refused.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(text.contains("is full and accepts nothing new; remove"), "{text}");
        // From then on this is known before anything is written.
        let writes = storage.count(Operation::Write);
        assert!(matches!(add_tokens(&catalog, 2_000_000, 1), Err(CatalogError::Full { .. })));
        assert_eq!(storage.count(Operation::Write), writes);
        let bytes = || bytes_of(&storage).map(|bytes| bytes.len() as u64).map_err(catalog_error);
        assert!(bytes()? <= SHORT_BYTES_MAX / 2, "{} bytes", bytes()?);
        lengths.insert(bytes()?);

        remove_all(&catalog)?;
        assert!(bytes()? <= SHORT_BYTES_MAX, "{} bytes", bytes()?);
        // A file that a removal has grown shrinks gradually.
        let tries = (0..10).position(|_| add_tokens(&catalog, 0, 1).is_ok());
        assert!(tries.is_some(), "{} bytes", bytes()?);
    }
    assert!(lengths.len() > 1, "{lengths:?}");
    Ok(())
}

/// Creates a catalog whose full file was doubled, to more than half of [`SHORT_BYTES_MAX`], by a removal of `percent`
/// percent of the tokens. Also returns the number of a token from which on it has none.
fn doubled(seed: u64, percent: usize) -> Result<(SimulatedStorage, Catalog, Arc<VirtualClock>, u64), CatalogError> {
    let storage = SimulatedStorage::new(seed);
    drop(filled(&storage)?);
    let catalog = Catalog::open_of_at_most(&storage, SHORT_BYTES_MAX)?;
    let clock = reopens(&catalog, &storage);
    for which in 0..seed {
        catalog.put_service(&name(&format!("long-{which}")), &named(150_000 * (which as usize + 1)))?;
    }
    // Until there is no room for ten.
    let mut next = 0;
    for step in [1_000, 100, 10] {
        catalog.current().progress.forget_missing();
        let refused = loop {
            match add_tokens(&catalog, next, step) {
                Ok(()) => next += step,
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, CatalogError::Full { .. }), "{refused:?}");
        clock.advance(REOPEN_RETRY_MAX);
    }
    // Tokens are ordered by their hashes.
    let tokens = catalog.tokens()?.into_keys().enumerate();
    let remove_tokens = tokens.filter(|(at, _)| at * 7_919 % 100 < percent).map(|(_, token)| token).collect();
    catalog.change_accounts(&AccountsChange { remove_tokens, ..AccountsChange::default() }, Room::Reserve)?;
    assert!(catalog.current().progress.is_too_long());
    Ok((storage, catalog, clock, next))
}

/// redb reads the copy of a command behind its end, and reports an invalid input.
#[test]
fn a_catalog_that_is_cut_off_is_damaged_for_commands_that_only_read() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    drop(Catalog::create(&storage, DirectoryId([1; 16]))?);
    let bytes = bytes_of(&storage).map_err(catalog_error)?;
    for cut in (0..400).step_by(10).chain([4_096, 8_192, bytes.len() - 1]) {
        let storage = storage_with(&bytes[..cut]).map_err(catalog_error)?;
        for opened in [Catalog::open_copy(&storage), Catalog::open(&storage)] {
            let error = opened.expect_err("it is cut off");
            let is_named = matches!(error, CatalogError::Damaged { .. } | CatalogError::NotACatalog { .. });
            assert!(is_named, "{cut} bytes: {error}");
        }
    }
    Ok(())
}

/// A removal that finds no free page doubles the file. The pages that it writes are at the end of the file, so nothing
/// can be cut off there, even with the next start.
#[test]
fn additions_use_what_removals_have_freed_even_in_a_doubled_file() -> Result<(), CatalogError> {
    for (seed, percent) in [(0, 1), (3, 40)] {
        let (storage, catalog, _, next) = doubled(seed, percent)?;
        let bytes = || bytes_of(&storage).map(|bytes| bytes.len() as u64).map_err(catalog_error);
        let doubled = bytes()?;
        assert!(doubled > SHORT_BYTES_MAX / 2, "{doubled} bytes");
        add_tokens(&catalog, next, 1)?;
        drop(catalog);
        let catalog = Catalog::open_of_at_most(&storage, SHORT_BYTES_MAX)?;
        reopens(&catalog, &storage);
        add_tokens(&catalog, next + 1, 1)?;
        assert!(bytes()? > SHORT_BYTES_MAX / 2, "{} bytes", bytes()?);
        // Additions leave removals as much as is in use, and do not grow the file.
        let refused = (1..).find_map(|number| add_tokens(&catalog, next + 1_000 * number, 1_000).err());
        let text = refused.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(matches!(refused, Some(CatalogError::Full { .. })) && text.contains("is free"), "{refused:?}");
        assert!(bytes()? <= doubled, "{} bytes", bytes()?);
        remove_all(&catalog)?;
    }
    Ok(())
}

#[test]
fn an_addition_without_room_in_a_half_free_file_is_refused_early_from_then_on() -> Result<(), CatalogError> {
    let (_storage, catalog, clock, next) = doubled(3, 40)?;
    let more = || add_tokens(&catalog, next, 150_000);
    assert!(matches!(more(), Err(CatalogError::Full { .. })));
    assert_eq!(catalog.current().progress.failed(), Some(Failed::Write));
    clock.advance(REOPEN_RETRY_MAX);
    assert!(matches!(more(), Err(CatalogError::Full { .. })));
    assert_eq!(catalog.current().progress.failed(), None);
    // Once something is removed, additions are tried again.
    catalog.set_stopped(&name("service-1"), false)?;
    add_tokens(&catalog, next, 1)
}

/// As long as no removal needs the reserve, free pages are available to all changes.
#[test]
fn pages_that_are_free_again_are_for_additions_too() -> Result<(), CatalogError> {
    let (_storage, catalog, _) = full(2, 300)?;
    let first = catalog.tokens()?.into_keys().next().expect("there are some");
    // A log-in of a user who has the maximum number of tokens.
    let change = |number: u8| AccountsChange {
        remove_tokens: [first, TokenHash([number.wrapping_sub(1); 32])].into(),
        ..accounts_change(number, 2)
    };
    let tokens: BTreeSet<TokenHash> = catalog.tokens()?.into_keys().take(200).collect();
    let removal = AccountsChange { remove_tokens: tokens, ..AccountsChange::default() };
    let bytes = catalog.current().progress.reserve_bytes();
    catalog.change_accounts(&removal, Room::Reserve)?;
    assert_eq!(catalog.current().progress.reserve_bytes(), bytes);
    catalog.change_accounts(&change(7), Room::Ordinary)
}

#[test]
fn an_entry_that_is_too_long_for_the_disk_excludes_no_shorter_one() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    reopens(&catalog, &storage);
    storage.limit_space(storage.taken_bytes());
    let refused = catalog.put_service(&name("long"), &named(200_000));
    assert!(matches!(refused, Err(CatalogError::NoRoom { .. })), "{refused:?}");
    catalog.put_service(&name("short"), &entry(1))
}

#[test]
fn only_an_opening_that_writes_holds_a_reserve() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    drop(filled(&storage)?);
    let file_bytes = bytes_of(&storage).map_err(catalog_error)?.len() as u64;
    // An older release leaves the file like this, or a copy of the directory does.
    let storage = storage.crash();
    assert_eq!(storage.taken_bytes(), file_bytes);
    drop(Catalog::open_copy(&storage)?);
    assert_eq!((storage.taken_bytes(), storage.count(Operation::HoldRoom)), (file_bytes, 0));
    drop(Catalog::open(&storage)?);
    assert!(storage.taken_bytes() >= file_bytes + 4 * 1024 * 1024, "{} bytes", storage.taken_bytes());
    Ok(())
}

#[test]
fn a_catalog_works_on_a_storage_that_can_hold_no_reserve() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    drop(filled(&storage)?);
    let storage = storage.crash();
    storage.break_down(Operation::HoldRoom, io::ErrorKind::Unsupported);
    let catalog = Catalog::open(&storage)?;
    add_tokens(&catalog, 0, 1_000)?;
    remove_all(&catalog)
}

/// For example after an upgrade: the disk is for snapshots, too.
#[test]
fn a_reserve_that_does_not_fit_leaves_the_disk_to_others() -> Result<(), CatalogError> {
    // Additions grow the file, and so the reserve.
    const GROWTH_BYTES: u64 = 1024 * 1024;
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    let whole = catalog.current().progress.reserve_bytes();
    drop(catalog);
    let before = storage.crash();
    for spare in [0, whole - 1, whole, whole + SPARE_BYTES - 1, whole + SPARE_BYTES + GROWTH_BYTES] {
        let storage = before.copy();
        let taken = storage.taken_bytes();
        storage.limit_space(taken + spare);
        let catalog = Catalog::open(&storage)?;
        reopens(&catalog, &storage);
        let is_whole = spare > whole + SPARE_BYTES;
        let added = (0..3).map(|number| add_tokens(&catalog, number, 1)).collect::<Result<Vec<_>, _>>();
        assert_eq!(added.is_ok(), is_whole, "{spare}: {added:?}");
        if !is_whole {
            assert!(matches!(added, Err(CatalogError::NoRoom { .. })), "{added:?}");
            assert_eq!(storage.taken_bytes(), taken, "{spare}");
        }
    }
    Ok(())
}

/// The reserve was not whole before.
#[test]
fn a_cut_extends_the_held_room_only_if_that_leaves_the_spare() -> io::Result<()> {
    const MIB: u64 = 1024 * 1024;
    // A file of 10 MiB without a reserve is cut to 7 MiB, whose reserve ends at 14 MiB.
    for (space, held) in [(10, 10), (14, 10), (10 + 4 + 15, 10), (10 + 4 + 16, 14)] {
        let storage = SimulatedStorage::new(1);
        let progress = Arc::new(Progress::of(storage.create(CATALOG_FILE)?, CATALOG_BYTES_MAX));
        let backend = Backend::new(Arc::clone(&progress));
        progress.begin(Room::Reserve);
        storage.limit_space(10 * MIB);
        backend.set_len(10 * MIB)?;
        storage.limit_space(space * MIB);
        backend.set_len(7 * MIB)?;
        assert_eq!((storage.used_bytes(), storage.taken_bytes()), (7 * MIB, held * MIB), "of {space} MiB");
    }
    Ok(())
}

#[test]
fn a_crash_while_the_reserve_is_used_or_held_again_loses_nothing() -> Result<(), CatalogError> {
    let (mut olds, mut news) = (0, 0);
    for nth in 1.. {
        let (storage, catalog, _) = full(1, 200)?;
        let old = content(&catalog)?;
        storage.power_off(nth);
        let removed = catalog.remove_service(&name("service-1"), END, &catalog.hold_users());
        let is_done = !storage.is_off();
        drop(catalog);
        let after = storage.crash();
        after.limit_space(after.taken_bytes());
        let catalog = Catalog::open(&after)?;
        reopens(&catalog, &after);
        let found = content(&catalog)?;
        let is_old = found == old;
        assert!(if is_old { removed.is_err() } else { !found.services.contains_key(&name("service-1")) }, "{nth}");
        olds += u32::from(is_old);
        news += u32::from(!is_old);
        // Another user may have taken the room that the crash released. Once there is room, everything continues.
        after.limit_space(u64::MAX);
        add_tokens(&catalog, 9_000, 1)?;
        remove_all(&catalog)?;
        if is_done {
            break;
        }
    }
    assert!(olds > 3 && news > 3, "{olds} {news}");
    Ok(())
}

#[test]
fn an_entry_has_a_longest_length() -> Result<(), CatalogError> {
    let catalog = Catalog::create(&SimulatedStorage::new(1), DIRECTORY_ID)?;
    catalog.put_service(&name("bank"), &named(ENTRY_BYTES_MAX - 1000))?;
    let refused = catalog.put_service(&name("bank"), &named(ENTRY_BYTES_MAX));
    assert!(matches!(refused, Err(CatalogError::EntryTooLong { .. })), "{refused:?}");
    catalog.put_service(&name("bank"), &entry(1))?;
    Ok(())
}

/// Opens a catalog of damaged bytes: the result must be an error or `wanted`. Returns whether it is `wanted`.
fn check_damaged(bytes: &[u8], wanted: &Content) -> Result<bool, String> {
    let storage = storage_with(bytes).map_err(|error| error.to_string())?;
    let found = Catalog::open(&storage).and_then(|catalog| Ok((content(&catalog)?, catalog)));
    let Ok((found, catalog)) = found else { return Ok(false) };
    if found != *wanted {
        return Err(format!("found {found:?}"));
    }
    // The next change of it is stored, too.
    let mut wanted = found;
    let written = Action::Put(4, 4).run(&catalog, &mut wanted);
    drop(catalog);
    let again = Catalog::open(&storage).and_then(|catalog| content(&catalog));
    match (written, again) {
        (Ok(()), Ok(again)) if again == wanted => Ok(true),
        (Err(_), _) => Ok(true),
        (Ok(()), again) => Err(format!("after a change found {again:?}")),
    }
}

/// Returns the file after a clean stop and after a crash that lost nothing, and its contents.
fn healthy_files() -> Result<([Vec<u8>; 2], Content), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, wanted) = filled(&storage)?;
    let crashed = bytes_of(&storage).map_err(catalog_error)?;
    drop(catalog);
    let stopped = bytes_of(&storage).map_err(catalog_error)?;
    Ok(([stopped, crashed], wanted))
}

#[test]
fn a_flipped_byte_is_an_error_or_does_no_harm() -> Result<(), CatalogError> {
    // redb's header, in which some fields have no checksum.
    const HEADER_BYTES: usize = 320;
    let (files, wanted) = healthy_files()?;
    for mut bytes in files {
        let (mut refused, mut harmless) = (0, 0);
        for offset in 0..bytes.len() {
            let masks: &[u8] = match offset {
                0..HEADER_BYTES => &[1, 2, 4, 8, 16, 32, 64, 128, 255],
                _ if bytes[offset] != 0 || offset.is_multiple_of(61) => &[1 << (offset % 8)],
                _ => continue,
            };
            for mask in masks {
                bytes[offset] ^= mask;
                match check_damaged(&bytes, &wanted) {
                    Ok(false) => refused += 1,
                    Ok(true) => harmless += 1,
                    Err(what) => panic!("byte {offset} flipped by {mask:#x}: {what}"),
                }
                bytes[offset] ^= mask;
            }
        }
        assert!(refused > 1000 && harmless > 1000, "{refused} {harmless}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn after_any_crash_the_catalog_is_that_before_or_after_the_last_change(
        seed: u64,
        rounds in vec((vec(Action::any(), 1..8), 1..150_u64, proptest::option::of(1..40_u64)), 1..5),
    ) {
        let mut storage = SimulatedStorage::new(seed);
        drop(Catalog::create(&storage, DIRECTORY_ID)?);
        let mut wanted = Content::default();
        for (actions, power_off, power_off_while_opening) in rounds {
            if let Some(nth) = power_off_while_opening {
                storage.power_off(nth);
                let _ = Catalog::open(&storage);
                storage = storage.crash();
            }
            let catalog = Catalog::open(&storage)?;
            prop_assert_eq!(&content(&catalog)?, &wanted);
            storage.power_off(power_off);
            let mut new = wanted.clone();
            for action in actions {
                if action.run(&catalog, &mut new).is_err() {
                    break;
                }
                wanted.clone_from(&new);
            }
            if seed.is_multiple_of(2) {
                drop(catalog);
            }
            storage = storage.crash();
            let found = content(&Catalog::open(&storage)?)?;
            prop_assert!(found == wanted || found == new, "found {:?}, old {:?}, new {:?}", found, wanted, new);
            wanted = found;
        }
    }

    #[test]
    fn damage_of_any_shape_is_an_error_or_does_no_harm(
        which in 0..2_usize,
        patches in vec((any::<prop::sample::Index>(), vec(any::<u8>(), 1..600)), 0..4),
        header in vec((0..320_usize, any::<u8>()), 0..3),
        length in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (files, wanted) = healthy_files()?;
        let mut bytes = files[which].clone();
        for (at, patch) in patches {
            let start = at.index(bytes.len());
            for (byte, damaged) in bytes[start..].iter_mut().zip(patch) {
                *byte = damaged;
            }
        }
        for (offset, byte) in header {
            bytes[offset] = byte;
        }
        if let Some(length) = length {
            bytes.truncate(length.index(bytes.len()));
        }
        check_damaged(&bytes, &wanted).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn other_files_are_no_catalogs() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    assert!(matches!(Catalog::open(&storage), Err(CatalogError::Storage { action: "open", .. })));
    for bytes in [&b""[..], b"x", &[0; 100_000], b"LBSEGMT\n"] {
        let result = Catalog::open(&storage_with(bytes).map_err(catalog_error)?);
        assert!(matches!(result, Err(CatalogError::NotACatalog { .. })), "{result:?}");
    }
    // A redb database, but not a catalog.
    let file = storage.create(CATALOG_FILE).map_err(catalog_error)?;
    let backend = Backend::new(Arc::new(Progress::of(file, CATALOG_BYTES_MAX)));
    drop(redb::Builder::new().create_with_backend(backend).map_err(CatalogError::redb("create"))?);
    let result = Catalog::open(&storage);
    assert!(matches!(result, Err(CatalogError::NotACatalog { .. })), "{result:?}");
    Ok(())
}

/// Returns the result of `Catalog::open` after a change that no host makes.
fn after(change: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>) -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, _) = filled(&storage)?;
    catalog.change("write", Room::Reserve, change)?;
    drop(catalog);
    Catalog::open(&storage).map(drop)
}

#[test]
fn entries_of_a_newer_host_are_refused_as_such() {
    let format = after(|transaction| {
        // The other tables may have any contents.
        transaction.delete_table(SERVICES)?;
        put_meta(transaction, DIRECTORY, b"elsewhere")?;
        put_meta(transaction, FORMAT, &(CATALOG_VERSION + 1).to_le_bytes())
    });
    assert!(matches!(format, Err(CatalogError::FutureVersion { found: 2, newest: 1, .. })), "{format:?}");
    let entry = after(|transaction| put(transaction, SERVICES, "bank", &[ENTRY_VERSION + 1, 1, 2, 3]));
    assert!(matches!(entry, Err(CatalogError::FutureVersion { found: 3, newest: 2, .. })), "{entry:?}");
    let user = after(|transaction| put(transaction, USERS, "ada", &[USER_VERSION + 1, 1, 2, 3]));
    assert!(matches!(user, Err(CatalogError::FutureVersion { found: 3, newest: 2, .. })), "{user:?}");
    let token = after(|transaction| put(transaction, TOKENS, &"0".repeat(64), &[TOKEN_VERSION + 1]));
    assert!(matches!(token, Err(CatalogError::FutureVersion { found: 3, newest: 2, .. })), "{token:?}");
}

#[test]
fn entries_of_an_earlier_release_are_read() -> Result<(), CatalogError> {
    let storage = SimulatedStorage::new(1);
    let (catalog, mut wanted) = filled(&storage)?;
    let token = TokenEntry { user: name("ada"), issued: Timestamp(1), expires: Timestamp(2) };
    catalog.change("write", Room::Reserve, |transaction| {
        for number in 6..10 {
            let name = format!("service-{number}");
            put(transaction, SERVICES, &name, &entry(number).to_bytes_of_version_1())?;
            put(transaction, USERS, &format!("user-{number}"), &user_entry(number).to_bytes_of_version_1())?;
        }
        put(transaction, TOKENS, &"0".repeat(64), &token.to_bytes_of_version_1())
    })?;
    for number in 6..10 {
        wanted.services.insert(name(&format!("service-{number}")), entry(number));
        wanted.users.insert(name(&format!("user-{number}")), user_entry(number));
    }
    wanted.tokens.insert(TokenHash([0; 32]), token);
    assert_eq!(content(&catalog)?, wanted);
    drop(catalog);
    assert_eq!(content(&Catalog::open(&storage)?)?, wanted);
    Ok(())
}

#[test]
fn an_entry_with_an_unknown_required_part_is_of_a_newer_host() {
    let newer = |bytes: &[u8]| {
        let parts = Parts::read(&bytes[1..], &[1, 2, 3, 4, 5]).expect("parts");
        parts.with(99, &"new").append_to(vec![bytes[0]])
    };
    let token = TokenEntry { user: name("ada"), issued: Timestamp(1), expires: Timestamp(2) };
    for result in [
        after(|transaction| put(transaction, SERVICES, "bank", &newer(&entry(1).to_bytes()))),
        after(|transaction| put(transaction, USERS, "ada", &newer(&user_entry(1).to_bytes()))),
        after(|transaction| put(transaction, TOKENS, &"0".repeat(64), &newer(&token.to_bytes()))),
    ] {
        assert!(matches!(result, Err(CatalogError::UnknownPart { kind: 99, .. })), "{result:?}");
    }
}

/// The kinds of the parts of settings without that of calls.
const KINDS_WITHOUT_CALLS: [u16; 7] = [1, 2, 3, 4, 5, 6, 7];

#[test]
fn the_network_of_a_service_is_stored_unless_it_calls_nobody() -> Result<(), EntryError> {
    let (calls, silent) = (entry(10).settings, entry(9).settings);
    assert_eq!(calls.network.allow.entries().len(), 2);
    assert_eq!(ServiceSettings::from_bytes(&calls.to_bytes())?, calls);
    // A host that does not know the part of calls reads a service that calls nobody, and refuses all others.
    assert!(Parts::read(&silent.to_bytes()[1..], &KINDS_WITHOUT_CALLS).is_ok());
    assert_eq!(Parts::read(&calls.to_bytes()[1..], &KINDS_WITHOUT_CALLS), Err(PartsError::Unknown(8)));
    assert_eq!(ServiceSettings::from_bytes(&silent.to_bytes())?.network, NetworkSettings::default());
    let retried = NetworkSettings { retry: Retry::Idempotent, ..NetworkSettings::default() };
    let retried = ServiceSettings { network: retried, ..silent };
    assert_eq!(ServiceSettings::from_bytes(&retried.to_bytes())?, retried);
    Ok(())
}

#[test]
fn a_network_that_no_host_writes_is_refused() {
    let with = |entries: Vec<(&str, bool)>, retry: u32| {
        let bytes = entry(9).settings.to_bytes();
        let parts = Parts::read(&bytes[1..], &KINDS_WITHOUT_CALLS).expect("parts");
        ServiceSettings::from_bytes(&parts.with(8, &(entries, retry)).append_to(vec![bytes[0]]))
    };
    let network = with(vec![("https://*.example.org", false), ("http://db:5432", true)], 1).map(|it| it.network);
    assert_eq!(network, Ok(super::tests::network(10)));
    for wrong in
        [with(vec![("db", false)], 0), with(vec![("http://db", false); 65], 0), with(vec![("http://db", false)], 3)]
    {
        assert!(matches!(wrong, Err(EntryError::Unreadable(_))), "{wrong:?}");
    }
}

#[test]
fn entries_that_no_host_writes_are_damage() {
    let is_damaged = |result: Result<(), CatalogError>| {
        assert!(matches!(result, Err(CatalogError::Damaged { .. })), "{result:?}");
    };
    is_damaged(after(|transaction| put(transaction, SERVICES, "bank", &[])));
    is_damaged(after(|transaction| put(transaction, SERVICES, "bank", &[0, 1])));
    is_damaged(after(|transaction| put(transaction, SERVICES, "bank", &[ENTRY_VERSION, 1])));
    is_damaged(after(|transaction| put(transaction, SERVICES, "../bank", &entry(1).to_bytes())));
    is_damaged(after(|transaction| {
        let longer = [entry(1).to_bytes(), vec![0]].concat();
        put(transaction, SERVICES, "bank", &longer)
    }));
    is_damaged(after(|transaction| put_meta(transaction, SEAL, b"seal")));
    is_damaged(after(|transaction| put_meta(transaction, JOURNAL_IN_USE, &[2])));
    is_damaged(after(|transaction| put_meta(transaction, FORMAT, &[1])));
    is_damaged(after(|transaction| {
        transaction.open_table(META)?.remove(DIRECTORY)?;
        Ok(())
    }));
    is_damaged(after(|transaction| put(transaction, USERS, "ada", &[USER_VERSION, 1])));
    is_damaged(after(|transaction| put(transaction, USERS, "../ada", &user_entry(1).to_bytes())));
    is_damaged(after(|transaction| {
        let longer = [user_entry(1).to_bytes(), vec![0]].concat();
        put(transaction, USERS, "ada", &longer)
    }));
    let token = TokenEntry { user: name("ada"), issued: Timestamp(1), expires: Timestamp(2) };
    let token = token.to_bytes();
    is_damaged(after(|transaction| put(transaction, TOKENS, "ada", &token)));
    is_damaged(after(|transaction| put(transaction, TOKENS, &"A".repeat(64), &token)));
    is_damaged(after(|transaction| put(transaction, TOKENS, &"0".repeat(64), &[TOKEN_VERSION])));
    is_damaged(after(|transaction| put(transaction, BOUNDS, "ada", &[0; 8])));
    is_damaged(after(|transaction| put(transaction, BOUNDS, &"0".repeat(64), &[0; 7])));
    // A value from another place, with a hash that is correct there.
    is_damaged(after(|transaction| {
        let mut services = transaction.open_table(SERVICES)?;
        let value = services.get("service-1")?.map(|value| value.value().to_vec()).unwrap_or_default();
        services.insert("service-2", value.as_slice())?;
        Ok(())
    }));
}
