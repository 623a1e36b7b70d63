# make demo | test | bench | build | install; everything needs Go and nothing else.
GO     ?= go
BIN    := bin/tunlb
PREFIX ?= /usr/local

.PHONY: all build install demo test check unit race vet bench bench-go fuzz clean

all: build

build:
	$(GO) build -trimpath -o $(BIN) ./cmd/tunlb

install: build
	install -D -m 0755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tunlb

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
