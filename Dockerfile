# crosslook with its default model inside: answers with no network.
#   docker build -t crosslook .
#   docker run -p 8080:8080 crosslook
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
# Where torch is looked for beside PyPI, whose Linux wheel is for CUDA and does not run without (gigabytes); the build
# ends where only that one is found. For a GPU: `--build-arg TORCH_INDEX= --build-arg GPU=1`, PyPI's torch with what it
# needs of CUDA.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG GPU=
# `--build-arg EXTRA=ray`: with Ray (deploy/ray); `redis`: with what CROSSLOOK_RATE_STORE needs; or both, with a space.
ARG EXTRA=
# pip's own settings, for builds behind a mirror.
ARG PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/venv
# Every package as scripts/lock pinned it, none that is not listed, none but by its hash, and none that would run code
# of its own to be built.
COPY docker ./
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:-} ${TORCH_INDEX}" \
    /opt/venv/bin/pip install --retries 1 --timeout 60 --no-deps --only-binary=:all: --require-hashes \
      -r requirements/torch.txt
# Left out of the image: what builds and tests torch extensions, other packages' own tests, and pip.
RUN /opt/venv/bin/pip install --no-deps --only-binary=:all: --require-hashes -r requirements/base.txt \
      ${GPU:+-r requirements/cuda.txt} $(for extra in ${EXTRA}; do printf -- '-r requirements/%s.txt ' "$extra"; done) \
 && { /opt/venv/bin/python -c "import torch" \
      || { echo "torch does not run here: TORCH_INDEX gave no wheel for the CPU, and GPU is not set" >&2; exit 1; }; } \
 && /opt/venv/bin/pip uninstall --yes pip \
 && /opt/venv/bin/python sbom.py > /opt/venv/sbom.cdx.json \
 && cd /opt/venv/lib/python3*/site-packages \
 && rm -rf torch/include torch/test torch/share torch/lib/*_test.so \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find sympy networkx numpy mpmath -type d -name tests -prune -exec rm -rf {} +

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="crosslook" \
      org.opencontainers.image.description="Visual question answering over HTTP, with the attention map of every word" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
# Debian packages beside Python: none for the CPU; a C compiler where Triton's kernels run (see docker-compose.yml).
ARG SYSTEM_PACKAGES=
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin crosslook \
 && install -d -o 10001 -g 10001 /cache \
 && if [ -n "${SYSTEM_PACKAGES}" ]; then \
      apt-get update && apt-get install -y --no-install-recommends ${SYSTEM_PACKAGES} && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /srv/crosslook
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    HF_HUB_OFFLINE=1 CROSSLOOK_HOST=0.0.0.0 CROSSLOOK_PORT=8080
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['CROSSLOOK_PORT'] + '/health/ready', timeout=4)"]
CMD ["python", "-m", "app.cli", "serve"]
COPY --from=build /opt/venv /opt/venv
COPY . .
