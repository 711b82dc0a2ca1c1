//! TLS: which certificates to trust, and no unencrypted connection where TLS is configured.

use redis::{ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisResult, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::options::Options;

/// The certificates to verify the servers at `urls` with; none without TLS, or if the authorities of the machine are
/// used.
///
/// The addresses must all agree: one without TLS would be asked unencrypted for the addresses of the others, and one
/// without TLS together with a certificate is a mistake.
pub(super) fn certificates(urls: &[&str], options: &Options) -> RedisResult<Option<TlsCertificates>> {
    let mut with_tls = 0;
    for url in urls {
        with_tls += usize::from(matches!(url.into_connection_info()?.addr(), ConnectionAddr::TcpTls { .. }));
    }
    if with_tls != 0 && with_tls != urls.len() {
        return Err((ErrorKind::InvalidClientConfig, "some of the addresses are rediss:// and some are not").into());
    }
    let Some(pem) = &options.root_certificate else { return Ok(None) };
    if with_tls == 0 {
        return Err((ErrorKind::InvalidClientConfig, "a root certificate needs addresses with rediss://").into());
    }
    // The client would accept an invalid certificate as an authority that has signed nothing.
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    if certificates.peek().is_none() || !certificates.all(|certificate| certificate.is_ok()) {
        return Err((ErrorKind::InvalidClientConfig, "the root certificate is not in PEM format").into());
    }
    Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) }))
}
