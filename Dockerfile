# kshot's server as a container.
#
#   docker build -t kshot .                             CPU
#   docker build -t kshot:gpu --build-arg RUNTIME=gpu . NVIDIA GPUs; run it with --gpus all
#   docker build -t kshot:onnx --build-arg RUNTIME=onnx . CPU, ONNX Runtime instead of torch
#   docker run --read-only --tmpfs /tmp -p 8000:8000 -e KSHOT_API_KEYS=env:KEYS -e KEYS=me:a-key-of-16-letters-or-more kshot
#
# The server binds every interface of its container, so it starts only with API keys. Every flag of `kshot serve` is a KSHOT_* variable.
# server/deploy/prove-dockerfile.sh builds and runs this file without a container engine.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build

# A build may bring its own package index: --secret id=pip,src=pip.conf
ENV PIP_CONFIG_FILE=/run/secrets/pip \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_BUILD_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

# The environment has no pip of its own: what is built is what runs, and nothing in it installs more.
RUN python -m venv --without-pip /opt/kshot
COPY constraints.txt /build/

# The default index carries torch for CUDA, with all of CUDA; PyTorch's own has builds that are gigabytes smaller.
ARG RUNTIME=cpu
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
# First and alone, so that a change of kshot does not fetch it anew.
RUN --mount=type=secret,id=pip \
    case "$RUNTIME" in \
      cpu) package=torch index=$TORCH_CPU_INDEX ;; \
      gpu) package=torch index= ;; \
      onnx) package=onnxruntime index= ;; \
      *) echo "RUNTIME is cpu, gpu or onnx, not $RUNTIME" >&2; exit 2 ;; \
    esac; \
    python -m pip --python /opt/kshot/bin/python install ${index:+--extra-index-url "$index"} "$package"

COPY pyproject.toml README.md LICENSE /build/
COPY clients /build/clients
COPY models /build/models
COPY training /build/training
COPY server /build/server
COPY tests/benchmarks/kshot_bench /build/tests/benchmarks/kshot_bench
# LitServe's own commands go: one of them installs packages when it is run.
RUN --mount=type=secret,id=pip \
    case "$RUNTIME" in onnx) runtime=onnx ;; *) runtime=torch ;; esac; \
    python -m pip --python /opt/kshot/bin/python install "/build[server,$runtime,redis]" \
    && rm -f /opt/kshot/bin/lightning /opt/kshot/bin/litserve


FROM ${PYTHON_IMAGE}

LABEL org.opencontainers.image.title="kshot" \
      org.opencontainers.image.description="An image model that learns new classes over HTTP in milliseconds." \
      org.opencontainers.image.licenses="Apache-2.0"

RUN groupadd --gid 10001 kshot \
    && useradd --uid 10001 --gid kshot --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kshot
COPY --from=build /opt/kshot /opt/kshot
# So that no start waits for the compiler; a processor of another kind compiles for itself.
ARG RUNTIME=cpu
RUN case "$RUNTIME" in cpu) kernels=kshot_models.batched.native ;; onnx) kernels=kshot_models.native ;; *) kernels= ;; esac; \
    if [ -n "$kernels" ]; then NUMBA_CACHE_DIR=/opt/kshot/kernels /opt/kshot/bin/python -m "$kernels"; fi

# The NVIDIA variables mean something to NVIDIA's container runtime only.
ENV PATH=/opt/kshot/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    COMPILED_KERNELS=/opt/kshot/kernels \
    KSHOT_HOST=0.0.0.0 \
    KSHOT_PORT=8000

# By number, so that an orchestrator can tell that it is not root. Only /tmp is written to.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"KSHOT_PORT\"]}/readyz', timeout=2)"]
ENTRYPOINT ["kshot", "serve"]
