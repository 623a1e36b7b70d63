# make demo | test | bench | build | install [LVS=1]; everything needs Go and nothing else.
GO     ?= go
BIN    := bin/tunlb
PREFIX ?= /usr/local

.PHONY: all build install install-tunlb install-ipvsadm demo test check unit race vet bench bench-go fuzz clean

all: build

build:
	$(GO) build -trimpath -o $(BIN) ./cmd/tunlb

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

bench-go:
	$(GO) test -run '^$$' -bench . -benchmem ./stack/packet ./stack/neigh ./tunlb/flow ./tunlb ./policy

bench: build
	$(GO) run ./scripts/bench

fuzz:
	./scripts/fuzz.sh

clean:
	rm -rf bin dist
