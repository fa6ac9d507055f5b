//! URLs of requests: the parts that the host takes.
//!
//! Only what can be sent as it is written is accepted. Nothing is encoded, decoded or normalised, except that an empty
//! path becomes `/`. The grammar is that of RFC 3986, restricted to `http` and `https`.

use std::borrow::Cow;

use super::Error;

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url<'a> {
    pub(super) scheme: Scheme,
    /// The host, and the port if the URL has one.
    pub(super) authority: &'a str,
    /// The path, which begins with `/`, and the query if the URL has one.
    pub(super) path_with_query: Cow<'a, str>,
}

impl<'a> Url<'a> {
    /// Splits a URL.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`], with the reason and a remedy. It does not repeat the URL, which may hold a secret.
    pub(super) fn split(url: &'a str) -> Result<Self, Error> {
        Self::parts(url).map_err(Error::InvalidUrl)
    }

    fn parts(url: &'a str) -> Result<Self, String> {
        const SCHEMES: &str = "it does not begin with `http://` or `https://`";
        let (scheme, rest) = url.split_once("://").ok_or(SCHEMES)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(SCHEMES.to_owned()),
        };
        if rest.contains('#') {
            return Err("a fragment is never sent: remove `#` and what follows it, or write `#` as %23".to_owned());
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path_with_query) = rest.split_at(end);
        check_authority(authority)?;
        check_path(path_with_query)?;
        let path_with_query = match path_with_query.strip_prefix('/') {
            Some(_) => path_with_query.into(),
            None => format!("/{path_with_query}").into(),
        };
        Ok(Self { scheme, authority, path_with_query })
    }
}

fn check_authority(authority: &str) -> Result<(), String> {
    if authority.contains('@') {
        return Err("user and password are not allowed: send them in a header".to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or("the `]` of an IPv6 address is missing")?;
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("between `[` and `]` is no IPv6 address".to_owned());
            }
            match after.strip_prefix(':') {
                Some(port) => (address, Some(port)),
                None if after.is_empty() => (address, None),
                None => return Err("after `]` only a port may follow".to_owned()),
            }
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let is_allowed = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
            if let Some(character) = host.chars().find(|character| !is_allowed(*character)) {
                let remedy = if character.is_ascii() { "" } else { ": write the name in its ASCII form, `xn--...`" };
                return Err(format!("the host has the character {character:?}{remedy}"));
            }
            (host, port)
        }
    };
    if host.is_empty() {
        return Err("it has no host".to_owned());
    }
    match port {
        Some(port) if !is_port(port) => Err("the port is not a number from 1 to 65535".to_owned()),
        _ => Ok(()),
    }
}

fn is_port(port: &str) -> bool {
    // `parse` also takes `+80`.
    port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn check_path(path: &str) -> Result<(), String> {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => {}
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {
            }
            b':' | b'@' | b'/' | b'?' => {}
            b'%' => {
                let is_digit = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_hexdigit());
                if !is_digit(bytes.next()) || !is_digit(bytes.next()) {
                    return Err("two hexadecimal digits do not follow a `%`: write `%` itself as %25".to_owned());
                }
            }
            // Its first byte is enough to find it, and the remedy is the same for each of its bytes.
            0x80.. => return Err("a character is not ASCII: write each of its bytes in UTF-8 as %XX".to_owned()),
            _ => return Err(format!("the path or query has {:?}: write it as %{byte:02X}", char::from(byte))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
