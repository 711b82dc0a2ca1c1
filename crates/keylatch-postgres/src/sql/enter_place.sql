-- Follows `begin.sql` in one message, as `enter.sql` does: hexadecimal digits, whole numbers, null, true and false.
SELECT keylatch.enter_place(convert_from(decode(':consumer', 'hex'), 'UTF8'), convert_from(decode(':topic', 'hex'), 'UTF8'), :partition, :epoch, decode(':owner', 'hex'), :step, :next, decode(':ids', 'hex'))
