"""Teacher and student side by side, as an animated image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from distilrl.checkpoints import write_bytes
from distilrl.envs import VecEnv, make_vec_env
from distilrl.evaluate import VERDICT_SEEDS, Values

PANEL_WIDTH = 240


def side_by_side(policies: dict[str, Values], env_id: str, *, steps: int = 600, every: int = 3, seed: int = VERDICT_SEEDS) -> bytes:
    """Animated WebP of policies playing the same episode, greedily.

    Args:
        policies: name shown above the picture, and action values.
        env_id: environment.
        steps: environment steps at most.
        every: one picture per this many steps.
        seed: of the episode.
    """
    envs = {name: make_vec_env(env_id, 1, pictures=True) for name in policies}
    obs: dict[str, NDArray[Any]] = {name: env.reset(np.array([seed])) for name, env in envs.items()}
    returns, over = dict.fromkeys(policies, 0.0), dict.fromkeys(policies, False)
    panels: dict[str, Image.Image] = {}
    frames = []
    for step in range(steps):
        for name, policy in policies.items():
            if over[name]:
                continue
            if step % every == 0:
                panels[name] = _panel(envs[name], name, returns[name])
            with torch.no_grad():
                envs[name].send(policy(torch.from_numpy(obs[name])).argmax(1).numpy())
            answer = envs[name].recv()
            obs[name] = answer.obs
            returns[name] += float(answer.reward[0])
            over[name] = bool(answer.terminated[0] or answer.truncated[0])
        if step % every == 0:
            frames.append(_join(list(panels.values())))
        if all(over.values()):
            break
    for env in envs.values():
        env.close()
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=50, loop=0, quality=60, method=2)
    return buffer.getvalue()


def write(path: Path, policies: dict[str, Values], env_id: str, *, steps: int = 600, every: int = 3) -> None:
    """Writes `side_by_side` to a file."""
    write_bytes(path, side_by_side(policies, env_id, steps=steps, every=every))


def _panel(env: VecEnv, name: str, so_far: float) -> Image.Image:
    """The environment's picture under a line of text."""
    picture = Image.fromarray(env.picture(0))
    picture = picture.resize((PANEL_WIDTH, PANEL_WIDTH * picture.height // picture.width), Image.Resampling.NEAREST)
    panel = Image.new("RGB", (PANEL_WIDTH, picture.height + 24), "white")
    panel.paste(picture, (0, 24))
    ImageDraw.Draw(panel).text((6, 6), f"{name}: {so_far:g}", fill="black", font_size=13)
    return panel


def _join(panels: list[Image.Image]) -> Image.Image:
    gap = 12
    joined = Image.new("RGB", (sum(p.width for p in panels) + gap * (len(panels) - 1), max(p.height for p in panels)), "white")
    left = 0
    for panel in panels:
        joined.paste(panel, (left, 0))
        left += panel.width + gap
    return joined
