use super::*;
use crate::credential::TOKEN_PREFIX;

const NOW: ClockReading = ClockReading { wall: Timestamp(1_000), monotonic: Duration::ZERO };

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn bank() -> (Authority, Token) {
    let mut authority = Authority::default();
    authority.add_user(&name("ada"));
    let token = authority.issue("ada", Timestamp(2_000), [7; 32]).expect("ada is known");
    (authority, token)
}

/// Returns a bank with an admin, `root`. Both users are authenticated.
fn bank_with_admin() -> (Authority, Identity, Identity) {
    let (mut authority, token) = bank();
    authority.add_admin(&name("root"));
    let root = authority.issue("root", Timestamp(2_000), [9; 32]).expect("root is known");
    let [ada, root] = [token, root].map(|token| authority.authenticate(token.reveal(), NOW).expect("valid"));
    (authority, ada, root)
}

#[test]
fn the_services_on_which_users_have_grants_are_counted_for_each_of_them() {
    let (mut authority, _) = bank();
    authority.add_user(&name("bob"));
    for (user, service, grant) in [
        ("ada", "bank", Grant::Transact),
        ("ada", "bank", Grant::Observe),
        ("ada", "shop", Grant::Observe),
        ("bob", "bank", Grant::Observe),
    ] {
        assert!(authority.grant(user, &name(service), grant));
    }
    assert_eq!(authority.granted_services(), 3);
}

#[test]
fn a_token_is_its_users_until_it_expires() {
    let (authority, token) = bank();
    assert_eq!(
        authority.authenticate(token.reveal(), NOW),
        Ok(Identity {
            user: name("ada"),
            incarnation: 0,
            is_admin: false,
            expires: Timestamp(2_000),
            token: TokenHash::of(token.reveal()),
        })
    );
    let expired = authority.authenticate(token.reveal(), ClockReading { wall: Timestamp(2_000), ..NOW });
    assert_eq!(expired, Err(Denial::NotAuthenticated { reason: "the token has expired" }));
}

#[test]
fn only_the_monotonic_clock_ends_a_token_for_good() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let mut authority = Authority::default();
    authority.add_user(&name("ada"));
    let (start, token) = (Timestamp(1_700_000_000_000_000_000), TokenHash([1; 32]));
    assert!(authority.accept("ada", token, start.plus(HOUR), HOUR * 2));
    let at = |wall, monotonic| authority.authenticate_hash(&token, ClockReading { wall, monotonic });
    let ends = |wall, monotonic| at(wall, monotonic).map(|identity| identity.expires).ok();
    assert_eq!(ends(start, Duration::ZERO), Some(start.plus(HOUR)));
    // The clock is a year ahead for a moment, and a year behind.
    assert_eq!(ends(start.plus(HOUR * 8_766), HOUR / 2), None);
    assert_eq!(ends(start.plus(HOUR / 2), HOUR / 2), Some(start.plus(HOUR)));
    assert_eq!(ends(Timestamp(7), HOUR), Some(Timestamp(7).plus(HOUR)));
    assert_eq!(ends(Timestamp(7), HOUR * 2), None);
    let token_is_void = at(start, HOUR * 2);
    assert_eq!(token_is_void, Err(Denial::NotAuthenticated { reason: "the token has expired" }));
    let void = |monotonic| authority.void_tokens(ClockReading { wall: start, monotonic }).count();
    assert_eq!((void(HOUR * 2 - Duration::from_nanos(1)), void(HOUR * 2)), (0, 1));
}

#[test]
fn an_unknown_token_is_denied() {
    let (authority, _) = bank();
    assert!(authority.authenticate("", NOW).is_err());
    assert!(authority.authenticate(Token::from_random([8; 32]).reveal(), NOW).is_err());
}

#[test]
fn a_void_token_is_denied() {
    let (mut authority, token) = bank();
    assert!(authority.void(token.reveal()));
    assert!(authority.authenticate(token.reveal(), NOW).is_err());
}

#[test]
fn a_token_of_a_removed_user_is_denied() {
    let (mut authority, token) = bank();
    assert!(authority.remove_user("ada"));
    assert!(authority.authenticate(token.reveal(), NOW).is_err());
    assert!(authority.issue("ada", NOW.wall, [1; 32]).is_none());
    authority.add_user(&name("ada"));
    assert!(authority.authenticate(token.reveal(), NOW).is_err());
}

#[test]
fn all_tokens_of_one_user_can_be_made_void() {
    let (mut authority, token) = bank();
    authority.add_user(&name("bob"));
    let others = authority.issue("bob", Timestamp(2_000), [8; 32]).expect("bob is known");
    let second = authority.issue("ada", Timestamp(1_500), [9; 32]).expect("ada is known");
    let hashes = [&token, &second].map(|token| TokenHash::of(token.reveal()));
    assert_eq!(authority.tokens("ada"), hashes, "the oldest first");
    authority.void_all("ada");
    assert!(authority.authenticate(token.reveal(), NOW).is_err());
    assert!(authority.authenticate(others.reveal(), NOW).is_ok());
    assert!(authority.tokens("ada").is_empty());
}

#[test]
fn a_grant_is_for_one_right_on_one_service() {
    let (mut authority, token) = bank();
    let ada = authority.authenticate(token.reveal(), NOW).expect("valid");
    assert!(authority.authorise(&ada, "bank", Grant::Transact, NOW).is_err());
    assert!(authority.grant("ada", &name("bank"), Grant::Transact));
    assert!(authority.authorise(&ada, "bank", Grant::Transact, NOW).is_ok());
    assert!(authority.authorise(&ada, "bank", Grant::Operate, NOW).is_err());
    assert!(authority.authorise(&ada, "vault", Grant::Transact, NOW).is_err());
}

#[test]
fn a_revoked_grant_is_void() {
    let (mut authority, token) = bank();
    let ada = authority.authenticate(token.reveal(), NOW).expect("valid");
    assert!(authority.grant("ada", &name("bank"), Grant::Transact));
    assert!(authority.revoke("ada", "bank", Grant::Transact));
    assert!(!authority.revoke("ada", "bank", Grant::Transact));
    assert!(authority.authorise(&ada, "bank", Grant::Transact, NOW).is_err());
    assert_eq!(authority.account("ada").map(|account| account.grants), Some(BTreeMap::new()));
}

#[test]
fn an_unknown_user_gets_no_grant() {
    let (mut authority, _) = bank();
    assert!(!authority.grant("bob", &name("bank"), Grant::Transact));
    assert_eq!(authority.account("ada").map(|account| account.grants), Some(BTreeMap::new()));
}

#[test]
fn an_admin_has_every_grant_until_they_are_removed() {
    let (mut authority, ada, root) = bank_with_admin();
    assert!(root.is_admin && !ada.is_admin);
    for grant in Grant::ALL {
        assert!(authority.authorise(&root, "a service to come", grant, NOW).is_ok());
    }
    assert_eq!(authority.authorise_admin(&root, NOW), Ok(()));
    assert_eq!(authority.authorise_admin(&ada, NOW), Err(Denial::NotAdmin { user: "ada".into() }));
    // A user that exists already stays as it is.
    authority.add_admin(&name("ada"));
    assert!(authority.authorise_admin(&ada, NOW).is_err());
    assert_eq!(authority.users(), 2);
    assert!(authority.has_admin_beside(&name("ada")) && !authority.has_admin_beside(&name("root")));
    authority.remove_user("root");
    assert!(authority.authorise_admin(&root, NOW).is_err());
    assert!(authority.authorise(&root, "bank", Grant::Observe, NOW).is_err());
}

#[test]
fn a_void_token_ends_the_rights_of_an_authenticated_user() {
    let (mut authority, ada, root) = bank_with_admin();
    authority.grant("ada", &name("bank"), Grant::Transact);
    authority.void_all("ada");
    authority.void_hash(&root.token);
    let void = Err(Denial::NotAuthenticated { reason: "the token is unknown" });
    assert_eq!(authority.authorise(&ada, "bank", Grant::Transact, NOW), void);
    assert_eq!(authority.authorise_admin(&root, NOW), void);
    // The next user of the name is a different one.
    authority.remove_user("root");
    authority.add_admin(&name("root"));
    assert_eq!(authority.authorise_admin(&root, NOW), void);
}

#[test]
fn forgetting_a_service_removes_its_grants() {
    let (mut authority, token) = bank();
    let ada = authority.authenticate(token.reveal(), NOW).expect("valid");
    for service in ["bank", "vault"] {
        authority.grant("ada", &name(service), Grant::Transact);
    }
    authority.forget_service("bank");
    assert!(authority.authorise(&ada, "bank", Grant::Transact, NOW).is_err());
    assert!(authority.authorise(&ada, "vault", Grant::Transact, NOW).is_ok());
}

#[test]
fn a_token_is_never_printed() {
    let (authority, token) = bank();
    assert_eq!(format!("{token:?}"), "Token(..)");
    assert!(!format!("{authority:?}").contains(&token.reveal()[TOKEN_PREFIX.len()..]));
}
