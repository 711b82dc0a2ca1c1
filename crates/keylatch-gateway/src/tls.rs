//! TLS on both sides, by rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What both sides may speak in TLS, the first before the second.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn protocols() -> Vec<Vec<u8>> {
    PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect()
}

/// TLS for clients, with the certificate and the key in these files.
///
/// # Errors
///
/// With the file that cannot be used, and why.
pub(crate) fn for_clients(certificate: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let chain = certificates("--tls-cert", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("--tls-key {}: there is no private key in PEM in it: {error}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| format!("--tls-cert and --tls-key cannot be used together: {error}"))?;
    config.alpn_protocols = protocols();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS to the upstream, which is believed by the authorities in this file, or by those of the system.
///
/// # Errors
///
/// If there is no authority to believe it by.
pub(crate) fn to_upstream(authorities: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(file) => {
            for certificate in certificates("--upstream-ca", file)? {
                roots.add(certificate).map_err(|error| format!("--upstream-ca {}: {error}", file.display()))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err("there is no authority that the upstream could be believed by: install the system's \
                    (ca-certificates), or name a file by --upstream-ca"
            .to_owned());
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether HTTP/2 was chosen.
pub(crate) fn chose_http2(chosen: Option<&[u8]>) -> bool {
    chosen == Some(PROTOCOLS[0])
}

fn certificates(name: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| format!("{name} {}: {why}", file.display());
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    if read.is_empty() { Err(wrong("there is no certificate in PEM in it".to_owned())) } else { Ok(read) }
}
