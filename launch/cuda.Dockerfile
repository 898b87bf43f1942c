# For hosts with NVIDIA GPUs. CUDA's libraries are among JAX's packages; the driver is the host's.
#
#   docker build -f launch/cuda.Dockerfile -t IMAGE .
#   docker run --gpus all --user "$(id -u)" --env HOME=/tmp -v /data:/data IMAGE --config configs/popqa_qwen3_8b.py --workdir /data/run
FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY pretrainrl_jax pretrainrl_jax
COPY configs configs
COPY launch/versions.txt versions.txt
RUN pip install --no-cache-dir --constraint versions.txt '.[cuda,gcs,data,servers]' \
    && useradd --create-home --uid 1000 run \
    && cp -r configs /srv/ && chown -R 1000 /srv
WORKDIR /srv
USER 1000
ENTRYPOINT ["python", "-m", "pretrainrl_jax.main"]
