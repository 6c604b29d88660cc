-- What TestWaldump lets a server do in every fifth round, since it takes much of the log; :n is
-- the number of the round, :big one of bytes, at times of more than two segments.

SELECT pg_logical_emit_message(false, 'big', repeat('x', :big));
CREATE DATABASE copied TEMPLATE template0 STRATEGY file_copy;
CREATE DATABASE logged TEMPLATE template0 STRATEGY wal_log;
ALTER DATABASE copied SET TABLESPACE elsewhere;
DROP DATABASE copied;
DROP DATABASE logged;
VACUUM FULL pg_shdescription, pg_proc;
CLUSTER item USING item_pkey;
SET wal_consistency_checking = 'all';
UPDATE item SET n = n + 1, word = md5(word), tags = tags || '{"more": 1}', place = place + point(2, 2) WHERE id IN (SELECT id FROM item LIMIT 100);
DELETE FROM item WHERE id % 50 = 7;
VACUUM item;
RESET wal_consistency_checking;
DELETE FROM item;
VACUUM item;
DROP EXTENSION bloom CASCADE;
CREATE EXTENSION bloom;
CREATE INDEX ON item USING bloom (n, word);
SELECT pg_switch_wal()
