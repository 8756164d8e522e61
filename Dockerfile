# The image for all our services in docker-compose.yml. TORCH=cpu (the default) or gpu.
FROM python:3.11.15-slim-bookworm AS build
ARG UV_VERSION=0.13.9
ARG TORCH=cpu
RUN pip install --no-cache-dir uv==$UV_VERSION && uv venv /opt/nerveseg
ENV VIRTUAL_ENV=/opt/nerveseg UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /build
COPY pyproject.toml requirements.lock ./
# PyTorch's CPU builds, a fifth of the size, are in a separate index, which uv knows.
RUN if [ "$TORCH" = cpu ]; then backend="--torch-backend=cpu"; fi \
    && uv pip install --no-cache $backend --constraint requirements.lock --requirement pyproject.toml
COPY README.md LICENSE ./
COPY src src
RUN uv pip install --no-cache --no-deps .

FROM python:3.11.15-slim-bookworm
# Flow runs clone the repository with git, which by default refuses folders owned by other users.
RUN apt-get update && apt-get install --yes --no-install-recommends git openssh-client \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system safe.directory '*' \
    && useradd --uid 10001 --no-create-home nerveseg \
    && install --directory --owner 10001 --group 10001 /var/lib/nerveseg
COPY --from=build /opt/nerveseg /opt/nerveseg
WORKDIR /app
COPY stack stack
COPY flows flows
ENV PATH=/opt/nerveseg/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
