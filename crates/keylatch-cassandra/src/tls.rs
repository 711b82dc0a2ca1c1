//! TLS to the nodes, by OpenSSL: the driver's other choice brings a second cryptography for rustls, and then a program
//! that uses rustls elsewhere has to choose one.

use std::path::Path;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnector, SslMethod, SslVersion};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use scylla::client::session::OpenSsl010Config;
use scylla::client::session_builder::SessionBuilder;

use super::address::{Address, TlsFiles};
use super::error::ConnectError;
use super::options::Options;

/// How connections are encrypted. Without it, they are not.
#[derive(Clone)]
pub struct Tls {
    authority: Vec<u8>,
    /// A certificate, and its key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

/// A session over encrypted connections, if the options or the address say so.
pub(super) fn encrypted(
    builder: SessionBuilder,
    address: &Address,
    options: &Options,
) -> Result<SessionBuilder, ConnectError> {
    let tls = match (&options.tls, &address.tls) {
        (Some(tls), _) => context(tls)?,
        (None, Some(files)) => context(&read(files)?)?,
        (None, None) => return Ok(builder),
    };
    Ok(builder.tls_context(Some(tls)))
}

impl Tls {
    /// A node is whoever has a certificate of this authority, in PEM; there may be several. The name in the certificate is
    /// not compared, because nodes are known by their addresses. So it must be an authority that certifies nothing else.
    pub fn new(authority_pem: impl Into<Vec<u8>>) -> Self {
        Self { authority: authority_pem.into(), own: None }
    }

    /// Shows this certificate to the nodes, and proves it with this key, both in PEM: for a cluster with
    /// `require_client_auth: true`.
    #[must_use]
    pub fn with_certificate(self, certificate_pem: impl Into<Vec<u8>>, key_pem: impl Into<Vec<u8>>) -> Self {
        Self { own: Some((certificate_pem.into(), key_pem.into())), ..self }
    }
}

/// Does not show the key.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn read(TlsFiles { ca, own }: &TlsFiles) -> Result<Tls, ConnectError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| ConnectError::Tls(format!("cannot read {}: {error}", path.display())))
    };
    let own = own.as_ref().map(|(cert, key)| Ok::<_, ConnectError>((read(cert)?, read(key)?))).transpose()?;
    Ok(Tls { authority: read(ca)?, own })
}

fn context(Tls { authority, own }: &Tls) -> Result<OpenSsl010Config, ConnectError> {
    let not = |what: &'static str| move |error: ErrorStack| ConnectError::Tls(format!("{what}: {error}"));
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(not("OpenSSL has no TLS"))?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(not("OpenSSL has no TLS 1.2"))?;
    builder.set_cert_store({
        let not = not("the certificate of the authority is not valid PEM");
        let mut trusted = X509StoreBuilder::new().map_err(not)?;
        let certificates = X509::stack_from_pem(authority).map_err(not)?;
        if certificates.is_empty() {
            return Err(ConnectError::Tls("there is no certificate of an authority".to_owned()));
        }
        certificates.into_iter().try_for_each(|certificate| trusted.add_cert(certificate)).map_err(not)?;
        trusted.build()
    });
    if let Some((certificate, key)) = own {
        let not_valid = not("the own certificate is not valid PEM");
        let mut chain = X509::stack_from_pem(certificate).map_err(not_valid)?.into_iter();
        let first = chain.next().ok_or_else(|| ConnectError::Tls("there is no own certificate".to_owned()))?;
        builder.set_certificate(&first).map_err(not_valid)?;
        chain.try_for_each(|above| builder.add_extra_chain_cert(above)).map_err(not_valid)?;
        let key = PKey::private_key_from_pem(key).map_err(not("the own key is not valid PEM"))?;
        builder.set_private_key(&key).map_err(not("the own key is not that of the certificate"))?;
    }
    Ok(OpenSsl010Config::new(builder))
}
