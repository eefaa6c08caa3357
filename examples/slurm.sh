#!/bin/bash
# A run on several machines of a Slurm cluster: one task on each, which starts a process for each of its GPUs.
#
#     sbatch --nodes=2 examples/slurm.sh run.yaml train.iterations=200
#
# Slurm sends SIGTERM before the time is over: the run then saves a checkpoint and ends. Start it again with:
#
#     sbatch --nodes=2 examples/slurm.sh --resume runs/NAME
#SBATCH --job-name=omni-rl
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # not through `head`: scontrol would end by SIGPIPE now and then
first=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 20000))
if [ "$1" = --resume ]; then
  command=(omni-rl resume "$2" "${@:3}")
else
  command=(omni-rl train "$1" --run-dir "runs/$(basename "$1" .yaml)-$SLURM_JOB_ID" "${@:2}")
fi

# SLURM_NODEID differs from machine to machine, so the inner shell reads it there
srun bash -c '"$@" "launcher.node=$SLURM_NODEID"' omni-rl "${command[@]}" \
  launcher.name=torchrun "launcher.nodes=$SLURM_NNODES" "launcher.address=$first:$port"
