# What a person does with Affinity Tester; `make` alone lists it. Written for GNU make 3.81 (macOS) and POSIX sh.

PYTHON ?= python3
VENV ?= .venv
KUBECTL ?= kubectl
DOCKER ?= docker
ENV_FILE ?= env.list

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/affinity_tester/__init__.py)
# What runs the echo servers: a stock Python image with the tool mounted or, where IMAGE is set, an image that `image` made.
RUNTIME_IMAGE ?= docker.io/library/python:3.13-slim
IMAGE ?=
# The pods' numeric user; RUN_AS_USER= (empty) where the cluster gives each namespace its own (OpenShift).
RUN_AS_USER ?= 65532
# Directory with the wheels of what the servers' code imports; empty: they are downloaded once, and kept.
WHEELS ?=
CLIENT_IMAGE ?= affinity-tester-client:$(VERSION)
# Where the targets below act; empty is the namespace of kubectl's current context.
NAMESPACE ?=
# The Service's externalTrafficPolicy (Cluster, Local) and sessionAffinity (None, ClientIP).
POLICY ?= Cluster
AFFINITY ?= None
# The cloud whose balancer needs annotations (aws, azure, gke, oci, digitalocean, none); empty: by the nodes' providerID.
CLOUD ?=
# The Service's IP family (IPv4, IPv6, dual), and the networks that may reach it, separated by commas; empty: the cluster's, all.
IP_FAMILY ?=
SOURCE_RANGES ?=
# Pods of `node-scaleup`, each on a node of its own, and the CPUs that each asks for.
NODES ?= 1
CPU ?= 2
# Seconds to wait for a rollout and for an external address.
WAIT ?= 300
# Seeds of each plan in `lab`.
SEEDS ?= 20
# More arguments for `client`, `demo` (the command's own options), `test` (pytest's), `mutants` (mutmut's) and `bench` (`python -m benchmarks --help`).
ARGS ?=

# The recipes read these from the environment, so no value is ever taken for shell text.
export RUNTIME_IMAGE IMAGE CLIENT_IMAGE RUN_AS_USER WHEELS NAMESPACE POLICY AFFINITY CLOUD IP_FAMILY SOURCE_RANGES
export NODES CPU WAIT ENV_FILE

SELECTOR := app.kubernetes.io/name=affinity-tester
# The pods of the servers, and the ConfigMaps with their code.
SERVERS := $(SELECTOR),app.kubernetes.io/component=server
KUBE := $(KUBECTL) $${NAMESPACE:+--namespace="$$NAMESPACE"}

.DEFAULT_GOAL := help
.PHONY: help venv demo lab docs test lint mutants bench client image archive context apply-deployment apply-service apply-rbac node-scaleup clean
.NOTPARALLEL:

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile
	@echo "Settings, as in 'make apply-service POLICY=Local AFFINITY=ClientIP': NAMESPACE POLICY AFFINITY CLOUD IP_FAMILY SOURCE_RANGES"
	@echo "  RUNTIME_IMAGE IMAGE CLIENT_IMAGE RUN_AS_USER WHEELS NODES CPU WAIT ARGS PYTHON; the Makefile says what each is"

# --- this machine -----------------------------------------------------------------------------------------------------

demo: $(VENV)/.installed ## see it work: three pods, a load balancer and faults, all on this machine
	@exec $(VENV)/bin/affinity-tester demo $(ARGS)

lab: $(VENV)/.installed ## make every known fault over 20 seeds, prove that each is named, and write docs/diagnosis.md
	@exec $(VENV)/bin/affinity-tester lab --all --seeds $(SEEDS) --document docs/diagnosis.md $(ARGS)

docs: $(VENV)/.installed ## write what docs/failure-modes.md and docs/record.md have from the code
	@$(VENV)/bin/python tests/documents docs

# The core's own tests must cover every branch of it; the rest runs without the cost of measuring, two at a time, since most
# of them wait for a socket, a process or the cluster's client to load.
test: $(VENV)/.installed-dev ## run the tests (ARGS='tests/core -k stun' for some)
ifeq ($(strip $(ARGS)),)
	@$(VENV)/bin/python -m pytest tests/core --cov=affinity_tester.core --cov-report=term-missing:skip-covered --cov-fail-under=100
	@$(VENV)/bin/python -m pytest --ignore=tests/core --numprocesses=2 --dist=loadfile
else
	@$(VENV)/bin/python -m pytest $(ARGS)
endif

lint: $(VENV)/.installed-dev ## check style and types
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

# Each mutant is tried by those of its module's tests that call its function; survivors are listed in the end.
mutants: $(VENV)/.installed-mutants ## change the core in small ways: a test must fail each time (ARGS='affinity_tester.core.pool.*')
	@nice -n 10 $(VENV)/bin/mutmut run --max-children 1 $(ARGS)
	@$(VENV)/bin/mutmut results

bench: $(VENV)/.installed ## measure against coturn, irtt and the limit in C (ARGS='--quick', ARGS='server-rate')
	@$(VENV)/bin/python -m benchmarks $(ARGS)

venv: $(VENV)/.installed-dev ## make .venv with everything that developing takes
	@:

$(VENV)/.python:
	@command -v $(firstword $(PYTHON)) >/dev/null || { echo "$(PYTHON) is not on the PATH: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version 2>&1) is too old: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) comes without its venv module: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV); the first time takes about a minute."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --upgrade 'pip>=25.1'
	@touch $@

# With the cluster's package: the client watches the pool where it can.
$(VENV)/.installed: pyproject.toml $(VENV)/.python
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --editable '.[cluster]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --group dev
	@touch $@

$(VENV)/.installed-mutants: pyproject.toml $(VENV)/.installed-dev
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --group mutants
	@touch $@

# Lines of env.list are NAME=value, taken as they are; what the environment already sets wins. As with `docker run --env-file`
# the last line of a name counts, and what editors on Windows add is put up with: a byte order mark, and a carriage return at
# the end of each line.
client: $(VENV)/.installed ## probe TARGET_ADDR with the settings of env.list (ARGS='--duration 5m')
	@[ -r "$$ENV_FILE" ] && [ ! -d "$$ENV_FILE" ] || { \
		echo "ENV_FILE='$$ENV_FILE' is no file that can be read: name the one with the client's settings (ENV_FILE=env.list); 'make apply-service' makes one where there is none" >&2; exit 2; }; \
	cr=$$(printf '\r'); mark=$$(printf '\357\273\277'); names=' '; \
	while IFS= read -r line || [ -n "$$line" ]; do \
		line=$${line%"$$cr"}; line=$${line#"$$mark"}; \
		case $$line in ''|'#'*) continue ;; *=*) ;; *) echo "$$ENV_FILE: '$$line' is not NAME=value" >&2; exit 2 ;; esac; \
		name=$${line%%=*}; \
		case $$name in ''|[0-9]*|*[!A-Za-z0-9_]*) echo "$$ENV_FILE: '$$name' is not a name: no spaces around '=', and nothing in front" >&2; exit 2 ;; esac; \
		case $${line#*=} in \"*\"|\'*\') echo "$$ENV_FILE: no quotes around the value of $$name: it is taken as it is, quotes and all" >&2; exit 2 ;; esac; \
		case $$names in \
			*" $$name "*) echo "$$ENV_FILE has $$name more than once: the last one counts" >&2; export "$$name=$${line#*=}" ;; \
			*) eval "is=\$${$$name:+set}"; [ -n "$$is" ] || { export "$$name=$${line#*=}"; names="$$names$$name "; } ;; \
		esac; \
	done < "$$ENV_FILE"; \
	exec $(VENV)/bin/affinity-tester client $(ARGS)

LABELS = --build-arg VERSION=$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)"
image: IMAGE := $(or $(IMAGE),affinity-tester-server:$(VERSION))
image: ## build images of your own: IMAGE (server) and CLIENT_IMAGE
	@command -v $(firstword $(DOCKER)) >/dev/null || { echo "$(DOCKER) is not on the PATH: install it, or name another: make image DOCKER=podman" >&2; exit 1; }
	$(DOCKER) build --target server --tag "$$IMAGE" $(LABELS) .
	$(DOCKER) build --target client --tag "$$CLIENT_IMAGE" $(LABELS) .
	@echo "Bring $$IMAGE to the cluster: '$(DOCKER) push' where its name has a registry in front, else 'kind load docker-image $$IMAGE' or the like."

archive: $(VENV)/.installed ## write dist/server.pyz: the servers' code as one file, to run with any Python ('python -P dist/server.pyz server')
	@mkdir -p dist
	@$(MANIFESTS) archive $(FROM_WHEELS) > dist/server.pyz

# --- the cluster, through kubectl and its current context -------------------------------------------------------------

# Without an answer each kubectl below would try for long and print raw errors. Every account may ask for /version; where
# even that is forbidden, the API server has answered. What a credential plugin says (to log in, say) is shown as it comes.
context:
	@command -v $(firstword $(KUBECTL)) >/dev/null || { echo "kubectl is not on the PATH: install it (https://kubernetes.io/docs/tasks/tools/)" >&2; exit 1; }
	@context=$$($(KUBECTL) config current-context 2>/dev/null) || { echo "kubectl has no current context: choose one with 'kubectl config use-context NAME', or set KUBECONFIG" >&2; exit 1; }; \
	namespace=$${NAMESPACE:-$$($(KUBECTL) config view --minify --output='jsonpath={..namespace}' 2>/dev/null)}; \
	echo "Context $$context, namespace $${namespace:-default}"; \
	said=$$({ $(KUBECTL) get --raw=/version --request-timeout=5s 2>&1 >/dev/null || echo FAILED; } | while IFS= read -r line; do \
		case $$line in \
			(FAILED|'Error from server'*|'error: '*|'Unable to connect to the server'*|'The connection to the server'*) printf '%s\n' "$$line" ;; \
			(*) printf '%s\n' "$$line" >&2 ;; \
		esac; \
	done); \
	case $$said in \
		*'(Forbidden)'*) ;; \
		*FAILED) echo "The API server of context $$context cannot be used ($$(printf '%s\n' "$$said" | sed q)): start the cluster or your VPN, log in, or choose another context with 'kubectl config use-context NAME'" >&2; exit 1 ;; \
	esac

# The objects are those that `affinity-tester manifests` prints; it checks the settings, too.
MANIFESTS := $(VENV)/bin/affinity-tester manifests
FROM_WHEELS := $${WHEELS:+--wheels="$$WHEELS"}
SERVER := server --set IMAGE="$$IMAGE" --set RUNTIME_IMAGE="$$RUNTIME_IMAGE" --set RUN_AS_USER="$$RUN_AS_USER" $(FROM_WHEELS)

# Defines `apply WHAT OBJECTS [OPTION...]`. Where kubectl fails, one line says what could not be applied, why, and what to do.
APPLY = apply() { \
		what=$$1; objects=$$2; shift 2; \
		said=$$(printf '%s\n' "$$objects" | $(KUBE) apply "$$@" --filename=- 2>&1) && { printf '%s\n' "$$said"; return; }; \
		why=$$(printf '%s\n' "$$said" | sed -n '/^from server for:/{p;q;}'); \
		why=$${why:-$$(printf '%s\n' "$$said" | sed -n '/[Ee]rror/{p;q;}')}; \
		case $$said in \
			*'namespaces "'*'" not found'*) todo="make it ('kubectl create namespace NAME'), or name another (NAMESPACE=...)" ;; \
			*' cannot '*' resource "configmaps"'*) todo="ask for that right, or run an image of your own (make image apply-deployment IMAGE=registry/name:tag)" ;; \
			*' cannot '*' resource '*) todo="ask for that right, or choose another context ('kubectl config use-context NAME') or namespace (NAMESPACE=...)" ;; \
			*) todo="see what the API server says" ;; \
		esac; \
		echo "$$what cannot be applied ($${why:-$$said}): $$todo" >&2; return 1; \
	}

# Puts an address into env.list, where TARGET_ADDR stands or else at the end; all other lines stay.
SET_TARGET = { true >> "$$ENV_FILE"; } 2>/dev/null || { echo "ENV_FILE='$$ENV_FILE' cannot be written: write the line TARGET_ADDR=$(1) into your file of settings yourself" >&2; exit 1; }; \
	text=$$(awk -v address="$(1)" '/^TARGET_ADDR=/ { $$0 = "TARGET_ADDR=" address; seen = 1 } { print } END { if (!seen) print "TARGET_ADDR=" address }' "$$ENV_FILE") && printf '%s\n' "$$text" > "$$ENV_FILE"

# A ConfigMap of this size goes by server-side apply alone; the Deployment would then conflict with whoever ran `kubectl scale`.
# A pull that fails may go on failing for as long as anybody waits, so it ends the wait at once.
apply-deployment: context $(VENV)/.installed ## run three echo servers and wait until they are ready (IMAGE: in an image of your own)
	@case $$WAIT in ''|*[!0-9]*|0[0-9]*) echo "WAIT='$$WAIT' is not a number of seconds" >&2; exit 2 ;; esac; \
	deployment=$$($(MANIFESTS) $(SERVER) --kind Deployment) || exit 2; \
	code=; [ -n "$$IMAGE" ] || code=$$($(MANIFESTS) $(SERVER) --kind ConfigMap) || exit 2; \
	name=$$(printf '%s\n' "$$code" | sed -n 's/^  name: \([a-z0-9-]*\) .*/\1/p'); \
	image=$${IMAGE:-$$RUNTIME_IMAGE}; \
	$(APPLY); \
	[ -z "$$name" ] || apply "The servers' code" "$$code" --server-side --force-conflicts --field-manager=affinity-tester || exit 1; \
	apply "The Deployment" "$$deployment" || exit 1; \
	echo "Waiting until three pods of $$image are ready (up to $$WAIT s)"; \
	left=$$WAIT; \
	until said=$$($(KUBE) rollout status deployment/affinity-tester --timeout=2s 2>&1); do \
		pods=$$($(KUBE) get pods --selector='$(SERVERS)' --output='jsonpath={range .items[*]}{.spec.containers[0].image}{" "}{.status.containerStatuses[0].state.waiting.reason}{"\n"}{end}'); \
		case $$pods in \
			*"$$image ErrImagePull"*|*"$$image ImagePullBackOff"*|*"$$image InvalidImageName"*) \
				if [ -n "$$name" ]; then \
					echo "The nodes can't pull $$image: name another source of it, RUNTIME_IMAGE=mirror.gcr.io/library/python:3.13-slim or RUNTIME_IMAGE=public.ecr.aws/docker/library/python:3.13-slim (docker.io limits anonymous pulls by address), or a registry of yours"; \
				else \
					echo "The nodes can't pull $$image: push it to a registry they read and name it so (make image apply-deployment IMAGE=registry/name:tag), or load it (kind load docker-image $$image, minikube image load $$image, k3d image import $$image)"; \
				fi >&2; exit 1 ;; \
		esac; \
		left=$$((left - 2)); \
		case $$said in *'timed out'*) [ "$$left" -le 0 ] || continue ;; esac; \
		{ \
			$(KUBE) get pods --selector='$(SERVERS)' --output=wide; \
			echo "The pods were not ready within $$WAIT s ($$(printf '%s\n' "$$said" | sed -n '/[Ee]rror/{p;q;}')). By the STATUS above:"; \
			echo "  Pending: no node has room: kubectl describe pods --selector=$(SERVERS)"; \
			echo "  CrashLoopBackOff, or Running and not ready: kubectl logs --selector=$(SERVERS)"; \
			echo "  no pod at all: kubectl describe replicasets --selector=$(SERVERS)"; \
		} >&2; \
		exit 1; \
	done; \
	printf '%s\n' "$$said" | sed -n '$$p'; \
	$(KUBE) delete configmaps --ignore-not-found --selector='$(SERVERS)' --field-selector="metadata.name!=$$name" >/dev/null 2>&1 || \
		echo "The code of earlier servers could not be deleted; 'make clean' tries again."; \
	echo "Next: make apply-service"

# Not everybody may read nodes; then the cloud has to be named.
apply-service: context $(VENV)/.installed ## open the Service (POLICY, AFFINITY, CLOUD), wait for its address and write it into env.list
	@case $$WAIT in ''|*[!0-9]*|0[0-9]*) echo "WAIT='$$WAIT' is not a number of seconds" >&2; exit 2 ;; esac; \
	provider=; \
	[ -n "$$CLOUD" ] || provider=$$($(KUBE) get nodes --output='jsonpath={.items[*].spec.providerID}' 2>/dev/null); \
	[ -n "$$CLOUD$$provider" ] || echo "The nodes don't say which cloud this is: where its balancer needs annotations, name it (CLOUD=aws, azure, gke, oci or digitalocean)"; \
	service=$$($(KUBE) get service affinity-tester --ignore-not-found --output=json 2>/dev/null | \
		$(MANIFESTS) service --over=- --set POLICY="$$POLICY" --set AFFINITY="$$AFFINITY" --set CLOUD="$$CLOUD" --set PROVIDER_ID="$${provider%% *}" \
		--set IP_FAMILY="$$IP_FAMILY" --set SOURCE_RANGES="$$SOURCE_RANGES") || exit 2; \
	$(APPLY); \
	apply "The Service" "$$service"
	@echo "Waiting for an external address (up to $$WAIT s)"; \
	left=$$WAIT; \
	doubts() { $(KUBE) get service affinity-tester --output=json | $(MANIFESTS) service --live=- >&2; }; \
	while :; do \
		address=$$($(KUBE) get service affinity-tester --output='jsonpath={.status.loadBalancer.ingress[0].ip}') || exit 1; \
		[ -n "$$address" ] || address=$$($(KUBE) get service affinity-tester --output='jsonpath={.status.loadBalancer.ingress[0].hostname}') || exit 1; \
		[ -z "$$address" ] || break; \
		[ "$$((WAIT - left))" -ne 20 ] || doubts; \
		[ "$$left" -gt 0 ] || { \
			doubts; \
			port=$$($(KUBE) get service affinity-tester --output='jsonpath={.spec.ports[0].nodePort}'); \
			echo "No external address after $$WAIT s. Where it can come from:"; \
			echo "  a cloud: 'kubectl describe service affinity-tester' shows what its controller says (quota, subnet, rights; AWS: the AWS Load Balancer Controller or EKS Auto Mode must run there; OCI: security lists are yours to open); then run this again"; \
			echo "  kind: run cloud-provider-kind; minikube: run 'minikube tunnel'; your own machines: install MetalLB"; \
			echo "  or go without: TARGET_ADDR=NODE_ADDRESS:$${port:-NODE_PORT} in $$ENV_FILE, with an address of 'kubectl get nodes --output=wide' that this machine reaches"; \
			exit 1; } >&2; \
		sleep 2; left=$$((left - 2)); \
	done; \
	doubts; \
	$(call SET_TARGET,$$address) || exit 1; \
	case $$address in *[!0-9A-Fa-f.:]*) echo "The address is a name; a new one takes a minute or two to resolve." ;; esac; \
	echo "External address $$address, now TARGET_ADDR in $$ENV_FILE. Next: make client"

# The cluster-wide binding names the namespace of its account, so that one has to be known here.
apply-rbac: context $(VENV)/.installed ## let a client that runs in the cluster watch the pool (k8s/rbac.yaml)
	@NAMESPACE=$${NAMESPACE:-$$($(KUBECTL) config view --minify --output='jsonpath={..namespace}' 2>/dev/null)}; \
	NAMESPACE=$${NAMESPACE:-default}; \
	roles=$$($(MANIFESTS) rbac --set NAMESPACE="$$NAMESPACE") || exit 2; \
	printf '%s\n' "$$roles" | $(KUBE) apply --filename=- || { \
		echo "Where you may not make roles for the whole cluster, leave ClusterRole and ClusterRoleBinding out of k8s/rbac.yaml:"; \
		echo "  the pool is then watched all the same, and only what happens to nodes and proxies is missing."; \
		exit 1; } >&2
	@echo "A pod in that namespace with 'serviceAccountName: affinity-tester-client' may watch now."

node-scaleup: context $(VENV)/.installed ## make the cluster add NODES nodes (NODES=0 gives them back)
	@pods=$$($(MANIFESTS) node-scaleup --set NODES="$$NODES" --set CPU="$$CPU" --set RUN_AS_USER="$$RUN_AS_USER") || exit 2; \
	$(APPLY); \
	apply "The Deployment that takes room" "$$pods"
	@echo "Watch the nodes come and go with 'kubectl get nodes --watch'; where no autoscaler runs, add one by hand."

# An address given back may be somebody else's next, so it leaves env.list too. Most users may not delete roles of the whole
# cluster and never made any, and some may not delete ConfigMaps; RBAC refuses before it looks whether there is something.
clean: context ## take everything off the cluster again
	@left=; failed=; \
	remove() { \
		perhaps=$$1; shift; \
		said=$$($(KUBE) delete --ignore-not-found "$$@" 2>&1) || case $$perhaps,$$said in \
			,*Forbidden*) printf '%s\n' "$$said" >&2; failed=yes; return ;; \
			*Forbidden*) left="$$left$$perhaps; "; return ;; \
			*) printf '%s\n' "$$said" >&2; exit 1 ;; \
		esac; \
		case $$said in ''|'No resources found'*) ;; *) printf '%s\n' "$$said" ;; esac; \
	}; \
	remove '' --filename=k8s/deployment.yaml --filename=k8s/node-scaleup.yaml --filename=k8s/service.yaml; \
	remove "You may not delete ConfigMaps, which are there if 'make apply-deployment' ran without IMAGE" configmaps --selector='$(SERVERS)'; \
	remove "You may not delete all roles of k8s/rbac.yaml, which are there if somebody ran 'make apply-rbac'" --filename=k8s/rbac.yaml; \
	[ -z "$$failed" ] || exit 1; \
	{ $(call SET_TARGET,); } || exit 1; \
	if [ -n "$$left" ]; then left="$${left}nothing else is left on the cluster"; else left="Nothing of it is left on the cluster"; fi; \
	echo "$$left; TARGET_ADDR in $$ENV_FILE is empty."
