//! The secrets and certificate authorities of services, read when a server starts. They are never stored or printed.

use super::{Config, SecretSource, ServiceConfig};
use lifeboat_api::name::Name;
use lifeboat_api::size::Bytes;
use lifeboat_host::network::{Roots, Secrets, ServiceCredentials};
use lifeboat_net::{ROOTS_BYTES_MAX, SECRET_BYTES_MAX};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use thiserror::Error;

/// A credential of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credential {
    /// The file of certificate authorities.
    Roots,
    /// The secret of this name.
    Secret(String),
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots => f.write_str("the certificate authorities"),
            Self::Secret(name) => write!(f, "the secret '{name}'"),
        }
    }
}

/// The reason why a service's secret or certificate authorities cannot be used. No reason shows the value of a secret.
#[derive(Debug, Error)]
#[error("service '{service}': {credential} from {origin} cannot be used: {reason}")]
pub struct CredentialError {
    /// The service.
    pub service: Name,
    /// The credential.
    pub credential: Credential,
    /// The file or the variable.
    origin: String,
    reason: String,
}

impl Config {
    /// Reads the secrets and certificate authorities of all services. `variable` returns the value of a variable of the
    /// environment.
    ///
    /// # Errors
    /// An error for each of them that cannot be used.
    pub fn credentials(
        &self,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<BTreeMap<Name, ServiceCredentials>, Vec<CredentialError>> {
        let (mut all, mut errors) = (BTreeMap::new(), Vec::new());
        for service in &self.services {
            let credentials = read(service, &variable, &mut errors);
            all.insert(service.name.clone(), credentials);
        }
        if errors.is_empty() { Ok(all) } else { Err(errors) }
    }
}

fn read(
    service: &ServiceConfig,
    variable: &impl Fn(&str) -> Option<OsString>,
    errors: &mut Vec<CredentialError>,
) -> ServiceCredentials {
    let mut wrong = |credential, origin, reason| {
        errors.push(CredentialError { service: service.name.clone(), credential, origin, reason });
    };
    let mut credentials = ServiceCredentials::default();
    if let Some(file) = &service.roots {
        match read_roots(file) {
            Ok(roots) => credentials.roots = Some(roots),
            Err(reason) => wrong(Credential::Roots, shown(file), reason),
        }
    }
    for (name, source) in &service.secrets {
        let value = match source {
            SecretSource::File(file) => read_secret(file),
            SecretSource::Env(name) => match variable(name).map(OsString::into_encoded_bytes) {
                Some(value) if !value.is_empty() => Ok(value),
                Some(_) => Err("it is empty; set it to the secret".to_owned()),
                None => Err("it is not set; set it where the server is started".to_owned()),
            },
        };
        let inserted = value.and_then(|value| insert(&mut credentials.secrets, name, &value));
        if let Err(reason) = inserted {
            let origin = match source {
                SecretSource::File(file) => shown(file),
                SecretSource::Env(name) => format!("the variable '{}'", name.escape_debug()),
            };
            wrong(Credential::Secret(name.clone()), origin, reason);
        }
    }
    credentials
}

fn insert(secrets: &mut Secrets, name: &str, value: &[u8]) -> Result<(), String> {
    secrets.insert(name, value).map_err(|error| error.to_string())
}

fn read_roots(file: &Path) -> Result<Roots, String> {
    let text = read_up_to(file, ROOTS_BYTES_MAX).map_err(|error| unreadable(&error, "X.509 certificates as PEM"))?;
    Roots::from_pem(&text).map_err(|error| error.to_string())
}

/// Reads a secret. One line end at the end of the file does not belong to it.
fn read_secret(file: &Path) -> Result<Vec<u8>, String> {
    // The line end has up to two bytes.
    let mut value = read_up_to(file, SECRET_BYTES_MAX + 2).map_err(|error| unreadable(&error, "the secret"))?;
    if value.ends_with(b"\n") {
        value.truncate(value.len() - if value.ends_with(b"\r\n") { 2 } else { 1 });
    }
    match value.len() {
        0 => Err("it is empty; write the secret into it".to_owned()),
        1..=SECRET_BYTES_MAX => Ok(value),
        _ => {
            let limit = Bytes(SECRET_BYTES_MAX as u64);
            Err(format!("it is longer than {limit}, the limit of a secret; write a shorter secret into it"))
        }
    }
}

/// Reads a file. Of a longer one, it reads one byte more than `bytes_max`.
fn read_up_to(file: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn unreadable(error: &io::Error, what: &str) -> String {
    format!("it cannot be read: {error}; name a file with {what}")
}

fn shown(file: &Path) -> String {
    format!("'{}'", file.display().to_string().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::super::Overrides;
    use super::*;
    use std::fs;

    /// Reads the credentials of a configuration in `folder` with one service.
    fn credentials(folder: &Path, keys: &str) -> Result<ServiceCredentials, Vec<String>> {
        let text = format!("[[service]]\nname = \"bank\"\nworkload = \"x\"\n{keys}");
        let config = Config::parse("l.toml", &text, folder, &Overrides::default()).expect("a configuration");
        let variable = |name: &str| match name {
            "BANK_TOKEN" => Some(OsString::from("of the environment")),
            "EMPTY" => Some(OsString::new()),
            "TWO_LINES" => Some(OsString::from("a\nb")),
            _ => None,
        };
        let read = config.credentials(variable).map_err(|errors| errors.iter().map(ToString::to_string).collect());
        read.map(|mut all| all.remove("bank").expect("the only service"))
    }

    fn authorities() -> &'static str {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../net/tests/tls/ca.pem")
    }

    #[test]
    fn credentials_are_read_from_files_and_the_environment() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(authorities(), folder.path().join("ca.pem")).expect("copied");
        for (file, text) in [("one", "top secret\n"), ("two", "top secret\r\n"), ("three", "top secret")] {
            fs::write(folder.path().join(file), text).expect("written");
        }
        fs::write(folder.path().join("long"), "x".repeat(SECRET_BYTES_MAX) + "\r\n").expect("written");
        let keys = "roots = \"ca.pem\"\nsecret.one.file = \"one\"\nsecret.two = { file = \"two\" }\n\
                    [service.secret.three]\nfile = \"three\"\n[service.secret.four]\nenv = \"BANK_TOKEN\"\n\
                    [service.secret.long]\nfile = \"long\"\n";
        let read = credentials(folder.path(), keys).expect("all can be read");
        assert_eq!(read.secrets.names().collect::<Vec<_>>(), ["four", "long", "one", "three", "two"]);
        assert!(read.roots.is_some());
        assert!(!format!("{read:?}").contains("top"), "{read:?}");
        let none = credentials(folder.path(), "").expect("there are none");
        assert!(none.roots.is_none() && none.secrets.names().next().is_none());
    }

    #[test]
    fn a_credential_that_cannot_be_used_is_named_without_its_value() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("written");
        write("empty", "\n");
        write("lines", "hidden\nhidden\n");
        write("long", &"h".repeat(SECRET_BYTES_MAX + 1));
        write("endless", &"h".repeat(10 * SECRET_BYTES_MAX));
        let path = |file: &str| folder.path().join(file).display().to_string();
        for (keys, expected) in [
            (
                "roots = \"none\"",
                format!(
                    "the certificate authorities from '{}' cannot be used: it cannot be read: No such",
                    path("none")
                ),
            ),
            ("roots = \"empty\"", format!("'{}' cannot be used: there is no certificate to read: ", path("empty"))),
            (
                "secret.a.file = \"none\"",
                format!("the secret 'a' from '{}' cannot be used: it cannot be read: No such file", path("none")),
            ),
            ("secret.a.file = \"empty\"", "it is empty; write the secret into it".into()),
            ("secret.a.file = \"lines\"", "the value of the secret 'a' cannot be sent in a header".into()),
            ("secret.a.file = \"long\"", "it is longer than 8 KiB, the limit of a secret; write".into()),
            ("secret.a.file = \"endless\"", "it is longer than 8 KiB, the limit of a secret; write".into()),
            (
                "secret.a.env = \"NOWHERE\"",
                "the secret 'a' from the variable 'NOWHERE' cannot be used: it is not set; set it".into(),
            ),
            ("secret.a.env = \"EMPTY\"", "from the variable 'EMPTY' cannot be used: it is empty; set it".into()),
            ("secret.a.env = \"TWO_LINES\"", "the value of the secret 'a' cannot be sent in a header".into()),
        ] {
            let errors = credentials(folder.path(), keys).expect_err(keys);
            assert_eq!(errors.len(), 1, "{errors:?}");
            let error = &errors[0];
            assert!(error.starts_with("service 'bank': ") && error.contains(&expected), "{keys}: {error}");
            assert!(!error.contains('\n') && !error.contains("hidden") && !error.contains("hhh"), "{error}");
        }
        let errors =
            credentials(folder.path(), "roots = \"none\"\nsecret.a.env = \"EMPTY\"").expect_err("both are wrong");
        assert_eq!(errors.len(), 2, "{errors:?}");
    }
}
