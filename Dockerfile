# The GPU machine: OpenRLHF, Ray, vLLM and DeepSpeed, and this project as an editable install.
#
#   docker build -t vespo-openrlhf .
#   docker run --gpus all --shm-size 16g --network host -it \
#     -v $PWD/runs:/opt/vespo/runs -v $PWD/data:/opt/vespo/data vespo-openrlhf
#   python -m vespo_openrlhf.data prepare gsm8k
#   scripts/ray-node.sh head && scripts/one-gpu-gsm8k.sh
#
# devel, not runtime: flash-attn is compiled where there is no wheel for this torch and CUDA, and
# DeepSpeed compiles its Adam on its first start. CUDA_VERSION should be that of torch's build.
ARG CUDA_VERSION=13.0.1
FROM nvidia/cuda:${CUDA_VERSION}-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential git ninja-build python3 python3-dev python3-venv libnuma1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/vespo
# What changes seldom comes first: the stack is not installed again for a change in our code.
COPY requirements.txt ./
ARG MAX_JOBS=8
RUN python3 -m venv .venv \
    && .venv/bin/pip install "$(grep -m1 '^torch==' requirements.txt)" ninja packaging wheel "setuptools>=77" \
    && MAX_JOBS=${MAX_JOBS} .venv/bin/pip install --no-build-isolation -r requirements.txt
COPY . .
RUN .venv/bin/pip install --no-build-isolation -e .
ENV PATH=/opt/vespo/.venv/bin:${PATH}
CMD ["bash"]
