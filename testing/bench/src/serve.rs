//! A server process: one service, on one core, until its parent is gone.

use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::time::Duration;

use keylatch::Engine;
use tokio::net::TcpListener;

use crate::app::{App, Setup};
use crate::{Result, cores};

/// Serves `app` on a free port, which it prints.
pub(crate) fn serve(app: App, setup: &Setup, core: Option<usize>) -> Result<()> {
    cores::pin(core)?;
    std::thread::spawn(end_with_parent);
    // As `#[tokio::main]` makes it: with one worker on one core.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let service = app.service(setup).await?;
        if let (Some(engine), Some(_)) = (service.engine, setup.kept) {
            tokio::spawn(sweep(engine));
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?.port());
        axum::serve(listener, service.router).await?;
        Ok(())
    })
}

/// The pipe to standard input closes with the parent, however that ends.
pub(crate) fn end_with_parent() {
    let _ = io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}

/// Sweeps as a service does, often enough for its short retention.
async fn sweep(engine: Engine) {
    /// Small, because a sweep is one write, and other writes wait for it.
    const RECORDS: usize = 500;
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match engine.sweep(RECORDS).await {
            Ok(swept) if swept.more => tokio::task::yield_now().await,
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) => {
                eprintln!("a sweep failed: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
