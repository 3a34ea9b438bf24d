# The only door: everything that is built, checked or measured is a target here. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := build
GO    ?= go
TOOL  := $(GO) tool -modfile=.ci/tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
VULNDB  ?= $(wildcard ../shared/vulndb)
FUZZTIME ?= 20s

.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

build: ## bin/hafen, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/hafen ./cmd/hafen

run: build ## the demo: gateway and stand-in cloud on this machine
	bin/hafen demo

# The program's life is tried by itself: browsers beside it would take the processor from calls whose gaps are measured.
test: deps ## every test; as root on Debian with the laboratory (browsers, coturn, squid in namespaces)
	.ci/postgres $(GO) test -race -timeout 25m -parallel 4 $$($(GO) list ./... | grep -v /hafen/life$$)
	$(GO) test -race -timeout 25m -parallel 5 ./cmd/hafen/life

check: fmt imports tidy lint vuln ## format, import rules, lint, tidy, known vulnerabilities

fmt:
	@out=$$($(TOOL) gofumpt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofumpt-clean (make fix):"; echo "$$out"; exit 1; fi

fix: ## write the format
	$(TOOL) gofumpt -w $$(git ls-files '*.go')

lint:
	$(GO) vet ./...
	$(TOOL) staticcheck ./...

imports: ## the import rules of the design
	@.ci/imports

tidy:
	$(GO) mod tidy -diff

vuln: ## known vulnerabilities, offline
ifneq ($(VULNDB),)
	@.ci/vuln $(VULNDB)
else
	@echo "vuln: skipped, no vulnerability data at ../shared/vulndb (set VULNDB=DIR)"
endif

deps:
	@.ci/deps

lab: deps build ## leave the laboratory standing, for a person to try things
	$(GO) test -count=1 -timeout 0 -run '^TestLab$$' -v ./cmd/hafen/e2e -lab

abuse: deps ## the abuse cases against the running program, the long ones too
	$(GO) test -race -count=1 -timeout 10m -parallel 5 -run '^TestAbuse' -v ./cmd/hafen/e2e -abuse

.PHONY: upgrade-test faults soak
upgrade-test: deps ## 20 reloads and 3 upgrades under full load, then 1,000 reloads: nothing may drop
	$(GO) test -count=1 -timeout 30m -v -run '^Test(Upgrade|UpgradeFails|Reloads)$$' ./cmd/hafen/life -whole

PREVIOUS ?= $(shell git describe --tags --abbrev=0 HEAD^ 2>/dev/null || echo HEAD~100)
downgrade-test: deps ## back to PREVIOUS (the last tag, else a hundred commits ago) on the same state and forward again, by restarts and by hand-over
	$(GO) test -count=1 -timeout 10m -v -run '^TestAbuse_J14Previous$$' ./cmd/hafen/life -previous $(PREVIOUS)

faults: ## kill -9 at 1,000 random moments: what was acknowledged is there, and the start is quick
	$(GO) test -count=1 -timeout 60m -v -run '^TestKills$$' ./cmd/hafen/life -kills 1000

SOAK ?= 30m
clock: ## the clock jumps by hours and days, both ways, beside running calls: moves the clock of this whole machine (root)
	$(GO) test -count=1 -timeout 10m -v -run '^TestClockJumps$$' ./cmd/hafen/life -clock

soak: ## mixed load for SOAK (30m) with reloads, region deaths and precall reports: goroutines, descriptors and memory stay flat
	$(GO) test -count=1 -timeout 0 -v -run '^TestSoak$$' ./cmd/hafen/life -soak $(SOAK)

external: deps ## other people's tools: testssl.sh, h2spec, slowhttptest, nmap and turnutils against the running program, staticcheck, gosec, axe-core (root; twenty minutes)
	@.ci/deps testssl=testssl.sh slowhttptest nmap
	GOBIN=$(CURDIR)/bin/tools $(GO) install -modfile=.ci/external/go.mod github.com/summerwind/h2spec/cmd/h2spec
	$(GO) test -count=1 -timeout 40m -v -run '^TestExternal$$' ./cmd/hafen/e2e -external $(CURDIR)/bin/tools
	$(MAKE) lint gosec axe

floods: deps ## what can be poured on the gateway, beside a live call (root; three minutes)
	$(GO) test -count=1 -timeout 10m -v -run '^TestFloods$$' ./cmd/hafen/e2e -floods

gosec: ## gosec over the tree; the rules that are off have their reasons in .ci/gosec, what else it finds in .ci/gosec-accepted
	@.ci/gosec

bench: deps ## the relay's cost beside coturn and pion/turn, in namespaces (root)
	$(GO) run ./cmd/internal/bench/relay -json bench.json $(BENCHFLAGS)

bench-size: deps ## the processors and the memory that so many calls take: the manual's sizing table (root)
	$(GO) run ./cmd/internal/bench/relay -part size -servers hafen,hafen-terminate -rounds 3 $(BENCHFLAGS)

bench-narrow: deps ## audio and video into a client on a narrow TCP path, beside coturn and pion/turn (root)
	$(GO) run ./cmd/internal/bench/relay -part narrow $(BENCHFLAGS)
	$(GO) run ./cmd/internal/bench/relay -part beside $(BENCHFLAGS)

narrow-call: deps ## Chromium's calls over TURN/TLS through 600 kbit/s, shaped and policed, through the gateway and straight to coturn: freezes, estimate, delay (root; nine minutes)
	$(GO) test -count=1 -timeout 40m -v -run '^TestNarrowCall$$' ./cmd/hafen/e2e -narrow-call $(NARROWFLAGS)

longpoll: deps ## long-polls of three minutes, in real time, on every way through the gateway (root)
	HAFEN_E2E_LONGPOLL=1 $(GO) test -count=1 -timeout 20m -v -run '^TestEveryWay$$' ./cmd/hafen/e2e

calls: deps ## the ways of making a call for which make test has no time: each relay mode, through the PAC, with a password, on IPv6, on every rung, rewritten, over a narrow path (root)
	$(GO) test -count=1 -timeout 20m -v -run '^(TestCallOnANarrowPath|TestCallTerminate|TestCallLocal|TestTURNThroughPAC|TestCallWithPassword|TestCallRewritten|TestCloudIPv6|TestOfficeIPv6|TestLadder)$$' ./cmd/hafen/e2e -calls

long: deps ## what takes minutes: wobbling distances, six parties, Firefox in every mode and through the PAC, what media is made of, the way back up the ladder, a night of faults (root)
	$(GO) test -count=1 -timeout 40m -v -run '^(TestNearestMoves|TestSixParties|TestFirefoxModes|TestFirefoxPrecall|TestFirefoxThroughPAC|TestMediaCannotBeRead|TestRegionCutTerminate|TestLadderBack|TestNight|TestAbuse_J04)$$' ./cmd/hafen/e2e -long -wobble 10m

turnutils: deps ## 200 clients of coturn's load client x 200 messages in each relay mode over UDP, TCP and TLS (root)
	$(GO) test -count=1 -timeout 40m -v -run '^TestTurnutilsModes$$' ./cmd/hafen/e2e -clients 200 -messages 200 -leave

precall-matrix: deps ## the precall test's fault matrix, with real faults and a real Chromium (root; 40 minutes); ROWS='line/' tries some rows, ROWS=third a third, rotating by day
	@mkdir -p bin
	MATRIX_OUT=$(CURDIR)/bin/matrix.jsonl $(GO) test -count=1 -timeout 90m -parallel 1 -v -run '^TestPrecallMatrix$$' ./cmd/hafen/e2e $(if $(ROWS),-row '$(ROWS)',-matrix)

bench-proxy: build ## WebSockets, long-polls and CONNECT beside HAProxy and Squid
	$(GO) run ./cmd/internal/bench/proxy -hafen bin/hafen $(BENCHFLAGS)

axe: deps ## axe-core (npm) on every page in every state, and PAGE_SHOTS=DIR for pictures of them
	@.ci/axe dist/axe
	AXE=$(CURDIR)/dist/axe/axe.min.js $(GO) test -count=1 -timeout 15m -v -run '^TestAxe$$' ./gateway/page ./cmd/internal/cloud
	AXE=$(CURDIR)/dist/axe/axe.min.js $(GO) test -count=1 -timeout 15m -v -run '^TestAbuse_F16$$' ./cmd/hafen/e2e

pictures: deps ## the manual's pictures of the pages, into packaging/doc
	PICTURES=$(CURDIR)/packaging/doc $(GO) test -count=1 -run '^TestPictures$$' ./gateway/page

# Whoever builds packages for others sets this: make package MAINTAINER='Jo Doe <jo@hospital.example>'. The default is an address that does not exist.
MAINTAINER ?= Hafen maintainers <maintainers@hafen.example>
package: ## dist: deb, rpm and container image for amd64 and arm64, bill of materials, checksums; MAINTAINER='NAME <MAIL>' is whom they name
	$(GO) run ./cmd/internal/release -maintainer '$(MAINTAINER)' -out dist

package-again: ## the same, twice, in two folders, and compared
	$(GO) run ./cmd/internal/release -maintainer '$(MAINTAINER)' -out dist -again

package-test: package deps ## the packages of dist in a Debian with its own systemd: install, precall test, upgrade, remove (root)
	.ci/package-test dist

ha-test: deps ## two gateways, one of them killed; PostgreSQL and pebble, HAProxy and keepalived (root)
	.ci/deps keepalived=keepalived curl=curl
	.ci/postgres $(GO) test -count=1 -v -run 'Shared' ./gateway/certs ./precall
	$(GO) test -count=1 -timeout 9m -v -run '^TestHA' ./cmd/hafen/e2e -ha

kube-check: ## the Kubernetes manifests, decoded strictly into the API's own types
	cd .ci/kube && $(GO) run . ../../packaging/kubernetes/*.yaml

fuzz: ## every fuzz target for FUZZTIME each
	@.ci/fuzz $(FUZZTIME)

clean:
	rm -rf bin dist
