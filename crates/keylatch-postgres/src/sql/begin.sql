-- Begins a transaction, and bounds it in the same message: from its first moment on, the server ends it if its client falls
-- silent. A transaction without that keeps its locks for as long as a stopped process keeps its connection.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL idle_in_transaction_session_timeout = :pause_ms;
SET LOCAL statement_timeout = :statement_ms
