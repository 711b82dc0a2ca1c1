-- As enter.sql, on a connection on which others may have left statements of the names that this transaction will use.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT keylatch.forget_statements();
SELECT keylatch.enter(decode(':id', 'hex'), decode(':owner', 'hex'), :key_lock, :request_lock, :seen_epoch, decode(:seen_owner, 'hex'), CAST(:seen_state AS smallint), :statement_ms, :pause_ms)
