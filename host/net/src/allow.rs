//! The allow-list of a service: the addresses that it may call.

use crate::origin::{self, Authority, Host, Origin, TargetError};
use lifeboat_api::call::Scheme;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The most entries of an allow-list.
pub const ALLOWED_TARGETS_MAX: usize = 64;

/// One address, or all names below one: `https://api.example.org`, `http://127.0.0.1:8080`, `https://*.example.org`.
///
/// A wildcard stands for one or more labels: `https://*.example.org` matches `a.example.org` and `b.a.example.org`, but
/// not `example.org`. The port is exact, and the scheme's own one if there is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Target {
    scheme: Scheme,
    /// The host itself, or the name that the matching names are below of.
    host: Host,
    is_wildcard: bool,
    port: u16,
}

impl Target {
    /// Returns whether the host is a literal address. Such an entry allows the address even if it is not public.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        matches!(self.host, Host::Literal(_))
    }

    /// Returns whether a request to `origin` is one to this address.
    #[must_use]
    pub fn matches(&self, origin: &Origin) -> bool {
        let is_host = match (&self.host, &origin.host) {
            (Host::Name(parent), Host::Name(name)) if self.is_wildcard => {
                name.strip_suffix(parent.as_str()).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            }
            (allowed, host) => !self.is_wildcard && allowed == host,
        };
        is_host && self.scheme == origin.scheme && self.port == origin.port
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// Parses an entry of an allow-list.
    ///
    /// # Errors
    /// [`TargetError`] unless it is `http://` or `https://`, a host, and optionally a port, in a form that
    /// [`Origin::new`] accepts too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| TargetError::new(text, reason))
    }
}

fn parse(text: &str) -> Result<Target, String> {
    let (scheme, authority) =
        text.split_once("://").ok_or("it has no scheme; write https:// or http:// before the host")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err("its scheme is neither https nor http; write https:// or http:// before the host".into()),
    };
    let below = authority.strip_prefix("*.");
    let (host, port) = origin::parse(scheme, below.unwrap_or(authority))?;
    if below.is_some() && matches!(host, Host::Literal(_)) {
        return Err("'*' precedes an address; write the address alone, or '*' before a name".into());
    }
    Ok(Target { scheme, host, is_wildcard: below.is_some(), port })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcard = if self.is_wildcard { "*." } else { "" };
        let authority = Authority { scheme: self.scheme, host: &self.host, port: self.port };
        write!(f, "{}://{wildcard}{authority}", self.scheme)
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

/// What follows the address of an entry on a command line if the entry is private.
const PRIVATE: &str = ",private";

/// An entry of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// The address.
    pub target: Target,
    /// Whether its name may resolve to addresses that are not public. A literal address may be such a one anyhow.
    #[serde(default)]
    pub private: bool,
}

impl Allowed {
    /// Returns whether the connection may go to an address that is not public.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private || self.target.is_literal()
    }
}

impl fmt::Display for Allowed {
    /// Writes the entry as [`Allowed::from_str`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let private = if self.private { PRIVATE } else { "" };
        write!(f, "{}{private}", self.target)
    }
}

impl FromStr for Allowed {
    type Err = TargetError;

    /// Parses an entry on a command line: a [`Target`], and `,private` if its name may resolve to addresses that are
    /// not public.
    ///
    /// # Errors
    /// As for a [`Target`], or if something else follows a comma.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((target, _)) = text.split_once(',') else { return text.parse().map(|target: Target| target.into()) };
        if !text.ends_with(PRIVATE) || target.len() + PRIVATE.len() != text.len() {
            let reason = "something other than 'private' follows the comma; write ',private', or nothing";
            return Err(TargetError::new(text, reason));
        }
        Ok(Self { target: target.parse()?, private: true })
    }
}

impl From<Target> for Allowed {
    fn from(target: Target) -> Self {
        Self { target, private: false }
    }
}

/// An allow-list with too many entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the allow-list has {0} entries; write at most {ALLOWED_TARGETS_MAX}, some of them as https://*.example.org")]
pub struct TooManyTargets(usize);

/// The addresses that a service may call. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Allowed>", into = "Vec<Allowed>")]
pub struct AllowList(Vec<Allowed>);

impl AllowList {
    /// Creates a list of these entries.
    ///
    /// # Errors
    /// [`TooManyTargets`] if there are more than [`ALLOWED_TARGETS_MAX`].
    pub fn new(entries: Vec<Allowed>) -> Result<Self, TooManyTargets> {
        if entries.len() > ALLOWED_TARGETS_MAX { Err(TooManyTargets(entries.len())) } else { Ok(Self(entries)) }
    }

    /// Returns the entry that allows a request to `origin`, if there is one. Of several, a private one is returned.
    #[must_use]
    pub fn find(&self, origin: &Origin) -> Option<&Allowed> {
        let matching = || self.0.iter().filter(|allowed| allowed.target.matches(origin));
        matching().find(|allowed| allowed.is_private()).or_else(|| matching().next())
    }

    /// Returns the entries, in order.
    #[must_use]
    pub fn entries(&self) -> &[Allowed] {
        &self.0
    }

    /// Returns whether nothing may be called.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Vec<Allowed>> for AllowList {
    type Error = TooManyTargets;

    fn try_from(entries: Vec<Allowed>) -> Result<Self, Self::Error> {
        Self::new(entries)
    }
}

impl From<AllowList> for Vec<Allowed> {
    fn from(list: AllowList) -> Self {
        list.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[&str]) -> AllowList {
        let entry = |text: &&str| Allowed::from(text.parse::<Target>().expect("a target"));
        AllowList::new(entries.iter().map(entry).collect()).expect("a few")
    }

    fn allows(list: &AllowList, scheme: Scheme, authority: &str) -> bool {
        Origin::new(scheme, authority).is_ok_and(|origin| list.find(&origin).is_some())
    }

    #[test]
    fn an_entry_matches_its_scheme_host_and_port_alone() {
        let list =
            list(&["https://api.example.org", "http://127.0.0.1:8080", "https://BÜCHER.example:8443", "http://[::1]"]);
        for authority in ["api.example.org", "API.EXAMPLE.ORG:443", "api.example.org."] {
            assert!(allows(&list, Scheme::Https, authority), "{authority}");
            assert!(!allows(&list, Scheme::Http, authority), "{authority}");
        }
        assert!(allows(&list, Scheme::Http, "127.0.0.1:8080"));
        assert!(allows(&list, Scheme::Http, "[0::1]:80"));
        assert!(allows(&list, Scheme::Https, "xn--bcher-kva.example:8443"));
        let others = [
            "api.example.org:80",
            "api.example.org:8443",
            "example.org",
            "a.api.example.org",
            "api.example.org.evil.example",
            "evilapi.example.org",
            "api.example.org:443:443",
            "api.example.org:443@evil.example",
            "evil.example#api.example.org",
            "127.0.0.1",
            "127.1:8080",
            "0177.0.0.1:8080",
            "2130706433:8080",
            "0x7f.0.0.1:8080",
            "[::ffff:127.0.0.1]:8080",
            "localhost:8080",
            "bucher.example:8443",
        ];
        for (authority, scheme) in others.iter().flat_map(|other| [(other, Scheme::Http), (other, Scheme::Https)]) {
            assert!(!allows(&list, scheme, authority), "{scheme}://{authority}");
        }
    }

    #[test]
    fn a_wildcard_matches_names_below_at_any_depth() {
        let list = list(&["https://*.Example.org."]);
        for authority in ["a.example.org", "b.a.example.org", "A.EXAMPLE.ORG.", "ü.example.org"] {
            assert!(allows(&list, Scheme::Https, authority), "{authority}");
        }
        for authority in ["example.org", "aexample.org", ".example.org", "a.example.org:8443", "example.org.evil.org"] {
            assert!(!allows(&list, Scheme::Https, authority), "{authority}");
        }
    }

    #[test]
    fn of_several_matching_entries_a_private_one_counts() {
        let private = Allowed { target: "https://a.example.org".parse().expect("a target"), private: true };
        let list = AllowList::new([list(&["https://*.example.org"]).0, vec![private]].concat()).expect("a few");
        let find =
            |authority| list.find(&Origin::new(Scheme::Https, authority).expect("valid")).map(Allowed::is_private);
        assert_eq!((find("a.example.org"), find("b.example.org"), find("c.org")), (Some(true), Some(false), None));
    }

    #[test]
    fn entries_that_could_be_misread_are_refused() {
        let cases = [
            ("api.example.org", "no scheme"),
            ("//api.example.org", "no scheme"),
            ("https:api.example.org", "no scheme"),
            ("ftp://api.example.org", "neither https nor http"),
            ("://api.example.org", "neither https nor http"),
            ("https://", "no host"),
            ("https://:443", "no host"),
            ("https://user@api.example.org", "user information"),
            ("https://api.example.org/", "a path"),
            ("https://api.example.org/v1", "a path"),
            ("https://api.example.org?a", "a path"),
            ("https://api.example.org#a", "a path"),
            ("https://api.example.org:", "its port"),
            ("https://api.example.org:0", "its port"),
            ("https://api.example.org:99999", "its port"),
            ("https://*", "'*' may only be"),
            ("https://*.", "no host"),
            ("https://a.*.org", "'*' may only be"),
            ("https://*.*.org", "'*' may only be"),
            ("https://a*.example.org", "'*' may only be"),
            ("https://*example.org", "'*' may only be"),
            ("https://*.127.0.0.1", "'*' precedes an address"),
            ("https://*.[::1]", "'*' precedes an address"),
            ("http://0177.0.0.1", "ends in a number"),
            ("http://2130706433", "ends in a number"),
            ("http://127.1", "ends in a number"),
            ("http://0x7f000001", "ends in a number"),
            ("http://a.b.3", "ends in a number"),
            ("http://[::ffff:10.0.0.1]", "write 10.0.0.1"),
        ];
        for (text, words) in cases {
            let error = text.parse::<Target>().expect_err(text).to_string();
            assert!(error.contains(words) && error.contains(&format!("'{text}'")), "{text}: {error}");
        }
    }

    #[test]
    fn an_entry_on_a_command_line_may_be_private() {
        for (text, target, private) in [
            ("https://API.example.org", "https://api.example.org", false),
            ("http://db:5000,private", "http://db:5000", true),
            ("https://*.example.org,private", "https://*.example.org", true),
        ] {
            let allowed: Allowed = text.parse().expect(text);
            assert_eq!((allowed.target.to_string(), allowed.private), (target.to_owned(), private));
            assert_eq!(allowed.to_string().parse(), Ok(allowed));
        }
        for (text, words) in [
            ("db,private", "no scheme"),
            (",private", "no scheme"),
            ("http://db,", "something other than 'private'"),
            ("http://db,public", "something other than 'private'"),
            ("http://db, private", "something other than 'private'"),
            ("http://db,private,private", "something other than 'private'"),
            ("http://db,http://dc", "something other than 'private'"),
        ] {
            let error = text.parse::<Allowed>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_is_text_in_a_configuration() {
        let text = r#"[{"target":"HTTPS://API.example.org:443"},{"target":"http://db:5000","private":true}]"#;
        let list: AllowList = serde_json::from_str(text).expect("valid");
        let canonical =
            r#"[{"target":"https://api.example.org","private":false},{"target":"http://db:5000","private":true}]"#;
        assert_eq!(serde_json::to_string(&list).expect("text"), canonical);
        for wrong in [r#"[{"target":"db"}]"#, r#"[{"target":"http://db","privat":true}]"#, "[{}]"] {
            assert!(serde_json::from_str::<AllowList>(wrong).is_err(), "{wrong}");
        }
        let entry = Allowed::from("http://db".parse::<Target>().expect("a target"));
        assert!(AllowList::new(vec![entry.clone(); ALLOWED_TARGETS_MAX]).is_ok());
        let error = AllowList::new(vec![entry; ALLOWED_TARGETS_MAX + 1]).expect_err("too many");
        assert!(error.to_string().starts_with("the allow-list has 65 entries; write at most 64"));
    }

    /// Text that is an authority, or nearly one.
    fn authority() -> impl Strategy<Value = String> {
        let label = "[a-zA-Z0-9_üß\u{ad}-]{1,8}";
        let host = prop_oneof![
            4 => proptest::collection::vec(label, 1..4).prop_map(|labels| labels.join(".")),
            1 => "[0-9]{1,3}(\\.[0-9]{1,3}){3}",
            1 => any::<std::net::Ipv6Addr>().prop_map(|address| format!("[{address}]")),
            1 => "[a-c.*@%:/\\[\\]\u{3002}\u{ff0e}0-9x]{0,12}",
            1 => ".{0,16}",
        ];
        (host, prop_oneof![3 => Just(String::new()), 1 => ":[0-9]{0,6}", 1 => Just(".".to_owned())])
            .prop_map(|(host, rest)| host + &rest)
    }

    proptest! {
        #[test]
        fn a_target_is_read_back_as_it_is_displayed(
            scheme in prop_oneof![Just("https"), Just("HTTP")],
            wildcard in prop_oneof![Just(""), Just("*.")],
            authority in authority(),
        ) {
            if let Ok(target) = format!("{scheme}://{wildcard}{authority}").parse::<Target>() {
                let text = target.to_string();
                prop_assert_eq!(text.parse(), Ok(target));
                prop_assert!(text.is_ascii() && text == text.to_ascii_lowercase() && !text.ends_with('.'));
            }
        }

        #[test]
        fn an_authority_only_matches_an_entry_with_the_same_canonical_form(
            entry in authority(),
            authority in authority(),
        ) {
            let entry = format!("https://{entry}").parse::<Target>();
            for text in [authority.as_str(), "api.example.org", "127.0.0.1"] {
                let Ok(origin) = Origin::new(Scheme::Https, text) else { continue };
                let again = Origin::new(Scheme::Https, &origin.authority());
                prop_assert_eq!(again.as_ref(), Ok(&origin));
                let itself = origin.to_string().parse::<Target>().expect("a canonical form");
                prop_assert!(itself.matches(&origin));
                if let Ok(entry) = &entry {
                    let (entry_text, text) = (entry.to_string(), origin.to_string());
                    let is_expected = match entry_text.split_once("*.") {
                        None => entry_text == text,
                        Some((_, parent)) => text.trim_start_matches("https://").split_once('.').is_some_and(|_| {
                            text.ends_with(&format!(".{parent}"))
                        }),
                    };
                    prop_assert_eq!(entry.matches(&origin), is_expected);
                }
            }
        }

        #[test]
        fn no_authority_panics(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
                let _ = (Origin::new(Scheme::Http, &text), text.parse::<Target>());
                let _ = format!("http://{text}").parse::<Target>();
            }
        }
    }
}
