"""Deep Q-learning in one file: an agent learns to balance a pole, in seconds.

A neural network predicts the discounted sum of rewards after each action. The
agent mostly takes the action predicted best, remembers what happened, and
corrects its predictions on random samples of its memory: the Deep Q-Network of
Mnih et al. 2015 with a bounded Double DQN target (van Hasselt et al. 2016), a
soft target network, optimism, scaled inputs and rewards, two updates a step.

    python main.py                          train; params.pkl, GIFs, figure, zip
    python main.py --evaluate params.pkl    score trained parameters, agent.gif
    python main.py --env-id MountainCar-v0 --seed 1 --out runs/1
    python main.py --seeds 9 --compare --no-double --vanilla    what ideas buy

The lecture goes from Network to Training; the rest makes a hand-in of it.
In a notebook, run all cells, then main("--seed 7"). Shapes: B transitions in a
batch, U batches in a round, O numbers in an observation, A actions.
"""

import argparse
import gc
import hashlib
import io
import itertools
import logging
import os
import pickle
import pickletools
import shlex
import signal
import sys
import textwrap
import time
import zipfile
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

if not hasattr(itertools, "pairwise"):  # which came with 3.10
    sys.exit("main.py needs Python 3.10 or newer")
if __name__ == "__main__" and "ipykernel" not in sys.modules:  # a program: no window, no sound
    gc.disable()  # imports are quicker without garbage collection; the last cell enables it
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # enough for networks this small
    os.environ |= {"SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy", "MPLBACKEND": "agg"}
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no word about a missing HOME

import chex
import gymnasium as gym
import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, grad, jit, lax, nn, tree, vmap
from matplotlib.figure import Figure
from tqdm import tqdm


# %% Configuration: what can be chosen; the defaults are for CartPole, PRESETS for other games
def option(default: Any, meaning: str, *allowed: Any, group: str = "", counts: bool = True) -> Any:
    """A field of Config that is also an option: in --help, checked, saved. Its type is that of its
    default (so 0.0, not 0). allowed: words; for a number, which needs it, lowest and highest."""
    about = {"meaning": meaning, "allowed": allowed, "group": group}  # group: a heading before it
    return field(default=default, metadata=about, compare=counts)  # False: ignored by == and jit


@dataclass(frozen=True, init=False)
class Config:
    """Every choice of a run. Config("--gamma 0.9 --vanilla") is what these words are in a shell.
    Later overrules earlier: defaults, a game's in PRESETS, --vanilla, --steady, other options.
    BadInput, a ValueError, says what is not allowed. == ignores the seed: updates compile once."""

    env_id: str = option("CartPole-v1", "Gymnasium game to play", group="Run")
    seed: int = option(0, "decides every random number", 0, 4294967295, counts=False)
    seeds: int = option(1, "study so many seeds, from --seed on", 1, 1000, counts=False)
    compare: tuple = option((), "last: each word after it is a variant's options", counts=False)
    evaluate: str = option("", "score this parameter file, do not train", counts=False)
    out: str = option(".", "folder that receives the files", counts=False)
    report_episodes: int = option(100, "fresh episodes that score an agent", 1, 1e5)
    vanilla: bool = option(False, "preset: near to Mnih et al. 2015")
    steady: bool = option(False, "preset: slow, no early stop, last agent; overrules --vanilla")
    total_steps: int = option(51_200, "steps of training at most", 1, 1e8, group="Training")
    warmup_steps: int = option(512, "random steps before learning starts", 1, 1e8)
    train_every: int = option(64, "environment steps between two rounds of updates", 1, 1e6)
    updates: int = option(128, "updates in a round", 1, 1e6)
    eval_every: int = option(512, "environment steps between greedy evaluations", 1, 1e9)
    eval_episodes: int = option(100, "episodes of an evaluation", 1, 1e4)
    target_return: float = option(np.inf, "goal for the mean; if absent, the game's", -1e9, np.inf)
    confirm_episodes: int = option(4_000, "fresh episodes to confirm it", 1, 1e5)
    early_stop: bool = option(True, "stop as soon as it is confirmed")
    network: str = option("target", "which one to evaluate and hand in", "online", "target")
    keep_best: bool = option(True, "hand in the best-evaluated parameters, not the last")
    hidden: tuple[int, ...] = option((64, 64), "sizes of hidden layers", 1, 1024, group="Network")
    activation: str = option("silu", "of the hidden layers", "relu", "silu", "tanh")
    dueling: bool = option(False, "Q = V + advantage - its mean (Wang et al. 2016)")
    scale_observations: bool = option(True, "divide by 1.5 standard deviations in the warm-up")
    optimistic: bool = option(True, "start with Q-values near their upper bound, if known")
    max_reward: float = option(np.inf, "best reward of a step; inf: not known", -1e9, np.inf)
    epsilon_start: float = option(1.0, "random share when learning starts", 0, 1, group="Policy")
    epsilon_end: float = option(0.05, "random share in the end", 0, 1)
    epsilon_decay: float = option(1500.0, "steps of a linear fall; or time constant", 1, 1e9)
    epsilon_schedule: str = option("linear", "how the share falls", "linear", "exponential")
    action_bins: int = option(11, "values for each number of a continuous action", 2, 1000)
    memory_size: int = option(50_000, "transitions in the memory", 1, 1e7, group="Replay")
    batch_size: int = option(32, "transitions in the batch of one update", 1, 1e5)
    n_step: int = option(1, "rewards that a transition adds up", 1, 1000)
    clip_rewards: bool = option(False, "learn from rewards clipped to [-1, 1]")
    scale_rewards: bool = option(True, "learn from rewards times 1 - gamma")
    prioritized: bool = option(False, "sample by temporal-difference error (Schaul et al. 2016)")
    priority_exponent: float = option(0.6, "alpha; 0 samples uniformly", 0, 1)
    importance_exponent: float = option(0.4, "beta at first; it rises to 1 at --total-steps", 0, 1)
    gamma: float = option(0.99, "discount of the next reward", 0, 0.9999, group="Learning")
    double: bool = option(True, "Double DQN target (van Hasselt et al. 2016)")
    bound_targets: bool = option(True, "cap targets at 3 times Q's upper bound, if known")
    tau: float = option(0.03, "share of the network that goes into its target copy", 1e-6, 1)
    target_period: int = option(1, "the target copy follows after so many updates", 1, 1e6)
    loss: str = option("huber", "of the temporal-difference error", "huber", "squared")
    learning_rate: float = option(6e-3, "of Adam", 1e-9, 1)
    decay_learning_rate: bool = option(True, "let it fall linearly to 0 over --total-steps")
    weight_decay: float = option(0.0, "makes Adam AdamW; 0 is off", 0, 1)
    amsgrad: bool = option(False, "AMSGrad variant of Adam")
    clip_value: float = option(0.0, "clip each number of a gradient to this; 0 is off", 0, 1e9)
    clip_norm: float = option(0.0, "clip a gradient's global norm to this; 0 is off", 0, 1e9)
    sizes: tuple[int, ...] = ()  # of all layers, from O to A; follows from the options
    q_bound: float = np.inf  # no Q is higher: max(0, reward_to_learn(max_reward) / (1 - gamma))

    def __init__(self, options: str | list[str] = "") -> None:
        vars(self).update(parse_options(options))  # in cell Options; frozen refuses self.x = ...
        q_bound = max(0.0, reward_to_learn(self.max_reward, self) / (1 - self.gamma))
        vars(self).update(sizes=layer_sizes(self), q_bound=q_bound)


PRESETS = {  # by game, or by the on/off option of this name; goals above Gymnasium's, if any
    "CartPole-v1": "--max-reward 1 --target-return 500",
    "other games": "--gamma 0.98 --batch-size 64 --learning-rate 0.002 --confirm-episodes 2000",
    "Acrobot-v1": "--max-reward 0 --target-return -72 --hidden 64 64 64 --epsilon-decay 5000 "
    "--eval-every 8192 --confirm-episodes 200",
    "MountainCar-v0": "--max-reward -1 --target-return -100 --hidden 64 64 64 --tau 0.01 "
    "--epsilon-decay 10000 --eval-every 2048 --confirm-episodes 400",
    "Pendulum-v1": "--max-reward 0 --target-return -165 --tau 0.01 --epsilon-decay 5000 "
    "--total-steps 20000 --eval-every 5000 --no-early-stop --no-keep-best",
    # Mnih et al. 2015, but shorter; Adam, MLP, bootstraps at time limits, greedy tests, early stop:
    "vanilla": "--no-double --n-step 1 --tau 1 --target-period 500 --activation relu "
    "--no-scale-observations --no-optimistic --no-bound-targets --no-scale-rewards --clip-rewards "
    "--train-every 4 --updates 1 --batch-size 32 --gamma 0.99 --learning-rate 0.002 "
    "--no-decay-learning-rate --epsilon-end 0.1 --epsilon-decay 2500 --network online",
    "steady": "--no-early-stop --no-keep-best --gamma 0.998 --n-step 5 --epsilon-end 0.1 "
    "--epsilon-decay 5000 --learning-rate 0.0015 --tau 0.002 --updates 64 --batch-size 64",
}
FLAGS = {"--" + f.name.replace("_", "-"): f for f in fields(Config) if f.metadata}


def derive_seed(seed: int, purpose: str) -> int:
    """A seed for each purpose, from a run's: one of 2^32, so hardly two are the same."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)[0])


# %% Network: a multi-layer perceptron from an observation to one Q-value per action
AnyArray = Array | np.ndarray  # JAX's or NumPy's
Generator = np.random.Generator  # NumPy draws at once; JAX would compile each kind of draw
Params = dict[str, Any]  # a tree of arrays; see init_params


def init_params(config: Config) -> Params:
    """First parameters: {"scale": [O], "hidden": {activation: [layer, ...]}, "output": layer}, and
    with --dueling "value": layer. Observations are divided by `scale`. The activation is the key of
    its layers, as the course's policy_fn gets parameters but no config.
    Optimistic initial values (for bandits: Sutton & Barto 2018, section 2.6): if Q has an upper
    bound, each Q starts near it (hence gain 0.01): what was not tried tends to look better."""
    gain, bias = (0.01, config.q_bound) if config.optimistic and config.q_bound < np.inf else (1, 0)
    rng = np.random.default_rng(derive_seed(config.seed, "init"))
    layers = [init_dense(rng, n, m) for n, m in itertools.pairwise(config.sizes[:-1])]
    params = {"scale": np.ones(config.sizes[0], np.float32), "hidden": {config.activation: layers}}
    params["output"] = init_dense(rng, *config.sizes[-2:], gain, bias)
    if config.dueling:
        params["value"] = init_dense(rng, config.sizes[-2], 1, gain, bias)
    return params


def init_dense(rng: Generator, n: int, m: int, gain: float = 1, bias: float = 0) -> Params:
    """A layer from n numbers to m; weights of variance gain^2 / n (gain 1: LeCun et al. 1998)."""
    bound = gain * np.sqrt(3 / n)  # the variance of uniform numbers is bound^2 / 3
    weights = rng.uniform(-bound, bound, (n, m)).astype(np.float32)
    return {"w": weights, "b": np.full(m, bias, np.float32)}


def dense(layer: Params, x: AnyArray) -> Array:
    return x @ layer["w"] + layer["b"]


def q_values(params: Params, obs: AnyArray) -> Array:
    """Q(s, a), in the units of reward_to_learn: [..., O] -> [..., A]. With dueling heads,
    Q(s, a) = V(s) + advantage(s, a) - mean_a' advantage(s, a') (Wang et al. 2016)."""
    x = obs / lax.stop_gradient(params["scale"])  # measured, not learned
    [(activation, layers)] = params["hidden"].items()  # its only entry, as {"silu": [...]}
    for layer in layers:
        x = getattr(nn, activation)(dense(layer, x))
    q = dense(params["output"], x)
    if "value" in params:
        q = dense(params["value"], x) + q - q.mean(axis=-1, keepdims=True)
    return q


# %% Policy: exploit what is known, or explore (the next three signatures are the course's)
def random_policy_fn(rng: Generator, obs: AnyArray, n_actions: int = 2) -> np.ndarray:
    """A uniformly random action, by default of CartPole's two: [..., O] -> [...]."""
    return rng.integers(n_actions, size=obs.shape[:-1])


@jit
def policy_fn(rng: Array | None, params: Params, obs: AnyArray) -> Array:
    """The greedy action, argmax_a Q(s, a): [..., O] -> [...]. rng: for the course, unused."""
    return jnp.argmax(q_values(params, obs), axis=-1)


def action_fn(rng: Generator, params: Params, obs: AnyArray, epsilon: float = 0.05) -> AnyArray:
    """Epsilon-greedy: random with probability epsilon, else greedy; [O] -> a scalar."""
    if rng.random() < epsilon:
        return random_policy_fn(rng, obs, params["output"]["b"].size)  # one output for each action
    return policy_fn(None, params, obs)


def epsilon_at(step: int, config: Config) -> float:
    """The share of random actions at an environment step: 1 while warming up, then falling."""
    if step <= config.warmup_steps:
        return 1.0
    passed = (step - config.warmup_steps) / config.epsilon_decay
    left = {"linear": max(0.0, 1 - passed), "exponential": np.exp(-passed)}[config.epsilon_schedule]
    return float(left * config.epsilon_start + (1 - left) * config.epsilon_end)


# %% Replay: what happened is kept as it happened, and learned from at random
class Batch(NamedTuple):
    """Transitions to learn from: B of a batch, U * B of a round, or a single one (no B axis).
    `discount` is what next_obs's value counts for: gamma, gamma^m after m steps, or 0 if the game
    terminated. One cut short by its time limit goes on in the agent's eyes (Pardo et al. 2018)."""

    obs: AnyArray  # [B, O]
    action: AnyArray  # [B]
    reward: AnyArray  # [B], as n_step_return gives it
    discount: AnyArray  # [B]
    next_obs: AnyArray  # [B, O]
    weight: AnyArray  # [B], what it counts for in the loss; 1 unless prioritized
    slot: AnyArray  # [B], its place in the memory when drawn; for prioritize


@lru_cache
def row_type(n_obs: int) -> np.dtype:
    """A row of the memory: a step of the game, and how surprising it was when last replayed."""
    names = ("obs", "action", "reward", "terminated", "truncated", "next_obs", "priority")
    formats = (f"({n_obs},)f4", "i4", "f4", "?", "?", f"({n_obs},)f4", "f4")
    return np.dtype({"names": names, "formats": formats})


def remember(memory: deque[bytearray], transition: tuple[Any, ...]) -> None:
    """Appends (obs, action, reward, terminated, truncated, next_obs) as a row of bytes: these join
    to an array far quicker than tuples, and may change (prioritize). Priority inf: not replayed."""
    memory.append(bytearray(np.array((*transition, np.inf), row_type(len(transition[0])))))


def sample_batch(
    rng: Generator, memory: deque[bytearray], batch_size: int, config: Config, step: int = 0
) -> Batch:
    """A batch drawn with replacement; train draws U * B at once, for speed. step: for beta."""
    rows = np.frombuffer(b"".join(memory), row_type(config.sizes[0]))
    slot, weight = rng.integers(len(rows), size=batch_size), np.ones(batch_size, np.float32)
    if config.prioritized:  # then not uniformly, and weighted
        slot, weight = draw_by_priority(rng, rows, batch_size, config, step)
    obs, action = rows["obs"][slot], rows["action"][slot]
    return Batch(obs, action, *n_step_return(rows, slot, config), weight, slot)


def n_step_return(rows: np.ndarray, slot: np.ndarray, config: Config) -> tuple[np.ndarray, ...]:
    """(sum_{k<m} gamma^k r_k, gamma^m or 0, s_m); m is n_step (1: r, gamma or 0, s') or less, where
    episode or memory ends (Sutton & Barto 2018, chapter 7; no off-policy correction)."""
    rewards = reward_to_learn(rows["reward"], config)
    over = rows["terminated"] | rows["truncated"]
    over[-1] = True
    reward, last = rewards[slot], slot
    for k in range(1, config.n_step):
        goes_on = ~over[last]
        last = last + goes_on
        reward = reward + goes_on * config.gamma**k * rewards[last]  # adds 0 once over
    discount = config.gamma ** (last - slot + 1) * (1 - rows["terminated"][last])
    return reward.astype(np.float32), discount.astype(np.float32), rows["next_obs"][last]


def reward_to_learn(reward: Any, config: Config) -> Any:
    """Rewards as the agent learns from them; what is reported stays as the game gave it. Times
    1 - gamma, a value is a weighted mean of those to come (0 after an end): weights sum to 1."""
    reward = np.clip(reward, -1, 1) if config.clip_rewards else reward
    return reward * (1 - config.gamma) if config.scale_rewards else reward


# %% Learning: move Q(s, a) towards what the next step says it should have been
class Learner(NamedTuple):  # all that learning changes
    params: Params  # the online network
    target: Params  # its slowly following copy
    opt_state: optax.OptState
    count: Array  # of updates so far


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), AMSGrad (Reddi et al. 2018), AdamW (Loshchilov & Hutter 2019)."""
    skipped = (config.warmup_steps - 1) // config.train_every  # rounds of the warm-up
    rounds = config.total_steps // config.train_every - skipped  # float below: int32 may overflow
    last_rate = 0.0 if config.decay_learning_rate else config.learning_rate
    rate = optax.linear_schedule(config.learning_rate, last_rate, float(rounds * config.updates))
    is_matrix = partial(tree.map, lambda x: x.ndim > 1)  # biases do not decay
    parts = [  # an option that is 0 is off, and filtered out
        config.clip_value and optax.clip(config.clip_value),
        config.clip_norm and optax.clip_by_global_norm(config.clip_norm),
        # As one array, parameters compile to fewer operations:
        optax.flatten(optax.scale_by_amsgrad() if config.amsgrad else optax.scale_by_adam()),
        config.weight_decay and optax.add_decayed_weights(config.weight_decay, is_matrix),
        optax.scale_by_learning_rate(rate),
    ]
    return optax.chain(*filter(None, parts))


def new_learner(config: Config) -> Learner:
    """The learner that a run starts with; both its networks are the same."""
    start = jit(lambda p: Learner(p, p, make_optimizer(config).init(p), jnp.int32(0)))
    return start(init_params(config))  # one program compiles quicker than its operations alone


def measure_scale(learner: Learner, memory: deque[bytearray], config: Config) -> Learner:
    """Sets `scale` to 1.5 standard deviations of the observations so far (1 learns as fast)."""
    rows = np.frombuffer(b"".join(memory), row_type(config.sizes[0]))
    spread = 1.5 * np.std(rows["obs"], axis=0, dtype=np.float64)
    scale = {"scale": np.where(spread > 1e-6, spread, 1).astype(np.float32)}
    return learner._replace(params=learner.params | scale, target=learner.target | scale)


def td_error(params: Params, target: Params, t: Batch, *, config: Config) -> Array:
    """Temporal-difference error y - Q(s, a) of one transition; a scalar. No gradient flows into y.
    Double DQN, van Hasselt et al. 2016; the online network chooses, the target network judges:
        y = r + discount * Q(s', argmax_a' Q(s', a'; params); target)
    Mnih et al. 2015: y = r + discount * max_a' Q(s', a'; target). Q may run away (Sutton & Barto
    2018, 11.3): y <- min(y, 3 q_bound). With 1 (Andrychowicz et al. 2017), 1.9 times the steps."""
    chex.assert_rank([t.obs, t.next_obs, t.action, t.reward, t.discount], [1, 1, 0, 0, 0])
    next_action = jnp.argmax(q_values(params if config.double else target, t.next_obs))
    y = t.reward + t.discount * q_values(target, t.next_obs)[next_action]
    y = jnp.minimum(y, 3 * config.q_bound) if config.bound_targets else y
    return lax.stop_gradient(y) - q_values(params, t.obs)[t.action]


@partial(jit, static_argnames="config")
def td_errors(params: Params, target: Params, batch: Batch, *, config: Config) -> Array:
    """td_error of each transition in a batch; [B]."""
    return vmap(partial(td_error, config=config), in_axes=(None, None, 0))(params, target, batch)


def loss_fn(params: Params, target: Params, batch: Batch, *, config: Config) -> Array:
    """Mean of weight * loss(e), e = td_error: e^2 / 2 or, with huber and |e| > 1, |e| - 1/2."""
    loss = {"huber": optax.huber_loss, "squared": optax.l2_loss}[config.loss]
    return jnp.mean(batch.weight * loss(td_errors(params, target, batch, config=config)))


@partial(jit, static_argnames="config")
def update_fn(learner: Learner, batch: Batch, *, config: Config) -> Learner:
    """One gradient step on one batch; every target_period updates, the target network follows:
    target <- (1 - tau) target + tau params (Lillicrap et al. 2016)"""
    params, target, opt_state, count = learner
    grads = grad(loss_fn)(params, target, batch, config=config)
    deltas, opt_state = make_optimizer(config).update(grads, opt_state, params)  # built when traced
    params, count = optax.apply_updates(params, deltas), count + 1
    tau = config.tau * (count % config.target_period == 0)
    return Learner(params, optax.incremental_update(params, target, tau), opt_state, count)


@partial(jit, static_argnames="config")
def update_round(learner: Learner, batches: Batch, *, config: Config) -> Learner:
    """update_fn for each of U batches, given as one [U B, ...]; lax.scan hands the learner on."""
    batches = tree.map(lambda x: x.reshape(config.updates, -1, *x.shape[1:]), batches)
    return lax.scan(lambda now, b: (update_fn(now, b, config=config), None), learner, batches)[0]


# %% Training: act, remember, learn, evaluate
class History(NamedTuple):  # what happened during training
    lengths: list[int]  # of the episodes, in environment steps
    returns: list[float]  # of the episodes
    evaluations: list[tuple[int, float]]  # step, mean greedy return (the confirmation's, if any)
    score: float  # mean greedy return of what was chosen; if the best of many, biased upwards


def train(config: Config, *, quiet: bool = False) -> tuple[Params, History]:
    """Trains an agent; returns its best-evaluated parameters, or its last, and what happened."""
    # Statistics of all episodes (None); not as "episode", as a game may have its own of that name:
    env = gym.wrappers.RecordEpisodeStatistics(make_game(config), None, stats_key="training")
    memory: deque[bytearray] = deque(maxlen=config.memory_size)
    learner, evaluations = new_learner(config), []
    chosen, chosen_score = learner.target, -np.inf
    rng = np.random.default_rng(derive_seed(config.seed, "training"))
    obs, _ = env.reset(seed=derive_seed(config.seed, "game"))
    for step in (bar := progress_bar(range(1, config.total_steps + 1), quiet)):
        # Act.
        epsilon = epsilon_at(step, config)
        action = int(action_fn(rng, learner.params, obs, epsilon))  # the online network explores
        next_obs, reward, terminated, truncated, _ = env.step(action)

        # Remember.
        remember(memory, (obs, action, reward, terminated, truncated, next_obs))
        obs = env.reset()[0] if terminated or truncated else next_obs

        # Learn.
        if step == config.warmup_steps and config.scale_observations:
            learner = measure_scale(learner, memory, config)
        if step >= config.warmup_steps and step % config.train_every == 0:
            batches = sample_batch(rng, memory, config.updates * config.batch_size, config, step)
            learner = update_round(learner, batches, config=config)
            prioritize(memory, batches, learner, config)  # only with --prioritized

        # Evaluate.
        if step % config.eval_every == 0 or step == config.total_steps:
            agent = learner.target if config.network == "target" else learner.params
            play = partial(evaluate, agent, config=config)
            score = float(play(config.eval_episodes, f"evaluation {step}").mean())
            if config.early_stop and score >= config.target_return:  # one good mean may be luck
                score = float(play(config.confirm_episodes, f"confirm {step}").mean())
            evaluations.append((step, score))
            if score > chosen_score or not config.keep_best:
                chosen, chosen_score = agent, score
            mean = np.mean([*env.return_queue][-100:] or np.nan)  # of recent episodes, if any
            bar.postfix = f"epsilon {epsilon:.2f}, return {mean:.4g}, greedy {score:.4g}"
            solved = config.early_stop and score >= config.target_return
            if solved or step == config.total_steps:
                bar.total = step  # so that a bar stopped early ends full (it counts from 1)
                break
    return chosen, History([*env.length_queue], [*env.return_queue], evaluations, chosen_score)


# %% Prioritized replay (Schaul et al. 2016), off by default: what surprised comes more often
def draw_by_priority(rng: Generator, rows: np.ndarray, n: int, config: Config, step: int) -> tuple:
    """Slots of n of the N rows, and their weights in the loss, by the errors of last time.
    P(i) = p_i^alpha / sum_k p_k^alpha. A row not replayed yet has the largest p in memory.
    w_i = (N P(i))^-beta / max_j (N P(j))^-beta, j of all drawn; beta rises to 1 at the end."""
    p = np.float64(rows["priority"])
    p = np.minimum(p, np.max(p, where=np.isfinite(p), initial=1e-6))  # inf: never replayed
    probability = p**config.priority_exponent / np.sum(p**config.priority_exponent)
    slot = rng.choice(len(rows), n, p=probability)
    beta = np.interp(step, (0, config.total_steps), (config.importance_exponent, 1))
    weight = (len(rows) * probability[slot]) ** -beta
    return slot, weight / weight.max()


def prioritize(memory: deque[bytearray], batch: Batch, learner: Learner, config: Config) -> None:
    """With --prioritized: p_i = |error_i| + 1e-6 after a round (in the paper, at each update)."""
    if config.prioritized:
        errors = td_errors(learner.params, learner.target, batch, config=config)
        for i, p in zip(batch.slot, np.abs(errors) + 1e-6, strict=True):
            np.frombuffer(memory[i], row_type(config.sizes[0]))["priority"] = p  # in place


# %% Games: what is played, and how an agent is scored
def make_game(config: Config, **kwargs: Any) -> gym.Env:
    """A game that shows a vector, has discrete actions, ends; CartPole's `evaluate` skips this."""
    env = gym.make(config.env_id, **kwargs)
    space, bins = env.action_space, config.action_bins
    bounded = isinstance(space, gym.spaces.Box) and space.is_bounded()
    if bounded and bins ** np.prod(space.shape, dtype=float) < 1e6:  # bins for each number
        grid = np.linspace(space.low.ravel(), space.high.ravel(), bins, dtype=space.dtype)
        table = np.array([*itertools.product(*grid.T)]).reshape(-1, *space.shape)
        env = gym.wrappers.TransformAction(env, table.__getitem__, gym.spaces.Discrete(len(table)))
    env = gym.wrappers.FlattenObservation(env)
    return env if getattr(env.spec, "max_episode_steps", 0) else gym.wrappers.TimeLimit(env, 1_000)


def evaluate(params: Any, episodes: int, purpose: str = "report", *, config: Config) -> np.ndarray:
    """Returns of greedy play or, without parameters, of random play; [episodes]. Each seed and
    purpose has episodes of its own. Raises FloatingPointError if parameters are not finite."""
    if not all(np.isfinite(leaf).all() for leaf in tree.leaves(params)):
        raise FloatingPointError("parameters not finite: bad game, or high --learning-rate")
    if config.env_id == "CartPole-v1":  # Gymnasium plays many at once, without make_game's wrappers
        envs = gym.make_vec(config.env_id, episodes)
    else:
        envs = gym.vector.SyncVectorEnv([partial(make_game, config)] * episodes)
    obs, _ = envs.reset(seed=derive_seed(config.seed, purpose))
    envs.action_space.seed(derive_seed(config.seed, f"{purpose} actions"))
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():  # each game's first episode counts; what it plays after that does not
        actions = policy_fn(None, params, obs) if params else envs.action_space.sample()
        obs, rewards, terminated, truncated, _ = envs.step(np.asarray(actions))
        returns += np.where(running, rewards, 0)
        running &= ~(terminated | truncated)
    return returns


# %% Files: put in place as a whole; that of the parameters is read, not run
FILES = ("params.pkl", "agent.gif", "random.gif", "learning_curve.png", "hand-in.zip")
MAX_BYTES, MAX_INSTRUCTIONS, MAX_WORD = 2**24, 100_000, 10_000  # of a parameter file
GIF_SECONDS = 10


def write(path: Path, data: bytes | Figure) -> None:
    """Replaces a file as a whole; if it cannot (Windows, while it is open), new-... stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"new-{os.getpid()}-{path.name}")
    try:
        data.savefig(new, format="png") if isinstance(data, Figure) else new.write_bytes(data)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    os.replace(new, path)


def save_params(path: Path | str, params: Params, *, config: Config, score: float = np.nan) -> None:
    """Writes the course's pickle: parameters as NumPy arrays, and what playing them needs."""
    content = {"env_id": config.env_id, "options": as_options(config), "sizes": [*config.sizes]}
    packages = ("jax", "optax", "gymnasium", "numpy")
    content |= {"score": score, "versions": {name: version(name) for name in packages}}
    content["params"] = tree.map(lambda leaf: np.array(leaf, "<f4", order="C"), params)
    data = pickle.dumps(content, protocol=4)
    write(Path(path), data + hashlib.sha256(data).digest())  # pickle.load stops before it


def load_params(path: Path | str, config: Config | None = None) -> Params:
    """The parameters that save_params wrote, for `policy_fn`; for the game of `config`, if given.
    Safe with a stranger's file: it is not unpickled, its instructions are listed, none is run.
    Its shapes must be those of init_params with its options. Else BadInput, a ValueError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES or hashlib.sha256(data[:-32]).digest() != data[-32:]:
            raise ValueError(f"its checksum is wrong, or it is larger than {MAX_BYTES} bytes")
        args = [x for _, x, _ in itertools.islice(pickletools.genops(data), MAX_INSTRUCTIONS)]
        strings = [x[:MAX_WORD] for x in args if isinstance(x, str)]
        arrays = [x for x in args if isinstance(x, bytes) and x != b"b"]  # b"b": a placeholder
        env_id, options = (strings[strings.index(name) + 1] for name in ("env_id", "options"))
        if env_id not in ([config.env_id] if config else gym.registry):
            raise ValueError(f"it is for the game {env_id}; name it by --env-id, if it is known")
        bins = [f"--action-bins={config.action_bins}"] if config else []  # as they will be played
        words = [x for x in shlex.split(options) if x[:9] != "--compare"]  # it swallows the rest
        template = init_params(Config([*words, f"--env-id={env_id}", *bins]))
        stored = tree.unflatten(tree.structure(template), arrays)  # in save's order
        params = tree.map(lambda x, y: np.frombuffer(y, "<f4").reshape(x.shape), template, stored)
        if not all(np.isfinite(x).all() for x in tree.leaves(params)) or any(params["scale"] <= 0):
            raise ValueError("its numbers are not finite, or its scale is not positive")
        return params
    except Exception as error:  # not `refusing`: on Python 3.13 it keeps the data in memory
        raise BadInput(f"{path} cannot be used: {error}") from None


# %% Pictures, and the zip that is handed in
def record(path: Path, params: Params, epsilon: float, *, config: Config) -> None:
    """Writes a GIF: ten seconds in real time, ten frames a second, half the size, 125 colors."""
    if "rgb_array" not in make_game(config).metadata.get("render_modes", ()):
        path.unlink(missing_ok=True)  # an older one is of another game
        return  # this one cannot be drawn
    env = make_game(config, render_mode="rgb_array")
    rng = np.random.default_rng(derive_seed(config.seed, "gif actions"))
    fps = env.metadata.get("render_fps") or 30  # which is what RecordVideo assumes
    frames, (obs, _) = [], env.reset(seed=derive_seed(config.seed, "gif"))
    for step in range(round(GIF_SECONDS * fps)):
        while len(frames) * fps < 10 * (step + 1):  # a game may be slower, or quicker
            frames.append((np.asarray(env.render())[1::2, 1::2] // 52) @ np.uint8([25, 5, 1]))
        obs, _, terminated, truncated, _ = env.step(int(action_fn(rng, params, obs, epsilon)))
        obs = env.reset()[0] if terminated or truncated else obs
    env.close()
    palette = bytes(x for rgb in itertools.product((0, 78, 130, 182, 255), repeat=3) for x in rgb)
    gif = {"plugin": "pillow", "palette": palette, "duration": 100, "loop": 0}
    write(path, iio.imwrite("<bytes>", frames, extension=".gif", **gif))


def learning_curve(history: History, *, config: Config) -> Figure:
    """The returns during training against environment steps."""
    axes = Figure(figsize=(8, 4), dpi=100).subplots()
    steps, returns = np.cumsum(history.lengths), history.returns
    mean = [np.mean(returns[max(0, n - 100) : n]) for n in range(1, len(returns) + 1)]
    axes.plot(steps, returns, ".", color="0.7", label="training episode")
    axes.plot(steps, mean, color="C0", label="mean of the last 100")
    axes.plot(*np.transpose(history.evaluations), "o-", ms=4, color="C1", label="greedy evaluation")
    if np.isfinite(config.target_return):
        axes.axhline(config.target_return, color="0.4", ls="--", lw=1, label="target return")
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=config.env_id)
    axes.legend()
    return axes.figure


def hand_in(out: Path) -> bytes:
    """The zip to hand in; its bytes depend on nothing but its files' bytes."""
    here = Path(globals().get("__file__", "main.py")).parent  # a notebook has no __file__
    paths = [here / name for name in ("main.py", "README.md", "requirements.txt")]
    paths += [out / name for name in FILES[:-1]] + sorted((here / "tests").glob("*.*"))
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        for path in filter(Path.is_file, paths):
            entry = zipfile.ZipInfo("tests/" * (path.parent == here / "tests") + path.name)
            entry.create_system = 3  # as on Linux, on any system
            archive.writestr(entry, path.read_bytes())  # not packed: zlib's bytes vary
    return buffer.getvalue()


# %% Study: does it work for every seed, and what does each idea buy?
COLUMNS = "seed,steps,episodes,seconds,mean,min,returns,options"
TABLE = """ solved    mean     min  median   from     to   most  ratio  from    to  seconds  variant
{}
solved: a mean of {:g} or more over {} fresh episodes; min: the worst episode of all
median, most: environment steps until training stopped (all, if it did not: ratio is a bound then)
ratio: of these to the default's, geometric mean; from, to: 95% bootstrap (90% with 9 seeds)"""
ROW = "{:>7}{:8.2f}{:8.2f}{:8.0f}{:7.0f}{:7.0f}{:7}{:7.2f}{:6.2f}{:6.2f}{:9.1f}  {}"


def run_study(config: Config) -> str:
    """Trains variants on the same seeds, or reads study.csv (delete it if code changed)."""
    path, variants = Path(config.out) / "study.csv", {"default": config, **dict(config.compare)}
    seeds, rows = range(config.seed, config.seed + config.seeds), {name: [] for name in variants}
    text = path.read_text("utf-8", "replace") if path.exists() else COLUMNS
    lines = {line.split(",")[-1]: line for line in text.splitlines()}  # by options, the header too
    for seed, name in tqdm([*itertools.product(seeds, variants)], "study", disable=not sys.stderr):
        options = as_options(trial := Config(f"{as_options(variants[name])} --seed {seed}"))
        if options not in lines:
            start = time.perf_counter()
            params, history = train(trial, quiet=True)
            seconds, steps = round(time.perf_counter() - start, 1), history.evaluations[-1][0]
            returns = evaluate(params, trial.report_episodes, config=trial)
            row = seed, steps, len(history.returns), seconds, returns.mean(), returns.min()
            lines[options] = ",".join(map(str, (*row, " ".join(map(str, returns)), options)))
            write(path, "\n".join([*lines.values(), ""]).encode())
        with refusing(f"{path} must be as a study wrote it; delete it"):
            cells = lines[options].split(",")
            rows[name].append((int(cells[1]), float(cells[3]), np.float64(cells[6].split())))
    study = {name: [*map(np.array, zip(*values, strict=True))] for name, values in rows.items()}
    write(path.with_suffix(".png"), study_figure(study, config))
    return f"{study_table(study, config)}\nwrote study.csv, study.png\nto {path.parent.absolute()}"


def interval(statistic: Any, values: np.ndarray) -> np.ndarray:
    """A statistic of N seeds, the ends of its 95% bootstrap interval: [N, ...] -> [3, ...]."""
    samples = np.random.default_rng(0).choice(values, (len(values), 2_000))
    ends = np.percentile(statistic(samples, axis=0), (2.5, 97.5), axis=0)
    return np.stack([statistic(values, axis=0), *ends])


def study_table(study: dict[str, list[np.ndarray]], config: Config) -> str:
    """By variant: steps [N], seconds [N] and returns [N, E] of N seeds and E episodes."""
    rows = []
    for name, (steps, seconds, returns) in study.items():
        n_solved = np.sum(returns.mean(axis=1) >= config.target_return)
        ratio = np.exp(interval(np.mean, np.log(steps / study["default"][0])))
        row = f"{n_solved}/{len(steps)}", returns.mean(), returns.min(), *interval(np.median, steps)
        rows.append(ROW.format(*row, max(steps), *ratio, np.median(seconds), name))
    return TABLE.format("\n".join(rows), config.target_return, config.report_episodes)


def study_figure(study: dict[str, list[np.ndarray]], config: Config) -> Figure:
    """A data profile (More & Wild 2009), returns (cf. Agarwal et al. 2021), and each seed's."""
    figure, goal = Figure(figsize=(12, 10), dpi=100, layout="constrained"), config.target_return
    share, above, success, box = figure.subplot_mosaic("AB;CC;DD").values()
    for i, (name, (steps, _, returns)) in enumerate(study.items()):
        style = {"color": f"C{i % 10}", "ls": "-" if i < 10 else "--"}
        dots = {"marker": ".", "ls": "", **dict.fromkeys(("color", "mec", "mfc"), style["color"])}
        seeds = config.seed + np.arange(len(steps)) + 0.8 * i / len(study)
        share.ecdf(np.where(returns.mean(axis=1) >= goal, steps, np.inf), label=name, **style)
        above.ecdf(returns.ravel(), complementary=True, **style)
        success.plot(seeds, (returns >= goal).mean(axis=1), **dots)
        lines = {f"{part}props": style for part in ("box", "whisker", "cap", "median")}
        lines |= {"meanprops": dots, "flierprops": dots | {"ms": 2}, "manage_ticks": False}
        box.boxplot([*returns], positions=seeds, widths=0.6 / len(study), showmeans=True, **lines)
    share.set(xlabel="environment steps", ylabel="share of seeds solved", ylim=(-0.05, 1.05))
    share.semilogx([config.total_steps] * 2, [0, 1], base=2, color="0.8")  # the budget
    above.set(xlabel="return, all seeds", ylabel="share of at least this", ylim=(-0.05, 1.05))
    ticks = range(config.seed, config.seed + config.seeds, 1 + config.seeds // 10)
    place = {"xlabel": "seed", "xticks": ticks, "xticklabels": ticks}
    success.set(ylabel=f"share of episodes\nof {goal:g} or more", ylim=(-0.05, 1.05), **place)
    box.set(ylabel="returns and their mean", **place)
    figure.suptitle(f"{config.env_id}, number of seeds: {config.seeds}")
    figure.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


# %% Options: from words to a Config
class BadInput(ValueError):
    """What a user has asked for cannot be done; one sentence, on one line of plain letters."""

    def __str__(self) -> str:
        return ascii(" ".join(super().__str__().split()))[1:-1][:300]


@contextmanager
def refusing(what: str) -> Any:
    """Whatever fails in its block is bad input: what must be otherwise, and why it failed."""
    try:
        yield
    except Exception as error:
        raise BadInput(f"{what}: {error}") from None


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadInput(message.removeprefix("argument "))


def make_parser() -> Parser:
    """A parser with an option for each field of Config, under the heading of its group."""
    parser = Parser(description=__doc__, allow_abbrev=False, add_help=False)  # help would exit
    parser.usage = "python main.py [options]; presets, listed last, overrule these defaults"
    wrap = textwrap.TextWrapper(79, subsequent_indent="    ", break_on_hyphens=False).fill
    parser.epilog = "\n".join(wrap(f"{name}: {words}") for name, words in PRESETS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for flag, f in FLAGS.items():
        meaning, allowed, heading = f.metadata.values()  # in the order of `option`
        if heading:
            group = parser.add_argument_group(heading)
        text, kind = f"{meaning} (default %(default)r", type(f.default)
        if kind is bool:
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        elif kind is str:
            how = {"choices": allowed} if allowed else {"metavar": "X"}
        elif f.name == "compare":
            how = {"type": shlex.split, "nargs": argparse.REMAINDER}
        else:
            how = {"type": int, "nargs": "*"} if kind is tuple else {"type": kind, "metavar": "X"}
            text += f"; {allowed[0]:.10g} to {allowed[1]:.10g}"
        group.add_argument(flag, default=f.default, help=f"{text})", **how)
    return parser


def parse_options(options: str | list[str]) -> dict[str, Any]:
    """The fields of a Config. Later words count more than earlier ones: hence their order."""
    with refusing("options must be words as in a shell"):
        words = shlex.split(options) if isinstance(options, str) else options
    asked = (parser := make_parser()).parse_args(words)
    goal = getattr(gym.registry.get(asked.env_id), "reward_threshold", None)
    parser.set_defaults(target_return=np.inf if goal is None else float(goal))
    names = [asked.env_id] if asked.env_id == Config.env_id else ["other games", asked.env_id]
    names += [name for name in PRESETS if getattr(asked, name, False)]  # vanilla, steady
    preset = " ".join(PRESETS.get(name, "") for name in names).split()
    check_options(values := vars(parser.parse_args([*preset, *words])))
    before = [x for x in itertools.takewhile("--compare".__ne__, words) if x[:10] != "--compare="]
    with refusing("--compare must stand last, and each word after it be a variant's options"):
        others = tuple((shlex.join(more), Config([*before, *more])) for more in values["compare"])
    shared = ("env_id", "seed", "seeds", "evaluate", "out", "report_episodes", "target_return")
    if any(getattr(variant, name) != values[name] for _, variant in others for name in shared):
        raise BadInput(f"--compare must stand last, and not change {', '.join(shared)}")
    return {k: tuple(v) if type(v) is list else v for k, v in values.items()} | {"compare": others}


def check_options(values: dict[str, Any]) -> None:
    """Refuses numbers out of their range, and options that do not go together."""
    for flag, f in FLAGS.items():
        if f.metadata["allowed"] and not isinstance(f.default, str):
            low, high, value = *f.metadata["allowed"], values[f.name]
            if not all(low <= x <= high for x in np.ravel(value)):  # NaN is not
                raise BadInput(f"{flag} must be from {low:.10g} to {high:.10g}, not {value}")
    if values["evaluate"] and (values["seeds"] > 1 or values["compare"]):
        raise BadInput("--evaluate must stand without --seeds and --compare")
    if values["seed"] + values["seeds"] > 2**32:
        raise BadInput("--seeds must not go beyond the last --seed")


def as_options(config: Config) -> str:
    """All that a run depends on, as options: Config(as_options(config)) == config."""
    words = [f"--seed={config.seed}"]
    for flag, f in FLAGS.items():
        value = getattr(config, f.name)
        if isinstance(value, bool):
            words += [flag if value else f"--no-{flag[2:]}"]
        elif f.compare:  # `counts`, in option
            words += [flag, *map(str, value)] if isinstance(value, tuple) else [f"{flag}={value}"]
    return shlex.join(words)


def layer_sizes(config: Config) -> tuple[int, ...]:
    """O, the sizes of the hidden layers, and A; or BadInput for such a game or network."""
    with refusing(f"--env-id must be a game with discrete or bounded actions, not {config.env_id}"):
        env = make_game(config)
        n_obs, n_actions = gym.spaces.flatdim(env.observation_space), int(env.action_space.n)
        if env.action_space.start or config.env_id != env.spec.id:
            raise ValueError(f"it is {env.spec.id} with actions {env.action_space}")
    sizes = (n_obs, *config.hidden, n_actions)
    if sum(4 * n * m + 10_000 for n, m in itertools.pairwise(sizes)) > MAX_BYTES - 100_000:
        raise BadInput(f"--hidden must be smaller: layers of {sizes} need too large a file")
    return sizes


# %% Command line: from a Config to files
def progress_bar(steps: range, quiet: bool) -> tqdm:
    """A bar for a terminal; in a log file it shows its start, its end, and once an hour."""
    hide = quiet or not sys.stderr
    wait = 0.1 if not hide and sys.stderr.isatty() else 3600
    layout = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    return tqdm(steps, "training", initial=1, mininterval=wait, disable=hide, bar_format=layout)


def run(config: Config) -> str:
    """Trains an agent, or reads the one to evaluate; scores it and writes its files."""
    out, play = Path(config.out), partial(evaluate, episodes=config.report_episodes, config=config)
    scores, path, notes = {}, Path(config.evaluate or out / "params.pkl"), ""
    if not config.evaluate:
        scores = {"random": play(None), "untrained": play(init_params(config))}
        params, history = train(config)
        save_params(path, params, config=config, score=history.score)
        write(out / "learning_curve.png", learning_curve(history, config=config))
    params = load_params(path, config)  # what is scored is what is handed in
    scores["trained"] = play(params)
    record(out / "agent.gif", params, 0.0, config=config)
    if not config.evaluate:
        record(out / "random.gif", params, 1.0, config=config)
        write(out / "hand-in.zip", hand_in(out))
        if scores["trained"].mean() < (goal := config.target_return) < np.inf:
            notes = f"\nnot solved: the goal is {goal:g}; try more --total-steps, or another --seed"
    names = ("agent.gif",) if config.evaluate else FILES
    if written := ", ".join(name for name in names if (out / name).exists()):
        notes = f"\nwrote {written}\nto {out.absolute()}{notes}"
    row = "\n{:10}{:10.2f}{:10.2f}{:10.2f}{:10}".format
    rows = [row(name, r.mean(), r.std(), r.min(), r.size) for name, r in scores.items()]
    return "agent           mean       std       min  episodes" + "".join(rows) + notes


def main(options: str | list[str] = "") -> int:
    """The command line. Returns the exit status: 0 done, 2 bad input, 1 any other failure."""
    try:
        if "--help" in (options.split() if isinstance(options, str) else options):
            print(make_parser().format_help())
            return 0
        config = Config(options)
        with refusing(f"JAX_PLATFORMS must name devices here, not {os.getenv('JAX_PLATFORMS')}"):
            jnp.asarray(0)
        with refusing(f"--out must be writable, not {config.out!r}"):
            write(probe := Path(config.out) / f".main.py.{os.getpid()}", b"")
            probe.unlink()
        print(run_study(config) if config.seeds > 1 or config.compare else run(config), flush=True)
        return 0
    except BadInput as error:
        print(f"main.py: {error} (see --help)", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has gone
        return 0
    except Exception as e:
        if sys.flags.dev_mode:
            raise
        print(f"main.py: {type(e).__name__}: {BadInput(e)} (try python -X dev)", file=sys.stderr)
        return 1


# %% Run, as a program, not as cells; with what `uv run main.py` installs beforehand
# /// script
# requires-python = ">=3.10"
# dependencies = ["jax>=0.4.36,!=0.10.2", "optax>=0.2.4", "chex>=0.1.88", "numpy>=1.26",
#   "gymnasium[classic-control]>=1.2.1", "matplotlib>=3.9", "imageio>=2.36", "tqdm>=4.66"]
# ///
if __name__ == "__main__" and Path(sys.argv[0]).name == Path(globals().get("__file__", "")).name:
    gc.freeze()  # nor are imports searched for garbage at exit
    gc.enable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process, wherever it is
    if isinstance(sys.stdout, io.TextIOWrapper):  # None if closed
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold any letter
    sys.exit(main(sys.argv[1:]))
