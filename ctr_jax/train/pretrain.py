"""Pre-training of pair statistics: a graph → node vectors and a CrossNet (PCF-GNN and its peers).

The loss is Σ w (a − p)² / Σ w over edges plus l2 · Σ ‖own vector‖² / Σ w: rare nodes are pulled
more. A share of the edges is held out, from messages and from the loss: on these unseen pairs
training stops early. Whatever is random follows from (seed, step), so a run that was killed goes on
with the same bits when it is called again. Training may start from what an earlier one has learned
(`train.refresh`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from ctr_jax.data import batches
from ctr_jax.graphs import blocks, pcf_gnn, sample
from ctr_jax.graphs import graph as graph_lib
from ctr_jax.train import journal, loop

# Pairs that are scored at a time, and looks at the held-out edges from one checkpoint to the next.
_CHUNK, _LOOKS = 1 << 16, 5


@dataclasses.dataclass(frozen=True)
class Config:
  """What is trained, and how.

  Attributes:
    method: of `pcf_gnn.METHODS`.
    dim: of the vectors, beside their bias.
    layers: of a graph encoder.
    learning_rate: of Adam.
    l2: pull of a node's own vector to zero, in units of the edges' weights.
    steps: at most; a multiple of `every`.
    every: steps between two looks at the held-out edges.
    patience: looks without a better one before it stops.
    held_out: share of the edges.
    batch_edges: target edges of a step, with sampled neighbours; 0 = the whole graph in each step.
    fanout: neighbours that a node hears in a sampled step.
  """

  method: str = 'gnn'
  dim: int = 8
  layers: int = 2
  learning_rate: float = 0.02
  l2: float = 30.0
  steps: int = 200
  every: int = 10
  patience: int = 3
  held_out: float = 0.1
  batch_edges: int = 0
  fanout: int = 10

  def __post_init__(self):
    if self.every < 1 or self.steps < self.every or self.steps % self.every:
      raise ValueError(
        f'steps={self.steps} with a look every {self.every} steps: take a multiple of it, since '
        'training ends at a look.'
      )
    if min(self.dim, self.layers, self.fanout) < 1:
      raise ValueError(
        f'dim={self.dim}, layers={self.layers} and fanout={self.fanout}: each is at least 1; '
        "vectors without columns are the method 'biases', without a graph 'dot'."
      )


class Pretrained(NamedTuple):
  """What was trained; vectors, CrossNet and graph are all that scores need.

  Attributes:
    graph: without edges: which node is which row.
    vectors: float32 [nodes, 1 + dim].
    cross: parameters of the CrossNet.
    net: the CrossNet.
    history: a dict per look: step, and weighted root mean square errors 'seen' and 'unseen' (if any
      edge is held out).
    encoder: its parameters, which a later training may start from.
  """

  graph: graph_lib.Graph
  vectors: np.ndarray
  cross: dict[str, Any]
  net: pcf_gnn.CrossNet
  history: list[dict[str, float]]
  encoder: dict[str, Any] | None = None

  @property
  def best(self) -> dict[str, float]:
    """The look at which the vectors were taken."""
    return min(self.history, key=_error)


def _error(look):
  """What a look is judged by; without held-out edges there are only the known ones."""
  return look.get('unseen', look['seen'])


def pretrain(
  graph: graph_lib.Graph,
  config: Config,
  folder: pathlib.Path,
  seed: int,
  name: str = 'graph',
  start: dict[str, Any] | None = None,
) -> Pretrained:
  """Trains the vectors of a graph's nodes, or goes on with it, or opens what was trained.

  Args:
    graph: pairs and what is known of them.
    config: the method and its settings.
    folder: of this training alone.
    seed: of everything random.
    name: in the progress bar.
    start: parameters {'encoder': ..., 'cross': ...} to start from; drawn, if they are not given.

  Raises:
    Interrupted: SIGTERM arrived; a checkpoint was saved.
    Diverged: the loss is NaN or infinite.
    ValueError: the folder holds another training, or no edge is left to learn from.
  """
  run = _Run(graph, config, pathlib.Path(folder), seed, name, start)
  return run.opened() or run.train()


class _Run:
  """One training."""

  def __init__(self, graph, config, folder, seed, name, start):
    self._start = start
    self._config, self._folder, self._seed, self._name = config, folder, seed, name
    self._graph = graph
    held = graph_lib.held_out(graph, config.held_out, seed)
    self._known = graph_lib.subset(graph, np.flatnonzero(~held))
    self._unseen = graph_lib.subset(graph, np.flatnonzero(held))
    if not len(self._known.graph.senders):
      raise ValueError(
        f'held_out={config.held_out} leaves none of {len(held)} edges to learn from.'
      )
    self._model = pcf_gnn.model(
      config.method, graph.nodes, len(graph.relations), config.dim, config.layers
    )
    self._tx = optax.adam(config.learning_rate)
    self._total = float(self._known.graph.edges['weight'].sum())
    self._step = jax.jit(self._steps, donate_argnums=(0,), static_argnums=(2,))
    self._look = jax.jit(self._errors)
    self._terminated = threading.Event()
    self._encode = jax.jit(lambda p, m: self._model.encoder.apply({'params': p}, m))
    self._described = {
      'config': dataclasses.asdict(config), 'seed': seed, 'graph': graph_lib.digest(graph),
    }  # fmt: skip
    if start is not None:
      self._described['start'] = _digest(start)

  def opened(self) -> Pretrained | None:
    """What is in the folder, if it was finished."""
    done = self._folder / 'history.json'
    if not done.exists():
      return None
    saved = json.loads(done.read_text())
    if saved['described'] != self._described:
      raise ValueError(
        f'{self._folder} holds vectors of another graph or method ({saved["described"]}): remove '
        'it or use another folder.'
      )
    with ocp.StandardCheckpointer() as checkpointer:
      kept = checkpointer.restore((self._folder / 'vectors').absolute())
    # Of a time when encoders were dropped, there is none.
    return self._result(kept | {'encoder': kept.get('encoder')}, saved['history'])

  def train(self) -> Pretrained:
    """From the last checkpoint, or from the start."""
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    manager = ocp.CheckpointManager((self._folder / 'last').absolute(), options=options)
    state, history = self._restored(manager)
    whole = jax.device_put(sample.whole(self._known, self._known))
    unseen, sampler = jax.device_put(sample.aim(whole, self._unseen)), self._sampler()
    with (
      journal.progress(self._name, self._config.steps, int(state['step'])) as bar,
      loop.Listening(self._terminated),
    ):
      while not self._stopped(history):
        state = self._advance(state, whole, sampler)
        if int(state['step']) % self._config.every == 0:
          self._note(state, history, whole, unseen)
          bar.update(_error(history[-1]), self._config.every)
          if len(history) % _LOOKS == 0:
            self._save(manager, state, history)
        if self._terminated.is_set() and not self._stopped(history):
          self._leave(manager, state, history)
      manager.wait_until_finished()
    manager.close()
    return self._finish(state['best'], history, whole.messages)

  def _note(self, state, history, whole, unseen):
    """Looks at all edges; keeps the parameters if they are the best so far."""
    errors = self._look(state['params'], whole, unseen)
    look = {'step': int(state['step'])} | {kind: float(x) for kind, x in errors.items()}
    if not np.isfinite(look['seen']):
      raise loop.Diverged(f'{self._name}: the error is {look["seen"]}; lower the learning rate.')
    history.append(look)
    if look == min(history, key=_error):
      state['best'] = jax.tree.map(jnp.copy, state['params'])

  def _save(self, manager, state, history):
    step = int(state['step'])
    if step in manager.all_steps():
      return
    saved = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      history=ocp.args.JsonSave({'history': history, 'described': self._described}),
    )
    manager.save(step, args=saved)

  def _leave(self, manager, state, history):
    self._save(manager, state, history)
    manager.wait_until_finished()
    raise loop.Interrupted(
      f'SIGTERM: saved step {int(state["step"])} in {self._folder}; the same command goes on from '
      'there.'
    )

  def _restored(self, manager):
    params = pcf_gnn.init(self._model, jax.random.key(self._seed))
    if self._start is not None:
      params = jax.tree.map(lambda _, x: jnp.array(x), params, self._start)
    state = {
      'params': params, 'best': jax.tree.map(jnp.copy, params), 'opt': self._tx.init(params),
      'step': jnp.int32(0),
    }  # fmt: skip
    last = manager.latest_step()
    if last is None:
      return state, []
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(template), history=ocp.args.JsonRestore()
    )
    found = manager.restore(last, args=args)
    if found['history']['described'] != self._described:
      raise ValueError(
        f'{self._folder} holds the training of another graph or method '
        f'({found["history"]["described"]}): remove it or use another folder.'
      )
    return found['state'], found['history']['history']

  def _sampler(self):
    """What draws parts of the graph, or None where each step takes the whole."""
    config = self._config
    if not config.batch_edges:
      return None
    hops = config.layers if config.method.startswith('gnn') else 0
    edges = min(config.batch_edges, len(self._known.graph.senders))
    return sample.Sampler(self._known, edges, hops, config.fanout, self._seed)

  def _advance(self, state, whole, sampler):
    """To the next look, or until SIGTERM."""
    every = self._config.every
    if sampler is None:
      return self._step(state, whole, every)
    first = int(state['step'])
    steps = range(first, first + every - first % every)
    for batch in batches.prefetch(steps, sampler.batch):
      state = self._step(state, batch, 1)
      if self._terminated.is_set():
        break
    return state

  def _steps(self, state, batch, count):
    def one(_, state):
      gradients = jax.grad(self._loss)(state['params'], batch)
      # optax raises floats to its int32 count of steps, which strict promotion refuses.
      with jax.numpy_dtype_promotion('standard'):
        updates, opt = self._tx.update(gradients, state['opt'])
      params = optax.apply_updates(state['params'], updates)
      return state | {'params': params, 'opt': opt, 'step': state['step'] + 1}

    return jax.lax.fori_loop(0, count, one, state)

  def _loss(self, params, batch):
    error = self._squares(params, self._vectors(params, batch), batch)
    own = sum(jnp.sum(jnp.square(x)) for x in pcf_gnn.own(params))
    return error + self._config.l2 / self._total * own

  def _vectors(self, params, batch):
    return self._model.encoder.apply({'params': params['encoder']}, batch.messages)

  def _squares(self, params, vectors, batch):
    def add(total, u, v, relation, target, weight):
      cross = {'params': params['cross']}
      p = self._model.cross.apply(cross, vectors[u], vectors[v], relation)
      return total + jnp.sum(weight * jnp.square(target - p))

    edges = (batch.u, batch.v, batch.relation, batch.target, batch.weight)
    return blocks.fold(add, jnp.float32(0), edges) / jnp.sum(batch.weight)

  def _errors(self, params, whole, unseen):
    vectors = self._vectors(params, whole)
    parts = {'seen': whole} | ({'unseen': unseen} if len(unseen.u) else {})
    return {kind: jnp.sqrt(self._squares(params, vectors, x)) for kind, x in parts.items()}

  def _stopped(self, history):
    if not history:
      return False
    best = min(range(len(history)), key=lambda i: _error(history[i]))
    late = len(history) - 1 - best >= self._config.patience
    return late or history[-1]['step'] >= self._config.steps

  def _finish(self, params, history, messages):
    vectors = self._encode(params['encoder'], messages)
    kept = {'vectors': vectors, 'cross': params['cross'], 'encoder': params['encoder']}
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save((self._folder / 'vectors').absolute(), kept, force=True)
    # Written last: a folder without it is not finished.
    loop.write_json(
      self._folder / 'history.json', {'described': self._described, 'history': history}
    )
    return self._result(kept, history)

  def _result(self, kept, history):
    bare = self._graph._replace(graph=None)
    kept = jax.tree.map(np.asarray, kept)
    vectors, cross, encoder = (kept[name] for name in ('vectors', 'cross', 'encoder'))
    return Pretrained(bare, vectors, cross, self._model.cross, history, encoder)


def _digest(params):
  """SHA-256 of parameters."""
  found = hashlib.sha256()
  for path, x in jax.tree.leaves_with_path(params):
    found.update(jax.tree_util.keystr(path).encode())
    found.update(np.ascontiguousarray(x))
  return found.hexdigest()


def scores(found: Pretrained, relation: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """p(u, v) of pairs of rows.

  Args:
    found: what was trained; its vectors may have been stored by a codec in the meantime.
    relation: number of the pair of features.
    u: int32 [n], rows of the first feature's table.
    v: int32 [n], rows of the second's.

  Returns:
    float32 [n]; 0 (nothing beyond the prior) where a row is 0: missing or unseen.
  """
  first, second = found.graph.relations[relation]
  h_u = found.vectors[found.graph.node(first, u)]
  h_v = found.vectors[found.graph.node(second, v)]
  made = np.zeros(len(u), np.float32)
  for start in range(0, len(u), _CHUNK):
    part = slice(start, start + _CHUNK)
    missing = _CHUNK - len(h_u[part])
    one, other = (np.pad(x[part], ((0, missing), (0, 0))) for x in (h_u, h_v))
    kind = np.full(_CHUNK, relation, np.int32)
    p = _cross(found.net, found.cross, one, other, kind)
    made[part] = np.asarray(p)[: _CHUNK - missing]
  return np.where((u > 0) & (v > 0), made, np.float32(0))


@functools.partial(jax.jit, static_argnums=0)
def _cross(net, cross, h_u, h_v, kind):
  return net.apply({'params': cross}, h_u, h_v, kind)
