# For TPU hosts, as of Google Kubernetes Engine.
#
#   docker build -f launch/tpu.Dockerfile -t IMAGE .
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY pretrainrl_jax pretrainrl_jax
COPY configs configs
COPY launch/versions.txt versions.txt
RUN pip install --no-cache-dir --constraint versions.txt '.[tpu,gcs,data,servers]' && cp -r configs /srv/
# The devices of TPUs belong to root.
WORKDIR /srv
ENTRYPOINT ["python", "-m", "pretrainrl_jax.main"]
