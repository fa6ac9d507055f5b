//! Scheme, host and port, in one canonical form. Operators and guests write them by the same rules.
//!
//! Names are compared as A-labels (UTS 46), in lower case, without a trailing dot. IPv4 addresses are dotted quads in
//! decimal and nothing else, since resolvers read `127.1`, `0177.0.0.1` and `2130706433` as addresses too.

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use lifeboat_api::call::Scheme;
use lifeboat_api::text::{SHOWN_CHARS_MAX, shortened};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use thiserror::Error;
use tokio_rustls::rustls::pki_types::DnsName;

/// The most bytes of host and port, as an operator or a guest writes them.
pub const AUTHORITY_BYTES_MAX: usize = 1024;

/// The ASCII characters that no name contains: all but letters, digits, the hyphen, the dot and the underscore. They
/// are refused after the mapping, since some characters beyond ASCII are mapped to them.
const DENIED_IN_NAMES: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// Text that is no address to call.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cannot use '{value}' as an address to call: {reason}")]
pub struct TargetError {
    value: String,
    reason: String,
}

impl TargetError {
    pub(crate) fn new(value: &str, reason: impl Into<String>) -> Self {
        Self { value: shortened(value, SHOWN_CHARS_MAX), reason: reason.into() }
    }
}

/// The host of an address, in its canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: A-labels in lower case, without a trailing dot.
    Name(String),
    /// A literal address. IPv6 addresses are not IPv4 addresses in the form of IPv6.
    Literal(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Literal(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Literal(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// The scheme, the host and the port of a request. Two are equal if a request to either reaches the same server.
///
/// It is displayed as an entry of the allow-list would be: `https://api.example.org`, `http://127.0.0.1:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub(crate) scheme: Scheme,
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Origin {
    /// Parses host and port, as a guest writes them: `api.example.org`, `127.0.0.1:8080`, `[::1]`.
    ///
    /// # Errors
    /// [`TargetError`] for everything that is not a host with or without a port: user information, a path, an IPv4
    /// address in another form than a dotted quad, an IPv4 address in the form of IPv6, a name that is no DNS name.
    pub fn new(scheme: Scheme, authority: &str) -> Result<Self, TargetError> {
        let (host, port) = parse(scheme, authority).map_err(|reason| TargetError::new(authority, reason))?;
        Ok(Self { scheme, host, port })
    }

    /// Returns the protocol.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the port, the scheme's own one included.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the host, and the port unless it is the scheme's own one: the value of `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        Authority { scheme: self.scheme, host: &self.host, port: self.port }.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = Authority { scheme: self.scheme, host: &self.host, port: self.port };
        write!(f, "{}://{authority}", self.scheme)
    }
}

/// Displays host and port, without the scheme's own port.
pub(crate) struct Authority<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) host: &'a Host,
    pub(crate) port: u16,
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl FromStr for Host {
    type Err = TargetError;

    /// Parses a host alone: a name, an IPv4 address, or an IPv6 address, in brackets or not.
    ///
    /// # Errors
    /// As for [`Origin::new`], and for a port.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.parse::<Ipv6Addr>() {
            Ok(_) => ipv6(text).map(|host| (host, None)),
            Err(_) => split(text),
        };
        match parsed {
            Ok((host, None)) => Ok(host),
            Ok((_, Some(_))) => Err(TargetError::new(text, "it has a port; write the host alone")),
            Err(reason) => Err(TargetError::new(text, reason)),
        }
    }
}

/// Parses host and port. The error is the reason and the remedy.
pub(crate) fn parse(scheme: Scheme, text: &str) -> Result<(Host, u16), String> {
    let (host, port) = split(text)?;
    let port = port
        .map_or(Ok(scheme.default_port()), |port| parse_port(port).map_err(|reason| format!("{reason}, or no ':'")));
    Ok((host, port?))
}

/// Parses a host, and returns what follows its ':' if there is one. The error is the reason and the remedy.
pub(crate) fn split(text: &str) -> Result<(Host, Option<&str>), String> {
    if text.len() > AUTHORITY_BYTES_MAX {
        return Err(format!("it is {} bytes long; write at most {AUTHORITY_BYTES_MAX}", text.len()));
    }
    if text.contains('@') {
        return Err("it has user information before '@'; remove it, and send credentials in a header".into());
    }
    if text.contains(['/', '?', '#', '\\']) {
        return Err("it has a path, a query or a fragment; remove everything behind host and port".into());
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("its '[' is not closed; write [IPv6] or [IPv6]:PORT")?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or("text follows its ']'; write [IPv6] or [IPv6]:PORT")?),
            };
            (ipv6(address)?, port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if port.is_some_and(|port| port.contains(':')) {
                return Err("it has more than one ':'; write NAME:PORT, or an IPv6 address in brackets".into());
            }
            (name_or_ipv4(host)?, port)
        }
    };
    Ok((host, port))
}

/// Parses a port. The error is the reason and the remedy.
pub(crate) fn parse_port(text: &str) -> Result<u16, String> {
    let is_decimal = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_decimal).ok_or_else(|| {
        let shown = shortened(text, SHOWN_CHARS_MAX);
        format!("its port is '{shown}'; write a number from 1 to 65535 without leading zeros")
    })
}

fn ipv6(text: &str) -> Result<Host, String> {
    let address: Ipv6Addr =
        text.parse().map_err(|_| "the text in brackets is not an IPv6 address; write one such as [2001:db8::1]")?;
    match address.to_ipv4_mapped() {
        Some(mapped) => Err(format!("it is an IPv4 address in the form of IPv6; write {mapped}")),
        None => Ok(Host::Literal(address.into())),
    }
}

fn name_or_ipv4(text: &str) -> Result<Host, String> {
    if text.is_empty() {
        return Err("it has no host; write a name or an address".into());
    }
    // The standard library accepts four decimal numbers without leading zeros, and no other form.
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Literal(address.into()));
    }
    name(text).map(Host::Name)
}

/// Returns the canonical form of a DNS name.
pub(crate) fn name(text: &str) -> Result<String, String> {
    const NOT_A_NAME: &str =
        "it is not a DNS name; write labels of letters, digits and hyphens, up to 63 bytes each and 253 in all";
    if text.contains('*') {
        return Err("'*' may only be the first label of a name, as in https://*.example.org".into());
    }
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), DENIED_IN_NAMES, Hyphens::Allow, DnsLength::VerifyAllowRootDot)
        .map_err(|_| NOT_A_NAME)?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    if name.rsplit('.').next().is_some_and(is_numeric) {
        return Err("it ends in a number, but is not a dotted quad; write an IPv4 address such as 127.0.0.1".into());
    }
    match DnsName::try_from(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err(NOT_A_NAME.into()),
    }
}

/// Returns whether `inet_aton` might read a label as a number: in decimal, octal or hexadecimal.
fn is_numeric(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").map(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal.unwrap_or_else(|| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https(authority: &str) -> Result<String, String> {
        Origin::new(Scheme::Https, authority).map(|origin| origin.authority()).map_err(|error| error.to_string())
    }

    #[test]
    fn all_spellings_of_a_name_have_one_canonical_form() {
        let spellings = ["api.example.org", "API.Example.ORG", "api.example.org.", "api.example.org:443"];
        for text in spellings {
            assert_eq!(https(text).as_deref(), Ok("api.example.org"), "{text}");
        }
        // Fullwidth letters, ideographic full stops and soft hyphens are mapped by UTS 46.
        for text in ["\u{ff41}pi.example.org", "api\u{3002}example\u{ff0e}org", "a\u{ad}pi.example.org"] {
            assert_eq!(https(text).as_deref(), Ok("api.example.org"), "{text}");
        }
        for text in [
            "bücher.example",
            "BÜCHER.example.",
            "xn--bcher-kva.example",
            "XN--Bcher-KVA.example",
            "bu\u{308}cher.example",
        ] {
            assert_eq!(https(text).as_deref(), Ok("xn--bcher-kva.example"), "{text}");
        }
        assert_eq!(https("my_service-1:8443").as_deref(), Ok("my_service-1:8443"));
        assert_eq!(https("[0:0::1]:443").as_deref(), Ok("[::1]"));
        assert_eq!(Origin::new(Scheme::Http, "127.0.0.1:443").expect("an address").to_string(), "http://127.0.0.1:443");
    }

    #[test]
    fn each_error_names_the_value_and_the_remedy() {
        let cases = [
            ("", "it has no host"),
            (":443", "it has no host"),
            (".", "not a DNS name"),
            ("api.example.org..", "not a DNS name"),
            (".example.org", "not a DNS name"),
            ("a..b", "not a DNS name"),
            ("user@api.example.org", "user information"),
            ("user:password@api.example.org", "user information"),
            ("api.example.org@evil.example", "user information"),
            ("api.example.org/path", "a path"),
            ("api.example.org?query", "a path"),
            ("api.example.org#fragment", "a path"),
            ("api.example.org\\path", "a path"),
            ("api.example.org:", "its port is ''"),
            ("api.example.org:0", "its port is '0'"),
            ("api.example.org:0443", "its port is '0443'"),
            ("api.example.org:+443", "its port is '+443'"),
            ("api.example.org:65536", "its port is '65536'"),
            ("api.example.org:４４３", "its port is"),
            ("api.example.org:443:80", "more than one ':'"),
            ("::1", "more than one ':'"),
            ("api.example.org%3a443", "not a DNS name"),
            ("%61pi.example.org", "not a DNS name"),
            ("api.example.org\u{ff1a}443", "not a DNS name"),
            ("user\u{ff20}api.example.org", "not a DNS name"),
            ("api.example.org\u{ff0f}path", "not a DNS name"),
            ("\u{2100}.example.org", "not a DNS name"),
            ("api example.org", "not a DNS name"),
            ("api.example.org\r\nx", "not a DNS name"),
            ("api.example.org\0", "not a DNS name"),
            ("xn--a.example", "not a DNS name"),
            ("a-.example.org", "not a DNS name"),
            ("*.example.org", "'*' may only be"),
            ("*", "'*' may only be"),
            ("0177.0.0.1", "ends in a number"),
            ("127.0.0.01", "ends in a number"),
            ("127.0.0.1.", "ends in a number"),
            ("127.1", "ends in a number"),
            ("127.0.1", "ends in a number"),
            ("2130706433", "ends in a number"),
            ("0x7f000001", "ends in a number"),
            ("0x7f.0.0.0x1", "ends in a number"),
            ("0X7F.1", "ends in a number"),
            ("0x", "ends in a number"),
            ("256.256.256.256", "ends in a number"),
            ("1.2.3.4.5", "ends in a number"),
            ("a.b.1", "ends in a number"),
            ("\u{ff11}27.0.0.1", "ends in a number"),
            ("127\u{3002}0\u{3002}0\u{3002}1", "ends in a number"),
            ("[::ffff:127.0.0.1]", "write 127.0.0.1"),
            ("[::ffff:7f00:1]", "write 127.0.0.1"),
            ("[::1", "is not closed"),
            ("[::1]443", "text follows"),
            ("[::1]:", "its port is ''"),
            ("[fe80::1%25eth0]", "not an IPv6 address"),
            ("[127.0.0.1]", "not an IPv6 address"),
            ("[api.example.org]", "not an IPv6 address"),
        ];
        for (text, words) in cases {
            let error = https(text).expect_err(text);
            assert!(error.contains(words) && !error.contains(['\n', '\r', '\0']), "{text}: {error}");
        }
        let long = format!("{}.org", "a".repeat(AUTHORITY_BYTES_MAX));
        assert!(https(&long).is_err_and(|error| error.len() < 200 && error.contains("write at most 1024")));
        for text in [&long[..500], &format!("{}.org", "a".repeat(64))] {
            assert!(https(text).is_err_and(|error| error.contains("not a DNS name")), "{text}");
        }
    }
}
