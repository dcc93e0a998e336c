"""What the built-in surgeries can be asked to do with each breed of the zoo."""

from __future__ import annotations

from typing import Any

Steps = list[dict[str, Any]]

STACK = {"two towers": "text.layers", "encoder-decoder": "encoder.layers", "convolutional": ""}
HEAD = {"two towers": "text_side"}


def lora(at: dict[str, Any], **options: Any) -> Steps:
    return [{"use": "lora", "at": at, "with": {"rank": 2, **options}}]


def one(use: str, at: dict[str, Any] | None = None, **options: Any) -> Steps:
    return [{"use": use, **({"at": at} if at else {}), "with": options}]


ANYWHERE: dict[str, Steps] = {
    "freeze": one("freeze"),
    "freeze in eval mode": one("freeze", {"match": ".*norm.*", "type": "Module"}, eval_mode=True),
    "lora with biases": lora({"type": "Linear"}, bias="all", rslora=True),
    "lora merged": [*lora({"type": "Linear"}, init="gaussian", dora=True), {"use": "merge"}],
    "scale biases": one("tensors", do="scale", names="**.bias", by=0.5),
    "draw norms": one("tensors", do="fill", names="**.norm*.weight", value=1.0, deviation=0.1),
    "cast": one("cast", dtype="float16"),
    "adapter beside": lora({"type": "Linear"}, adapter="beside", init="orthogonal"),
}

ATTENDING: dict[str, Steps] = {
    "train rows": one("unfreeze", {"role": "embedding"}, rows="3-5"),
    "train queries": one("unfreeze", {"role": "attention.q"}),
    "lora on attention": lora({"role": ["attention.q", "attention.v", "attention.proj"]}),
    "dora": lora({"role": ["mlp.up", "mlp.down"]}, dora=True, init="gaussian"),
    "pissa": lora({"role": ["attention.v", "mlp.down"]}, init="pissa"),
    "olora": lora({"role": "attention.proj"}, init="olora"),
    "loftq": lora({"role": "attention.proj"}, init="loftq"),
    "lora on embedding": lora({"type": "Embedding"}),
    "lora on layer 0": lora({"layers": "0", "role": ["attention.proj", "mlp.down"]}),
    "freeze layer 1": one("freeze", {"layers": "1"}),
}


def menu(breed: str) -> dict[str, Steps]:
    """Give what can be asked for, by name, each alone."""
    found = dict(ANYWHERE)
    stack, head = STACK.get(breed, "layers"), HEAD.get(breed, "head")
    if breed != "convolutional":
        found |= ATTENDING | _of_stack(breed, stack)
    if breed not in ("tied", "encoder-decoder"):
        found["labels"] = one("head", {"path": head}, labels=7)
        found["reset"] = one("head", {"path": head}, reset=True)
    else:
        found["untie"] = one("untie", {"path": "head"})
        own = lora({"type": "Linear", "exclude": "head"}, init="gaussian", dora=True)
        found["lora merged"] = [*own, {"use": "merge"}]
    return {**found, **_of_breed(breed)}


def _of_stack(breed: str, stack: str) -> dict[str, Steps]:
    copied = one("tensors", do="copy", names=f"{stack}.0.<rest:**>", to=f"{stack}.1.<rest>",
                 replace=True)  # fmt: skip
    return {
        "drop a layer": one("layers", {"path": f"{stack}.0"}, do="drop"),
        "insert a layer": one("layers", {"path": f"{stack}.0"}, do="insert"),
        "order layers": one("layers", {"path": f"{stack}.*"}, order=[1, 0, 1]),
        "copy a layer": copied,
        "cast a part": one("cast", {"path": f"{stack}.0.mlp"}, dtype="float64"),
    }


def _of_breed(breed: str) -> dict[str, Steps]:
    attached = {"called": "view", "module": {"use": "mlp", "hidden": [6], "out": 3}}
    if breed == "two towers":
        return {
            "channels": one("patch_embed", {"path": "image.patches"}, channels=4),
            "grid": one("pos_embed", {"path": "image.positions"}, grid=[3, 3]),
            "lora on patches": lora({"path": "image.patches"}),
            "attach": one("attach", {"path": "image.norm"}, **attached),
        }
    if breed == "convolutional":
        return {
            "lora on convolutions": lora({"path": ["stem", "mix"]}),
            "attach": one("attach", {"path": "mix"}, **attached),
        }
    if breed == "experts":
        dora = lora({"role": "attention.proj"}, dora=True, init="gaussian")
        return {"lora on experts": lora({"path": ["**.mlp.up", "**.mlp.down"]}), "dora": dora}
    return {}
