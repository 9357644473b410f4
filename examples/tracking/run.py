# Copyright (c) 2026, NVIDIA CORPORATION.  All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Experiment tracking: what the sites log is in TensorBoard at the server: `.venv/bin/python examples/tracking/run.py`.

After the job it reads the event files as TensorBoard does; with --picture it draws the curves.
"""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nvflare.app_common.executors.client_api.client_api_runner import ClientAPIRunner
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver
from nvflare.fuel.utils.constants import FrameworkType
from nvflare.job_config.api import FedJob

HERE = Path(__file__).resolve().parent
STEPS = 20  # that train.py logs per round


def build_job(clients: int, rounds: int) -> FedJob:
    job = FedJob(name="tracking", min_clients=clients)
    persistor_id = job.to_server(NPModelPersistor(model=[0.0, 0.0, 0.0, 0.0]), id="persistor")
    job.to_server(FedAvg(num_clients=clients, num_rounds=rounds, persistor_id=persistor_id))
    # What a site logs is `analytix_log_stats` there, and `fed.analytix_log_stats` at the server.
    job.to_server(TBAnalyticsReceiver(events=["fed.analytix_log_stats"]), id="receiver")
    runner = ClientAPIRunner(
        str(HERE / "train.py"),
        execution_mode="external_process",
        command=f"{shlex.quote(sys.executable)} -u",
        framework=FrameworkType.NUMPY,
    )
    job.to_clients(runner, tasks=["train"])
    return job


def read_curves(events: Path) -> dict:
    """Returns {site: {tag: [(step, value), ...]}}."""
    curves = {}
    for folder in sorted(path for path in events.iterdir() if path.is_dir()):
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        accumulator.Reload()
        tags = accumulator.Tags()["scalars"]
        curves[folder.name] = {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}
    return curves


def draw(curves: dict, picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for ax, tag, unit in zip(axes, ("loss", "accuracy"), ("step", "round")):
        for site, tags in curves.items():
            ax.plot(*zip(*tags[tag]), label=site)
        ax.set(title=tag, xlabel=unit)
        ax.grid(alpha=0.3)
        ax.legend()
    figure.savefig(picture, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--picture", type=Path, help="a PNG file for the curves (needs matplotlib)")
    parser.add_argument("--workspace", type=Path, default=Path(".demo-tracking"), help="deleted first if it exists")
    args = parser.parse_args()

    workspace = args.workspace.resolve()
    shutil.rmtree(workspace, ignore_errors=True)
    build_job(args.clients, args.rounds).simulator_run(str(workspace), n_clients=args.clients)

    events = workspace / "server" / "simulate_job" / "tb_events"
    curves = read_curves(events)
    print()
    for site, tags in curves.items():
        losses = [value for _, value in tags["loss"]]
        print(f"{site}: {len(losses)} losses, {losses[0]:.3f} -> {losses[-1]:.3f}")
        steps = [step for step, _ in tags["loss"]]
        if steps != list(range(args.rounds * STEPS)):
            sys.exit(f"records of {site} are lost or out of order")
    if len(curves) != args.clients:
        sys.exit(f"there are curves of {len(curves)} sites")
    if args.picture:
        draw(curves, args.picture)
    print(f"all records have arrived: tensorboard --logdir {shlex.quote(str(events))}")


if __name__ == "__main__":
    main()
