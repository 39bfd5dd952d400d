# crosslook with its default model inside: answers with no network.
#   docker build -t crosslook .
#   docker run -p 8080:8080 crosslook
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
# Where torch is looked for beside PyPI, whose Linux wheel brings CUDA (gigabytes). Where it cannot be reached, PyPI
# serves. For a GPU: `--build-arg TORCH_INDEX=` (empty: PyPI's), or PyTorch's index of another CUDA release.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# pip's own settings, for builds behind a mirror.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv /opt/venv
COPY constraints.txt ./
# torch alone and without its dependencies: the one package for which the extra index is asked.
RUN PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL:-} ${TORCH_INDEX}" \
    /opt/venv/bin/pip install --retries 1 --timeout 60 --no-deps -c constraints.txt torch
# The dependencies in a layer of their own, which lasts until they change.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir crosslook && touch crosslook/__init__.py && /opt/venv/bin/pip install -c constraints.txt ".[server]"
COPY crosslook crosslook
# Left out of the image: what builds and tests torch extensions, and pip.
RUN /opt/venv/bin/pip install --no-deps --force-reinstall . \
 && cd /opt/venv/lib/python3*/site-packages \
 && rm -rf torch/include torch/test torch/share torch/lib/*_test.so pip pip-*.dist-info /opt/venv/bin/pip* \
 && find torch/bin -type f ! -name torch_shm_manager -delete

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin crosslook
COPY --from=build /opt/venv /opt/venv
WORKDIR /srv/crosslook
COPY app app
COPY model model
COPY examples examples
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 CROSSLOOK_HOST=0.0.0.0 CROSSLOOK_PORT=8080
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"CROSSLOOK_PORT\"]}/health/ready', timeout=4)"]
CMD ["python", "-m", "app.cli", "serve"]
