//! SIGHUP: the file of routes, the certificates and the tokens of operators are read again. They apply from the next
//! request and the next connection.

use std::io;
use std::sync::Arc;

use keylatch_admin::{Access, Tokens};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::admin::Settings;
use crate::layers::Layers;
use crate::routes::{Live, Routes};

/// Reads the files again on each SIGHUP.
pub(crate) struct Reload {
    hangups: Signal,
    layers: Arc<Layers>,
    live: Live,
    acceptors: Option<watch::Sender<TlsAcceptor>>,
    access: Option<Access>,
}

/// The contents of the files.
struct Files {
    routes: Option<Routes>,
    acceptor: Option<TlsAcceptor>,
    tokens: Option<Tokens>,
}

impl Reload {
    /// Listens for SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// If the system refuses it.
    pub(crate) fn new(
        layers: Arc<Layers>,
        live: Live,
        acceptors: Option<watch::Sender<TlsAcceptor>>,
        access: Option<Access>,
    ) -> io::Result<Self> {
        Ok(Self { hangups: signal(SignalKind::hangup())?, layers, live, acceptors, access })
    }

    /// Runs until the process ends.
    pub(crate) async fn run(mut self) {
        while self.hangups.recv().await.is_some() {
            let layers = self.layers.clone();
            // Reading a file may block, so another thread does it.
            let read = tokio::task::spawn_blocking(move || read(&layers)).await;
            match read.map_err(|error| error.to_string()).and_then(|read| read) {
                Ok(files) => {
                    self.take(files);
                    count("taken");
                    tracing::info!("the files were read again, and count from now on");
                }
                Err(mistakes) => {
                    count("refused");
                    tracing::error!(
                        "the files were read again and have mistakes; what was read before counts on:\n{mistakes}"
                    );
                }
            }
        }
    }

    fn take(&self, Files { routes, acceptor, tokens }: Files) {
        if let Some(routes) = routes {
            self.live.replace(routes);
        }
        if let (Some(acceptors), Some(acceptor)) = (&self.acceptors, acceptor) {
            acceptors.send_replace(acceptor);
        }
        if let (Some(access), Some(tokens)) = (&self.access, tokens) {
            access.replace(tokens);
        }
    }
}

/// Reads everything before anything changes: a mistake in one file leaves all as they were.
fn read(layers: &Layers) -> Result<Files, String> {
    let args = &layers.args;
    let file = args.config.as_deref().map(|file| layers.read(file)).transpose();
    let of_file = file.as_ref().ok().and_then(Option::as_ref).map(|(_, admin)| admin.clone()).unwrap_or_default();
    let tokens = Settings::new(args, &of_file).and_then(|settings| settings.tokens());
    match (file, args.acceptor(), tokens) {
        (Ok(file), Ok(acceptor), Ok(tokens)) => Ok(Files { routes: file.map(|(routes, _)| routes), acceptor, tokens }),
        (file, acceptor, tokens) => {
            let wrong = [file.err(), acceptor.err(), tokens.err()];
            Err(wrong.into_iter().flatten().collect::<Vec<_>>().join("\n"))
        }
    }
}

fn count(result: &'static str) {
    metrics::counter!("keylatch_gateway_reloads_total", "result" => result).increment(1);
}
