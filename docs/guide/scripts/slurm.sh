#!/usr/bin/env bash
# Two machines of four processes each: sbatch slurm.sh. One torchrun a machine; the first machine is the meeting point.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=01:00:00
export OMP_NUM_THREADS=4 OPENBLAS_NUM_THREADS=4
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # otherwise a restart finds the addresses of the dead processes
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" \
    ddp.py "$SLURM_SUBMIT_DIR/checkpoint"
