"""Whether a job's ranks fit into the GPUs of a site, by the planner's arithmetic."""

from __future__ import annotations

from launch.job import Job
from launch.site import Site
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.planner.architecture import find_architecture
from megatron_longrlvr.planner.hardware import ACCELERATORS, Cluster
from megatron_longrlvr.planner.plan import make_plan
from megatron_longrlvr.planner.workload import read_workload

_TRAINING_KINDS = ("train", "sweep")


def check_memory(job: Job, site: Site) -> str:
    """Plan each recipe of a training job; says what was found, or why it was not looked at.

    Raises:
        ConfigError: A recipe does not fit; opens with its key.
    """
    if job.kind not in _TRAINING_KINDS or site.node.gpus == 0:
        return "memory: not planned, for no training job on GPUs"
    kind = (site.node.gpu_type or "").lower()
    if kind not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        return f"memory: not planned, for the profile's node.gpu_type is none of {known}"
    if site.processes_per_node != site.node.gpus:
        return "memory: not planned, for node.processes is not one for each GPU"
    cluster = Cluster(accelerator=ACCELERATORS[kind], gpus_per_node=site.node.gpus, nodes=job.nodes)
    peaks = []
    for config in job.configs:
        spec = find_architecture(config.model.path).spec
        plan = make_plan(read_workload(config, spec, world_size=cluster.gpus), cluster)
        problems = plan.problems()
        if problems:
            raise ConfigError(problems[0])
        peaks.append(plan.peak_gib)
    return (
        f"memory: {max(peaks):.1f} of {ACCELERATORS[kind].memory_gib:g} GiB of a GPU at the peak, "
        "as planned"
    )
