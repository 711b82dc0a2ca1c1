//! The socket to one server. The client's crate logs in on it; then calls are written to it directly.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, ProtocolVersion, RedisError, RedisResult};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tls::Tls;

/// A TCP, TLS or Unix socket.
pub(super) type Socket = Box<dyn Duplex>;

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects to the server of `client`, logs in as its address says, and returns the socket together with what `first`
/// has asked the server.
pub(super) async fn open<T>(
    client: &Client,
    tls: &Tls,
    first: impl AsyncFnOnce(&mut MultiplexedConnection) -> T,
) -> RedisResult<(Socket, T)> {
    let info = client.get_connection_info();
    let lent = Lent(Arc::new(Mutex::new(Some(connect(info.addr(), tls).await?))));
    // Replies are read in this version of the protocol, whatever the address says.
    let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
    // The caller limits the time.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let (mut connection, driver) = MultiplexedConnection::new_with_config(&login, lent.clone(), config).await?;
    let told = {
        let (first, driver) = (pin!(first(&mut connection)), pin!(driver));
        tokio::select! {
            told = first => told,
            () = driver => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    };
    // Every reply has arrived, so the crate has kept no bytes.
    let socket = lent.0.lock().take();
    Ok((socket.expect("it is taken once"), told))
}

async fn connect(address: &ConnectionAddr, tls: &Tls) -> RedisResult<Socket> {
    match address {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(connect_tcp(host, *port).await?)),
        ConnectionAddr::TcpTls { host, port, .. } => {
            Ok(Box::new(tls.connect(host, connect_tcp(host, *port).await?).await?))
        }
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        _ => Err(RedisError::from((ErrorKind::InvalidClientConfig, "addresses of this kind are not supported"))),
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    // A batch is one write, which must not wait for more.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket that the crate uses until it is taken back.
#[derive(Clone)]
struct Lent(Arc<Mutex<Option<Socket>>>);

impl Lent {
    fn with<T>(&self, poll: impl FnOnce(Pin<&mut Socket>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.lock().as_mut() {
            Some(socket) => poll(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_read(context, buffer))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|socket| socket.poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.poll_shutdown(context))
    }
}
