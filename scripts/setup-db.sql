-- Run by setup-db.sh as one who may create roles and databases, with the variables user, password (empty for none) and
-- name. Whatever is there already stays.

SELECT format('CREATE ROLE %I LOGIN', :'user')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user')
\gexec

-- A superuser's password is not this script's to change.
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', :'user', :'password')
FROM pg_roles
WHERE rolname = :'user' AND NOT rolsuper AND :'password' <> ''
\gexec

-- Whoever is no superuser may only make things for a role that it belongs to.
SELECT format('GRANT %I TO CURRENT_USER', :'user')
FROM pg_roles
WHERE rolname = current_user AND NOT rolsuper AND rolname <> :'user' AND NOT pg_has_role(:'user', 'MEMBER')
\gexec

SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING ''UTF8''', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name')
\gexec

\connect :"name"
SET client_min_messages = warning;

-- What the store needs: a schema of its own, in which it makes its tables and functions.
GRANT CONNECT ON DATABASE :"name" TO :"user";
CREATE SCHEMA IF NOT EXISTS keylatch AUTHORIZATION :"user";
-- What the API needs: to make the table of orders.
GRANT USAGE, CREATE ON SCHEMA public TO :"user";
