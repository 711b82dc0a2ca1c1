-- Follows `begin.sql` in one message, and so in one round trip. Messages of several statements have no parameters, so the
-- values are written in: hexadecimal digits, whole numbers and null, and nothing else.
SELECT keylatch.enter(decode(':id', 'hex'), decode(':owner', 'hex'), :key_lock, :seen_epoch, decode(:seen_owner, 'hex'), CAST(:seen_state AS smallint))
