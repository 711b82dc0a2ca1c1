//! SIGHUP: the file is read again, and counts from the next request on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::layers::Layers;
use crate::routes::Live;

/// Reads the file again, whenever it is told to.
pub(crate) struct Reload {
    hangups: Signal,
    file: PathBuf,
    layers: Arc<Layers>,
    live: Live,
}

impl Reload {
    /// Listens for SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// If the system does not let it.
    pub(crate) fn new(file: PathBuf, layers: Arc<Layers>, live: Live) -> io::Result<Self> {
        Ok(Self { hangups: signal(SignalKind::hangup())?, file, layers, live })
    }

    /// For as long as the process lives.
    pub(crate) async fn run(mut self) {
        while self.hangups.recv().await.is_some() {
            let (layers, file) = (self.layers.clone(), self.file.clone());
            // It reads files.
            let read = tokio::task::spawn_blocking(move || layers.read(&file)).await;
            match read {
                Ok(Ok(routes)) => {
                    self.live.replace(routes);
                    count("taken");
                    tracing::info!("the file was read again; its routes count from now on");
                }
                Ok(Err(mistakes)) => {
                    count("refused");
                    tracing::error!(
                        "the file was read again and has mistakes; what was read before counts on:\n{mistakes}"
                    );
                }
                Err(error) => {
                    count("refused");
                    tracing::error!(%error, "the file could not be read again; what was read before counts on");
                }
            }
        }
    }
}

fn count(result: &'static str) {
    metrics::counter!("keylatch_gateway_reloads_total", "result" => result).increment(1);
}
