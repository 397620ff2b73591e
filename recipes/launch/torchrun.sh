#!/usr/bin/env bash
# Training on several nodes by torchrun. Run this on every node, with the node's number:
#
#   NODES=2 GPUS=8 MASTER=node0 NODE=0 recipes/launch/torchrun.sh recipes/flowbind/published.yaml
#   NODES=2 GPUS=8 MASTER=node0 NODE=1 recipes/launch/torchrun.sh recipes/flowbind/published.yaml
#
# The run folder must be on a disk that all nodes see. What was stopped goes on where it was, on any number of devices:
# say the same again. SIGTERM to an agent saves first (docs/reliability.md).
set -euo pipefail
recipe=$1 # further ones over it are options: --config FILE
shift
exec torchrun \
  --nnodes="${NODES:-1}" --nproc-per-node="${GPUS:-gpu}" --node-rank="${NODE:-0}" \
  --master-addr="${MASTER:-127.0.0.1}" --master-port="${PORT:-29400}" \
  -m flowbind fit --config "$recipe" \
  --trainer.num_nodes="${NODES:-1}" --trainer.devices="${DEVICES:-auto}" --trainer.strategy="${STRATEGY:-ddp}" "$@"
