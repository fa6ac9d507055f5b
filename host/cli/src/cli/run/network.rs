//! The network of `lifeboat run`: HTTP for a service, or TCP for a program that runs once.

use super::super::UsageError;
use super::super::arguments::{NetworkArguments, RETRY_HELP};
use clap::Args;
use futures::future::BoxFuture;
use lifeboat_api::meter::NetworkAmount;
use lifeboat_host::network::{Allowed, Retry};
use lifeboat_net::{ALLOWED_TARGETS_MAX, Endpoint, Host, Resolver, SystemResolver, TargetError};
use lifeboat_vm::instance::{Peer, Peers, TcpNetwork};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// The options of `run` for the network.
#[derive(Debug, Args)]
pub(super) struct RunNetwork {
    /// Let a service call this address over HTTP: https://HOST or https://HOST:PORT, or https://*.HOST for all names
    /// below it; ",private" lets the name resolve to addresses that are not public. Let a program that runs once connect
    /// to HOST:PORT by TCP. Repeatable [default: no address]
    #[arg(long = "allow-net", value_name = "TARGET[,private]|HOST:PORT")]
    allow: Vec<Address>,
    #[arg(long, value_name = "MODE", help = RETRY_HELP)]
    pub(super) retry: Option<Retry>,
}

/// An address that `--allow-net` names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    /// For HTTP.
    Http(Allowed),
    /// For TCP.
    Tcp(Endpoint),
}

impl FromStr for Address {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Only addresses for HTTP have a scheme.
        if text.contains("://") { text.parse().map(Self::Http) } else { text.parse().map(Self::Tcp) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(allowed) => allowed.fmt(f),
            Self::Tcp(endpoint) => endpoint.fmt(f),
        }
    }
}

impl RunNetwork {
    /// Returns whether an address was given.
    pub(super) fn is_allowed(&self) -> bool {
        !self.allow.is_empty()
    }

    /// Returns the options of a service.
    ///
    /// # Errors
    /// [`UsageError`] if an address is one for TCP. `remedy` is another one than to leave it out.
    pub(super) fn of_service(&self, remedy: &str) -> Result<NetworkArguments, UsageError> {
        let http = |address: &Address| match address {
            Address::Http(allowed) => Ok(allowed.clone()),
            Address::Tcp(endpoint) => Err(UsageError(format!(
                "--allow-net {endpoint} is for a program that runs once, and this is a service; write \
                 http://{endpoint} or https://{endpoint}{remedy}"
            ))),
        };
        Ok(NetworkArguments::new(self.allow.iter().map(http).collect::<Result<_, _>>()?, self.retry))
    }

    /// Returns the network of a program that runs once, if it has one.
    ///
    /// # Errors
    /// [`UsageError`] if an address is one for HTTP, or if there are too many.
    pub(super) fn of_program(&self, allowance: NetworkAmount) -> Result<Option<TcpNetwork>, UsageError> {
        let tcp = |address: &Address| match address {
            Address::Tcp(endpoint) => Ok(endpoint.clone()),
            Address::Http(allowed) => Err(UsageError(format!(
                "--allow-net {allowed} is for a service, and this program runs once; write HOST:PORT, or add \
                 --transactions"
            ))),
        };
        let endpoints: Vec<Endpoint> = self.allow.iter().map(tcp).collect::<Result<_, _>>()?;
        if endpoints.len() > ALLOWED_TARGETS_MAX {
            return Err(UsageError(format!(
                "--allow-net is given {} times; give it at most {ALLOWED_TARGETS_MAX} times",
                endpoints.len()
            )));
        }
        let peers = Arc::new(Endpoints { endpoints, resolver: SystemResolver::default() });
        Ok(self.is_allowed().then_some(TcpNetwork { peers, allowance }))
    }
}

/// The addresses that a program may connect to.
struct Endpoints {
    endpoints: Vec<Endpoint>,
    resolver: SystemResolver,
}

impl Peers for Endpoints {
    fn allows(&self, address: SocketAddr) -> bool {
        let literal = Host::Literal(address.ip());
        self.endpoints.iter().any(|endpoint| *endpoint.host() == literal && endpoint.port() == address.port())
    }

    fn find(&self, name: &str) -> Peer {
        let Ok(host) = name.parse::<Host>() else { return Peer::Invalid };
        let of_host = self.endpoints.iter().filter(|endpoint| *endpoint.host() == host);
        let ports: Vec<u16> = of_host.map(Endpoint::port).collect();
        match host {
            _ if ports.is_empty() => Peer::Denied,
            Host::Literal(address) => Peer::Literal(address),
            Host::Name(name) => Peer::Name { name, ports },
        }
    }

    fn resolve(&self, name: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        self.resolver.resolve(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(addresses: &[&str]) -> RunNetwork {
        let allow = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        RunNetwork { allow, retry: None }
    }

    fn peers(addresses: &[&str]) -> Arc<dyn Peers> {
        network(addresses).of_program(NetworkAmount::default()).expect("for TCP").expect("some").peers
    }

    #[test]
    fn a_literal_address_is_allowed_with_its_port_alone() {
        let peers = peers(&["127.0.0.1:80", "[::1]:81", "localhost:82"]);
        for (address, is_allowed) in [
            ("127.0.0.1:80", true),
            ("127.0.0.1:81", false),
            ("127.0.0.2:80", false),
            ("[::1]:81", true),
            ("[::1]:82", false),
        ] {
            assert_eq!(peers.allows(address.parse().expect("an address")), is_allowed, "{address}");
        }
    }

    #[test]
    fn all_spellings_of_an_allowed_name_are_one() {
        let peers = peers(&["DB.example.org:1", "db.example.org.:2", "127.0.0.1:80"]);
        let name = Peer::Name { name: "db.example.org".into(), ports: vec![1, 2] };
        for text in ["db.example.org", "DB.EXAMPLE.ORG", "db.example.org."] {
            assert_eq!(peers.find(text), name);
        }
        assert_eq!(peers.find("127.0.0.1"), Peer::Literal([127, 0, 0, 1].into()));
        assert_eq!([peers.find("127.0.0.2"), peers.find("example.org")], [Peer::Denied, Peer::Denied]);
        assert_eq!([peers.find(""), peers.find("a b")], [Peer::Invalid, Peer::Invalid]);
    }

    #[test]
    fn an_address_is_for_one_of_the_two() {
        let error = network(&["db:1"]).of_service(", or leave out --data").expect_err("TCP").to_string();
        assert!(error.contains("write http://db:1 or https://db:1, or leave out --data"), "{error}");
        let error = network(&["https://db"]).of_program(NetworkAmount::default()).expect_err("HTTP").to_string();
        assert!(error.contains("--allow-net https://db is for a service"), "{error}");
        assert!(network(&["https://db"]).of_service("").is_ok());
        assert!(network(&[]).of_program(NetworkAmount::default()).expect("none").is_none());
        let many = network(&["db:1"; 65]).of_program(NetworkAmount::default()).expect_err("too many").to_string();
        assert_eq!(many, "--allow-net is given 65 times; give it at most 64 times");
    }
}
