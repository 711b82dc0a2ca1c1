//! Transactions of tokio-postgres.

use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use super::client::{Call, CallError, OwnTx, Param};

/// One round trip for each statement: none is prepared beforehand.
impl OwnTx for Transaction<'_> {
    async fn call(&mut self, call: Call) -> Result<Option<Vec<u8>>, CallError> {
        let params: Vec<_> = call.params().iter().map(typed).collect();
        let rows = self.query_typed(call.sql(), &params).await.map_err(|error| failed(&error))?;
        let row = rows.first().ok_or_else(|| CallError::unreadable("a row is missing"))?;
        row.try_get(0).map_err(|error| CallError::unreadable(&error))
    }
}

fn typed(param: &Param) -> (&(dyn ToSql + Sync), Type) {
    match param {
        Param::Bytes(bytes) => (bytes, Type::BYTEA),
        Param::Text(text) => (text, Type::TEXT),
        Param::Number(number) => (number, Type::INT8),
    }
}

fn failed(error: &tokio_postgres::Error) -> CallError {
    match error.as_db_error() {
        Some(refusal) => CallError::refused(Some(refusal.code().code()), refusal.message()),
        None => CallError::unsent(error),
    }
}
