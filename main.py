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
its memory: the Deep Q-Network of Mnih et al. 2015, with the target of Double DQN.

    python main.py                          train, then write params.pkl, two GIFs and a figure
    python main.py --evaluate params.pkl    score trained parameters, without training
    python main.py --help                   every option with its meaning, default and range

All that stands above the Environment cell is pure: it returns values and touches nothing else.
Shapes: B transitions in a batch, O numbers in an observation, A actions.
"""

# %% Configuration: standard library only, so that a typo is answered before the slow imports
import argparse
import hashlib
import io
import itertools
import logging
import os
import pickle
import pickletools
import signal
import sys
import tempfile
import zipfile
from collections import deque
from dataclasses import dataclass, field, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn


def option(default: Any, help: str, allowed: str = "", compare: bool = True) -> Any:
    """A field of Config: default, meaning, and the interval of allowed numbers, like "[0, 1)"."""
    return field(default=default, metadata={"help": help, "allowed": allowed}, compare=compare)


@dataclass(frozen=True)
class Config:
    """Every choice of a run; each field is an option of the command line: --memory-size, ...

    Frozen, hence hashable: it is a static argument of the compiled functions, which compile once
    per Config. compare=False leaves a field out of that: two seeds share one compilation.

    Raises ValueError with one sentence if a value is not allowed.
    """

    env_id: str = option("CartPole-v1", "Gymnasium game to play")
    seed: int = option(0, "decides every random number of the run", "[0, 4294967295]", False)
    out: str = option(".", "folder that receives the files", compare=False)
    evaluate: str = option("", "score this parameter file instead of training", compare=False)

    total_steps: int = option(51_200, "environment steps at most", "[1, 1e9]")
    warmup_steps: int = option(512, "random steps before learning starts", "[1, 1e9]")
    train_every: int = option(64, "environment steps between two rounds of updates", "[1, 1e6]")
    updates: int = option(128, "updates in a round", "[1, 1e6]")
    memory_size: int = option(50_000, "transitions that the memory holds", "[1, 1e7]")
    batch_size: int = option(64, "transitions in the batch of one update", "[1, 1e5]")

    hidden: tuple[int, ...] = option((128, 128), "sizes of the hidden layers", "[1, 1024]")
    learning_rate: float = option(1e-3, "Adam's, falling to 0 over the total steps", "(0, 1]")
    gamma: float = option(0.99, "discount of a reward that comes one step later", "[0, 1)")
    tau: float = option(0.02, "share of the network that goes into its target copy", "(0, 1]")
    target_period: int = option(1, "updates between two updates of the target copy", "[1, 1e6]")

    epsilon_start: float = option(1.0, "share of random actions at first", "[0, 1]")
    epsilon_end: float = option(0.05, "share of random actions in the end", "[0, 1]")
    epsilon_decay: int = option(5_000, "environment steps from first to end", "[1, 1e9]")

    eval_every: int = option(512, "environment steps between greedy evaluations", "[1, 1e9]")
    eval_episodes: int = option(100, "episodes of an evaluation", "[1, 1e4]")
    confirmations: int = option(4, "evaluations that must repeat a perfect one", "[0, 100]")
    target_return: float = option(500, "mean return of a perfect evaluation", "[-1e9, 1e9]")

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            for number in value if isinstance(value, tuple) else (value,):
                if f.metadata["allowed"] and not lies_in(number, f.metadata["allowed"]):
                    raise ValueError(f"{flag(f)} must lie in {f.metadata['allowed']}, not {number}")
        if self.memory_size < self.batch_size:
            raise ValueError(
                f"--memory-size must be at least --batch-size ({self.batch_size}), "
                f"not {self.memory_size}"
            )


def flag(f: Any) -> str:
    return "--" + f.name.replace("_", "-")


def lies_in(number: float, interval: str) -> bool:
    """Whether a number lies in an interval like "[0, 1)"; NaN lies in none."""
    low, high = map(float, interval[1:-1].split(","))
    above = low <= number if interval[0] == "[" else low < number
    return above and (number <= high if interval[-1] == "]" else number < high)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # one line, where argparse prints the whole usage
        self.exit(2, f"main.py: {message} (--help lists the options)\n")


FILES = ("params.pkl", "agent.gif", "random.gif", "learning_curve.png", "hand-in.zip")


def check_paths(config: Config) -> None:
    """Raises ValueError if a file cannot be read, or one in the output folder cannot be written."""
    if config.evaluate and not Path(config.evaluate).is_file():
        raise ValueError(f"--evaluate must be a file, not {config.evaluate!r}")
    out = Path(config.out).absolute()
    nearest = next(path for path in (out, *out.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise ValueError(f"--out must be writable, not {config.out!r}: {error.strerror}") from None
    for name in FILES:
        if (out / name).is_dir():
            raise ValueError(f"--out must not hold a folder {name}, as {config.out!r} does")


def parse_value(f: Any, text: str) -> Any:
    """One value of field f. Raises ValueError if it is not of the type that the default has."""
    kind = type(f.default[0] if isinstance(f.default, tuple) else f.default)
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        allowed = f.metadata["allowed"]
        raise ValueError(f"{flag(f)} must be {noun} in {allowed}, not {text!r}") from None


def parse_config(argv: list[str] | None = None) -> Config:
    """The command line as a Config; exits with status 2 and one line if it is wrong."""
    parser = Parser("main.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    for f in fields(Config):
        parser.add_argument(
            flag(f),
            help=f"{f.metadata['help']} (default {f.default}; {f.metadata['allowed']})",
            nargs="+" if isinstance(f.default, tuple) else None,
            default=argparse.SUPPRESS,
        )
    given = vars(parser.parse_args(argv))
    try:
        for f in fields(Config):
            if f.name in given and isinstance(f.default, tuple):
                given[f.name] = tuple(parse_value(f, text) for text in given[f.name])
            elif f.name in given:
                given[f.name] = parse_value(f, given[f.name])
        config = Config(**given)
        check_paths(config)
        return config
    except ValueError as error:
        parser.error(str(error))


def sweep(out: str) -> None:
    """Removes what a run that was killed while it wrote has left."""
    for name in FILES:
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
    sys.stdout = sys.stdout or open(os.devnull, "w")  # None if the shell has closed it
    sys.stderr = sys.stderr or open(os.devnull, "w")
    sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold any letter
    quit_on_interrupt(".")
    quit_on_interrupt(parse_config().out)

# %% Imports
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # faster than a GPU for networks this small
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # games draw into memory, not into a window

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no word about a missing HOME

import chex  # noqa: E402
import gymnasium as gym  # noqa: E402
import imageio.v3 as iio  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax import Array, grad, jit, lax, nn, random, tree, vmap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from tqdm import tqdm  # noqa: E402

# %% Network: a multi-layer perceptron from an observation to one Q-value per action
Params = dict[str, Any]


def init_params(rng: Array, sizes: tuple[int, ...]) -> Params:
    """Parameters of an MLP with layers of these sizes, the first O and the last A.

    `scale` [O], which observations are divided by, is 1 until there are observations to measure.
    Initial values are optimistic, about 1, the best value there is (Sutton & Barto 2018, section
    2.6): the network starts by believing that nothing can fail, so what does fail stands out.
    """
    layers = [
        {
            "w": nn.initializers.lecun_normal()(key, (n, m), jnp.float32),
            "b": jnp.zeros(m, jnp.float32),
        }
        for key, n, m in zip(random.split(rng, len(sizes) - 1), sizes[:-1], sizes[1:], strict=True)
    ]
    *hidden, output = layers
    output = {"w": 0.1 * output["w"], "b": output["b"] + 1}
    return {"scale": jnp.ones(sizes[0], jnp.float32), "hidden": {"silu": hidden}, "output": output}


def dense(layer: Params, x: Array) -> Array:
    return x @ layer["w"] + layer["b"]


def q_values(params: Params, obs: Array) -> Array:
    """Q(s, a) for each action a: [..., O] -> [..., A]."""
    x = obs / lax.stop_gradient(params["scale"])
    for layer in params["hidden"]["silu"]:
        x = nn.silu(dense(layer, x))
    return dense(params["output"], x)


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
    coin_rng, action_rng = random.split(rng)
    return jnp.where(
        random.uniform(coin_rng, obs.shape[:-1]) < epsilon,
        random_policy_fn(action_rng, obs, params["output"]["b"].size),
        policy_fn(None, params, obs),
    )


@jit
def act(rng: Array, step: int, params: Params, obs: Array, epsilon: float) -> Array:
    """action_fn with a key of its own for each step."""
    return action_fn(random.fold_in(rng, step), params, obs, epsilon)


# %% Replay: what happened is kept, and learned from in random order
class Transition(NamedTuple):
    """One step of the game, or with a leading B a batch of them.

    `discount` is what the next observation's value counts for: gamma, or 0 if the game terminated.
    A game cut short by its time limit goes on in the agent's eyes: its discount stays gamma.
    """

    obs: Array  # [O]
    action: Array  # []
    reward: Array  # []
    discount: Array  # []
    next_obs: Array  # [O]


def pack(t: Transition) -> np.ndarray:
    """A transition as one row of the memory, float32 [2 O + 3], quick to store and to copy."""
    return np.concatenate((t.obs, t[1:4], t.next_obs), dtype=np.float32)


def unpack(rows: np.ndarray) -> Transition:
    """The transitions in these rows: [..., 2 O + 3] -> Transition of [..., O] and [...]."""
    o = (rows.shape[-1] - 3) // 2
    action, reward, discount = np.moveaxis(rows[..., o : o + 3], -1, 0)
    return Transition(rows[..., :o], action.astype(np.int32), reward, discount, rows[..., o + 3 :])


def sample_batch(rng: np.random.Generator, memory: deque, batch_size: int) -> Transition:
    """batch_size transitions, each drawn uniformly from the memory, with replacement."""
    indices = rng.integers(len(memory), size=batch_size).tolist()
    rows = list(memory)  # a deque takes longer to find its middle than to be copied
    return unpack(np.stack([rows[i] for i in indices]))


# %% Learning: move Q(s, a) towards what the next step says it should have been
class Learner(NamedTuple):
    """All that learning changes."""

    params: Params  # the online network
    target: Params  # its slowly following copy
    opt_state: optax.OptState
    step: Array  # updates so far


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), its learning rate falling linearly to 0 over the total steps."""
    n_updates = config.total_steps * config.updates // config.train_every
    return optax.adam(optax.linear_schedule(config.learning_rate, 0.0, n_updates))


@partial(jit, static_argnames=("sizes", "config"))
def init_learner(rng: Array, *, sizes: tuple[int, ...], config: Config) -> Learner:
    """A learner that has learned nothing; online and target network are equal."""
    params = init_params(rng, sizes)
    return Learner(params, params, make_optimizer(config).init(params), jnp.int32(0))


def td_error(params: Params, target: Params, t: Transition) -> Array:
    """Temporal-difference error y - Q(s, a) of one transition; a scalar.

    y = r + discount * Q(s', argmax_a' Q(s', a'; params); target)

    Double DQN (van Hasselt et al. 2016): the online network chooses the next action and the target
    network judges it. No gradient flows into y.
    """
    chex.assert_equal_shape([t.obs, t.next_obs])
    chex.assert_shape([t.action, t.reward, t.discount], ())
    next_action = jnp.argmax(q_values(params, t.next_obs))
    y = t.reward + t.discount * q_values(target, t.next_obs)[next_action]
    return lax.stop_gradient(y) - q_values(params, t.obs)[t.action]


def loss_fn(params: Params, target: Params, batch: Transition) -> Array:
    """Mean Huber loss of the batch's temporal-difference errors; a scalar."""
    errors = vmap(td_error, in_axes=(None, None, 0))(params, target, batch)
    return optax.huber_loss(errors).mean()


@partial(jit, static_argnames="config")
def update_fn(learner: Learner, batch: Transition, *, config: Config = Config()) -> Learner:
    """One gradient step on one batch, and one step of the target network towards the online one."""
    params, target, opt_state, step = learner
    grads = grad(loss_fn)(params, target, batch)
    updates, opt_state = make_optimizer(config).update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    mixed = optax.incremental_update(params, target, config.tau)
    target = optax.periodic_update(mixed, target, step + 1, config.target_period)
    return Learner(params, target, opt_state, step + 1)


@partial(jit, static_argnames="config")
def update_round(learner: Learner, batches: Transition, *, config: Config) -> Learner:
    """update_fn on one batch after the other; the fields of `batches` are [U, B, ...]."""
    return lax.scan(lambda s, b: (update_fn(s, b, config=config), None), learner, batches)[0]


# %% Environment
def stream(seed: int, name: str, step: int = 0) -> int:
    """A seed of its own for each consumer of random numbers, all from the seed of the run."""
    return int(np.random.SeedSequence([seed, step, *name.encode()]).generate_state(1)[0])


def game_sizes(env_id: str) -> tuple[int, int]:
    """How many numbers an observation of the game has, and how many actions there are."""
    env = gym.make(env_id)
    return env.observation_space.shape[0], int(env.action_space.n)


def new_learner(config: Config) -> Learner:
    """The learner that a run of this config starts with."""
    n_obs, n_actions = game_sizes(config.env_id)
    rng = random.key(stream(config.seed, "init"), impl="rbg")
    return init_learner(rng, sizes=(n_obs, *config.hidden, n_actions), config=config)


def evaluate(seed: int, params: Params | None, *, config: Config) -> np.ndarray:
    """Returns of config.eval_episodes greedy episodes, played side by side; float64 [episodes].

    Depends on nothing but its arguments. Without parameters it is a random agent that plays.
    """
    envs = gym.make_vec(config.env_id, config.eval_episodes)
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


def epsilon_schedule(config: Config) -> np.ndarray:
    """Share of random actions at each environment step: 1 while warming up, then falling."""
    schedule = optax.linear_schedule(config.epsilon_start, config.epsilon_end, config.epsilon_decay)
    epsilons = np.array(jit(schedule)(np.arange(config.total_steps + 1)))
    epsilons[: config.warmup_steps + 1] = 1
    return epsilons


class History(NamedTuple):
    """What happened during training."""

    episodes: list[tuple[int, float]]  # environment step at the end, return
    evaluations: list[tuple[int, float]]  # environment step, mean greedy return


def progress_bar(total_steps: int) -> tqdm:
    """A bar for a terminal; in a log file it shows its start and its end alone."""
    return tqdm(
        total=total_steps,
        desc="training",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        mininterval=0.1 if sys.stderr.isatty() else 3600,
    )


def train(config: Config) -> tuple[Params, History]:
    """Trains an agent; returns its best-evaluated parameters and what happened.

    Stops early once a greedy evaluation is perfect and `confirmations` more, each on fresh
    episodes, are perfect too. Writes nothing but its progress bar.
    """
    env = gym.make(config.env_id)
    seed = config.seed
    memory: deque[np.ndarray] = deque(maxlen=config.memory_size)
    memory_rng = np.random.default_rng(stream(seed, "memory"))
    agent_rng = random.key(stream(seed, "agent"), impl="rbg")  # "rbg" is quick to compile and run
    epsilons = epsilon_schedule(config)
    learner = new_learner(config)
    history, best, best_score = History([], []), learner.params, -np.inf

    obs, _ = env.reset(seed=stream(seed, "game"))
    episode_return = 0.0
    bar = progress_bar(config.total_steps)
    for step in range(1, config.total_steps + 1):
        # Act.
        action = int(act(agent_rng, step, learner.params, obs, epsilons[step]))
        next_obs, reward, terminated, truncated, _ = env.step(action)

        # Remember.
        discount = 0.0 if terminated else config.gamma
        t = Transition(obs, action, (1 - config.gamma) * reward, discount, next_obs)
        memory.append(pack(t))
        obs, episode_return = next_obs, episode_return + float(reward)
        if terminated or truncated:
            history.episodes.append((step, episode_return))
            obs, _ = env.reset()
            episode_return = 0.0

        bar.update()

        # Learn.
        if step == config.warmup_steps:
            scale = 2 * np.std(unpack(np.stack(memory)).obs, axis=0)
            params = learner.params | {"scale": scale}
            learner = learner._replace(params=params, target=params)
        if step >= config.warmup_steps and step % config.train_every == 0:
            batch = sample_batch(memory_rng, memory, config.updates * config.batch_size)
            batches = tree.map(lambda x: x.reshape(config.updates, -1, *x.shape[1:]), batch)
            learner = update_round(learner, batches, config=config)
            if not all(np.isfinite(leaf).all() for leaf in tree.leaves(learner.params)):
                raise FloatingPointError(
                    f"parameters are no longer finite after {step} steps: "
                    "try a smaller --learning-rate"
                )

        # Evaluate.
        if step % config.eval_every == 0 or step == config.total_steps:
            score = float(
                evaluate(stream(seed, "eval", step), learner.params, config=config).mean()
            )
            history.evaluations.append((step, score))
            if score > best_score:
                best, best_score = learner.params, score
            recent = np.mean([r for _, r in history.episodes[-100:]])
            bar.set_postfix_str(
                f"epsilon {epsilons[step]:.2f}, return {recent:.0f}, greedy {score:.0f}",
                refresh=False,
            )
            if score >= config.target_return and all(
                evaluate(stream(seed, f"confirm {i}", step), learner.params, config=config).mean()
                >= config.target_return
                for i in range(config.confirmations)
            ):
                best = learner.params
                break
    bar.total = step  # all that was needed
    bar.close()
    env.close()
    return best, history


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


def save_params(path: Path | str, params: Params, *, config: Config) -> None:
    """Writes parameters and what is needed to play them, as builtins and NumPy arrays alone."""
    arrays = tree.map(np.asarray, params)
    layers = [*arrays["hidden"]["silu"], arrays["output"]]
    content = {
        "env_id": config.env_id,
        "sizes": [len(arrays["scale"]), *(len(layer["b"]) for layer in layers)],
        "params": arrays,
        "sha256": digest(arrays),
        "config": {f.name: getattr(config, f.name) for f in fields(config) if f.compare},
        "seed": config.seed,
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


def unpickle_array(pickled: Pickled, *shape: int) -> np.ndarray:
    """The float32 array of this shape that a Pickled stands for."""
    _, its_shape, dtype, fortran, data = pickled.state
    if its_shape != shape or dtype.args[0] != "f4" or dtype.state[1] != "<":
        raise ValueError(f"an array is not float32 of shape {shape}")
    array = np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")
    if not np.isfinite(array).all():
        raise ValueError("an array is not finite")
    return array


def load_params(path: Path | str, env_id: str | None = None) -> Params:
    """The parameters that save_params wrote, for `policy_fn`.

    Safe with a file from a stranger: no code of the file's choice runs, not even NumPy's. Raises
    ValueError with one sentence if anything is wrong with the file, or if it is not for the game
    `env_id`.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
        for n, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # runs nothing
            if n > MAX_OPCODES or ("PUT" in opcode.name and argument > MAX_OPCODES):
                raise ValueError("it asks for too much time or memory")
        content = ParamsUnpickler(io.BytesIO(data)).load()
        game, sizes, p = content["env_id"], content["sizes"], content["params"]
        if game != (env_id or game) or game not in gym.registry:
            raise ValueError(f"it is for the game {game}")
        if (sizes[0], sizes[-1]) != game_sizes(game):
            raise ValueError(f"its layers {sizes} do not fit the game {game}")
        layers = [
            {"w": unpickle_array(layer["w"], n, m), "b": unpickle_array(layer["b"], m)}
            for layer, n, m in zip(
                [*p["hidden"]["silu"], p["output"]], sizes[:-1], sizes[1:], strict=True
            )
        ]
        scale = unpickle_array(p["scale"], sizes[0])
        if not (scale > 0).all():
            raise ValueError("its scale is not positive")
        params = {"scale": scale, "hidden": {"silu": layers[:-1]}, "output": layers[-1]}
        if digest(params) != content["sha256"]:
            raise ValueError("its checksum is wrong")
        return params
    except Exception as error:
        raise ValueError(f"{path} cannot be used: {ascii(str(error))[1:-1]:.200}") from None


GIF_SECONDS = 10
WEB_SAFE = bytes(51 * level for rgb in itertools.product(range(6), repeat=3) for level in rgb)


def record(seed: int, params: Params | None, *, config: Config) -> bytes:
    """A GIF of ten seconds of play at real-time speed, episode after episode; greedy, or random.

    Frames are halved to about 300 pixels and mapped to 216 fixed colours, levels of 51 for red,
    green and blue: a fraction of the time it takes to find a palette for each frame.
    """
    env = gym.make(config.env_id, render_mode="rgb_array")
    env.action_space.seed(seed)
    fps = env.metadata["render_fps"]
    stride = max(1, round(fps / 25))  # 25 frames a second look smooth
    obs, _ = env.reset(seed=seed)
    frames = []
    for step in range(GIF_SECONDS * fps):
        if step % stride == 0:
            r, g, b = np.moveaxis(env.render()[1::2, 1::2] // 43, -1, 0)
            frames.append(36 * r + 6 * g + b)
        action = env.action_space.sample() if params is None else int(policy_fn(None, params, obs))
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
    env.close()
    times = np.round(np.arange(len(frames) + 1) * stride / fps, 2)  # a GIF counts in 10 ms
    return iio.imwrite(
        "<bytes>",
        np.stack(frames),
        extension=".gif",
        plugin="pillow",
        palette=WEB_SAFE,
        duration=np.rint(1000 * np.diff(times)).astype(int).tolist(),
        loop=0,
    )


def learning_curve(history: History, *, config: Config) -> bytes:
    """A PNG of the returns during training against environment steps."""
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    steps, returns = np.reshape(history.episodes, (-1, 2)).T
    mean = [np.mean(returns[max(0, n - 100) : n]) for n in range(1, len(returns) + 1)]
    axes.plot(steps, returns, ".", color="0.7", label="episode")
    axes.plot(steps, mean, color="C0", label="mean of 100 episodes")
    axes.plot(
        *np.reshape(history.evaluations, (-1, 2)).T, "o-", color="C1", label="greedy evaluation"
    )
    axes.axhline(475, color="0.4", linestyle="--", linewidth=1, label="solved (475)")
    axes.set(xlabel="environment steps", ylabel="return per episode", title=config.env_id)
    axes.legend(frameon=False)
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


# %% Command line
def table(scores: dict[str, np.ndarray]) -> str:
    """One line for each agent: mean, standard deviation, minimum and number of its returns."""
    lines = ["agent         mean     std     min  episodes"]
    for agent, r in scores.items():
        lines.append(f"{agent:10}{r.mean():8.1f}{r.std():8.1f}{r.min():8.1f}{r.size:10}")
    return "\n".join(lines)


def run(config: Config) -> str:
    """Trains, or evaluates, and writes the files; returns what there is to say about it."""
    out, params_file = Path(config.out), config.evaluate
    report, gif = (stream(config.seed, name) for name in ("report", "gif"))
    if params_file:
        params = load_params(params_file, config.env_id)
        write(out / "agent.gif", record(gif, params, config=config))
        return table({"trained": evaluate(report, params, config=config)})

    sweep(config.out)
    scores = {
        "random": evaluate(report, None, config=config),
        "untrained": evaluate(report, new_learner(config).params, config=config),
    }
    params, history = train(config)
    save_params(out / "params.pkl", params, config=config)
    params = load_params(out / "params.pkl", config.env_id)
    scores["trained"] = evaluate(report, params, config=config)
    write(out / "agent.gif", record(gif, params, config=config))
    write(out / "random.gif", record(gif, None, config=config))
    write(out / "learning_curve.png", learning_curve(history, config=config))
    write(out / "hand-in.zip", hand_in(out))
    lines = [table(scores), f"wrote {', '.join(FILES)} to {out.absolute()}"]
    if scores["trained"].mean() < config.target_return:
        lines.append(
            f"not perfect after {config.total_steps} steps: the mean return is "
            f"{scores['trained'].mean():.1f} of {config.target_return:g}; "
            "try more --total-steps, or another --seed"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line. Returns the exit status: 0 done, 2 bad input, 1 any other failure."""
    try:
        message, status = run(parse_config(argv)), 0
    except ValueError as error:
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
    sys.exit(main())
