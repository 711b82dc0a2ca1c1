//! The way between two machines: a proxy for TCP that can be slow, silent or gone.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// A way to one port of this machine. It ends when this is dropped, and its connections with it.
#[derive(Debug)]
pub struct Link {
    port: u16,
    way: Way,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// What happens to connections on their way to one target. Without it they end.
#[derive(Debug)]
pub(crate) struct Way {
    target: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    delay: Duration,
    silent: bool,
    cut: bool,
    /// Connections end when it changes.
    generation: u64,
}

/// How long a port may take to be free again.
const BIND_MAX: Duration = Duration::from_secs(10);

impl Link {
    /// A way to `target`.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let link = Self { port, way: Way::to((Ipv4Addr::LOCALHOST, target).into()), accepting: Mutex::default() };
        link.accept(listener);
        link
    }

    /// Its own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Delays each part of what passes by this much from now on, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.way.state.send_modify(|state| state.delay = delay);
    }

    /// Sets whether nothing passes from now on, while connections stay open.
    pub fn fall_silent(&self, silent: bool) {
        self.way.fall_silent(silent);
    }

    /// Closes all connections, and refuses new ones.
    pub async fn cut(&self) {
        let accepting = self.accepting.lock().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // Its port is closed once it has ended.
            let _ = accepting.await;
        }
        self.way.cut();
    }

    /// Lets everything pass again.
    ///
    /// # Panics
    ///
    /// If its port was taken meanwhile.
    pub async fn mend(&self) {
        self.way.mend();
        if self.accepting.lock().is_some() {
            return;
        }
        let bind = async {
            loop {
                match TcpListener::bind(("127.0.0.1", self.port)).await {
                    Ok(listener) => break listener,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        self.accept(timeout(BIND_MAX, bind).await.expect("its port is free"));
    }

    fn accept(&self, listener: TcpListener) {
        let (target, state) = (self.way.target, Arc::new(self.way.state.subscribe()));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = (*state).clone();
                drop(tokio::spawn(pass(client, Vec::new(), target, state)));
            }
        });
        *self.accepting.lock() = Some(accepting);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.abort();
        }
    }
}

impl Way {
    pub(crate) fn to(target: SocketAddr) -> Self {
        Self { target, state: watch::channel(State::default()).0 }
    }

    /// Lets a connection pass, of which this much was read.
    pub(crate) fn pass(&self, client: TcpStream, read: Vec<u8>) -> impl Future<Output = io::Result<()>> + use<> {
        pass(client, read, self.target, self.state.subscribe())
    }

    /// Sets whether nothing passes from now on, while connections stay open.
    pub(crate) fn fall_silent(&self, silent: bool) {
        self.state.send_modify(|state| state.silent = silent);
    }

    /// Closes all connections, and each new one.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| {
            state.cut = true;
            state.generation += 1;
        });
    }

    /// Lets everything pass again.
    pub(crate) fn mend(&self) {
        self.state.send_modify(|state| (state.silent, state.cut) = (false, false));
    }
}

async fn pass(client: TcpStream, read: Vec<u8>, target: SocketAddr, state: watch::Receiver<State>) -> io::Result<()> {
    let State { generation: began, cut, .. } = *state.borrow();
    if cut {
        return Ok(());
    }
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let mut ends = state.clone();
    tokio::select! {
        passed = one_way(read, from_client, to_server, state.clone()) => passed,
        passed = one_way(Vec::new(), from_server, to_client, state) => passed,
        // An error means that the way is gone.
        _ = ends.wait_for(|state| state.generation != began) => Ok(()),
    }
}

/// `read`: what was read before.
async fn one_way(
    read: Vec<u8>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let (mut read, mut buffer) = (read.len(), [read, vec![0; 64 << 10]].concat());
    loop {
        if read > 0 {
            let delay = state.borrow().delay;
            sleep(delay).await;
            let _ = state.wait_for(|state| !state.silent && !state.cut).await;
            to.write_all(&buffer[..read]).await?;
        }
        read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
    }
}
