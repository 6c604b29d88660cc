-- What the demonstration backs up besides the tables of pgbench: about 100 MB that no
-- one writes to meanwhile, so that the copy must hold the very same.

CREATE TABLE customers (
	id      bigint PRIMARY KEY,
	name    text NOT NULL,
	email   text NOT NULL UNIQUE,
	profile jsonb NOT NULL
);
INSERT INTO customers
SELECT i,
       initcap(translate(md5(i::text), '0123456789', 'aeiouaeiou')),
       md5((-i)::text) || '@example.org',
       jsonb_build_object('plan', (ARRAY['free', 'team', 'firm'])[1 + i % 3], 'seats', i % 97,
                          'tags', jsonb_build_array('t' || i % 11, 't' || i % 1013))
  FROM generate_series(1, 60000) i;
CREATE INDEX ON customers USING gin (profile jsonb_path_ops);

-- Long texts, kept out of line and compressed, in the tablespace.
CREATE TABLE articles (
	id      bigint PRIMARY KEY USING INDEX TABLESPACE apart,
	title   text NOT NULL,
	body    text NOT NULL
) TABLESPACE apart;
INSERT INTO articles
SELECT i, 'On ' || md5(i::text), repeat(md5(i::text) || ' and ' || md5((-i)::text) || E'.\n', 2 + i % 60)
  FROM generate_series(1, 25000) i;
CREATE INDEX ON articles (title) TABLESPACE apart;

CREATE TABLE readings (
	sensor  int NOT NULL,
	at      timestamptz NOT NULL,
	value   double precision NOT NULL
);
INSERT INTO readings
SELECT i % 500, timestamptz '2026-01-01 00:00Z' + i * interval '1 second', sin(i) * 40
  FROM generate_series(1, 500000) i;
CREATE INDEX ON readings (sensor, at);
CREATE INDEX ON readings USING brin (at);

VACUUM ANALYZE;
