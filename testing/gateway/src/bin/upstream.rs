//! The service behind the gateway, in its own process. `PORT`; `LEDGER` is the file for its starts and effects, `REGION`
//! the region that they name, if there are several.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use testing_gateway::Upstream;
use testing_history::ledger::Ledger;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ledger = std::env::var("LEDGER")?;
    let listener = TcpListener::bind(format!("127.0.0.1:{}", std::env::var("PORT")?)).await?;
    writeln!(std::io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    let region = std::env::var("REGION").ok();
    Upstream::in_region(Ledger::open(Path::new(&ledger))?, Path::new(&ledger), region).serve(listener).await;
    Ok(())
}
