-- Run by setup-db.sh as a role that may create roles and databases, with the variables user, password (empty for none)
-- and name. What exists already stays as it is.

SELECT format('CREATE ROLE %I LOGIN', :'user')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'user')
\gexec

-- This script never changes a superuser's password.
SELECT format('ALTER ROLE %I LOGIN PASSWORD %L', :'user', :'password')
FROM pg_roles
WHERE rolname = :'user' AND NOT rolsuper AND :'password' <> ''
\gexec

-- A role that is not a superuser may create objects only for roles of which it is a member.
SELECT format('GRANT %I TO CURRENT_USER', :'user')
FROM pg_roles
WHERE rolname = current_user AND NOT rolsuper AND rolname <> :'user' AND NOT pg_has_role(:'user', 'MEMBER')
\gexec

SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING ''UTF8''', :'name')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name')
\gexec

\connect :"name"
SET client_min_messages = warning;

-- The store needs its own schema, in which it creates its tables and functions.
GRANT CONNECT ON DATABASE :"name" TO :"user";
CREATE SCHEMA IF NOT EXISTS keylatch AUTHORIZATION :"user";
-- The API needs the right to create the table of orders.
GRANT USAGE, CREATE ON SCHEMA public TO :"user";
