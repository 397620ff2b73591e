#!/usr/bin/env bash
# Training on several nodes by SLURM:
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 recipes/launch/slurm.sh recipes/flowbind/published.yaml
#
# Three minutes before the time limit SLURM sends SIGUSR1: training saves at the next step boundary, ends with code 138, and
# the job is put back in the queue, to go on from there.
#SBATCH --job-name=flowbind
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
recipe=$1 # further ones over it are options: --config FILE
shift
# When one process has ended the others have a minute: after a signal they all end by themselves, with the code asked for below.
srun --kill-on-bad-exit=0 --wait=60 flowbind fit --config "$recipe" \
  --trainer.num_nodes="$SLURM_NNODES" --trainer.devices="$SLURM_NTASKS_PER_NODE" --trainer.strategy="${STRATEGY:-ddp}" "$@"
code=$?
if [ "$code" -eq 138 ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
