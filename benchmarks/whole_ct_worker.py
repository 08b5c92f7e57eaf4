# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
"""One side of `whole_ct.py`, in a process of its own.

whole_ct_worker.py KIND FOLDER: prints JSON. FOLDER holds ct.nii.gz, weights.npz
and grid.npz (made by KIND weights) and the fast:S weights, fast; programs that
ours compiles are kept in FOLDER/programs, as `vf-jax predict` keeps them.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import resource
import sys
import time

from allocator import restart
from worker import limit_threads

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from vf_jax.infer.programs import VARIABLE, keep_programs

CLASSES, WINDOW, SPACING_MM, OVERLAP = 27, 96, 2.0, 0.5
LIMIT_HU = 1000  # what the networks see is HU / 1000, clipped at 1
_BONE_HU = 200.0


def main() -> None:
  """Does one job; the time is that of everything from file to file."""
  kind, folder = sys.argv[1], pathlib.Path(sys.argv[2])
  restart(ours=False, jemalloc=kind.endswith("_jemalloc"))
  limit_threads(2)
  os.environ[VARIABLE] = str(folder / "programs")
  if kind == "compile":
    ours(folder)
    fast(folder)
    return
  job = {
    "weights": weights,
    "monai": monai,
    "monai_compile": functools.partial(monai, name=kind, compiled=True),
    "monai_jemalloc": functools.partial(monai, name=kind, compiled=True),
    "ours": ours,
    "ours_two": functools.partial(ours, in_flight=2),
    "fast": fast,
  }[kind]
  run = job(folder)
  if run is None:
    return
  began, used = time.perf_counter(), time.process_time()
  run()
  print(
    json.dumps(
      {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - used,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
      }
    )
  )


def _unetr():
  import torch
  from monai.networks.nets import UNETR

  torch.manual_seed(0)
  torch.set_num_threads(2)
  return UNETR(1, CLASSES, (WINDOW,) * 3, feature_size=16).eval()


def _before(path: pathlib.Path, **spacing):
  from monai import transforms as t

  return t.Compose(
    [
      t.LoadImaged("image"),
      t.EnsureChannelFirstd("image"),
      t.Spacingd("image", (SPACING_MM,) * 3, mode="bilinear", **spacing),
      t.ScaleIntensityRanged("image", -LIMIT_HU, LIMIT_HU, -1, 1, clip=True),
    ]
  )


def weights(folder: pathlib.Path) -> None:
  """Writes weights whose mask is bone, and the grid of MONAI's resampling.

  Random weights give noise. The last layer is fitted by least squares to
  bone in the middle window: class 1 against class 0; the others stay below.
  """
  import numpy as np
  import torch

  net = _unetr()
  image = _before(folder)({"image": str(folder / "ct.nii.gz")})["image"]
  start = [(n - WINDOW) // 2 for n in image.shape[1:]]
  window = image[(slice(None), *(slice(a, a + WINDOW) for a in start))]
  seen = {}
  net.out.register_forward_hook(lambda m, x, y: seen.update(x=x[0]))
  with torch.inference_mode():
    net(window[None].as_tensor())
    features = seen["x"][0].flatten(1).T.double()
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    bone = (window.as_tensor().flatten() > _BONE_HU / LIMIT_HU).double()
    fit = torch.linalg.lstsq(features, bone[:, None] - 0.5).solution[:, 0]
  state = {k: v.numpy().copy() for k, v in net.state_dict().items()}
  state["out.conv.conv.weight"][:] = 0
  state["out.conv.conv.weight"][1, :, 0, 0, 0] = fit[:-1]
  state["out.conv.conv.bias"][:] = -1e3
  state["out.conv.conv.bias"][:2] = (0, fit[-1])
  np.savez(folder / "weights.npz", **state)
  np.savez(
    folder / "grid.npz", shape=image.shape[1:], affine=image.affine.numpy()
  )


def monai(folder: pathlib.Path, name: str = "monai", compiled: bool = False):
  """LoadImage, Spacing, sliding_window_inference, argmax, inverse, file.

  Args:
    folder: of the CT and the weights.
    name: of the mask, without ending.
    compiled: with `torch.compile`, and with resampling in float32, which takes
      less time and memory than the float64 of MONAI's default.
  """
  import nibabel
  import numpy as np
  import torch
  from monai import transforms as t
  from monai.inferers import sliding_window_inference

  net = _unetr()
  with np.load(folder / "weights.npz") as file:
    net.load_state_dict({k: torch.from_numpy(file[k]) for k in file.files})
  forward = net
  if compiled:
    program = torch.compile(net)

    def forward(window):
      # Windows are views of the whole, and other strides compile again.
      return program(window.contiguous())

    with torch.inference_mode():
      forward(torch.zeros(1, 1, *(WINDOW,) * 3))

  def run() -> None:
    before = _before(folder, **({"dtype": np.float32} if compiled else {}))
    with torch.inference_mode():
      data = before({"image": str(folder / "ct.nii.gz")})
      data["pred"] = sliding_window_inference(
        data["image"][None], WINDOW, 1, forward, OVERLAP, mode="gaussian"
      )[0]
      # The classes, not 27 maps, go back: the cheaper order of the two.
      data["pred"] = t.AsDiscrete(argmax=True)(data["pred"])
      after = t.Invertd("pred", before, orig_keys="image", nearest_interp=True)
      mask = after(data)["pred"][0]
    nibabel.save(
      nibabel.Nifti1Image(mask.numpy().astype(np.uint8), mask.affine.numpy()),
      folder / f"{name}.nii.gz",
    )

  return run


def ours(folder: pathlib.Path, in_flight: int = 1):
  """The same with our reader, windows, UNETR and writer."""
  import jax
  import numpy as np

  from vf_jax.infer.windows import classify
  from vf_jax.io import nifti
  from vf_jax.models.baselines.monai_unetr import params_from_monai
  from vf_jax.models.baselines.unetr import Unetr
  from vf_jax.scratch import empty, slabs
  from vf_jax.volume import Grid, resample

  keep_programs()
  # Unrolled blocks are loaded one by one, not stacked: half the memory.
  model = Unetr(CLASSES, feature_size=16, scan=False)
  with np.load(folder / "weights.npz") as file:
    params = params_from_monai(file, model, (1, *(WINDOW,) * 3, 1))
  # The last layer follows the mean of the windows, as it is linear.
  out = params["decoder"]["out"]
  last = np.asarray(out["kernel"]), np.asarray(out["bias"])
  out["kernel"] = np.eye(len(last[0]), dtype=np.float32)
  out["bias"] = np.zeros(len(last[0]), np.float32)
  model = model.clone(classes=len(last[0]))
  params = jax.device_put(params)
  with np.load(folder / "grid.npz") as file:
    grid = Grid(tuple(file["shape"].tolist()), file["affine"])

  forward = jax.jit(
    lambda p, x: model.apply(
      {"params": p}, x[..., None].astype("float32") / LIMIT_HU
    )
  )
  shape = jax.ShapeDtypeStruct((1, *(WINDOW,) * 3), np.int16)
  program = forward.lower(params, shape).compile()

  def run() -> None:
    volume = nifti.read(folder / "ct.nii.gz")
    # MONAI does not blur before it takes fewer voxels.
    image = resample(
      volume.voxels,
      volume.grid,
      grid,
      fill=-LIMIT_HU,
      antialias=False,
      clip=(-LIMIT_HU, LIMIT_HU),
    )
    # MONAI's UNETR sees x as depth; the weights are not symmetric.
    found = classify(
      np.ascontiguousarray(image),
      lambda block: [program(params, block)],
      (WINDOW,) * 3,
      OVERLAP,
      1,
      in_flight,
      last,
    )
    native = volume.grid
    mask = empty(native.shape, np.uint8)
    for part in slabs(mask):
      affine = native.affine.copy()
      affine[:3, 3] = native.to_world(np.array([[0, 0, part.start]]))[0]
      slab = Grid((*native.shape[:2], part.stop - part.start), affine)
      mask[..., part] = resample(found, grid, slab, order=0, fill=0)
    name = "ours" if in_flight == 1 else "ours_two"
    nifti.write(folder / f"{name}.nii.gz", mask, like=volume)

  return run


def fast(folder: pathlib.Path):
  """`vf-jax predict` with fast:S at the same voxel size."""
  from vf_jax.infer.cases import predict_file
  from vf_jax.infer.predictor import load
  from vf_jax.io import nifti
  from vf_jax.report.page import write_report
  from vf_jax.volume import crop

  predictor = load(folder / "fast")
  # Compiles all programs on a part of the CT.
  volume = nifti.read(folder / "ct.nii.gz")
  middle = [(n - 160) // 2 for n in volume.grid.shape]
  predictor(crop(volume, middle, (160,) * 3, -1024), "part")

  def run() -> None:
    predict_file(predictor, folder / "ct.nii.gz", folder / "out", write_report)

  return run


if __name__ == "__main__":
  main()
