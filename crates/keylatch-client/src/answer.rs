//! What a call ends with.

use bytes::Bytes;
use http::{Response, StatusCode};
use keylatch_core::Key;
use serde::de::DeserializeOwned;

/// A final answer of the server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The response, read to its end. Its status may be one of a failure.
    pub response: Response<Bytes>,
    /// Whether the server answered from its record: an earlier try, or an earlier call with this key, has taken effect.
    pub replayed: bool,
    /// How often the request was sent, from 1.
    pub tries: u32,
    /// The key of the call.
    pub key: Key,
}

impl Answer {
    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The body of the response, read as JSON.
    ///
    /// # Errors
    ///
    /// If it is not JSON, or not of this type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.response.body())
    }
}
