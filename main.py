# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "jax>=0.4.36,!=0.10.2",
#   "optax>=0.2.4",
#   "chex>=0.1.88",
#   "gymnasium[classic-control]>=1.2.1",
#   "numpy>=1.26",
#   "matplotlib>=3.9",
#   "imageio>=2.36",
#   "tqdm>=4.66",
# ]
# ///
"""Deep Q-learning in one file: an agent learns to balance a pole, from nothing, in seconds.

A neural network predicts how much reward will follow each action. The agent mostly takes the action
with the best prediction, remembers what happened, and corrects its predictions on random samples of
its memory: the Deep Q-Network of Mnih et al. 2015, with the target of Double DQN (van Hasselt et
al. 2016) and optimistic initial values (Sutton & Barto 2018).

    python main.py                          train, then write params.pkl, two GIFs and a figure
    python main.py --evaluate params.pkl    score trained parameters, without training
    python main.py --help                   every option with its meaning, default and range

The lecture is in the cells Network, Policy, Replay and Learning, which are pure: they return values
and touch nothing else. `train`, in the cell Environment, plays with them.
Shapes: B transitions in a batch, U batches in a round, O numbers in an observation, A actions.
"""

# %% Configuration: standard library only, so that a typo is answered before the slow imports
import argparse
import gc
import io
import os
import signal
import sys
import tempfile
from dataclasses import Field, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn


class BadInput(ValueError):
    """What a user has asked for cannot be done; the message is one sentence that says why."""


def option(
    default: Any, help: str, allowed: str = "", *, group: str = "", compare: bool = True
) -> Any:
    """A field of Config: default, meaning, allowed numbers like "[0, 1)" or words, heading."""
    metadata = {"help": help, "allowed": allowed, "group": group}
    return field(default=default, metadata=metadata, compare=compare)


@dataclass(frozen=True)
class Config:
    """Every choice of a run; each field is an option of the command line: --memory-size, ...

    Frozen, hence hashable: it is a static argument of the compiled functions, which compile once
    per Config. compare=False leaves a field out of that: two seeds share one compilation.

    Raises BadInput, a ValueError, if a value is not allowed.
    """

    env_id: str = option("CartPole-v1", "Gymnasium game to play", group="Run")
    seed: int = option(0, "decides every random number", "[0, 4294967295]", compare=False)
    out: str = option(".", "folder that receives the files", compare=False)
    evaluate: str = option("", "score this parameter file, do not train", compare=False)
    seeds: int = option(
        1, "study this many seeds: --seed and following", "[1, 1000]", compare=False
    )
    vanilla: bool = option(False, "switch off all that Mnih et al. 2015 did not have")
    steady: bool = option(False, "train on to the end, in a way that stays perfect")

    total_steps: int = option(51_200, "environment steps at most", "[1, 1e8]", group="Training")
    warmup_steps: int = option(512, "random steps before learning starts", "[1, 1e9]")
    train_every: int = option(64, "environment steps between two rounds of updates", "[1, 1e6]")
    updates: int = option(128, "updates in a round", "[1, 1e6]")
    eval_every: int = option(512, "environment steps between greedy evaluations", "[1, 1e9]")
    eval_episodes: int = option(100, "episodes of an evaluation", "[1, 1e4]")
    target_return: float = option(500.0, "mean return of a perfect evaluation", "[-1e9, 1e9]")
    confirm_episodes: int = option(1000, "fresh episodes to confirm a perfect one", "[1, 1e5]")
    early_stop: bool = option(True, "stop after a perfect evaluation is confirmed")

    hidden: tuple[int, ...] = option((64, 64), "layer sizes", "[1, 1024]", group="Network")
    activation: str = option("silu", "of the hidden layers", "relu, silu, tanh")
    dueling: bool = option(False, "Q = V + A - mean A (Wang et al. 2016)")
    normalize: bool = option(True, "divide observations by 1.5 of their standard deviations")
    optimistic: bool = option(True, "initial Q-values are the best there is")
    max_reward: float = option(1.0, "the game's best reward for one step", "[-1e9, 1e9]")

    epsilon_start: float = option(1.0, "share of random actions at first", "[0, 1]", group="Policy")
    epsilon_end: float = option(0.05, "share of random actions in the end", "[0, 1]")
    epsilon_decay: int = option(
        3_000, "environment steps: to the end, or time constant", "[1, 1e9]"
    )
    epsilon_schedule: str = option("linear", "how the share falls", "linear, exponential")
    action_bins: int = option(11, "actions that stand for a continuous one", "[2, 1000]")

    memory_size: int = option(50_000, "transitions in the memory", "[1, 1e7]", group="Replay")
    batch_size: int = option(64, "transitions in the batch of one update", "[1, 1e5]")
    n_step: int = option(1, "rewards that a transition adds up", "[1, 1000]")
    clip_rewards: bool = option(False, "learn from rewards clipped to [-1, 1]")
    scale_rewards: bool = option(True, "learn from rewards times 1 - gamma")
    prioritized: bool = option(False, "sample by temporal-difference error (Schaul et al. 2016)")
    priority_exponent: float = option(0.6, "alpha; 0 samples uniformly", "[0, 1]")
    importance_exponent: float = option(0.4, "beta at first; it rises to 1", "[0, 1]")

    gamma: float = option(0.98, "discount of the next reward", "[0, 1)", group="Learning")
    double: bool = option(True, "Double DQN target (van Hasselt et al. 2016)")
    tau: float = option(0.02, "share of the network that goes into its target copy", "(0, 1]")
    target_period: int = option(1, "updates between two updates of the target copy", "[1, 1e6]")
    loss: str = option("huber", "of the temporal-difference error", "huber, squared")
    learning_rate: float = option(2e-3, "of Adam", "(0, 1]")
    decay_learning_rate: bool = option(True, "let it fall linearly to 0 over --total-steps")
    weight_decay: float = option(0.0, "makes Adam AdamW; 0 is off", "[0, 1]")
    amsgrad: bool = option(False, "AMSGrad variant of Adam")
    clip_value: float = option(0.0, "clip each number of a gradient to this; 0 is off", "[0, 1e9]")
    clip_norm: float = option(0.0, "clip a gradient's global norm to this; 0 is off", "[0, 1e9]")

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for f in fields(self):
            value, allowed = getattr(self, f.name), f.metadata["allowed"]
            for item in value if isinstance(value, tuple) else (value,):
                if allowed and item is not None and not is_allowed(item, allowed):
                    raise BadInput(f"{flag(f.name)} must be in {allowed}, not {item}")
        for larger, smaller in (
            ("memory_size", "batch_size"),
            ("total_steps", "warmup_steps"),
            ("warmup_steps", "n_step"),
            ("epsilon_start", "epsilon_end"),
        ):
            least, value = getattr(self, smaller), getattr(self, larger)
            if value < least:
                raise BadInput(
                    f"{flag(larger)} must be at least {flag(smaller)}, {least}, not {value}"
                )
        if self.evaluate and self.seeds > 1:
            raise BadInput("--evaluate must be alone, not with --seeds")

    @property
    def best_value(self) -> float:
        """The best return there is: the best reward at each step, for ever."""
        reward = min(self.max_reward, 1.0) if self.clip_rewards else self.max_reward
        return reward if self.scale_rewards else reward / (1 - self.gamma)


GAMES: dict[str, dict[str, Any]] = {  # what other games want otherwise
    "CartPole-v1": {},
    "Acrobot-v1": {
        "max_reward": 0.0,
        "gamma": 0.99,
        "target_return": -82.0,
        "epsilon_decay": 5_000,
        "total_steps": 40_000,
        "eval_every": 2_048,
        "confirm_episodes": 400,
    },
    "MountainCar-v0": {
        "max_reward": 0.0,
        "gamma": 0.99,
        "target_return": -104.0,
        "total_steps": 160_000,
        "eval_every": 4_096,
        "confirm_episodes": 100,
        "epsilon_decay": 36_000,
        "normalize": False,
        "n_step": 3,
        "tau": 0.005,
    },
    "Pendulum-v1": {
        "max_reward": 0.0,
        "target_return": -150.0,
        "epsilon_decay": 5_000,
        "total_steps": 60_000,
        "eval_every": 4_096,
        "confirm_episodes": 300,
    },
}
OTHER_GAMES = {"optimistic": False, "target_return": None}  # None: what Gymnasium calls solved

PRESETS: dict[str, dict[str, Any]] = {  # options that stand for several others
    "vanilla": {
        "double": False,
        "tau": 1.0,
        "target_period": 500,
        "activation": "relu",
        "normalize": False,
        "optimistic": False,
        "scale_rewards": False,
        "decay_learning_rate": False,
    },
    "steady": {
        "early_stop": False,
        "gamma": 0.998,
        "n_step": 5,
        "epsilon_end": 0.1,
        "epsilon_decay": 5_000,
        "learning_rate": 1.5e-3,
        "tau": 0.002,
        "updates": 64,
    },
}


def flag(name: str) -> str:
    """The option of a field: memory_size is --memory-size."""
    return "--" + name.replace("_", "-")


def is_allowed(value: Any, allowed: str) -> bool:
    """Whether a word is in a list like "a, b", or a number in an interval like "[0, 1)"."""
    if isinstance(value, str):
        return value in allowed.split(", ")
    low, high = map(float, allowed[1:-1].split(","))  # NaN lies in no interval
    above: bool = low <= value if allowed[0] == "[" else low < value
    below: bool = value <= high if allowed[-1] == "]" else value < high
    return above and below


# %% Command line, its first half: made from Config. (Skip it on a first reading.)
FILES = ("params.pkl", "agent.gif", "random.gif", "learning_curve.png", "hand-in.zip")
STUDY_FILES = ("study.csv", "study.png")

EXAMPLES = """examples:
  python main.py --seed 7 --out runs/7          another agent, in a folder of its own
  python main.py --evaluate params.pkl          score a trained agent
  python main.py --no-double --loss squared     what do these two ideas buy?
  python main.py --vanilla                      and all ideas since 2015?
  python main.py --env-id MountainCar-v0        another game
  python main.py --seeds 10 --out study         ten agents, a table and a figure
"""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line, where argparse prints the whole usage
        self.exit(2, f"main.py: {message.removeprefix('argument ')} (see --help)\n")


def parse_value(f: Field[Any], text: str) -> Any:
    """A word of the command line, as the type of the field's default."""
    kind: Any = type(f.default[0] if isinstance(f.default, tuple) else f.default)
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        sentence = f"must be {noun} in {f.metadata['allowed']}, not {text!r}"
        raise argparse.ArgumentTypeError(sentence) from None


def make_parser() -> Parser:
    """A parser with an option for each field of Config, under the heading of its group."""
    parser = Parser(
        usage="python main.py [options]",
        description=__doc__.split("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for f in fields(Config):
        meaning, allowed, heading = f.metadata.values()
        if heading:
            group = parser.add_argument_group(heading)
        add = partial(group.add_argument, flag(f.name), default=argparse.SUPPRESS)
        if isinstance(f.default, bool):
            text = f"{meaning} (default {'on' if f.default else 'off'})"
            add(help=text, action=argparse.BooleanOptionalAction)
        else:
            many = isinstance(f.default, tuple)
            default = str(f.default).strip("()").replace(",", "")
            text = f"{meaning} (default {default}{allowed and '; ' + allowed})"
            add(help=text, type=partial(parse_value, f), nargs="+" if many else None, metavar="X")
    return parser


def parse_config(argv: list[str] | None = None) -> Config:
    """The command line as a Config; exits with status 2 and one line if it is wrong.

    An option counts more than a preset, and a preset more than the defaults of the game.
    """
    parser = make_parser()
    given = vars(parser.parse_args(argv))
    defaults = GAMES.get(given.get("env_id", Config.env_id), OTHER_GAMES)
    for name, preset in PRESETS.items():
        defaults = defaults | (preset if given.get(name) else {})
    try:
        config = Config(**defaults | given)
        check_paths(config)
    except BadInput as error:
        parser.error(str(error))
    return config


def check_paths(config: Config) -> None:
    """Raises BadInput if a file cannot be read, or one in the output folder cannot be written."""
    if config.evaluate and not Path(config.evaluate).is_file():
        raise BadInput(f"--evaluate must be a file, not {config.evaluate!r}")
    out = Path(config.out).absolute()
    nearest = next(path for path in (out, *out.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise BadInput(f"--out must be writable, not {config.out!r}: {error.strerror}") from None
    for name in FILES + STUDY_FILES:
        if (out / name).is_dir():
            raise BadInput(f"--out must not hold a folder {name}, as {config.out!r} does")


def sweep(out: str) -> None:
    """Removes what a run that was killed while it wrote has left."""
    for name in FILES + STUDY_FILES:
        for part in Path(out).glob(f".{name}.*.part"):
            part.unlink(missing_ok=True)


def quit_on_interrupt(out: str) -> None:
    """Makes Ctrl-C end the process at once, with one line, wherever it is.

    An exception would be lost where Python ignores exceptions, in callbacks of the libraries.
    """

    def quit_now(*_: Any) -> NoReturn:
        sweep(out)
        os.write(2, b"\nmain.py: interrupted; files that were there are as they were\n")
        os._exit(130)

    signal.signal(signal.SIGINT, quit_now)


if __name__ == "__main__" and not hasattr(sys, "ps1"):  # a script, not a cell in an editor
    # A stream is None if the shell has closed it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold any letter
    quit_on_interrupt(".")
    quit_on_interrupt(parse_config().out)
    gc.disable()  # until all is imported: 4% less time for a default run

# %% Imports: the libraries, told to be quiet and to stay off the screen
# ruff: noqa: E402
import csv
import hashlib
import itertools
import logging
import math
import pickle
import pickletools
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # faster than a GPU for networks this small
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # games draw into memory, not into a window

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no word about a missing HOME

import chex
import gymnasium as gym
import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, grad, jit, lax, nn, random, tree, vmap
from matplotlib.figure import Figure
from tqdm import tqdm

# %% Network: a multi-layer perceptron from an observation to one Q-value per action
Params = dict[str, Any]


def init_params(rng: Array, sizes: tuple[int, ...], *, config: Config = Config()) -> Params:
    """Parameters of an MLP with layers of these sizes, the first O and the last A.

    `scale` [O], which observations are divided by, is 1 until there are observations to measure.
    The hidden layers stand under the name of their activation: parameters alone can be played.

    Initial values are optimistic (Sutton & Barto 2018, section 2.6): about the best value there is.
    The network starts by believing that nothing can fail, so whatever does fail stands out.
    """
    *rngs, value_rng = random.split(rng, len(sizes))
    *hidden, output = map(init_dense, rngs, sizes, sizes[1:])
    scale = jnp.ones(sizes[0], jnp.float32)
    params: Params = {"scale": scale, "hidden": {config.activation: hidden}}
    heads = [output]
    if config.dueling:
        params["value"] = init_dense(value_rng, sizes[-2], 1)
        heads.append(params["value"])
    if config.optimistic:
        for head in heads:
            head["w"] *= 0.01  # nearly the same for whatever is seen
        heads[-1]["b"] += config.best_value  # of V(s), or of each Q(s, a)
    return params | {"output": output}


def init_dense(rng: Array, n: int, m: int) -> Params:
    """A layer from n to m numbers; sums of n inputs keep their variance (LeCun et al. 1998)."""
    weights = nn.initializers.lecun_uniform()
    return {"w": weights(rng, (n, m), jnp.float32), "b": jnp.zeros(m, jnp.float32)}


def dense(layer: Params, x: Array) -> Array:
    y: Array = x @ layer["w"] + layer["b"]
    return y


ACTIVATIONS = {"relu": nn.relu, "silu": nn.silu, "tanh": nn.tanh}


def q_values(params: Params, obs: Array) -> Array:
    """Q(s, a) for each action a: [..., O] -> [..., A].

    With dueling heads Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a'), Wang et al. 2016.
    """
    x = obs / lax.stop_gradient(params["scale"])
    [(activation, layers)] = params["hidden"].items()
    for layer in layers:
        x = ACTIVATIONS[activation](dense(layer, x))
    q = dense(params["output"], x)
    if "value" in params:
        q = dense(params["value"], x) + q - q.mean(axis=-1, keepdims=True)
    return q


# %% Policy: exploit what is known, or explore
def random_policy_fn(rng: Array, obs: Array, n_actions: int = 2) -> Array:
    """A uniformly random action: [..., O] -> [...]."""
    return random.randint(rng, obs.shape[:-1], 0, n_actions)


@jit
def policy_fn(rng: Array | None, params: Params, obs: Array) -> Array:
    """The greedy action, argmax_a Q(s, a): [..., O] -> [...]; rng is not used and may be None."""
    return jnp.argmax(q_values(params, obs), axis=-1)


@jit
def action_fn(rng: Array, params: Params, obs: Array, epsilon: float = 0.05) -> Array:
    """Epsilon-greedy: random with probability epsilon, else greedy; [..., O] -> [...]."""
    action_rng, coin_rng = random.split(rng)
    return jnp.where(
        random.uniform(coin_rng, obs.shape[:-1]) < epsilon,
        random_policy_fn(action_rng, obs, params["output"]["b"].size),
        policy_fn(None, params, obs),
    )


@jit
def act(rng: Array, step: int, params: Params, obs: Array, epsilon: float) -> Array:
    """action_fn with a key of its own for each step."""
    action: Array = action_fn(random.fold_in(rng, step), params, obs, epsilon)
    return action


def epsilon_schedule(config: Config) -> np.ndarray:
    """The share of random actions at each environment step: 1 while warming up, then falling."""
    elapsed = np.arange(config.total_steps + 1) / config.epsilon_decay
    left = {"linear": np.maximum(1 - elapsed, 0), "exponential": np.exp(-elapsed)}
    span = config.epsilon_start - config.epsilon_end
    epsilons: np.ndarray = config.epsilon_end + span * left[config.epsilon_schedule]
    epsilons[: config.warmup_steps + 1] = 1
    return epsilons


# %% Replay: what happened is kept, and learned from in random order
class Transition(NamedTuple):
    """One step of the game, or with a leading B a batch of them.

    `discount` is what the next observation's value counts for: gamma, or 0 if the game terminated.
    A game cut short by its time limit goes on in the agent's eyes: its discount stays gamma.
    With n-step returns, `reward` adds up n discounted rewards and `discount` is gamma^n or 0.
    """

    obs: Any  # [O]
    action: Any  # []
    reward: Any  # []
    discount: Any  # []
    next_obs: Any  # [O]
    weight: Any = 1.0  # [], what it counts for in the loss; not stored
    slot: Any = 0  # [], its place in the memory; not stored


def pack(t: Transition) -> bytes:
    """A transition as one row of the memory: 2 O + 3 float32 as bytes, small and quick to copy."""
    return np.concatenate((t.obs, t[1:4], t.next_obs), dtype=np.float32).tobytes()


def unpack(rows: Sequence[bytes]) -> Transition:
    """The transitions in B rows of the memory, as one batch: fields [B, O] and [B]."""
    table = np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1)  # [B, 2 O + 3]
    o = (table.shape[1] - 3) // 2
    action, reward, discount = table[:, o : o + 3].T
    return Transition(
        table[:, :o],
        action.astype(np.int32),
        reward,
        discount,
        table[:, o + 3 :],
        weight=np.ones_like(reward),
        slot=np.zeros_like(action, np.int32),
    )


def n_step_transition(
    window: Sequence[Any], next_obs: Array, terminated: bool, gamma: float
) -> Transition:
    """The transition from the first (obs, action, reward) of a window to what follows its last.

    reward = sum_k gamma^k r_k, the n-step return but for its last value, which is added while
    learning (Sutton & Barto 2018, chapter 7). A window of one step is a plain transition.
    """
    obs, action, _ = window[0]
    reward = sum(gamma**k * r for k, (_, _, r) in enumerate(window))
    return Transition(obs, action, reward, 0.0 if terminated else gamma ** len(window), next_obs)


def reward_to_learn(reward: float, config: Config) -> float:
    """A reward as the agent learns from it; what is reported stays as the game gave it."""
    if config.clip_rewards:
        reward = np.clip(reward, -1, 1)
    return reward * (1 - config.gamma) if config.scale_rewards else reward


def sample_batch(
    rng: np.random.Generator,
    memory: Sequence[bytes],
    batch_size: int,
    priorities: Sequence[float] | None = None,
    beta: float = 0.0,
) -> Transition:
    """batch_size transitions drawn from the memory, with replacement: uniformly, or by priority.

    P(i) = p_i / sum_k p_k          p_i = (|error| + 1e-6)^alpha        Schaul et al. 2016
    w_i = (N P(i))^-beta / max_j (N P(j))^-beta, the maximum taken over the batch
    """
    shares = None if priorities is None else np.array(priorities) / np.sum(priorities)
    slot = rng.choice(len(memory), batch_size, p=shares)
    rows = list(memory)  # many rows: a deque would walk from an end to each of them
    batch = unpack([rows[i] for i in slot.tolist()])
    if shares is not None:
        weight = (len(memory) * shares[slot]) ** -beta
        batch = batch._replace(weight=(weight / weight.max()).astype(np.float32))
    return batch._replace(slot=slot)


def observation_scale(memory: Sequence[bytes]) -> np.ndarray:
    """What observations are divided by: 1.5 standard deviations of those in the memory; [O]."""
    spread = np.std(unpack(memory).obs, axis=0)
    return np.where(spread > 0, 1.5 * spread, 1).astype(np.float32)


# %% Learning: move Q(s, a) towards what the next step says it should have been
class Learner(NamedTuple):
    """All that learning changes."""

    params: Params  # the online network
    target: Params  # its slowly following copy
    opt_state: optax.OptState
    step: Array  # updates so far
    td_error: Array  # [B], of the last batch


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) or a relative: AdamW (Loshchilov & Hutter 2019), AMSGrad."""
    rate: Any = config.learning_rate
    if config.decay_learning_rate:
        n_updates = config.total_steps * config.updates // config.train_every
        rate = optax.linear_schedule(rate, 0.0, n_updates)
    off = optax.identity()
    weights = partial(tree.map, lambda x: x.ndim > 1)  # decay; biases and the scale do not
    return optax.chain(
        optax.clip(config.clip_value) if config.clip_value else off,
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else off,
        optax.flatten(optax.scale_by_amsgrad() if config.amsgrad else optax.scale_by_adam()),
        optax.add_decayed_weights(config.weight_decay, weights) if config.weight_decay else off,
        optax.scale_by_learning_rate(rate),
    )


@partial(jit, static_argnames=("sizes", "config"))
def init_learner(rng: Array, *, sizes: tuple[int, ...], config: Config) -> Learner:
    """A learner that has learned nothing; online and target network are equal."""
    params = init_params(rng, sizes, config=config)
    opt_state = make_optimizer(config).init(params)
    errors = jnp.zeros(config.batch_size, jnp.float32)
    return Learner(params, params, opt_state, jnp.int32(0), errors)


def td_error(params: Params, target: Params, t: Transition, *, config: Config = Config()) -> Array:
    """Temporal-difference error y - Q(s, a) of one transition; a scalar.

    y = r + discount * Q(s', argmax_a' Q(s', a'; params); target)

    Double DQN (van Hasselt et al. 2016): the online network chooses the next action and the target
    network judges it. Without it the target network does both, which is Mnih et al. 2015:
    y = r + discount * max_a' Q(s', a'; target). No gradient flows into y.
    """
    chex.assert_equal_shape([t.obs, t.next_obs])
    chex.assert_shape([t.action, t.reward, t.discount], ())
    next_action = jnp.argmax(q_values(params if config.double else target, t.next_obs))
    y = t.reward + t.discount * q_values(target, t.next_obs)[next_action]
    error: Array = lax.stop_gradient(y) - q_values(params, t.obs)[t.action]
    return error


def loss_fn(
    params: Params, target: Params, batch: Transition, *, config: Config = Config()
) -> tuple[Array, Array]:
    """Mean loss of a batch's temporal-difference errors, a scalar, and these errors [B]."""
    errors = vmap(partial(td_error, config=config), (None, None, 0))(params, target, batch)
    losses = {"huber": optax.huber_loss, "squared": optax.squared_error}[config.loss](errors)
    return jnp.mean(batch.weight * losses), errors


@partial(jit, static_argnames="config")
def update_fn(learner: Learner, batch: Transition, *, config: Config = Config()) -> Learner:
    """One gradient step on one batch, and one step of the target network towards the online one.

    target <- (1 - tau) target + tau params after every target_period updates: softly with a small
    tau and period 1, hard with tau 1 and a long period.
    """
    params, target, opt_state, step, _ = learner
    grads, errors = grad(partial(loss_fn, config=config), has_aux=True)(params, target, batch)
    updates, opt_state = make_optimizer(config).update(grads, opt_state, params)
    params, step = optax.apply_updates(params, updates), step + 1
    followed = optax.incremental_update(params, target, config.tau)
    if config.target_period > 1:
        followed = optax.periodic_update(followed, target, step, config.target_period)
    return Learner(params, followed, opt_state, step, errors)


@partial(jit, static_argnames="config")
def update_round(learner: Learner, batches: Transition, *, config: Config) -> tuple[Learner, Array]:
    """update_fn on U batches in turn, fields [U, B, ...]; and all TD errors [U, B]."""

    def update(learner: Learner, batch: Transition) -> tuple[Learner, Array]:
        learner = update_fn(learner, batch, config=config)
        return learner, learner.td_error

    return lax.scan(update, learner, batches)


# %% Environment: from here on things happen
def stream(seed: int, name: str, step: int = 0) -> int:
    """A seed of its own for each consumer of random numbers, all from the seed of the run.

    Training uses init, agent, game and memory, and at each evaluation's step evaluation and
    confirmation; the agent that comes out is scored with report and recorded with gif.
    """
    return int(np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1)[0])


new_key = partial(random.key, impl="rbg")  # the kind of key that is quickest to compile and to use


def make_game(config: Config, **options: Any) -> gym.Env:
    """The game, with observations as one vector, discrete actions, and episodes that end."""
    env = gym.make(config.env_id, **options)
    if isinstance(env.action_space, gym.spaces.Box):
        # DiscretizeAction takes the centres of its bins: wider bins, so that the outermost centres
        # are the strongest actions there are.
        low, high, dtype = env.action_space.low, env.action_space.high, env.action_space.dtype
        margin = (high - low) / (2 * (config.action_bins - 1))
        wider = gym.spaces.Box(low - margin, high + margin, dtype=dtype)
        env = gym.wrappers.TransformAction(env, lambda a: np.clip(a, low, high), wider)
        env = gym.wrappers.DiscretizeAction(env, config.action_bins, multidiscrete=False)
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) > 1:
        env = gym.wrappers.FlattenObservation(env)
    endless = env.spec is None or env.spec.max_episode_steps is None
    return gym.wrappers.TimeLimit(env, 1_000) if endless else env


def make_games(config: Config, n: int) -> gym.vector.VectorEnv:
    """n games that are played side by side."""
    if config.env_id == "CartPole-v1":  # all of them as one NumPy program
        return gym.make_vec(config.env_id, n)
    return gym.vector.SyncVectorEnv([partial(make_game, config)] * n)


def game_sizes(config: Config) -> tuple[int, int]:
    """How many numbers an observation of the game has, and how many actions there are.

    Raises BadInput if there is no such game, or if it is none for a Deep Q-Network.
    """
    try:
        env = make_game(config)
        if not isinstance(env.action_space, gym.spaces.Discrete) or env.action_space.start:
            raise ValueError(f"its actions are {env.action_space}")
        return gym.spaces.flatdim(env.observation_space), int(env.action_space.n)
    except Exception as error:
        raise BadInput(
            "--env-id must be a game of Gymnasium with vectors to see and actions to choose from, "
            f"not {config.env_id!r}: {one_line(error)}"
        ) from None


def one_line(error: Exception) -> str:
    """What an error says, as one line of plain letters."""
    return f"{ascii(str(error))[1:-1]:.200}"


def new_learner(config: Config) -> Learner:
    """The learner that a run of this config starts with."""
    n_obs, n_actions = game_sizes(config)
    rng = new_key(stream(config.seed, "init"))
    sizes = (n_obs, *config.hidden, n_actions)
    learner: Learner = init_learner(rng, sizes=sizes, config=config)
    return learner


to_device = jit(lambda params: params)  # parameters from a file; once, not at each step


def evaluate(
    seed: int, params: Params | None, episodes: int = 100, *, config: Config
) -> np.ndarray:
    """Returns of greedy episodes, played side by side; float64 [episodes].

    Depends on nothing but its arguments. Without parameters it is a random agent that plays.
    """
    params = to_device(params)
    envs = make_games(config, episodes)
    obs, _ = envs.reset(seed=seed)
    envs.action_space.seed(seed)
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    while running.any():  # each game's first episode counts; what it plays after that does not
        actions = envs.action_space.sample() if params is None else policy_fn(None, params, obs)
        obs, rewards, terminated, truncated, _ = envs.step(np.asarray(actions))
        returns += np.where(running, rewards, 0)
        running &= ~(terminated | truncated)
    envs.close()
    return returns


def goal(config: Config) -> float:
    """The mean return that counts as solved; infinite if nobody has said."""
    threshold = gym.spec(config.env_id).reward_threshold
    return next((g for g in (config.target_return, threshold) if g is not None), math.inf)


class History(NamedTuple):
    """What happened during training."""

    episodes: list[tuple[int, float]]  # environment step at the end, return
    evaluations: list[tuple[int, float]]  # environment step, mean greedy return
    last: Params  # parameters at the end, which need not be the best


def progress_bar(total_steps: int) -> tqdm:
    """A bar for a terminal; in a log file it shows its start and its end alone."""
    return tqdm(
        total=total_steps,
        desc="training",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        mininterval=0.1 if sys.stderr.isatty() else 3600,
    )


def train(config: Config, bar: tqdm | None = None) -> tuple[Params, History]:
    """Trains an agent; returns its best-evaluated parameters and what happened.

    Stops early once a greedy evaluation is perfect and is confirmed, on fresh episodes. The agent
    that plays there, and is returned, is the target network. Writes nothing but its progress bar.

    Raises FloatingPointError if the parameters do not stay finite.
    """
    seed, env, bar = config.seed, make_game(config), bar or progress_bar(config.total_steps)
    agent_rng = new_key(stream(seed, "agent"))
    memory_rng = np.random.default_rng(stream(seed, "memory"))
    memory: deque[bytes] = deque(maxlen=config.memory_size)
    priorities: deque[float] = deque(maxlen=config.memory_size)
    window: deque[Any] = deque()  # the last n steps
    epsilons, learner = epsilon_schedule(config), new_learner(config)
    best, best_score, max_priority = learner.params, -math.inf, 1.0
    episodes, evaluations = [], []

    def mean_return(purpose: str, episodes: int) -> float:
        """Of the target network: a running average of the online one, hence steadier."""
        eval_seed = stream(seed, purpose, step)
        return float(evaluate(eval_seed, learner.target, episodes, config=config).mean())

    obs, _ = env.reset(seed=stream(seed, "game"))
    episode_return = 0.0
    for step in range(1, config.total_steps + 1):
        # Act.
        epsilon = float(epsilons[step])
        action = int(act(agent_rng, step, learner.params, obs, epsilon))
        next_obs, reward, terminated, truncated, _ = env.step(action)
        episode_over = terminated or truncated
        episode_return += float(reward)
        bar.update()

        # Remember. Only what has terminated has no future; a time limit just ends the episode.
        window.append((obs, action, reward_to_learn(float(reward), config)))
        while window and (len(window) == config.n_step or episode_over):
            memory.append(pack(n_step_transition(window, next_obs, terminated, config.gamma)))
            priorities.append(max_priority)
            window.popleft()
        obs = next_obs
        if episode_over:
            episodes.append((step, episode_return))
            obs, _ = env.reset()
            episode_return = 0.0

        # Learn.
        if step == config.warmup_steps and config.normalize:
            params = learner.params | {"scale": observation_scale(memory)}
            learner = learner._replace(params=params, target=params)
        if step >= config.warmup_steps and step % config.train_every == 0:
            batch = sample_batch(  # [U B, ...]
                memory_rng,
                memory,
                config.updates * config.batch_size,
                priorities if config.prioritized else None,
                np.interp(step, (0, config.total_steps), (config.importance_exponent, 1)),
            )
            batches = tree.map(lambda x: x.reshape(config.updates, -1, *x.shape[1:]), batch)
            learner, errors = update_round(learner, batches, config=config)  # [U, B]
            if config.prioritized:
                renewed = np.array(priorities)
                renewed[batch.slot] = (np.abs(errors).ravel() + 1e-6) ** config.priority_exponent
                priorities = deque(renewed, maxlen=config.memory_size)
                max_priority = renewed.max()
            if not all(np.isfinite(leaf).all() for leaf in tree.leaves(learner.params)):
                raise FloatingPointError(
                    f"parameters are no longer finite after {step} steps: "
                    "try a smaller --learning-rate"
                )

        # Evaluate.
        if step % config.eval_every and step < config.total_steps:
            continue
        score = mean_return("evaluation", config.eval_episodes)
        evaluations.append((step, score))
        if score > best_score:
            best, best_score = learner.target, score
        recent = np.mean([r for _, r in episodes[-100:]] or [math.nan])
        bar.set_postfix_str(
            f"epsilon {epsilon:.2f}, return {recent:.0f}, greedy {score:.0f}", refresh=False
        )
        perfect = config.early_stop and score >= goal(config)
        if perfect and mean_return("confirmation", config.confirm_episodes) >= goal(config):
            best = learner.target
            break
    bar.total -= config.total_steps - step  # what was not needed
    bar.refresh()
    env.close()
    return best, History(episodes, evaluations, learner.target)


# %% Files: each is made in memory, then put in place in one step
MAX_BYTES, MAX_OPCODES = 2**24, 10_000  # of a parameter file


def write(path: Path, data: bytes) -> None:
    """Replaces a file as a whole: at any moment the old or the new one is there, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_params(
    path: Path | str, params: Params, *, config: Config, score: float | None = None
) -> None:
    """Writes parameters and what is needed to play them, as builtins and NumPy arrays alone.

    `score` is the mean return of the evaluation that chose them.
    """
    arrays = tree.map(np.asarray, params)
    [layers] = arrays["hidden"].values()
    content = {
        "env_id": config.env_id,
        "sizes": [len(arrays["scale"]), *(len(x["b"]) for x in (*layers, arrays["output"]))],
        "params": arrays,
        "sha256": digest(arrays),
        "config": {f.name: getattr(config, f.name) for f in fields(config) if f.compare},
        "seed": config.seed,
        "score": score,
        "versions": {name: version(name) for name in ("jax", "optax", "gymnasium", "numpy")},
    }
    write(Path(path), pickle.dumps(content, protocol=4))


def digest(params: Params) -> str:
    """A checksum: one changed bit in a parameter gives another one."""
    leaves = (np.asarray(leaf).tobytes() for leaf in tree.leaves(params))
    return hashlib.sha256(b"".join(leaves)).hexdigest()


class Pickled:
    """What a parameter file may build: it keeps what it is given, and runs nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class ParamsUnpickler(pickle.Unpickler):
    """Knows the three names that a pickled NumPy array consists of, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")  # as NumPy 1 calls it
        if (module, name) not in {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            raise ValueError(f"it would run {module}.{name}")
        return Pickled


def to_array(pickled: Pickled, *shape: int) -> np.ndarray:
    """The float32 array of this shape that a Pickled stands for; ValueError if it is another."""
    _, its_shape, dtype, fortran, data = pickled.state
    if its_shape != shape or dtype.args[0] != "f4" or dtype.state[1] != "<":
        raise ValueError(f"an array is not float32 of shape {shape}")
    array = np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")
    if not np.isfinite(array).all():
        raise ValueError("an array is not finite")
    return array


def to_params(content: Any) -> Params:
    """The parameters in the content of a parameter file; ValueError, or another, if it is wrong."""
    stored, sizes = content["params"], content["sizes"]
    [(activation, layers)] = stored["hidden"].items()
    if activation not in ACTIVATIONS or len(layers) != len(sizes) - 2:
        raise ValueError(f"its layers {sizes} are not there")

    def to_dense(layer: Any, n: int, m: int) -> Params:
        return {"w": to_array(layer["w"], n, m), "b": to_array(layer["b"], m)}

    params: Params = {
        "scale": to_array(stored["scale"], sizes[0]),
        "hidden": {activation: list(map(to_dense, layers, sizes, sizes[1:]))},
        "output": to_dense(stored["output"], *sizes[-2:]),
    }
    if "value" in stored:
        params["value"] = to_dense(stored["value"], sizes[-2], 1)
    if not (params["scale"] > 0).all():
        raise ValueError("its scale is not positive")
    if digest(params) != content["sha256"]:
        raise ValueError("its checksum is wrong")
    return params


def load_params(path: Path | str, config: Config | None = None) -> Params:
    """The parameters that save_params wrote, for `policy_fn`.

    Safe with a file from a stranger: no code of the file's choice runs, not even NumPy's, and
    memory is bounded. Raises BadInput, a ValueError, if anything is wrong with the file, or if
    it is not for the game of `config`, if that is given.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        for n, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # runs nothing
            if n > MAX_OPCODES or ("PUT" in opcode.name and (argument or 0) > MAX_OPCODES):
                raise ValueError("it asks for too much time or memory")
        content = ParamsUnpickler(io.BytesIO(data)).load()
        params = to_params(content)
        env_id, sizes = content["env_id"], content["sizes"]
        game = config or Config(env_id=env_id, action_bins=content["config"]["action_bins"])
        if env_id != game.env_id or env_id not in gym.registry:
            raise ValueError(f"it is for the game {env_id}, which is another --env-id")
        if (sizes[0], sizes[-1]) != game_sizes(game):
            raise ValueError(f"its layers {sizes} do not fit the game {env_id}")
        return params
    except Exception as error:
        raise BadInput(f"{path} cannot be used: {one_line(error)}") from None


def can_draw(config: Config) -> bool:
    return "rgb_array" in make_game(config).metadata.get("render_modes", ())


GIF_SECONDS = 10
LEVELS = (0, 51, 102, 153, 204, 255)  # of red, green and blue: 216 colours are enough for a game


def record(seed: int, params: Params, epsilon: float, *, config: Config) -> bytes:
    """A GIF of ten seconds of play at real-time speed, with this share of random actions.

    All frames share one small palette, which is far quicker than finding one for each.
    """
    env = make_game(config, render_mode="rgb_array")
    rng, params = new_key(seed), to_device(params)
    fps = env.metadata["render_fps"]
    stride = max(1, round(fps / 12.5))  # so many frames a second look smooth enough
    obs, _ = env.reset(seed=seed)
    frames, seen = [], np.zeros(len(LEVELS) ** 3, bool)
    for step in range(GIF_SECONDS * fps):
        if step % stride == 0:  # every second pixel, as the number of its colour
            r, g, b = np.moveaxis(np.asarray(env.render())[1::2, 1::2], -1, 0)
            frames.append(36 * (r // 43) + 6 * (g // 43) + b // 43)
            seen |= np.bincount(frames[-1].ravel(), minlength=seen.size) > 0
        action = int(act(rng, step, params, obs, epsilon))
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
    env.close()
    place = (np.cumsum(seen) - 1).astype(np.uint8)  # in a palette of the colours that were seen
    palette = itertools.compress(itertools.product(LEVELS, repeat=3), seen)
    times = np.minimum(np.arange(len(frames) + 1) * stride / fps, GIF_SECONDS)
    return iio.imwrite(
        "<bytes>",
        [place[frame] for frame in frames],
        extension=".gif",
        plugin="pillow",
        palette=bytes(itertools.chain.from_iterable(palette)),
        duration=(10 * np.diff(np.rint(100 * times))).astype(int).tolist(),  # a GIF counts in 10 ms
        loop=0,
    )


def learning_curve(history: History, *, config: Config) -> bytes:
    """A PNG of the returns during training against environment steps."""
    figure = Figure(figsize=(8, 4), dpi=100)
    axes = figure.add_axes((0.11, 0.13, 0.62, 0.78))  # left, bottom, width and height
    steps, returns = np.reshape(history.episodes, (-1, 2)).T
    mean = [np.mean(returns[max(0, n - 100) : n]) for n in range(1, len(returns) + 1)]
    axes.plot(steps, returns, ".", color="0.7", label="training episode")
    axes.plot(steps, mean, color="C0", label="mean of 100 episodes")
    evaluations = np.reshape(history.evaluations, (-1, 2)).T
    axes.plot(*evaluations, "o-", markersize=4, color="C1", label="greedy evaluation")
    threshold = gym.spec(config.env_id).reward_threshold
    if threshold is not None:
        axes.axhline(threshold, color="0.4", ls="--", lw=1, label=f"solved ({threshold:g})")
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=config.env_id)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return to_png(figure)


def to_png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def hand_in(folder: Path) -> bytes:
    """The zip to hand in; its bytes depend on nothing but its files' bytes."""
    here = Path(__file__).parent
    files = [here / "main.py", here / "README.md", here / "requirements.txt"]
    files += [folder / name for name in ("params.pkl", "agent.gif", "random.gif")]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in filter(Path.exists, files):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


# %% Command line, its second half: a run from its options to its last word
def table(scores: dict[str, np.ndarray]) -> str:
    """One line for each agent: mean, standard deviation, minimum and number of its returns."""
    lines = ["agent         mean     std     min  episodes"]
    for agent, r in scores.items():
        lines.append(f"{agent:10}{r.mean():8.1f}{r.std():8.1f}{r.min():8.1f}{r.size:10}")
    return "\n".join(lines)


def run(config: Config) -> str:
    """One run: trains an agent, scores it and writes all files; returns what there is to say."""
    out = Path(config.out)
    report, gif = (stream(config.seed, name) for name in ("report", "gif"))
    scores = {
        "random": evaluate(report, None, config=config),
        "untrained": evaluate(report, new_learner(config).params, config=config),
    }
    params, history = train(config)
    score = max(mean for _, mean in history.evaluations)
    save_params(out / "params.pkl", params, config=config, score=score)
    params = load_params(out / "params.pkl", config)
    scores["trained"] = evaluate(report, params, config=config)
    if not config.early_stop:
        scores["last"] = evaluate(report, history.last, config=config)
    if can_draw(config):
        write(out / "agent.gif", record(gif, params, 0.0, config=config))
        write(out / "random.gif", record(gif, params, 1.0, config=config))
    write(out / "learning_curve.png", learning_curve(history, config=config))
    write(out / "hand-in.zip", hand_in(out))
    written = ", ".join(name for name in FILES if (out / name).exists())
    lines = [table(scores), f"wrote {written}", f"to {out.absolute()}"]
    reached, steps = scores["trained"].mean(), history.evaluations[-1][0]
    if reached < goal(config):
        lines += [
            f"not solved: {reached:.1f} after {steps} steps, the goal is {goal(config):g};",
            "try more --total-steps, or another --seed",
        ]
    return "\n".join(lines)


def run_evaluation(config: Config) -> str:
    """Scores the parameters in a file and records a GIF of them."""
    params = load_params(config.evaluate, config)
    scores = evaluate(stream(config.seed, "report"), params, config=config)
    if can_draw(config):
        gif = record(stream(config.seed, "gif"), params, 0.0, config=config)
        write(Path(config.out) / "agent.gif", gif)
    return table({"trained": scores})


def run_study(config: Config) -> str:
    """Trains one agent for each seed, in turn; writes study.csv and study.png."""
    seeds = range(config.seed, config.seed + config.seeds)
    rows: list[list[Any]] = [["seed", "steps", "episodes", "seconds", "mean", "min", "success"]]
    steps, training, tests = [], [], []
    with progress_bar(config.total_steps * config.seeds) as bar:
        for seed in seeds:
            bar.set_description_str(f"seed {seed}")
            one, start = replace(config, seed=seed, seeds=1), time.perf_counter()
            params, history = train(one, bar)
            seconds = time.perf_counter() - start
            test = evaluate(stream(seed, "report"), params, config=one)
            steps.append(history.evaluations[-1][0])
            training.append([r for _, r in history.episodes])
            tests.append(test)
            numbers = (f"{x:.1f}" for x in (seconds, test.mean(), test.min()))
            success = f"{np.mean(test >= goal(config)):.2f}"
            rows.append([seed, steps[-1], len(training[-1]), *numbers, success])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write(Path(config.out) / "study.csv", text.getvalue().encode())
    write(Path(config.out) / "study.png", study_figure(seeds, training, tests, config=config))
    solved = sum(test.mean() >= goal(config) for test in tests)
    return "\n".join(
        [
            *("".join(f"{cell:>10}" for cell in row) for row in rows),
            f"{solved} of {len(seeds)} seeds reach {goal(config):g}; steps: median "
            f"{np.median(steps):.0f}, most {max(steps)}; mean return {np.mean(tests):.1f}",
            f"wrote {', '.join(STUDY_FILES)} to {Path(config.out).absolute()}",
        ]
    )


def study_figure(
    seeds: range, training: list[list[float]], tests: list[np.ndarray], *, config: Config
) -> bytes:
    """A PNG: success rate and mean return per seed, a box plot per seed, and all returns."""
    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    (rate, mean), (boxes, shares) = figure.subplots(2, 2)
    rate.bar(seeds, [np.mean(test >= goal(config)) for test in tests], color="C1")
    rate.set(ylabel="success rate of trained agent", ylim=(0, 1.05))
    mean.plot(seeds, [test.mean() for test in tests], "o", color="C1", label="mean")
    mean.plot(seeds, [test.min() for test in tests], "_", color="0.4", label="minimum")
    mean.set(ylabel="return of trained agent")
    mean.legend(frameon=False)
    boxes.boxplot(training, positions=seeds, medianprops={"color": "C0"}, flierprops={"ms": 3})
    boxes.set(ylabel="return of training episodes")
    for axes in (rate, mean, boxes):
        axes.set(xlabel="seed", xticks=seeds[:: len(seeds) // 20 + 1])
        axes.set_xticklabels(axes.get_xticks())
    before, after = np.concatenate(training), np.concatenate(tests)
    bins = np.histogram_bin_edges(np.concatenate((before, after)), 25)
    for returns, label, color in ((before, "training", "C0"), (after, "trained agent", "C1")):
        weights = np.full(len(returns), 1 / len(returns))
        shares.hist(returns, bins, weights=weights, label=label, color=color, alpha=0.7)
    shares.set(xlabel="return, all seeds", ylabel="share of episodes")
    shares.legend(frameon=False)
    figure.suptitle(f"{config.env_id}, {len(seeds)} seeds")
    return to_png(figure)


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 2 bad input, 1 any other failure."""
    try:
        config = parse_config(argv)
        game_sizes(config)  # refuses a game that cannot be played
        sweep(config.out)
        job = run_evaluation if config.evaluate else run_study if config.seeds > 1 else run
        message, status = job(config), 0
    except BadInput as error:
        message, status = f"main.py: {error}", 2
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        message = f"main.py: {type(error).__name__}: {error} (python -X dev main.py shows where)"
        status = 1
    try:
        print(message, file=sys.stderr if status else sys.stdout, flush=True)
    except BrokenPipeError:  # whoever read our output has gone; all files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


if __name__ == "__main__" and not hasattr(sys, "ps1"):
    gc.freeze()  # what is imported stays, and need not be looked at again
    gc.enable()
    status = main()
    sys.stderr.flush()
    os._exit(status)  # all files are written: taking JAX apart would only cost time
