#!/usr/bin/env python3
"""Writes tests/data/edge.pth, a torch.save file with everything that a reader may get wrong, and edge.json, what is
in it: for each tensor its type, shape and the bytes of its elements in row-major order (hex).

    /usr/bin/python3 dev/reference/pth_edge.py      # any PyTorch >= 1.6, CPU only
"""
import collections, json, os, torch

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "data")
names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}

torch.manual_seed(7)
weights = collections.OrderedDict()
odd = torch.tensor([0.0, -0.0, 1.0, -2.5, float("inf"), float("-inf"), float("nan"), 6e-8, 65504.0, 1e-40, 3e38])
for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
    weights["odd." + names[dtype]] = odd.to(dtype)
for dtype in (torch.int64, torch.int32, torch.int16, torch.int8):
    weights["whole." + names[dtype]] = torch.tensor([[-1, 0, 1], [torch.iinfo(dtype).min, torch.iinfo(dtype).max, 77]], dtype=dtype)
weights["whole.U8"] = torch.tensor([0, 1, 255], dtype=torch.uint8)
weights["whole.BOOL"] = torch.tensor([True, False, True])
weights["scalar"] = torch.tensor(3.25)
weights["empty"] = torch.empty(0, 4)
weights["param"] = torch.nn.Parameter(torch.randn(7))

base = torch.randn(5, 6, 7)
weights["base"] = base
weights["tied"] = base                               # the same storage, offset and strides
weights["row"] = base[2, 3]                          # an offset
weights["column"] = base[:, 1, 2]                    # an offset and one large stride
weights["every_other"] = base[1:, ::2, ::3]
weights["transposed"] = base[4].t()
weights["permuted"] = base.permute(2, 0, 1)
weights["last"] = base[4, 5, 6]                      # 0 dimensions at the very end of the storage
weights["one_wide"] = base[:, :, 3:4]                # a dimension of 1 with any stride
weights["half_transposed"] = torch.randn(9, 3).to(torch.bfloat16).t()
weights["a name with spaces, \"quotes\" and \u00fcml\u00e4ut"] = torch.arange(2.0)
weights["plain.module.inside"] = torch.arange(3.0)   # a prefix is dropped only at the front
many = torch.arange(300, dtype=torch.int16)
for i in range(300):                                 # more than 256: the long forms of the memo instructions
    weights["many.%d" % i] = many[i]

expected = {}
for i, (name, t) in enumerate(weights.items()):
    flat = t.detach().contiguous().reshape(-1)
    size = flat.element_size()
    bits = flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]) if flat.dtype != torch.bool else flat.to(torch.uint8)
    expected[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "bytes": b"".join(int(v).to_bytes(size, "little", signed=int(v) < 0) for v in bits).hex()}

# as a trainer saves it: wrapped names, other dictionaries beside the weights
prefixes = ["module.", "_forward_module.", "module._orig_mod.", ""]
state = collections.OrderedDict((prefixes[i % 4] + n, t) for i, (n, t) in enumerate(weights.items()))
state._metadata = collections.OrderedDict({"": {"version": 1}})
torch.save({"step": 12345, "loss": 2.5, "big": 1 << 100, "args": {"lr": 6e-4, "name": "x", "list": [1, -2, 300, 70000, -5000000000]},
            "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"betas": (0.9, 0.99), "flag": True, "none": None}]},
            "model": state}, os.path.join(here, "edge.pth"))
with open(os.path.join(here, "edge.json"), "w") as f:
    f.write("{\n" + ",\n".join(json.dumps(n) + ": " + json.dumps(e) for n, e in expected.items()) + "\n}\n")
