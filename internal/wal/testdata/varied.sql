-- What TestWaldump lets a server do before its rounds. Statements end where a line does.

CREATE EXTENSION bloom;
CREATE TABLE item (id bigserial PRIMARY KEY, n int, word text, tags jsonb, place point, seen int DEFAULT 0) WITH (fillfactor = 70);
CREATE INDEX ON item (word);
CREATE INDEX ON item USING hash (word);
CREATE INDEX ON item USING gin (tags) WITH (fastupdate = on, gin_pending_list_limit = 64);
CREATE INDEX ON item USING gist (place);
CREATE INDEX ON item USING spgist (place);
CREATE INDEX ON item USING spgist (word text_ops);
CREATE INDEX ON item USING brin (n) WITH (pages_per_range = 4, autosummarize = on);
CREATE INDEX ON item USING bloom (n, word);
CREATE TABLE long (id serial PRIMARY KEY, content text);
ALTER TABLE long ALTER content SET STORAGE EXTERNAL;
CREATE TABLE small (id int PRIMARY KEY, n int) WITH (fillfactor = 40);
INSERT INTO small SELECT g, 0 FROM generate_series(1, 500) g;
CREATE TABLE child (id int REFERENCES small);
CREATE SEQUENCE counter CACHE 1;
CREATE UNLOGGED TABLE unlogged (id serial PRIMARY KEY);
DO $$ BEGIN FOR i IN 1..33000 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$;
SELECT pg_replication_origin_create('elsewhere')
