//! The service that is probed, and one request to it: whole or broken off.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::args::Probe;

/// How long one request takes at most, from its connection to the end of its answer.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// The largest answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

pub(crate) struct Target {
    host: String,
    port: u16,
    /// Of https.
    tls: Option<rustls::ClientConfig>,
    authority: Authority,
    path: PathAndQuery,
    method: Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) key_header: HeaderName,
    sent: AtomicUsize,
    requests_max: usize,
}

/// What is sent: a key, a body, and the headers that differ from those of every request.
#[derive(Debug, Clone)]
pub(crate) struct Shot {
    pub(crate) key: Option<Bytes>,
    pub(crate) body: Bytes,
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer within {} s", REQUEST_MAX.as_secs())]
    Silent,
    #[error("the limit of {0} requests is reached; raise it with --requests-max")]
    Limit(usize),
}

pub(crate) type Answer = Response<Bytes>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Target {
    pub(crate) fn new(probe: &Probe) -> Result<Self, String> {
        let uri = &probe.url;
        let wrong = || format!("{uri} is not a URL that can be probed; write http://HOST:PORT/PATH or https://…");
        let authority = uri.authority().ok_or_else(wrong)?.clone();
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => None,
            Some(scheme) if *scheme == Scheme::HTTPS => Some(tls()?),
            _ => return Err(wrong()),
        };
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let mut headers = probe.headers.clone();
        if !probe.body.is_empty() && !headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            tls,
            path: uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
            authority,
            method: probe.method.clone(),
            headers,
            key_header: probe.key_header.clone(),
            sent: AtomicUsize::new(0),
            requests_max: probe.requests_max,
        })
    }

    /// How many requests were sent so far.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends a request, and reads its answer.
    pub(crate) async fn send(&self, shot: &Shot) -> Result<Answer, NoAnswer> {
        self.exchange(self.request(shot).map(Full::new), Version::HTTP_11).await
    }

    /// The same by HTTP/2. `None` if the service has none.
    pub(crate) async fn send_by_http2(&self, shot: &Shot) -> Result<Option<Answer>, NoAnswer> {
        match self.exchange(self.request(shot).map(Full::new), Version::HTTP_2).await {
            Ok(answer) => Ok(Some(answer)),
            Err(NoAnswer::Broken(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Another request to the same host, with the headers of every request.
    pub(crate) async fn ask(&self, method: &Method, path: &str) -> Result<Answer, NoAnswer> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.authority.as_str());
        for (name, value) in self.headers.iter().filter(|(name, _)| name != CONTENT_TYPE) {
            request = request.header(name, value);
        }
        let request = request.body(Full::<Bytes>::default()).map_err(|error| NoAnswer::Broken(error.into()))?;
        self.exchange(request, Version::HTTP_11).await
    }

    /// Sends a request with a pause in the middle of its body, and reads its answer.
    pub(crate) async fn send_slowly(&self, shot: &Shot, pause: Duration) -> Result<Answer, NoAnswer> {
        let (first, second) = (shot.body.slice(..shot.body.len() / 2), shot.body.slice(shot.body.len() / 2..));
        let halves = futures_util::stream::unfold(Some((first, Some(second))), move |rest| async move {
            match rest? {
                (half, Some(next)) => Some((half, Some((next, None)))),
                (half, None) => {
                    tokio::time::sleep(pause).await;
                    Some((half, None))
                }
            }
        });
        let body = StreamBody::new(halves.map(|half| Ok::<_, Infallible>(Frame::data(half))));
        let mut request = self.request(shot).map(|_| BodyExt::boxed_unsync(body));
        request.headers_mut().insert(CONTENT_LENGTH, shot.body.len().into());
        self.exchange(request, Version::HTTP_11).await
    }

    /// Sends a request, or a part of it, and hangs up after a while without reading the answer.
    pub(crate) async fn hang_up(&self, shot: &Shot, part: Part, after: Duration) -> Result<(), NoAnswer> {
        self.count()?;
        let body = match part {
            Part::Whole => &shot.body[..],
            Part::Half => &shot.body[..shot.body.len() / 2],
        };
        let sent = async {
            let mut stream = self.connect(&[b"http/1.1"]).await?;
            let bytes = [&self.head(shot), body].concat();
            let written = async { stream.write_all(&bytes).await.and(stream.flush().await) };
            written.await.map_err(|error| NoAnswer::Broken(error.into()))?;
            tokio::time::sleep(after).await;
            Ok(())
        };
        timeout(REQUEST_MAX, sent).await.map_err(|_| NoAnswer::Silent)?
    }

    /// A line for a shell that sends the request. Values that may be secrets are left out.
    pub(crate) fn curl(&self, shot: &Shot) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut line =
            format!("curl -i -X {} {}", self.method, quote(&format!("{scheme}://{}{}", self.authority, self.path)));
        for (name, value) in self.headers_of(shot) {
            let value = if is_secret(&name) {
                "…".to_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            };
            line.push_str(&format!(" -H {}", quote(&format!("{name}: {value}"))));
        }
        if !shot.body.is_empty() {
            line.push_str(&format!(" --data-raw {}", quote(&String::from_utf8_lossy(&shot.body))));
        }
        line
    }

    fn headers_of(&self, shot: &Shot) -> Vec<(HeaderName, HeaderValue)> {
        let other = shot.header.as_ref().map(|(name, _)| name);
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| Some(name) != other).cloned().collect();
        headers.extend(shot.header.clone());
        if let Some(key) = &shot.key {
            let value = HeaderValue::from_bytes(key).expect("the cases make keys that can be sent");
            headers.push((self.key_header.clone(), value));
        }
        headers
    }

    fn request(&self, shot: &Shot) -> Request<Bytes> {
        let mut request = Request::new(shot.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        request.headers_mut().insert(HOST, HeaderValue::from_str(self.authority.as_str()).expect("it was parsed"));
        for (name, value) in self.headers_of(shot) {
            request.headers_mut().append(name, value);
        }
        request
    }

    /// The head of a request, as it is on the wire.
    fn head(&self, shot: &Shot) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n{HOST}: {}\r\n", self.method, self.path, self.authority).into_bytes();
        for (name, value) in self.headers_of(shot) {
            head.extend_from_slice(format!("{name}: ").as_bytes());
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(
            format!("{CONTENT_LENGTH}: {}\r\nconnection: close\r\n\r\n", shot.body.len()).as_bytes(),
        );
        head
    }

    fn count(&self) -> Result<(), NoAnswer> {
        let before = self.sent.fetch_add(1, Ordering::Relaxed);
        if before < self.requests_max { Ok(()) } else { Err(NoAnswer::Limit(self.requests_max)) }
    }

    async fn exchange<B>(&self, request: Request<B>, version: Version) -> Result<Answer, NoAnswer>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        self.count()?;
        timeout(REQUEST_MAX, self.converse(request, version)).await.map_err(|_| NoAnswer::Silent)?
    }

    async fn converse<B>(&self, mut request: Request<B>, version: Version) -> Result<Answer, NoAnswer>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> NoAnswer {
            NoAnswer::Broken(error.into())
        }
        let response = if version == Version::HTTP_2 {
            let stream = TokioIo::new(self.connect(&[b"h2"]).await?);
            let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
            let uri = Uri::builder().scheme(scheme).authority(self.authority.clone()).path_and_query(self.path.clone());
            *request.uri_mut() = uri.build().map_err(broken)?;
            request.headers_mut().remove(HOST);
            let executor = TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, stream).await.map_err(broken)?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await.map_err(broken)?;
            let whole = collect(response).await;
            connection.abort();
            whole
        } else {
            let stream = TokioIo::new(self.connect(&[b"http/1.1"]).await?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await.map_err(broken)?;
            let whole = collect(response).await;
            connection.abort();
            whole
        };
        response.map_err(NoAnswer::Broken)
    }

    async fn connect(&self, protocols: &[&[u8]]) -> Result<Box<dyn Stream>, NoAnswer> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(NoAnswer::Unreachable)?;
        stream.set_nodelay(true).map_err(NoAnswer::Unreachable)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let mut tls = tls.clone();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from(self.host.clone()).map_err(|error| NoAnswer::Broken(error.into()))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| NoAnswer::Broken(error.into()))?))
    }
}

/// How much of a request is sent before its client hangs up.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Whole,
    Half,
}

async fn collect(
    response: Response<hyper::body::Incoming>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
    Ok(Response::from_parts(parts, body))
}

fn tls() -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        let _ = roots.add(certificate);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

fn is_secret(name: &HeaderName) -> bool {
    let name = name.as_str();
    ["authorization", "cookie", "token", "api-key", "apikey", "secret"].iter().any(|secret| name.contains(secret))
}

/// A text as one word of a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
