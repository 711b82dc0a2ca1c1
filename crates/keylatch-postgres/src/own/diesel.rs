//! Diesel's transactions, with diesel-async.

use diesel::pg::Pg;
use diesel::result::{DatabaseErrorKind, Error};
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::client::{Call, CallError, OwnTx, Param};

#[derive(QueryableByName)]
struct Reply {
    #[diesel(sql_type = Nullable<Binary>)]
    reply: Option<Vec<u8>>,
}

/// The transaction has already begun on it. Diesel does not pass on the SQLSTATE: a server error to which it gives no
/// name counts as one that may pass ([`ErrorKind::Unavailable`](keylatch_core::store::ErrorKind::Unavailable)).
impl OwnTx for AsyncPgConnection {
    async fn call(&mut self, call: Call) -> Result<Option<Vec<u8>>, CallError> {
        let query = call.params().iter().fold(sql_query(call.sql()).into_boxed::<Pg>(), |query, param| match param {
            Param::Bytes(bytes) => query.bind::<Nullable<Binary>, _>(bytes.as_deref()),
            Param::Text(text) => query.bind::<Text, _>(text.as_str()),
            Param::Number(number) => query.bind::<Nullable<BigInt>, _>(*number),
        });
        let reply: Reply = query.get_result(self).await.map_err(|error| failed(&error))?;
        Ok(reply.reply)
    }
}

fn failed(error: &Error) -> CallError {
    use DatabaseErrorKind as Kind;
    match error {
        Error::DatabaseError(Kind::UnableToSendCommand | Kind::ClosedConnection, info) => {
            CallError::unsent(info.message())
        }
        Error::DatabaseError(kind, info) => {
            let code = match kind {
                Kind::SerializationFailure => Some("40001"),
                Kind::ReadOnlyTransaction => Some("25006"),
                _ => None,
            };
            CallError::refused(code, info.message())
        }
        Error::DeserializationError(error) => CallError::unreadable(error),
        error => CallError::unsent(error),
    }
}
