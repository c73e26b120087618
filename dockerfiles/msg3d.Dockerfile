# MS-G3D. Built from the repository root, after the base:
#
#   docker build -t skeleton-lab:msg3d -f dockerfiles/msg3d.Dockerfile .
#   docker run --rm --gpus all skeleton-lab:msg3d python3 main.py --help
ARG COMMON_IMAGE=skeleton-lab:base
FROM ${COMMON_IMAGE}
LABEL org.opencontainers.image.description="MS-G3D of Skeleton Action Lab" \
      org.skeleton-lab.model="msg3d"
USER 0:0
COPY models/msg3d /workspace/models/msg3d
RUN chmod -R a+rX /workspace/models \
    && python3 -m compileall -q --invalidation-mode checked-hash /workspace/models
USER 10001:10001
WORKDIR /workspace/models/msg3d
CMD ["python3", "main.py", "--help"]
