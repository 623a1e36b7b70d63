# make demo | test | bench | build | install [LVS=1]; everything needs Go and nothing else.
GO     ?= go
BIN    := bin/tunlb
PREFIX ?= /usr/local

.PHONY: all build install install-tunlb install-ipvsadm demo test check unit race vet bench bench-record bench-go bench-go-record profile pgo fuzz torture torture-record clean

all: build

# Without cgo, so that the daemon can drop its capabilities on all threads.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/tunlb

# LVS=1: ipvsadm, ipvsadm-save and ipvsadm-restore as well.
install: install-tunlb $(if $(filter 1,$(LVS)),install-ipvsadm)

install-tunlb: build
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tunlb

# The names that LVS's scripts call. What is in $(SBIN) already, such as the distribution's ipvsadm, stays.
SBIN ?= $(PREFIX)/sbin
install-ipvsadm: install-tunlb
	install -d $(DESTDIR)$(SBIN)
	@for name in ipvsadm ipvsadm-save ipvsadm-restore; do \
		link="$(DESTDIR)$(SBIN)/$$name"; \
		case "$$(readlink "$$link" 2>/dev/null)" in \
		"$(PREFIX)/bin/tunlb") continue;; \
		esac; \
		if [ -e "$$link" ] || [ -L "$$link" ]; then \
			echo "$$link is there already, and not tunlb's: remove it, or name another place: make install-ipvsadm SBIN=DIR"; exit 1; \
		fi; \
		ln -s "$(PREFIX)/bin/tunlb" "$$link" && echo "$$link -> $(PREFIX)/bin/tunlb" || exit 1; \
	done

demo: build
	./$(BIN) demo nat
	@echo
	./$(BIN) demo dr

# What has to pass before anything lands: style, then everything under the race detector, the
# integration tests in network namespaces among it.
test: check race

check:
	@unformatted=$$(gofmt -l cmd tunlb stack policy labnet scripts); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w these:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) tool staticcheck ./...

race:
	$(GO) test -race -timeout 15m ./...

unit:
	$(GO) test -short ./...

# Against others, and against what is recorded in docs. make bench ARGS="-only tunlb,nft -loads kept"; ARGS=-h lists them all.
bench: build
	$(GO) run ./scripts/bench $(ARGS)

# The record that later runs are compared with, the chart and the tables in docs.
bench-record: build
	$(GO) run ./scripts/bench -record docs/performance.json -svg docs/performance.svg -o docs/performance.md $(ARGS)

# The Go benchmarks, against docs/bench-go.txt and the targets. make bench-go BENCH=1M PACKAGES=./tunlb/flow
PACKAGES ?= ./stack/packet ./stack/port ./stack/neigh ./tunlb/flow ./tunlb ./policy
BENCH    ?= .
COUNT    ?= 6
bench-go:
	@mkdir -p bin
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count $(COUNT) -timeout 2h $(PACKAGES) | tee bin/bench-go.txt
	@if grep -q '^FAIL' bin/bench-go.txt; then exit 1; fi
	@echo
	$(GO) tool benchstat $(wildcard docs/bench-go.txt) bin/bench-go.txt
	@echo
	@$(GO) run ./scripts/bench -go bin/bench-go.txt

bench-go-record: bench-go
	cp bin/bench-go.txt docs/bench-go.txt

# Where the time goes: make profile SUBJECT=tunlb-packet LOAD=up8,new TIME=20s
SUBJECT ?= tunlb
LOAD    ?= kept
TIME    ?= 10s
comma   := ,
profile: build
	$(GO) run ./scripts/bench -rounds 1 -time $(TIME) -only $(SUBJECT) -loads $(LOAD) -profile bin/profile
	@for s in $(subst $(comma), ,$(SUBJECT)); do \
		echo; $(GO) tool pprof -top -nodecount 40 $(BIN) bin/profile/$$s.pprof || exit 1; \
	done
	@echo
	@echo "What the kernel does for a system call is in that call (Syscall6); perf would see into it."
	@echo "More: $(GO) tool pprof -http :8080 $(BIN) bin/profile/$(firstword $(subst $(comma), ,$(SUBJECT))).pprof"

# The profile that go build optimises by from then on; rm cmd/tunlb/default.pgo, or go build -pgo=off, is without.
pgo: build
	rm -rf bin/pgo
	$(GO) run ./scripts/bench -rounds 1 -time $(TIME) -only tunlb,tunlb-packet,tunlb-router,dr -loads up8,down8,kept,new -profile bin/pgo
	$(GO) tool pprof -proto -output cmd/tunlb/default.pgo bin/pgo/*.pprof

fuzz:
	./scripts/fuzz.sh

# What must not break it: make torture ARGS="-only synflood,kill9-tun -short"; ARGS=-list lists the cases.
torture: build
	$(GO) run ./scripts/torture $(ARGS)

# What the cases have shown, into the table in docs: a quiet machine is best. ARGS="-only synflood" writes these rows alone.
torture-record: build
	$(GO) run ./scripts/torture -record docs/endurance.md $(ARGS)

clean:
	rm -rf bin dist
