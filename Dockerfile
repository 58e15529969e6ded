# The image of cluster.yaml, jobs/rayjob.yaml and serve/rayservice.yaml: Python, the packages of requirements.lock and
# the code. docs/operations.md has the command. Models, data and secrets are no part of it.
#
# A plain Python is the base, not an image of Ray: that brings a Ray and packages of its own, and a shell that finds
# them first. torch brings the CUDA libraries; the driver comes from the machine.
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:REPLACE_BASE_DIGEST
ARG DEVICE=cpu

FROM ${BASE} AS packages
ARG DEVICE
WORKDIR /app
COPY requirements.lock /build/
# As `make setup`: hashes are checked for all but torch, which has a build for each device. The CPU build has a place
# of its own; the secret `pip` is a pip.conf that names it, or a mirror, and stays out of the image.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    set -eu; \
    case "${DEVICE}" in cpu) build=+cpu ;; cuda) build= ;; *) echo "DEVICE=${DEVICE}: choose cpu or cuda" >&2; exit 2 ;; esac; \
    grep -v '^torch==' /build/requirements.lock > /build/hashed.lock; \
    python -m pip install --no-cache-dir --no-deps --require-hashes -r /build/hashed.lock; \
    python -m pip install --no-cache-dir "$(grep '^torch==' /build/requirements.lock)${build}"
RUN python -c "import sys, torch; found = 'cuda' if torch.version.cuda else 'cpu'; sys.exit(found != sys.argv[1] and f'torch is built for {found}, not for {sys.argv[1]}')" "${DEVICE}"
COPY platform platform
COPY jobs jobs
COPY serve serve
COPY tuning tuning
# Root owns the code and everybody reads it, whatever the umask of the checkout was; compiled, since nobody may later.
RUN chmod -R u=rwX,go=rX . && python -m compileall -q .

FROM ${BASE} AS node
# `ray up` copies with rsync, in and out of the container, and starts workers over ssh; KubeRay's probe is a wget.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openssh-client rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray \
    && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash ray
# Into the Python that every shell finds, a login shell too.
COPY --from=packages /usr/local /usr/local
COPY --from=packages /app /app
WORKDIR /app
ENV PYTHONPATH=/app:/app/platform \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_USAGE_STATS_ENABLED=0

FROM node AS cpu

FROM node AS cuda
# What NVIDIA's container runtime looks for.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${DEVICE} AS image
ARG REVISION=
LABEL org.opencontainers.image.title="distilray" \
      org.opencontainers.image.description="DistilBERT's line on Ray: corpus, distillation, evaluation, service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
# The commit that manifests of runs name: there is no history to ask.
RUN printf '%s' "${REVISION}" > COMMIT
# By number, so that Kubernetes can see that it is not root.
USER 1000:1000
# No HEALTHCHECK: a node of Ray is asked by KubeRay's probes, or by Ray itself.
