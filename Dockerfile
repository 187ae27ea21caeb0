# Two images: `docker build --target server .` (the pod) and `docker build --target client .` (the prober, with the
# cluster's package). `make image` builds both. Both run as a numeric user, need no writable file system, and get
# SIGTERM themselves.

# For images that come out the same, name it by digest: --build-arg BASE=docker.io/library/python:3.13-slim@sha256:...
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY k8s ./k8s
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

# Each environment is made by the build stage's pip and has none of its own; pip compiles what it installs.
FROM build AS build-server
RUN python -m venv --without-pip /opt/affinity-tester \
    && pip --python /opt/affinity-tester/bin/python install --no-cache-dir /dist/*.whl

FROM build AS build-client
RUN python -m venv --without-pip /opt/affinity-tester \
    && pip --python /opt/affinity-tester/bin/python install --no-cache-dir "$(echo /dist/*.whl)[cluster]"

FROM ${BASE} AS base
ENV PATH=/opt/affinity-tester/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Numeric, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
ENTRYPOINT ["affinity-tester"]
ARG BASE
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="Affinity Tester" \
      org.opencontainers.image.description="Proves or disproves that a Kubernetes cluster keeps UDP sessions on one pod with one reflexive address." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

FROM base AS client
COPY --from=build-client /opt/affinity-tester /opt/affinity-tester
CMD ["client"]

# The last stage is what a build without --target makes.
FROM base AS server
COPY --from=build-server /opt/affinity-tester /opt/affinity-tester
EXPOSE 3478/udp 8080/tcp
CMD ["server"]
