# What a person does with Affinity Tester; `make` alone lists it. Written for GNU make 3.81 (macOS) and POSIX sh.

PYTHON ?= python3
VENV ?= .venv
KUBECTL ?= kubectl
DOCKER ?= docker
ENV_FILE ?= env.list

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/affinity_tester/__init__.py)
# The echo server's image: what `image` builds and `apply-deployment` runs.
IMAGE ?= affinity-tester-server:$(VERSION)
CLIENT_IMAGE ?= affinity-tester-client:$(VERSION)
# Where the targets below act; empty is the namespace of kubectl's current context.
NAMESPACE ?=
# The Service's externalTrafficPolicy (Cluster, Local) and sessionAffinity (None, ClientIP).
POLICY ?= Cluster
AFFINITY ?= None
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
export IMAGE CLIENT_IMAGE NAMESPACE POLICY AFFINITY NODES CPU WAIT ENV_FILE

SELECTOR := app.kubernetes.io/name=affinity-tester
KUBE := $(KUBECTL) $${NAMESPACE:+--namespace="$$NAMESPACE"}

.DEFAULT_GOAL := help
.PHONY: help venv demo lab docs test lint mutants bench client image context apply-deployment apply-service apply-rbac node-scaleup clean
.NOTPARALLEL:

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile
	@echo "Settings, as in 'make apply-service POLICY=Local AFFINITY=ClientIP': IMAGE CLIENT_IMAGE NAMESPACE POLICY AFFINITY NODES CPU WAIT ARGS PYTHON"

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

# Lines of env.list are NAME=value, taken as they are; what the environment already sets wins. As `docker run --env-file`
# does, it puts up with what editors on Windows add: a byte order mark, and a carriage return at the end of each line.
client: $(VENV)/.installed ## probe TARGET_ADDR with the settings of env.list (ARGS='--duration 5m')
	@[ -r "$$ENV_FILE" ] && [ ! -d "$$ENV_FILE" ] || { \
		echo "ENV_FILE='$$ENV_FILE' is no file that can be read: name the one with the client's settings (ENV_FILE=env.list); 'make apply-service' makes one where there is none" >&2; exit 2; }; \
	cr=$$(printf '\r'); mark=$$(printf '\357\273\277'); \
	while IFS= read -r line || [ -n "$$line" ]; do \
		line=$${line%"$$cr"}; line=$${line#"$$mark"}; \
		case $$line in ''|'#'*) continue ;; *=*) ;; *) echo "$$ENV_FILE: '$$line' is not NAME=value" >&2; exit 2 ;; esac; \
		name=$${line%%=*}; \
		case $$name in ''|[0-9]*|*[!A-Za-z0-9_]*) echo "$$ENV_FILE: '$$name' is not a name: no spaces around '=', and nothing in front" >&2; exit 2 ;; esac; \
		case $${line#*=} in \"*\"|\'*\') echo "$$ENV_FILE: no quotes around the value of $$name: it is taken as it is, quotes and all" >&2; exit 2 ;; esac; \
		eval "is=\$${$$name:+set}"; [ -n "$$is" ] || export "$$name=$${line#*=}"; \
	done < "$$ENV_FILE"; \
	exec $(VENV)/bin/affinity-tester client $(ARGS)

image: ## build the images: IMAGE (server) and CLIENT_IMAGE
	@command -v $(firstword $(DOCKER)) >/dev/null || { echo "$(DOCKER) is not on the PATH: install it, or name another: make image DOCKER=podman" >&2; exit 1; }
	$(DOCKER) build --target server --tag "$$IMAGE" .
	$(DOCKER) build --target client --tag "$$CLIENT_IMAGE" .
	@echo "Bring $$IMAGE to the cluster: '$(DOCKER) push' where its name has a registry in front, else 'kind load docker-image $$IMAGE' or the like."

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

# Each value goes in at the line that ends with the comment naming it.
PUT = sed -e "s|^\( *[A-Za-z]*: \).* \(\# make: $(1)\)\$$|\1$$$(1) \2|"

# Puts an address into env.list, where TARGET_ADDR stands or else at the end; all other lines stay.
SET_TARGET = { true >> "$$ENV_FILE"; } 2>/dev/null || { echo "ENV_FILE='$$ENV_FILE' cannot be written: write the line TARGET_ADDR=$(1) into your file of settings yourself" >&2; exit 1; }; \
	text=$$(awk -v address="$(1)" '/^TARGET_ADDR=/ { $$0 = "TARGET_ADDR=" address; seen = 1 } { print } END { if (!seen) print "TARGET_ADDR=" address }' "$$ENV_FILE") && printf '%s\n' "$$text" > "$$ENV_FILE"

apply-deployment: context ## run three echo servers of IMAGE and wait until they are ready
	@case $$IMAGE in ''|*[!A-Za-z0-9._/:@-]*) echo "IMAGE='$$IMAGE' is not the name of an image" >&2; exit 2 ;; esac
	@case $$WAIT in ''|*[!0-9]*) echo "WAIT='$$WAIT' is not a number of seconds" >&2; exit 2 ;; esac
	@$(call PUT,IMAGE) k8s/deployment.yaml | $(KUBE) apply --filename=-
	@$(KUBE) rollout status deployment/affinity-tester --timeout="$${WAIT}s" || { \
		$(KUBE) get pods --selector='$(SELECTOR)' --output=wide; \
		echo "The pods were not ready within $$WAIT s. By the STATUS above:"; \
		echo "  ErrImagePull, ImagePullBackOff: the nodes can't get $$IMAGE. Push it to a registry they read and name it so (make image apply-deployment IMAGE=registry/name:tag),"; \
		echo "    or load it: kind load docker-image $$IMAGE, minikube image load $$IMAGE, k3d image import $$IMAGE"; \
		echo "  Pending: no node has room: kubectl describe pods --selector=$(SELECTOR)"; \
		echo "  CrashLoopBackOff, or Running and not ready: kubectl logs --selector=$(SELECTOR)"; \
		exit 1; } >&2

apply-service: context ## open the Service (POLICY, AFFINITY), wait for its address and write it into env.list
	@case $$POLICY in Cluster|Local) ;; *) echo "POLICY='$$POLICY' is neither Cluster nor Local" >&2; exit 2 ;; esac
	@case $$AFFINITY in None|ClientIP) ;; *) echo "AFFINITY='$$AFFINITY' is neither None nor ClientIP" >&2; exit 2 ;; esac
	@case $$WAIT in ''|*[!0-9]*) echo "WAIT='$$WAIT' is not a number of seconds" >&2; exit 2 ;; esac
	@$(call PUT,POLICY) k8s/service.yaml | $(call PUT,AFFINITY) | $(KUBE) apply --filename=-
	@echo "Waiting for an external address (up to $$WAIT s)"; \
	left=$$WAIT; \
	while :; do \
		address=$$($(KUBE) get service affinity-tester --output='jsonpath={.status.loadBalancer.ingress[0].ip}') || exit 1; \
		[ -n "$$address" ] || address=$$($(KUBE) get service affinity-tester --output='jsonpath={.status.loadBalancer.ingress[0].hostname}') || exit 1; \
		[ -z "$$address" ] || break; \
		[ "$$left" -gt 0 ] || { \
			port=$$($(KUBE) get service affinity-tester --output='jsonpath={.spec.ports[0].nodePort}'); \
			echo "No external address after $$WAIT s. Where it can come from:"; \
			echo "  a cloud: 'kubectl describe service affinity-tester' shows what its controller says (quota, subnet, rights); then run this again"; \
			echo "  kind: run cloud-provider-kind; minikube: run 'minikube tunnel'; your own machines: install MetalLB"; \
			echo "  or go without: TARGET_ADDR=NODE_ADDRESS:$${port:-NODE_PORT} in $$ENV_FILE, with an address of 'kubectl get nodes --output=wide' that this machine reaches"; \
			exit 1; } >&2; \
		sleep 2; left=$$((left - 2)); \
	done; \
	$(call SET_TARGET,$$address) || exit 1; \
	case $$address in *[!0-9A-Fa-f.:]*) echo "The address is a name; a new one takes a minute or two to resolve." ;; esac; \
	echo "External address $$address, now TARGET_ADDR in $$ENV_FILE. Next: make client"

# The cluster-wide binding names the namespace of its account, so that one has to be known here.
apply-rbac: context ## let a client that runs in the cluster watch the pool (k8s/rbac.yaml)
	@NAMESPACE=$${NAMESPACE:-$$($(KUBECTL) config view --minify --output='jsonpath={..namespace}' 2>/dev/null)}; \
	NAMESPACE=$${NAMESPACE:-default}; \
	case $$NAMESPACE in *[!a-z0-9-]*) echo "NAMESPACE='$$NAMESPACE' is not the name of a namespace" >&2; exit 2 ;; esac; \
	$(call PUT,NAMESPACE) k8s/rbac.yaml | $(KUBE) apply --filename=- || { \
		echo "Where you may not make roles for the whole cluster, leave ClusterRole and ClusterRoleBinding out of k8s/rbac.yaml:"; \
		echo "  the pool is then watched all the same, and only what happens to nodes and proxies is missing."; \
		exit 1; } >&2
	@echo "A pod in that namespace with 'serviceAccountName: affinity-tester-client' may watch now."

node-scaleup: context ## make the cluster add NODES nodes (NODES=0 gives them back)
	@case $$NODES in ''|*[!0-9]*) echo "NODES='$$NODES' is not a whole number" >&2; exit 2 ;; esac
	@case $$CPU in ''|*[!0-9.m]*) echo "CPU='$$CPU' is not a number of CPUs (2, 0.5, 500m)" >&2; exit 2 ;; esac
	@$(call PUT,NODES) k8s/node-scaleup.yaml | $(call PUT,CPU) | $(KUBE) apply --filename=-
	@echo "Watch the nodes come and go with 'kubectl get nodes --watch'; where no autoscaler runs, add one by hand."

# An address given back may be somebody else's next, so it leaves env.list too. Most users may not delete roles of the whole
# cluster and never made any; RBAC refuses before it looks whether there is something.
clean: context ## take everything off the cluster again
	@$(KUBE) delete --ignore-not-found --filename=k8s/deployment.yaml --filename=k8s/node-scaleup.yaml --filename=k8s/service.yaml
	@$(call SET_TARGET,)
	@left="Nothing of it is left on the cluster"; \
	said=$$($(KUBE) delete --ignore-not-found --filename=k8s/rbac.yaml 2>&1) || case $$said in \
		*Forbidden*) said=; left="You may not delete all roles of k8s/rbac.yaml, which are there if somebody ran 'make apply-rbac'; nothing else is left on the cluster" ;; \
		*) printf '%s\n' "$$said" >&2; exit 1 ;; \
	esac; \
	[ -z "$$said" ] || printf '%s\n' "$$said"; \
	echo "$$left; TARGET_ADDR in $$ENV_FILE is empty."

