//! What the caller's own transaction must be able to do, with any client.

use std::fmt;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::error::{Fault, Sent};
use crate::link::PgQuery;
use crate::sql::Statement;

/// A transaction that the caller has begun, with any PostgreSQL client. [`Store::claim_in`](crate::Store::claim_in) and
/// [`Store::complete_in`](crate::Store::complete_in) work in one.
///
/// It is implemented for sqlx; with the feature `tokio-postgres` for that crate, and with `diesel` for diesel-async.
/// For another client, wrap its transaction in your own type and run the [`Call`] in it:
///
/// ```
/// use keylatch::postgres::{Call, CallError, OwnTx, Param};
/// # struct Row; impl Row { fn bytes(&self, _: usize) -> Result<Option<Vec<u8>>, String> { Ok(None) } }
/// # struct Other; struct Query;
/// # impl Other { fn query(&mut self, _: &str) -> Query { Query } }
/// # impl Query { fn bind<T>(&mut self, _: T) {} async fn one(self) -> Result<Row, String> { Ok(Row) } }
///
/// struct Mine<'a>(&'a mut Other);
///
/// impl OwnTx for Mine<'_> {
///     async fn call(&mut self, call: Call) -> Result<Option<Vec<u8>>, CallError> {
///         let mut query = self.0.query(call.sql());
///         for param in call.params() {
///             match param {
///                 Param::Bytes(bytes) => query.bind(bytes.as_deref()),
///                 Param::Text(text) => query.bind(text.as_str()),
///                 Param::Number(number) => query.bind(*number),
///             }
///         }
///         let row = query.one().await.map_err(|error| CallError::unsent(&error))?;
///         row.bytes(0).map_err(|error| CallError::unreadable(&error))
///     }
/// }
/// ```
pub trait OwnTx {
    /// Runs one statement in the transaction. It returns one row with one column, of the type `bytea`, which may be
    /// null.
    ///
    /// # Errors
    ///
    /// If it failed. Then the transaction can only be rolled back.
    fn call(&mut self, call: Call) -> impl Future<Output = Result<Option<Vec<u8>>, CallError>> + Send;
}

/// A statement of Keylatch, to be run in the caller's own transaction.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) statement: Statement,
    pub(crate) prepared: bool,
    pub(crate) params: Vec<Param>,
}

/// The value of a parameter, and so its type.
#[derive(Clone, PartialEq, Eq)]
pub enum Param {
    /// A `bytea`, or null.
    Bytes(Option<Vec<u8>>),
    /// A `text`.
    Text(String),
    /// A `bigint`, or null.
    Number(Option<i64>),
}

impl Call {
    /// The statement, with parameters from `$1` on.
    pub fn sql(&self) -> &str {
        self.statement.text()
    }

    /// The values of its parameters, in their order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Whether the client may keep it prepared under a name; `false` behind a
    /// [pooler](crate::Options::with_transaction_pooling) that knows no such statements.
    pub const fn may_be_kept(&self) -> bool {
        self.prepared
    }

    /// The same for sqlx.
    pub(crate) fn into_query<'q>(self) -> PgQuery<'q> {
        self.params.into_iter().fold(self.statement.query(self.prepared), Param::bind)
    }
}

impl Param {
    /// Adds it to `query`.
    pub(crate) fn bind(query: PgQuery<'_>, param: Self) -> PgQuery<'_> {
        match param {
            Self::Bytes(bytes) => query.bind(bytes),
            Self::Text(text) => query.bind(text),
            Self::Number(number) => query.bind(number),
        }
    }
}

/// Shows only its length, because it may be part of an answer or a key.
impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({:?} bytes)", bytes.as_ref().map(Vec::len)),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Number(number) => write!(f, "Number({number:?})"),
        }
    }
}

/// A statement that failed in the caller's own transaction.
#[derive(Debug)]
pub struct CallError(pub(crate) Fault);

impl CallError {
    /// The server refused, with this SQLSTATE (such as `55P03`) and this message. Without the code, the failure counts
    /// as one that may pass.
    pub fn refused(code: Option<&str>, message: &str) -> Self {
        Self(Fault::of_server(code, message, false, Sent::Harmless))
    }

    /// The statement could not be sent, or the connection broke.
    pub fn unsent(message: &(impl fmt::Display + ?Sized)) -> Self {
        Self(Fault::disconnected(message.to_string()))
    }

    /// The reply cannot be read.
    pub fn unreadable(message: &(impl fmt::Display + ?Sized)) -> Self {
        Self(crate::rows::damaged(message.to_string()))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for CallError {}

/// The transaction is begun on it already.
impl OwnTx for PgConnection {
    async fn call(&mut self, call: Call) -> Result<Option<Vec<u8>>, CallError> {
        let failed = |error: sqlx::Error| CallError(Fault::of(&error, Sent::Harmless));
        call.into_query().fetch_one(self).await.and_then(|row| row.try_get(0)).map_err(failed)
    }
}

impl OwnTx for sqlx::Transaction<'_, sqlx::Postgres> {
    async fn call(&mut self, call: Call) -> Result<Option<Vec<u8>>, CallError> {
        (**self).call(call).await
    }
}
