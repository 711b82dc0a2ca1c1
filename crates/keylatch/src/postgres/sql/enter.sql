-- One message, and so one round trip: the transaction, and the key for it. Messages of several statements have no
-- parameters, so the values are written in: hexadecimal digits, whole numbers and null, and nothing else.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT keylatch.enter(decode(':id', 'hex'), decode(':owner', 'hex'), :key_lock, :request_lock, :seen_epoch, decode(:seen_owner, 'hex'), CAST(:seen_state AS smallint), :statement_ms, :pause_ms)
