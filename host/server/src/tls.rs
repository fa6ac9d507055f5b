//! Certificates and keys: how they are read from files, and when a certificate is valid.

mod validity;

pub use validity::{CERTIFICATE_WARNING, Validity};

use lifeboat_api::clock::Timestamp;
use lifeboat_api::size::Bytes as ByteCount;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The maximum length of a file with certificates or a key, in bytes: room for some hundred certificates.
pub const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// The reason why a certificate or a key cannot be used.
#[derive(Debug, Error)]
#[error("{what} '{file}' cannot be used: {reason}")]
pub struct TlsError {
    /// The kind of the file.
    pub what: TlsFile,
    /// The path of the file.
    pub file: String,
    /// The reason.
    pub reason: String,
}

impl TlsError {
    fn new(what: TlsFile, file: &Path, reason: String) -> Self {
        Self { what, file: file.display().to_string().escape_debug().to_string(), reason }
    }
}

/// A listener without TLS on an address that other machines can reach. Tokens would cross the network in plain text.
#[derive(Debug, Error)]
#[error(
    "other machines can reach {address}, and there is no TLS: give the server a certificate and a key ([server.tls]), \
     listen on 127.0.0.1, or add --insecure if a proxy in front of it encrypts"
)]
pub struct Unencrypted {
    /// The address to listen on.
    pub address: SocketAddr,
}

/// A file that TLS needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    /// The certificate and the chain of its issuers.
    Certificate,
    /// The private key of the certificate.
    Key,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "the certificate",
            Self::Key => "the key",
        })
    }
}

/// A certificate with its key, for a server.
#[derive(Debug)]
pub struct Loaded {
    /// What the server needs of it.
    pub config: Arc<ServerConfig>,
    /// When the whole chain is valid, if its certificates say so.
    pub validity: Option<Validity>,
}

/// Reads a certificate chain and its key, both in PEM. The certificate must be valid at `now`.
///
/// # Errors
/// An error for each of the two files that cannot be used.
pub fn load(certificate: &Path, key: &Path, now: Timestamp) -> Result<Loaded, Vec<TlsError>> {
    let (chain, private) = (read_chain(certificate), read_key(key));
    let validity = chain.as_ref().ok().and_then(|chain| Validity::of_chain(chain));
    let expired = validity.and_then(|validity| validity.check(now).err());
    let expired = expired.map(|reason| TlsError::new(TlsFile::Certificate, certificate, reason));
    let config = match (chain, private) {
        (Ok(chain), Ok(private)) => config_of(chain, private, certificate, key).map_err(|error| vec![error]),
        (chain, private) => Err(chain.err().into_iter().chain(private.err()).collect()),
    };
    match (config, expired) {
        (Ok(config), None) => Ok(Loaded { config, validity }),
        (Ok(_), Some(expired)) => Err(vec![expired]),
        (Err(errors), expired) => {
            // Of each file one error.
            let expired = expired.filter(|_| errors.iter().all(|error| error.what != TlsFile::Certificate));
            Err(expired.into_iter().chain(errors).collect())
        }
    }
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain =
        read(file).and_then(|text| match CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>()? {
            chain if chain.is_empty() => Err(pem::Error::NoItemsFound),
            chain => Ok(chain),
        });
    chain.map_err(|error| TlsError::new(TlsFile::Certificate, file, pem_reason(&error, "certificate")))
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let private = read(file).and_then(|text| PrivateKeyDer::from_pem_slice(&text));
    private.map_err(|error| TlsError::new(TlsFile::Key, file, pem_reason(&error, "private key")))
}

/// Returns the configuration of a server with a certificate and the key that belongs to it.
fn config_of(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    certificate: &Path,
    key: &Path,
) -> Result<Arc<ServerConfig>, TlsError> {
    let of_chain = |reason: String| TlsError::new(TlsFile::Certificate, certificate, reason);
    let of_key = |reason: String| TlsError::new(TlsFile::Key, key, reason);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => of_key(format!(
                "it does not belong to the certificate '{}'; name the key that the certificate was made with",
                certificate.display().to_string().escape_debug()
            )),
            rustls::Error::InvalidCertificate(_) => {
                of_chain(format!("{error}; name a file of X.509 certificates as PEM"))
            }
            error => of_key(format!("{error}; name a file with one private key as PEM")),
        });
    config.map(Arc::new)
}

/// Reads a PEM file of at most [`PEM_BYTES_MAX`].
fn read(file: &Path) -> Result<Vec<u8>, pem::Error> {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|file| file.take(PEM_BYTES_MAX + 1).read_to_end(&mut text));
    read.map_err(pem::Error::Io)?;
    if text.len() as u64 > PEM_BYTES_MAX {
        let reason = format!("it is longer than {}", ByteCount(PEM_BYTES_MAX));
        return Err(pem::Error::Io(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok(text)
}

/// Returns why a file contains no item of that kind, and the remedy.
fn pem_reason(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => format!("it cannot be read: {error}; name a file with a {what} as PEM"),
        pem::Error::NoItemsFound => format!("there is no {what} in it; name a file with one as PEM"),
        error => format!("it is damaged ({error}); name a file with a {what} as PEM"),
    }
}
