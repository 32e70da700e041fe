"""Deep Q-learning in one file: an agent learns to balance a pole in seconds.

The game is CartPole-v1. At each step the agent sees four numbers: where the cart is,
how fast it moves, how far the pole leans, and how fast it falls. Then it pushes the
cart to the left or to the right. Each step gives a reward of 1. The episode ends when
the pole falls, when the cart leaves the track, or after 500 steps.

Q(s, a) is the sum of the rewards that follow action a in state s, if all later actions
are the best ones. A reward that comes k steps later counts gamma^k times; gamma, the
discount, is a little below 1. With the reward r and the next state s', the Bellman
equation says (in a game of chance, on average):

    Q(s, a) = r + gamma max_a' Q(s', a')        or r alone if the game is over

A Deep Q-Network (DQN, Mnih et al. 2015) is a neural network that predicts Q(s, a). It
learns by moving its prediction, the left side, towards the right side. At each step:

    Act.       Take a random action with probability epsilon, otherwise the best one.
    Remember.  Store what happened in the replay memory.
    Learn.     Draw a random batch from the memory, and correct its predictions.
    Evaluate.  From time to time, play without random actions. Stop if all goes well.

The batch is random because successive steps are too much alike. The Q-values on the
right side come from the target network, an older copy of the network: if each update
moved the target as well as the prediction, both could run away.

    python main.py                                     train, and write all files
    python main.py --evaluate params.pkl               score trained parameters
    python main.py --env-id MountainCar-v0 --seed 1    play another game
    python main.py --help                              list all settings

In a notebook, run the cells, which begin with # %%, then main("--seed 1"). After a
change, run the cells below it again, since compiled functions keep the old code. The
lecture ends with the cell Training. Then come the sources, files and the command line.

In all cells, params is a tree of arrays, rng is a generator of random numbers, env is a
game, and config holds the settings: config.gamma is the gamma above. Letters in square
brackets are sizes: B transitions in a batch, O numbers in an observation, A actions, N
episodes, T steps.
"""

import argparse
import itertools
import os
import pickle
import shlex
import sys
import tempfile
import zipfile
from collections import deque
from contextlib import closing, contextmanager
from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # The network is too small for a GPU.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Games are drawn without a window
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # and without sound.
if __name__ == "__main__" and "ipykernel" not in sys.modules:
    os.environ["MPLBACKEND"] = "agg"  # Notebooks set one that may be missing.

import chex
import gymnasium as gym
import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, grad, jit, lax, nn, random, tree, vmap
from matplotlib.figure import Figure
from tqdm import tqdm


# %% Network: a multi-layer perceptron maps an observation to one Q-value per action
def init_layer(rng, n_inputs, n_outputs, gain):
    """Return a dense layer whose weights have the variance gain^2 / n_inputs."""
    deviation = gain / np.sqrt(n_inputs)
    weights = rng.normal(0, deviation, (n_inputs, n_outputs))
    return {"w": np.float32(weights), "b": np.zeros(n_outputs, np.float32)}


def init_params(rng, env, config):
    """Return the parameters of a new network for this game.

    Its last layer is small, so that at first all Q-values are nearly 0. Observations
    are divided by the scale, which measure_scale sets.
    """
    width = env.observation_space.shape[0]
    n_actions = env.action_space.n

    params = {"scale": np.ones(width, np.float32), "hidden": []}
    for size in config.hidden:
        params["hidden"].append(init_layer(rng, width, size, gain=1.0))
        width = size

    params["output"] = init_layer(rng, width, n_actions, gain=0.01)
    if config.dueling:
        params["value"] = init_layer(rng, width, 1, gain=0.01)
    return params


def dense(layer, x):
    """Return the outputs of a dense layer: [..., n_inputs] -> [..., n_outputs]."""
    return x @ layer["w"] + layer["b"]


@jit  # JAX compiles this, once for each shape and type of arguments.
def q_values(params, obs):
    """Return Q(s, a) for every action: [..., O] -> [..., A].

    A dueling network predicts the value of a state and the advantages of actions apart:
        Q(s, a) = value(s) + advantage(s, a) - mean_a' advantage(s, a')
    In Wang et al. (2016) both have hidden layers of their own. Here they share them.
    """
    x = obs / lax.stop_gradient(params["scale"])  # It is measured, not learned.
    for layer in params["hidden"]:
        x = nn.silu(dense(layer, x))  # silu(x) = x sigmoid(x)

    if "value" not in params:
        return dense(params["output"], x)
    value = dense(params["value"], x)
    advantage = dense(params["output"], x)
    return value + advantage - advantage.mean(axis=-1, keepdims=True)


# %% Policy: use what is known, or explore
# The course fixes how the arguments begin: rng, obs or rng, params, obs.
def make_generator(rng):
    """Return rng if it is a generator of NumPy, and one seeded by it if it is a key of
    JAX. This program draws with NumPy, which does not have to be compiled first.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(np.asarray(random.key_data(rng)))


def random_policy_fn(rng, obs, n_actions=2):
    """Return random actions, all equally likely: [..., O] -> [...]."""
    return make_generator(rng).integers(n_actions, size=obs.shape[:-1])


def policy_fn(rng, params, obs):
    """Return the greedy actions, argmax_a Q(s, a): [..., O] -> [...].

    Nothing is random here, so rng may be None.
    """
    return np.asarray(q_values(params, obs)).argmax(axis=-1)


def action_fn(rng, params, obs, epsilon=0.05):
    """Return a random action with probability epsilon, otherwise the greedy one."""
    rng = make_generator(rng)
    if rng.random() < epsilon:
        n_actions = params["output"]["b"].size
        return int(random_policy_fn(rng, obs, n_actions))
    return int(policy_fn(rng, params, obs))


def epsilon_at(step, config):
    """Return epsilon: 1 in the warm-up, then a fall from epsilon_start towards its end.

    After t steps of the fall, epsilon = end + (start - end) remaining, where this is
        linear:       1 - t / epsilon_decay, but not less than 0
        exponential:  exp(-t / epsilon_decay)
    """
    t = step - config.warmup_steps
    if t <= 0:
        return 1.0
    if config.epsilon_fall == "linear":
        remaining = max(0.0, 1 - t / config.epsilon_decay)
    else:
        remaining = float(np.exp(-t / config.epsilon_decay))
    return config.epsilon_end + (config.epsilon_start - config.epsilon_end) * remaining


# %% Learning: move Q(s, a) towards what the next step says it should have been
class Transition(NamedTuple):
    """A step of the game. In a batch, each field has a first axis of size B.

    `terminated` says that the game is over, so that no reward can follow. If only the
    time is up, it is false: the next state still has a value (Pardo et al. 2018).
    """

    obs: Array  # [O]
    action: Array
    reward: Array
    next_obs: Array  # [O]
    terminated: Array


def reward_to_learn(reward, config):
    """Return a reward as the network learns it: scaled, clipped to [-1, 1], or raw.

    Scaled rewards, the default, are multiplied by 1 - gamma. So are all Q-values, then.
    In CartPole, with gamma = 0.99, true ones lie between 0 and 1 instead of 0 and 100.
    """
    if config.rewards == "clipped":
        return jnp.clip(reward, -1, 1)
    if config.rewards == "scaled":
        return (1 - config.gamma) * reward
    return reward


def td_error(params, target_params, transition, config):
    """Return the temporal-difference error y - Q(s, a) of one transition.

    The target y is the right side of the Bellman equation, where r is reward_to_learn:
        DQN:         y = r + gamma max_a' Q_target(s', a')
        Double DQN:  y = r + gamma Q_target(s', argmax_a' Q(s', a'))
        At the end:  y = r
    Q_target counts at most as q_limit, which is scaled as the rewards are.

    A maximum prefers values that are too high by chance. In Double DQN (van Hasselt et
    al. 2016), the default, the online network chooses a' and the target network judges
    it.
    """
    obs, action, reward, next_obs, terminated = transition
    chex.assert_rank([obs, action, reward], [1, 0, 0])  # one transition, not a batch

    next_values = q_values(target_params, next_obs)
    if config.double:
        next_action = jnp.argmax(q_values(params, next_obs))
    else:
        next_action = jnp.argmax(next_values)

    # A value far above all returns is an error, which bootstrapping would spread.
    limit = config.q_limit * reward_to_learn(1.0, config)
    next_value = jnp.minimum(next_values[next_action], limit)
    r = reward_to_learn(reward, config)
    y = r + config.gamma * (1 - terminated) * next_value

    # Only the prediction learns. For the gradient, the target y is a constant.
    return lax.stop_gradient(y) - q_values(params, obs)[action]


@partial(jit, static_argnames="config")  # Each config is compiled as a new program.
def td_errors(params, target_params, batch, config):
    """Return the errors of a batch, [B].

    vmap applies td_error to each transition. In in_axes, 0 stands for an argument that
    has one entry for each transition, and None for one that all transitions share.
    """
    td_error_of_each = vmap(td_error, in_axes=(None, None, 0, None))
    return td_error_of_each(params, target_params, batch, config)


def loss_fn(params, target_params, batch, config, weights):
    """Return the mean of weight times loss over the transitions of a batch.

    An error e costs e^2 / 2. The Huber loss is gentler if |e| > 1: it is |e| - 1/2.
    With the scaled rewards of CartPole, such errors are rare.
    """
    errors = td_errors(params, target_params, batch, config)
    if config.loss == "huber":
        losses = optax.huber_loss(errors)
    else:
        losses = optax.l2_loss(errors)
    return jnp.mean(weights * losses)


class Learner(NamedTuple):
    """All that update_fn changes."""

    params: Any  # The online network acts and learns.
    target_params: Any  # The target network is older.
    opt_state: optax.OptState
    n_updates: Array


def make_optimizer(config):
    """Return Adam (Kingma and Ba 2015), or AdamW (Loshchilov and Hutter 2019) with
    AMSGrad (Reddi et al. 2018) and a weight decay of 0.01, as optax has them.

    Each number of a gradient may be clipped to [-clip_value, clip_value] first.
    """
    if config.optimizer == "adam":
        adam = optax.adam(config.learning_rate)
        optimizer = optax.flatten(adam)  # All parameters as one array: this is faster.
    else:
        weights_only = partial(tree.map, lambda array: array.ndim == 2)
        optimizer = optax.chain(
            optax.scale_by_amsgrad(),
            optax.add_decayed_weights(0.01, mask=weights_only),  # not of biases
            optax.scale_by_learning_rate(config.learning_rate),
        )
    if config.clip_value < np.inf:
        optimizer = optax.chain(optax.clip(config.clip_value), optimizer)
    return optimizer


def init_learner(params, config):
    """Return a learner whose two networks are equal."""
    init = jit(make_optimizer(config).init)  # It compiles faster as one program.
    return Learner(params, params, init(params), np.int32(0))


@partial(jit, static_argnames="config")
def update_fn(learner, batch, config, weights=1.0):
    """Return the learner after one step of gradient descent on a batch.

    Every target_period updates, the target network goes a share tau of the way to the
    online one:
        target <- (1 - tau) target + tau params
    With tau = 1 it is copied (Mnih et al. 2015). A small tau after each update lets it
    follow softly instead (Lillicrap et al. 2016).
    """
    params, target_params, opt_state, n_updates = learner
    gradient = grad(loss_fn)(params, target_params, batch, config, weights)
    optimizer = make_optimizer(config)  # Python runs this only while JAX compiles.
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    params = optax.apply_updates(params, updates)

    n_updates = n_updates + 1
    is_time = n_updates % config.target_period == 0
    tau = jnp.where(is_time, config.tau, 0.0)  # jit allows no `if` on an array.
    target_params = optax.incremental_update(params, target_params, tau)
    return Learner(params, target_params, opt_state, n_updates)


# %% Replay: the memory is a deque of transitions, which forgets the oldest ones
def stack(transitions):
    """Return a list of transitions as one batch."""
    columns = zip(*transitions)  # all observations, all actions, ...
    return Transition(*[np.array(column) for column in columns])


def sample_batch(rng, memory, batch_size):
    """Return a random batch, in which a transition may occur more than once."""
    indices = make_generator(rng).integers(len(memory), size=batch_size)
    return stack([memory[i] for i in indices])


def measure_scale(learner, memory):
    """Let both networks divide each number of an observation by its standard deviation
    in the memory, so that its unit does not matter.

    This is done once, after the warm-up. The mean is not subtracted: in CartPole, 0 is
    the middle of the track and the upright pole.
    """
    deviation = np.std([transition.obs for transition in memory], axis=0)
    scale = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)
    return learner._replace(
        params={**learner.params, "scale": scale},
        target_params={**learner.target_params, "scale": scale},
    )


# %% Prioritized replay, off by default: replay more often what was predicted badly
class PrioritizedMemory(deque):
    """A memory that draws transitions by priority (Schaul et al. 2016).

    Priority:     p_i = |error of transition i when it was last replayed| + 10^-6
    Probability:  P(i) = p_i^0.6 / sum_k p_k^0.6
    Weight:       w_i = (M P(i))^-beta, divided by the largest one in the batch

    A new transition has the highest error so far as its priority, or 1 before the first
    replay. M transitions are in the memory. What is drawn often gets a small weight in
    the loss: with beta = 1, the weights make up for the probabilities, up to a common
    factor in each batch.

    Schaul et al. do more: they split the sum of the powers into B equal parts and draw
    a transition from each, clip errors to [-1, 1], and quarter the learning rate.
    """

    def __init__(self, size):
        super().__init__(maxlen=size)
        self.priorities = deque(maxlen=size)
        self.highest = 0.0

    def append(self, transition):
        super().append(transition)
        self.priorities.append(self.highest or 1.0)  # 1 before the first replay

    def sample(self, rng, batch_size, beta):
        """Return a batch, the weights of its transitions [B] and their indices [B]."""
        powers = np.array(self.priorities) ** 0.6
        probabilities = powers / powers.sum()
        indices = rng.choice(len(self), batch_size, p=probabilities)

        weights = (len(self) * probabilities[indices]) ** -beta
        weights = np.float32(weights / weights.max())
        return stack([self[i] for i in indices]), weights, indices

    def renew(self, indices, errors):
        """Store the priorities of a batch, never 0, so that all can be drawn again."""
        for i, error in zip(indices, np.abs(errors).tolist()):
            self.priorities[i] = error + 1e-6
            self.highest = max(self.highest, error)


def make_memory(config):
    """Return an empty memory."""
    if config.prioritized:
        return PrioritizedMemory(config.memory_size)
    return deque(maxlen=config.memory_size)


def prioritized_update(rng, learner, memory, step, config):
    """Draw a batch by priority, renew its priorities, and return the updated learner.

    beta rises from 0.4 towards 1, which it reaches only if all total_steps are taken.
    """
    beta = 0.4 + 0.6 * step / config.total_steps
    batch, weights, indices = memory.sample(rng, config.batch_size, beta)
    errors = td_errors(learner.params, learner.target_params, batch, config)
    memory.renew(indices, errors)
    return update_fn(learner, batch, config, weights)


# %% Games: what is played, and how an agent is scored
class PlainGame(gym.Wrapper):
    """A game whose actions are 0 to A - 1: the numbers of the choices in a list."""

    def __init__(self, env, choices):
        super().__init__(env)
        self.choices = choices
        self.action_space = gym.spaces.Discrete(len(choices))

    def reset(self, **kwargs):
        obs, _ = self.env.reset(**kwargs)
        return obs, {}  # The infos of the game are left out.

    def step(self, action):
        choice = copy(self.choices[int(action)])  # The game may change its copy.
        obs, reward, terminated, truncated, _ = self.env.step(choice)
        return obs, reward, terminated, truncated, {}


def list_choices(space, bins):
    """Return all actions of a game, with bins for each number of a continuous one."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.start) + i for i in range(space.n)]
    if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
        raise ValueError(f"its actions cannot be counted: {space}")
    if bins ** int(np.prod(space.shape)) > 10_000:
        raise ValueError(f"it has too many actions, lower --action-bins: {space}")

    grid = np.linspace(space.low.ravel(), space.high.ravel(), bins, dtype=space.dtype)
    return [np.reshape(row, space.shape) for row in itertools.product(*grid.T)]


def check_observations(space):
    """Raise a ValueError if observations of this space cannot be made vectors."""
    try:
        is_vector = gym.spaces.flatten_space(space).shape is not None
    except NotImplementedError:
        is_vector = False
    if not is_vector:
        raise ValueError(f"its observations are no vectors of numbers: {space}")


def make_game(config, **kwargs):
    """Return a game whose observations are vectors and whose actions are 0 to A - 1.

    It ends after 1,000 steps if it has no time limit of its own. At the end of an
    episode, info["episode"]["r"] is its return.
    """
    game = gym.make(config.env_id, **kwargs)
    try:
        choices = list_choices(game.action_space, config.action_bins)
        check_observations(game.observation_space)
    except Exception:
        game.close()
        raise

    env = gym.wrappers.FlattenObservation(PlainGame(game, choices))
    if game.spec.max_episode_steps is None:
        env = gym.wrappers.TimeLimit(env, 1_000)
    return gym.wrappers.RecordEpisodeStatistics(env)


def make_games(config, number):
    """Return many games that are played side by side."""
    if config.env_id == "CartPole-v1":  # Gymnasium steps all of them as one array.
        return gym.make_vec(config.env_id, number)
    return gym.vector.SyncVectorEnv([partial(make_game, config)] * number)


def draw_seed(rng):
    """Return a random seed for a game."""
    return int(rng.integers(2**31))


def play_episodes(rng, params, n_episodes, config):
    """Play N episodes side by side: greedily, or at random if params is None.

    Return the first observations, [N, O], and the rewards of T steps, [T, N]. The
    rewards are 0 after the end of an episode.
    """
    rewards = []
    running = np.ones(n_episodes, bool)
    with closing(make_games(config, n_episodes)) as envs:
        first_obs, _ = envs.reset(seed=draw_seed(rng))
        obs = first_obs
        while running.any():
            if params is None:
                actions = random_policy_fn(rng, obs, envs.single_action_space.n)
            else:
                actions = policy_fn(rng, params, obs)
            obs, reward, terminated, truncated, _ = envs.step(actions)

            # A game that has ended starts again, but only its first episode counts.
            rewards.append(np.where(running, reward, 0))
            running = running & ~terminated & ~truncated
    return first_obs, np.array(rewards)


def evaluate(rng, params, n_episodes, config):
    """Play N episodes greedily. Return three arrays [N]: the returns, the discounted
    returns, and what the network predicted these to be, max_a Q(s, a) at the start. If
    rewards are learned clipped, the last two are about clipped rewards.
    """
    first_obs, rewards = play_episodes(rng, params, n_episodes, config)
    discounts = config.gamma ** np.arange(len(rewards))
    achieved = discounts @ reward_to_learn(rewards, config)  # [T] @ [T, N] -> [N]
    predicted = np.asarray(q_values(params, first_obs)).max(axis=-1)
    factor = reward_to_learn(1.0, config)  # This undoes the scaling of rewards.
    return rewards.sum(axis=0), achieved / factor, predicted / factor


class Evaluation(NamedTuple):
    """How an agent played at a step of the training, as means over episodes."""

    step: int
    score: float  # the return
    achieved: float  # the discounted return
    predicted: float  # what the network took it to be, without a time limit


def judge(rng, params, step, config):
    """Return the Evaluation of an agent. If it reaches the goal, which may be luck, it
    plays twenty times as many episodes, and only these count.
    """
    results = evaluate(rng, params, config.eval_episodes, config)
    if np.mean(results[0]) >= config.goal:
        results = evaluate(rng, params, 20 * config.eval_episodes, config)
    score, achieved, predicted = np.mean(results, axis=1).tolist()
    return Evaluation(step, score, achieved, predicted)


# %% Settings: the numbers that were left open so far, and what other games need
def whole(text):
    """Read a whole number above 0; like those below, for argparse."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("a whole number above 0 is needed")
    return int(text)


def positive(text):
    if not float(text) > 0:
        raise argparse.ArgumentTypeError("a number above 0 is needed")
    return float(text)


def share(text):
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError("a number from 0 to 1 is needed")
    return float(text)


def discount(text):
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError("a number from 0 to below 1 is needed")
    return float(text)


def option(default, meaning, **settings):
    """Return a field of Config that is an option, with these settings of argparse."""
    if isinstance(default, bool):
        settings["action"] = argparse.BooleanOptionalAction
    return field(default=default, metadata={"help": meaning, **settings})


@dataclass(frozen=True)
class Config:
    """The settings of an agent. The defaults are for CartPole; GAMES has others."""

    env_id: str = "CartPole-v1"
    action_bins: int = option(11, "bins for each number of an action", type=whole)

    # Network
    hidden: tuple = option((64, 64), "sizes of hidden layers", type=whole, nargs="+")
    scale_observations: bool = option(True, "divide observations by their deviation")
    dueling: bool = option(False, "split Q-values into a value and advantages")

    # Policy
    epsilon_start: float = option(1.0, "epsilon after the warm-up", type=share)
    epsilon_end: float = option(0.05, "epsilon in the end", type=share)
    epsilon_decay: float = option(
        1500.0, "steps or time constant of its fall", type=positive
    )
    epsilon_fall: str = option(
        "linear", "how epsilon falls", choices=("linear", "exponential")
    )

    # Learning
    rewards: str = option(
        "scaled", "how rewards are learned", choices=("scaled", "clipped", "raw")
    )
    gamma: float = option(0.99, "discount of a reward one step later", type=discount)
    double: bool = option(True, "use the target of Double DQN")
    q_limit: float = option(1_000.0, "limit of Q_target, as a return", type=positive)
    loss: str = option("huber", "cost of an error", choices=("huber", "squared"))
    optimizer: str = option("adam", "adamw includes AMSGrad", choices=("adam", "adamw"))
    learning_rate: float = option(5e-3, "step size of the optimizer", type=positive)
    clip_value: float = option(np.inf, "limit of numbers in gradients", type=positive)
    target_period: int = option(20, "updates between two target networks", type=whole)
    tau: float = option(1.0, "share of the online network in a target", type=share)

    # Replay
    memory_size: int = option(1_000, "transitions in the memory", type=whole)
    batch_size: int = option(64, "transitions in a batch", type=whole)
    prioritized: bool = option(False, "replay more often what was predicted badly")

    # Training
    total_steps: int = option(50_000, "steps of the training at most", type=whole)
    warmup_steps: int = option(512, "random steps before learning starts", type=whole)
    train_every: int = option(1, "steps between two updates", type=whole)
    eval_every: int = option(256, "steps between two evaluations", type=whole)
    eval_episodes: int = option(100, "episodes of an evaluation", type=whole)
    goal: float = option(500.0, "mean greedy return that ends training", type=float)


OTHER = Config(  # for games that are not in the list below
    goal=np.inf,
    epsilon_decay=5_000.0,
    gamma=0.98,
    q_limit=np.inf,
    learning_rate=2e-3,
    target_period=1,
    tau=0.01,
    memory_size=50_000,
    batch_size=128,
    eval_every=2_048,
    eval_episodes=50,
)
DEEP = replace(OTHER, hidden=(64, 64, 64))
TUNED = [  # by hand, on seeds 1000 to 1099
    Config(),
    replace(
        DEEP,
        env_id="MountainCar-v0",
        goal=-100.0,
        eval_every=1_024,
        total_steps=100_000,
    ),
    replace(DEEP, env_id="Acrobot-v1", goal=-72.0, tau=0.03),
    replace(
        OTHER, env_id="Pendulum-v1", goal=-150.0, batch_size=64, total_steps=30_000
    ),
]
GAMES = {config.env_id: config for config in TUNED}


# %% Training: act, remember, learn, evaluate
def train(config, seed, quiet=False):
    """Train an agent until it reaches the goal, or for total_steps, with this seed.

    Return its best parameters, a list with the step and return of each episode, and a
    list of evaluations. The seed decides all that is random.
    """
    rng = np.random.default_rng(seed)
    eval_rng = np.random.default_rng([seed, 1])  # Evaluations do not disturb training.
    memory = make_memory(config)
    episodes = []
    evaluations = []
    candidates = []
    with closing(make_game(config)) as env:
        learner = init_learner(init_params(rng, env, config), config)
        obs, _ = env.reset(seed=draw_seed(rng))
        bar = tqdm(range(1, config.total_steps + 1), "training", disable=quiet)
        for step in bar:
            # Act.
            epsilon = epsilon_at(step, config)
            action = action_fn(rng, learner.params, obs, epsilon)
            next_obs, reward, terminated, truncated, info = env.step(action)

            # Remember.
            memory.append(Transition(obs, action, reward, next_obs, terminated))
            obs = next_obs
            if terminated or truncated:
                episodes.append((step, info["episode"]["r"]))
                obs, _ = env.reset()

            # Learn.
            if step == config.warmup_steps and config.scale_observations:
                learner = measure_scale(learner, memory)
            if step >= config.warmup_steps and step % config.train_every == 0:
                if config.prioritized:
                    learner = prioritized_update(rng, learner, memory, step, config)
                else:
                    batch = sample_batch(rng, memory, config.batch_size)
                    learner = update_fn(learner, batch, config)

            # Evaluate.
            if step % config.eval_every == 0 or step == config.total_steps:
                candidates.append(learner.params)
                evaluations.append(judge(eval_rng, learner.params, step, config))
                score = evaluations[-1].score
                bar.set_postfix(epsilon=epsilon, greedy_return=score)
                if score >= config.goal:
                    break

    best = np.argmax([evaluation.score for evaluation in evaluations])
    return candidates[best], episodes, evaluations


# %% Sources, with their titles, and what is different here
# Mnih et al. 2015: Human-level control through deep reinforcement learning
# van Hasselt et al. 2016: Deep reinforcement learning with double Q-learning
# Wang et al. 2016: Dueling network architectures for deep reinforcement learning
# Schaul et al. 2016: Prioritized experience replay
# Pardo et al. 2018: Time limits in reinforcement learning
# Lillicrap et al. 2016: Continuous control with deep reinforcement learning
# Kingma and Ba 2015: Adam: a method for stochastic optimization
# Loshchilov and Hutter 2019: Decoupled weight decay regularization
# Reddi et al. 2018: On the convergence of Adam and beyond
#
# The DQN of Mnih et al. plays Atari games. It differs from the defaults for CartPole:
#                      Mnih et al. 2015             here
#     target           DQN, without a limit         Double DQN, limited by q_limit
#     observations     pixels of four frames        four numbers, scaled
#     an action        is repeated for four frames  is taken once
#     network          convolutions, ReLU           perceptron, SiLU, small last layer
#     rewards          clipped to [-1, 1]           multiplied by 1 - gamma
#     game over        also when a life is lost     not when the time is up
#     error            clipped to [-1, 1]           Huber loss: the same gradient
#     optimizer        RMSProp, rate 0.00025        Adam, rate 0.005
#     a batch          32, every 4 actions          64, after every action
#     target network   copied every 10,000 updates  copied every 20 updates
#     memory, warm-up  1,000,000 and 50,000         1,000 and 512 transitions
#     epsilon          1 to 0.1, 1,000,000 frames   1 to 0.05, 1,500 steps
#     evaluation       epsilon 0.05                 epsilon 0
#     training         a fixed number of frames     ends when the goal is reached


# %% Files: parameters, pictures, and the zip to hand in
@contextmanager
def replacing(path):
    """Yield a temporary path. The complete file there then replaces the old one."""
    new = path.with_name(f"new-{os.getpid()}-{path.name}")
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def save_params(path, params, config):
    """Write parameters and settings as containers of Python, strings and numbers.

    Raise a ValueError, and write nothing, if load_agent could not read the file.
    """
    numbers = tree.map(lambda array: np.asarray(array).tolist(), params)
    with replacing(Path(path)) as new:
        new.write_bytes(pickle.dumps({"config": asdict(config), "params": numbers}))
        load_agent(new)


class PlainUnpickler(pickle.Unpickler):
    """Read no functions and no classes, so that no code of a stranger's file runs."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def load_agent(path):
    """Return the parameters and the settings in a file of save_params.

    Raise a ValueError if the file is not one, or if its parameters do not fit.
    """
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file).load()
        config = Config(**content["config"])
        # Gymnasium imports the module before a colon. No file may ask for that.
        config = replace(config, env_id=config.env_id.split(":")[-1])
        if config.env_id not in gym.registry:
            raise ValueError(f"its game {config.env_id} is not known; give --env-id")
        with closing(make_game(config)) as env:
            expected = init_params(np.random.default_rng(), env, config)

        # Where an array is expected, the file has a list of numbers.
        found = content["params"]
        params = tree.map(lambda _, numbers: np.float32(numbers), expected, found)
        for array, other in zip(tree.leaves(params), tree.leaves(expected)):
            if array.shape != other.shape or not np.isfinite(array).all():
                raise ValueError(f"it lacks finite numbers of shape {other.shape}")
        return params, config
    except Exception as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def load_params(path):
    """Return the parameters in a file, for policy_fn; see load_agent."""
    return load_agent(path)[0]


def play(seed, params, epsilon, seconds, config, render_mode):
    """Play some seconds of a game, one episode after the other. Return at most 15
    frames for each second, but none of a window, and how many milliseconds to show each
    in real time.
    """
    rng = np.random.default_rng(seed)
    frames = []
    with closing(make_game(config, render_mode=render_mode)) as env:
        fps = env.metadata.get("render_fps") or 30
        steps_per_frame = max(1, round(fps / 10))
        obs, _ = env.reset(seed=draw_seed(rng))
        for step in range(round(seconds * fps)):
            if step % steps_per_frame == 0 and render_mode == "rgb_array":
                frames.append(env.render())
            action = action_fn(rng, params, obs, epsilon)
            obs, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                obs, _ = env.reset()
    return frames, 1000 * steps_per_frame / fps


def record(seed, params, epsilon, config, path):
    """Write a GIF of four seconds of play, less than 400 pixels wide."""
    frames, duration = play(seed, params, epsilon, 4, config, "rgb_array")
    n = max(1, frames[0].shape[1] // 200)
    small = [frame[n - 1 :: n, n - 1 :: n, :3] for frame in frames]
    with replacing(path) as new:
        iio.imwrite(new, small, duration=duration, loop=0)


def draw_curves(episodes, evaluations, config, path):
    """Draw the returns, and what the agent predicted beside what it achieved."""
    steps, returns = np.reshape(episodes, (-1, 2)).T
    ends = range(1, len(returns) + 1)
    means = [returns[max(0, end - 100) : end].mean() for end in ends]
    eval_steps, scores, achieved, predicted = np.transpose(evaluations)

    figure = Figure(figsize=(10, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot(steps, returns, ".", color="silver", label="training episode")
    upper.plot(steps, means, label="mean of the last 100, or fewer")
    upper.plot(eval_steps, scores, "o-", label="greedy evaluation")
    upper.set(title=config.env_id, ylabel="return")

    lower.plot(eval_steps, predicted, "s--", label="predicted at the start")
    lower.plot(eval_steps, achieved, "o-", label="achieved by greedy play")
    if config.env_id == "CartPole-v1":
        highest = 1 / (1 - config.gamma)  # the sum of gamma^k for all k
        lower.axhline(highest, color="gray", label="highest without time limit")
    lower.set(xlabel="step", ylabel="discounted return")
    for axes in (upper, lower):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    with replacing(path) as new:
        figure.savefig(new)


@contextmanager
def optional(*paths):
    """Say what cannot be made here, and go on without it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        names = " and ".join(path.name for path in paths)
        print(f"{names} could not be made: {error!r}", file=sys.stderr)
        for path in paths:
            path.unlink(missing_ok=True)  # An old one shows another agent.


def write_zip(out, config):
    """Pack this program, its documents and tests, and the files of the run."""
    program = Path(globals().get("__file__", "main.py"))  # A notebook has no file.
    files = {"main.py": program}
    own_game = program.parent / (config.env_id.split(":")[0] + ".py")
    if own_game.exists():
        files[own_game.name] = own_game
    for name in ("README.md", "requirements.txt", "tests/requirements.txt"):
        files[name] = program.parent / name
    for path in sorted(program.parent.glob("tests/[a-z]*.py")):
        files[f"tests/{path.name}"] = path
    for name in ("params.pkl", "agent.gif", "random.gif", "learning_curve.png"):
        files[name] = out / name

    with replacing(out / "hand-in.zip") as new, zipfile.ZipFile(new, "w") as archive:
        for name, path in files.items():
            if path.exists():
                # The date of this entry is fixed: the same files, the same bytes.
                entry = zipfile.ZipInfo(name)
                archive.writestr(entry, path.read_bytes())
            else:
                print(f"hand-in.zip lacks {name}, which does not exist.")


# %% Command line: from words to files
HEADER = f"agent{'mean':>17}{'std':>10}{'min':>10}{'episodes':>10}  goal"


def print_score(name, params, seed, n_episodes, config):
    """Print how an agent plays, or a random one if params is None.

    The episodes are fresh: train draws other random numbers from the same seed.
    """
    rng = np.random.default_rng([seed, 2])
    _, rewards = play_episodes(rng, params, n_episodes, config)
    returns = rewards.sum(axis=0)
    numbers = f"{returns.mean():10.2f}{returns.std():10.2f}{returns.min():10.2f}"
    goal = "reached" if returns.mean() >= config.goal else "not reached"
    if config.goal == np.inf:
        goal = "none"
    print(f"{name:12}{numbers}{n_episodes:10}  {goal}")


def run(config, seed, out):
    """Train an agent, score it and write all files. Return its parameters."""
    params, episodes, evaluations = train(config, seed)
    save_params(out / "params.pkl", params, config)
    params = load_params(out / "params.pkl")  # What is scored is what is handed in.

    # Training began with the same network.
    with closing(make_game(config)) as env:
        untrained = init_params(np.random.default_rng(seed), env, config)
    agents = {"random": None, "untrained": untrained, "trained": params}
    print(HEADER)
    for name, agent in agents.items():
        print_score(name, agent, seed, config.eval_episodes, config)
    best_score = max(evaluation.score for evaluation in evaluations)
    if best_score < config.goal < np.inf:
        print(f"The best in training was {best_score:.2f}. The goal is {config.goal}.")
        print("More --total-steps or another --seed may help.")

    with optional(out / "learning_curve.png"):
        draw_curves(episodes, evaluations, config, out / "learning_curve.png")
    with optional(out / "agent.gif", out / "random.gif"):
        record(seed, params, 0.0, config, out / "agent.gif")
        record(seed, params, 1.0, config, out / "random.gif")
    write_zip(out, config)
    print(f"The files are in {out}.")
    return params


def score_files(paths, seed, n_episodes, show):
    """Print a row for each file of parameters. Return 2 if one cannot be used."""
    status = 0
    print(HEADER)
    for path in paths:
        try:
            params, config = load_agent(path)
        except ValueError as error:
            print(f"main.py: error: argument --evaluate: {error}", file=sys.stderr)
            status = 2
        else:
            print_score(path, params, seed, n_episodes, config)
            if show:
                watch(seed, params, config)
    return status


def watch(seed, params, config):
    """Show half a minute of play in a window, if this machine has a display."""
    displays = {"DISPLAY", "WAYLAND_DISPLAY"}
    if os.environ.get("SDL_VIDEODRIVER") == "dummy":
        del os.environ["SDL_VIDEODRIVER"]
    try:
        if sys.platform == "linux" and not os.environ.keys() & displays:
            raise OSError("there is no display")
        play(seed, params, 0.0, 30, config, "human")
    except Exception as error:  # noqa: BLE001
        print(f"The agent cannot be shown in a window: {error}", file=sys.stderr)


def make_parser(words):
    """Return a parser for these words. Its defaults are those of the game in them."""
    game = argparse.ArgumentParser("main.py", add_help=False, allow_abbrev=False)
    game.add_argument("--env-id", default="CartPole-v1", help="name of the game")
    env_id = game.parse_known_args(words)[0].env_id
    defaults = asdict(GAMES.get(env_id, OTHER))

    parser = argparse.ArgumentParser(
        "main.py",
        usage="python main.py [options]",
        description="Train a Deep Q-Network, and write all files of the hand-in.",
        epilog="For a game of your own, write mygame.py beside main.py, with a "
        "gymnasium.Env (GIFs need its render) and gymnasium.register('My-v0', MyEnv). "
        "Then give --env-id mygame:My-v0, to train as well as to --evaluate.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        parents=[game],
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, help="number that decides all that is random")
    add("--out", type=Path, default=Path(), help="folder for the files")
    add("--evaluate", nargs="+", metavar="FILE", help="score these files, do not train")
    add("--watch", action="store_true", help="show the agent in a window at the end")
    for setting in fields(Config)[1:]:  # all but env_id
        flag = "--" + setting.name.replace("_", "-")
        add(flag, default=defaults[setting.name], **setting.metadata)
    return parser


def make_config(args):
    """Return the settings among the options."""
    values = {setting.name: getattr(args, setting.name) for setting in fields(Config)}
    values["hidden"] = tuple(values["hidden"])
    return Config(**values)


@contextmanager
def checking(parser, flag):
    """Stop with an error of argparse about this option if anything fails."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        parser.error(f"argument {flag}: {str(error) or repr(error)}")


def check_game(parser, config):
    """Refuse a game that cannot be played, or whose name is not complete."""
    with checking(parser, "--env-id"), closing(make_game(config)) as env:
        if not config.env_id.endswith(env.spec.id):
            raise ValueError(f"the complete name is {env.spec.id}")


def make_folder(parser, path):
    """Return the absolute path of this folder. Refuse one that cannot be written to."""
    out = path.expanduser().absolute()
    with checking(parser, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    return out


def main(argv=None):
    """Run the command line with these words, or with those of the shell."""
    words = sys.argv[1:] if argv is None else argv
    if isinstance(words, str):
        words = shlex.split(words)
    words = [str(word) for word in words]
    parser = make_parser(words)
    args = parser.parse_args(words)

    config = make_config(args)
    if config.total_steps <= config.warmup_steps:
        parser.error("argument --total-steps: it must be above --warmup-steps")
    with checking(parser, "--seed"):
        np.random.default_rng(args.seed)
    check_game(parser, config)
    if args.evaluate:
        return score_files(args.evaluate, args.seed, args.eval_episodes, args.watch)

    params = run(config, args.seed, make_folder(parser, args.out))
    if args.watch:
        watch(args.seed, params, config)
    return 0


if __name__ == "__main__" and "ipykernel" not in sys.modules:
    sys.exit(main())
