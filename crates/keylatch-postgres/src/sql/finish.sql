-- What goes in and out is `bytea`, `text` or `bigint`, so that every client can send it, and one `bytea` comes back.
SELECT int8send(keylatch.finish(
    $1, $2, $3, $4, $5, $6::bigint::smallint, $7, $8, $9::bigint::integer, $10, $11, $12, $13, $14, $15,
    $16::bigint::integer::boolean
)) AS reply
