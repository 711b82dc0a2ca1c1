//! Servers that also listen for TLS.

use std::path::{Path, PathBuf};

use super::{Config, Server, free_port};
use crate::certificates::{Authority, Certificate};

/// Where a server finds the certificate of the authority that it trusts.
const AUTHORITY: &str = "authority.crt";

/// What a server presents, and whom it trusts.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    certificate: Certificate,
    authority: String,
}

impl Config {
    /// Also listens for TLS, with `certificate`. Its connections to other servers use TLS, and it trusts certificates
    /// of `authority`. Clients need no certificate.
    #[must_use]
    pub fn with_tls(mut self, certificate: &Certificate, authority: &Authority) -> Self {
        self.tls = Some(Tls { certificate: certificate.clone(), authority: authority.pem() });
        self
    }
}

impl Tls {
    /// The arguments of a server in `directory` that listens on `port`.
    pub(super) fn arguments(&self, directory: &Path, port: u16) -> Vec<String> {
        let [file, key] = write(directory, &self.certificate);
        let authority = directory.join(AUTHORITY);
        std::fs::write(&authority, &self.authority).expect("a file can be written");
        let settings = [
            ("tls-port", port.to_string()),
            ("tls-cert-file", file.display().to_string()),
            ("tls-key-file", key.display().to_string()),
            ("tls-ca-cert-file", authority.display().to_string()),
            ("tls-auth-clients", "no".to_owned()),
            ("tls-replication", "yes".to_owned()),
            ("tls-cluster", "yes".to_owned()),
        ];
        settings.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }
}

impl Server {
    /// The port that it listens on for TLS.
    ///
    /// # Panics
    ///
    /// If it was started without TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("it was started with TLS")
    }

    /// The port for other servers.
    pub(super) fn known_port(&self) -> u16 {
        self.tls_port.unwrap_or(self.port)
    }

    /// The file of the authority that it trusts, if it was started with TLS.
    pub(super) fn authority(&self) -> Option<PathBuf> {
        self.tls_port.map(|_| self.directory.join(AUTHORITY))
    }

    /// Also listens for TLS from now on, with `certificate`; returns the port.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub fn listen_tls(&self, certificate: &Certificate) -> u16 {
        let port = free_port();
        self.show(certificate, &format!("tls-auth-clients no tls-port {port}"));
        port
    }

    /// Presents this certificate to new connections.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub fn change_certificate(&self, certificate: &Certificate) {
        self.show(certificate, "");
    }

    fn show(&self, certificate: &Certificate, settings: &str) {
        let [file, key] = write(&self.directory, certificate);
        let files = format!("tls-cert-file {} tls-key-file {}", file.display(), key.display());
        let reply = self.ask(&format!("CONFIG SET {files} {settings}"));
        assert!(reply.starts_with("+OK"), "{reply}");
    }
}

/// Writes a certificate and its key into files.
fn write(directory: &Path, certificate: &Certificate) -> [PathBuf; 2] {
    let files = [("server.crt", &certificate.pem), ("server.key", &certificate.key)];
    files.map(|(name, text)| {
        let file = directory.join(name);
        std::fs::write(&file, text).expect("a file can be written");
        file
    })
}
