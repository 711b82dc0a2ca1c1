//! TLS: which certificates to trust, and no unencrypted connection where TLS is configured.

use std::sync::Arc;

use redis::{ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisResult, TlsCertificates};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::options::Options;

/// The certificates to verify servers with.
pub(super) struct Tls {
    /// For the connections that the client's crate makes; `None` without TLS, or for the authorities of the machine.
    pub(super) certificates: Option<TlsCertificates>,
    /// For this crate's own; `None` without TLS.
    connector: Option<TlsConnector>,
}

impl Tls {
    /// For the servers at `urls`, with the options' certificate or those of the machine's authorities.
    ///
    /// The addresses must all agree: one without TLS would be asked unencrypted for the addresses of the others, and
    /// one without TLS together with a certificate is a mistake.
    pub(super) fn new(urls: &[&str], options: &Options) -> RedisResult<Self> {
        let mut with_tls = 0;
        for url in urls {
            with_tls += usize::from(matches!(url.into_connection_info()?.addr(), ConnectionAddr::TcpTls { .. }));
        }
        if with_tls != 0 && with_tls != urls.len() {
            return Err((ErrorKind::InvalidClientConfig, "some of the addresses are rediss:// and some are not").into());
        }
        let own = options.root_certificate.as_ref();
        if with_tls == 0 {
            return match own {
                None => Ok(Self { certificates: None, connector: None }),
                Some(_) => {
                    Err((ErrorKind::InvalidClientConfig, "a root certificate needs addresses with rediss://").into())
                }
            };
        }
        let certificates = own.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) });
        Ok(Self { certificates, connector: Some(connector(roots(own.map(Vec::as_slice))?)) })
    }

    /// Encrypts `stream` to `host`, whose certificate must have that name.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> RedisResult<TlsStream<TcpStream>> {
        let connector = self.connector.as_ref().ok_or((ErrorKind::InvalidClientConfig, "no address has rediss://"))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| (ErrorKind::InvalidClientConfig, "no certificate can have the name of this host"))?;
        Ok(connector.connect(name, stream).await?)
    }
}

fn roots(pem: Option<&[u8]>) -> RedisResult<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let Some(pem) = pem else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        added.ok_or((ErrorKind::InvalidClientConfig, "the root certificate is not in PEM format"))?;
    }
    if roots.is_empty() {
        return Err((ErrorKind::InvalidClientConfig, "the root certificate is not in PEM format").into());
    }
    Ok(roots)
}

fn connector(roots: RootCertStore) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
