//! The address of a server for TCP: host and port.

use crate::origin::{self, Host, TargetError};
use std::fmt;
use std::str::FromStr;

/// A host and a port: `db.example.org:5432`, `127.0.0.1:8080`, `[::1]:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

impl Endpoint {
    /// Returns the host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = TargetError;

    /// Parses host and port.
    ///
    /// # Errors
    /// [`TargetError`] unless it is a host, in a form that [`Origin::new`](crate::Origin::new) accepts too, and a port.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| TargetError::new(text, reason))
    }
}

fn parse(text: &str) -> Result<Endpoint, String> {
    if text.contains('*') {
        let remedy = "write each HOST:PORT for a program that runs once, or https://*.HOST for a service";
        return Err(format!("'*' stands for names below a host only after a scheme; {remedy}"));
    }
    let (host, port) = origin::split(text)?;
    let port =
        port.ok_or("it has no port; write HOST:PORT for a program that runs once, or https://HOST for a service")?;
    Ok(Endpoint { host, port: origin::parse_port(port)? })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        for (text, canonical) in [
            ("DB.example.org.:5432", "db.example.org:5432"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[0::1]:8080", "[::1]:8080"),
            ("bücher.example:1", "xn--bcher-kva.example:1"),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(endpoint));
        }
        for (text, words) in [
            ("db", "it has no port; write HOST:PORT for a program that runs once, or https://HOST for a service"),
            ("[::1]", "it has no port"),
            ("db:", "its port is ''"),
            ("db:0", "its port is '0'; write a number from 1 to 65535 without leading zeros"),
            ("db:65536", "its port is"),
            ("*.example.org:80", "write each HOST:PORT for a program that runs once, or https://*.HOST for a service"),
            ("*.example.org", "or https://*.HOST for a service"),
            ("::1:80", "more than one ':'"),
            ("https://db:80", "a path"),
            (":80", "it has no host"),
            ("127.1:80", "ends in a number"),
            ("[::ffff:127.0.0.1]:80", "write 127.0.0.1"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(words) && !error.contains("or no ':'"), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_alone_is_a_name_or_an_address() {
        for (text, canonical) in
            [("LocalHost.", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]")]
        {
            assert_eq!(text.parse::<Host>().expect(text).to_string(), canonical);
        }
        for text in ["", "db:80", "127.1", "::ffff:127.0.0.1", "a b", "[::1]:80"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
