# The image that answers and never trains: Python, the serving half of the locked packages, the code; no torch.
#
#   docker build -f docs/clusters/serving.Dockerfile -t YOUR-REGISTRY/tuneserve-serving:0.1.0 .   # from the project's folder
#   docker run -p 8000:8000 -e MLFLOW_TRACKING_URI=... -e TUNESERVE_STORAGE=... YOUR-REGISTRY/tuneserve-serving:0.1.0
#
# It may take the place of the other image wherever nothing is trained: a RayService's pods, machines for endpoints.
FROM python:3.11.14-slim-bookworm

# KubeRay asks pods how they are with wget; which of Debian's versions that is matters to nobody.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid users ray \
    && install --directory --owner ray --group users /home/ray/tuneserve

USER 1000
WORKDIR /home/ray/tuneserve
ENV PATH=/home/ray/.venv/bin:$PATH PYTHONUNBUFFERED=1
COPY --chown=ray:users pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=ray:users common common
COPY --chown=ray:users tune tune
COPY --chown=ray:users serve serve
COPY --chown=ray:users scripts scripts
COPY --chown=ray:users recipes recipes
# boto3: for artifacts that MLflow keeps in S3.
RUN python -m venv /home/ray/.venv \
    && pip install --no-cache-dir --constraint constraints.txt --editable ".[serve]" boto3

EXPOSE 8000
# Other machines ask the gateway with an API key: tuneserve keys create NAME, in this container.
CMD ["tuneserve", "up", "--host", "0.0.0.0", "--block"]
