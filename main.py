"""Deep Q-learning in one file: within seconds, an agent learns to balance a pole.

In the game CartPole-v1, a pole stands on a cart. At each step the agent sees four
numbers: the position and the speed of the cart, and the angle and the angular speed of
the pole. It then pushes the cart to the left or to the right, and earns a reward of 1.
The game is over as soon as the pole leans by more than 12 degrees or the cart leaves
the track. After 500 steps the time is up: the episode ends, although the game is not
over, and the agent has played perfectly. The sum of all rewards in an episode is its
return.

Q(s, a) is the discounted return that we can expect if we take action a in state s, and
the best actions afterwards. In a discounted return, a reward that comes k steps later
counts gamma^k times, where gamma is slightly below 1. By the Bellman equation, Q(s, a)
is the mean, over all that may happen next, of

    r + gamma max_a' Q(s', a')

where r is the reward and s' the next state. If the game is over, only r remains. A Deep
Q-Network (DQN, Mnih et al. 2015) is a neural network that predicts Q(s, a). There are
two such networks. The online network acts and learns. As nobody knows the true
Q(s', a'), it learns from the predictions of the target network. For Q(s, a), the online
network learns the target

    y = r + gamma max_a' Q_target(s', a')     if the game goes on
    y = r                                     if the game is over

The target network is an older copy of the online network, so that the predictions do
not chase targets that move with them. After 512 random steps, training repeats this:

    Act.       With probability epsilon, take a random action. Otherwise, take the
               greedy action: the one whose predicted Q-value is the largest. At first,
               epsilon is 1. Within 1,500 steps, it falls to 0.05.
    Remember.  Store what happened as a transition in the replay memory.
    Learn.     Draw a random batch from the memory, and move the predictions for its
               transitions towards their targets. A random batch mixes many parts of the
               game, while successive transitions are alike. Every 20 steps, renew the
               target network.
    Evaluate.  Every 256 steps, let the agent play 100 greedy episodes. If their mean
               return is 500, this may be luck: play 2,000 more, and stop if theirs is,
               too. The agent does not learn from these episodes. Stop also after 50,000
               steps, and if the network diverges.

Four more ideas change observations and targets by default. They are explained where
they stand: scaled observations in the cell Replay, and scaled rewards, Double DQN and
an upper limit in Learning. In the code, `config` holds the settings, which the cell
Settings lists. The lecture begins with the cell Network and ends with the cell
Training. Variations, settings, games, files and options follow.

    python main.py                                     train, and write all files
    python main.py --evaluate params.pkl               score trained parameters
    python main.py --env-id Acrobot-v1 --out acrobot   train for another game
    python main.py --help                              list all settings

In a notebook, run the cells, which begin with # %%, and then main("--seed 1"). After a
change, run all cells again: functions that JAX has compiled still hold the old code.

Shapes of arrays stand in square brackets: B transitions in a batch, O numbers in an
observation, A actions, N episodes, T steps.
"""

# %% Imports
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

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # The CPU is fast enough.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # Games are drawn without a window
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # and without sound.
if __name__ == "__main__" and "ipykernel" not in sys.modules:
    # Where a notebook starts this script in a shell, its own backend may be missing.
    os.environ["MPLBACKEND"] = "agg"

import chex
import gymnasium as gym
import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import optax
from jax import grad, jit, lax, nn, tree, vmap
from matplotlib.figure import Figure
from tqdm import tqdm


# %% Network: predict one Q-value for each action
def init_layer(rng, n_inputs, n_outputs, gain=1.0):
    """Return a dense layer whose weights have the variance gain^2 / n_inputs."""
    deviation = gain / np.sqrt(n_inputs)
    weights = rng.normal(0, deviation, (n_inputs, n_outputs))
    return {"w": np.float32(weights), "b": np.zeros(n_outputs, np.float32)}


def init_params(rng, env, config):
    """Return the parameters of a new network for a game.

    The output layer starts with small weights, so that all Q-values are close to 0.
    The scale of the observations is measured and not learned; see measure_scale. It is
    stored with the parameters because a network is of no use without it.
    """
    n_inputs = env.observation_space.shape[0]
    n_actions = env.action_space.n

    params = {"scale": np.ones(n_inputs, np.float32), "hidden": []}
    for size in config.hidden:
        params["hidden"].append(init_layer(rng, n_inputs, size))
        n_inputs = size

    params["output"] = init_layer(rng, n_inputs, n_actions, gain=0.01)
    if config.dueling:
        params["value"] = init_layer(rng, n_inputs, 1, gain=0.01)
    return params


def dense(layer, x):
    """Return the outputs of a dense layer: [..., n_inputs] -> [..., n_outputs]."""
    return x @ layer["w"] + layer["b"]


# JAX compiles a function with @jit when it is first called, and again for arguments of
# another shape or type.
@jit
def q_values(params, obs):
    """Return the predicted Q-values of all actions: [..., O] -> [..., A]."""
    scale = lax.stop_gradient(params["scale"])  # Learning does not change the scale.
    x = obs / scale
    for layer in params["hidden"]:
        x = nn.silu(dense(layer, x))  # silu(x) = x sigmoid(x), a smooth ReLU

    if "value" in params:
        return dueling_q_values(params, x)  # See the cell Variations.
    return dense(params["output"], x)


# %% Policy: explore with random actions, or use what has been learned
# The course's skeleton has the names and the first arguments of these three functions.
# Our rng is a random generator of NumPy, which unlike JAX's needs no compilation.
def random_policy_fn(rng, obs, n_actions=2):
    """Return random actions, all equally likely: [..., O] -> [...]."""
    return rng.integers(n_actions, size=obs.shape[:-1])


def policy_fn(rng, params, obs):
    """Return the greedy actions, argmax_a Q(s, a), without rng: [..., O] -> [...]."""
    return np.asarray(q_values(params, obs)).argmax(axis=-1)


def action_fn(rng, params, obs, epsilon=0.05):
    """Return an int: a random action with probability epsilon, else the greedy one."""
    if rng.random() < epsilon:
        n_actions = params["output"]["b"].size  # There is one bias for each action.
        return int(random_policy_fn(rng, obs, n_actions))
    return int(policy_fn(rng, params, obs))


def epsilon_at(step, config):
    """Return epsilon, which falls from epsilon_start towards epsilon_end.

    At t steps after the warm-up, epsilon is end + (start - end) remaining, where
        remaining = max(0, 1 - t / epsilon_decay)     if the fall is linear
        remaining = exp(-t / epsilon_decay)           if the fall is exponential
    """
    t = step - config.warmup_steps
    if config.epsilon_fall == "linear":
        remaining = max(0.0, 1 - t / config.epsilon_decay)
    else:
        remaining = float(np.exp(-t / config.epsilon_decay))
    return config.epsilon_end + (config.epsilon_start - config.epsilon_end) * remaining


# %% Replay: store transitions in a deque, which forgets the oldest ones
class Transition(NamedTuple):
    """One step of the game. In a batch, each field is an array of B such values.

    `terminated` means that the game is over and that no rewards can follow. It is false
    if only the time is up, because the next state still has a value then (Pardo et al.
    2018).
    """

    obs: np.ndarray  # [O]
    action: int
    reward: float  # as it is to be learned, see reward_to_learn
    next_obs: np.ndarray  # [O]
    terminated: bool


def make_memory(config):
    """Return an empty memory."""
    if config.prioritized:
        return PrioritizedMemory(config.memory_size)  # See the cell Variations.
    return deque(maxlen=config.memory_size)


def warm_up(rng, env, config):
    """Play at random, so that learning starts with a memory of various transitions.

    In Gymnasium, env.step tells whether the game is over (terminated) and whether the
    time is up (truncated). In both cases, env.reset starts the next episode.
    """
    memory = make_memory(config)
    obs, _ = env.reset(seed=int(rng.integers(2**31)))
    for _ in range(config.warmup_steps):
        action = int(random_policy_fn(rng, obs, env.action_space.n))
        next_obs, reward, terminated, truncated, _ = env.step(action)
        memory.append(Transition(obs, action, reward, next_obs, terminated))
        obs = next_obs
        if terminated or truncated:
            obs, _ = env.reset()
    return memory


def measure_scale(memory):
    """Return the standard deviation of each number in the observations, [O].

    The network divides the observations by it, because a network usually learns faster
    if all of its inputs vary equally much. A number that never changes is divided by 1.
    We do not subtract the mean, which is usually small in random play of CartPole.
    """
    deviation = np.std([transition.obs for transition in memory], axis=0)
    return np.where(deviation > 1e-6, deviation, 1).astype(np.float32)


def stack(transitions):
    """Return a list of transitions as one batch."""
    columns = zip(*transitions)  # all observations, all actions, all rewards, ...
    return Transition(*[np.array(column) for column in columns])


def sample_batch(rng, memory, batch_size):
    """Return a random batch of transitions, some of which may occur more than once."""
    indices = rng.integers(len(memory), size=batch_size)
    return stack([memory[i] for i in indices])


# %% Learning: move Q(s, a) towards the target y
def reward_factor(config):
    """Return 1 - gamma if rewards are scaled, and otherwise 1.

    Multiplying all rewards by 1 - gamma multiplies all Q-values by 1 - gamma. In
    CartPole, the true ones then lie between 0 and 1, and not between 0 and 100. This is
    closer to 0, where the predictions of a new network start.
    """
    return 1 - config.gamma if config.reward_mode == "scaled" else 1.0


def reward_to_learn(reward, config):
    """Return a reward of the game as it is to be learned."""
    if config.reward_mode == "clipped":
        return np.clip(reward, -1, 1)
    return reward_factor(config) * reward


def td_error(params, target_params, transition, config):
    """Return the temporal-difference error y - Q(s, a) of a single transition.

    DQN:         value = max_a' Q_target(s', a')
    Double DQN:  value = Q_target(s', argmax_a' Q(s', a'))

    y = r + gamma min(value, limit)     if the game goes on
    y = r                               if the game is over

    If some predictions are too high and some too low by chance, the maximum prefers
    those that are too high, and on average it exceeds the true value. In Double DQN
    (van Hasselt et al. 2016), the online network chooses an action and the target
    network evaluates it. As their errors differ, the result is less often too high.
    """
    obs, action, r, next_obs, terminated = transition
    target_values = q_values(target_params, next_obs)  # [A]
    if config.double:
        next_action = jnp.argmax(q_values(params, next_obs))
    else:
        next_action = jnp.argmax(target_values)
    value = target_values[next_action]

    # Predictions that learn from each other can grow without end, above all with raw
    # rewards. The limit keeps targets from doing so. By default, it is 10, which is
    # 1,000 (1 - gamma), and hardly ever reached. True values in CartPole are at most 1.
    limit = config.q_limit * reward_factor(config)
    y = r + config.gamma * jnp.minimum(value, limit) * (1 - terminated)

    # Only the prediction is to move, so the gradient treats y as a constant.
    return lax.stop_gradient(y) - q_values(params, obs)[action]


# As config is static, JAX compiles this function for each config. An `if` may depend on
# config, but not on the numbers in an array.
@partial(jit, static_argnames="config")
def batch_td_errors(params, target_params, batch, config):
    """Return the errors of all transitions in a batch, [B]."""
    # td_error is written for one transition. vmap makes it work on all rows of batch,
    # its third argument, at once.
    errors_of = vmap(td_error, in_axes=(None, None, 0, None))
    return errors_of(params, target_params, batch, config)


def loss_fn(params, target_params, batch, config, weights):
    """Return the loss: mean_i w_i cost(e_i), where e_i = y_i - Q(s_i, a_i).

    squared:  cost(e) = e^2 / 2
    huber:    cost(e) = e^2 / 2    if |e| <= 1, else |e| - 1/2

    The slope of the Huber loss is at most 1, so that a few large errors do not dominate
    a batch. With scaled rewards, however, errors above 1 are rare in CartPole. All
    weights w_i are 1, unless replay is prioritized.
    """
    errors = batch_td_errors(params, target_params, batch, config)
    if config.loss == "huber":
        costs = optax.huber_loss(errors)
    else:
        costs = optax.l2_loss(errors)
    return jnp.mean(weights * costs)


def make_optimizer(config):
    """Return the optimizer, Adam by default (Kingma and Ba 2015)."""
    if config.optimizer == "adamw":
        optimizer = make_adamw(config)  # See the cell Variations.
    else:
        adam = optax.adam(config.learning_rate)
        optimizer = optax.flatten(adam)  # One long array compiles faster.

    if config.clip_value < np.inf:
        optimizer = optax.chain(optax.clip(config.clip_value), optimizer)
    return optimizer


class Learner(NamedTuple):
    """The two networks, and what the optimizer remembers of earlier gradients."""

    params: Any  # of the online network
    target_params: Any  # of the target network
    opt_state: optax.OptState


@partial(jit, static_argnames="config")
def init_learner(params, config):
    """Return a learner whose two networks are still equal."""
    return Learner(params, params, make_optimizer(config).init(params))


@partial(jit, static_argnames="config")
def update_fn(learner, batch, config, weights=1.0):
    """Return the learner after one step against the gradient of the loss of a batch.

    grad(loss_fn) computes the gradient with respect to params, the first argument.
    Gradient descent would be params <- params - learning_rate gradient. Adam adapts the
    step of each number. Only prioritized replay gives the transitions weights, [B].
    """
    params, target_params, opt_state = learner
    gradient = grad(loss_fn)(params, target_params, batch, config, weights)
    optimizer = make_optimizer(config)  # What it remembers is in opt_state.
    changes, opt_state = optimizer.update(gradient, opt_state, params)
    params = optax.apply_updates(params, changes)
    return Learner(params, target_params, opt_state)


def learn(rng, learner, memory, step, config):
    """Draw a batch from the memory, and return the learner after an update on it."""
    if config.prioritized:  # See the cell Variations.
        return prioritized_update(rng, learner, memory, step, config)
    batch = sample_batch(rng, memory, config.batch_size)
    return update_fn(learner, batch, config)


@jit
def update_target(learner, tau):
    """Return the learner after its target network has moved towards the online network.

    target_params <- tau params + (1 - tau) target_params

    With tau = 1, the target network becomes a copy (Mnih et al. 2015). With a small tau
    and a period of 1, it follows the online network slowly (Lillicrap et al. 2016).
    """
    params, target_params, _ = learner
    target_params = optax.incremental_update(params, target_params, tau)
    return learner._replace(target_params=target_params)


# %% Evaluation: how well does the agent play without random actions?
def play_episodes(rng, params, n_episodes, config):
    """Play N episodes side by side, and greedily. If params is None, play at random.

    Return the first observation of each episode, [N, O], and the rewards of T steps,
    [T, N], which are 0 once an episode has ended.
    """
    rewards = []
    running = np.ones(n_episodes, bool)
    with closing(make_games(config, n_episodes)) as envs:
        first_obs, _ = envs.reset(seed=int(rng.integers(2**31)))
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


class Evaluation(NamedTuple):
    """How a greedy agent played N episodes. Each field is an array, [N]."""

    returns: np.ndarray
    achieved: np.ndarray  # the discounted returns
    predicted: np.ndarray  # the discounted returns that the network expected


def evaluate(rng, params, n_episodes, config):
    """Let a greedy agent play N episodes, and return an Evaluation.

    In the first state of an episode, the network predicts max_a Q(s, a). It does not
    see how much time is left.
    """
    first_obs, rewards = play_episodes(rng, params, n_episodes, config)
    returns = rewards.sum(axis=0)

    # Both are sums of the rewards that are learned, but without their scaling.
    factor = reward_factor(config)
    q = np.asarray(q_values(params, first_obs))  # [N, A]
    predicted = q.max(axis=-1) / factor
    discounts = config.gamma ** np.arange(len(rewards))
    achieved = discounts @ reward_to_learn(rewards, config) / factor  # [N]
    return Evaluation(returns, achieved, predicted)


def evaluate_and_confirm(rng, params, config):
    """Return an Evaluation of the agent.

    If the agent reaches the goal, it may have been lucky. Then it is evaluated again,
    with 20 times as many episodes, and only the second result counts.
    """
    evaluation = evaluate(rng, params, config.eval_episodes, config)
    if evaluation.returns.mean() >= config.goal:
        evaluation = evaluate(rng, params, 20 * config.eval_episodes, config)
    return evaluation


# %% Training: act, remember, learn, evaluate
def make_training_game(config):
    """Return a game that gives the rewards that are to be learned."""
    change = partial(reward_to_learn, config=config)
    return gym.wrappers.TransformReward(make_game(config), change)


def start_training(rng, env, config):
    """Return the memory and the learner with which the training starts."""
    params = init_params(rng, env, config)
    memory = warm_up(rng, env, config)
    if config.scale_observations:
        params["scale"] = measure_scale(memory)
    return memory, init_learner(params, config)


def train(config, seed, quiet=False):
    """Train an agent until it reaches the goal, diverges, or has taken total_steps.

    Return its best parameters, its episodes after the warm-up as pairs (last step,
    return), and its evaluations as pairs (step, Evaluation).
    """
    rng = np.random.default_rng(seed)
    eval_rng = np.random.default_rng([seed, 1])  # for other numbers than rng draws
    episodes = []
    evaluations = []
    best_score = -np.inf
    with closing(make_training_game(config)) as env:
        memory, learner = start_training(rng, env, config)
        best_params = learner.params
        obs, _ = env.reset()
        steps = range(config.warmup_steps + 1, config.total_steps + 1)
        bar = tqdm(steps, "training", disable=quiet)
        for step in bar:
            # Act.
            epsilon = epsilon_at(step, config)
            action = action_fn(rng, learner.params, obs, epsilon)
            next_obs, reward, terminated, truncated, info = env.step(action)

            # Remember.
            memory.append(Transition(obs, action, reward, next_obs, terminated))
            obs = next_obs
            if terminated or truncated:
                episodes.append((step, info["episode"]["r"]))  # its return
                obs, _ = env.reset()

            # Learn.
            if step % config.train_every == 0:
                learner = learn(rng, learner, memory, step, config)
            if step % config.target_period == 0:
                learner = update_target(learner, config.tau)

            # Evaluate.
            if step % config.eval_every == 0 or step == config.total_steps:
                evaluation = evaluate_and_confirm(eval_rng, learner.params, config)
                evaluations.append((step, evaluation))
                score = evaluation.returns.mean()
                bar.set_postfix(epsilon=epsilon, greedy_return=score)
                if not np.isfinite(evaluation.predicted).all():
                    break  # Such a network has diverged, and will never recover.
                if score > best_score:
                    best_score = score
                    best_params = learner.params  # Later ones may play worse.
                if score >= config.goal:
                    break
    return best_params, episodes, evaluations


# %% Variations: three ideas of the course that are off by default
def dueling_q_values(params, x):
    """Return the Q-values of a dueling network (Wang et al. 2016).

    It predicts the mean Q-value of a state, and how far each action differs from it:

        Q(s, a) = value(s) + advantage(s, a) - mean_a' advantage(s, a')

    In the paper, value and advantage have hidden layers of their own. Here they share
    all of them.
    """
    value = dense(params["value"], x)
    advantage = dense(params["output"], x)
    return value + advantage - advantage.mean(axis=-1, keepdims=True)


def make_adamw(config):
    """Return AdamW (Loshchilov and Hutter 2019) with AMSGrad (Reddi et al. 2018).

    Weights decay by 0.01 times the learning rate, but neither biases nor the scale do.
    In the papers, the decay does not depend on the learning rate, and the averages of
    AMSGrad are not corrected for their bias.
    """

    def is_matrix(params):
        return tree.map(lambda array: array.ndim == 2, params)

    return optax.chain(
        optax.scale_by_amsgrad(),
        optax.add_decayed_weights(0.01, mask=is_matrix),
        optax.scale_by_learning_rate(config.learning_rate),
    )


class PrioritizedMemory(deque):
    """A memory that replays large errors more often (Schaul et al. 2016).

    Priority:     p_i = |error of transition i when it was last replayed| + 10^-6
    Probability:  P(i) = p_i^0.6 / sum_k p_k^0.6
    Weight:       w_i = (M P(i))^-beta, divided by the largest one in the batch

    Here M is the number of transitions in the memory. A new transition gets the highest
    priority in the memory, or 1 if it is empty. A transition that is drawn often gets a
    small weight in the loss, so that all in all it does not count too much.

    The paper does more. It splits the sum of the powers into B equal parts and draws a
    transition from each of them, it clips errors to [-1, 1], and it learns at a quarter
    of DQN's learning rate.
    """

    def __init__(self, size):
        super().__init__(maxlen=size)
        self.priorities = deque(maxlen=size)  # one for each transition

    def append(self, transition):
        super().append(transition)
        self.priorities.append(max(self.priorities, default=1.0))

    def sample(self, rng, batch_size, beta):
        """Return a batch, the weights of its transitions [B] and their indices [B]."""
        powers = np.array(self.priorities) ** 0.6
        probabilities = powers / powers.sum()
        indices = rng.choice(len(self), batch_size, p=probabilities)

        weights = (len(self) * probabilities[indices]) ** -beta
        weights = np.float32(weights / weights.max())
        return stack([self[i] for i in indices]), weights, indices

    def renew(self, indices, errors):
        """Store new priorities, which are never 0, so that all can be drawn again."""
        errors = np.nan_to_num(np.abs(errors))  # A diverging network may yield nan.
        for i, error in zip(indices, errors.tolist()):
            self.priorities[i] = error + 1e-6


def prioritized_update(rng, learner, memory, step, config):
    """Draw a batch by priority, and return the learner after an update on it.

    beta is 0.4 + 0.6 step / total_steps, and stays below 1 if training ends early.
    """
    beta = 0.4 + 0.6 * step / config.total_steps
    batch, weights, indices = memory.sample(rng, config.batch_size, beta)
    errors = batch_td_errors(learner.params, learner.target_params, batch, config)
    memory.renew(indices, errors)
    return update_fn(learner, batch, config, weights)


# %% Sources, and what is different here
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
#     error            clipped to [-1, 1]           the same (Huber), but seldom above 1
#     optimizer        RMSProp, rate 0.00025        Adam, rate 0.005
#     a batch          32, every 4 actions          64, after every action
#     target network   copied every 10,000 updates  copied every 20 steps
#     memory, warm-up  1,000,000 and 50,000         1,000 and 512 transitions
#     epsilon          1 to 0.1, 1,000,000 frames   1 to 0.05, 1,500 steps
#     an episode       starts with up to 30 no-ops  starts with the agent
#     evaluation       epsilon 0.05                 epsilon 0
#     training         a fixed number of frames     ends early if the goal is reached


# %% Settings: what can be chosen, with the values for CartPole and for other games
def option(default, meaning, choices=None):
    """Return a field of Config whose meaning is shown by --help."""
    return field(default=default, metadata={"help": meaning, "choices": choices})


@dataclass(frozen=True)
class Config:
    """The settings of an agent. The defaults are for CartPole."""

    # Network
    hidden: tuple = option((64, 64), "sizes of the hidden layers")
    scale_observations: bool = option(True, "divide by the standard deviation")

    # Policy
    epsilon_start: float = option(1.0, "epsilon before its decay")
    epsilon_end: float = option(0.05, "epsilon that the decay approaches")
    epsilon_decay: float = option(1_500.0, "steps of a linear decay, or time constant")
    epsilon_fall: str = option("linear", "form of decay", ("linear", "exponential"))

    # Replay
    memory_size: int = option(1_000, "transitions in the memory at most")
    warmup_steps: int = option(512, "random steps before the training")
    batch_size: int = option(64, "transitions in a batch")

    # Learning
    gamma: float = option(0.99, "discount of a reward one step later")
    reward_mode: str = option(
        "scaled",
        "learn rewards times 1 - gamma, clipped to [-1, 1], or as they are",
        ("scaled", "clipped", "raw"),
    )
    double: bool = option(True, "use the target of Double DQN")
    q_limit: float = option(1_000.0, "upper limit of Q(s', a'), before scaling")
    loss: str = option("huber", "cost of an error", ("huber", "squared"))
    learning_rate: float = option(0.005, "step size of the optimizer")
    clip_value: float = option(np.inf, "limit of each number in a gradient")
    train_every: int = option(1, "steps from one update to the next")
    target_period: int = option(20, "steps from one target network to the next")
    tau: float = option(1.0, "share of the online network in a new target network")

    # Variations
    dueling: bool = option(False, "predict the value and the advantages apart")
    prioritized: bool = option(False, "replay large errors more often")
    optimizer: str = option("adam", "adamw is used with AMSGrad", ("adam", "adamw"))

    # Training
    env_id: str = option("CartPole-v1", "name of the game")
    action_bins: int = option(11, "choices for each number of a continuous action")
    total_steps: int = option(50_000, "training steps at most, with the warm-up")
    eval_every: int = option(256, "steps from one evaluation to the next")
    eval_episodes: int = option(100, "episodes of an evaluation, 20-fold to confirm")
    goal: float = option(500.0, "mean greedy return that ends training, if confirmed")


OTHER = Config(
    goal=np.inf,
    epsilon_decay=5_000.0,
    gamma=0.98,
    q_limit=np.inf,
    learning_rate=0.002,
    target_period=1,
    tau=0.01,
    memory_size=50_000,
    batch_size=128,
    eval_every=2_048,
    eval_episodes=50,
)
DEEP = replace(OTHER, hidden=(64, 64, 64))
TUNED = {  # by hand, without a record, on seeds 1000 to 1099
    "CartPole-v1": Config(),
    "MountainCar-v0": replace(DEEP, goal=-100.0, eval_every=1_024, total_steps=100_000),
    "Acrobot-v1": replace(DEEP, goal=-72.0, tau=0.03),
    "Pendulum-v1": replace(OTHER, goal=-150.0, batch_size=64, total_steps=30_000),
}


def game_config(env_id):
    """Return the settings for a game. OTHER is for games that have not been tuned."""
    return replace(TUNED.get(env_id, OTHER), env_id=env_id)


# %% Games: observations become vectors, and actions become numbers from 0 on
def make_game(config, **kwargs):
    """Return a game whose observations are vectors and whose actions are 0 to A - 1.

    It ends after 1,000 steps if it is registered without a time limit. At the end of an
    episode, info["episode"]["r"] is its return.
    """
    game = gym.make(config.env_id, **kwargs)
    try:
        env = gym.wrappers.FlattenObservation(PlainGame(game, config.action_bins))
        if env.observation_space.shape is None:
            raise NotImplementedError
    except NotImplementedError as error:
        game.close()
        space = game.observation_space
        raise ValueError(f"its observations are not vectors: {space}") from error
    except Exception:
        game.close()
        raise
    if game.spec.max_episode_steps is None:
        env = gym.wrappers.TimeLimit(env, 1_000)
    return gym.wrappers.RecordEpisodeStatistics(env)


def make_games(config, number):
    """Return many games that are played side by side."""
    if config.env_id == "CartPole-v1":  # Gymnasium steps all of them as one array.
        return gym.make_vec(config.env_id, number)
    return gym.vector.SyncVectorEnv([partial(make_game, config)] * number)


class PlainGame(gym.Wrapper):
    """A game whose actions are the numbers 0 to A - 1, and whose infos are left out."""

    def __init__(self, env, bins):
        super().__init__(env)
        self.choices = list_choices(env.action_space, bins)
        self.action_space = gym.spaces.Discrete(len(self.choices))

    def reset(self, **kwargs):
        obs, _ = self.env.reset(**kwargs)
        return obs, {}

    def step(self, action):
        choice = copy(self.choices[int(action)])  # The game may change its copy.
        obs, reward, terminated, truncated, _ = self.env.step(choice)
        return obs, reward, terminated, truncated, {}


def list_choices(space, bins):
    """Return all actions of a game, with bins for each number of a continuous one."""
    if isinstance(space, gym.spaces.Discrete):
        return [int(space.start) + i for i in range(space.n)]
    if not isinstance(space, gym.spaces.Box) or not space.is_bounded():
        raise ValueError(f"its actions are neither Discrete nor a bounded Box: {space}")
    if bins ** int(np.prod(space.shape)) > 10_000:
        raise ValueError(f"it has too many actions, lower --action-bins: {space}")

    grid = np.linspace(space.low.ravel(), space.high.ravel(), bins, dtype=space.dtype)
    return [np.reshape(row, space.shape) for row in itertools.product(*grid.T)]


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
    """Write a pickle of dictionaries, lists, tuples, strings and numbers.

    Raise a ValueError, and write nothing, if load_agent could not read it.
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
    """Return the parameters and the settings in a file, or raise a ValueError."""
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file).load()

        # Of mygame:My-v0, only My-v0 is used: a file may not import the module mygame.
        config = Config(**content["config"])
        name = config.env_id.split(":")[-1]
        config = replace(config, env_id=name, goal=float(config.goal))
        if config.env_id not in gym.registry:
            raise ValueError(f"its game {config.env_id} is not known; give --env-id")

        with closing(make_game(config)) as env:
            expected = init_params(np.random.default_rng(), env, config)
        found = content["params"]
        params = tree.map(lambda _, numbers: np.float32(numbers), expected, found)
        chex.assert_trees_all_equal_shapes(params, expected)
        chex.assert_tree_all_finite(params)
        return params, config
    except Exception as error:
        raise ValueError(f"{path} cannot be used: {error}") from error


def load_params(path):
    """Return the parameters in a file, for policy_fn, or raise a ValueError."""
    return load_agent(path)[0]


def play_and_draw(seed, params, epsilon, seconds, config, render_mode):
    """Play for some seconds, one episode after the other.

    Return pictures, ten for each second in CartPole, and for how many milliseconds to
    show each. If a window shows the game, there are no pictures.
    """
    rng = np.random.default_rng(seed)
    frames = []
    with closing(make_game(config, render_mode=render_mode)) as env:
        fps = env.metadata.get("render_fps") or 30
        steps_per_frame = max(1, round(fps / 10))
        obs, _ = env.reset(seed=int(rng.integers(2**31)))
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
    frames, duration = play_and_draw(seed, params, epsilon, 4, config, "rgb_array")
    n = max(1, frames[0].shape[1] // 200)
    # Every n-th pixel is enough. From row n - 1 on, they show CartPole's thin ground.
    small = [frame[n - 1 :: n, n - 1 :: n, :3] for frame in frames]
    with replacing(path) as new:
        iio.imwrite(new, small, duration=duration, loop=0)


def draw_curves(episodes, evaluations, config, path):
    """Draw the returns, and what the agent predicted beside what it achieved."""
    steps, returns = np.reshape(episodes, (-1, 2)).T  # There may be no episodes.
    ends = range(1, len(returns) + 1)
    means = [returns[max(0, end - 100) : end].mean() for end in ends]
    eval_steps = [step for step, _ in evaluations]
    scores = [evaluation.returns.mean() for _, evaluation in evaluations]
    achieved = [evaluation.achieved.mean() for _, evaluation in evaluations]
    predicted = [evaluation.predicted.mean() for _, evaluation in evaluations]

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
def skip_if_fails(*paths):
    """Say which pictures cannot be made here, and go on without them."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        names = " and ".join(path.name for path in paths)
        print(f"{names} could not be made: {error!r}", file=sys.stderr)
        for path in paths:
            path.unlink(missing_ok=True)  # An old one would show another agent.


def write_zip(out, config):
    """Pack this program, its documents and tests, and the files of the run."""
    program = Path(globals().get("__file__", "main.py"))  # Cells may have no file.
    here = program.parent
    files = {"main.py": program}
    for name in ("README.md", "requirements.txt", "tests/requirements.txt"):
        files[name] = here / name
    own_game = here / (config.env_id.split(":")[0] + ".py")
    if own_game.exists():
        files[own_game.name] = own_game
    for path in sorted(here.glob("tests/[a-z]*.py")):
        files[f"tests/{path.name}"] = path
    for name in ("params.pkl", "agent.gif", "random.gif", "learning_curve.png"):
        files[name] = out / name

    with replacing(out / "hand-in.zip") as new, zipfile.ZipFile(new, "w") as archive:
        for name, path in files.items():
            if path.exists():
                entry = zipfile.ZipInfo(name)  # with a fixed date: the same bytes
                archive.writestr(entry, path.read_bytes())
            else:
                print(f"hand-in.zip lacks {name}, which does not exist.")


# %% Command line: from words to files
HEADER = "      mean       std       min  episodes  goal         agent"


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
    print(f"{numbers}{n_episodes:10}  {goal:11}  {name}")


def make_hand_in(config, seed, out):
    """Train an agent, score it and write all files. Return its parameters."""
    params, episodes, evaluations = train(config, seed)
    save_params(out / "params.pkl", params, config)
    params = load_params(out / "params.pkl")  # What is scored is what is handed in.

    with closing(make_game(config)) as env:
        untrained = init_params(np.random.default_rng(seed), env, config)
    untrained["scale"] = params["scale"]  # Training began with this network.
    agents = {"random": None, "untrained": untrained, "trained": params}
    print(HEADER)
    for name, agent in agents.items():
        print_score(name, agent, seed, config.eval_episodes, config)
    _, last = evaluations[-1]
    best_score = max(evaluation.returns.mean() for _, evaluation in evaluations)
    if not np.isfinite(last.predicted).all():
        print("The network diverged. A lower --learning-rate may help.")
    elif best_score < config.goal < np.inf:
        print(f"In training, the best mean was {best_score:.2f}, below {config.goal}.")
        print("More --total-steps or another --seed may help.")

    with skip_if_fails(out / "learning_curve.png"):
        draw_curves(episodes, evaluations, config, out / "learning_curve.png")
    # Both are skipped if the first one fails, because another attempt might crash.
    with skip_if_fails(out / "agent.gif", out / "random.gif"):
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
        play_and_draw(seed, params, 0.0, 30, config, "human")
    except Exception as error:  # noqa: BLE001
        print(f"The agent cannot be shown in a window: {error}", file=sys.stderr)


def add_setting(parser, setting, default):
    """Add an option for a field of Config."""
    kwargs = {"type": type(default), "choices": setting.metadata["choices"]}
    if isinstance(default, bool):
        kwargs = {"action": argparse.BooleanOptionalAction}
    if isinstance(default, tuple):
        kwargs = {"type": int, "nargs": "+"}
    flag = "--" + setting.name.replace("_", "-")
    text = setting.metadata["help"]
    parser.add_argument(flag, default=default, help=text, **kwargs)


def make_parser(words):
    """Return a parser for these words, whose defaults are those of the game in them.

    A first parser finds the name of the game.
    """
    first = argparse.ArgumentParser("main.py", add_help=False, allow_abbrev=False)
    first.add_argument("--env-id", default="CartPole-v1", help="name of the game")
    env_id = first.parse_known_args(words)[0].env_id

    parser = argparse.ArgumentParser(
        "main.py",
        usage="python main.py [options]",
        description="Train a Deep Q-Network, and write all files of the hand-in. "
        "The defaults of the settings depend on --env-id.",
        epilog="For a game of your own, write mygame.py beside main.py, with a "
        "gymnasium.Env and gymnasium.register('My-v0', MyEnv). For GIFs, give it "
        "metadata = {'render_modes': ['rgb_array'], 'render_fps': 10}, a constructor "
        "that stores render_mode, and render(), which returns a picture. Then give "
        "--env-id mygame:My-v0, to train as well as to --evaluate.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        parents=[first],
    )
    add = parser.add_argument
    add("--seed", type=int, default=0, help="seed of all random numbers")
    add("--out", type=Path, default=Path(), help="folder for the files")
    defaults = game_config(env_id)
    for setting in fields(Config):
        if setting.name != "env_id":
            add_setting(parser, setting, getattr(defaults, setting.name))
    return parser


def make_config(args):
    """Return the settings among the options."""
    values = {name: getattr(args, name) for name in asdict(Config())}
    values["hidden"] = tuple(values["hidden"])
    return Config(**values)


@contextmanager
def refuse_if_fails(parser, flag):
    """Stop with an error of argparse about this option if anything fails."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        parser.error(f"argument {flag}: {str(error) or repr(error)}")


def check_numbers(parser, config):
    """Refuse numbers that are out of range."""
    for name, value in asdict(config).items():
        flag = "--" + name.replace("_", "-")
        if name in ("epsilon_start", "epsilon_end", "gamma", "tau"):
            if not 0 <= value <= 1:
                parser.error(f"argument {flag}: a number from 0 to 1 is needed")
        elif type(value) in (int, float) and name != "goal" and not value > 0:
            parser.error(f"argument {flag}: a number above 0 is needed")
    if min(config.hidden) < 1:
        parser.error("argument --hidden: numbers above 0 are needed")
    if np.isnan(config.goal):
        parser.error("argument --goal: a number is needed")
    if config.gamma == 1:
        parser.error("argument --gamma: a number below 1 is needed")
    if config.total_steps <= config.warmup_steps:
        parser.error("argument --total-steps: it must be above --warmup-steps")


def check_game(parser, config):
    """Refuse a game that cannot be played, or whose name is not complete."""
    with refuse_if_fails(parser, "--env-id"), closing(make_game(config)) as env:
        if not config.env_id.endswith(env.spec.id):
            raise ValueError(f"the complete name is {env.spec.id}")


def make_folder(parser, path):
    """Return the absolute path of this folder. Refuse one that cannot be written to."""
    out = path.expanduser().absolute()
    with refuse_if_fails(parser, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    return out


def main(argv=None):
    """Run the command line with these words, or with those of the shell."""
    words = sys.argv[1:] if argv is None else argv
    if isinstance(words, str):
        words = shlex.split(words)
    words = [str(word) for word in words]
    parser = make_parser(words)  # tests/study.py has these options, but not the next.
    scored = "score these files, with the settings in them but for --eval-episodes"
    parser.add_argument("--evaluate", nargs="+", metavar="FILE", help=scored)
    shown = "show the trained agent, or each FILE, in a window"
    parser.add_argument("--watch", action="store_true", help=shown)
    args = parser.parse_args(words)
    config = make_config(args)
    check_numbers(parser, config)
    check_game(parser, config)
    with refuse_if_fails(parser, "--seed"):
        np.random.default_rng(args.seed)
    if args.evaluate:
        return score_files(args.evaluate, args.seed, args.eval_episodes, args.watch)

    params = make_hand_in(config, args.seed, make_folder(parser, args.out))
    if args.watch:
        watch(args.seed, params, config)
    return 0


# In Jupyter, nothing runs before a cell calls main.
if __name__ == "__main__" and not sys.argv[0].endswith("kernel_launcher.py"):
    sys.exit(main())
