# basin: make builds it, make help tells what else there is.

export CGO_ENABLED ?= 0
GO       ?= go
MAJORS   := 10 11 12 13 14 15 16 17 18
PROGRAMS := pg_basebackup pg_combinebackup pg_receivewal pg_recvlogical pg_verifybackup
LDFLAGS  := -s -w

.PHONY: all basin help demo test race matrix differential waldump fuzz conformance bench million growth lint servers compat clean

all: basin ## build ./basin

basin:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o basin ./cmd/basin

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: basin ## back up, check, restore and query a throwaway cluster
	build/demo.sh ./basin

servers: ## install PostgreSQL 10 to 18 into the cache, and what tests check with
	build/tools.sh
	build/postgres.sh $(MAJORS)

test: servers ## unit tests, and tests against real servers
	$(GO) test -timeout 75m ./... ./build/_bench

race: servers ## the same with the race detector (needs gcc)
	CGO_ENABLED=1 $(GO) test -race -timeout 60m ./...

matrix: servers ## every format, WAL method and server version, and repositories; takes long
	BASIN_MATRIX=full $(GO) test -count=1 -timeout 8h -run 'Test(Serve|Repository)?Matrix|TestRepositoryKilled|TestRepositoryChain|TestNeverOpensShort' -v ./cmd/basin
	BASIN_MATRIX=full $(GO) test -count=1 -timeout 1h -run TestBucketThatFails -v ./internal/repo

waldump: servers ## records beside pg_waldump's, over 1 GB of log; writes docs/waldump.md
	BASIN_WALDUMP=full $(GO) test -count=1 -timeout 1h -run TestWaldump -v ./internal/wal

differential: servers ## chains of incremental backups beside pg_combinebackup; takes long
	BASIN_DIFFERENTIAL=full $(GO) test -count=1 -timeout 3h -run TestDifferential -v ./cmd/basin

fuzz: ## each fuzz target for 20 seconds
	build/fuzz.sh 20s

conformance: compat ## PostgreSQL's own tests, with our programs in place of its
	build/conformance.sh --programs bin

bench: basin ## time and memory beside the stock programs; writes docs/benchmarks*.md
	build/bench.sh ./basin
	build/bench-log.sh ./basin
	build/bench-verify.sh ./basin
	build/bench-combine.sh ./basin
	build/bench-serve.sh ./basin
	build/bench-repository.sh ./basin

million: basin ## memory of verifying and combining a backup of a million files; takes two minutes
	build/million.sh ./basin

growth: ## memory and index of ten million files and of 10 TB, simulated; takes two hours; writes docs/growth.md
	BASIN_GROWTH=$(CURDIR)/docs/growth.md $(GO) test -count=1 -timeout 8h -run 'TestGrowth$$' -v ./internal/repo

lint: ## formatting, vet and staticcheck
	build/lint.sh

DESTDIR ?= bin
compat: basin ## links named pg_basebackup, … in DESTDIR
	@mkdir -p '$(DESTDIR)'
	@for p in $(PROGRAMS); do ln -sf "$(CURDIR)/basin" '$(DESTDIR)'/$$p; done

clean: ## remove what was built here
	rm -rf basin bin
