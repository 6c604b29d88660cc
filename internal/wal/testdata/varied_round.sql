-- What TestWaldump lets a server do again and again; :n is the number of the round, :packed
-- how images of pages are compressed. Statements end where a line does.

SET wal_compression = :packed;

INSERT INTO item (n, word, tags, place) SELECT g, md5((:n * g)::text), jsonb_build_object('tag', g % 97, 'word', md5((g % 500)::text)), point(random() * 1000, random() * 1000) FROM generate_series(1, 1500) g;
COPY item (n) FROM PROGRAM 'seq 1 500';
UPDATE item SET seen = seen + 1 WHERE id % 7 = :n % 7;
UPDATE item SET word = md5(word || 'again'), place = place + point(1, 1) WHERE id % 11 = :n % 11;
SELECT count(*) FROM (SELECT id FROM item WHERE id % 13 = :n % 13 FOR UPDATE) locked;
SELECT count(*) FROM (SELECT id FROM item WHERE id % 17 = :n % 17 FOR KEY SHARE) locked;
DELETE FROM item WHERE id % 5 = :n % 5;

INSERT INTO small SELECT g, :n FROM generate_series(1, 500) g ON CONFLICT (id) DO UPDATE SET n = small.n + 1;
BEGIN;
INSERT INTO child SELECT g FROM generate_series(1, 300) g;
SAVEPOINT inside;
UPDATE small SET n = n + 1 WHERE id <= 300;
ROLLBACK TO inside;
SELECT count(*) FROM (SELECT * FROM small FOR NO KEY UPDATE) locked;
COMMIT;
DO $$ BEGIN FOR i IN 1..150 LOOP BEGIN UPDATE small SET n = i WHERE id = i; IF i % 3 = 0 THEN RAISE EXCEPTION 'never'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;
BEGIN;
DELETE FROM small WHERE id > 300;
CREATE TABLE never ();
ROLLBACK;

INSERT INTO long (content) SELECT (SELECT string_agg(md5((:n * g * i)::text), '') FROM generate_series(1, 300) i) FROM generate_series(1, 20) g;
DELETE FROM long WHERE id % 3 = 0;
SELECT sum(nextval('counter')) FROM generate_series(1, 200);
SELECT setval('counter', :n * 1000);
SELECT lo_from_bytea(0, decode(repeat(md5(g::text), 200), 'hex')) FROM generate_series(1, 5) g;
INSERT INTO unlogged DEFAULT VALUES;

BEGIN;
SAVEPOINT inside;
INSERT INTO small VALUES (-1, 1);
CREATE TABLE of_two (id int PRIMARY KEY);
PREPARE TRANSACTION 'first of two';
COMMIT PREPARED 'first of two';
BEGIN;
DROP TABLE of_two;
DELETE FROM small WHERE id = -1;
PREPARE TRANSACTION 'second';
COMMIT PREPARED 'second';
BEGIN;
SAVEPOINT inside;
CREATE TABLE never (id int PRIMARY KEY);
PREPARE TRANSACTION 'never';
ROLLBACK PREPARED 'never';

SELECT pg_replication_origin_session_setup('elsewhere');
BEGIN;
SELECT pg_replication_origin_xact_setup('7/:n00', now());
UPDATE small SET n = n + 1 WHERE id < 20;
COMMIT;
SELECT pg_replication_origin_session_reset();
SELECT pg_replication_origin_advance('elsewhere', '8/:n00');

SELECT count(pg_logical_emit_message(g % 2 = 0, 'short', repeat('x', g * 9 % 8300))) FROM generate_series(1, 300) g;
SELECT pg_logical_emit_message(true, 'long', repeat('long ', 20000 + :n));

CREATE TABLE passing AS SELECT g AS id, md5(g::text) AS what FROM generate_series(1, 1000) g;
CREATE INDEX ON passing (what);
ALTER TABLE passing SET TABLESPACE elsewhere;
CREATE MATERIALIZED VIEW seen AS SELECT id, seen FROM item LIMIT 500;
TRUNCATE passing, child;
DROP TABLE passing CASCADE;
DROP MATERIALIZED VIEW seen;

VACUUM item;
VACUUM (FREEZE) small, long;
REINDEX TABLE small;
ANALYZE item;
SELECT pg_create_restore_point('after round :n');
CHECKPOINT
