-- What Fill makes in the database postgres; :scale is a number. Every major from 10
-- on understands it. Statements end where a line does.

CREATE TABLE accounts (id bigserial PRIMARY KEY, name text NOT NULL, balance numeric(12,2),
	opened timestamptz, rate float8, flags boolean[]);
CREATE INDEX ON accounts (name);
CREATE INDEX ON accounts (opened) WHERE balance > 500;
INSERT INTO accounts (name, balance, opened, rate, flags)
	SELECT md5(g::text), g % 1000, timestamptz '2001-01-01' + g * interval '1 hour', sqrt(g), ARRAY[g % 2 = 0, NULL]
	FROM generate_series(1, :scale * 4000) g;

CREATE TABLE documents (id int PRIMARY KEY, body jsonb NOT NULL);
CREATE INDEX ON documents USING gin (body);
INSERT INTO documents
	SELECT g, jsonb_build_object('id', g, 'tag', g % 17, 'words', ARRAY[md5(g::text), 'common'])
	FROM generate_series(1, :scale * 1000) g;

-- 16 kB each, stored beside the table as they are
CREATE TABLE blobs (id int PRIMARY KEY, content text);
ALTER TABLE blobs ALTER content SET STORAGE EXTERNAL;
INSERT INTO blobs
	SELECT g, (SELECT string_agg(md5((g * 1000 + i)::text), '') FROM generate_series(1, 500) i)
	FROM generate_series(1, :scale * 20) g;
SELECT lo_from_bytea(0, decode(md5(g::text), 'hex')) FROM generate_series(1, :scale * 10) g;

CREATE TABLE events (id int NOT NULL, what text) PARTITION BY RANGE (id);
CREATE TABLE "events, early" PARTITION OF events FOR VALUES FROM (0) TO (500);
CREATE TABLE "events, später" PARTITION OF events FOR VALUES FROM (500) TO (maxvalue);
INSERT INTO events SELECT g, 'event ' || g FROM generate_series(0, :scale * 1000) g;

CREATE UNLOGGED TABLE tokens (id int PRIMARY KEY, token text);
INSERT INTO tokens SELECT g, md5(g::text) FROM generate_series(1, :scale * 200) g;

CREATE TABLE nothing (id int);

-- dead rows, of which VACUUM finds only the first
DELETE FROM accounts WHERE id % 10 = 0;
VACUUM;
UPDATE accounts SET balance = balance + 1 WHERE id % 7 = 0
