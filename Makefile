# What a person does with Affinity Tester; `make` alone lists it. Written for GNU make 3.81 (macOS) and POSIX sh.

PYTHON ?= python3
VENV ?= .venv
KUBECTL ?= kubectl
DOCKER ?= docker
ENV_FILE ?= env.list

# What runs the echo servers: a stock Python image with the tool mounted or, where IMAGE is set, an image that `image` made.
RUNTIME_IMAGE ?= docker.io/library/python:3.13-slim
IMAGE ?=
# The pods' numeric user; RUN_AS_USER= (empty) where the cluster gives each namespace its own (OpenShift).
RUN_AS_USER ?= 65532
# Directory with the wheels of what the servers' code imports; empty: they are downloaded once, and kept.
WHEELS ?=
CLIENT_IMAGE ?=
# What `image` builds on (empty: the Dockerfile's own), and the platforms it builds for and pushes (linux/amd64,linux/arm64;
# empty: this machine's, and nothing is pushed).
BASE ?=
PLATFORMS ?=
# Where the targets that ask a cluster act, `client` too; empty is kubectl's current context, and the namespace of that context.
CONTEXT ?=
NAMESPACE ?=
# Echo servers; empty: as many as there are (`kubectl scale`), and three at first.
REPLICAS ?=
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
# What `experiment` runs: names (`affinity-tester experiment --list`), all, or a .yaml file.
EXPERIMENTS ?= all
# More arguments for `client`, `demo`, `experiment` (the command's own options), `test` (pytest's), `mutants` (mutmut's) and `bench` (`python -m benchmarks --help`).
ARGS ?=

SETTINGS := PYTHON VENV KUBECTL DOCKER ENV_FILE RUNTIME_IMAGE IMAGE RUN_AS_USER WHEELS CLIENT_IMAGE BASE PLATFORMS CONTEXT \
	NAMESPACE REPLICAS POLICY AFFINITY CLOUD IP_FAMILY SOURCE_RANGES NODES CPU WAIT SEEDS EXPERIMENTS ARGS
# What a person sets is text, and stays as it is: make would call the functions in it (`$(shell ...)`), for every variable of the
# command line, since it hands all of them on. The recipes read it from the environment, so no shell takes it for its own text.
GIVEN := $(foreach each,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(each)))),$(each)))
$(foreach each,$(SETTINGS) $(GIVEN),$(eval override $(each) := $$(value $(each))))
override VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/affinity_tester/__init__.py)
export $(SETTINGS) VERSION

# The one setting that is part of targets' names.
SPECIAL := ; : % = $$ * ? ~ ! ' " ` \# & | < > ( ) [ ] { } ^ \\
ifneq ($(words $(VENV))$(strip $(foreach each,$(SPECIAL),$(findstring $(each),$(VENV)))),1)
$(error VENV is the name of a directory, of letters, digits and . _ / -)
endif

SELECTOR := app.kubernetes.io/name=affinity-tester
# The pods of the servers, and the ConfigMaps with their code.
SERVERS := $(SELECTOR),app.kubernetes.io/component=server
# The pods of clients, and what they may ask.
CLIENTS := $(SELECTOR),app.kubernetes.io/component=client
# What experiments make: Services of a matrix, and the Lease.
EXPERIMENT_OBJECTS := $(SELECTOR),app.kubernetes.io/component=experiment
IN_CONTEXT := $$KUBECTL $${CONTEXT:+--context="$$CONTEXT"}
KUBE := $(IN_CONTEXT) $${NAMESPACE:+--namespace="$$NAMESPACE"}
# The same for a person to type, for kubectl and for make.
TYPED := $${CONTEXT:+ --context=$$CONTEXT}$${NAMESPACE:+ --namespace=$$NAMESPACE}
THERE := $${CONTEXT:+ CONTEXT=$$CONTEXT}$${NAMESPACE:+ NAMESPACE=$$NAMESPACE}
# Defines `context` and `namespace`, as they are where none is given.
WHERE := context=$${CONTEXT:-$$($$KUBECTL config current-context 2>/dev/null)}; \
	namespace=$${NAMESPACE:-$$($(IN_CONTEXT) config view --minify --output='jsonpath={..namespace}' 2>/dev/null)}; \
	namespace=$${namespace:-default}

.DEFAULT_GOAL := help
.PHONY: help venv demo lab docs test lint mutants bench client experiment image archive context apply-deployment apply-service apply-rbac experiment-rbac node-scaleup clean
.NOTPARALLEL:

help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile
	@echo "Settings, as in 'make apply-service POLICY=Local AFFINITY=ClientIP': CONTEXT NAMESPACE POLICY AFFINITY CLOUD IP_FAMILY"
	@echo "  SOURCE_RANGES REPLICAS RUNTIME_IMAGE IMAGE CLIENT_IMAGE BASE PLATFORMS RUN_AS_USER WHEELS NODES CPU WAIT ARGS PYTHON;"
	@echo "  the Makefile says what each is. A value is taken as it stands: nothing in it is expanded"

# Makes the words of ARGS the arguments of what follows. Quotes hold words together as in a shell; nothing is expanded.
WORDS := words=$$(printf '%s\n' "$$ARGS" | xargs printf '%s\n' 2>/dev/null) || { printf '%s\n' "ARGS: a quote is not closed: $$ARGS" >&2; exit 2; }; \
	ends=$$(printf '\n.'); IFS=$${ends%.}; set -f; set -- $$words; set +f; unset IFS

# --- this machine -----------------------------------------------------------------------------------------------------

demo: $(VENV)/.installed ## see it work: three pods, a load balancer and faults, all on this machine
	@$(WORDS); exec "$$VENV"/bin/affinity-tester demo "$$@"

lab: $(VENV)/.installed ## make every known fault over 20 seeds, prove that each is named, and write docs/diagnosis.md
	@$(WORDS); exec "$$VENV"/bin/affinity-tester lab --all --seeds "$$SEEDS" --document docs/diagnosis.md "$$@"

docs: $(VENV)/.installed ## write what docs/failure-modes.md and docs/record.md have from the code
	@"$$VENV"/bin/python tests/documents docs

# The core's own tests must cover every branch of it. The rest, and what plays many random worlds, which says nothing of
# branches, runs without the cost of measuring, which is three times that of the core: several at a time, since most of them
# wait for a socket, a process or the cluster's client to load. What holds a client to its time comes last, by itself.
test: $(VENV)/.installed-dev ## run the tests (ARGS='tests/core -k stun' for some)
ifeq ($(strip $(ARGS)),)
	@"$$VENV"/bin/python -m pytest tests/core -m "not worlds" --numprocesses=2 --cov=affinity_tester.core --cov-report=term-missing:skip-covered --cov-fail-under=100
	@"$$VENV"/bin/python -m pytest -m "(worlds or not core) and not busy" --numprocesses=6 --dist=loadgroup
	@"$$VENV"/bin/python -m pytest -m busy --numprocesses=6 --dist=loadfile
else
	@$(WORDS); exec "$$VENV"/bin/python -m pytest "$$@"
endif

lint: $(VENV)/.installed-dev ## check style and types
	@"$$VENV"/bin/ruff check
	@"$$VENV"/bin/ruff format --check
	@"$$VENV"/bin/mypy

# Each mutant is tried by those of its module's tests that call its function; survivors are listed in the end.
mutants: $(VENV)/.installed-mutants ## change the core in small ways: a test must fail each time (ARGS='affinity_tester.core.pool.*')
	@$(WORDS); nice -n 10 "$$VENV"/bin/mutmut run --max-children 1 "$$@"
	@"$$VENV"/bin/mutmut results

bench: $(VENV)/.installed ## measure against coturn, irtt and the limit in C (ARGS='--quick', ARGS='server-rate')
	@$(WORDS); exec "$$VENV"/bin/python -m benchmarks "$$@"

venv: $(VENV)/.installed-dev ## make .venv with everything that developing takes
	@:

# Defines `install ARGUMENT...`. What pip says in many lines is one here.
INSTALL := install() { \
		said=$$("$$VENV"/bin/python -m pip install -qq --disable-pip-version-check "$$@" 2>&1) && return; \
		case $$said in \
			*'No module named pip'*) echo "$$VENV has no pip (any more): delete the directory, and run this again" ;; \
			*) why=$$(printf '%s\n' "$$said" | sed -n 's/^ERROR: //p' | sed -n '$$p'); \
				echo "The packages cannot be installed into $$VENV ($${why:-$$said}): reach a Python package index, or name a directory with their wheels (PIP_NO_INDEX=1 PIP_FIND_LINKS=dir make ...)" ;; \
		esac >&2; return 1; \
	}

$(VENV)/.python:
	@command -v "$${PYTHON%% *}" >/dev/null || { echo "$$PYTHON is not on the PATH: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$$PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($$PYTHON --version 2>&1) is too old: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$$PYTHON -c 'import ensurepip, venv' 2>/dev/null || { echo "$$PYTHON comes without its venv module: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $$VENV; the first time takes about a minute."
	@$$PYTHON -m venv "$$VENV"
	@$(INSTALL); install --upgrade 'pip>=25.1'
	@touch $@

# With the cluster's package: the client watches the pool where it can.
$(VENV)/.installed: pyproject.toml $(VENV)/.python
	@$(INSTALL); install --editable '.[cluster]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@$(INSTALL); install --group dev
	@touch $@

$(VENV)/.installed-mutants: pyproject.toml $(VENV)/.installed-dev
	@$(INSTALL); install --group mutants
	@touch $@

# Lines of env.list are NAME=value, taken as they are; what the environment already sets wins. As with `docker run --env-file`
# the last line of a name counts, and what editors on Windows add is put up with: a byte order mark, and a carriage return at
# the end of each line.
# CONTEXT and NAMESPACE are the client's settings too, before the file's lines.
client: $(VENV)/.installed ## probe TARGET_ADDR with the settings of env.list (ARGS='--duration 5m')
	@[ -r "$$ENV_FILE" ] && [ ! -d "$$ENV_FILE" ] || { \
		echo "ENV_FILE='$$ENV_FILE' is no file that can be read: name the one with the client's settings (ENV_FILE=env.list); 'make apply-service' makes one where there is none" >&2; exit 2; }; \
	[ -z "$$CONTEXT" ] || export AFFINITY_CONTEXT="$${AFFINITY_CONTEXT:-$$CONTEXT}"; \
	[ -z "$$NAMESPACE" ] || export AFFINITY_SERVICE="$${AFFINITY_SERVICE:-$$NAMESPACE/affinity-tester}"; \
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
	$(WORDS); exec "$$VENV"/bin/affinity-tester client "$$@"

# Four Services over the same pods, by node ports; with ARGS=--lab no cluster is needed.
experiment: $(VENV)/.installed ## act on the cluster and judge what it did to the sessions, for four kinds of Services (EXPERIMENTS=all)
	@$(WORDS); for form in html xml md json; do set -- --output="experiment.$$form" "$$@"; done; set -f; \
	exec "$$VENV"/bin/affinity-tester experiment --matrix $${CONTEXT:+--context="$$CONTEXT"} $${NAMESPACE:+--namespace="$$NAMESPACE"} "$$@" $$EXPERIMENTS

image: ## build images of your own: IMAGE (server) and CLIENT_IMAGE; with PLATFORMS=... build for those and push
	@command -v "$${DOCKER%% *}" >/dev/null || { echo "$$DOCKER is not on the PATH: install it, or name another: make image DOCKER=podman" >&2; exit 1; }
	@IMAGE=$${IMAGE:-affinity-tester-server:$$VERSION}; CLIENT_IMAGE=$${CLIENT_IMAGE:-affinity-tester-client:$$VERSION}; \
	build() { \
		$$DOCKER $${PLATFORMS:+buildx} build $${PLATFORMS:+--platform "$$PLATFORMS" --push} --target "$$1" --tag "$$2" $${BASE:+--build-arg BASE="$$BASE"} \
			--build-arg VERSION="$$VERSION" --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null)" .; \
	}; \
	build server "$$IMAGE" && build client "$$CLIENT_IMAGE" || exit 1; \
	[ -n "$$PLATFORMS" ] || echo "Bring $$IMAGE to the cluster: '$$DOCKER push' where its name has a registry in front, else 'kind load docker-image $$IMAGE' or the like."

archive: $(VENV)/.installed ## write dist/server.pyz: the servers' code as one file, to run with any Python ('python -P dist/server.pyz server')
	@mkdir -p dist
	@$(MANIFESTS) archive $(FROM_WHEELS) > dist/server.pyz

# --- the cluster, through kubectl and its current context -------------------------------------------------------------

# Without an answer each kubectl below would try for long and print raw errors. Every account may ask for /version; where
# even that is forbidden, the API server has answered. What a credential plugin says (to log in, say) is shown as it comes.
context:
	@command -v "$${KUBECTL%% *}" >/dev/null || { echo "kubectl is not on the PATH: install it (https://kubernetes.io/docs/tasks/tools/)" >&2; exit 1; }
	@if [ -z "$$CONTEXT" ]; then \
		$$KUBECTL config current-context >/dev/null 2>&1 || { echo "kubectl has no current context: choose one with 'kubectl config use-context NAME' or CONTEXT=NAME, or set KUBECONFIG" >&2; exit 1; }; \
	else \
		$$KUBECTL config get-contexts "$$CONTEXT" >/dev/null 2>&1 || { printf '%s\n' "CONTEXT='$$CONTEXT' is no context of kubectl's: 'kubectl config get-contexts' lists them" >&2; exit 2; }; \
	fi; \
	$(WHERE); \
	case $$namespace in -*|*-|*[!a-z0-9-]*) printf '%s\n' "'$$namespace' is not the name of a namespace (NAMESPACE=...): that has small letters, digits and '-' within" >&2; exit 2 ;; esac; \
	printf '%s\n' "Context $$context, namespace $$namespace"; \
	said=$$({ $(IN_CONTEXT) get --raw=/version --request-timeout=5s 2>&1 >/dev/null || echo FAILED; } | while IFS= read -r line; do \
		case $$line in \
			(FAILED|'Error from server'*|'error: '*|'Unable to connect to the server'*|'The connection to the server'*) printf '%s\n' "$$line" ;; \
			(*) printf '%s\n' "$$line" >&2 ;; \
		esac; \
	done); \
	case $$said in \
		*'(Forbidden)'*) ;; \
		*FAILED) echo "The API server of context $$context cannot be used ($$(printf '%s\n' "$$said" | sed q)): start the cluster or your VPN, log in, or choose another context (CONTEXT=NAME)" >&2; exit 1 ;; \
	esac

# The objects are those that `affinity-tester manifests` prints; it checks the settings, too.
MANIFESTS := "$$VENV"/bin/affinity-tester manifests
FROM_WHEELS := $${WHEELS:+--wheels="$$WHEELS"}
SERVER := server --set IMAGE="$$IMAGE" --set RUNTIME_IMAGE="$$RUNTIME_IMAGE" --set RUN_AS_USER="$$RUN_AS_USER" $(FROM_WHEELS)

# Defines `apply WHAT OBJECTS [OPTION...]`. Where kubectl fails, one line says what could not be applied, why, and what to do, and
# what this call has made by then is taken away again: all of it is there, or nothing. A rehearsal (`--dry-run=server`) says nothing where
# it goes well; nor where some admission webhook can't rehearse, since the real thing then shows.
APPLY = apply() { \
		what=$$1; objects=$$2; shift 2; \
		said=$$(printf '%s\n' "$$objects" | $(KUBE) apply "$$@" --filename=- 2>&1) && { case "$$*" in *--dry-run*) ;; *) printf '%s\n' "$$said" ;; esac; return; }; \
		case "$$*,$$said" in *--dry-run*,*'dry run'*|*--dry-run*,*dryRun*) return 0 ;; esac; \
		why=$$(printf '%s\n' "$$said" | sed -n '/^from server for:/{p;q;}'); \
		why=$${why:-$$(printf '%s\n' "$$said" | sed -n '/^for: "STDIN": /{s///p;q;}')}; \
		why=$${why:-$$(printf '%s\n' "$$said" | sed -n '/^[Ee]rror/{p;q;}')}; \
		why=$${why:-$$(printf '%s\n' "$$said" | sed -n '/is invalid: /,$$p' | tr '\n' ' ' | sed 's/  */ /g; s/ $$//')}; \
		why=$${why:-$$(printf '%s\n' "$$said" | sed -n '$$p')}; \
		case $$said in \
			*'namespaces "'*'" not found'*) todo="make it ('kubectl create namespace NAME'), or name another (NAMESPACE=...)" ;; \
			*'attempting to grant RBAC'*) todo="nobody may give away rights that are not theirs; ask somebody who holds them (an administrator) to run this" ;; \
			*' cannot '*' resource "configmaps"'*) todo="ask for that right, or run an image of your own (make image apply-deployment IMAGE=registry/name:tag)" ;; \
			*'is invalid: '*'may not change'*|*'is invalid: '*'immutable'*) todo="it is there with another value, which cannot change: take it away first ('make clean$(THERE)')" ;; \
			*' cannot '*' resource '*) todo="ask for that right, or choose another context (CONTEXT=NAME) or namespace (NAMESPACE=...)" ;; \
			*) todo="see what the API server says" ;; \
		esac; \
		printf '%s\n' "$$what cannot be applied ($$why): $$todo" >&2; \
		case "$$*" in *--dry-run*) ;; *) \
			for made in $$(printf '%s\n' "$$said" | sed -n 's/^\([a-z0-9.]*\/[a-z0-9.-]*\) created$$/\1/p'); do \
				$(KUBE) delete --ignore-not-found "$$made" >/dev/null 2>&1 || echo "$$made is there now and could not be deleted; 'make clean' tries again." >&2; \
			done ;; \
		esac; \
		return 1; \
	}

# Defines `set_target ADDRESS`, which puts it into env.list, where TARGET_ADDR stands or else at the end; all other lines stay.
SET_TARGET = set_target() { \
		{ true >> "$$ENV_FILE"; } 2>/dev/null || { echo "ENV_FILE='$$ENV_FILE' cannot be written: write the line TARGET_ADDR=$$1 into your file of settings yourself" >&2; return 1; }; \
		text=$$(address=$$1 awk '/^(\357\273\277)?TARGET_ADDR=/ { $$0 = "TARGET_ADDR=" ENVIRON["address"]; seen = 1 } { print } END { if (!seen) print "TARGET_ADDR=" ENVIRON["address"] }' < "$$ENV_FILE") && printf '%s\n' "$$text" > "$$ENV_FILE"; \
	}

# Reasons for which a container waits that waiting does not end, and the ReplicaSet's failures (a policy or a quota refuses the pods).
STUCK := ErrImagePull|ImagePullBackOff|InvalidImageName|ErrImageNeverPull|CreateContainerConfigError|CreateContainerError|RunContainerError|CrashLoopBackOff
# Defines `stuck`, which says in a line why the pods will not get ready, and fails if they still may. Pods of earlier tries are there for a
# while, so it looks at the newest ReplicaSet alone; where that may not be read, the wait goes on to its end.
FIND_STUCK = stuck() { \
		newest=$$($(KUBE) get replicasets --selector='$(SERVERS)' --output='jsonpath={range .items[*]}{.metadata.annotations.deployment\.kubernetes\.io/revision}{" "}{.metadata.labels.pod-template-hash}{" "}{.status.conditions[?(@.type=="ReplicaFailure")].message}{"\n"}{end}' 2>/dev/null | grep '^[0-9]' | sort -n | sed -n '$$p'); \
		newest=$${newest\#* }; hash=$${newest%% *}; refused=$${newest\#* }; \
		[ -n "$$hash" ] || return 1; \
		case $$refused in \
			*'exceeded quota'*) todo="make room in the quota, or run fewer (REPLICAS=1)" ;; \
			*'security context constraint'*) todo="let the cluster give the user (RUN_AS_USER=), or take one of the range that it allows" ;; \
			*PodSecurity*) todo="the pods keep to the level 'restricted': see what the line asks beyond it, or choose another namespace (NAMESPACE=...)" ;; \
			*'is forbidden'*|*'denied the request'*|*'admission webhook'*denied*) todo="ask who made that rule, or choose another namespace (NAMESPACE=...)" ;; \
			*) todo= ;; \
		esac; \
		[ -z "$$todo" ] || { printf '%s\n' "The cluster refuses the pods ($$refused): $$todo; then 'kubectl$(TYPED) rollout restart deployment/affinity-tester' tries again at once"; return; }; \
		waits=$$($(KUBE) get pods --selector="$(SERVERS),pod-template-hash=$$hash" --output='jsonpath={range .items[*]}{.metadata.name}{" "}{.status.containerStatuses[0].state.waiting.reason}{" "}{.status.containerStatuses[0].state.waiting.message}{"\n"}{end}' 2>/dev/null | grep -E '^[^ ]+ ($(STUCK))( |$$)' | sed q); \
		[ -n "$$waits" ] || return 1; \
		pod=$${waits%% *}; why=$${waits\#* }; reason=$${why%% *}; \
		case $$reason,$$why in \
			*Image*) \
				if [ -z "$$IMAGE" ]; then \
					echo "The nodes can't pull $$image: name another source of it, RUNTIME_IMAGE=mirror.gcr.io/library/python:3.13-slim or RUNTIME_IMAGE=public.ecr.aws/docker/library/python:3.13-slim (docker.io limits anonymous pulls by address), or a registry of yours"; \
				else \
					echo "The nodes can't pull $$image: push it to a registry they read and name it so (make image apply-deployment IMAGE=registry/name:tag), or load it (kind load docker-image $$image, minikube image load $$image, k3d image import $$image)"; \
				fi; return ;; \
			CreateContainerConfigError,*root*) todo="name the pods' user (leave RUN_AS_USER out, or RUN_AS_USER=NUMBER): this cluster gives them none, and the image is root's" ;; \
			CrashLoopBackOff,*) why="CrashLoopBackOff, last line: $$($(KUBE) logs "$$pod" --previous --tail=1 2>/dev/null)"; todo="'kubectl$(TYPED) logs $$pod --previous' shows the others" ;; \
			*'executable file not found'*) todo="$$image has no Python on its PATH: name one that has (RUNTIME_IMAGE=...), or run an image of 'make image' (IMAGE=...)" ;; \
			*) todo="'kubectl$(TYPED) describe pod $$pod' says more" ;; \
		esac; \
		printf '%s\n' "Pod $$pod can't run ($$why): $$todo"; \
	}

# A ConfigMap of this size goes by server-side apply alone; the Deployment would then conflict with whoever ran `kubectl scale`. The number of
# pods that `kubectl scale` set is theirs, too, until REPLICAS names one. The Deployment is rehearsed first, so that its refusal leaves no code.
apply-deployment: context $(VENV)/.installed ## run three echo servers (REPLICAS) and wait until they are ready (IMAGE: in an image of your own)
	@case $$WAIT in ''|*[!0-9]*|0[0-9]*|??????????*) echo "WAIT='$$WAIT' is not a number of seconds" >&2; exit 2 ;; esac; \
	case $$REPLICAS in *[!0-9]*|0[0-9]*|??????????*) echo "REPLICAS='$$REPLICAS' is not a whole number" >&2; exit 2 ;; esac; \
	deployment=$$($(MANIFESTS) $(SERVER)) || exit 2; \
	code=; [ -n "$$IMAGE" ] || { \
		code=$$(printf '%s\n' "$$deployment" | sed '/^---$$/,$$d'); \
		deployment=$$(printf '%s\n' "$$deployment" | sed '1,/^---$$/d'); \
	}; \
	name=$$(printf '%s\n' "$$code" | sed -n 's/^  name: \([a-z0-9-]*\) .*/\1/p'); \
	image=$${IMAGE:-$$RUNTIME_IMAGE}; \
	strays=; [ -n "$$IMAGE" ] || strays=$$(git ls-files --others -- 'src/affinity_tester/*.py' 2>/dev/null | tr '\n' ' '); \
	[ -z "$$strays" ] || echo "Part of the servers' code, though git does not know it: $$strays" >&2; \
	first=$$(printf '%s\n' "$$deployment" | sed -n 's/^  replicas: \([0-9]*\).*/\1/p'); \
	live=$$($(KUBE) get deployment affinity-tester --ignore-not-found --output='jsonpath={.spec.replicas}' 2>/dev/null); \
	number=$${REPLICAS:-$${live:-$$first}}; \
	deployment=$$(printf '%s\n' "$$deployment" | sed "s/^  replicas: [0-9]*/  replicas: $$number/"); \
	[ -n "$$REPLICAS" ] || [ "$$number" = "$$first" ] || echo "The number of pods stays $$number, as it was set ('kubectl scale'); REPLICAS=$$first sets another"; \
	$(APPLY); $(FIND_STUCK); \
	apply "The Deployment" "$$deployment" --dry-run=server || exit 1; \
	was=; [ -z "$$name" ] || was=$$($(KUBE) get configmap "$$name" --ignore-not-found --output=name 2>&1); \
	[ -z "$$name" ] || apply "The servers' code" "$$code" --server-side --force-conflicts --field-manager=affinity-tester || exit 1; \
	apply "The Deployment" "$$deployment" || { \
		[ -z "$$name" ] || [ -n "$$was" ] || $(KUBE) delete configmap "$$name" --ignore-not-found >/dev/null 2>&1 || \
			echo "configmap/$$name is there now and could not be deleted; 'make clean' tries again." >&2; \
		exit 1; \
	}; \
	case $$number in 1) pods="1 pod of $$image is" ;; *) pods="$$number pods of $$image are" ;; esac; \
	echo "Waiting until $$pods ready (up to $$WAIT s)"; \
	left=$$WAIT; \
	until said=$$($(KUBE) rollout status deployment/affinity-tester --timeout=2s 2>&1); do \
		case $$(printf '%s\n' "$$said" | sed -n '/^Waiting/h;$${x;p;}') in \
			*'spec update to be observed'*) ;; \
			*) if line=$$(stuck); then printf '%s\n' "$$line" >&2; exit 1; fi ;; \
		esac; \
		left=$$((left - 2)); \
		case $$said in *'timed out'*) [ "$$left" -le 0 ] || continue ;; esac; \
		{ \
			$(KUBE) get pods --selector='$(SERVERS)' --output=wide; \
			echo "The pods were not ready within $$WAIT s ($$(printf '%s\n' "$$said" | sed -n '/[Ee]rror/{p;q;}')). By the STATUS above:"; \
			echo "  Pending: no node has room: kubectl$(TYPED) describe pods --selector=$(SERVERS)"; \
			echo "  Running and not ready: kubectl$(TYPED) logs --selector=$(SERVERS)"; \
			echo "  ContainerCreating, or no pod at all: kubectl$(TYPED) describe pods,replicasets --selector=$(SERVERS)"; \
		} >&2; \
		exit 1; \
	done; \
	printf '%s\n' "$$said" | sed -n '$$p'; \
	$(KUBE) delete configmaps --ignore-not-found --selector='$(SERVERS)' --field-selector="metadata.name!=$$name" >/dev/null 2>&1 || \
		echo "The code of earlier servers could not be deleted; 'make clean' tries again."; \
	echo "Next: make apply-service$(THERE)"

# Not everybody may read nodes; then the cloud has to be named.
apply-service: context $(VENV)/.installed ## open the Service (POLICY, AFFINITY, CLOUD), wait for its address and write it into env.list
	@case $$WAIT in ''|*[!0-9]*|0[0-9]*|??????????*) echo "WAIT='$$WAIT' is not a number of seconds" >&2; exit 2 ;; esac; \
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
	$(SET_TARGET); set_target "$$address" || exit 1; \
	case $$address in *[!0-9A-Fa-f.:]*) echo "The address is a name; a new one takes a minute or two to resolve." ;; esac; \
	echo "External address $$address, now TARGET_ADDR in $$ENV_FILE. Next: make client$(THERE)$$([ "$$ENV_FILE" = env.list ] || printf ' %s' "ENV_FILE=$$ENV_FILE")"

# The cluster-wide binding names the namespace of its account, so that one has to be known here. Most may make roles in their namespace
# alone; those are worth having without the others, so they go first, and the others may be refused.
apply-rbac: context $(VENV)/.installed ## let a client that runs in the cluster watch the pool (k8s/rbac.yaml)
	@$(WHERE); \
	NAMESPACE=$$namespace; \
	roles=$$($(MANIFESTS) rbac --set NAMESPACE="$$NAMESPACE") || exit 2; \
	objects() { \
		printf '%s\n---\n' "$$roles" | awk -v cluster="$$1" \
			'/^---$$/ { if (is == cluster) printf "---\n%s", text; text = ""; is = 0; next } { text = text $$0 "\n" } /^kind: Cluster/ { is = 1 }'; \
	}; \
	$(APPLY); \
	apply "The client's account and its role in namespace $$NAMESPACE" "$$(objects 0)" || exit 1; \
	if apply "The client's role for the whole cluster" "$$(objects 1)"; then \
		echo "A pod in namespace $$NAMESPACE with 'serviceAccountName: affinity-tester-client' may watch now."; \
	else \
		echo "A pod in namespace $$NAMESPACE with 'serviceAccountName: affinity-tester-client' may watch the pool now; nodes and proxies it may not."; \
	fi

experiment-rbac: context $(VENV)/.installed ## let that client run experiments, too (k8s/experiment-rbac.yaml)
	@role=$$($(MANIFESTS) experiment-rbac) || exit 2; \
	$(APPLY); \
	apply "The role of experiments" "$$role"
	@echo "A pod with 'serviceAccountName: affinity-tester-client' may run 'affinity-tester experiment all' now; 'make clean' takes the role away again."

node-scaleup: context $(VENV)/.installed ## make the cluster add NODES nodes (NODES=0 gives them back)
	@pods=$$($(MANIFESTS) node-scaleup --set NODES="$$NODES" --set CPU="$$CPU" --set RUN_AS_USER="$$RUN_AS_USER") || exit 2; \
	$(APPLY); \
	apply "The Deployment that takes room" "$$pods"
	@echo "Watch the nodes come and go with 'kubectl get nodes --watch'; where no autoscaler runs, add one by hand."

# An address given back may be somebody else's next, so it leaves env.list too, where it is this Service's. Most users may not delete roles of the
# whole cluster and never made any, and some may not delete ConfigMaps; RBAC refuses before it looks whether there is something. What is the
# whole cluster's stays for as long as a client of another namespace uses it.
clean: context ## take everything off the cluster again (NAMESPACE, CONTEXT), and say what is left where
	@$(WHERE); left=; failed=; \
	remove() { \
		perhaps=$$1; shift; \
		said=$$($(KUBE) delete --ignore-not-found "$$@" 2>&1) || case $$perhaps,$$said in \
			,*Forbidden*) printf '%s\n' "$$said" >&2; failed=yes; return ;; \
			*Forbidden*) left="$$left$$perhaps; "; return ;; \
			*) printf '%s\n' "$$said" >&2; exit 1 ;; \
		esac; \
		case $$said in ''|'No resources found'*) ;; *) printf '%s\n' "$$said" ;; esac; \
	}; \
	$(SET_TARGET); \
	target=$$({ cat < "$$ENV_FILE"; } 2>/dev/null | tr -d '\357\273\277\r' | sed -n '/^TARGET_ADDR=./{s/^TARGET_ADDR=//;p;q;}'); \
	addresses=$$($(KUBE) get service affinity-tester --ignore-not-found --output='jsonpath={range .status.loadBalancer.ingress[*]}{.ip}{" "}{.hostname}{" "}{end}' 2>/dev/null); \
	port=$$($(KUBE) get service affinity-tester --ignore-not-found --output='jsonpath={.spec.ports[0].nodePort}' 2>/dev/null); \
	ours=; \
	for address in $$addresses; do case $$target in "$$address"|"$$address":[0-9]*|"[$$address]"*) ours=yes ;; esac; done; \
	case $$target in *":$${port:-none}") ours=yes ;; esac; \
	\
	remove '' --filename=k8s/deployment.yaml --filename=k8s/node-scaleup.yaml --filename=k8s/service.yaml; \
	if [ -z "$$failed$$ours" ]; then \
		[ -z "$$target" ] || kept="TARGET_ADDR=$$target in $$ENV_FILE stays: it was no address of this namespace's Service"; \
	elif [ -z "$$failed" ]; then \
		if set_target ''; then kept="TARGET_ADDR in $$ENV_FILE is empty now"; else kept="TARGET_ADDR=$$target in $$ENV_FILE stays"; fi; \
	fi; \
	remove "You may not delete ConfigMaps, which are there if 'make apply-deployment' ran without IMAGE" configmaps --selector='$(SERVERS)'; \
	remove "You may not delete Services and Leases of experiments, which are there if one was killed" services,leases --selector='$(EXPERIMENT_OBJECTS)'; \
	remove "You may not delete accounts and roles, which are there if somebody ran 'make apply-rbac'" serviceaccounts,roles,rolebindings --selector='$(CLIENTS)'; \
	\
	others=; \
	if bindings=$$($(IN_CONTEXT) get clusterrolebindings --output='jsonpath={range .items[?(@.roleRef.name=="affinity-tester-client")]}{.metadata.name}{range .subjects[*]}{" "}{.kind}/{.namespace}/{.name}{end}{"\n"}{end}' 2>&1); then \
		mine=$$(printf '%s\n' "$$bindings" | sed -n "s|^\(affinity-tester-client[^ ]*\) ServiceAccount/$$namespace/affinity-tester-client$$|\1|p"); \
		others=$$(printf '%s\n' "$$bindings" | grep -v " ServiceAccount/$$namespace/affinity-tester-client$$" | tr '\n' ' '); \
		for binding in $$mine; do remove "You may not delete ClusterRoleBindings, and 'make apply-rbac' made one" "clusterrolebinding/$$binding"; done; \
		case $$others in \
			*[!\ ]*) printf '%s\n' "ClusterRole affinity-tester-client stays, since others use it: $${others% }" ;; \
			*) remove "You may not delete ClusterRoles, which are there if somebody ran 'make apply-rbac'" clusterroles --selector='$(CLIENTS)' ;; \
		esac; \
	else \
		case $$bindings in \
			*Forbidden*) left="$${left}You may not read ClusterRoleBindings, so what 'make apply-rbac' made for the whole cluster stays; " ;; \
			*) printf '%s\n' "$$bindings" >&2; exit 1 ;; \
		esac; \
	fi; \
	[ -z "$$failed" ] || exit 1; \
	\
	if elsewhere=$$($(IN_CONTEXT) get deployments,services,configmaps,serviceaccounts --all-namespaces --selector='$(SELECTOR)' --output='jsonpath={range .items[*]}{.metadata.namespace}{"\n"}{end}' 2>/dev/null); then \
		elsewhere=$$(printf '%s\n' "$$elsewhere" | grep -v "^$$namespace$$" | sort -u | tr '\n' ' '); elsewhere=$${elsewhere% }; \
		case $$elsewhere in \
			*[!\ ]*) elsewhere="it is in other namespaces too ($$elsewhere: make clean NAMESPACE=...)" ;; \
			*) elsewhere="nor in any other namespace" ;; \
		esac; \
	else \
		elsewhere="other namespaces could not be looked at"; \
	fi; \
	if [ -n "$$left" ]; then left="$${left}nothing else is left"; else left="Nothing of it is left"; fi; \
	printf '%s\n' "$$left in namespace $$namespace of context $$context; $$elsewhere$${kept:+; $$kept}."
