# Dunlin. `make help` lists the targets; `make run` and `make test` need Go and make, and
# say what else they want.

TARGETS  := linux-amd64 linux-arm64 linux-armv6 linux-armv7 linux-riscv64 linux-mipsle
TOOL     := go tool -modfile=testbench/tools.mod
FUZZTIME ?= 1m

.DEFAULT_GOAL := help
.PHONY: help run build test chaos survey conform mutants check cross $(TARGETS:%=bin/%/dunlin) $(TARGETS:%=bin/%/dunlin-bench) \
	bench bench-quick bench-store bench-threads demo packages fuzz clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' Makefile | expand -t 12

run: build ## build the broker and serve on the loopback interface, data in ./dunlin-data
	exec bin/dunlin serve

build: ## bin/dunlin and bin/dunlin-bench for this machine
	@packaging/compile.sh host bin/dunlin
	@packaging/compile.sh host bin/dunlin-bench dunlin-bench

test: ## every test there is; logs in bin/log
	@testbench/test.sh

# STAGES chooses, such as STAGES=kills.
chaos: ## kill the broker and cut its power, many times, into testbench/results (10 minutes, root)
	@testbench/chaos.sh $(STAGES)

survey: ## damage the broker's files in every way, into testbench/results (3 minutes, root)
	@CHAOS_REPORT=survey testbench/chaos.sh damage

mutants: ## break the broker in ways of many kinds and see conform go red; NAME='part of a name'
	@go run ./testbench/conform/mutants "$(NAME)"

conform: ## the statements of the Standards, against our broker or BROKER=HOST:PORT
	@go run ./testbench/conform -all $(BROKER)

check: ## formatting, vet, modernisation, staticcheck, cross builds
	@files=$$($(TOOL) gofumpt -l .); \
		[ -z "$$files" ] || { echo "not formatted by gofumpt:"; echo "$$files"; exit 1; }
	go vet ./...
	go fix -diff ./...
	$(TOOL) staticcheck ./...
	cd testbench/peers && go vet ./... && go tool -modfile=../tools.mod staticcheck ./...
	cd testbench/bench/peers && go vet ./... && go tool -modfile=../../tools.mod staticcheck ./...
	@$(MAKE) --no-print-directory cross

cross: $(TARGETS:%=bin/%/dunlin) $(TARGETS:%=bin/%/dunlin-bench) ## bin/TARGET/dunlin and dunlin-bench for each architecture: static, stripped, tried
	@testbench/need.sh qemu-user-static=qemu-aarch64-static binutils=readelf
	@testbench/cross.sh $(TARGETS)

$(TARGETS:%=bin/%/dunlin): bin/%/dunlin:
	@packaging/compile.sh $* $@

$(TARGETS:%=bin/%/dunlin-bench): bin/%/dunlin-bench:
	@packaging/compile.sh $* $@ dunlin-bench

# BENCH has further options, such as BENCH="--only fanout --rounds 1".
bench: build ## dunlin beside other brokers, into testbench/results (about half an hour)
	@testbench/need.sh mosquitto
	@cd testbench/bench/peers && CGO_ENABLED=0 go build -trimpath -o ../../../bin/peers/ ./mochi github.com/nats-io/nats-server/v2
	@DUNLIN_BINARY=$(CURDIR)/bin/dunlin go run ./testbench/bench $(BENCH)

bench-quick: build ## has the broker become slower since the last results?
	@DUNLIN_BINARY=$(CURDIR)/bin/dunlin go run ./testbench/bench --quick $(BENCH)

bench-threads: build ## dunlin with one, two and four io_threads, into testbench/results
	@DUNLIN_BINARY=$(CURDIR)/bin/dunlin go run ./testbench/bench --threads $(BENCH)

bench-store: build ## what durable messages cost: time, flash, memory, start; into testbench/results (5 minutes)
	@DUNLIN_BINARY=$(CURDIR)/bin/dunlin go run ./testbench/store $(BENCH)

demo: ## cut the link and kill the gateway, and see that nothing is lost
	@go run ./testbench/demo

packages: ## .deb and .ipk in dist
	@rm -f dist/*.deb dist/*.ipk
	@packaging/build.sh dist
	@ls -l dist

fuzz: ## each fuzz target for FUZZTIME (1m)
	@testbench/fuzz.sh $(FUZZTIME)

clean: ## remove what was built
	rm -rf bin dist
