//! The certificate authorities that a call trusts.

use lifeboat_api::call::CallError;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::OnceCell;
use tokio::task;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The most bytes of a PEM file of certificate authorities.
pub const ROOTS_BYTES_MAX: usize = 1024 * 1024;

/// A PEM file that names no certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RootsError {
    /// It is too long.
    #[error("the certificates are {0} bytes long; name a file of at most {ROOTS_BYTES_MAX}")]
    TooLong(usize),
    /// It is damaged, or no PEM file.
    #[error("there is no certificate to read: {0}; name a file of X.509 certificates as PEM")]
    Unreadable(String),
    /// One of its certificates cannot be used.
    #[error("certificate {number} of the file cannot be used: {reason}; replace it")]
    Unusable {
        /// Its number within the file, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The certificate authorities that a call trusts: those of the system, or those of a file and no others.
#[derive(Clone)]
pub struct Roots(Arc<Source>);

enum Source {
    System { config: OnceCell<Arc<ClientConfig>>, load: fn() -> Loaded },
    File(Arc<ClientConfig>),
}

/// The certificates that could be read, and the reason why others could not.
type Loaded = (Vec<CertificateDer<'static>>, Option<String>);

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self.0 {
            Source::System { .. } => "Roots::system",
            Source::File(_) => "Roots::from_pem",
        })
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::system()
    }
}

impl Roots {
    /// Returns the authorities of the operating system. They are read once, for the first call over TLS.
    ///
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` in the environment of the process replace them.
    #[must_use]
    pub fn system() -> Self {
        Self::loaded_by(|| {
            let result = rustls_native_certs::load_native_certs();
            (result.certs, result.errors.first().map(ToString::to_string))
        })
    }

    fn loaded_by(load: fn() -> Loaded) -> Self {
        Self(Arc::new(Source::System { config: OnceCell::new(), load }))
    }

    /// Reads authorities from the text of a PEM file. A certificate that signs itself is its own authority.
    ///
    /// # Errors
    /// [`RootsError`] if the text is longer than [`ROOTS_BYTES_MAX`], if there is no certificate in it, or if one of
    /// them cannot be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, RootsError> {
        if text.len() > ROOTS_BYTES_MAX {
            return Err(RootsError::TooLong(text.len()));
        }
        let certificates = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        let certificates = match certificates {
            Ok(certificates) if certificates.is_empty() => Err(pem::Error::NoItemsFound),
            certificates => certificates,
        };
        let certificates = certificates.map_err(|error| RootsError::Unreadable(error.to_string()))?;
        let mut store = RootCertStore::empty();
        for (index, certificate) in certificates.into_iter().enumerate() {
            let unusable = |error: tokio_rustls::rustls::Error| RootsError::Unusable {
                number: index + 1,
                reason: error.to_string(),
            };
            store.add(certificate).map_err(unusable)?;
        }
        Ok(Self(Arc::new(Source::File(config(store)))))
    }

    /// Returns the configuration of TLS, after reading the system's authorities if nobody did.
    pub(crate) async fn config(&self) -> Result<Arc<ClientConfig>, CallError> {
        match &*self.0 {
            Source::File(config) => Ok(Arc::clone(config)),
            Source::System { config, load } => {
                let load = *load;
                let read = || async move {
                    let loaded = task::spawn_blocking(move || config_of_system(load())).await;
                    loaded.unwrap_or_else(|error| Err(unreadable(&error.to_string())))
                };
                config.get_or_try_init(read).await.map(Arc::clone)
            }
        }
    }
}

fn config_of_system((certificates, error): Loaded) -> Result<Arc<ClientConfig>, CallError> {
    let mut store = RootCertStore::empty();
    // Systems have some old certificates that rustls does not read: the others count.
    let (usable, _) = store.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(unreadable(error.as_deref().unwrap_or("it has none")));
    }
    Ok(config(store))
}

fn unreadable(reason: &str) -> CallError {
    let reason = format!(
        "cannot read the system's certificate authorities: {reason}; install them (ca-certificates), or name a file \
         with `roots = FILE`"
    );
    CallError::Internal { reason }
}

fn config(store: RootCertStore) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has suites of TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would skip the certificate, and join the calls of different services.
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = include_bytes!("../tests/tls/ca.pem");

    #[test]
    fn a_file_without_usable_certificates_is_refused() {
        assert!(Roots::from_pem(CA).is_ok());
        assert!(Roots::from_pem(&[CA, CA].concat()).is_ok());
        for text in [&b""[..], b"text", b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(Roots::from_pem(text), Err(RootsError::Unreadable(_))), "{text:?}");
        }
        let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = Roots::from_pem(&[CA, empty].concat()).expect_err("no certificate");
        assert!(error.to_string().starts_with("certificate 2 of the file cannot be used"), "{error}");
        let long = vec![b' '; ROOTS_BYTES_MAX + 1];
        assert_eq!(Roots::from_pem(&long).expect_err("too long"), RootsError::TooLong(long.len()));
    }

    #[tokio::test]
    async fn a_system_without_authorities_is_an_error_with_a_remedy() {
        let roots = Roots::loaded_by(|| (Vec::new(), Some("no such file".into())));
        let error = roots.config().await.expect_err("there are none").to_string();
        assert!(error.contains("no such file") && error.contains("`roots = FILE`"), "{error}");
        let readable = Roots::loaded_by(|| (CertificateDer::pem_slice_iter(CA).flatten().collect(), None));
        let first = readable.config().await.expect("one");
        assert!(Arc::ptr_eq(&first, &readable.clone().config().await.expect("read once")));
    }
}
