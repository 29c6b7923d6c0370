"""The benchmark command: calls what measures, prints what it returns."""

import argparse
import json
from typing import Any

import jax

from resnet_jax.cli.exit_codes import EXIT_DONE
from resnet_jax.cli.options import AddCommand
from resnet_jax.cli.printing import print_result, print_table
from resnet_jax.errors import UserError
from resnet_jax.filesystem import expand

# What the command measures instead of a step.
ALONE = ("loop", "data", "saving", "collectives", "scaling")


def add_command(add: AddCommand) -> None:
    """Adds the command with its options."""
    benchmark = add("benchmark", run_benchmark, "speed and memory of a network, also against torch",
                    "python -m resnet_jax benchmark --model resnet20 --against torch")  # fmt: skip
    benchmark.usage = "%(prog)s [options]"
    benchmark.add_argument("--model", default="resnet20", metavar="NAME", help="a model, or resnext_block")
    benchmark.add_argument("--batch_size", type=int, default=128, metavar="N", help="default: 128")
    benchmark.add_argument("--image_size", type=int, metavar="PIXELS", help="side of the images (default: the model's)")
    benchmark.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), bfloat16, float64")
    what = benchmark.add_mutually_exclusive_group()
    what.add_argument("--inference", action="store_true", help="inference, batch norm folded, instead of training")
    what.add_argument("--data", metavar="DIR", help="instead: how fast the JPEGs in a folder are read and cropped")
    what.add_argument("--loop", action="store_true", help="the training loop against its bare step")
    what.add_argument("--saving", action="store_true", help="a checkpoint: its seconds, and those the loop waits for")
    what.add_argument("--collectives", action="store_true", help="what a step sends between devices and computes")
    what.add_argument("--scaling", action="store_true", help="ImageNet recipes on 8 to 1,024 GPUs, on paper")
    benchmark.add_argument("--num_devices", type=int, metavar="N", help="simulated ones, of --collectives (default: 8)")
    benchmark.add_argument("--against", metavar="torch", help="measure torch in turn")
    benchmark.add_argument("--pairs", type=int, default=7, metavar="N", help="measurements of each (default: 7)")
    benchmark.add_argument("--steps", type=int, metavar="N", help="steps in each (default: 3, with --loop 12)")
    benchmark.add_argument("--profile", metavar="DIR", help="write a trace there and list the costliest operations")
    benchmark.add_argument("--json", action="store_true", help="print one JSON object")


def run_benchmark(arguments: argparse.Namespace) -> int:
    """Speed and memory of a network."""
    alone = next((name for name in ALONE if getattr(arguments, name)), None)
    if alone and (arguments.against or arguments.profile):
        raise UserError(f"--{alone} measures nothing else: leave out --against and --profile")
    if arguments.num_devices is not None and not arguments.collectives:
        raise UserError("--num_devices belongs to --collectives; training takes all devices")
    if arguments.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from resnet_jax.benchmark import benchmark, measure_data, measure_loop, measure_saving, measure_step_cost, scaling

    if arguments.scaling:
        return _print_scaling({name: scaling(name) for name in ("global", "local")}, arguments.json)
    if arguments.data:
        result = measure_data(
            expand(arguments.data), arguments.image_size, arguments.batch_size, arguments.pairs, arguments.steps or 6
        )
        return _print_data_rates(result) if not arguments.json else print_result(result, as_json=True)
    if arguments.saving:
        return print_result(measure_saving(arguments.model, arguments.pairs), arguments.json)
    shapes = (arguments.model, arguments.batch_size, arguments.image_size)
    if arguments.collectives:
        num_devices = 8 if arguments.num_devices is None else arguments.num_devices
        return _print_step_cost(measure_step_cost(*shapes, arguments.dtype, num_devices), arguments.json)
    if arguments.loop:
        return print_result(measure_loop(*shapes, arguments.steps or 12, arguments.pairs), arguments.json)
    result = benchmark(
        *shapes,
        arguments.dtype,
        inference=arguments.inference,
        against=arguments.against,
        num_steps=arguments.steps or 3,
        num_pairs=arguments.pairs,
        profile_folder=expand(arguments.profile) if arguments.profile else None,
    )
    if arguments.json:
        print(json.dumps(result))
        return EXIT_DONE
    operations = result.pop("operations", [])
    torch = result.pop("torch", {})
    result.update({f"torch {key}": value for key, value in torch.items()})
    if torch:
        ratios, result["ratio"] = result.pop("ratios"), result.pop("ratio")
        result["ratios"] = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print_result(result, as_json=False)
    if operations:
        print("\n      ms   share  operation                       place")
        for row in operations:
            print(f"{row['milliseconds']:8.2f}  {row['share']:6.1%}  {row['operation']:<30}  {row['place']}")
    return EXIT_DONE


def _print_data_rates(result: dict[str, Any]) -> int:
    rows = [(key.replace("_", " "), str(value)) for key, value in result.items() if not isinstance(value, dict)]
    for key, rates in result.items():
        if isinstance(rates, dict):
            cells = [f"{name} {rate:.0f}/s" for name, rate in rates.items() if not name.startswith("ratio")]
            ratios = [f"{name} {ratio:.2f}" for name, ratio in rates.items() if name.startswith("ratio")]
            rows.append((key.replace("_", " "), "  ".join([*cells, *ratios]).replace("_", " ")))
    print_table(rows)
    return EXIT_DONE


def _print_step_cost(result: dict[str, Any], as_json: bool) -> int:
    if not as_json:
        totals = result.pop("collectives")
        shown_totals = {name: f"{total['count']}, {total['bytes']:,} bytes" for name, total in totals.items()}
        result = {name: f"{value:,}" if isinstance(value, int) else value for name, value in result.items()}
        result.update(shown_totals)
    return print_result(result, as_json)


def _print_scaling(results: dict[str, list[dict[str, Any]]], as_json: bool) -> int:
    """Where each recipe stops, with either batch norm, then every step with global statistics."""
    if as_json:
        return print_result(results, as_json=True)
    print("recipe          batch norm  scales to  then bound by    what to do")
    for one, other in zip(results["global"], results["local"], strict=True):
        for row in (one, other):
            print(
                f"{row['name']:<15} {row['batch_norm']:<11} {row['scales_to']:>9}  {row['bound'] or '-':<15}  "
                f"{row['advice'] or '-'}"
            )
    print(
        "\nglobal batch norm  GPUs  images/GPU  compute  gradients  statistics  input  step ms  efficiency  hours  "
        "bound"
    )
    for recipe in results["global"]:
        for row in recipe["rows"]:
            place = f"{recipe['name']:<17} {row['num_gpus']:>5}  {row['images_per_gpu']:>10g}"
            if "step_ms" in row:
                place += (
                    f"  {row['compute_ms']:7.1f}  {row['gradient_ms']:9.1f}  {row['statistics_ms']:10.1f}"
                    f"  {row['input_ms']:5.1f}  {row['step_ms']:7.1f}  {row['efficiency']:10.0%}  {row['hours']:5.2f}"
                )
            else:
                place += " " * 70
            print(f"{place}  {row['bound']}")
    return EXIT_DONE
