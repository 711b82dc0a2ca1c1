//! A request as it arrived.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A request, byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The head, with the empty line at its end.
    pub head: String,
    /// The body as it arrived, with its chunks.
    pub raw_body: Vec<u8>,
    /// Which connection it came on, from 1.
    pub connection: u64,
}

/// A request that was read, or a part of it.
pub(crate) struct Read {
    pub(crate) seen: Seen,
    /// Whether all of it arrived.
    pub(crate) whole: bool,
}

impl Seen {
    /// The method and the target.
    pub fn target(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
    }

    /// The value of a header that has at most one line.
    ///
    /// # Panics
    ///
    /// If it has more than one line.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut values = self.headers(name);
        assert!(values.len() <= 1, "{name}: {values:?}");
        values.pop()
    }

    /// The body without its chunks.
    ///
    /// # Panics
    ///
    /// If they are not well-formed.
    pub fn body(&self) -> Vec<u8> {
        if self.header("transfer-encoding").is_none() {
            return self.raw_body.clone();
        }
        let (mut body, mut rest) = (Vec::new(), &self.raw_body[..]);
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n").expect("a line with the size of a chunk");
            let size = std::str::from_utf8(&rest[..line]).expect("a size is text");
            let size = usize::from_str_radix(size, 16).expect("a size is hexadecimal");
            if size == 0 {
                return body;
            }
            body.extend_from_slice(&rest[line + 2..line + 2 + size]);
            assert_eq!(&rest[line + 2 + size..line + 4 + size], b"\r\n");
            rest = &rest[line + 4 + size..];
        }
    }
}

/// Reads the next request; `None` if there is none. It panics on anything that RFC 9112 does not accept as a request.
pub(crate) async fn read<S>(stream: &mut S, buffer: &mut Vec<u8>, connection: u64) -> io::Result<Option<Read>>
where
    S: AsyncRead + Unpin,
{
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer.drain(..end).collect()).expect("the gateway sends text");
    assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{head:?}");
    let mut seen = Seen { head, raw_body: Vec::new(), connection };
    if seen.target().1.starts_with("/early") {
        return Ok(Some(Read { seen, whole: true }));
    }
    let (length, coding) = (seen.header("content-length"), seen.header("transfer-encoding"));
    assert!(length.is_none() || coding.is_none(), "two framings: {}", seen.head);
    let whole = match coding.as_deref() {
        Some("chunked") => loop {
            if let Some(end) = end_of_chunks(buffer) {
                seen.raw_body = buffer.drain(..end).collect();
                break true;
            }
            if stream.read_buf(buffer).await? == 0 {
                break false;
            }
        },
        Some(coding) => panic!("Transfer-Encoding: {coding}"),
        None => {
            let length = length.map_or(0, |length| length.parse().expect("a length is a number"));
            loop {
                if buffer.len() >= length {
                    seen.raw_body = buffer.drain(..length).collect();
                    break true;
                }
                if stream.read_buf(buffer).await? == 0 {
                    break false;
                }
            }
        }
    };
    Ok(Some(Read { seen, whole }))
}

/// Where a chunked body ends, once all of it has arrived: the gateway writes no extensions and, here, no trailers.
fn end_of_chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).expect("a size is text");
        let size = usize::from_str_radix(size, 16).expect("a size is hexadecimal, without an extension");
        at += line + 2 + size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some(at);
        }
    }
}
