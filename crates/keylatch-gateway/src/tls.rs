//! TLS on both sides, with rustls.

use std::path::Path;
use std::sync::Arc;

use keylatch_serve::ClientCertificate;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The protocols that both sides offer in TLS, by preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn protocols() -> Vec<Vec<u8>> {
    PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect()
}

/// TLS for clients, with the certificate and the key in these files. A client may present a certificate of one of the
/// `authorities`, but need not.
///
/// # Errors
///
/// The file that cannot be used, and why.
pub(crate) fn for_clients(certificate: &Path, key: &Path, authorities: Option<&Path>) -> Result<TlsAcceptor, String> {
    let chain = certificates("--tls-cert", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("--tls-key {}: there is no private key in PEM in it: {error}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_client_cert_verifier(verifier(authorities)?)
        .with_single_cert(chain, private)
        .map_err(|error| format!("--tls-cert and --tls-key cannot be used together: {error}"))?;
    config.alpn_protocols = protocols();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn verifier(authorities: Option<&Path>) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let Some(file) = authorities else { return Ok(WebPkiClientVerifier::no_client_auth()) };
    let roots = Arc::new(roots("--tls-client-ca", file)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated().build();
    verifier.map_err(|error| format!("--tls-client-ca {}: {error}", file.display()))
}

/// The caller that a certificate names: the SHA-256 of the bytes of its subject, so that no other spelling of a subject
/// can imitate it. `None` if the certificate has no subject.
pub(crate) fn subject(certificate: &ClientCertificate) -> Option<String> {
    let certificate = CertificateDer::from(&*certificate.0);
    let certificate = webpki::EndEntityCert::try_from(&certificate).ok()?;
    let subject = certificate.subject();
    (!subject.is_empty()).then(|| format!("subject sha-256:{:x}", Sha256::digest(subject)))
}

/// TLS to the upstream or to another region, whose certificate must be signed by one of the authorities in this file, or of
/// the system. `name` is the option that names the file.
///
/// # Errors
///
/// If there is no authority.
pub(crate) fn to_upstream(name: &str, authorities: Option<&Path>) -> Result<TlsConnector, String> {
    let roots = match authorities {
        Some(file) => roots(name, file)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        }
    };
    if roots.is_empty() {
        return Err(format!(
            "there is no authority that the other side could be believed by: install the system's (ca-certificates), or \
             name a file by {name}"
        ));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether the connection uses HTTP/2.
pub(crate) fn chose_http2(chosen: Option<&[u8]>) -> bool {
    chosen == Some(PROTOCOLS[0])
}

/// The authorities in a file; `name` is the argument that names it.
fn roots(name: &str, file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(name, file)? {
        roots.add(certificate).map_err(|error| format!("{name} {}: {error}", file.display()))?;
    }
    Ok(roots)
}

fn certificates(name: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| format!("{name} {}: {why}", file.display());
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| wrong(format!("it cannot be read: {error}")))?;
    if read.is_empty() { Err(wrong("there is no certificate in PEM in it".to_owned())) } else { Ok(read) }
}
