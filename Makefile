# make            bin/hyper and the guest image
# make demo       install what is missing, build, run one container
# make test       install what is missing, build, run every test
# make check      formatting, vet, staticcheck, the import table
# make bench      measure, side by side with runc and crun
# make kernel     build the tuned guest kernel; from then on it is preferred
# make install    PREFIX=/usr/local DESTDIR=
# make deps       install what make needs      make proto    generate the protocols' Go code
#
# HYPER_CACHE is where downloaded and built parts of the guest image are kept (guest/cache.sh).

GO     ?= go
PREFIX ?= /usr/local
share   = $(DESTDIR)$(PREFIX)/share/hyper
commit  = $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
export GO

all: hyper guest

deps:
	guest/deps.sh run build

# A keeper for each sandbox has most of the program's pages in memory, so the program is built to be small: without the C
# library, without the help's templates (with which the linker keeps every exported method), and with calls of functions
# instead of copies everywhere but in the standard library.
small = -tags urfave_cli_no_template -gcflags 'github.com/...=-l' -gcflags 'google.golang.org/...=-l'

hyper:
	CGO_ENABLED=0 $(GO) build -trimpath $(small) -ldflags '-X main.commit=$(commit)' -o bin/hyper .

agent: build/hyper-agent

# The file stays as it is if nothing changed, and so does the guest image.
build/hyper-agent: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@.new ./cmd/hyper-agent
	cmp -s $@.new $@ && rm $@.new || mv $@.new $@

guest: build/guest/made

build/guest/made: build/hyper-agent $(wildcard guest/*.go guest/*/* guest/*.sh) $(shell guest/kernel/tuned.sh --cached)
	guest/build.sh build
	touch $@

kernel:
	guest/deps.sh build kernel
	guest/kernel/tuned.sh
	$(MAKE) --no-print-directory guest

demo:
	guest/deps.sh run build demo
	$(MAKE) --no-print-directory all
	guest/demo.sh build

test:
	guest/deps.sh run build demo test
	$(MAKE) --no-print-directory all
	guest/test.sh build

check:
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 .

bench:
	guest/deps.sh run build demo test
	$(MAKE) --no-print-directory all
	$(GO) run ./tests/bench

install: all
	install -D -m 755 bin/hyper $(DESTDIR)$(PREFIX)/bin/hyper
	install -D -m 644 build/guest/default/kernel $(share)/kernel
	install -D -m 644 build/guest/default/initrd $(share)/initrd
	install -d $(DESTDIR)$(PREFIX)/share/man/man8
	test -e $(DESTDIR)/etc/hyper/config.toml || install -D -m 644 config/default.toml $(DESTDIR)/etc/hyper/config.toml

proto:
	guest/deps.sh proto
	$(GO) build -o build/ google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
	PATH=$(CURDIR)/build:$$PATH protoc --go_out=. --go_opt=paths=source_relative \
		--go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative agent/protocol/agent.proto keeper/api/keeper.proto

clean:
	rm -rf bin build

FORCE:
.PHONY: all deps hyper agent guest kernel demo test check bench install proto clean FORCE
