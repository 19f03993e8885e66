# Two commands matter: `make demo` and `make test`. They install what they need
# into .build.

TOOLS   := go tool -modfile=deploy/tools/go.mod
MODULES := . deploy/lab deploy/tools
TAG     ?= dev
VERSION := -X github.com/fairlead-io/fairlead/cmd/version.version=$(TAG)

.DEFAULT_GOAL := help
.PHONY: help demo lab test test-long unit e2e lint generate verify bench bench-full image build clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .build/lab ## Start a cluster on this machine, show Fairlead at work, clean up. No root needed. AWS=1: nodes in an emulated AWS.
	@.build/lab demo $(if $(AWS),--aws) $(FLAGS)

lab: .build/lab ## The same cluster, kept until Ctrl-C, and how to use it.
	@.build/lab demo --keep $(if $(AWS),--aws) $(FLAGS)

.PHONY: .build/lab
.build/lab:
	@echo "Building the lab"
	@cd deploy/lab && go build -o ../../$@ ./cmd/lab

# `make test` skips LONG, tests with third-party programs or tables of faults that
# take long, and of the end-to-end tests runs SMOKE, which shows that the main job
# is done. `make test-long` runs LONG, and all end-to-end tests but SMOKE.
# (Not -short, for which rapid makes a fifth of its checks. Of alternatives, those
# with fewer slashes come first: -skip does not look beyond a partial match.)
LONG  := ^Test(BusyMachine|NextHopFollows|ProgramsAgree|RotatesPassword|RouterIsShutDown)$$|/^(moto|BIRD|FRR|OpenBGPD|ExaBGP)$$|//^moto$$
SMOKE := ^Test(AddressAnswers|LocalTrafficKeepsTheClientsAddress|OwnerNotReady|LeaderHandsOver|BGP|Manifests|Permissions|Explain|Balancer|FetchErrors)$$

# PROXY are the end-to-end tests of the data path. `make test-long` repeats them with
# kube-proxy in iptables mode; the others run in nftables mode.
PROXY := ^Test(AddressAnswers|LocalTrafficKeepsTheClientsAddress|RollingUpdate|RollingUpdateOnLAN|LastPodOnLAN|TrafficPolicySwitch|NodeBeingRemoved)$$

# The end-to-end tests of all packages run the programs of one build.
E2E = .build/lab build && cd deploy/lab && FAIRLEAD_LAB_BIN=$(CURDIR)/.build go test -count=1 -p=1

test: lint verify unit e2e ## Run every check, and the tests that do not take long.

test-long: .build/lab ## Run the tests that take long: end to end, with third-party programs, tables of faults.
	.build/lab with go test -p=1 -timeout=20m -run='$(LONG)' ./providers/aws ./speaker/bgp ./speaker/bfd ./speaker/l2 # one at a time: they keep the cores busy, and some have deadlines
	$(E2E) -timeout=40m -skip='$(SMOKE)' ./...
	export FAIRLEAD_PROXY_MODE=iptables; $(E2E) -timeout=10m -run='$(PROXY)' ./e2e

unit: .build/lab ## Run the unit, property and kernel-level tests that do not take long.
	.build/lab with go test -skip='$(LONG)' $$(go list ./... | grep -v /speaker/bfd)
	.build/lab with go test -skip='$(LONG)' ./speaker/bfd # keeps the cores busy, and has deadlines
	cd deploy/tools && go test ./...

e2e: .build/lab ## Run the end-to-end tests that do not take long.
	$(E2E) -run='$(SMOKE)' ./...

lint: ## Format check, go vet and staticcheck in all modules, and a spelling check of code and docs.
	@bad="$$($(TOOLS) gofumpt -l $$(git ls-files '*.go' | grep -v zz_generated))"; \
	  if [ -n "$$bad" ]; then echo "not formatted (make generate):"; echo "$$bad"; exit 1; fi
	@go build -o .build/staticcheck -modfile=deploy/tools/go.mod honnef.co/go/tools/cmd/staticcheck
	@go build -o .build/misspell -modfile=deploy/tools/go.mod github.com/golangci/misspell/cmd/misspell
	@git ls-files '*.go' '*.md' '*.yaml' Makefile | xargs .build/misspell -error
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && go vet ./... && $(CURDIR)/.build/staticcheck -checks=all ./...) || exit 1; done

generate: ## Generate deep copies and CRDs, and format the code.
	$(TOOLS) controller-gen object paths=./config/v1alpha1 crd paths=./config/v1alpha1 output:crd:dir=deploy/crds
	$(TOOLS) gofumpt -w $$(git ls-files '*.go' | grep -v zz_generated)

verify: ## Fail if generated code is out of date.
	@rm -rf .build/verify && mkdir -p .build/verify
	@$(TOOLS) controller-gen crd paths=./config/v1alpha1 output:crd:dir=.build/verify
	@$(TOOLS) controller-gen object paths=./config/v1alpha1 output:object:dir=.build/verify
	@diff -r deploy/crds .build/verify --exclude='*.go' && diff config/v1alpha1/zz_generated.deepcopy.go .build/verify/zz_generated.deepcopy.go \
	  || { echo "generated code is out of date: make generate"; exit 1; }

bench: .build/lab ## Measure plans, engines, the controller at scale, failover on Layer 2, requests lost during changes, and routes in a cluster with two routers. SCALE=1: only plans and scale.
	.build/lab with go test -p=1 -timeout=1h -run='^$$' -bench=. $(if $(FULL),-count=5,-benchtime=0.3s) ./config ./allocator ./controller/... $(if $(SCALE),,./speaker/...)
	@.build/lab bench --scale $(if $(FULL),--full)
	@$(if $(SCALE),:,.build/lab bench --failover $(if $(FULL),--full))
	@$(if $(SCALE),:,for mode in nftables $(if $(FULL),iptables); do .build/lab bench --data-path $$mode || exit 1; done)
	@$(if $(SCALE),:,.build/lab bench $(if $(FULL),--full))

bench-full: ## The same at all sizes and with all repetitions, for the tables in the documentation.
	@$(MAKE) bench FULL=1

build: ## Build the three programs into .build.
	CGO_ENABLED=0 go build -trimpath -ldflags '$(VERSION)' -o .build/fairlead-controller ./cmd/controller
	CGO_ENABLED=0 go build -trimpath -ldflags '$(VERSION)' -o .build/fairlead-speaker ./cmd/speaker
	CGO_ENABLED=0 go build -trimpath -ldflags '$(VERSION)' -o .build/fairlead ./cmd/fairlead
	@ln -sf fairlead .build/kubectl-fairlead

image: ## Build and push both images, and write install.yaml: make image IMG=registry.example.com/fairlead [TAG=v1].
	@cd deploy/tools && go run ./image --root=../.. --repository='$(IMG)' --tag='$(TAG)' $(FLAGS)
	@mkdir -p .build && kubectl kustomize deploy > .build/install.yaml
	@sed 's#image: fairlead/\(.*\):dev#image: $(IMG)/\1:$(TAG)#' .build/install.yaml > install.yaml
	@echo "wrote install.yaml: kubectl apply --server-side -f install.yaml"

clean: ## Remove what was built.
	rm -rf .build install.yaml
