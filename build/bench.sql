-- Half of the cluster that bench.sh measures; it runs this at once as half 0 and half 1.
--
--	:half   0 or 1
--	:rows   rows of each of its tables; one of each with its indexes takes about 640 bytes
--
-- What is in it depends on nothing but these two. A table made in the transaction that
-- fills it is not logged while wal_level is minimal.

SET maintenance_work_mem = '256MB';
SET synchronous_commit = off;

-- word turns any number into one of 64 words, so that texts repeat themselves as texts do.
CREATE FUNCTION pg_temp.word(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT (string_to_array('the of and to in order is was for it with as his on be at by had not are but
		from or have an they which one you were all her she there would their we him been has when who will
		no more if out so up said what its about than into them can only other time new some could these',
		' '))[1 + abs(n % 60)]
$$;

SELECT 'events_' || :'half' AS events, 'accounts_' || :'half' AS accounts \gset

BEGIN;
-- Events: tokens that no codec shortens, documents that repeat their keys, times that
-- grow, and notes of which a third is words, a third is digits and a third is empty.
CREATE TABLE :events (
	id       bigint NOT NULL,
	at       timestamptz NOT NULL,
	account  int NOT NULL,
	token    uuid NOT NULL,
	kind     text NOT NULL,
	payload  jsonb NOT NULL,
	note     text
);
INSERT INTO :events
SELECT i,
       timestamptz '2026-01-01 00:00Z' + i * interval '137 milliseconds',
       hashint8extended(i, 1) % 100000,
       md5(i::text || :'half')::uuid,
       (ARRAY['page.view', 'page.leave', 'cart.add', 'order.paid', 'order.sent', 'login'])[1 + i % 6],
       jsonb_build_object('session', md5((i / 20)::text), 'country', (ARRAY['de', 'fr', 'us', 'jp', 'br'])[1 + i % 5],
                          'amount', (hashint8extended(i, 2) % 100000) / 100.0,
                          'items', jsonb_build_array(i % 1013, i % 97), 'mobile', i % 3 = 0),
       CASE i % 3
       WHEN 0 THEN w.a || ' ' || w.b || ' ' || w.c || ' ' || w.d || ' ' || w.a || ' ' || w.c || ' ' || w.b || ' order ' || i
       WHEN 1 THEN md5('n' || i::text) || md5('m' || i::text)
       END
  FROM generate_series(1, :rows) i,
       LATERAL (SELECT pg_temp.word(hashint8extended(i, 3)) a, pg_temp.word(hashint8extended(i, 4)) b,
                       pg_temp.word(hashint8extended(i, 5)) c, pg_temp.word(hashint8extended(i, 6)) d OFFSET 0) w;
ALTER TABLE :events ADD PRIMARY KEY (id);
CREATE UNIQUE INDEX ON :events (token);
CREATE INDEX ON :events (account, at);
CREATE INDEX ON :events USING gin (payload jsonb_path_ops);

-- Accounts: narrow rows, and the filler of pgbench.
CREATE TABLE :accounts (
	id       bigint NOT NULL,
	balance  bigint NOT NULL,
	email    text NOT NULL,
	filler   char(84) NOT NULL
);
INSERT INTO :accounts
SELECT i, hashint8extended(i, 7) % 1000000, 'user' || i || '@' || substr(md5(i::text), 1, 8) || '.example', ''
  FROM generate_series(1, :rows) i;
ALTER TABLE :accounts ADD PRIMARY KEY (id);
CREATE INDEX ON :accounts (email);
COMMIT;

VACUUM (FREEZE, ANALYZE) :events, :accounts;
