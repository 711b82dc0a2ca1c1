//! Replies of a server, as bytes and as values of the client's crate.

use redis::{ErrorKind, RedisError, RedisResult, Value, parse_redis_value};
use redis_protocol::resp2::decode;
use redis_protocol::resp2::types::OwnedFrame;

/// The first reply in `bytes` and its length; `None` if it is not complete.
///
/// # Errors
///
/// If it is not a reply of a Redis server.
pub(super) fn decode(bytes: &[u8]) -> RedisResult<Option<(Value, usize)>> {
    let decoded = decode::decode(bytes).map_err(|_| invalid("it does not follow the protocol"))?;
    decoded.map(|(frame, bytes)| Ok((value(frame)?, bytes))).transpose()
}

fn value(frame: OwnedFrame) -> RedisResult<Value> {
    Ok(match frame {
        OwnedFrame::SimpleString(text) if text == b"OK" => Value::Okay,
        OwnedFrame::SimpleString(text) => {
            Value::SimpleString(String::from_utf8(text).map_err(|_| invalid("a line is not UTF-8"))?)
        }
        OwnedFrame::Integer(number) => Value::Int(number),
        OwnedFrame::BulkString(bytes) => Value::BulkString(bytes),
        OwnedFrame::Null => Value::Nil,
        OwnedFrame::Array(frames) => Value::Array(frames.into_iter().map(value).collect::<RedisResult<_>>()?),
        // The crate knows the kinds of errors.
        OwnedFrame::Error(text) => parse_redis_value(format!("-{text}\r\n").as_bytes())?,
    })
}

pub(super) fn invalid(why: &'static str) -> RedisError {
    (ErrorKind::Parse, "the reply cannot be read", why.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_those_of_the_crate() {
        for reply in [
            &b"+OK\r\n"[..],
            b"+PONG\r\n",
            b"-NOSCRIPT No matching script.\r\n",
            b"-ERR something\r\n",
            b"-OOM command not allowed\r\n",
            b":-42\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$0\r\n\r\n",
            b"$4\r\n\x00\r\n\xff\r\n",
            b"*3\r\n$1\r\n0\r\n*2\r\n:1\r\n$-1\r\n*0\r\n",
        ] {
            let followed = [reply, b":7\r\n"].concat();
            assert_eq!(decode(&followed).unwrap(), Some((parse_redis_value(reply).unwrap(), reply.len())));
            for end in 0..reply.len() {
                assert_eq!(decode(&reply[..end]).unwrap(), None, "{end} of {reply:?}");
            }
        }
        assert!(decode(b"HTTP/1.1 400 Bad Request\r\n").is_err());
    }
}
